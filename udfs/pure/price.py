"""price: a charge of the bill -> its cost per attribution window W and dimension, exactly.

Money is counted in integers of 1e-12 of the billing currency ("units" below), the last place of
docs/interface.md's DECIMAL(28, 12), so that sums and shares are exact and the same in any order. A
charge is the normalised row that collect makes of a FOCUS row.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any, TypeVar

import orjson

from udfs.pure.cache import cached
from udfs.pure.windows import WINDOW_MS, window_start

PLACES = 12

# DECIMAL(28, 12) has 16 digits before the point.
MONEY_BOUND = Decimal("1E16")

# FOCUS ChargeClass of a row that restates an invoiced period.
CORRECTION = "Correction"

# Wide enough that no DECIMAL(28, 12), and no product of two of them, is rounded before its time.
EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN)

Key = TypeVar("Key")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_units(amount: str | Decimal) -> int:
    """``amount`` of a currency in units of 1e-12; what lies below them is rounded half to even."""
    return int(EXACT.to_integral_value(EXACT.scaleb(EXACT.create_decimal(amount), PLACES)))


def to_decimal(units: int) -> Decimal:
    """``units`` of 1e-12 as a Decimal with twelve places, exact."""
    return EXACT.scaleb(Decimal(units), -PLACES)


@cached(1 << 12, 64)  # a bill repeats its weights, sizes and quantities, and each is read for every window
def fraction(text: str) -> Fraction:
    """A number of a charge, exact."""
    return Fraction(text)


def plain(value: Decimal) -> str:
    """Plain notation without trailing zeros: 8E-7 -> 0.0000008, -0.00 -> 0."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def utc(time_ms: int) -> str:
    """ISO 8601 text of a time, as FOCUS writes it: 2024-01-01T00:30:00Z."""
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat().replace("+00:00", "Z")


def standing(charges: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The charges that count, of all that were delivered; a function of their set.

    While a billing period is open a later snapshot overwrites: of the charges of one ``identity``
    those of the greatest ``version`` stand, all of them. A correction (ChargeClass Correction) is a
    delta on top: it replaces nothing and nothing replaces it, and it counts once by ``key``. Two deliveries may
    show it with other columns, of which the greater text counts. What was withdrawn counts as if it had never been
    delivered: the charge of the same ``key`` and ``version``, whichever came first.

    returns: sorted by key, each with ``is_restated``: an earlier version of it is known, and the
        versions' costs differ; or it says so itself.
    """
    found: dict[str, dict[str, Any]] = {}
    corrections: dict[str, Mapping[str, Any]] = {}
    versions: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    charges = list(charges)
    withdrawn = {(charge["key"], charge["version"]) for charge in charges if charge.get("withdrawn")}
    for charge in charges:
        if (charge["key"], charge["version"]) in withdrawn:
            continue
        if charge["charge_class"] == CORRECTION:
            known = corrections.setdefault(charge["key"], charge)
            corrections[charge["key"]] = max(known, charge, key=_text)
        else:
            versions[charge["identity"]][charge["version"]][charge["key"]] = charge
    for key, charge in corrections.items():
        found[key] = {**charge, "is_restated": False}
    for by_version in versions.values():
        costs = {sum(to_units(charge["cost"]) for charge in of_version.values()) for of_version in by_version.values()}
        for key, charge in by_version[max(by_version)].items():
            found[key] = {**charge, "is_restated": len(costs) > 1 or bool(charge.get("restated"))}
    return [found[key] for key in sorted(found)]


def _text(charge: Mapping[str, Any]) -> bytes:
    return orjson.dumps(charge, option=orjson.OPT_SORT_KEYS)


def apportion(total: int, weights: Mapping[Key, int]) -> dict[Key, int]:
    """Split ``total`` units in proportion to ``weights``; the parts sum to ``total`` exactly.

    Largest remainder (Hare-Niemeyer) on the absolute value, ties to the lesser key: a function of
    the set of weights, and the parts of a credit are those of the charge that it takes back.

    Raises:
        ValueError: a weight is negative, or none is positive.
    """
    whole = sum(weights.values())
    if whole <= 0 or min(weights.values()) < 0:
        raise ValueError(f"weights {dict(weights)}: give none below 0 and one above 0")
    sign = -1 if total < 0 else 1
    parts, remainders = {}, []
    for key, weight in weights.items():
        parts[key], remainder = divmod(abs(total) * weight, whole)
        remainders.append((-remainder, key))
    missing = abs(total) - sum(parts.values())
    for _, key in sorted(remainders)[:missing]:
        parts[key] += 1
    return {key: sign * part for key, part in parts.items()}


def integer_weights(weights: Mapping[Key, float | Fraction]) -> dict[Key, int]:
    """The same proportions in integers, unrounded (a float is a fraction of a power of 2)."""
    ratios = {key: weight.as_integer_ratio() for key, weight in weights.items()}
    scale = math.lcm(*(denominator for _, denominator in ratios.values()))
    return {key: top * (scale // denominator) for key, (top, denominator) in ratios.items()}


def windows_of(start_ms: int, end_ms: int) -> dict[int, int]:
    """{window_start_ms: overlap in ms} of the charge period [start_ms, end_ms).

    A period of no length (a one-off fee) belongs to the window that holds its start.

    Raises:
        ValueError: the period ends before it starts.
    """
    if end_ms < start_ms:
        raise ValueError(f"charge period end {end_ms} is before its start {start_ms}")
    return {
        window_ms: overlap(window_ms, start_ms, end_ms)
        for window_ms in range(window_start(start_ms), max(end_ms, start_ms + 1), WINDOW_MS)
    }


def overlap(window_ms: int, start_ms: int, end_ms: int) -> int:
    """What ``windows_of`` tells of one window that the charge period [start_ms, end_ms) touches."""
    return min(window_ms + WINDOW_MS, end_ms) - max(window_ms, start_ms) if end_ms > start_ms else 1


def period_length(start_ms: int, end_ms: int) -> int:
    """The sum of ``windows_of``."""
    return max(end_ms - start_ms, 1)


def cost_by_window(charge: Mapping[str, Any]) -> dict[int, dict[str, int]]:
    """Cost of one charge in each window that its period touches, and each of its dimensions.

    returns: {window_start_ms: {dimension: units of 1e-12 of charge["currency"]}}, ascending; its
        sum is the charge's cost. Zeros stay in: they say that the window is billed.

    Parts by their weights first, then each part over its windows, evenly in time (docs/interface.md
    §2, C).

    Raises:
        ValueError: no part has a weight, or the period ends before it starts.
    """
    weights: dict[str, Fraction] = {}
    for dimension, weight in charge["parts"]:
        weights[dimension] = weights.get(dimension, Fraction(0)) + fraction(weight)
    overlaps = windows_of(charge["start_ms"], charge["end_ms"])
    costs: dict[int, dict[str, int]] = {window_ms: {} for window_ms in overlaps}
    parts = apportion(to_units(charge["cost"]), integer_weights(weights))
    for dimension, part in sorted(parts.items()):
        for window_ms, cost in apportion(part, overlaps).items():
            costs[window_ms][dimension] = cost
    return costs
