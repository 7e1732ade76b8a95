"""rank: one window's incidents and allocations -> its rows of ranked_anomalies.

Grain: one row per (window, culprit, currency). Equation (2) of docs/interface.md:

    alpha = (mean score of the culprit's anomalous traces) * log2(1 + their number)
    c_s   = sum of what is allocated to the culprit in W, in DECIMAL
    S     = sign(c_s) * alpha * ln(1 + |c_s|)

c_s is what the culprit costs anyway. Beside it stands what the anomaly costs, signed:

    excess = sum over services and dimensions of (usage beyond the usual) * (price of one more unit)
    billed excess = the same, of those services' resources of which more use is more money

where the usage beyond the usual is what the anomalous traces did otherwise than such traces do, in all services that
they touch, and what the culprit used beyond all its work, if that is no noise (detect, workload, usage_watch).
The price is that of the resources that the service used in W, in proportion: the unit price where use is charged; on a
machine that of its capacity, whoever bears the idle part; in a pool of machines that follows the use, what the machines
cost that it takes (see ``_price_of_more`` in attribute). On a machine that is paid for anyway the excess is what the
use is worth: it takes room that others could use. The bill stays as it is, and the billed excess is 0.

One trace leaves its score as it is, and evidence grows with the logarithm of the number: a
hundred traces weigh not quite seven times as much as one. A negative c_s (a credit) gives a
negative S of the size that the same cost would have, since ln(1 + c_s) ends at c_s = -1.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from udfs.pure.attribute import BILLED, CORRECTED, GROWING, PROVISIONAL, RATE_DIGITS, USED_SHARE, utc
from udfs.pure.cost_center import one_of
from udfs.pure.dimensions import DIMENSIONS
from udfs.pure.pools import of_pools
from udfs.pure.price import EXACT, to_decimal, to_units
from udfs.pure.recurrence import MONTH_MINUTES
from udfs.pure.verdicts import added, exemplars_of, most
from udfs.pure.windows import WINDOW_MS

Row = dict[str, Any]

# ISO 4217's code for "no currency": of a window of which no cost is known at all.
NO_CURRENCY = "XXX"

# Of the evidence, what is in the explanation only.
_EXPLAIN_ONLY = ("mean_trace_score", "anomalous_minutes", "recurrence")

# What the rows of a window may be ordered by: S of equation (2), alpha * log(1 + excess), excess alone, or what the
# excess changed on the bill.
SCORE, EXCESS_SCORE, EXCESS, BILLED_EXCESS = "score", "excess_score", "excess", "billed_excess"
ORDERS = (EXCESS, EXCESS_SCORE, BILLED_EXCESS, SCORE)

# Use of the culprit that its work doesn't explain counts beyond so many standard deviations.
SIGNIFICANT = 2.0

# FOCUS UnitFormat of the usage of each dimension.
USAGE_UNITS = {name: dimension.focus_unit for name, dimension in DIMENSIONS.items()}

FORMULAS = {
    "x_AllocatedCost": "x_ResourceCost * AllocatedRatio, last place by largest remainder over the services of the"
    " resource",
    "AllocatedRatio": "UsageQuantity / x_TotalUsage; under x_IdlePolicy none or even that * (1 - x_IdleShare), and"
    " even adds x_IdleShare / services; of a group of machines that is billed as one (x_DividedBy cores or even: each"
    " node's part of the cost by its cores or alike) the sum over its nodes of the node's part * the service's part of"
    " the node's usage",
    "x_AttributedCost": "c_s = sum of x_AllocatedCost",
    "x_AnomalyScore": "alpha = x_MeanTraceScore * log2(1 + x_AnomalousTraces)",
    "x_BilledExcessCost": "sum of x_ExcessUsage's x_Cost where x_PriceBasis is metered or pool",
    "x_ExcessCost": "sum of x_ExcessUsage's x_Cost, each x_ExcessQuantity * x_UnitRate, to 12 places",
    "x_UnitRate": "price of one more unit, by x_PriceBasis: metered (of the unit that is charged), pool (machines whose"
    " number follows the use: their whole cost / usage of the fullest dimension, 0 of the others), capacity (machines"
    " that are paid for anyway: cost / capacity), list (no size is known: list price), used_share (nor that: cost /"
    " usage, too much where much is idle); mean over the service's resources by usage",
    "x_ProjectedMonthlyCost": "x_ExcessCost / x_AnomalousMinutes * x_RecurringMinutes / x_ObservedMinutes * 43200",
    "x_CostWeightedScore": "S = sign(c_s) * alpha * ln(1 + abs(c_s))",
    "x_ResourceCost": "sum of x_Charges' cost_in_window; where there are none x_Rate's"
    " cost_per_window + cost_per_usage * x_TotalUsage, to 12 places",
}


def rank_window(
    window_start_ms: int,
    incidents: Iterable[Sequence[Mapping[str, Any]]],
    service_traces: Iterable[Mapping[str, int]],
    allocations: Iterable[Mapping[str, Any]],
    order: str = EXCESS,
) -> list[Row]:
    """Rows of ranked_anomalies of one window, by currency and rank; a function of the sets.

    incidents, service_traces: one element a minute of W, as in detect's MinuteResult.
    allocations: rows of attribute.allocate of all resources in W; money as Decimal or as text.
    order: one of ORDERS, what rank 1 has most of.
    returns: all columns of docs/interface.md §3; times in ms, money Decimal with 12 places,
        explanation compact JSON. excess_cost, billed_excess_cost and projected_monthly_cost are None where no price is
        known.

    A culprit has a row in each currency in which cost is allocated to it. One to which none is
    allocated at all has a row with attributed_cost 0 in each currency of the window's bill; where
    there is none either, in NO_CURRENCY. Currencies are never compared: ranks start at 1 in each,
    by ``order``, then S, then c_s, then alpha, then the culprit's name.

    threshold is the mean of the minutes' thresholds, each as often as it has anomalous traces of
    the culprit: what those traces had to exceed. So anomaly_score is never below it. cost_status
    is the least settled of the allocations that the row rests on. updated_at is event time, so
    that a replay gives the same row: the window's end, or the latest charge period's, if later.
    """
    bills: dict[str, _Bill] = defaultdict(_Bill)
    for allocation in of_pools(sorted(allocations, key=_allocation_key)):
        bills[allocation["billing_currency"]].add(allocation)
    total_traces: Counter[str] = Counter()
    for of_minute in service_traces:
        total_traces.update(of_minute)

    rows = []
    for culprit, of_culprit in sorted(_by_culprit(incidents).items()):
        evidence = _evidence(culprit, of_culprit, total_traces[culprit])
        excess_usage = _excess_usage(culprit, of_culprit)
        own = {currency for currency, bill in bills.items() if culprit in bill.of_service}
        for currency in sorted(own or bills.keys() or {NO_CURRENCY}):
            bill = bills[currency] if currency in bills else _Bill()
            elements = bill.of_service.get(culprit, [])
            excess = _excess(excess_usage, bill.of_service)
            rests_on = _settled(elements) if elements else bill.settled
            rows.append(_row(window_start_ms, currency, evidence, elements, excess, rests_on, order))
    return _ranked(rows, order)


class _Bill:
    """Allocations of a window in one currency, as culprits ask for them."""

    def __init__(self) -> None:
        self._rows: list[Mapping[str, Any]] = []
        self.of_service: dict[str, list[Mapping[str, Any]]] = defaultdict(list)

    def add(self, row: Mapping[str, Any]) -> None:
        """One more; all by _allocation_key."""
        self._rows.append(row)
        self.of_service[row["otel_service_name"]].append(row)

    @cached_property
    def settled(self) -> _Settled | None:
        """Of all of them."""
        return _settled(self._rows)


class _Settled(NamedTuple):
    """How settled costs are."""

    status: str
    updated_ms: int | None  # end of the latest charge period, None where there is no charge


def _settled(allocations: list[Mapping[str, Any]]) -> _Settled | None:
    """Of the least settled; None of none."""
    if not allocations:
        return None
    statuses = {allocation["cost_status"] for allocation in allocations}
    period_ends = [end_ms for allocation in allocations if (end_ms := allocation["charge_period_end"]) is not None]
    status = next(status for status in (PROVISIONAL, CORRECTED, BILLED) if status in statuses)
    return _Settled(status, max(period_ends, default=None))


def _ranked(rows: list[Row], order: str) -> list[Row]:
    """The rows with their rank, which starts at 1 in each currency."""
    rows.sort(
        key=lambda row: (
            row["billing_currency"],
            -_merit(row, order),
            -row["cost_weighted_score"],
            -row["attributed_cost"],
            -row["anomaly_score"],
            row["otel_service_name"],
        )
    )
    last: Counter[str] = Counter()
    for row in rows:
        last[row["billing_currency"]] += 1
        row["rank"] = last[row["billing_currency"]]
    return rows


def _merit(row: Row, order: str) -> float:
    """What the rank is by. An excess that isn't known counts as none."""
    if order == SCORE:
        return row["cost_weighted_score"]
    if order == BILLED_EXCESS:
        return float(row["billed_excess_cost"] or 0)
    excess = row["excess_cost"] or Decimal()
    return float(excess) if order == EXCESS else cost_weighted_score(row["anomaly_score"], excess)


def _excess_usage(culprit: str, incidents: list[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Usage beyond the usual by (service, dimension), over the minutes of W."""
    amounts: dict[tuple[str, str], list[float]] = defaultdict(list)
    unexplained: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for incident in incidents:
        for service, by_dimension in incident["excess_usage"].items():
            for dimension, used in by_dimension.items():
                amounts[service, dimension].append(used)
        for dimension, (used, variance) in incident["unexplained_usage"].items():
            unexplained[dimension].append((used, variance))
    for dimension, parts in unexplained.items():
        used, variance = (math.fsum(column) for column in zip(*parts))
        if abs(used) > SIGNIFICANT * math.sqrt(variance):
            amounts[culprit, dimension].append(used)
    return {key: total for key, parts in sorted(amounts.items()) if (total := math.fsum(parts))}


def _excess(
    usage: Mapping[tuple[str, str], float], of_service: Mapping[str, list[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Elements of x_ExcessUsage: what each service used beyond the usual, and what that costs.

    of_service: allocations of W, in one currency. Resources bear the usage in proportion to what the service used of
    each. A service and dimension has an element for each way in which a price was found, none where no price is known.
    """
    elements = []
    for (service, dimension), used in usage.items():
        by_basis: dict[str, list[tuple[float, Decimal]]] = defaultdict(list)  # (usage, rate) of a resource
        for row in of_service.get(service, ()):
            if row["dimension"] == dimension and row["usage"] and (price := _priced(row)):
                by_basis[price[0]].append((row["usage"], price[1]))
        whole = math.fsum(amount for priced in by_basis.values() for amount, _ in priced)
        for basis, priced in sorted(by_basis.items()):
            own = math.fsum(amount for amount, _ in priced)
            weighted = Decimal()
            for amount, rate in priced:
                weighted = EXACT.fma(EXACT.create_decimal_from_float(amount), rate, weighted)
            rate = RATE_DIGITS.divide(weighted, EXACT.create_decimal_from_float(own))
            quantity = used * (own / whole)
            cost = to_decimal(to_units(EXACT.multiply(Decimal(repr(quantity)), rate)))
            elements.append(
                {
                    "x_OtelServiceName": service,
                    "x_Dimension": dimension,
                    "x_ExcessQuantity": quantity,
                    "UsageUnit": USAGE_UNITS[dimension],
                    "x_PriceBasis": basis,
                    "x_UnitRate": format(rate, "f"),
                    "x_Cost": format(cost, "f"),
                }
            )
    return elements


def _priced(row: Mapping[str, Any]) -> tuple[str, Decimal] | None:
    """How the price of one more unit is known, and the price."""
    if row.get("marginal_rate") is not None:
        return row["marginal_basis"], Decimal(row["marginal_rate"])
    if row.get("unit_rate") is not None:  # an earlier release's row, still in state
        return USED_SHARE, Decimal(row["unit_rate"])
    return None


def cost_weighted_score(alpha: float, attributed_cost: Decimal) -> float:
    """S of equation (2), sign-preserving; attributed_cost in whole units of its currency."""
    return math.copysign(alpha * math.log1p(abs(float(attributed_cost))), attributed_cost)


def _by_culprit(
    incidents: Iterable[Sequence[Mapping[str, Any]]],
) -> dict[str, list[Mapping[str, Any]]]:
    by_culprit: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for of_minute in incidents:
        for incident in of_minute:
            by_culprit[incident["otel_service_name"]].append(incident)
    return by_culprit


def _evidence(culprit: str, incidents: list[Mapping[str, Any]], total_traces: int) -> Row:
    """The columns that the traces alone give, and the mean score that alpha is made of."""
    scores = [score for incident in incidents for score in incident["scores"]]
    affected, kinds, versions = (
        added(incident[name] for incident in incidents) for name in ("affected", "kinds", "model_versions")
    )
    affected.pop(culprit, None)
    mean = math.fsum(scores) / len(scores)
    return {
        "otel_service_name": culprit,
        "mean_trace_score": mean,
        "anomaly_score": mean * math.log2(1 + len(scores)),
        "threshold": math.fsum(incident["threshold"] for incident in incidents for _ in incident["scores"])
        / len(scores),
        "anomalous_traces": len(scores),
        "total_traces": total_traces,
        "anomaly_kind": most(kinds)[0],
        "affected_services": most(affected),
        "exemplar_trace_ids": [trace_id for _, trace_id in exemplars_of(incidents)],
        "model_version": most(versions)[0],
        "anomalous_minutes": len(incidents),
        "recurrence": _recurrence(kinds, incidents),
    }


def _recurrence(kinds: Mapping[str, int], incidents: list[Mapping[str, Any]]) -> list[int]:
    """[minutes of the row's kind in the last 30 days, minutes observed], as its last minute has it."""
    kind = most(kinds)[0]
    of_kind = [i["recurrence"] for i in incidents if most(i["kinds"])[0] == kind]
    return max(of_kind or [i["recurrence"] for i in incidents])


def _row(
    window_start_ms: int,
    currency: str,
    evidence: Row,
    elements: list[Mapping[str, Any]],
    excess: list[dict[str, Any]],
    rests_on: _Settled | None,
    order: str,
) -> Row:
    """One row but for its rank. elements: what is allocated to the culprit in ``currency``; excess: see _excess."""
    window_end_ms = window_start_ms + WINDOW_MS
    attributed = to_decimal(sum(to_units(element["allocated_cost"]) for element in elements))
    score = cost_weighted_score(evidence["anomaly_score"], attributed)
    columns = {name: value for name, value in evidence.items() if name not in _EXPLAIN_ONLY}
    excess_cost, billed_excess_cost = (
        sum((Decimal(e["x_Cost"]) for e in elements), to_decimal(0)) if rests_on else None
        for elements in (excess, [e for e in excess if e["x_PriceBasis"] in GROWING])
    )
    monthly = _projected(excess_cost, evidence)
    return {
        "anomaly_id": f"{utc(window_start_ms)}/{evidence['otel_service_name']}/{currency}",
        "window_start": window_start_ms,
        "window_end": window_end_ms,
        **columns,
        "cost_weighted_score": score,
        "attributed_cost": attributed,
        "excess_cost": excess_cost,
        "billed_excess_cost": billed_excess_cost,
        "projected_monthly_cost": monthly,
        "billing_currency": currency,
        "cost_status": rests_on.status if rests_on else PROVISIONAL,
        "cost_center": one_of(element["cost_center"] for element in elements),
        "explanation": _explanation(
            window_start_ms,
            currency,
            evidence,
            elements,
            attributed,
            score,
            excess,
            excess_cost,
            billed_excess_cost,
            monthly,
            order,
        ),
        "updated_at": max(window_end_ms, rests_on.updated_ms or 0) if rests_on else window_end_ms,
    }


def _projected(excess_cost: Decimal | None, evidence: Row) -> Decimal | None:
    """What a month of it costs, if it goes on to come as often: excess a minute times its minutes in a month."""
    minutes, observed = evidence["recurrence"]
    if excess_cost is None or not observed:
        return None
    monthly = EXACT.divide(
        EXACT.multiply(excess_cost, Decimal(minutes * MONTH_MINUTES)),
        Decimal(evidence["anomalous_minutes"] * observed),
    )
    return to_decimal(to_units(monthly))


def _explanation(
    window_start_ms: int,
    currency: str,
    evidence: Row,
    elements: list[Mapping[str, Any]],
    attributed: Decimal,
    score: float,
    excess: list[dict[str, Any]],
    excess_cost: Decimal | None,
    billed_excess_cost: Decimal | None,
    monthly: Decimal | None,
    order: str,
) -> str:
    """Every factor of (1) and (2), in the shape of FOCUS AllocatedMethodDetails.

    FOCUS 1.3: Elements with AllocatedRatio, UsageUnit and UsageQuantity each; other keys start
    with x_. An AllocatedRatio is the share of one resource and dimension. Money is text, so that
    no reader's float rounds it; numbers are floats, printed so that they read back the same.
    """
    return orjson.dumps(
        {
            "Elements": [_element(element) for element in elements],
            "x_AnomalousMinutes": evidence["anomalous_minutes"],
            "x_BilledExcessCost": None if billed_excess_cost is None else format(billed_excess_cost, "f"),
            "x_ExcessCost": None if excess_cost is None else format(excess_cost, "f"),
            "x_ExcessUsage": excess,
            "x_ObservedMinutes": evidence["recurrence"][1],
            "x_ProjectedMonthlyCost": None if monthly is None else format(monthly, "f"),
            "x_RecurringMinutes": evidence["recurrence"][0],
            "x_AnomalousTraces": evidence["anomalous_traces"],
            "x_AnomalyScore": evidence["anomaly_score"],
            "x_AttributedCost": format(attributed, "f"),
            "x_BillingCurrency": currency,
            "x_CostWeightedScore": score,
            "x_Formulas": FORMULAS,
            "x_MeanTraceScore": evidence["mean_trace_score"],
            "x_OtelServiceName": evidence["otel_service_name"],
            "x_RankedBy": order,
            "x_Threshold": evidence["threshold"],
            "x_TotalTraces": evidence["total_traces"],
            "x_WindowEnd": utc(window_start_ms + WINDOW_MS),
            "x_WindowStart": utc(window_start_ms),
        },
        option=orjson.OPT_SORT_KEYS,
    ).decode()


def _element(allocation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "AllocatedRatio": allocation["share"],
        "UsageUnit": USAGE_UNITS.get(allocation["dimension"]),
        "UsageQuantity": allocation["usage"],
        "x_AllocatedCost": format(Decimal(allocation["allocated_cost"]), "f"),
        "x_Charges": allocation["charges"],
        "x_CostStatus": allocation["cost_status"],
        "x_Dimension": allocation["dimension"],
        **({"x_DividedBy": divided_by} if (divided_by := allocation.get("divided_by")) else {}),
        "x_IdlePolicy": allocation["idle_policy"],
        "x_IdleShare": allocation["idle_share"],
        "x_Rate": allocation["rate"],
        "x_ResourceCost": format(Decimal(allocation["resource_cost"]), "f"),
        "x_ResourceId": allocation["resource_id"],
        "x_TotalUsage": allocation["total_usage"],
    }


def _allocation_key(allocation: Mapping[str, Any]) -> tuple[str, str, str]:
    return allocation["resource_id"], allocation["dimension"], allocation["otel_service_name"]
