"""unit_cost: what a request costs. Each service's cost of a window goes to the requests that it worked for.

Grain: a window, service, kind of request and currency. A kind of request is the root operation of its trace. What a
service costs in a dimension is divided by the usage of the work that each kind asks of it (calls by kind, times what a
call takes, see ``usage_watch``); where that isn't known, by its calls. The cost of a service that no request of the
window asked anything of is UNTRACED, and what is no service's (idle, system, unallocated) stays under its own name, so
that the costs of a window sum to its allocations, to the last decimal.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.attribute import BILLED, CORRECTED, PROVISIONAL
from udfs.pure.case import Case
from udfs.pure.cost_center import one_of
from udfs.pure.dimensions import WATCHED as DIMENSIONS
from udfs.pure.names import RESERVED
from udfs.pure.pieces import PIECES
from udfs.pure.price import EXACT, apportion, integer_weights, to_decimal, to_units
from udfs.pure.windows import WINDOW_MS

Row = dict[str, Any]

# A service's cost in a window in which no trace asked anything of it.
UNTRACED = "__untraced__"
# What traces lack that have no such attribute, and the values beyond those that are told apart.
NONE, OTHER = "__none__", "__other__"
VALUES_MOST = 200
# Among the usage of work: how many calls it is, for what has no usage that calls explain.
CALLS = "calls"

# What the sum of several allocations is: the first of these that one of them is.
_STATUSES = (PROVISIONAL, CORRECTED, BILLED)


def demand(case: Case, traits: Sequence[str] = ()) -> Row:
    """What a minute's requests, those that samplers left out among them, asked of each service.

    {"requests": {root operation: how many}, "work": {service: {root operation: {dimension or CALLS: usage}}}},
    and with ``traits`` {"traits": {name: the same by its values}}: see unit_costs_by_attribute.
    """
    asked = _asked(case, case.roots)
    if not traits or not case.trace_ids:
        return asked
    of_traces = case.traits or [{}] * len(case.trace_ids)
    return asked | {
        "traits": {name: _asked(case, _most(case, [of.get(name) or NONE for of in of_traces])) for name in traits}
    }


def _most(case: Case, values: list[str]) -> list[str]:
    """The values of a minute's traces, those beyond the VALUES_MOST that most have as one."""
    counts: Counter[str] = Counter()
    for value, weight in zip(values, case.weight.tolist()):
        counts[value] += weight
    kept = _kept(counts)
    return [value if value in kept else OTHER for value in values]


def _kept(counts: Mapping[str, float]) -> set[str]:
    """The values that most have; NONE and OTHER are no values."""
    ordered = sorted(counts.keys() - {NONE, OTHER}, key=lambda value: (-counts[value], value))
    return {*ordered[:VALUES_MOST], NONE, OTHER}


def _asked(case: Case, kind_of_trace: list[str]) -> Row:
    """By kind of request. kind_of_trace: (traces,)"""
    work: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    kinds = sorted(set(kind_of_trace))
    number = {kind: at for at, kind in enumerate(kinds)}
    kind_of = np.array([number[kind] for kind in kind_of_trace], np.int64)
    services, slots = np.divmod(case.work.piece, PIECES)
    keys = (services * len(kinds) + kind_of[case.work.trace]) * PIECES + slots
    cells, index = np.unique(keys, return_inverse=True)
    times = np.bincount(index, case.work.times * case.weight[case.work.trace], minlength=len(cells))
    costs = case.believed.costs if case.believed else {}
    for cell, count in zip(cells.tolist(), times.tolist()):
        at, slot = divmod(cell, PIECES)
        service, kind = case.services[at // len(kinds)], kinds[at % len(kinds)]
        used = work[service].setdefault(kind, dict.fromkeys((*DIMENSIONS, CALLS), 0.0))
        used[CALLS] += count
        if service in costs:
            for dimension, cost in zip(DIMENSIONS, costs[service][:, slot].tolist()):
                used[dimension] += count * max(cost, 0.0)
    requests = np.bincount(kind_of, case.weight, minlength=len(kinds)).tolist()
    return {"requests": dict(zip(kinds, requests)), "work": {name: work[name] for name in sorted(work)}}


def unit_costs(
    window_ms: int, demands: Iterable[Mapping[str, Any]], allocations: Iterable[Mapping[str, Any]]
) -> list[Row]:
    """Rows of unit_costs of one window.

    demands: of its minutes and their parts, in any order. allocations: rows of cost_allocations of all resources.
    returns: sorted by key; times in ms, money as Decimal with 12 places.
    """
    rows = []
    for kind, row in _costs(window_ms, demands, allocations):
        root_service, _, operation = kind.partition(SEPARATOR)
        rows.append({"root_service_name": root_service, "root_operation": operation, **row})
    return rows


def unit_costs_by_attribute(
    window_ms: int,
    names: Iterable[str],
    demands: Iterable[Mapping[str, Any]],
    allocations: Iterable[Mapping[str, Any]],
) -> list[Row]:
    """Rows of unit_costs_by_attribute of one window: for each attribute all that was allocated, by its values.

    As unit_costs. names: of the attributes. A trace that lacks one has NONE, and beyond the VALUES_MOST values that
    most requests have, the others are OTHER. A part that an earlier release told, or other settings, lacks them all.
    """
    found, allocations = [of_part.get("traits", {}) for of_part in demands], list(allocations)
    rows = []
    for name in names:
        of_name = [of_part[name] for of_part in found if name in of_part]
        came: dict[str, list[float]] = defaultdict(list)
        for of_part in of_name:
            for value, count in of_part["requests"].items():
                came[value].append(count)
        kept = _kept({value: math.fsum(counts) for value, counts in came.items()})
        few = [_with_others(of_part, kept) for of_part in of_name]
        rows += [
            {"attribute_name": name, "attribute_value": value, **row}
            for value, row in _costs(window_ms, few, allocations)
        ]
    return rows


def _with_others(of_part: Mapping[str, Any], kept: set[str]) -> Row:
    """What isn't kept is OTHER."""
    if of_part["requests"].keys() <= kept:
        return dict(of_part)
    requests: Counter[str] = Counter()
    for value, count in of_part["requests"].items():
        requests[value if value in kept else OTHER] += count
    work: dict[str, dict[str, dict[str, float]]] = {}
    for service, by_value in of_part["work"].items():
        of_service: dict[str, dict[str, float]] = {}
        for value, usage in sorted(by_value.items()):
            into = of_service.setdefault(value if value in kept else OTHER, dict.fromkeys(usage, 0.0))
            for dimension, amount in usage.items():
                into[dimension] += amount
        work[service] = of_service
    return {"requests": requests, "work": work}


def _costs(
    window_ms: int, demands: Iterable[Mapping[str, Any]], allocations: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, Row]]:
    """(kind of request, what the tables share) of each service, kind and currency, by these."""
    came: dict[str, list[float]] = defaultdict(list)
    asked: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for of_part in demands:
        for kind, count in of_part["requests"].items():
            came[kind].append(count)
        for service, by_kind in of_part["work"].items():
            for kind, usage in by_kind.items():
                for dimension, amount in usage.items():
                    asked[service][dimension][kind].append(amount)

    requests = {kind: round(math.fsum(counts)) for kind, counts in came.items()}
    spent: Counter[tuple[str, str, str]] = Counter()  # (service, dimension, currency) -> units
    status: dict[tuple[str, str], set[str]] = defaultdict(set)
    centers: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    for row in allocations:
        service, currency = row["otel_service_name"], row["billing_currency"]
        spent[service, row["dimension"], currency] += to_units(row["allocated_cost"])
        status[service, currency].add(row["cost_status"])
        centers[service, currency].add(row["cost_center"])

    cost: Counter[tuple[str, str, str]] = Counter()  # (service, kind, currency) -> units
    for (service, dimension, currency), units in spent.items():
        for kind, part in apportion(units, _weights(service, asked.get(service, {}), dimension)).items():
            cost[service, kind, currency] += part
    for (service, kind, currency), units in sorted(cost.items()):
        count = requests.get(kind)
        yield (
            kind,
            {
                "window_start": window_ms,
                "window_end": window_ms + WINDOW_MS,
                "otel_service_name": service,
                "requests": count,
                "cost": to_decimal(units),
                "cost_per_request": _per_request(units, count),
                "billing_currency": currency,
                "cost_status": next(name for name in _STATUSES if name in status[service, currency]),
                "cost_center": one_of(centers[service, currency]),
            },
        )


def _weights(service: str, asked: Mapping[str, Mapping[str, list[float]]], dimension: str) -> dict[str, int]:
    """By which a service's cost is divided among kinds of requests."""
    if service in RESERVED:
        return {service: 1}
    for of in (dimension, CALLS):
        weights = {kind: math.fsum(amounts) for kind, amounts in asked.get(of, {}).items()}
        if any(weights.values()):
            return integer_weights(weights)
    return {UNTRACED: 1}


def _per_request(units: int, requests: int | None) -> Decimal | None:
    """Rounded half to even in the last decimal."""
    return to_decimal(int(EXACT.to_integral_value(EXACT.divide(Decimal(units), requests)))) if requests else None
