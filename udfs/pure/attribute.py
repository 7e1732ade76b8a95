"""attribute: all of one billed resource -> its rows of cost_allocations and of charge_anomalies.

Equation (1) of interface.md: a resource's cost in W goes to the services by their share of its
usage. Grain: one row per (window, resource, dimension, service, currency). Per (window, resource,
dimension, currency) the rows' allocated_cost sums to what was charged, to the last decimal.

Usage of a window is {dimension: {service, or "" where unknown: u}}, 0.0 where measured and unused;
the bill of a window is [(charge, {dimension: units of 1e-12}), ...], a charge once each, with the
parts that price.cost_by_window gives for that window. All results are functions of the sets: no
order of services, windows or charges makes a difference.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

from udfs.pure.price import (
    EXACT,
    apportion,
    integer_weights,
    to_decimal,
    to_units,
    windows_of,
)
from udfs.pure.windows import HOUR_MS, IDLE, NO_RESOURCE, UNALLOCATED, WINDOW_MS

Usage = Mapping[str, Mapping[str, float]]
Bill = Sequence[tuple[Mapping[str, Any], Mapping[str, int]]]
Row = dict[str, Any]

# What no usage metric measures (support, licences, taxes of a resource).
OTHER = "other"

PROVISIONAL, BILLED, CORRECTED = "provisional", "billed", "corrected"

# FOCUS ChargeClass of a row that restates an invoiced period.
CORRECTION = "Correction"

# A unit rate is a quotient; as many digits as DECIMAL(28, 12) has, so that a rate times a usage
# is good to the last decimal.
RATE_DIGITS = Context(prec=28)

# Irregular charges. A week holds each hour of the day and each day of the week; half a day is the
# least from which a median and its spread say anything.
HISTORY_MS = 7 * 24 * HOUR_MS
MIN_HISTORY_WINDOWS = 24
# Makes the median absolute deviation of a normal distribution its standard deviation.
MAD_TO_SIGMA = 1.4826
# Flat bills have no deviation at all: a change below 5 % of the usual is nobody's concern, nor is
# one below a millionth of a currency unit (2 cents a year).
MIN_RELATIVE_SIGMA = 0.05
MIN_SIGMA_UNITS = 10**6
IRREGULAR_SCORE = 6.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def sum_usage(parts: Iterable[tuple[str, str, float]]) -> dict[str, dict[str, float]]:
    """Usage of a resource in W from its consumers' (dimension, service or "", u), in any order."""
    amounts: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for dimension, service, used in parts:
        amounts[dimension][service].append(used)
    return {
        dimension: {service: math.fsum(used) for service, used in sorted(services.items())}
        for dimension, services in sorted(amounts.items())
    }


def allocate_window(
    resource_id: str,
    window_start_ms: int,
    usage: Mapping[int, Usage],
    bill: Mapping[int, Bill],
    metered_dimensions: Collection[str],
) -> list[Row]:
    """Rows of cost_allocations of one resource and window, from all that is known of the resource.

    usage, bill: {window_start_ms: ...}. See ``allocate``.

    A window's rows change with its own usage and bill; with ``metered_dimensions``; and, as long
    as it has usage and no bill, with anything earlier, from which it takes its rate.
    """
    charges = bill.get(window_start_ms, ())
    used = usage.get(window_start_ms, {})
    billed = {dimension for _, parts in charges for dimension in parts}
    rates = {
        dimension: latest_rates(window_start_ms, dimension, usage, bill)
        for dimension in used
        if dimension not in billed
    }
    return allocate(resource_id, window_start_ms, used, charges, metered_dimensions, rates)


def allocate(
    resource_id: str,
    window_start_ms: int,
    usage: Usage,
    charges: Bill,
    metered_dimensions: Collection[str],
    rates: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> list[Row]:
    """Rows of cost_allocations of one resource and window.

    usage, charges: of this window. metered_dimensions: those of which this resource has usage
        telemetry in any window. rates: {dimension: {currency: rate}} of ``latest_rates``, for the
        dimensions that have usage in this window and no charge.
    returns: sorted by (dimension, billing_currency, otel_service_name); window_start in ms,
        resource_cost and allocated_cost Decimal with 12 places; usage and total_usage None where
        no telemetry exists. Beside the table's columns, for the explanation: ``charges`` (those
        that make up resource_cost, money and times as text), ``rate`` (of a provisional row, else
        None) and ``charge_period_end`` (ms, the latest of the charges; None if provisional).

    A dimension is billed in W as soon as any charge of it touches W, and corrected if one of them
    has ChargeClass Correction. Usage without a charge is provisional, if a rate is known; if none
    is, or if neither usage nor charge is there, there is no row.
    """
    billed: dict[tuple[str, str], list[tuple[Mapping[str, Any], int]]] = defaultdict(list)
    for charge, parts in sorted(charges, key=lambda entry: entry[0]["key"]):
        for dimension, cost in parts.items():
            billed[dimension, charge["currency"]].append((charge, cost))

    costs = []  # (dimension, currency, cost in units, the columns that tell where it comes from)
    for (dimension, currency), entries in billed.items():
        is_corrected = any(charge["charge_class"] == CORRECTION for charge, _ in entries)
        costs.append((dimension, currency, sum(cost for _, cost in entries), {
            "cost_status": CORRECTED if is_corrected else BILLED,
            "charges": [_explain(charge, cost) for charge, cost in entries],
            "rate": None,
            "charge_period_end": max(charge["end_ms"] for charge, _ in entries),
        }))
    for dimension, by_currency in rates.items():
        total_usage = math.fsum(usage[dimension].values())
        for currency, rate in by_currency.items():
            costs.append((dimension, currency, provisional_cost(rate, total_usage), {
                "cost_status": PROVISIONAL, "charges": [], "rate": rate, "charge_period_end": None,
            }))

    rows = []
    for dimension, currency, cost, origin in sorted(costs, key=lambda entry: entry[:2]):
        can_allocate = (
            resource_id != NO_RESOURCE and dimension != OTHER and dimension in metered_dimensions
        )
        shares = _shares(cost, usage.get(dimension, {}) if can_allocate else None)
        for service, used, total_usage, share, part in shares:
            rows.append({
                "window_start": window_start_ms,
                "resource_id": resource_id,
                "dimension": dimension,
                "otel_service_name": service,
                "usage": used,
                "total_usage": total_usage,
                "share": share,
                "resource_cost": to_decimal(cost),
                "allocated_cost": to_decimal(part),
                "billing_currency": currency,
                **origin,
            })
    return rows


def _shares(
    cost: int, services: Mapping[str, float] | None
) -> list[tuple[str, float | None, float | None, float, int]]:
    """(otel_service_name, usage, total_usage, share, units) of each who bears a part of ``cost``.

    services: {service or "": u}; None where the cost can't be tied to anybody's usage.
    """
    if services is None:
        return [(UNALLOCATED, None, None, 1.0, cost)]
    total_usage = math.fsum(services.values())
    if not total_usage:
        return [(IDLE, 0.0, 0.0, 1.0, cost)]
    by_name = {service or UNALLOCATED: used for service, used in services.items()}
    parts = apportion(cost, integer_weights(by_name))
    return [
        (name, used, total_usage, used / total_usage, parts[name])
        for name, used in sorted(by_name.items())
    ]


def latest_rates(
    window_start_ms: int,
    dimension: str,
    usage: Mapping[int, Usage],
    bill: Mapping[int, Bill],
) -> dict[str, dict[str, Any]]:
    """What the latest earlier bill says that this dimension costs, by currency; {} if none does.

    returns: {currency: {"cost_per_window": decimal text, of what is charged by the hour,
        "cost_per_usage": decimal text, of what is charged by the unit, or None,
        "window_start": ISO time of the window it is taken from, "charges": as in ``allocate``}}

    Latest is meant in event time: the window before W, nearest to it, whose bill gives a rate. It
    doesn't where the sum is a credit, or where something is charged by the unit and nothing was
    used. A unit's cost is that of the whole charge period over the usage of it: within an hour, or
    a day, the bill doesn't tell when the units were used.
    """
    for rated_ms in sorted((ms for ms in bill if ms < window_start_ms), reverse=True):
        by_currency: dict[str, list[tuple[Mapping[str, Any], int]]] = defaultdict(list)
        for charge, parts in sorted(bill[rated_ms], key=lambda entry: entry[0]["key"]):
            if dimension in parts:
                by_currency[charge["currency"]].append((charge, parts[dimension]))
        rates = {}
        for currency, entries in sorted(by_currency.items()):
            rate = _rate(rated_ms, dimension, entries, usage)
            if rate:
                rates[currency] = rate
        if rates:
            return rates
    return {}


def _rate(
    rated_ms: int,
    dimension: str,
    entries: Sequence[tuple[Mapping[str, Any], int]],
    usage: Mapping[int, Usage],
) -> dict[str, Any] | None:
    """Rate of one currency from the charges [(charge, units in the window ``rated_ms``), ...]."""
    if sum(cost for _, cost in entries) < 0:
        return None
    flat, per_usage, is_metered = 0, Decimal(0), False
    for charge, cost in entries:
        if charge["per"] == "hour":
            flat += cost
            continue
        is_metered = True
        # Only windows with telemetry count, on both sides of the quotient: where a stream begins
        # in the middle of a charge period, half the usage doesn't stand against the whole cost.
        overlaps = windows_of(charge["start_ms"], charge["end_ms"])
        metered = {
            ms: overlap for ms, overlap in overlaps.items() if dimension in usage.get(ms, {})
        }
        used = math.fsum(
            amount * (overlap / WINDOW_MS)
            for ms, overlap in metered.items()
            for amount in usage[ms][dimension].values()
        )
        if not used:
            return None
        cost_of_metered = EXACT.divide(
            EXACT.multiply(to_decimal(cost), Decimal(sum(metered.values()))),
            Decimal(overlaps[rated_ms]),
        )
        per_usage = EXACT.add(per_usage, EXACT.divide(cost_of_metered, _exactly(used)))
    return {
        "cost_per_window": _text(to_decimal(flat)),
        "cost_per_usage": _text(RATE_DIGITS.plus(per_usage)) if is_metered else None,
        "window_start": utc(rated_ms),
        "charges": [_explain(charge, cost) for charge, cost in entries],
    }


def provisional_cost(rate: Mapping[str, Any], total_usage: float) -> int:
    """Units of 1e-12 that W costs at ``rate``: cost_per_window + cost_per_usage * total_usage."""
    metered = EXACT.multiply(Decimal(rate["cost_per_usage"] or 0), _exactly(total_usage))
    return to_units(EXACT.add(Decimal(rate["cost_per_window"]), metered))


def charge_anomalies(
    resource_id: str,
    dimension: str,
    billing_currency: str,
    costs: Mapping[int, int],
    windows: Iterable[int] | None = None,
) -> list[Row]:
    """Rows of charge_anomalies: windows whose bill is unlike the seven days before it.

    costs: {window_start_ms: billed units of 1e-12} of one resource, dimension and currency,
        provisional costs left out. windows: those to judge (default: all); a cost that changes
        can change the judgement of its own window and of those in the HISTORY_MS after it.
    returns: rows for the irregular ones only, by window; anomaly_score is the robust z, signed:
        (cost - median) over 1.4826 * MAD, or over 5 % of the median where that is more.
    """
    known = sorted(costs)
    rows = []
    for window_ms in known if windows is None else sorted(set(windows) & costs.keys()):
        since, until = bisect_left(known, window_ms - HISTORY_MS), bisect_left(known, window_ms)
        if until - since < MIN_HISTORY_WINDOWS:
            continue
        history = [costs[ms] for ms in known[since:until]]
        expected = _median(history)
        deviation = _median([abs(cost - expected) for cost in history])
        sigma = max(
            MAD_TO_SIGMA * deviation, MIN_RELATIVE_SIGMA * abs(expected), MIN_SIGMA_UNITS
        )
        score = (costs[window_ms] - expected) / sigma
        if abs(score) >= IRREGULAR_SCORE:
            rows.append({
                "window_start": window_ms,
                "window_end": window_ms + WINDOW_MS,
                "resource_id": resource_id,
                "dimension": dimension,
                "billed_cost": to_decimal(costs[window_ms]),
                "expected_cost": to_decimal(expected),
                "anomaly_score": score,
                "billing_currency": billing_currency,
            })
    return rows


def utc(time_ms: int) -> str:
    """ISO 8601 text of a time, as FOCUS writes it: 2024-01-01T00:30:00Z."""
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat().replace("+00:00", "Z")


def _explain(charge: Mapping[str, Any], cost: int) -> dict[str, Any]:
    """What a person needs to find a charge in the bill, and its part of this window's cost."""
    return {
        "key": charge["key"],
        "sku_id": charge["sku_id"],
        "focus_service_name": charge["focus_service_name"],
        "charge_class": charge["charge_class"],
        "charge_period_start": utc(charge["start_ms"]),
        "charge_period_end": utc(charge["end_ms"]),
        "cost": charge["cost"],
        "cost_in_window": _text(to_decimal(cost)),
        "list_unit_price": charge["list_unit_price"],
        "consumed_quantity": charge["consumed_quantity"],
        "consumed_unit": charge["consumed_unit"],
    }


def _exactly(value: float) -> Decimal:
    """The decimal that a float is printed as: the one a reader of the explanation works with."""
    return Decimal(repr(value))


def _text(amount: Decimal) -> str:
    """Decimal digits without an exponent."""
    return format(amount, "f")


def _median(values: list[int]) -> int:
    """Median of integers; of the two middle ones the mean, rounded down to a whole unit."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) // 2
