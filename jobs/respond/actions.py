"""Actions on incidents: asked for by the policy, allowed by a person where it says so, done, and undone at their end.

Each is a row of anomaly_cost.actions (docker/postgres/migrations/0012_actions.sql), which says what, why, on which
figures, by which policy and how to undo it. A value is noted before it is set: after a kill the same is set again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
import psycopg
from psycopg.rows import dict_row

from jobs.respond.kubernetes import Cluster, ClusterError
from jobs.respond.policy import SCALE, Action, Incident, Policy
from jobs.respond.watch import GRACE, goes_on

Row = dict[str, Any]

# States: see the table.
WAITING, APPROVED, DOING, DONE = "waiting", "approved", "doing", "done"
NOTHING, UNDONE, LEFT, EXPIRED = "nothing", "undone", "left", "expired"
_SEEN = ("incident_id", "window_start", "window_end")
_OPEN = (WAITING, APPROVED, DOING, DONE)

_FIGURES = (
    "excess_cost", "billed_excess_cost", "excess_cost_per_hour", "projected_monthly_cost", "billing_currency",
    "cost_status", "anomalous_traces", "peak_anomaly_score",
)  # fmt: skip

# What asks a webhook for a value: (action, value, the row, a key that is the same when it is asked again) -> error.
Ask = Callable[[Action, str, Row, str], str | None]


# What Kubernetes takes for a name (RFC 1123): telemetry may say anything.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class Target(NamedTuple):
    """What of Kubernetes is changed."""

    namespace: str
    workload: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.workload}"


def target_of(action: Action, service: str) -> Target | None:
    """The workload of an action on a culprit, whose name may have its namespace before it; None where no workload can
    be called so."""
    namespace, _, name = service.rpartition("/")
    found = Target(
        *(
            text.replace("{service}", name).replace("{namespace}", namespace or "default")
            for text in (action.namespace, action.workload)
        )
    )
    return found if _NAME.fullmatch(found.namespace) and _NAME.fullmatch(found.workload.partition("/")[2]) else None


def wanted(action: Action, current: int) -> int:
    """How many replicas there are to be."""
    change = int(action.replicas)
    replicas = current + change if action.replicas[0] in "+-" else change
    return min(max(replicas, action.least), action.most)


class Actions:
    """The actions of a policy at work."""

    def __init__(
        self, connection: psycopg.Connection, policy: Policy, cluster: Callable[[], Cluster], ask: Ask,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        """connection: commits each statement. cluster: connects to Kubernetes, when it is needed first. ask: asks a
        webhook. tell: takes a line for people."""
        self._connection, self._policy, self._ask, self._tell = connection, policy, ask, tell
        self._connect = cluster
        self._cluster: Cluster | None = None
        self._by_name = {action.name: action for action in policy.actions}
        self._errors: dict[int, str] = {}

    def look(self, incidents: Iterable[Incident], now: datetime, burning: Set[str] = frozenset()) -> None:
        """Ask for, do and undo what is due. burning: names of the budgets that will not last."""
        if not self._policy.actions:
            return
        by_id = {incident["incident_id"]: incident for incident in incidents}
        for row in self._rows():
            self._go_on(row, by_id, now)
        for incident in by_id.values():
            if incident["closed_at"] is None and not incident["is_silenced"]:
                team = self._policy.team_of(incident["otel_service_name"])
                for action in self._policy.actions:
                    if action.conditions.matches(incident, team, burning):
                        self._begin(action, incident, now)

    # ---- asking for -------------------------------------------------------------------------

    def _begin(self, action: Action, incident: Incident, now: datetime) -> None:
        """Ask for an action, once for each incident, and within its bound."""
        known = self._connection.execute(
            "select from anomaly_cost.actions where action = %(action)s and (incident_id = %(id)s or"
            " otel_service_name = %(service)s and billing_currency = %(currency)s"
            " and window_start < %(end)s and window_end > %(start)s)",
            {
                "action": action.name, "id": incident["incident_id"], "service": incident["otel_service_name"],
                "currency": incident["billing_currency"], "start": incident["window_start"],
                "end": incident["window_end"],
            },
        ).fetchone()  # fmt: skip
        if known is not None:
            return
        begun = self._connection.execute(
            "select count(*) from anomaly_cost.actions where action = %s and requested_at > %s",
            [action.name, now - timedelta(hours=1)],
        ).fetchone()
        if begun and begun[0] >= action.most_per_hour:
            return
        key = action.name, incident["incident_id"]
        if action.kind == SCALE:
            found = target_of(action, incident["otel_service_name"])
            if found is None:
                return
            target = str(found)
            undo = f"kubectl scale --namespace {found.namespace} {found.workload} --replicas=<from_value>"
        else:
            target, undo = action.receiver, f"ask {action.receiver} for {action.undo_value}"
        self._connection.execute(
            "insert into anomaly_cost.actions (action, incident_id, otel_service_name, billing_currency, window_start,"
            " window_end, action_state, is_dry_run, target, why, figures, policy, undo, requested_at)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                action.name, incident["incident_id"], incident["otel_service_name"], incident["billing_currency"],
                incident["window_start"], incident["window_end"],
                WAITING if action.needs_approval(incident) else APPROVED, action.is_dry_run, target,
                incident["evidence"], _json({name: incident.get(name) for name in _FIGURES}), _json(action.text), undo,
                now,
            ],
        )  # fmt: skip
        row = next(of for of in self._rows() if (of["action"], of["incident_id"]) == key)
        waits = " (waits for approval)" if row["action_state"] == WAITING else ""
        self._tell(f"action {action.name} on {target} because {incident['evidence']}{waits}")
        self._go_on(row, {incident["incident_id"]: incident}, now)

    # ---- doing and undoing ------------------------------------------------------------------

    def _go_on(self, row: Row, by_id: Mapping[str, Incident], now: datetime) -> None:
        action = self._by_name.get(row["action"])
        incident = by_id.get(row["incident_id"]) or next((of for of in by_id.values() if goes_on(row, of)), None)
        is_over = incident is None or incident["closed_at"] is not None or incident["is_silenced"]
        seen = tuple(row[name] for name in _SEEN)
        if incident is not None and tuple(incident[name] for name in _SEEN) != seen:
            self._set(row, incident_id=incident["incident_id"], window_start=incident["window_start"],
                      window_end=incident["window_end"])  # fmt: skip
        if incident is None and row["action_state"] != WAITING and now < row["requested_at"] + GRACE:
            return  # the table may have it again in a moment
        if action is None:
            return  # the policy has it no more: people decide
        if is_over:
            self._end(action, row, now)
        elif row["action_state"] == WAITING and row["approved_by"]:
            self._set(row, action_state=APPROVED)
        if not is_over and row["action_state"] in (APPROVED, DOING):
            self._do(action, row, now)

    def _do(self, action: Action, row: Row, now: datetime) -> None:
        try:
            if row["action_state"] == APPROVED:
                current, to = self._values(action, row)
                if current == to:
                    self._set(row, action_state=NOTHING, from_value=current, to_value=to, done_at=now)
                    return
                self._set(row, action_state=DOING, from_value=current, to_value=to)
            self._apply(action, row, row["to_value"], "do")
        except ClusterError as error:
            self._note(row, str(error))
            return
        self._set(row, action_state=DONE, done_at=now, note=None)

    def _end(self, action: Action, row: Row, now: datetime) -> None:
        """The incident is over: undo what was done, forget what was not."""
        if row["action_state"] in (WAITING, APPROVED):
            self._set(row, action_state=EXPIRED)
            return
        try:
            if action.kind == SCALE and not row["is_dry_run"]:
                current = str(self._kubernetes().replicas(*_target(row)))
                if current not in (row["to_value"], row["from_value"]):
                    self._set(row, action_state=LEFT, note=f"somebody set it to {current} since")
                    return
            self._apply(action, row, row["from_value"], "undo")
        except ClusterError as error:
            self._note(row, str(error))
            return
        self._set(row, action_state=UNDONE, undone_at=now, note=None)

    def _values(self, action: Action, row: Row) -> tuple[str, str]:
        """What it is, and what it is to be."""
        if action.kind != SCALE:
            return action.undo_value, action.value
        current = self._kubernetes().replicas(*_target(row))
        return str(current), str(wanted(action, current))

    def _apply(self, action: Action, row: Row, value: str, what: str) -> None:
        if action.kind == SCALE:
            self._kubernetes().scale(*_target(row), int(value), row["is_dry_run"])
        elif not row["is_dry_run"]:
            error = self._ask(action, value, row, f"{row['action_id']}/{what}")
            if error:
                raise ClusterError(error)

    def _kubernetes(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._connect()
        return self._cluster

    # ---- the table ----------------------------------------------------------------------------

    def _rows(self) -> list[Row]:
        """Those that something may be done about."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                "select * from anomaly_cost.actions where action_state = any(%s) order by action_id", [list(_OPEN)]
            ).fetchall()

    def _set(self, row: Row, **values: Any) -> None:
        self._connection.execute(
            f"update anomaly_cost.actions set {', '.join(f'{name} = %({name})s' for name in values)}"
            " where action_id = %(action_id)s",
            values | {"action_id": row["action_id"]},
        )
        row.update(values)

    def _note(self, row: Row, error: str) -> None:
        """It is tried again at the next look; people are told once."""
        if self._errors.get(row["action_id"]) != error:
            self._errors[row["action_id"]] = error
            self._set(row, note=error)
            self._tell(f"action {row['action']} on {row['target']}: {error}; it is tried again")


def _target(row: Row) -> Target:
    namespace, _, workload = row["target"].partition("/")
    return Target(namespace, workload)


def _json(value: object) -> str:
    return orjson.dumps(value, default=str).decode()
