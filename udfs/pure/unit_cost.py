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
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.attribute import BILLED, CORRECTED, PROVISIONAL
from udfs.pure.case import Case
from udfs.pure.dimensions import WATCHED as DIMENSIONS
from udfs.pure.names import RESERVED
from udfs.pure.pieces import PIECES
from udfs.pure.price import EXACT, apportion, integer_weights, to_decimal, to_units
from udfs.pure.windows import WINDOW_MS

Row = dict[str, Any]

# A service's cost in a window in which no trace asked anything of it.
UNTRACED = "__untraced__"
# Among the usage of work: how many calls it is, for what has no usage that calls explain.
CALLS = "calls"

# What the sum of several allocations is: the first of these that one of them is.
_STATUSES = (PROVISIONAL, CORRECTED, BILLED)


def demand(case: Case) -> Row:
    """What a minute's requests, those that samplers left out among them, asked of each service.

    {"requests": {root operation: how many}, "work": {service: {root operation: {dimension or CALLS: usage}}}}
    """
    work: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    kinds = sorted(set(case.roots))
    number = {kind: at for at, kind in enumerate(kinds)}
    kind_of = np.array([number[root] for root in case.roots], np.int64)
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
    for row in allocations:
        service, currency = row["otel_service_name"], row["billing_currency"]
        spent[service, row["dimension"], currency] += to_units(row["allocated_cost"])
        status[service, currency].add(row["cost_status"])

    cost: Counter[tuple[str, str, str]] = Counter()  # (service, kind, currency) -> units
    for (service, dimension, currency), units in spent.items():
        for kind, part in apportion(units, _weights(service, asked.get(service, {}), dimension)).items():
            cost[service, kind, currency] += part
    rows = []
    for (service, kind, currency), units in sorted(cost.items()):
        root_service, _, operation = kind.partition(SEPARATOR)
        count = requests.get(kind)
        rows.append(
            {
                "window_start": window_ms,
                "window_end": window_ms + WINDOW_MS,
                "otel_service_name": service,
                "root_service_name": root_service,
                "root_operation": operation,
                "requests": count,
                "cost": to_decimal(units),
                "cost_per_request": _per_request(units, count),
                "billing_currency": currency,
                "cost_status": next(name for name in _STATUSES if name in status[service, currency]),
            }
        )
    return rows


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
