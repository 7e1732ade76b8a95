"""price, before the bill: what a unit of use costs, by other resources' bills, list price or a price book.

Grain of an offer: one charge of a SKU. Of the card: one (SKU, currency, dimension). Rates are decimal
text: of a window of one whole machine (its part of the dimension), or of one unit of usage
(docs/interface.md: core-second, byte-second, operation, byte).
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, InvalidOperation
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson

from udfs.pure.cache import cached, characters
from udfs.pure.dimensions import DIMENSIONS
from udfs.pure.price import EXACT, MONEY_BOUND, fraction, plain, to_decimal, to_units, utc
from udfs.pure.resources import canonical
from udfs.pure.settings_file import lines
from udfs.pure.windows import HOUR_MS, NO_RESOURCE, WINDOW_MS

# Where a provisional rate is from, in this order.
RESOURCE, SKU, LIST_PRICE, PRICE_BOOK = "resource", "sku", "list_price", "price_book"

# How it is known which SKU a resource is: by charges of it, by the price book, or by none: the only
# SKU that is charged for the dimension, or the one that most resources are charged for.
OF_CHARGES, OF_PRICE_BOOK, ONLY_SKU, MOST_CHARGED = "charges", "price_book", "only", "most_charged"

# What a resource without any charge may be priced at by other SKUs' rates.
GUESSED = tuple(name for name, dimension in DIMENSIONS.items() if dimension.is_common)

# As many digits as a rate of 1e-12 money over a rounded quantity means.
_DIGITS = Context(prec=12)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# ---- units ----------------------------------------------------------------------------------

# What a unit counts, beside the dimensions. Data is traffic, which is network, or storage, which is not.
MACHINE, DATA, OTHER = "machine", "data", "other"

# "1 Hour", "10K Requests", "1,000,000 Operations": how many are priced at once.
_COUNT = re.compile(r"([\d.,]*\d)\s*(k|m|b|thousand|million)?(?=\s)", re.IGNORECASE)
_COUNTS = {"k": 10**3, "thousand": 10**3, "m": 10**6, "million": 10**6, "b": 10**9}
# Over the unit in lower case without blanks and punctuation.
_MACHINE_HOURS = re.compile(r"(?:instance|machine|vm|node)?(?:hour|hr)s?")
_SECONDS = {"h": 3600, "m": 60, "s": 1}

# A bill has some dozens of units, of a few words each.
UNIT_CACHE_SIZE, UNIT_CACHE_CHARS = 1 << 12, 128


def _bytes(prefix: str, binary: str, word: str) -> int:
    letter = (prefix or word[:1] or " ")[0]
    power = " kmgtp".index(letter)
    return (1024 if binary or word.endswith("bi") else 1000) ** power


def _squeezed(unit: str) -> tuple[int, str]:
    """How many are counted at once, and the rest of the unit in lower case without punctuation."""
    unit = unit.strip()
    many = _COUNT.match(unit)
    if not many:
        return 1, re.sub(r"[\W_]+", "", unit).lower()
    digits, word = many.group(1).replace(",", ""), (many.group(2) or "").lower()
    try:
        count = int(Decimal(digits)) * _COUNTS.get(word, 1)
    except InvalidOperation:
        count = 0
    return count, re.sub(r"[\W_]+", "", unit[many.end() :]).lower()


@cached(UNIT_CACHE_SIZE, UNIT_CACHE_CHARS)
def unit_kind(unit: str) -> str:
    """What a unit of a bill counts: a dimension (data in place of network), machine, or other."""
    _, squeezed = _squeezed(unit)
    if _MACHINE_HOURS.fullmatch(squeezed):
        return MACHINE
    for name, dimension in DIMENSIONS.items():
        if dimension.billed_in.fullmatch(squeezed):
            return DATA if name == "network" else name
    return OTHER


def usage_per_unit(unit: str, dimension: str) -> int:
    """Usage in one ``unit`` of a bill, in the dimension's own unit (see dimensions.py); 0 if unknown.

    "vCPU-Hours" of cpu are 3600, "GiB-Hours" of memory 2^30 * 3600, "1,000,000 Requests" a million.
    Plain hours of cpu are a core's, and of gpu a GPU's.
    """
    return _usage_per_unit((unit, dimension))


@cached(UNIT_CACHE_SIZE, UNIT_CACHE_CHARS, characters)
def _usage_per_unit(key: tuple[str, ...]) -> int:
    unit, dimension = key
    count, squeezed = _squeezed(unit)
    if dimension in ("cpu", "gpu") and unit_kind(unit) == MACHINE:
        return count * _SECONDS["h"]
    found = DIMENSIONS[dimension].billed_in.fullmatch(squeezed) if dimension in DIMENSIONS else None
    if not found:
        return 0
    parts = found.groupdict(default="")
    size = _bytes(parts["prefix"], parts["binary"], parts["word"]) if "word" in parts else 1
    return count * size * (_SECONDS[parts["time"][0]] if "time" in parts else 1)


@cached(UNIT_CACHE_SIZE, UNIT_CACHE_CHARS)
def windows_per_unit(unit: str) -> int:
    """Windows W of one machine in one ``unit`` of a bill: "Hours" are 2; 0 if it is none."""
    return _squeezed(unit)[0] * HOUR_MS // WINDOW_MS if unit_kind(unit) == MACHINE else 0


# ---- currencies -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Exchange:
    """Rates of other currencies into ``target``.

    rates: (from, valid_from in ms, rate as decimal text), sorted. A rate is valid from its time on,
        until the next one of its currency.
    """

    target: str
    rates: tuple[tuple[str, int, str], ...]

    def rate(self, currency: str, time_ms: int) -> str | None:
        """What one of ``currency`` is in ``target`` at a time; None where nobody says."""
        index = bisect_right(self.rates, (currency, time_ms, "\U0010ffff")) - 1
        if currency == self.target or index < 0 or self.rates[index][0] != currency:
            return None
        return self.rates[index][2]

    def convert(self, charge: dict[str, Any]) -> dict[str, Any]:
        """The charge in ``target``, at the rate of its period's start; as it is where none is valid.

        cost: rounded half to even to 12 places; ``converted``: {"from", "rate", "cost"}, the cost
            as it was billed. Prices and quantities stay those of the bill.

        Raises:
            ValueError: the cost has more than 16 digits before the point in ``target``.
        """
        rate = self.rate(charge["currency"], charge["start_ms"])
        if rate is None:
            return charge
        units = to_units(EXACT.multiply(Decimal(charge["cost"]), Decimal(rate)))
        cost = to_decimal(units)
        if abs(cost) >= MONEY_BOUND:
            raise ValueError(
                f"cost {charge['cost']} {charge['currency']} at {rate} has more than 16 digits before"
                f" the point in {self.target}"
            )
        billed = {"from": charge["currency"], "rate": rate, "cost": charge["cost"]}
        return charge | {"cost": plain(cost), "currency": self.target, "converted": billed}


def load_exchange(path: Path, target: str) -> Exchange:
    """The rates into ``target`` of a CSV file with the columns from, to, rate, valid_from.

    Raises:
        ValueError: a line can't be used, or none is into ``target``; one line of text.
    """
    rates: dict[tuple[str, int], str] = {}
    for where, row in lines(path, ("from", "to", "rate", "valid_from")):
        if row["to"].upper() != target:
            continue
        try:
            since = datetime.fromisoformat(row["valid_from"])
        except ValueError:
            raise ValueError(f"{where}: valid_from {row['valid_from']!r} is no ISO date") from None
        since = since if since.tzinfo else since.replace(tzinfo=UTC)
        key = row["from"].upper(), (since - _EPOCH) // timedelta(milliseconds=1)
        rate = plain(_positive(row["rate"], f"{where}: rate"))
        if rates.setdefault(key, rate) != rate:
            raise ValueError(f"{where}: {key[0]} has another rate from {row['valid_from']} on, give one")
    if not rates:
        raise ValueError(f"{path}: no line has {target!r} in column to")
    return Exchange(target, tuple((*key, rate) for key, rate in sorted(rates.items())))


# ---- the price book -------------------------------------------------------------------------


@dataclass(frozen=True)
class BookPrice:
    """A line of the price book: what one ``unit`` of a dimension costs; "" = any resource, any SKU."""

    dimension: str
    unit_price: str
    unit: str
    billing_currency: str
    resource_id: str = ""
    sku_id: str = ""

    @property
    def rate(self) -> Decimal:
        """What one unit of usage costs."""
        return EXACT.divide(Decimal(self.unit_price), usage_per_unit(self.unit, self.dimension))

    def match(self, resource_id: str, skus: Collection[str]) -> tuple[int, int, bool] | None:
        """How well it fits a resource, the greater the more specific; None where it doesn't.

        A line with a SKU fits resources that are charged for it; one that names the resource, too,
        fits as long as no other SKU of it is known.
        """
        if self.resource_id and not fnmatchcase(resource_id, self.resource_id):
            return None
        if self.sku_id and self.sku_id not in skus and (skus or not self.resource_id):
            return None
        wild = any(sign in self.resource_id for sign in "*?[")
        return (2 - wild if self.resource_id else 0), len(self.resource_id), bool(self.sku_id)


def load_price_book(path: Path) -> tuple[BookPrice, ...]:
    """The lines of a CSV file with the columns dimension, unit_price, unit, billing_currency, and
    if need be resource_id (a glob) and sku_id.

    Raises:
        ValueError: a line can't be used; one line of text that says which, and why.
    """
    book = []
    for where, row in lines(path, ("dimension", "unit_price", "unit", "billing_currency")):
        if row["dimension"] not in DIMENSIONS:
            raise ValueError(f"{where}: dimension {row['dimension']!r} must be one of {', '.join(DIMENSIONS)}")
        if not usage_per_unit(row["unit"], row["dimension"]):
            raise ValueError(
                f"{where}: unit {row['unit']!r} of {row['dimension']}: use vCPU-Hours, GiB-Hours, Operations or GB"
            )
        currency = row["billing_currency"].upper()
        if not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
            raise ValueError(f"{where}: billing_currency {currency!r} is not a code of three letters")
        price = _positive(row["unit_price"], f"{where}: unit_price", zero=True)
        book.append(
            BookPrice(
                row["dimension"],
                plain(price),
                row["unit"],
                currency,
                canonical(row.get("resource_id", "")),
                row.get("sku_id", ""),
            )
        )
    return tuple(sorted(book, key=repr))


def _positive(text: str, what: str, zero: bool = False) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not (number.is_finite() and Decimal(0) <= number < MONEY_BOUND and (zero or number)):
        raise ValueError(f"{what} {text!r} must be a number {'from' if zero else 'above'} 0")
    return number


# ---- the card -------------------------------------------------------------------------------


def offer(charge: Mapping[str, Any]) -> tuple[str, int, str] | None:
    """(SKU and currency in one string, start of the charge period in ms, offer) of a charge that
    tells what a unit of its SKU costs; None of any other.

    offer: JSON [start_ms, snapshot, sku_id, currency, [[dimension, "window" or "usage", rate or None, list price or
        None, usage that one machine gives in a window or None], ...]]. Of several offers at one time the greater text
        counts: that of the latest snapshot, where the bill names them.
    """
    category = charge["charge_category"]
    cost = Decimal(charge["cost"])
    if (
        charge["sku_id"] is None
        or charge["resource_id"] == NO_RESOURCE
        or charge["charge_class"] is not None
        or category not in (None, "Usage")
        or cost < 0
    ):
        return None
    consumed = charge["consumed_quantity"], charge["consumed_unit"]
    priced = charge["pricing_quantity"], charge["pricing_unit"]
    list_price = Decimal(charge["list_unit_price"] or 0)
    if charge["converted"]:
        list_price = EXACT.multiply(list_price, Decimal(charge["converted"]["rate"]))
    prices = []
    for dimension, weight in charge["parts"]:
        if dimension not in DIMENSIONS:
            continue
        per = "usage" if charge["per"] == "unit" else "window"
        of_list = _rate(list_price, weight, "1", priced[1], per, dimension)
        rate = next(
            (
                rate
                for quantity, unit in (consumed, priced)
                if (rate := _rate(cost, weight, quantity, unit, per, dimension)) is not None
            ),
            None,
        )
        of_list = of_list if list_price else None
        if rate is not None or of_list is not None:
            prices.append([dimension, per, rate, of_list, _machine_gives(charge, dimension)])
    if not prices:
        return None
    snapshot = charge["version"] if charge["version"].startswith("1 ") else ""
    content = [charge["start_ms"], snapshot, charge["sku_id"], charge["currency"], prices]
    return f"{charge['sku_id']}\x1f{charge['currency']}", charge["start_ms"], orjson.dumps(content).decode()


def _machine_gives(charge: Mapping[str, Any], dimension: str) -> str | None:
    """Usage that one machine of a charge by the hour gives in a window; 0 for a licence, None if unknown."""
    if charge["per"] == "unit":
        return None
    if charge.get("is_licence"):
        return "0"
    size = (charge.get("machine") or {}).get(dimension)
    return None if size is None else plain(EXACT.multiply(Decimal(size), Decimal(WINDOW_MS // 1000)))


def _rate(cost: Decimal, weight: str, quantity: str | None, unit: str | None, per: str, dimension: str) -> str | None:
    """``cost`` * ``weight`` by the unit of usage, or by the window; None where the quantity doesn't tell."""
    size = 0
    if unit is not None:
        size = windows_per_unit(unit) if per == "window" else usage_per_unit(unit, dimension)
    whole = EXACT.multiply(Decimal(quantity or 0), Decimal(size))
    if whole <= 0:
        return None
    rate = EXACT.divide(EXACT.multiply(cost, Decimal(weight)), whole)
    return plain(_DIGITS.plus(rate))


def rate_card(offers: Iterable[tuple[int, str]]) -> str:
    """All that the bills say of SKUs' rates, as JSON; a function of the set of (resources, offer).

    returns: [{"sku_id", "currency", "dimension", "per", "resources": on how many it was charged at most, "list": list
        price or None, "capacity": usage that one machine gives in a window or None, "rates": [[since_ms, rate], ...]
        where it changed}, ...]
    """
    rates: dict[tuple[str, str, str, str], dict[int, str]] = defaultdict(dict)
    lists: dict[tuple[str, str, str, str], str | None] = {}
    capacities: dict[tuple[str, str, str, str], str | None] = {}
    charged: Counter[tuple[str, str, str, str]] = Counter()
    ordered = sorted(offers, key=lambda entry: (entry[1], entry[0]))
    for resources, text in ordered:
        start_ms, _, sku_id, currency, prices = orjson.loads(text)
        for dimension, per, rate, list_price, *of_machine in prices:  # an earlier release told no capacity
            key = sku_id, currency, dimension, per
            of_key = rates[key]
            if rate is not None:
                of_key[start_ms] = rate
            lists[key] = list_price or lists.get(key)
            capacities[key] = next(iter(of_machine), None) or capacities.get(key)
            charged[key] = max(charged[key], resources)
    card = []
    for key, by_time in sorted(rates.items()):
        changes: list[list[Any]] = []
        for start_ms, rate in sorted(by_time.items()):
            if not changes or changes[-1][1] != rate:
                changes.append([start_ms, rate])
        card.append(
            {
                **dict(zip(("sku_id", "currency", "dimension", "per"), key, strict=True)),
                "resources": charged[key],
                "list": lists[key],
                "capacity": capacities[key],
                "rates": changes,
            }
        )
    return orjson.dumps(card).decode()


@dataclass(frozen=True)
class Prices:
    """What a resource's use may cost where its own bill doesn't say: the card and the price book."""

    card: tuple[Mapping[str, Any], ...] = ()
    book: tuple[BookPrice, ...] = ()

    def rates(
        self,
        resource_id: str,
        dimension: str,
        window_start_ms: int,
        skus: Collection[str],
        is_billed: bool,
    ) -> dict[str, dict[str, Any]]:
        """{currency: rate} of a dimension in W, in the shape of attribute.Past.rates; {} if none.

        skus: that the resource's charges name for this dimension. is_billed: it has charges at all;
            then a dimension without a SKU isn't one that it pays for.

        The latest earlier rate of its SKU, else the SKU's list price, else the price book. A price
        that the user gave is better than a guess: only after it comes the SKU that most resources
        are charged for, and only for a resource of which there is no charge.
        """
        known, how = sorted(skus), OF_CHARGES
        line = self._book_line(resource_id, dimension, skus)
        if not known and line and line.sku_id:
            known, how = [line.sku_id], OF_PRICE_BOOK
        found = self._of_skus(known, how, dimension, window_start_ms)
        if not found and line:
            found = {
                line.billing_currency: _described(
                    PRICE_BOOK,
                    None,
                    line.rate,
                    {
                        "unit_price": line.unit_price,
                        "unit": line.unit,
                        "resource_id": line.resource_id or None,
                        "sku_ids": [line.sku_id] if line.sku_id else [],
                    },
                )
            }
        if not found and not is_billed and not skus and dimension in GUESSED:
            candidates = [entry for entry in self.card if entry["dimension"] == dimension]
            if candidates:
                most = max(candidates, key=lambda e: (e["resources"], _descending(e)))
                how = ONLY_SKU if len({e["sku_id"] for e in candidates}) == 1 else MOST_CHARGED
                found = self._of_skus([most["sku_id"]], how, dimension, window_start_ms)
        return found

    def listed(self, resource_id: str, dimension: str, skus: Collection[str], currency: str) -> Decimal | None:
        """What one unit of usage of a resource costs by list, where its own bill tells no size; None if nobody says.

        skus: that it is charged for. By the list price of these, which other charges may tell the size of, else by the
        price book.
        """
        for sku_id in sorted(skus):
            for entry in self.card:
                found = entry["sku_id"], entry["dimension"], entry["currency"]
                if found != (sku_id, dimension, currency) or entry["list"] is None:
                    continue
                if entry["per"] == "usage":
                    return Decimal(entry["list"])
                if Decimal(entry.get("capacity") or 0):
                    return _DIGITS.divide(Decimal(entry["list"]), Decimal(entry["capacity"]))
        line = self._book_line(resource_id, dimension, skus)
        return line.rate if line and line.billing_currency == currency else None

    def _book_line(self, resource_id: str, dimension: str, skus: Collection[str]) -> BookPrice | None:
        fitting = [
            (match, line)
            for line in self.book
            if line.dimension == dimension and (match := line.match(resource_id, skus)) is not None
        ]
        # Of equally specific lines the first by text, as the book is sorted.
        return max(fitting, key=lambda entry: entry[0])[1] if fitting else None

    def _of_skus(
        self, skus: Iterable[str], how: str, dimension: str, window_start_ms: int
    ) -> dict[str, dict[str, Any]]:
        """The SKUs' rates, added up, in the one currency in which they are charged most."""
        source, since, used, capacities = SKU, -1, [], []
        per = {"window": Decimal(0), "usage": None}
        currency = None
        for sku_id in skus:
            entries = [
                entry
                for entry in self.card
                if (entry["sku_id"], entry["dimension"]) == (sku_id, dimension)
                and currency in (None, entry["currency"])
            ]
            if not entries:
                continue
            entry = max(entries, key=lambda e: (e["resources"], _descending(e)))
            # A rate is known as of the time from which it was charged.
            index = bisect_left(entry["rates"], [window_start_ms]) - 1
            if index >= 0:
                since, rate = max(since, entry["rates"][index][0]), entry["rates"][index][1]
            elif entry["list"] is not None:
                source, rate = LIST_PRICE, entry["list"]
            else:
                continue
            currency = entry["currency"]
            used.append(sku_id)
            capacities.append(entry.get("capacity"))
            per[entry["per"]] = EXACT.add(per[entry["per"]] or Decimal(0), Decimal(rate))
        if currency is None:
            return {}
        return {
            currency: _described(
                source,
                per["window"],
                per["usage"],
                {
                    "sku_ids": used,
                    "sku_known_by": how,
                    "capacity": _sum(capacities),
                    "window_start": utc(since) if since >= 0 and source == SKU else None,
                },
            )
        }


def _sum(amounts: Collection[str | None]) -> str | None:
    """None where one is unknown, or all are 0."""
    total = sum((Decimal(amount) for amount in amounts if amount is not None), Decimal())
    return plain(total) if total and None not in amounts else None


def _descending(entry: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Greater for the lesser name: of equals the first by name is the one."""
    return tuple((*(-ord(sign) for sign in entry[column]), 1) for column in ("sku_id", "currency", "per"))


def _described(
    source: str, per_window: Decimal | None, per_usage: Decimal | None, more: Mapping[str, Any]
) -> dict[str, Any]:
    """A rate as a provisional row shows it."""
    return {
        "source": source,
        "cost_per_window": format(to_decimal(to_units(per_window or Decimal(0))), "f"),
        "cost_per_usage": None if per_usage is None else plain(Context(prec=28).plus(per_usage)),
        "window_start": None,
        "charges": [],
        **more,
    }


def capacity(charge: Mapping[str, Any]) -> dict[str, Fraction]:
    """What a charge pays for over its whole period: core-seconds of cpu, byte-seconds of memory.

    By the machine's size times the hours that are billed, or by the quantity of a metered SKU;
    {} where neither is told, for licences, and for what is no usage. A reversal's is negative, as
    its quantity is.
    """
    if charge.get("charge_category") not in (None, "Usage") or charge.get("is_licence"):
        return {}
    quantity, unit = charge.get("consumed_quantity"), charge.get("consumed_unit")
    if quantity is None or unit is None:
        quantity, unit = charge.get("pricing_quantity"), charge.get("pricing_unit")
    if quantity is None or unit is None:
        return {}
    amount = fraction(quantity)
    found = {}
    if charge["per"] == "unit":
        for dimension, weight in charge["parts"]:
            if dimension in DIMENSIONS and DIMENSIONS[dimension].is_capacity:
                found[dimension] = amount * usage_per_unit(unit, dimension) * fraction(weight)
    else:
        seconds = windows_per_unit(unit) * WINDOW_MS // 1000
        for dimension, size in (charge.get("machine") or {}).items():
            if seconds:
                found[dimension] = amount * seconds * fraction(size)
    return found
