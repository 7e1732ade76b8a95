"""Values as people read them, the same in the terminal and in the report."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

from udfs.pure.attribute import CAPACITY, LIST, METERED, POOL, USED_SHARE
from udfs.pure.rank import BILLED_EXCESS, EXCESS, EXCESS_SCORE, SCORE

Number = float | Decimal

# Enough to tell two costs of one order of magnitude apart without reading noise.
SIGNIFICANT_DIGITS = 4
# Cents at least; what DECIMAL(28, 12) holds at most.
LEAST_PLACES, MOST_PLACES = 2, 12

# What anomalies are ranked by, by the value of ``rank.by``.
ORDERS = {
    EXCESS: "excess cost",
    EXCESS_SCORE: "α · ln(1 + excess cost)",
    BILLED_EXCESS: "excess cost on the bill",
    SCORE: "cost-weighted score S",
}
# How the price of one more unit is known.
PRICE_BASES = {
    METERED: "unit price",
    POOL: "machines that follow use",
    CAPACITY: "capacity price",
    LIST: "list price",
    USED_SHARE: "cost over usage: size unknown",
}

# A unit of the tables -> the one that people think in, and how many of the first are one of it.
UNITS = {
    "Core-Seconds": ("core-hours", 3_600),
    "Byte-Seconds": ("GB-hours", 3_600 * 10**9),
    "GPU-Seconds": ("GPU-hours", 3_600),
    "Bytes": ("GB", 10**9),
    "Operations": ("operations", 1),
}
# As many digits of an amount of money as are read; under one whole unit, where cents would hide the amount.
MONEY_DIGITS = 3

_KIND_WORDS = str.maketrans("_", " ")


def utc(time_ms: int | None, pattern: str = "%Y-%m-%d %H:%M") -> str:
    """``time_ms`` in UTC, to the minute unless ``pattern`` says otherwise; None is an en dash."""
    return "–" if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC).strftime(pattern)


def places(values: Iterable[Number]) -> int:
    """Decimal places for a column in which the largest of ``values`` has SIGNIFICANT_DIGITS."""
    largest = max((abs(float(value)) for value in values), default=0.0)
    if largest == 0.0 or not math.isfinite(largest):
        return LEAST_PLACES
    return min(max(SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(largest)), LEAST_PLACES), MOST_PLACES)


def counted(number: int, noun: str) -> str:
    """``number`` of a thing with a regular plural: "1 trace", "2,000 traces"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def fixed(value: Number | None, decimal_places: int) -> str:
    """``value`` with thousands separated; None is an en dash, zero is never negative."""
    if value is None:
        return "–"
    text = f"{value:,.{decimal_places}f}"
    return text.lstrip("-") if not text.strip("-0.,") else text


def exact(value: Decimal) -> str:
    """``value`` to its last decimal, without the zeros after it: 27.808000000000 -> 27.808."""
    text = f"{value:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def significant(value: Number | None, digits: int = 6) -> str:
    """``value`` to ``digits`` significant digits, for figures of unlike magnitudes side by side."""
    if value is None:
        return "–"
    size = abs(float(value))
    if size and not 1e-6 <= size < 1e15:
        return f"{value:.{digits - 1}e}"
    whole_digits = math.floor(math.log10(size)) + 1 if size else 1
    text = f"{value:,.{max(digits - whole_digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def unit(name: str | None) -> tuple[str | None, int]:
    """The unit in which people read quantities in ``name``, and how many of ``name`` are one of it."""
    return UNITS.get(name or "", (name, 1))


def money_places(amount: Decimal) -> int:
    """Decimal places in which ``amount`` is read: cents, or MONEY_DIGITS digits where it is below one."""
    if not amount or abs(amount) >= 1:
        return LEAST_PLACES
    return min(max(MONEY_DIGITS - 1 - amount.adjusted(), LEAST_PLACES), MOST_PLACES)


def money(amount: Decimal | None) -> str:
    """``amount`` in the places in which it is read; None is an en dash."""
    return "–" if amount is None else fixed(amount, money_places(amount))


def percent(share: float | None) -> str:
    """``share`` of 1 as a percentage with one decimal."""
    return "–" if share is None else f"{100 * share:.1f} %"


def duration(time_ns: int) -> str:
    """A span of time in the unit that reads best, three digits or so."""
    for unit, size in (("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1_000)):
        if abs(time_ns) >= size:
            return f"{significant(time_ns / size, 3)} {unit}"
    return f"{time_ns} ns"


def kind(anomaly_kind: str | None) -> str:
    """A kind of anomaly in words; None, where the detector names none, is an en dash."""
    return clean(anomaly_kind.translate(_KIND_WORDS)) if anomaly_kind else "–"


def clean(text: object) -> str:
    """``text`` without what could steer a terminal or reorder a line: names come from outside."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c)[0] == "C" else c for c in str(text))
