"""cost_allocations back to finance: a FOCUS CostAndUsage dataset for chargeback and FinOps tools.

    anomaly-cost export --tables DIR|postgresql://USER@HOST/DATABASE --output FILE.csv|FILE.parquet [--input DIR]

Grain: one row per row of cost_allocations; provisional ones are left out unless asked for. In the
terms of FOCUS 1.3 and later a row is an *allocated charge* of a split cost allocation: ResourceId is
what was billed, AllocatedResourceId the workload that bears the cost, null for what is idle or
unallocated; x_CostCenter and a tag of AllocatedTags tell its cost centre, where one is known. It
takes the place of the charges it is split from: never add the dataset to its source.

Money. EffectiveCost is allocated_cost (if the job's cost.column was another, that column is: say so
by --cost-column). With --input the source rows give the other costs: what they hold for the same
window, resource, dimension and currency, split in the same proportions, the last decimal by largest
remainder, so that each column sums to the source rows'. A cost that a source row leaves null counts
as its allocated column. Without --input, and for windows whose source rows don't add up to what was
allocated, all costs are the allocated one: x_CostBasis is 'source' or 'allocation'.

Dimensions. With --input a column of the source is filled where all its rows for that window,
resource, dimension and currency agree; what must not be null is that of the dearest. Otherwise
nullable columns are null, BillingAccountId, ServiceName, InvoiceIssuerName and ServiceProviderName
'unknown' and HostProviderName 'Not Applicable'.

Source: FinOps Open Cost and Usage Specification 1.4, CostAndUsage, with the attribute Data
Generator-Calculated Split Cost Allocation Handling; 1.3 has ProviderName and PublisherName, too, and
no InvoiceDetailId.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import postgres
from jobs.arguments import Parser
from jobs.errors import JobError, UsageError, ended
from udfs.pure import bills, resources
from udfs.pure.attribute import PROVISIONAL
from udfs.pure.deliveries import ENDINGS
from udfs.pure.dimensions import DIMENSIONS
from udfs.pure.focus import COST_COLUMNS, UnreadableBill
from udfs.pure.price import (
    apportion,
    cost_by_window,
    integer_weights,
    standing,
    to_decimal,
    to_units,
)
from udfs.pure.rank import USAGE_UNITS
from udfs.pure.windows import IDLE, NO_RESOURCE, SYSTEM, UNALLOCATED, WINDOW_MS

Row = dict[str, Any]
# (window_start_ms, resource_id, dimension, billing_currency)
Group = tuple[int, str, str, str]

# FOCUS AllocatedMethodId: equation (1) of docs/interface.md, by usage in the window.
METHOD_ID = "anomaly-cost/usage-in-window"
# FOCUS wants a prefix on tag keys that the data generator defines.
SERVICE_TAG, COST_CENTER_TAG = "otel/service.name", "anomaly-cost/cost_center"

UNKNOWN, NOT_APPLICABLE = "unknown", "Not Applicable"
FROM_SOURCE, FROM_ALLOCATION = "source", "allocation"

CATEGORIES = {name: dimension.focus_category for name, dimension in DIMENSIONS.items()}

_TIME = pa.timestamp("ms", tz="UTC")
_MONEY = pa.decimal128(28, 12)
_PRICE = pa.decimal128(38, 18)
_TEXT = pa.string()

# FOCUS 1.4 in its order, then what is ours.
TYPES: dict[str, pa.DataType] = {
    "AllocatedMethodDetails": _TEXT, "AllocatedMethodId": _TEXT, "AllocatedResourceId": _TEXT,
    "AllocatedResourceName": _TEXT, "AllocatedTags": _TEXT, "AvailabilityZone": _TEXT,
    "BilledCost": _MONEY, "BillingAccountId": _TEXT, "BillingAccountName": _TEXT,
    "BillingAccountType": _TEXT, "BillingCurrency": _TEXT, "BillingPeriodEnd": _TIME,
    "BillingPeriodStart": _TIME, "CapacityReservationId": _TEXT,
    "CapacityReservationStatus": _TEXT, "ChargeCategory": _TEXT, "ChargeClass": _TEXT,
    "ChargeDescription": _TEXT, "ChargeFrequency": _TEXT, "ChargePeriodEnd": _TIME,
    "ChargePeriodStart": _TIME, "CommitmentDiscountCategory": _TEXT,
    "CommitmentDiscountId": _TEXT, "CommitmentDiscountName": _TEXT,
    "CommitmentDiscountStatus": _TEXT, "CommitmentDiscountType": _TEXT,
    "ConsumedQuantity": _MONEY, "ConsumedUnit": _TEXT, "ContractedCost": _MONEY,
    "ContractedUnitPrice": _PRICE, "EffectiveCost": _MONEY, "HostProviderName": _TEXT,
    "InvoiceDetailId": _TEXT, "InvoiceId": _TEXT, "InvoiceIssuerName": _TEXT, "ListCost": _MONEY,
    "ListUnitPrice": _PRICE, "PricingCategory": _TEXT, "PricingCurrency": _TEXT,
    "PricingQuantity": _MONEY, "PricingUnit": _TEXT, "RegionId": _TEXT, "RegionName": _TEXT,
    "ResourceId": _TEXT, "ResourceName": _TEXT, "ResourceType": _TEXT, "ServiceCategory": _TEXT,
    "ServiceName": _TEXT, "ServiceProviderName": _TEXT, "ServiceSubcategory": _TEXT,
    "SkuId": _TEXT, "SkuMeter": _TEXT, "SkuPriceDetails": _TEXT, "SkuPriceId": _TEXT,
    "SubAccountId": _TEXT, "SubAccountName": _TEXT, "SubAccountType": _TEXT, "Tags": _TEXT,
    "x_CostBasis": _TEXT, "x_CostCenter": _TEXT, "x_CostStatus": _TEXT, "x_Dimension": _TEXT,
    "x_OtelServiceName": _TEXT,
}  # fmt: skip
# 1.3 had not yet taken out what it replaced.
OLD_NAMES = {"ProviderName": "ServiceProviderName", "PublisherName": "HostProviderName"}
VERSIONS = ("1.4", "1.3")

# Columns that all source rows must agree on, to be filled.
AGREED = (
    "AvailabilityZone", "BillingAccountName", "BillingAccountType", "CapacityReservationId",
    "CapacityReservationStatus", "ChargeClass", "CommitmentDiscountCategory",
    "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountStatus",
    "CommitmentDiscountType", "ConsumedUnit", "ContractedUnitPrice", "InvoiceDetailId",
    "InvoiceId", "ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingUnit", "RegionId",
    "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceSubcategory", "SkuId", "SkuMeter",
    "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName", "SubAccountType",
)  # fmt: skip
# Columns that must not be null: of the dearest source row that has one. Others may stand for them.
DEAREST: dict[str, tuple[str, ...]] = {
    "BillingAccountId": ("BillingAccountId",),
    "BillingPeriodEnd": ("BillingPeriodEnd",),
    "BillingPeriodStart": ("BillingPeriodStart",),
    "ChargeCategory": ("ChargeCategory",),
    "ChargeFrequency": ("ChargeFrequency",),
    "HostProviderName": ("HostProviderName", "PublisherName", "ServiceProviderName", "ProviderName"),
    "InvoiceIssuerName": ("InvoiceIssuerName",),
    "ServiceCategory": ("ServiceCategory",),
    "ServiceName": ("ServiceName",),
    "ServiceProviderName": ("ServiceProviderName", "ProviderName"),
}
QUANTITIES = ("PricingQuantity", "ConsumedQuantity")
# Allowed values, which exports write in any case; another value counts as null.
ALLOWED = {
    "CapacityReservationStatus": ("Used", "Unused"),
    "ChargeCategory": ("Usage", "Purchase", "Tax", "Credit", "Adjustment"),
    "ChargeClass": ("Correction",),
    "ChargeFrequency": ("One-Time", "Recurring", "Usage-Based"),
    "CommitmentDiscountCategory": ("Spend", "Usage"),
    "CommitmentDiscountStatus": ("Used", "Unused"),
    "PricingCategory": ("Standard", "Dynamic", "Committed", "Other"),
    "ServiceCategory": (
        "AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases",
        "Developer Tools", "Multicloud", "Identity", "Integration", "Internet of Things",
        "Management and Governance", "Media", "Migration", "Mobile", "Networking", "Security",
        "Storage", "Web", "Other",
    ),
}  # fmt: skip
_SPELT = {column: {value.casefold(): value for value in values} for column, values in ALLOWED.items()}

ROWS_A_BATCH = 20_000
_WIDE = Context(prec=60, rounding=ROUND_HALF_EVEN)
_PRICE_STEP = Decimal("1E-18")


# ---- the source rows --------------------------------------------------------------------------


@dataclass
class _Charged:
    """What the source rows hold for one group, in units of 1e-12.

    costs: by FOCUS column. quantities: by (column, label). labels: |allocated units| by the labels
    of the rows that gave them.
    """

    costs: Counter[str] = field(default_factory=Counter)
    quantities: dict[str, int] = field(default_factory=dict)
    labels: Counter[Labels] = field(default_factory=Counter)


# Values of AGREED, of DEAREST and Tags (JSON text) of a source row.
Labels = tuple[str | None, ...]


class Bill:
    """The source rows of a directory, by what they charge for."""

    def __init__(self, directory: Path, cost_column: str) -> None:
        """Reads ``directory/billing``, the rows that stand (price.standing), each once.

        Memory: about 1 kB a window, resource and dimension; labels are shared.

        Raises:
            UsageError: there is no bill. JobError: one can't be read.
        """
        folder = directory / "billing"
        deliveries = bills.place(str(folder)).deliveries()[0] if folder.is_dir() else []
        if not deliveries:
            raise UsageError(f"--input {directory}: no bill in {folder} ({', '.join(ENDINGS)})")
        charges: list[dict] = []
        cells_of: dict[tuple[str, str], tuple[Labels, dict[str, str]]] = {}
        shared: dict[Labels, Labels] = {}
        for delivery in deliveries:
            try:
                for cells, _, charge in bills.place(str(folder)).collect(delivery, cost_column):
                    if isinstance(charge, dict):
                        labels, amounts = _read(cells, charge["cost"], cost_column)
                        charges.append(charge)
                        cells_of[_delivered(charge)] = shared.setdefault(labels, labels), amounts
            except UnreadableBill as error:
                raise JobError(str(error)) from None
        self._groups: defaultdict[Group, _Charged] = defaultdict(_Charged)
        for charge in standing(charges):
            self._add(charge, *cells_of[_delivered(charge)], cost_column)

    def _add(self, charge: Mapping, labels: Labels, amounts: Mapping[str, str], cost_column: str) -> None:
        for column, amount in amounts.items():
            for window_ms, by_dimension in cost_by_window({**charge, "cost": amount}).items():
                for dimension, units in by_dimension.items():
                    of = self._groups[window_ms, charge["resource_id"], dimension, charge["currency"]]
                    if column in QUANTITIES:
                        of.quantities[column] = of.quantities.get(column, 0) + units
                        continue
                    of.costs[column] += units
                    if column == cost_column:
                        of.labels[labels] += abs(units)

    def take(self, group: Group) -> _Charged | None:
        """What is charged for the group; the next time it is gone."""
        return self._groups.pop(group, None)

    @property
    def left(self) -> int:
        """How many groups nobody took."""
        return len(self._groups)


def _delivered(charge: Mapping) -> tuple[str, str]:
    return charge["key"], charge.get("version", "")


def _read(cells: Mapping[str, object], cost: str, cost_column: str) -> tuple[Labels, dict[str, str]]:
    """(labels, {column: amount}) of a source row whose allocated column is ``cost``."""
    by_name = {str(name).strip("\ufeff \t").casefold(): value for name, value in cells.items()}

    def text(*columns: str) -> str | None:
        value = next((v for c in columns if (v := _text(by_name.get(c.casefold())))), None)
        spelt = _SPELT.get(columns[0])
        return spelt.get(value.casefold()) if spelt and value else value

    amounts = {cost_column: cost}
    for column in (*COST_COLUMNS, *QUANTITIES):
        number = _number(text(column))
        if column != cost_column and (number is not None or column in COST_COLUMNS):
            amounts[column] = cost if number is None else format(number, "f")
    labels = (
        *(text(column) for column in AGREED),
        *(text(*columns) for columns in DEAREST.values()),
        text("Tags"),
    )
    return labels, amounts


def _text(value: object) -> str | None:
    """A cell as text: JSON for key-values, ISO for times, None for an empty cell and for NULL."""
    if isinstance(value, (list, tuple)):
        value = dict(value) if all(isinstance(v, tuple) and len(v) == 2 for v in value) else value
    if isinstance(value, (dict, list)):
        return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    return None if not text or text.upper() == "NULL" else text


def _number(text: str | None) -> Decimal | None:
    try:
        number = None if text is None else Decimal(text)
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() else None


# ---- rows -------------------------------------------------------------------------------------


def rows_of_group(group: Group, allocations: Sequence[Row], charged: _Charged | None) -> list[Row]:
    """FOCUS rows of the allocations of one window, resource, dimension and currency.

    allocations: rows of cost_allocations, billed or corrected. charged: what the source rows hold for
    them, of which the allocated column sums to theirs; None where it isn't known.
    """
    window_ms, resource_id, dimension, currency = group
    units = [to_units(row["allocated_cost"]) for row in allocations]
    names = [row["otel_service_name"] for row in allocations]
    weights = dict(zip(names, _weights(units, [row["share"] for row in allocations]), strict=True))
    known = _known(charged)
    amounts = dict.fromkeys(COST_COLUMNS, units)
    if charged is not None:
        for column in COST_COLUMNS:
            amounts[column] = _split(charged.costs[column], weights)
        for column in QUANTITIES:
            if column in charged.quantities and known.get(column) is not None:
                amounts[column] = _split(charged.quantities[column], weights)
    start = datetime.fromtimestamp(window_ms / 1000, UTC)
    kind = known.get("ChargeCategory") or ("Adjustment" if resource_id == NO_RESOURCE else "Usage")
    category = known.get("ServiceCategory") or CATEGORIES.get(dimension, "Other")
    common = {
        **known,
        **dict.fromkeys(QUANTITIES),
        "BillingAccountId": known.get("BillingAccountId") or UNKNOWN,
        "BillingCurrency": currency,
        "BillingPeriodEnd": _time(known.get("BillingPeriodEnd")) or _next_month(start),
        "BillingPeriodStart": _time(known.get("BillingPeriodStart")) or _month(start),
        "ChargeCategory": kind,
        "ChargeFrequency": known.get("ChargeFrequency") or ("Recurring" if kind == "Purchase" else "Usage-Based"),
        "ChargePeriodEnd": start + timedelta(milliseconds=WINDOW_MS),
        "ChargePeriodStart": start,
        "HostProviderName": known.get("HostProviderName") or NOT_APPLICABLE,
        "InvoiceIssuerName": known.get("InvoiceIssuerName") or UNKNOWN,
        # As the bill has it, where its rows agree.
        "ResourceId": None if _has_no_id(resource_id) else known.get("ResourceId") or resource_id,
        "ServiceCategory": category,
        "ServiceName": known.get("ServiceName") or UNKNOWN,
        "ServiceProviderName": known.get("ServiceProviderName") or UNKNOWN,
        "ServiceSubcategory": known.get("ServiceSubcategory") or f"Other ({category})",
        "x_CostBasis": FROM_ALLOCATION if charged is None else FROM_SOURCE,
        "x_Dimension": dimension,
    }
    return [
        {
            **common,
            **{column: to_decimal(parts[i]) for column, parts in amounts.items()},
            **_allocated(allocation, resource_id, dimension),
            "x_CostCenter": allocation.get("cost_center"),
            "x_CostStatus": allocation["cost_status"],
            "x_OtelServiceName": allocation["otel_service_name"],
        }
        for i, allocation in enumerate(allocations)
    ]


def _weights(units: list[int], shares: list[float | None]) -> list[int]:
    """What each row bears: its allocated cost, or its share where that says nothing."""
    if any(units) and (min(units) >= 0 or max(units) <= 0):
        return [abs(cost) for cost in units]
    positive = {i: max(share or 0.0, 0.0) for i, share in enumerate(shares)}
    if any(positive.values()):
        return list(integer_weights(positive).values())
    return [1] * len(units)


def _split(total: int, weights: Mapping[str, int]) -> list[int]:
    return list(apportion(total, weights).values())


def _has_no_id(resource_id: str) -> bool:
    """Whether the bill has no ResourceId there."""
    return resource_id == NO_RESOURCE or resources.is_of_a_tag(resource_id)


def _allocated(allocation: Row, resource_id: str, dimension: str) -> Row:
    """The columns of the split. What no usage was measured of isn't split: they are null."""
    service = str(allocation["otel_service_name"])
    what = f"{dimension} of {resource_id}"
    if resource_id == NO_RESOURCE:
        what = "charge without a resource"
    is_split = allocation["usage"] is not None
    is_workload = service not in (IDLE, SYSTEM, UNALLOCATED)
    details: Row | None = None
    if is_split or is_workload:
        element: Row = {"AllocatedRatio": allocation["share"]}
        if is_split and dimension in USAGE_UNITS:
            element["UsageUnit"] = USAGE_UNITS[dimension]
            element["UsageQuantity"] = allocation["usage"]
        details = {"Elements": [element]}
    if is_workload:
        description = f"{what}, allocated to {service} by usage"
    elif service == IDLE:
        description = f"{what}, used by nobody"
    elif service == SYSTEM:
        description = f"{what}, used by the cluster's own pods"
    elif not is_split and (of := resources.kind(resource_id)) in resources.SHARED_BY_ALL:
        description = f"{what}, a cost that all workloads share ({of}), allocated to none"
    else:
        description = f"{what}, tied to no workload"
    cost_center = allocation.get("cost_center")
    tags = {SERVICE_TAG: service} | ({COST_CENTER_TAG: cost_center} if cost_center else {})
    return {
        "AllocatedMethodDetails": None if details is None else orjson.dumps(details).decode(),
        "AllocatedMethodId": None if details is None else METHOD_ID,
        "AllocatedResourceId": service if is_workload else None,
        "AllocatedResourceName": service if is_workload else None,
        "AllocatedTags": orjson.dumps(tags).decode() if is_workload else None,
        "ChargeDescription": description,
    }


def _known(charged: _Charged | None) -> dict[str, object]:
    """The columns that the source rows fill; for a quantity its unit, None if it has no meaning."""
    if charged is None:
        return {}
    if len(charged.labels) == 1:
        return _agreed(tuple((labels, 1) for labels in charged.labels))
    return _agreed(tuple(sorted(charged.labels.items(), key=repr)))


@lru_cache(maxsize=4096)  # neighbouring windows have the same rows
def _agreed(labels: tuple[tuple[Labels, int], ...]) -> Row:
    found: Row = {}
    for i, column in enumerate(AGREED):
        values = {of[i] for of, _ in labels}
        found[column] = values.pop() if len(values) == 1 else None
    for i, column in enumerate(DEAREST, len(AGREED)):
        weight: Counter[str] = Counter()
        for of, units in labels:
            if (value := of[i]) is not None:
                weight[value] += units
        found[column] = min(weight, key=lambda value: (-weight[value], value), default=None)
    found["Tags"] = _tags([of[-1] for of, _ in labels])
    # FOCUS: no quantity without a price, none consumed but by usage, no unit without a quantity.
    is_priced = found["SkuPriceId"] is not None
    kinds = {of[len(AGREED) + list(DEAREST).index("ChargeCategory")] for of, _ in labels}
    if not (is_priced and found["PricingUnit"]):
        found |= dict.fromkeys(("PricingUnit", "ListUnitPrice", "ContractedUnitPrice"))
    if not (is_priced and kinds == {"Usage"}):
        found["ConsumedUnit"] = None
    for column in ("ListUnitPrice", "ContractedUnitPrice"):
        price = _number(found[column])
        found[column] = None if price is None else price.quantize(_PRICE_STEP, context=_WIDE)
    return {**found, "PricingQuantity": found["PricingUnit"], "ConsumedQuantity": found["ConsumedUnit"]}


def _tags(texts: Iterable[str | None]) -> str | None:
    """The tags that all rows have with the same value, as JSON."""
    common: dict[str, object] | None = None
    for text in texts:
        try:
            tags = orjson.loads(text or "{}")
        except ValueError:
            tags = {}
        if isinstance(tags, list):
            tags = {str(pair["key"]): pair.get("value") for pair in tags if isinstance(pair, dict) and "key" in pair}
        pairs = tags if isinstance(tags, dict) else {}
        if common is None:
            common = pairs
        else:
            common = {k: v for k, v in common.items() if k in pairs and pairs[k] == v}
    return orjson.dumps(common, option=orjson.OPT_SORT_KEYS).decode() if common else None


def _time(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text).removesuffix(" UTC"))
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _month(moment: datetime) -> datetime:
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _next_month(moment: datetime) -> datetime:
    return _month(_month(moment) + timedelta(days=32))


# ---- files ------------------------------------------------------------------------------------


def _groups(rows: Iterable[Row], with_provisional: bool) -> Iterator[tuple[Group, list[Row]]]:
    """The rows of cost_allocations by group, in their order, which is that of windows, resources and dimensions."""

    def place(row: Row) -> tuple:
        return row["window_start"], row["resource_id"], row["dimension"]

    for (start, resource_id, dimension), of_place in groupby(rows, key=place):
        by_currency: defaultdict[str, list[Row]] = defaultdict(list)
        for row in of_place:
            if with_provisional or row["cost_status"] != PROVISIONAL:
                by_currency[row["billing_currency"]].append(row)
        for currency, allocations in sorted(by_currency.items()):
            window_ms = round(start.timestamp() * 1000)
            yield (window_ms, resource_id, dimension, currency), allocations


def _of_directory(path: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_A_BATCH):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise JobError(f"{path}: can't be exported ({' '.join(str(error).split())})") from None


def _of_database(url: str) -> Iterator[Row]:
    """In the order of the Parquet file."""
    columns = (
        "window_start", "resource_id", "dimension", "otel_service_name", "usage", "share", "allocated_cost",
        "billing_currency", "cost_status", "cost_center",
    )  # fmt: skip
    order = ", ".join(f'{name} collate "C"' for name in ("resource_id", "dimension", "otel_service_name"))
    query = f"select {', '.join(columns)} from public.cost_allocations order by window_start, {order}, billing_currency"
    for row in postgres.rows(url, "anomaly_cost export_focus", query, ROWS_A_BATCH):
        yield dict(zip(columns, row, strict=True))


def _columns(version: str) -> dict[str, pa.DataType]:
    if version == VERSIONS[0]:
        return TYPES
    types = {name: kind for name, kind in TYPES.items() if name != "InvoiceDetailId"}
    types |= dict.fromkeys(OLD_NAMES, _TEXT)
    return dict(sorted(types.items(), key=lambda item: (item[0].startswith("x_"), item[0])))


def _write_csv(path: Path, columns: Mapping[str, pa.DataType], batches: Iterator[list[Row]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for batch in batches:
            writer.writerows([_cell(row.get(name)) for name in columns] for row in batch)


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return format(value, "f") if isinstance(value, Decimal) else value


def _write_parquet(path: Path, columns: Mapping[str, pa.DataType], batches: Iterator[list[Row]]) -> None:
    schema = pa.schema(list(columns.items()))
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(batch, schema))


WRITERS = {".csv": _write_csv, ".parquet": _write_parquet}


@dataclass
class Summary:
    """What one export did; costs by currency, of the allocated column."""

    rows: int = 0
    costs: Counter[str] = field(default_factory=Counter)
    unexplained: int = 0
    left: int = 0


def export(
    tables: str,
    output: Path,
    source: Path | None = None,
    cost_column: str = "EffectiveCost",
    with_provisional: bool = False,
    version: str = VERSIONS[0],
) -> Summary:
    """Write the dataset to ``output``, whole or not at all.

    tables: a directory, or the URL of a database.

    Raises:
        UsageError: tables, input or output can't be what was meant.
        JobError: a file or the database can't be read.
    """
    path = Path(tables) / "cost_allocations.parquet"
    if "://" not in tables and not path.is_file():
        raise UsageError(f"--tables {tables}: no cost_allocations.parquet there")
    writer = WRITERS.get(output.suffix)
    if writer is None:
        raise UsageError(f"--output {output}: must end in {' or '.join(WRITERS)}")
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: no directory {output.parent}")
    bill = None if source is None else Bill(source, cost_column)
    summary = Summary()
    rows = _of_database(tables) if "://" in tables else _of_directory(path)

    def batches() -> Iterator[list[Row]]:
        batch: list[Row] = []
        for group, allocations in _groups(rows, with_provisional):
            units = sum(to_units(row["allocated_cost"]) for row in allocations)
            charged = None if bill is None else bill.take(group)
            if charged is not None and charged.costs[cost_column] != units:
                charged = None
            if bill is not None and charged is None:
                summary.unexplained += allocations[0]["cost_status"] != PROVISIONAL
            summary.rows += len(allocations)
            summary.costs[group[-1]] += units
            for row in rows_of_group(group, allocations, charged):
                batch.append(row | {old: row[new] for old, new in OLD_NAMES.items()})
            if len(batch) >= ROWS_A_BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    finished = output.with_name(f".{output.name}")
    try:
        writer(finished, _columns(version), batches())
        finished.replace(output)
    finally:
        finished.unlink(missing_ok=True)
    summary.left = 0 if bill is None else bill.left
    return summary


# ---- command ----------------------------------------------------------------------------------


def _arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(
        prog=prog,
        description="cost_allocations as a FOCUS CostAndUsage dataset.",
    )
    parser.add_argument("--tables", required=True, metavar="DIR|URL", help="the job's --output")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help=".csv or .parquet")
    parser.add_argument("--input", type=Path, metavar="DIR", help="the job's --input: fills in what the bill says")
    parser.add_argument("--cost-column", choices=COST_COLUMNS, default="EffectiveCost", help="the job's cost.column")
    parser.add_argument("--provisional", action="store_true", help="rows without a bill, too")
    parser.add_argument("--focus-version", choices=VERSIONS, default=VERSIONS[0])
    return parser.parse_args(argv)


def main(argv: Sequence[str], prog: str = "python -m jobs.export_focus") -> int:
    """Exit status: 0, 2 for wrong use, 1 for what failed; the last two with one line."""
    try:
        arguments = _arguments(argv, prog)
        summary = export(
            arguments.tables,
            arguments.output,
            arguments.input,
            arguments.cost_column,
            arguments.provisional,
            arguments.focus_version,
        )
    except (UsageError, JobError, OSError) as error:
        return ended("export_focus", error)
    costs = ", ".join(f"{to_decimal(u):f} {c}" for c, u in sorted(summary.costs.items()))
    print(f"export_focus: {summary.rows:,} rows, {costs or 'no cost'}", file=sys.stderr)
    if summary.unexplained or summary.left:
        print(
            f"export_focus: --input doesn't fit the tables: {summary.unexplained:,} windows of a resource"
            f" and dimension differ from it, {summary.left:,} of it are not in them",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
