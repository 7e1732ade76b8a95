"""collect, money: FOCUS rows (CSV, Parquet, JSON objects) -> normalised charges, and rejects.

Reads FOCUS 1.0 to 1.4 as providers write it: column names in any case, NULL as an empty cell or
the word, timestamps with and without zone (none = UTC), scientific notation, tags as JSON text, map
or list of pairs. Money is Decimal from the first to the last digit.

Sources: FinOps Open Cost and Usage Specification 1.0 to 1.4 (columns as named below).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from pathlib import Path

import orjson

from udfs.pure.reject import RejectedRecord, reject, shown
from udfs.pure.windows import NO_RESOURCE

STREAM = "focus_charges"

# Money is DECIMAL(28, 12) in every table: 16 digits before the point, 12 after it.
MONEY_STEP = Decimal("1E-12")
MONEY_BOUND = Decimal("1E16")
# Wide enough that no step of the arithmetic here rounds by itself; only ``_money`` does.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
# Prices and quantities outside of 1E-30 to 1E30 are a broken cell, not a number to show.
_SHOWABLE_EXPONENT = 30

# FOCUS's own columns of cost; any of them can be what is allocated.
COST_COLUMNS = ("EffectiveCost", "BilledCost", "ContractedCost", "ListCost")

# Commitments are billed for a year at most; a longer period is a broken date.
MAX_PERIOD_MS = 400 * 24 * 60 * 60 * 1000

MIN_TIME_MS = 946_684_800_000  # 2000-01-01
MAX_TIME_MS = 4_102_444_800_000  # 2100-01-01

# List prices in USD an hour of one vCPU and of one GiB: Google Cloud's N1 predefined machines in
# us-central1, which OpenCost takes as its defaults (configs/default.json, CPU and RAM). Only their
# ratio matters here.
VCPU_HOUR_USD = Decimal("0.031611")
GIB_HOUR_USD = Decimal("0.004237")
# A machine whose size the bill doesn't tell is taken for a general-purpose one (AWS m, Azure D,
# Google standard types).
GENERAL_PURPOSE_GIB_PER_VCPU = Decimal(4)

# Rows read at once from Parquet, which bounds the memory; a row of FOCUS holds about 2 kB.
PARQUET_BATCH_ROWS = 4096

# Key of a CSV row whose cells don't match the header, holding the reason; beside it "cells".
RAGGED = "ragged row"


class UnreadableBill(ValueError):
    """A bill that can't be read as a whole; the message is one line that names the file."""


# ---- cells ----------------------------------------------------------------------------------

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,6})?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def _filled(value: object) -> object:
    """``value`` without blanks around it; None for an empty cell and for NULL in any case."""
    if isinstance(value, str):
        value = value.strip()
        return None if not value or value.upper() == "NULL" else value
    return value


def _text(value: object) -> str | None:
    value = _filled(value)
    return value if value is None or isinstance(value, str) else str(value)


def _decimal(value: object, column: str) -> Decimal | None:
    """A finite number, exact; None for null. A float counts as its shortest decimal."""
    value = _filled(value)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = repr(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = Decimal(value)
    if not isinstance(value, Decimal) or not value.is_finite():
        raise RejectedRecord(f"{column} {shown(value)} is not a finite number")
    return value


def _plain(value: Decimal) -> str:
    """Plain notation without trailing zeros: 8E-7 -> 0.0000008, -0.00 -> 0."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _money(value: Decimal, column: str) -> str:
    """DECIMAL(28, 12) in plain notation. What needs more than twelve decimals is rounded half to
    even, as FOCUS leaves the precision of a column to the provider; more digits before the point
    than sixteen are rejected."""
    if value.copy_abs() < MONEY_BOUND:
        rounded = value.quantize(MONEY_STEP, context=_EXACT)
        if rounded.copy_abs() < MONEY_BOUND:
            return _plain(rounded)
    raise RejectedRecord(f"{column} {shown(str(value))} has more than 16 digits before the point")


def _figure(value: object) -> str | None:
    """A price or quantity that only explains: plain notation, None where it isn't a number."""
    try:
        number = _decimal(value, "")
    except RejectedRecord:
        return None
    if number is None or (number and abs(number.adjusted()) > _SHOWABLE_EXPONENT):
        return None
    return _plain(number) if number else "0"


@lru_cache(maxsize=1 << 14)  # a bill repeats its hours
def _parse_time(text: str) -> int | None:
    """ISO 8601 with or without zone (BigQuery's trailing " UTC" too) in ms, None if it isn't."""
    try:
        return _epoch_ms(datetime.fromisoformat(text.removesuffix(" UTC")))
    except (ValueError, OverflowError):
        return None


def _epoch_ms(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MILLISECOND


def _time_ms(value: object, column: str) -> int:
    """A moment in ms since the epoch; numbers are such ms, naive times and dates are UTC."""
    value = _filled(value)
    if value is None:
        raise RejectedRecord(f"{column} is missing")
    time_ms: int | None = None
    if isinstance(value, str):
        time_ms = _parse_time(value)
    elif isinstance(value, datetime) and value == value:  # pandas' NaT is a datetime, too
        time_ms = _epoch_ms(value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        time_ms = _epoch_ms(datetime.combine(value, time()))
    elif isinstance(value, int) and not isinstance(value, bool):
        time_ms = value
    if time_ms is None:
        raise RejectedRecord(f"{column} {shown(value)} is not a time as 2024-09-18T23:00:00Z")
    if not MIN_TIME_MS <= time_ms < MAX_TIME_MS:
        raise RejectedRecord(f"{column} {shown(value)} is outside of 2000 to 2100")
    return time_ms


def _mapping(value: object) -> dict[str, object]:
    """A FOCUS key-value column (Tags, SkuPriceDetails): JSON text, object, map, list of pairs or
    of {"key", "value"}. Empty where it is none of these."""
    value = _filled(value)
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except ValueError:
            return {}
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    found: dict[str, object] = {}
    if isinstance(value, (list, tuple)):
        for pair in value:
            if isinstance(pair, Mapping) and "key" in pair:
                found[str(pair["key"])] = pair.get("value")
            elif isinstance(pair, (list, tuple)) and len(pair) == 2:
                found[str(pair[0])] = pair[1]
    return found


# ---- rows -----------------------------------------------------------------------------------


def _column_name(name: object) -> str:
    """FOCUS names are case-sensitive, exports are not: one spelling for all of them."""
    return str(name).strip().strip("\ufeff").strip().casefold()


@lru_cache(maxsize=256)  # one entry a header
def _columns(header: tuple) -> dict[str, object]:
    """Normalised column name -> the key under which the rows hold it, sorted by the former."""
    return {_column_name(name): name for name in sorted(header, key=_column_name)}


class _Row:
    """A FOCUS row, read by the specification's column names."""

    def __init__(self, cells: Mapping[str, object]) -> None:
        self._cells = cells
        self._columns = _columns(tuple(cells))

    def __getitem__(self, column: str) -> object:
        """The cell, or None where there is no such column."""
        return self._cells.get(self._columns.get(column.casefold()))

    def text(self, *columns: str) -> str | None:
        """The first of the columns that is not null, as text."""
        return next(filter(None, (_text(self[column]) for column in columns)), None)

    def digest(self) -> bytes:
        """16 bytes that stand for the row's whole content, however it was delivered: the same
        charge in CSV, Parquet and JSON, with columns in another order, has the same digest."""
        content = hashlib.blake2b(digest_size=16)
        for name, key in self._columns.items():
            value = _canonical(name, self._cells[key])
            if value is not None:
                for part in (name, value):
                    encoded = part.encode("utf-8", "backslashreplace")
                    content.update(b"%d:%s" % (len(encoded), encoded))
        return content.digest()


def _canonical(column: str, value: object) -> str | None:
    """One text for all ways to write a cell: numbers, times and key-values by their meaning."""
    value = _filled(value)
    if value is None:
        return None
    try:
        if column.endswith(("cost", "price", "quantity")) or isinstance(value, (float, Decimal)):
            number = _decimal(value, column)
            return str(number.normalize(_EXACT)) if number else "0"
        if column.endswith(("periodstart", "periodend")) or isinstance(value, date):
            return str(_time_ms(value, column))
    except (RejectedRecord, ArithmeticError):
        return str(value)
    if not isinstance(value, str) or value[0] in "{[":
        pairs = _mapping(value)
        if pairs:
            return _json(pairs)
    return str(value)


def _json(value: object) -> str:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # what orjson can't carry: nested too deep, integers beyond 64 bits
        return shown(value)


# ---- dimension ------------------------------------------------------------------------------

_TIME_UNIT = r"(?:per)?(?:hour|hr|h|minute|min|second|sec)s?"
_DATA_UNIT = r"(?:[kmgtp]i?b|(?:kilo|mega|giga|tera|kibi|mebi|gibi|tebi)?bytes?)"
# Over the unit in lower case without blanks and punctuation.
_CPU_TIME = re.compile(rf"(?:[vo]?cpu|v?core)s?{_TIME_UNIT}")
_MEMORY_TIME = re.compile(rf"(?:lambda)?{_DATA_UNIT}{_TIME_UNIT}")
_MACHINE_TIME = re.compile(r"(?:instance|machine|vm|node)?(?:hour|hr)s?")
_DATA = re.compile(rf"{_DATA_UNIT}s?")
_CALLS = re.compile(r"ios?|\w*(?:operation|request)s?")

# "1 Hour", "10K Requests", "1,000,000 Operations": how many are priced at once.
_PRICED_AT_ONCE = re.compile(r"^[\d.,]+\s*(?:[KMB]|thousand|million)?\s+", re.IGNORECASE)
_PUNCTUATION = re.compile(r"[\W_]+")

_TRANSFER = re.compile(r"transfer|egress|bandwidth|data[ -]?out\b|(?:in|out)-bytes", re.IGNORECASE)
# Google Cloud bills a machine as two SKUs, "... Instance Core" in hours and "... Instance Ram".
_CORE_OF_MACHINE = re.compile(r"\binstance core\b", re.IGNORECASE)

_MACHINE = "machine"


@lru_cache(maxsize=1 << 12)
def _unit_kind(unit: str) -> str:
    """What a unit counts: cpu, memory, io, data, machine, or other."""
    squeezed = _PUNCTUATION.sub("", _PRICED_AT_ONCE.sub("", unit.strip())).lower()
    for kind, pattern in (
        ("cpu", _CPU_TIME),
        ("memory", _MEMORY_TIME),
        (_MACHINE, _MACHINE_TIME),
        ("data", _DATA),
        ("io", _CALLS),
    ):
        if pattern.fullmatch(squeezed):
            return kind
    return "other"


def _parts(row: _Row) -> list[list[str]]:
    """[[dimension, weight], ...] of a charge, weights as decimals that sum to 1.

    By ConsumedUnit, else PricingUnit (interface.md §1). Memory and whole machines only under the
    service category Compute; data only as transfer: elsewhere these units price something else
    (a licence, a load balancer, stored logs). A charge of no resource has no dimension either.
    """
    if row.text("ResourceId") is None:
        return [["other", "1"]]
    kind = _unit_kind(row.text("ConsumedUnit", "PricingUnit") or "")
    category = (row.text("ServiceCategory") or "").casefold()
    meter = f"{row.text('SkuMeter')} {row.text('ChargeDescription')}"
    if kind == _MACHINE and _CORE_OF_MACHINE.search(meter):
        kind = "cpu"
    if kind == _MACHINE and category == "compute":
        cpu = _cpu_weight(_mapping(row["SkuPriceDetails"]))
        return [["cpu", _plain(cpu)], ["memory", _plain(1 - cpu)]]
    if kind == "data":
        kind = "network" if category == "networking" or _TRANSFER.search(meter) else "other"
    elif kind == _MACHINE or (kind == "memory" and category != "compute"):
        kind = "other"
    return [[kind, "1"]]


def _cpu_weight(details: Mapping[str, object]) -> Decimal:
    """Share of the cpus in a machine's list price, to 12 decimals; CoreCount and MemorySize (GiB)
    are FOCUS-defined properties of SkuPriceDetails."""
    by_name = {_column_name(key): value for key, value in details.items()}
    try:
        cores = _decimal(by_name.get("corecount"), "CoreCount")
        gib = _decimal(by_name.get("memorysize"), "MemorySize")
    except RejectedRecord:
        cores = gib = None
    if not (cores and gib and 0 < cores < MONEY_BOUND and 0 < gib < MONEY_BOUND):
        cores, gib = Decimal(1), GENERAL_PURPOSE_GIB_PER_VCPU
    of_cpu, of_memory = _EXACT.multiply(cores, VCPU_HOUR_USD), _EXACT.multiply(gib, GIB_HOUR_USD)
    share = _EXACT.divide(of_cpu, _EXACT.add(of_cpu, of_memory))
    return share.quantize(MONEY_STEP, context=_EXACT)


# ---- charges --------------------------------------------------------------------------------


def collect_charge(
    row: Mapping[str, object], cost_column: str = "EffectiveCost", ordinal: int = 0
) -> dict:
    """One FOCUS row as a charge, all figures as plain decimal text, None where absent.

    key: 32 hex digits of the row's content and ``ordinal`` (the how-maniest identical row of its
        file, from 0): a file delivered twice counts once, identical rows of one file all count
    resource_id: ResourceId, else ``__no_resource__``
    parts: [[dimension, weight], ...], dimension cpu | memory | io | network | other; weights sum
        to 1; a whole machine has two, cpu and memory
    per: "unit" where use is metered (one part with a dimension of its own), else "hour"
    start_ms, end_ms: the charge period [start, end), UTC
    cost: ``cost_column``, else BilledCost; DECIMAL(28, 12), rounded half to even
    currency: BillingCurrency, three capitals
    sku_id, focus_service_name, provider_name, list_unit_price, pricing_quantity,
    consumed_quantity, consumed_unit, charge_category, charge_class; tags: {name: text or None}

    Raises RejectedRecord for a row without a usable period, cost or currency.
    """
    return _charge(_Row(row), row, cost_column, ordinal)


def _charge(
    row: _Row, cells: Mapping[str, object], cost_column: str, ordinal: int, digest: bytes = b""
) -> dict:
    if RAGGED in cells:
        raise RejectedRecord(str(cells[RAGGED]))
    start_ms = _time_ms(row["ChargePeriodStart"], "ChargePeriodStart")
    try:
        end_ms = _time_ms(row["ChargePeriodEnd"], "ChargePeriodEnd")
        if end_ms <= start_ms:
            raise RejectedRecord(
                f"ChargePeriodEnd {shown(row['ChargePeriodEnd'])} is not after ChargePeriodStart"
                f" {shown(row['ChargePeriodStart'])}"
            )
        if end_ms - start_ms > MAX_PERIOD_MS:
            raise RejectedRecord(
                f"a charge period of {(end_ms - start_ms) / 86_400_000:.0f} days is longer than"
                f" {MAX_PERIOD_MS // 86_400_000}"
            )
        cost = _cost(row, cost_column)
        currency = _currency(row)
    except RejectedRecord as error:
        raise RejectedRecord(error.reason, start_ms) from None
    parts = _parts(row)
    metered = len(parts) == 1 and parts[0][0] != "other"
    content = (digest or row.digest()) + b"%d" % ordinal
    return {
        "key": hashlib.blake2b(content, digest_size=16).hexdigest(),
        "resource_id": row.text("ResourceId") or NO_RESOURCE,
        "parts": parts,
        "per": "unit" if metered else "hour",
        "start_ms": start_ms,
        "end_ms": end_ms,
        "cost": cost,
        "currency": currency,
        "sku_id": row.text("SkuId"),
        "focus_service_name": row.text("ServiceName"),
        "provider_name": row.text("ServiceProviderName", "ProviderName"),
        "list_unit_price": _figure(row["ListUnitPrice"]),
        "pricing_quantity": _figure(row["PricingQuantity"]),
        "consumed_quantity": _figure(row["ConsumedQuantity"]),
        "consumed_unit": row.text("ConsumedUnit"),
        "charge_category": row.text("ChargeCategory"),
        "charge_class": row.text("ChargeClass"),
        "tags": {
            key: value if value is None or isinstance(value, str) else _json(value)
            for key, value in sorted(_mapping(row["Tags"]).items())
        },
    }


def _cost(row: _Row, cost_column: str) -> str:
    for column in (cost_column, "BilledCost"):
        value = _decimal(row[column], column)
        if value is not None:
            return _money(value, column)
    raise RejectedRecord(f"neither {cost_column} nor BilledCost has a value")


def _currency(row: _Row) -> str:
    currency = row.text("BillingCurrency")
    if currency is None:
        raise RejectedRecord("BillingCurrency is missing")
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        raise RejectedRecord(f"BillingCurrency {shown(currency)} is not a code of three letters")
    return currency.upper()


# ---- files ----------------------------------------------------------------------------------


def collect_charges(
    path: str | Path, cost_column: str = "EffectiveCost"
) -> Iterator[tuple[str, dict | str]]:
    """Every row of a bill, in the file's order: ("charge", charge) or ("reject", reject text).

    Memory: one batch of rows, and about 150 bytes for each distinct row (to number identical
    ones). Raises UnreadableBill for a file that can't be read or lacks required columns, and
    ValueError for a ``cost_column`` that FOCUS doesn't know.
    """
    copies: dict[bytes, int] = {}
    for cells in read_charges(path, cost_column):
        row = _Row(cells)
        digest = row.digest()
        ordinal = copies.get(digest, 0)
        copies[digest] = ordinal + 1
        try:
            yield "charge", _charge(row, cells, cost_column, ordinal, digest)
        except RejectedRecord as error:
            filled = {key: value for key, value in cells.items() if _filled(value) is not None}
            filled.pop(RAGGED, None)
            yield "reject", reject(STREAM, error.reason, filled, error.event_time_ms)


def read_charges(
    path: str | Path, cost_column: str = "EffectiveCost"
) -> Iterator[dict[str, object]]:
    """The rows of a bill (.csv, .csv.gz, .parquet) by column name, as they are written.

    A CSV row with more or fewer cells than the header comes as {RAGGED: reason, "cells": [...]}.
    Errors as ``collect_charges``; the header is checked before the first row is given out.
    """
    if cost_column not in COST_COLUMNS:
        raise ValueError(f"cost column {cost_column!r}: use one of {', '.join(COST_COLUMNS)}")
    path = Path(path)
    try:
        if path.name.endswith(".parquet"):
            yield from _read_parquet(path, cost_column)
        elif path.name.endswith((".csv", ".csv.gz")):
            yield from _read_csv(path, cost_column)
        else:
            raise UnreadableBill(f"{path}: not a bill by its name: .csv, .csv.gz or .parquet")
    except UnreadableBill:
        raise
    # pyarrow's errors are subclasses of these built-in ones.
    except (OSError, EOFError, ValueError, NotImplementedError, csv.Error, zlib.error) as error:
        what = " ".join(str(error).split())
        raise UnreadableBill(f"{path}: can't be read as FOCUS rows: {what}") from error


def _read_csv(path: Path, cost_column: str) -> Iterator[dict[str, object]]:
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines)
        header = next(rows, [])
        _check_header(path, header, cost_column)
        for cells in rows:
            if not cells:
                continue
            if len(cells) == len(header):
                yield dict(zip(header, cells, strict=True))
            else:
                reason = f"a row of {len(cells)} cells under a header of {len(header)}"
                yield {RAGGED: f"{reason}: quote cells that hold commas", "cells": cells}


def _read_parquet(path: Path, cost_column: str) -> Iterator[dict[str, object]]:
    import pyarrow.parquet  # 0.1 s that a bill in CSV need not wait for

    with pyarrow.parquet.ParquetFile(path) as file:
        _check_header(path, file.schema_arrow.names, cost_column)
        for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
            yield from batch.to_pylist()


def _check_header(path: Path, header: list[str], cost_column: str) -> None:
    present = {_column_name(name) for name in header}
    missing = [
        column
        for column in ("ChargePeriodStart", "ChargePeriodEnd", "BillingCurrency")
        if column.casefold() not in present
    ]
    if not present & {cost_column.casefold(), "billedcost"}:
        missing.append(" or ".join(dict.fromkeys((cost_column, "BilledCost"))))
    if missing:
        raise UnreadableBill(f"{path}: not a FOCUS bill, it has no column {', '.join(missing)}")
