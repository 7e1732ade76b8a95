"""The policy: who is told of which incidents, how urgently, and when not. An example is in docs/respond.md."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, time
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jobs import toml
from jobs.errors import UsageError
from udfs.pure.channels import KINDS as ANOMALY_KINDS

# From the least to the most urgent, in PagerDuty's words.
SEVERITIES = ("info", "warning", "error", "critical")
ALERTMANAGER = "alertmanager"
SCALE, WEBHOOK = "scale", "webhook"
ACTIONS = (SCALE, WEBHOOK)
KINDS = (ALERTMANAGER, "pagerduty", "servicenow", "slack", "webhook")

Incident = Mapping[str, Any]
# Currency -> amount.
Amounts = Mapping[str, Decimal]


@dataclass(frozen=True)
class Receiver:
    """Somebody who is told, by HTTP.

    Attributes:
        name: in the policy.
        kind: one of KINDS.
        url: where to.
        secrets: by their names, from the environment; never shown.
        after_end: whether it takes news of an incident after its end; others would open it anew.
    """

    name: str
    kind: str
    url: str
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def after_end(self) -> bool:
        return self.kind in ("slack", "webhook")


@dataclass(frozen=True)
class Quiet:
    """Hours of a day in which only what is urgent enough is told."""

    begins: time
    ends: time
    zone: ZoneInfo
    below: str

    def holds(self, severity: str, now: datetime) -> bool:
        """Whether a message of a severity has to wait."""
        if SEVERITIES.index(severity) >= SEVERITIES.index(self.below):
            return False
        at = now.astimezone(self.zone).time()
        if self.begins <= self.ends:
            return self.begins <= at < self.ends
        return at >= self.begins or at < self.ends


@dataclass(frozen=True)
class Step:
    """What changes once an incident costs so much."""

    excess: Amounts
    severity: str
    receivers: tuple[str, ...]


@dataclass(frozen=True)
class Route:
    """Which incidents are told to whom. Conditions that are empty hold for all; all have to hold."""

    name: str
    receivers: tuple[str, ...]
    severity: str
    services: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    excess: Amounts = field(default_factory=dict)
    billed_excess: Amounts = field(default_factory=dict)
    projected: Amounts = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    cooldown_s: int = 600
    restated: bool = True
    quiet: Quiet | None = None

    def matches(self, incident: Incident, team: str | None, burning: Set[str] = frozenset()) -> bool:
        """Whether the route tells of an incident. burning: names of the budgets that will not last."""
        return (
            (not self.services or any(fnmatchcase(incident["otel_service_name"], glob) for glob in self.services))
            and (not self.teams or team in self.teams)
            and (not self.kinds or incident["anomaly_kind"] in self.kinds)
            and (not self.statuses or incident["cost_status"] in self.statuses)
            and (not self.budgets or not burning.isdisjoint(self.budgets))
            and reaches(self.excess, incident, "excess_cost")
            and reaches(self.billed_excess, incident, "billed_excess_cost")
            and reaches(self.projected, incident, "projected_monthly_cost")
        )

    def steps_of(self, incident: Incident) -> int:
        """How many steps it has reached."""
        return next(
            (number for number, step in enumerate(self.steps) if not reaches(step.excess, incident, "excess_cost")),
            len(self.steps),
        )

    def severity_at(self, step: int) -> str:
        """How urgent it is after so many steps."""
        return self.steps[step - 1].severity if step else self.severity

    def receivers_at(self, step: int) -> tuple[str, ...]:
        """Who is told after so many steps, each once."""
        names = [*self.receivers, *(name for reached in self.steps[:step] for name in reached.receivers)]
        return tuple(dict.fromkeys(names))


def reaches(amounts: Amounts, incident: Incident, column: str) -> bool:
    """Whether an incident's money is at least what is asked of its currency. A currency of which nothing is asked
    doesn't reach it, nor does money that nobody knows."""
    if not amounts:
        return True
    least, value = amounts.get(incident["billing_currency"]), incident[column]
    return least is not None and value is not None and Decimal(value) >= least


@dataclass(frozen=True)
class Action:
    """What is done about which incidents.

    Attributes:
        conditions: which; by itself only of money that bills confirm.
        kind: one of ACTIONS.
        namespace, workload: of Kubernetes, {service} and {namespace} stand for the culprit's; of a scale.
        replicas: +N, -N or N.
        least, most: bounds of the replicas.
        receiver: the webhook that is asked; of a webhook.
        value, undo_value: what it is asked.
        is_dry_run: nothing is changed.
        most_per_hour: so many are begun within an hour.
        approve_above: from which excess on a person has to allow it.
        text: as the policy has it, for the record.
    """

    conditions: Route
    kind: str
    namespace: str = ""
    workload: str = ""
    replicas: str = ""
    least: int = 1
    most: int = 100
    receiver: str = ""
    value: str = ""
    undo_value: str = ""
    is_dry_run: bool = True
    most_per_hour: int = 1
    approve_above: Amounts = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.conditions.name

    def needs_approval(self, incident: Incident) -> bool:
        """Whether a person has to allow it. Money that nobody knows needs one, too."""
        return bool(self.approve_above) and (
            incident["excess_cost"] is None or reaches(self.approve_above, incident, "excess_cost")
        )


@dataclass(frozen=True)
class Policy:
    """Receivers by name, routes in their order, globs of services by team, and actions."""

    receivers: Mapping[str, Receiver]
    routes: tuple[Route, ...]
    teams: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()

    def team_of(self, service: str) -> str | None:
        """The first team that has a service."""
        return next((team for team, globs in self.teams.items() if any(fnmatchcase(service, g) for g in globs)), None)


# ---- the file ---------------------------------------------------------------------------------

_RECEIVER = {"kind", "url", "url_env", "routing_key_env", "secret_env", "user_env", "password_env"}
_SECRETS = ("routing_key", "secret", "user", "password")
# Secrets that a kind can't do without.
_NEEDED = {"pagerduty": ("routing_key",), "webhook": ("secret",), "servicenow": ("user", "password")}
_URLS = {"pagerduty": "https://events.pagerduty.com/v2/enqueue"}
_ROUTE = {
    "name", "receivers", "severity", "services", "teams", "kinds", "statuses", "budgets", "excess", "billed_excess",
    "projected", "escalate", "cooldown", "restated", "quiet",
}  # fmt: skip
_ACTION = {
    "name", "kind", "services", "teams", "kinds", "statuses", "budgets", "excess", "billed_excess", "projected",
    "namespace", "workload", "replicas", "min_replicas", "max_replicas", "receiver", "value", "undo_value", "dry_run",
    "most_per_hour", "approve_above",
}  # fmt: skip
_WORKLOAD = re.compile(r"(deployment|statefulset|replicaset)/[\w.{}-]+")
_REPLICAS = re.compile(r"[+-]?\d{1,5}")
_DURATION = re.compile(r"(\d{1,6}) ?(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}


class _Table:
    """A table of the file, and where it stands."""

    def __init__(self, values: object, where: str, known: set[str] | None = None) -> None:
        if not isinstance(values, dict):
            raise UsageError(f"{where}: must be a table")
        unknown = sorted(values.keys() - known) if known is not None else []
        if unknown:
            raise UsageError(f"{where}.{unknown[0]}: is not known, must be one of {', '.join(sorted(known or ()))}")
        self.values, self.where = values, where

    def text(self, key: str, default: str | None = None, among: tuple[str, ...] = ()) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value:
            raise UsageError(f"{self.where}.{key}: {'is missing' if value is None else f'{value!r} is no text'}")
        if among and value not in among:
            raise UsageError(f"{self.where}.{key}: {value!r} must be one of {', '.join(among)}")
        return value

    def texts(self, key: str, among: tuple[str, ...] = ()) -> tuple[str, ...]:
        values = self.values.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise UsageError(f"{self.where}.{key}: must be a list of texts")
        for value in values:
            if among and value not in among:
                raise UsageError(f"{self.where}.{key}: {value!r} must be one of {', '.join(among)}")
        return tuple(values)

    def amounts(self, key: str) -> dict[str, Decimal]:
        table = _Table(self.values.get(key, {}), f"{self.where}.{key}")
        for currency in table.values:
            if not re.fullmatch("[A-Z]{3}", currency):
                raise UsageError(f"{table.where}.{currency}: must be a currency's three capitals, as USD")
        return {currency: toml.amount(value, f"{table.where}.{currency}") for currency, value in table.values.items()}

    def whole(self, key: str, default: int) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UsageError(f"{self.where}.{key}: {value!r} must be a whole number from 0")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise UsageError(f"{self.where}.{key}: must be true or false")
        return value

    def seconds(self, key: str, default: str) -> int:
        value = self.text(key, default)
        match = _DURATION.fullmatch(value)
        if not match:
            raise UsageError(f"{self.where}.{key}: {value!r} must be as 30 s, 10 min, 2 h or 1 d")
        return int(match[1]) * _SECONDS[match[2]]

    def time(self, key: str) -> time:
        value = self.text(key)
        try:
            return time.fromisoformat(value)
        except ValueError:
            raise UsageError(f"{self.where}.{key}: {value!r} is no time of day, as 22:00") from None


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Policy:
    """The policy of a file.

    Raises:
        UsageError: it can't be read, or says something that can't be; the file and the key are named.
    """
    content = toml.read(path, "--policy")
    try:
        return _policy(content, environment)
    except UsageError as error:
        raise UsageError(f"--policy {path}: {error}") from None


def _policy(content: dict[str, Any], environment: Mapping[str, str]) -> Policy:
    top = _Table(content, "policy", {"receivers", "routes", "teams", "actions"})
    receivers = {
        name: _receiver(name, _Table(values, f"receivers.{name}", _RECEIVER), environment)
        for name, values in _Table(top.values.get("receivers", {}), "receivers").values.items()
    }
    teams_table = _Table(top.values.get("teams", {}), "teams")
    teams = {team: teams_table.texts(team) for team in teams_table.values}
    routes = top.values.get("routes", [])
    if not isinstance(routes, list) or not routes:
        raise UsageError("routes: there is none, write [[routes]]")
    found = tuple(
        _route(_Table(values, f"routes[{number}]", _ROUTE), tuple(receivers), tuple(teams))
        for number, values in enumerate(routes)
    )
    written = top.values.get("actions", [])
    if not isinstance(written, list):
        raise UsageError("actions: write [[actions]]")
    actions = tuple(
        _action(_Table(values, f"actions[{number}]", _ACTION), receivers, tuple(teams))
        for number, values in enumerate(written)
    )
    for what, names in (("routes", [route.name for route in found]), ("actions", [of.name for of in actions])):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"{what}: {twice[0]!r} is the name of two")
    return Policy(receivers, found, teams, actions)


def _receiver(name: str, table: _Table, environment: Mapping[str, str]) -> Receiver:
    kind = table.text("kind", among=KINDS)

    def secret(key: str) -> str:
        variable = table.text(key)
        if not environment.get(variable):
            raise UsageError(f"{table.where}.{key}: {variable} is not set in the environment")
        return environment[variable]

    for needed in _NEEDED.get(kind, ()):
        table.text(f"{needed}_env")
    secrets = {key: secret(f"{key}_env") for key in _SECRETS if f"{key}_env" in table.values}
    # A webhook's URL may itself be a secret.
    url = secret("url_env") if "url_env" in table.values else table.text("url", _URLS.get(kind))
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{table.where}.url: must begin with http:// or https://")
    return Receiver(name, kind, url.rstrip("/"), secrets)


def _route(table: _Table, receivers: tuple[str, ...], teams: tuple[str, ...]) -> Route:
    to = table.texts("receivers", receivers or ("nobody",))
    if not to:
        raise UsageError(f"{table.where}.receivers: there is none")
    steps = []
    written = table.values.get("escalate", [])
    if not isinstance(written, list):
        raise UsageError(f"{table.where}.escalate: must be a list of tables")
    for number, values in enumerate(written):
        step = _Table(values, f"{table.where}.escalate[{number}]", {"excess", "severity", "receivers"})
        amounts = step.amounts("excess")
        if not amounts:
            raise UsageError(f"{step.where}.excess: is missing")
        steps.append(Step(amounts, step.text("severity", among=SEVERITIES), step.texts("receivers", receivers)))
    return Route(
        receivers=to,
        severity=table.text("severity", "warning", SEVERITIES),
        **_conditions(table, teams),
        steps=tuple(steps),
        cooldown_s=table.seconds("cooldown", "10 min"),
        restated=table.flag("restated", True),
        quiet=_quiet(table) if "quiet" in table.values else None,
    )


def _conditions(table: _Table, teams: tuple[str, ...]) -> dict[str, Any]:
    """What routes and actions share."""
    return {
        "name": table.text("name"),
        "services": table.texts("services"),
        "teams": table.texts("teams", teams or ("none is defined",)),
        "kinds": table.texts("kinds", tuple(dict.fromkeys(ANOMALY_KINDS))),
        "statuses": table.texts("statuses", ("provisional", "billed", "corrected")),
        "budgets": table.texts("budgets"),
        "excess": table.amounts("excess"),
        "billed_excess": table.amounts("billed_excess"),
        "projected": table.amounts("projected"),
    }


def _action(table: _Table, receivers: Mapping[str, Receiver], teams: tuple[str, ...]) -> Action:
    kind = table.text("kind", among=ACTIONS)
    conditions = Route(receivers=(), severity="info", **_conditions(table, teams))
    if not conditions.statuses:  # a price that is provisional does nothing by itself
        conditions = replace(conditions, statuses=("billed", "corrected"))
    found = Action(
        conditions=conditions,
        kind=kind,
        is_dry_run=table.flag("dry_run", True),
        most_per_hour=table.whole("most_per_hour", 1),
        approve_above=table.amounts("approve_above"),
        text=dict(table.values),
    )
    if kind == WEBHOOK:
        receiver = table.text("receiver", among=tuple(name for name, of in receivers.items() if of.kind == WEBHOOK))
        return replace(found, receiver=receiver, value=table.text("value"), undo_value=table.text("undo_value"))
    # Telemetry says what a service is called: who may be scaled is for the policy to say.
    if not conditions.services:
        raise UsageError(f"{table.where}.services: is missing, say which services may be scaled")
    workload, replicas = table.text("workload"), table.text("replicas")
    if not _WORKLOAD.fullmatch(workload):
        raise UsageError(f"{table.where}.workload: {workload!r} must be as deployment/{{service}}")
    if not _REPLICAS.fullmatch(replicas):
        raise UsageError(f"{table.where}.replicas: {replicas!r} must be as +2, -1 or 3")
    least, most = table.whole("min_replicas", 1), table.whole("max_replicas", 100)
    if least > most:
        raise UsageError(f"{table.where}.min_replicas: {least} is above max_replicas {most}")
    return replace(
        found, namespace=table.text("namespace", "{namespace}"), workload=workload, replicas=replicas, least=least,
        most=most,
    )  # fmt: skip


def _quiet(table: _Table) -> Quiet:
    quiet = _Table(table.values["quiet"], f"{table.where}.quiet", {"from", "to", "zone", "below"})
    zone = quiet.text("zone", "UTC")
    try:
        found = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise UsageError(f"{quiet.where}.zone: {zone!r} is no time zone, as Europe/Berlin") from None
    return Quiet(quiet.time("from"), quiet.time("to"), found, quiet.text("below", "critical", SEVERITIES))
