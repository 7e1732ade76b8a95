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
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import cached_property
from pathlib import Path
from typing import IO

import orjson

from udfs.pure import names
from udfs.pure.cache import cached, characters
from udfs.pure.price import CORRECTION, MONEY_BOUND, plain, utc
from udfs.pure.rates import DATA, MACHINE, Exchange, unit_kind
from udfs.pure.reject import RejectedRecord, reject, shown
from udfs.pure.resources import billed_whole, canonical, pool_by_tags
from udfs.pure.windows import NO_RESOURCE

STREAM = "focus_charges"

# Money is DECIMAL(28, 12) in every table.
MONEY_STEP = Decimal("1E-12")
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
# us-central1, and of a GPU, which OpenCost takes as its defaults (configs/default.json, CPU, RAM and
# GPU). Only their ratios matter here.
VCPU_HOUR_USD = Decimal("0.031611")
GIB_HOUR_USD = Decimal("0.004237")
GPU_HOUR_USD = Decimal("0.95")
# A machine whose size the bill doesn't tell is taken for a general-purpose one (AWS m, Azure D,
# Google standard types).
GENERAL_PURPOSE_GIB_PER_VCPU = Decimal(4)

_GIB = 2**30

TIME_CACHE_SIZE, TIME_CACHE_CHARS = 1 << 14, 40
# FOCUS 1.4 has some 2,000 characters of column names.
HEADER_CACHE_SIZE, HEADER_CACHE_CHARS = 256, 1 << 14

# Rows read at once from Parquet, which bounds the memory; a row of FOCUS holds about 2 kB.
PARQUET_BATCH_ROWS = 4096

# Columns, in lower case, that say when a row was exported; the first that there is counts.
VERSION_COLUMNS = ("x_snapshottime", "x_exporttime", "x_lastupdated")
# Says which of several identical rows of one delivery this is: 1 or nothing for the first, 2 for the second, and so on.
COPY_COLUMN = "x_copynumber"

# What makes a charge this charge and no other: each entry is one property, named by the columns that may hold it, of
# which the first that isn't null counts. All of them have been in FOCUS since 1.0. So neither a column that a later
# version brings or renames, nor a provider's own x_ column, makes another charge of it. What a later snapshot may
# restate is left out: costs, prices, quantities, invoices; so are display names and categories, which follow from the
# ids. To these come the resource, else its Tags, the kind of unit, and the price's id: see ``FocusRow._identity``.
IDENTITY_COLUMNS = (
    ("BillingAccountId", "ServiceProviderName", "ProviderName"),
    ("SubAccountId",),
    ("BillingPeriodStart",),  # a charge for last month that is billed this month comes on top
    ("ChargePeriodStart",),
    ("ChargePeriodEnd",),
    ("BillingCurrency",),
    ("ChargeCategory",),
    ("ChargeClass",),
    ("ChargeDescription",),
    ("CommitmentDiscountId",),
    ("CommitmentDiscountStatus",),
    ("PricingCategory",),
    ("RegionId", "Region"),
    ("ServiceName",),
    ("SkuId",),
)
# A description often holds the price: "$0.34 per On Demand Linux Instance Hour".
_NUMBERS = re.compile(r"\d[\d.,]*")

# Filled in a record that takes a row back: the same row, which a later delivery left out. It says when that was.
WITHDRAWN_COLUMN = "x_withdrawn"
# How the key of such a record ends.
WITHDRAWN_KEY = "/withdrawn"

# Filled where an earlier delivery, which whoever sent the record knows and did not send, had another cost.
RESTATED_COLUMN = "x_restated"

# Its word ``false`` says that the provider has yet to complete the time that the row is for.
COMPLETE_COLUMN = "x_TimeSectorComplete"

# What says by which delivery, and which row of it, a charge came: nothing about the charge.
DELIVERY_COLUMNS = frozenset((*VERSION_COLUMNS, COPY_COLUMN, WITHDRAWN_COLUMN, RESTATED_COLUMN))

# Exports that are cut into parts: AWS ("bill-00001.csv.gz"), Azure and Spark ("part_0_0001.csv").
_PART = re.compile(r"(?:[-_.]?part[-_]?\d+(?:[-_]\d+)*|-\d{5})$", re.IGNORECASE)

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
        value = value.replace("\x00", "").strip()
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


def _money(value: Decimal, column: str) -> str:
    """DECIMAL(28, 12) in plain notation. What needs more than twelve decimals is rounded half to
    even, as FOCUS leaves the precision of a column to the provider; more digits before the point
    than sixteen are rejected."""
    if value.copy_abs() < MONEY_BOUND:
        rounded = value.quantize(MONEY_STEP, context=_EXACT)
        if rounded.copy_abs() < MONEY_BOUND:
            return plain(rounded)
    raise RejectedRecord(f"{column} {shown(str(value))} has more than 16 digits before the point")


def _figure(value: object) -> str | None:
    """A price or quantity that only explains: plain notation, None where it isn't a number."""
    try:
        number = _decimal(value, "")
    except RejectedRecord:
        return None
    if number is None or (number and abs(number.adjusted()) > _SHOWABLE_EXPONENT):
        return None
    return plain(number) if number else "0"


@cached(TIME_CACHE_SIZE, TIME_CACHE_CHARS)  # a bill repeats its hours
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


def time_ms(value: object, column: str) -> int:
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


@cached(HEADER_CACHE_SIZE, HEADER_CACHE_CHARS, characters)  # one entry a header
def _columns(header: tuple[str, ...]) -> dict[str, str]:
    """Normalised column name -> the key under which the rows hold it, sorted by the former."""
    return {_column_name(name): name for name in sorted(header, key=_column_name)}


class FocusRow:
    """A FOCUS row, read by the specification's column names."""

    def __init__(self, cells: Mapping[str, object]) -> None:
        self._cells = cells
        self._columns = _columns(tuple(cells))

    def __getitem__(self, column: str) -> object:
        """The cell, or None where there is no such column."""
        return self._cells.get(self._columns.get(column.casefold(), column))

    def text(self, *columns: str) -> str | None:
        """The first of the columns that is not null, as text."""
        return next(filter(None, (_text(self[column]) for column in columns)), None)

    @property
    def resource_id(self) -> str | None:
        """ResourceId; None where there is none, or one that says so in our words."""
        resource_id = self.text("ResourceId")
        return None if resource_id == NO_RESOURCE else resource_id

    @cached_property
    def pool(self) -> str:
        """The pool of machines that the tags name; "" if none."""
        tags = _mapping(self["Tags"])
        return pool_by_tags(tags, self.text("SubAccountId") or "", self.text("RegionId") or "") if tags else ""

    def digests(self) -> tuple[bytes, bytes]:
        """16 bytes that stand for the row's whole content, and 16 for its identity: what it is a charge for.

        However it was delivered: the same charge in CSV, Parquet and JSON, with columns in another
        order, has the same. When it was exported, and its copy number, are in neither.

        A correction's content is its identity and its costs: it has no version, and has to be known again in a
        later snapshot, whatever columns that one has.
        """
        identity = self._identity()
        about = hashlib.blake2b(identity, digest_size=16).digest()
        if self.text("ChargeClass") == CORRECTION:
            costs = b"".join(_framed(column, _canonical("cost", self[column]) or "") for column in COST_COLUMNS)
            return hashlib.blake2b(identity + costs, digest_size=16).digest(), about
        content = hashlib.blake2b(digest_size=16)
        for name, key in self._columns.items():
            value = None if name in DELIVERY_COLUMNS else _canonical(name, self._cells[key])
            if value is not None:
                content.update(_framed(name, value))
        return content.digest(), about

    def _identity(self) -> bytes:
        """IDENTITY_COLUMNS, and what needs more than reading a column."""
        parts = []
        for columns in IDENTITY_COLUMNS:
            column = next((column for column in columns if _filled(self[column]) is not None), None)
            value = column and _canonical(column.casefold(), self[column])
            if value and column == "ChargeDescription":
                value = _NUMBERS.sub("#", value)
            parts.append(value or "")
        # The tags of a resource are its own, and may change.
        # Providers spell an id now in one way, now in another: Azure in any case, AWS with and without its ARN.
        own = self.resource_id
        parts += [canonical(own), ""] if own else ["", _canonical("tags", self["Tags"]) or ""]
        # Units are spelt in many ways. FOCUS 1.1 allows SkuId to stand for a price's missing id.
        parts.append(unit_kind(self.text("ConsumedUnit", "PricingUnit") or ""))
        price_id = self.text("SkuPriceId")
        parts.append("" if price_id is None or price_id == self.text("SkuId") else price_id)
        return _framed(*parts)

    def copy_number(self) -> int | None:
        """COPY_COLUMN, from 1; None where it isn't there or no such number."""
        text = self.text(COPY_COLUMN)
        return int(text) if text and re.fullmatch(r"0{0,9}[1-9][0-9]{0,8}", text) else None

    def exported_ms(self) -> int | None:
        """When the row was exported, by the first of VERSION_COLUMNS that is there."""
        for column in VERSION_COLUMNS:
            try:
                return time_ms(self[column], column)
            except RejectedRecord:
                continue
        return None


def _framed(*parts: str) -> bytes:
    """The parts with their lengths, so that no two lists of them give the same bytes."""
    encoded = (part.encode("utf-8", "backslashreplace") for part in parts)
    return b"".join(b"%d:%s" % (len(part), part) for part in encoded)


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
            return str(time_ms(value, column))
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

_TRANSFER = re.compile(r"transfer|egress|bandwidth|data[ -]?out\b|(?:in|out)-bytes", re.IGNORECASE)
# Google Cloud bills a machine as two SKUs, "... Instance Core" in hours and "... Instance Ram".
_CORE_OF_MACHINE = re.compile(r"\binstance core\b", re.IGNORECASE)

# Below it a size is a broken cell.
_MIN_SIZE = Decimal("1E-6")

# ... and a GPU that is attached to it as another one, in hours, too.
_GPU = re.compile(r"\bgpus?\b", re.IGNORECASE)

# Both are of a machine, which is paid for whether it is used or not.
_PART_OF_MACHINE = re.compile(r"\binstance (?:core|ram)\b", re.IGNORECASE)

# What runs on a machine is billed by the same hours, and has no cores of its own.
_LICENCE = re.compile(r"licen[cs]", re.IGNORECASE)


def _parts(row: FocusRow) -> list[list[str]]:
    """[[dimension, weight], ...] of a charge, weights as decimals that sum to 1.

    By ConsumedUnit, else PricingUnit (docs/interface.md §1). Memory and whole machines only under the
    service category Compute; data only as transfer: elsewhere these units price something else
    (a licence, a load balancer, stored logs). A charge of no resource has no dimension either.
    """
    if row.resource_id is None and not row.pool:
        return [["other", "1"]]
    kind = unit_kind(row.text("ConsumedUnit", "PricingUnit") or "")
    category = (row.text("ServiceCategory") or "").casefold()
    meter = f"{row.text('SkuMeter')} {row.text('ChargeDescription')}"
    if kind == MACHINE and _CORE_OF_MACHINE.search(meter):
        kind = "cpu"
    details = _mapping(row["SkuPriceDetails"])
    if kind == MACHINE and _GPU.search(meter) and not _machine_size(details):
        kind = "gpu"
    if kind == MACHINE and category == "compute":
        return [[dimension, plain(weight)] for dimension, weight in _weights(details).items()]
    if kind == DATA:
        kind = "network" if category == "networking" or _TRANSFER.search(meter) else "other"
    elif kind == MACHINE or (kind == "memory" and category != "compute"):
        kind = "other"
    return [[kind, "1"]]


def _weights(details: Mapping[str, object]) -> dict[str, Decimal]:
    """Shares of cpu, memory and, where it has any, gpu in a machine's list price, to 12 decimals."""
    told = _machine_size(details) or {"cpu": Decimal(1)}
    size = {"cpu": told["cpu"], "memory": _EXACT.multiply(told["cpu"], GENERAL_PURPOSE_GIB_PER_VCPU)} | told
    prices = {"cpu": VCPU_HOUR_USD, "memory": GIB_HOUR_USD, "gpu": GPU_HOUR_USD}
    of_each = {dimension: _EXACT.multiply(count, prices[dimension]) for dimension, count in size.items()}
    whole = sum(of_each.values(), Decimal())
    shares = {
        dimension: _EXACT.divide(price, whole).quantize(MONEY_STEP, context=_EXACT)
        for dimension, price in of_each.items()
        if dimension != "memory"
    }
    return {dimension: shares.get(dimension, 1 - sum(shares.values(), Decimal())) for dimension in size}


def _machine_size(details: Mapping[str, object]) -> dict[str, Decimal] | None:
    """Cores of a machine, and GiB of its memory and its GPUs where they are told; None where SkuPriceDetails doesn't
    tell the cores. CoreCount, MemorySize and GpuCount are FOCUS-defined properties."""
    by_name = {_column_name(key): _filled(value) for key, value in details.items()}
    memory = by_name.get("memorysize")
    if isinstance(memory, str):
        memory = re.sub(r"\s*gi?b$", "", memory, flags=re.IGNORECASE)
    cores, gib, gpus = (
        _size(value, name)
        for name, value in (
            ("CoreCount", by_name.get("corecount")), ("MemorySize", memory), ("GpuCount", by_name.get("gpucount")),
        )
    )  # fmt: skip
    if cores is None:
        return None
    return {"cpu": cores, **({"memory": gib} if gib else {}), **({"gpu": gpus} if gpus else {})}


def _size(value: object, name: str) -> Decimal | None:
    """A size that can be one."""
    try:
        size = _decimal(value, name)
    except RejectedRecord:
        return None
    return size if size and _MIN_SIZE < size < MONEY_BOUND else None


def _in_bytes(dimension: str, count: Decimal) -> Decimal:
    """A machine's size in the dimension's own unit: memory is told in GiB."""
    return count * _GIB if dimension == "memory" else count


def _is_attached_gpu(row: FocusRow, parts: list[list[str]]) -> bool:
    """A GPU by the hour of the machine that it is attached to is paid for whether it is used or not."""
    return parts[0][0] == "gpu" and unit_kind(row.text("ConsumedUnit", "PricingUnit") or "") == MACHINE


# ---- charges --------------------------------------------------------------------------------


def collect_charge(
    row: Mapping[str, object],
    cost_column: str = "EffectiveCost",
    copy: int = 1,
    delivery: str = "",
    exchange: Exchange | None = None,
) -> dict:
    """One FOCUS row as a charge, all figures as plain decimal text, None where absent.

    copy: which of several identical rows of its delivery it is, from 1; COPY_COLUMN says it better.
    delivery: sortable text of what brought the row: a file's name, or the ISO time of a record.
    exchange: converts costs; None = they stay as they are billed.

    key: 32 hex digits of the row's content and its copy number: a row delivered twice counts once,
        identical rows of one delivery all count
    identity: 32 hex digits of what the row is a charge for (IDENTITY_COLUMNS) and of its cost's sign
    version: sortable text of the delivery: the time of the export, of VERSION_COLUMNS, else
        ``delivery``; "" for a correction. Of one identity all rows of the greatest version stand
        (price.standing): different lines of one bill add up, a later bill takes their place
    resource_id: ResourceId in its canonical form (``resources.canonical``), else the pool that its tags name
        (``resources.pool_by_tags``), else ``__no_resource__``; where that form is another one, ``billed_resource_id``
        is as the bill has it
    parts: [[dimension, weight], ...], dimension cpu | memory | io | network | gpu | other; weights
        sum to 1; a whole machine has cpu and memory, and gpu if it has any
    per: "unit" where use is metered (one part with a dimension of its own), else "hour"
    start_ms, end_ms: the charge period [start, end), UTC
    cost: ``cost_column``, else BilledCost; DECIMAL(28, 12), rounded half to even
    currency: BillingCurrency, three capitals
    converted: None, or {"from": currency, "rate", "cost"} of the bill
    machine: {"cpu": cores, "memory": bytes, "gpu": number if it has any} of the machine whose hours are charged; None
        if unknown
    is_licence: it is for what runs on a resource
    is_provisioned: it is charged by the unit, and yet for what a machine has, used or not
    sku_id, focus_service_name, provider_name, list_unit_price, pricing_quantity, pricing_unit,
    consumed_quantity, consumed_unit, charge_category, charge_class; tags: {name: text or None}
    withdrawn: True in what takes the row of this key and version back (WITHDRAWN_COLUMN); else it is not there
    restated: True where an earlier delivery had another cost (RESTATED_COLUMN); else it is not there
    is_incomplete: True where the provider says that its time is not complete (COMPLETE_COLUMN); else it is not
        there, and never in a correction, which is of what was complete

    Raises RejectedRecord for a row without a usable period, cost or currency.
    """
    reader = FocusRow(row)
    return _charge(reader, row, cost_column, reader.copy_number() or copy, delivery, exchange, reader.digests())


def charge_key(charge: Mapping[str, object]) -> str:
    """Key of a delivered charge. The same row in two versions has two: each is of its own snapshot; and what takes it
    back has one of its own."""
    key = f"{charge['key']}/{charge['version']}" if charge["version"] else str(charge["key"])
    return f"{key}{WITHDRAWN_KEY}" if charge.get("withdrawn") else key


def _charge(
    row: FocusRow,
    cells: Mapping[str, object],
    cost_column: str,
    copy: int,
    delivery: str,
    exchange: Exchange | None,
    digests: tuple[bytes, bytes],
    delivered_ms: int | None = None,
) -> dict:
    if RAGGED in cells:
        raise RejectedRecord(str(cells[RAGGED]))
    start_ms = time_ms(row["ChargePeriodStart"], "ChargePeriodStart")
    try:
        end_ms = time_ms(row["ChargePeriodEnd"], "ChargePeriodEnd")
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
    charge_class = row.text("ChargeClass")
    resource_id = names.name(billed_whole(canonical(row.resource_id)) if row.resource_id else row.pool or NO_RESOURCE)
    content, about = digests
    size = None if metered else _machine_size(_mapping(row["SkuPriceDetails"]))
    meter = f"{row.text('SkuMeter')} {row.text('ChargeDescription')}"
    charge = {
        "key": _hex(content, b"%d" % (copy - 1)),
        "identity": _hex(about, b"-" if cost.startswith("-") else b"+"),
        "version": "" if charge_class == CORRECTION else _version(delivered_ms or row.exported_ms(), delivery),
        "resource_id": resource_id,
        "parts": parts,
        "per": "unit" if metered else "hour",
        "start_ms": start_ms,
        "end_ms": end_ms,
        "cost": cost,
        "currency": currency,
        "converted": None,
        "machine": None if size is None else {of: plain(_in_bytes(of, count)) for of, count in size.items()},
        "is_licence": bool(_LICENCE.search(meter)),
        "is_provisioned": metered and (bool(_PART_OF_MACHINE.search(meter)) or _is_attached_gpu(row, parts)),
        "sku_id": row.text("SkuId"),
        "focus_service_name": row.text("ServiceName"),
        "provider_name": row.text("ServiceProviderName", "ProviderName"),
        "list_unit_price": _figure(row["ListUnitPrice"]),
        "pricing_quantity": _figure(row["PricingQuantity"]),
        "pricing_unit": row.text("PricingUnit"),
        "consumed_quantity": _figure(row["ConsumedQuantity"]),
        "consumed_unit": row.text("ConsumedUnit"),
        "charge_category": row.text("ChargeCategory"),
        "charge_class": charge_class,
        "tags": {
            key: value if value is None or isinstance(value, str) else _json(value)
            for key, value in sorted(_mapping(row["Tags"]).items())
        },
    }
    if row.resource_id and resource_id != (as_billed := names.name(row.resource_id)):
        charge["billed_resource_id"] = as_billed
    if row.text(WITHDRAWN_COLUMN):
        charge["withdrawn"] = True
    if row.text(RESTATED_COLUMN):
        charge["restated"] = True
    if charge_class != CORRECTION and (row.text(COMPLETE_COLUMN) or "").casefold() == "false":
        charge["is_incomplete"] = True
    try:
        return exchange.convert(charge) if exchange else charge
    except ValueError as error:
        raise RejectedRecord(str(error), start_ms) from None


def _hex(*parts: bytes) -> str:
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def _version(exported_ms: int | None, delivery: str) -> str:
    """A time in the row sorts above any delivery."""
    return f"0 {delivery}" if exported_ms is None else f"1 {utc(exported_ms)}"


def delivery_name(path: str) -> str:
    """A file's name, less what tells the parts of one export from each other."""
    name = path.rpartition("/")[2]
    for ending in (".gz", ".csv", ".parquet", ".snappy"):
        name = name.removesuffix(ending)
    return _PART.sub("", name)


def _cost(row: FocusRow, cost_column: str) -> str:
    for column in (cost_column, "BilledCost"):
        value = _decimal(row[column], column)
        if value is not None:
            return _money(value, column)
    raise RejectedRecord(f"neither {cost_column} nor BilledCost has a value")


def _currency(row: FocusRow) -> str:
    currency = row.text("BillingCurrency")
    if currency is None:
        raise RejectedRecord("BillingCurrency is missing")
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        raise RejectedRecord(f"BillingCurrency {shown(currency)} is not a code of three letters")
    return currency.upper()


# ---- files ----------------------------------------------------------------------------------


def collect_charges(
    path: str | Path, cost_column: str = "EffectiveCost", exchange: Exchange | None = None
) -> Iterator[tuple[str, dict | str]]:
    """Every row of a bill, in the file's order: ("charge", charge) or ("reject", reject text).

    The file's name is the delivery: of two files with another cost for the same row the one counts
    whose name sorts last, unless the rows say when they were exported. The parts of one export
    ("bill-00001.csv", "part_0_0002.csv") are one delivery. Identical rows of a file are numbered, but for
    those that say their copy number: all of them count, and the same file under another name adds nothing.

    Memory and errors: see ``collect_rows``.
    """
    for _, _, value in collect_rows(read_charges(path, cost_column), str(path), None, cost_column, exchange):
        yield "reject" if isinstance(value, str) else "charge", value


def collect_rows(
    rows: Iterable[dict[str, object]],
    path: str,
    delivered_ms: int | None = None,
    cost_column: str = "EffectiveCost",
    exchange: Exchange | None = None,
) -> Iterator[tuple[dict[str, object], int, dict | str]]:
    """Rows of one delivery, each as (cells, copy number, charge or reject text).

    rows: of ``read_charges``, of all files of the delivery. path: of its file, whose name says which delivery it is.
    delivered_ms: when a delivery came that is a complete snapshot of what it is about: that, and nothing in its rows,
        says which of two deliveries is the later one. None = the rows or the file's name say so.

    Memory: one batch of rows, and about 250 bytes for each distinct row (to number identical
    ones). Raises UnreadableBill for a file that can't be read or lacks required columns, and
    ValueError for a ``cost_column`` that FOCUS doesn't know.
    """
    copies: dict[tuple[bytes, int | None, bool], int] = {}
    delivery = delivery_name(path)
    for cells in rows:
        row = FocusRow(cells)
        digests = row.digests()
        copy = row.copy_number()
        if copy is None:
            exported_ms = row.exported_ms() if delivered_ms is None else None
            alike = digests[0], exported_ms, row.text(WITHDRAWN_COLUMN) is not None
            copy = copies[alike] = copies.get(alike, 0) + 1
        try:
            charge = _charge(row, cells, cost_column, copy, delivery, exchange, digests, delivered_ms)
        except RejectedRecord as error:
            yield cells, copy, reject_row(cells, error)
        else:
            yield cells, copy, charge


def reject_row(cells: Mapping[str, object], error: RejectedRecord) -> str:
    """The reject of a row, which shows the cells that hold something."""
    filled = {key: value for key, value in cells.items() if _filled(value) is not None}
    filled.pop(RAGGED, None)
    return reject(STREAM, error.reason, filled, error.event_time_ms)


def read_charges(
    path: str | Path, cost_column: str = "EffectiveCost", opened: Callable[[], IO[bytes]] | None = None
) -> Iterator[dict[str, object]]:
    """The rows of a bill (.csv, .csv.gz, .parquet) by column name, as they are written.

    opened: opens it, where it is no local file; ``path`` says what it is called.

    A CSV row with more or fewer cells than the header comes as {RAGGED: reason, "cells": [...]}.
    Errors as ``collect_charges``; the header is checked before the first row is given out.
    """
    if cost_column not in COST_COLUMNS:
        raise ValueError(f"cost column {cost_column!r}: use one of {', '.join(COST_COLUMNS)}")
    costs = tuple(dict.fromkeys((cost_column, "BilledCost")))
    wanted = (("ChargePeriodStart",), ("ChargePeriodEnd",), ("BillingCurrency",), costs)
    yield from read_rows(path, wanted, opened)


def read_rows(
    path: str | Path, wanted: Sequence[Sequence[str]], opened: Callable[[], IO[bytes]] | None = None
) -> Iterator[dict[str, object]]:
    """As ``read_charges``, of any dataset. wanted: columns that it must have, of each entry one."""
    path = str(path)
    try:
        if path.endswith(".parquet"):
            yield from _read_parquet(path, wanted, opened)
        elif path.endswith((".csv", ".csv.gz")):
            yield from _read_csv(path, wanted, opened)
        else:
            raise UnreadableBill(f"{path}: not a bill by its name: .csv, .csv.gz or .parquet")
    except UnreadableBill:
        raise
    # pyarrow's errors are subclasses of these built-in ones.
    except (OSError, EOFError, ValueError, NotImplementedError, csv.Error, zlib.error) as error:
        what = " ".join(str(error).split())
        raise UnreadableBill(f"{path}: can't be read as FOCUS rows: {what}") from error


def _read_csv(
    path: str, wanted: Sequence[Sequence[str]], opened: Callable[[], IO[bytes]] | None
) -> Iterator[dict[str, object]]:
    with opened() if opened else open(path, "rb") as stream:
        unpacked = gzip.GzipFile(fileobj=stream) if path.endswith(".gz") else stream
        lines = io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline="")
        rows = csv.reader(lines)
        header = next(rows, [])
        _check_header(path, header, wanted)
        for cells in rows:
            if not cells:
                continue
            if len(cells) == len(header):
                yield dict(zip(header, cells, strict=True))
            else:
                reason = f"a row of {len(cells)} cells under a header of {len(header)}"
                yield {RAGGED: f"{reason}: quote cells that hold commas", "cells": cells}


def _read_parquet(
    path: str, wanted: Sequence[Sequence[str]], opened: Callable[[], IO[bytes]] | None
) -> Iterator[dict[str, object]]:
    import pyarrow.parquet  # 0.1 s that a bill in CSV need not wait for

    with pyarrow.parquet.ParquetFile(opened() if opened else path) as file:
        _check_header(path, file.schema_arrow.names, wanted)
        for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
            yield from batch.to_pylist()


def _check_header(path: str, header: list[str], wanted: Sequence[Sequence[str]]) -> None:
    present = {_column_name(name) for name in header}
    missing = [" or ".join(columns) for columns in wanted if not present & {name.casefold() for name in columns}]
    if missing:
        raise UnreadableBill(f"{path}: not a FOCUS bill, it has no column {', '.join(missing)}")
