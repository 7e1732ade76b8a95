"""rank: machines that a bill tells one by one, and whose number follows the use, are priced as the pool that they are.

Grain: the machines of the same SKUs that a window's bill pays for, in one currency; the nodes of a cluster, say, which
are a resource each. Where some of them came or went, more use is more machines, and the price of one more unit is that
of a group that is billed as one (see ``pool_prices`` in attribute).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from udfs.pure.attribute import CAPACITY, POOL, pool_prices
from udfs.pure.price import to_units

Row = Mapping[str, Any]

# So much less than a whole machine is one that came or went, and no rounding of the hours that are billed.
_ROUNDED = Fraction(1, 100)


def of_pools(allocations: Sequence[Row]) -> list[Row]:
    """The same rows of cost_allocations, of all resources in one window; those of machines of a pool with its price."""
    machines: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)  # resource, currency -> dimension -> any row
    for row in allocations:
        if row.get("marginal_basis") == CAPACITY and row.get("capacity"):
            machines[row["resource_id"], row["billing_currency"]][row["dimension"]] = row
    pools: dict[tuple[str, tuple[str, ...]], list[tuple[str, str]]] = defaultdict(list)
    for (resource_id, currency), of_machine in machines.items():
        pools[currency, _skus(of_machine.values())].append((resource_id, currency))
    prices = {
        (*of, dimension): price
        for members in pools.values()
        for dimension, price in _prices([machines[of] for of in members]).items()
        for of in members
    }
    return [_repriced(row, prices) for row in allocations] if prices else list(allocations)


def _repriced(row: Row, prices: Mapping[tuple[str, str, str], Decimal]) -> Row:
    price = prices.get((row["resource_id"], row["billing_currency"], row["dimension"]))
    return row if price is None else {**row, "marginal_basis": POOL, "marginal_rate": format(price, "f")}


def _skus(rows: Iterable[Row]) -> tuple[str, ...]:
    """What a machine is, by its charges, or by those that its rate is from."""
    found: set[str] = set()
    for row in rows:
        rate = row["rate"] or {}
        found.update(rate.get("sku_ids") or (of["sku_id"] or "" for of in row["charges"] or rate.get("charges", ())))
    return tuple(sorted(found))


def _prices(machines: Sequence[Mapping[str, Row]]) -> dict[str, Decimal]:
    """``pool_prices`` of machines, each {dimension: row}; {} where none came or went."""
    cost = 0
    full: dict[str, tuple[Fraction, Fraction]] = {}
    for dimension in {dimension for machine in machines for dimension in machine}:
        rows = [machine[dimension] for machine in machines if dimension in machine]
        paid = [Fraction(row["capacity"]) for row in rows]
        whole = sum(paid, Fraction(0))
        number = whole / max(paid)
        if number > 1 and _ROUNDED < number % 1 < 1 - _ROUNDED:
            full[dimension] = sum((Fraction(row["total_usage"]) for row in rows), Fraction(0)) / whole, whole
            cost += sum(to_units(row["resource_cost"]) for row in rows)
    return pool_prices(cost, full)
