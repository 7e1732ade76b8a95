"""follow: anomalies of windows -> incidents, each a run of one culprit's windows.

Grain: one incident per culprit, currency and run of windows. Two windows of a culprit belong to one incident if no more
than ``quiet`` lies between the last anomalous minute of the one and the first of the other. An incident owns its
windows whole, so its money is the sum of theirs to the last decimal. It is closed once it has been quiet for so long in
event time, by the minutes that are over. All of it is a function of the windows, of the last minute that is over and of
what people said: money that is restated changes an incident and neither opens nor closes one.

Its id is made of its first window, culprit and currency, as the anomaly's of that window is. Its kind is that of most
of its traces: a fault that looks like another one for a while is still one thing to deal with.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from udfs.pure.attribute import BILLED, CORRECTED, PROVISIONAL, utc
from udfs.pure.channels import KINDS, OVERUSE, OWN
from udfs.pure.cost_center import one_of
from udfs.pure.pods import CHANGES_MOST, Change
from udfs.pure.price import EXACT, to_decimal, to_units
from udfs.pure.rank import NO_CURRENCY
from udfs.pure.recurrence import MONTH_MINUTES
from udfs.pure.verdicts import added, exemplars_of, most
from udfs.pure.windows import CHANGES_MINUTES, MINUTE_MS

Row = dict[str, Any]

OPEN, CLOSED = "open", "closed"

# What may be said of an incident, and what of that says that nobody is to be told of it.
EXPECTED, PLANNED, FALSE_ALARM, FIXED = "expected", "planned", "false_alarm", "fixed"
VERDICTS = (EXPECTED, PLANNED, FALSE_ALARM, FIXED)
SILENCING = VERDICTS[:3]

# Where the links to exemplars have the trace's id.
TRACE_ID = "{trace_id}"

LATENCY, OVERUSED = KINDS[OWN], KINDS[OVERUSE]

_DONE = {  # of a kind: what it does, and what it did
    LATENCY: ("takes longer than usual", "took longer than usual"),
    "dependency_failure": ("fails", "failed"),
    "retry_loop": ("repeats its calls", "repeated its calls"),
    "structure_change": ("makes other calls than usual", "made other calls than usual"),
    OVERUSED: ("uses more than its calls explain", "used more than its calls explain"),
}


def windows_of(ranked: Iterable[Row], incidents: Mapping[int, Sequence[Row]]) -> list[Row]:
    """What an incident needs to know of each row of a window.

    ranked: rows of ranked_anomalies of one window. incidents: those of each of its minutes (ms), see judge.
    returns: rows that JSON can carry; money as text.
    """
    by_culprit: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for minute_ms, of_minute in sorted(incidents.items()):
        for incident in of_minute:
            by_culprit[incident["otel_service_name"]].append((minute_ms, incident))
    return [_window(row, by_culprit[row["otel_service_name"]]) for row in ranked]


def _window(row: Row, minutes: Sequence[tuple[int, Row]]) -> Row:
    incidents = [incident for _, incident in minutes]
    explanation = orjson.loads(row["explanation"])
    slower = [factor for incident in incidents for factor in incident.get("slower", ())]
    affected = _counted(incidents, "affected")
    affected.pop(row["otel_service_name"], None)
    return {
        "window_start": row["window_start"],
        "window_end": row["window_end"],
        "otel_service_name": row["otel_service_name"],
        "billing_currency": row["billing_currency"],
        "first_ms": minutes[0][0],
        "last_ms": minutes[-1][0] + MINUTE_MS,
        "minutes": len(minutes),
        "kinds": _counted(incidents, "kinds"),
        "operations": _counted(incidents, "operations"),
        "affected": affected,
        "model_versions": _counted(incidents, "model_versions"),
        "slower": [math.fsum(slower), len(slower)],
        "overused": _overused(row, explanation),
        "changes": sorted(
            [
                *next((incident["changes"] for incident in incidents if incident.get("changes")), ()),
                *_price_changes(explanation, minutes[0][0]),
            ],
            key=lambda change: change[1],
        ),
        "exemplars": exemplars_of(incidents),
        "recurrence": max(incident["recurrence"] for incident in incidents),
        **{
            name: row[name]
            for name in (
                "anomalous_traces",
                "total_traces",
                "anomaly_score",
                "cost_status",
                "cost_center",
                "updated_at",
            )  # fmt: skip
        },
        **{
            name: None if row[name] is None else format(row[name], "f")
            for name in ("attributed_cost", "excess_cost", "billed_excess_cost")
        },
    }


def _overused(row: Row, explanation: Row) -> dict[str, str]:
    """What of each dimension that the culprit used more than usual of costs."""
    used = explanation["x_ExcessUsage"] if row["anomaly_kind"] == OVERUSED else []
    return {
        element["x_Dimension"]: element["x_Cost"]
        for element in used
        if element["x_OtelServiceName"] == row["otel_service_name"] and element["x_ExcessQuantity"] > 0
    }


def _price_changes(explanation: Row, until_ms: int) -> list[Change]:
    """Prices that changed until a time, of what the culprit uses, the oldest first; of too many the latest. One that
    changed alike on several resources is one."""
    resources: dict[tuple[int, str, str, str], set[str]] = defaultdict(set)
    for element in explanation["Elements"]:
        for charge in element["x_Charges"] if element["UsageQuantity"] else ():
            if changed := charge.get("price_change"):
                at_ms = round(datetime.fromisoformat(changed["at"]).timestamp() * 1000)
                unit = f"{changed['currency']} per {changed['unit']}"
                key = at_ms, charge["sku_id"], f"{changed['from']} {unit}", f"{changed['to']} {unit}"
                resources[key].add(charge.get("billed_resource_id", element["x_ResourceId"]))
    found = []
    for (at_ms, sku_id, before, after), of in sorted(resources.items()):
        where = min(of) if len(of) == 1 else f"{min(of)} and {len(of) - 1} more"
        if at_ms <= until_ms:
            found.append((f"price of {sku_id} at {where}", at_ms, before, after))
    return found[-CHANGES_MOST:]


def _counted(rows: Iterable[Row], name: str) -> dict[str, int]:
    """What rows count under a name, together."""
    return added(row[name] for row in rows)


def runs(windows: Iterable[Row], quiet_ms: int) -> list[list[Row]]:
    """The windows of one culprit and currency, in runs that are an incident each."""
    found: list[list[Row]] = []
    for window in sorted(windows, key=lambda window: window["window_start"]):
        if found and window["first_ms"] - found[-1][-1]["last_ms"] <= quiet_ms:
            found[-1].append(window)
        else:
            found.append([window])
    return found


def incident_id(run: Sequence[Row]) -> str:
    """Of the incident that a run of windows is."""
    first = run[0]
    return f"{utc(first['window_start'])}/{first['otel_service_name']}/{first['billing_currency']}"


def incident(run: Sequence[Row], over_ms: int, quiet_ms: int, said: Sequence[Row] = (), trace_url: str = "") -> Row:
    """The row of ``incidents`` of a run of windows; times in ms, money Decimal.

    over_ms: until when minutes are over. said: what people said of anything, see ``feedback``. trace_url: of an
    exemplar, with TRACE_ID in it; empty = no links.
    """
    first, last = run[0], run[-1]
    traces = sum(window["anomalous_traces"] for window in run)
    minutes = sum(window["minutes"] for window in run)
    kinds, operations = _counted(run, "kinds"), _counted(run, "operations")
    quiet_at = last["last_ms"] + quiet_ms
    excess, billed = (_sum(window[name] for window in run) for name in ("excess_cost", "billed_excess_cost"))
    exemplars = [trace_id for _, trace_id in exemplars_of(run)]
    row: Row = {
        "incident_id": incident_id(run),
        "otel_service_name": first["otel_service_name"],
        "culprit_operation": most(operations)[0],
        "anomaly_kind": most(kinds)[0],
        "incident_state": CLOSED if over_ms >= quiet_at else OPEN,
        "opened_at": first["first_ms"],
        "last_seen_at": last["last_ms"],
        "closed_at": quiet_at if over_ms >= quiet_at else None,
        "windows": len(run),
        "window_start": first["window_start"],
        "window_end": last["window_end"],
        "anomalous_minutes": minutes,
        "anomalous_traces": traces,
        "total_traces": sum(window["total_traces"] for window in run),
        "peak_anomaly_score": max(window["anomaly_score"] for window in run),
        "affected_services": most(_counted(run, "affected")),
        "attributed_cost": _sum(window["attributed_cost"] for window in run),
        "excess_cost": excess,
        "billed_excess_cost": billed,
        "excess_cost_per_hour": _share(excess, 60, minutes),
        "projected_monthly_cost": _projected(excess, minutes, last["recurrence"]),
        "billing_currency": first["billing_currency"],
        "cost_status": _least_settled(window["cost_status"] for window in run),
        "cost_center": one_of(window.get("cost_center") for window in run),  # an earlier release told none
        "changes": orjson.dumps(_changes(first)).decode(),
        "exemplar_trace_ids": exemplars,
        "exemplar_urls": [trace_url.replace(TRACE_ID, trace_id) for trace_id in exemplars] if trace_url else [],
        "model_version": most(_counted(run, "model_versions"))[0],
        "updated_at": max(window["updated_at"] for window in run),
    }
    row["evidence"] = _evidence(row, run)
    opinion = feedback(row, said)
    row["feedback"] = opinion["verdict"] if opinion else None
    row["feedback_by"] = opinion["author"] if opinion else None
    row["feedback_note"] = opinion["note"] if opinion else None
    row["is_silenced"] = opinion is not None and opinion["verdict"] in SILENCING
    return row


def _sum(amounts: Iterable[str | None]) -> Decimal | None:
    """Exact; None where none is known."""
    known = [to_units(Decimal(amount)) for amount in amounts if amount is not None]
    return to_decimal(sum(known)) if known else None


def _share(amount: Decimal | None, times: int, of: int) -> Decimal | None:
    """amount * times / of, to 12 places."""
    if amount is None or not of:
        return None
    return to_decimal(to_units(EXACT.divide(EXACT.multiply(amount, Decimal(times)), Decimal(of))))


def _projected(excess: Decimal | None, minutes: int, recurrence: Sequence[int]) -> Decimal | None:
    """What 30 days cost in which it comes as often as it did, at the cost of a minute so far."""
    recurring, observed = recurrence
    return _share(excess, recurring * MONTH_MINUTES, minutes * observed)


def _least_settled(statuses: Iterable[str]) -> str:
    found = set(statuses)
    return next(status for status in (PROVISIONAL, CORRECTED, BILLED) if status in found)


def _changes(first: Row) -> list[Row]:
    """What changed at the culprit, or in the prices of what it uses, just before, as its first window tells it."""
    since_ms = first["first_ms"] - CHANGES_MINUTES * MINUTE_MS
    return [
        {"what": what, "at": utc(at_ms), "from": before, "to": after}
        for what, at_ms, before, after in first["changes"]
        if since_ms <= at_ms <= first["first_ms"]
    ]


# ---- what people say --------------------------------------------------------------------------


def feedback(incident: Mapping[str, Any], said: Iterable[Row]) -> Row | None:
    """The latest that was said of an incident.

    said: rows with incident_id, otel_service_name, anomaly_kind, valid_from, valid_until (ms), each None where it
    doesn't matter, given_at (ms), verdict, author and note.
    """
    fitting = [row for row in said if _fits(row, incident)]
    return max(fitting, key=lambda row: (row["given_at"], orjson.dumps(row, option=orjson.OPT_SORT_KEYS)), default=None)


def _fits(row: Row, incident: Mapping[str, Any]) -> bool:
    same = ("incident_id", "otel_service_name", "anomaly_kind")
    return (
        all(row[name] is None or row[name] == incident[name] for name in same)
        and (row["valid_from"] is None or incident["last_seen_at"] > row["valid_from"])
        and (row["valid_until"] is None or incident["opened_at"] < row["valid_until"])
    )


# ---- the sentence -----------------------------------------------------------------------------


def _evidence(row: Row, run: Sequence[Row]) -> str:
    """payment's INSERT takes 4.1× as long since 10:33 UTC; 212 traces; 12.40 USD above usual, provisional"""
    traces = f"{row['anomalous_traces']:,} trace{'s' if row['anomalous_traces'] != 1 else ''}"
    return f"{_what(row, run)} {_when(row)}; {traces}; {_cost(row)}"


def _what(row: Row, run: Sequence[Row]) -> str:
    over = row["incident_state"] == CLOSED
    subject = f"{row['otel_service_name']}'s {row['culprit_operation']}"
    verb = _DONE[row["anomaly_kind"]][over]
    slower, count = (math.fsum(window["slower"][i] for window in run) for i in range(2))
    if row["anomaly_kind"] == LATENCY and count and slower > 0:
        return f"{subject} {'took' if over else 'takes'} {_times(math.exp(slower / count))}× as long"
    if row["anomaly_kind"] == OVERUSED:
        costs: Counter[str] = Counter()
        for window in run:
            costs.update({name: to_units(Decimal(cost)) for name, cost in window["overused"].items()})
        more = f"more {most(costs)[0]}" if costs else "more"
        return f"{row['otel_service_name']} {'used' if over else 'uses'} {more} than its calls explain"
    return f"{subject} {verb}"


def _times(factor: float) -> str:
    return f"{factor:.1f}" if factor < 10 else f"{factor:,.0f}"


def _when(row: Row) -> str:
    opened, seen = (datetime.fromtimestamp(row[name] / 1000, UTC) for name in ("opened_at", "last_seen_at"))
    is_one_day = opened.date() == seen.date()
    form = "%H:%M" if is_one_day else "%Y-%m-%d %H:%M"
    if row["incident_state"] == OPEN:
        return f"since {opened:{form}} UTC"
    return f"from {opened:{form}} to {seen:{form}} UTC"


def _cost(row: Row) -> str:
    excess = row["excess_cost"]
    if excess is None or row["billing_currency"] == NO_CURRENCY:
        return "its cost is not known"
    side = "below" if excess < 0 else "above"
    return f"{_amount(abs(excess))} {row['billing_currency']} {side} usual, {row['cost_status']}"


def _amount(amount: Decimal) -> str:
    """Two decimals, or of what is less than a cent two digits."""
    if not amount or amount >= Decimal("0.01"):
        return f"{amount:,.2f}"
    return f"{amount:.{1 - amount.adjusted()}f}"
