"""attribute: what a unit of a SKU costs by a resource's bill, and where that changed.

Grain: one SKU, unit and currency of a resource and charge period. The price is what the charges for use cost, over the
quantity that they are priced by: it moves with what the provider asks, and not with how much is used. Corrections and
credits are no price, and a period that is charged at several, as between two tiers, has none: their mean would move
with use. A price is compared with that of the period that ended where its own begins; so what is told is a function of
the charges that stand.

Two prices are one where they differ by no more than a hundredth, or by no more than their costs and quantities may have
been rounded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from udfs.pure.price import CORRECTION, plain, utc
from udfs.pure.windows import CHANGES_MINUTES, MINUTE_MS, NO_RESOURCE, WINDOW_MS

Charge = Mapping[str, Any]

# A window tells of a price that changed so long before it, at most.
REACH_MS = CHANGES_MINUTES * MINUTE_MS

# Of the greater price: what differs by less is the same price.
_TOLERANCE = Fraction(1, 100)
# As many as a price of 1e-12 money over a rounded quantity means.
_DIGITS = Context(prec=12)


class Period(NamedTuple):
    """What a SKU costs in a charge period; times in ms.

    charges: how many ``cost`` and ``quantity`` are the sum of. change: the latest of its price, at its start or shortly
    before: when (ms), from what, to what (decimal text, of one unit); None = there is none.
    """

    sku_id: str
    unit: str
    currency: str
    start_ms: int
    end_ms: int
    cost: Decimal
    quantity: Decimal
    charges: int
    change: tuple[int, str, str] | None = None

    @property
    def price(self) -> str:
        """Of one unit."""
        return plain(_DIGITS.divide(self.cost, self.quantity))

    def after(self, before: Period | None) -> Period:
        """The same with its change. before: the period that ended at its start."""
        if before is None:
            return self
        if _differ(before, self):
            return self._replace(change=(self.start_ms, before.price, self.price))
        if before.change and self.start_ms - before.change[0] <= REACH_MS + WINDOW_MS:
            return self._replace(change=before.change)
        return self


def periods(charges: Iterable[Charge], known: Iterable[Sequence[Any]] = ()) -> list[Period]:
    """Charge periods of a resource with the changes of their prices, by time.

    charges: those that stand. known: of ``kept``, of earlier charges.
    """
    charged: dict[tuple[str, str, str, int, int], list[Period]] = defaultdict(list)
    for charge in charges:
        if priced := _priced(charge):
            key, cost, quantity = priced
            charged[key].append(Period(*key, cost, quantity, 1))
    found = [Period(*each) for each in known]
    ended = {(*period[:3], period.end_ms): period for period in found}
    for key, (whole, *others) in sorted(charged.items(), key=lambda item: item[0][3:]):
        if any(_differ(whole, other) for other in others):
            continue
        if others:
            cost, quantity = (
                sum((getattr(each, of) for each in others), getattr(whole, of)) for of in ("cost", "quantity")
            )
            whole = whole._replace(cost=cost, quantity=quantity, charges=1 + len(others))
        whole = whole.after(ended.get((*key[:3], whole.start_ms)))
        # Of two that end at once the shorter one, which comes later, is what the next is compared with.
        ended[*key[:3], whole.end_ms] = whole
        found.append(whole)
    return found


def noted(charges: Iterable[Charge], of: Iterable[Period]) -> list[dict[str, Any]]:
    """The charges, each with its ``price_change`` where it has one. of: their periods."""
    changes = {period[:5]: period.change for period in of if period.change}
    found = []
    for charge in charges:
        priced = _priced(charge) if changes else None
        change = changes.get(priced[0]) if priced else None
        found.append({**charge, "price_change": [*change, *priced[0][1:3]]} if priced and change else dict(charge))
    return found


def kept(of: Iterable[Period], before_ms: int) -> list[tuple[Any, ...]]:
    """What of periods that ended is to be known later: those that a window from ``before_ms`` on may compare with."""
    return [tuple(period) for period in of if before_ms - REACH_MS <= period.end_ms <= before_ms]


def note(charge: Charge, window_start_ms: int) -> dict[str, Any]:
    """What a window's explanation says of a charge whose price changed in it or shortly before; else {}."""
    at_ms, before, after, unit, currency = charge.get("price_change") or (None,) * 5
    if at_ms is None or window_start_ms - at_ms > REACH_MS:
        return {}
    return {"price_change": {"at": utc(at_ms), "from": before, "to": after, "currency": currency, "unit": unit}}


def _priced(charge: Charge) -> tuple[tuple[str, str, str, int, int], Decimal, Decimal] | None:
    """(SKU, unit, currency, start, end), cost and quantity of a charge for use that tells them, as it was billed."""
    if charge["sku_id"] is None or charge["charge_class"] == CORRECTION:
        return None
    if charge.get("resource_id") == NO_RESOURCE:  # of thousands of things, of which nobody tells the use
        return None
    if charge.get("charge_category") not in (None, "Usage"):
        return None
    quantity, unit = charge.get("pricing_quantity"), charge.get("pricing_unit")
    if quantity is None or unit is None:
        quantity, unit = charge.get("consumed_quantity"), charge.get("consumed_unit")
    if quantity is None or unit is None:
        return None
    converted = charge.get("converted") or {"cost": charge["cost"], "from": charge["currency"]}
    cost, priced = Decimal(converted["cost"]), Decimal(quantity)
    if cost < 0 or priced <= 0:
        return None
    return (charge["sku_id"], unit, converted["from"], charge["start_ms"], charge["end_ms"]), cost, priced


def _differ(one: Period, other: Period) -> bool:
    """Whether no one price explains both."""
    if (one.cost, one.quantity) == (other.cost, other.quantity):
        return False
    prices = [Fraction(each.cost) / Fraction(each.quantity) for each in (one, other)]
    if abs(prices[1] - prices[0]) <= _TOLERANCE * max(prices):
        return False
    if one.quantity == other.quantity:
        return True
    of_cost, of_quantity = (_half_a_step(getattr(one, of), getattr(other, of)) for of in ("cost", "quantity"))
    # Whole units are counted, not rounded.
    of_quantity = Fraction(0) if of_quantity == Fraction(1, 2) else of_quantity
    lows, highs = zip(*(_bounds(each, of_cost * each.charges, of_quantity * each.charges) for each in (one, other)))
    return max(lows) > min(highs)


def _bounds(period: Period, of_cost: Fraction, of_quantity: Fraction) -> tuple[Fraction, Fraction]:
    """The least and the greatest price that a period's cost and quantity may be rounded from."""
    cost, quantity = Fraction(period.cost), Fraction(period.quantity)
    least = max(quantity - of_quantity, quantity / 2)
    return (cost - of_cost) / (quantity + of_quantity), (cost + of_cost) / least


def _half_a_step(*amounts: Decimal) -> Fraction:
    """Half of the last place that any of some amounts has."""
    places = max(-int(amount.as_tuple().exponent) for amount in amounts)
    return Fraction(1, 2) / 10 ** max(places, 0)
