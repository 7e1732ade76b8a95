"""What comes beside a bill and says of it what is complete, and how one delivery follows another.

A time sector is complete, or it is not (TimeSectorComplete); a billing period is open or closed (BillingPeriodStatus).
Where either says that a charge's time is complete, it is; where one says that it isn't, and none that it is, the charge
counts and is provisional. Where nothing is said, a bill is a bill.

Sources (github.com/FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec, specification/):
- FOCUS 1.3, metadata/recency: Recency and its TimeSectors; a file an object, at ``metadata/recency/recency-ID.json``
  as in the specification's examples, or a collection of objects, or all metadata in one file.
- FOCUS 1.4, datasets/billing_period: a dataset of its own, joined by BillingPeriodStart and InvoiceIssuerName.
- FOCUS 1.4, attributes/delivery_handling.md: Overwrite and Append. A data generator documents which of them it uses: no
  property of the metadata says so, so ``DeliveryHandling`` in an object of Dataset Instance is ours.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from udfs.pure.focus import COMPLETE_COLUMN, FocusRow, UnreadableBill, delivery_name, read_rows, time_ms
from udfs.pure.reject import RejectedRecord

Period = tuple[int, int]  # [start, end) in ms

_METADATA = re.compile(r"(?P<root>(?:.*/)?)metadata/(?:.*/)?[^/]+\.json")
_PERIODS = re.compile(r"(?:focus[-_ ]?)?billing[-_ ]?periods?", re.IGNORECASE)
_COST_AND_USAGE = "CostAndUsage"
_CLOSED, _OPEN, _APPEND = "closed", "open", "append"


def is_metadata(path: str) -> bool:
    """Whether a file may hold metadata of FOCUS, by its name."""
    return bool(_METADATA.fullmatch(path))


def is_billing_periods(path: str) -> bool:
    """Whether a file may hold the dataset Billing Period, by its name or that of a folder."""
    *folders, _ = path.split("/")
    return any(map(_PERIODS.fullmatch, (*folders, delivery_name(path))))


@dataclass(frozen=True)
class Completeness:
    """What a provider says of a delivery's times.

    Attributes:
        complete, incomplete: time sectors, those that follow each other as one, ascending. Where they overlap, a time
            is incomplete.
        closed: by InvoiceIssuerName and BillingPeriodStart (ms), whether it is closed.
    """

    complete: tuple[Period, ...] = ()
    incomplete: tuple[Period, ...] = ()
    closed: tuple[tuple[str, int, bool], ...] = ()

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Completeness:
        """Of its fields as JSON has them."""
        return cls(**{name: tuple(map(tuple, values)) for name, values in fields.items()})

    def __bool__(self) -> bool:
        return bool(self.complete or self.incomplete or self.closed)

    def before(self, end_ms: int | None) -> Completeness:
        """What is said of times before one; None = of all."""
        if end_ms is None:
            return self
        return Completeness(
            tuple((start, min(end, end_ms)) for start, end in self.complete if start < end_ms),
            tuple((start, min(end, end_ms)) for start, end in self.incomplete if start < end_ms),
            tuple(entry for entry in self.closed if entry[1] < end_ms),
        )

    def marked(self, rows: Iterable[dict[str, object]]) -> Iterator[dict[str, object]]:
        """The rows, those with COMPLETE_COLUMN ``false`` whose time is said not to be complete."""
        closed = {(issuer, start_ms): is_closed for issuer, start_ms, is_closed in self.closed}
        for cells in rows:
            yield {**cells, COMPLETE_COLUMN: "false"} if self._is_open(FocusRow(cells), closed) else cells

    def _is_open(self, row: FocusRow, closed: Mapping[tuple[str, int], bool]) -> bool:
        try:
            start, end = (time_ms(row[name], name) for name in ("ChargePeriodStart", "ChargePeriodEnd"))
            billed = _issuer(row), time_ms(row["BillingPeriodStart"], "BillingPeriodStart") if closed else 0
        except RejectedRecord:
            return False
        if closed.get(billed):
            return False
        if _overlapping(self.incomplete, start, end):
            return True
        within = _overlapping(self.complete, start, end)
        is_complete = within is not None and within[0] <= start and end <= within[1]
        return not is_complete and closed.get(billed) is False


def _overlapping(periods: tuple[Period, ...], start_ms: int, end_ms: int) -> Period | None:
    """The last of the periods that overlaps [start, end)."""
    place = bisect_right(periods, (end_ms - 1, 1 << 62)) - 1
    return periods[place] if place >= 0 and periods[place][1] > start_ms else None


class _About(NamedTuple):
    """What an object of metadata says. root: what lies below it is what it is about, unless ``instance``, the id of its
    dataset instance, is part of a path there: then that is."""

    root: str
    instance: str
    sectors: tuple[tuple[int, int, bool], ...]
    is_append: bool


class Metadata:
    """All that is said in a place."""

    def __init__(self, contents: Mapping[str, bytes], bills: Iterable[str]) -> None:
        """contents: path -> content, of files by ``is_metadata`` or ``is_billing_periods``. bills: paths of all bills.

        ``tables``: paths of the dataset Billing Period. ``unread``: path -> why it isn't read.
        """
        self.tables: set[str] = set()
        self.unread: dict[str, str] = {}
        self._about: list[_About] = []
        self._closed: dict[tuple[str, int], tuple[int, str, bool]] = {}
        for path, content in sorted(contents.items()):
            if place := _METADATA.fullmatch(path):
                try:
                    self._about += _objects(orjson.loads(content.removeprefix(b"\xef\xbb\xbf")), place["root"], "")
                except (ValueError, RecursionError) as error:
                    what = error.reason if isinstance(error, RejectedRecord) else "not JSON"
                    self.unread[path] = f"{what}, so that nothing is known of what is complete by it"
            elif is_billing_periods(path):
                self._take_periods(path, content)
        instances = {about.instance for about in self._about if about.instance}
        self._named = {instance for instance in instances if any(instance in path for path in bills)}

    def _take_periods(self, path: str, content: bytes) -> None:
        """Of a billing period what was updated last counts."""
        wanted = [("BillingPeriodStart",), ("BillingPeriodStatus",), ("InvoiceIssuerName",)]
        try:
            rows = [FocusRow(cells) for cells in read_rows(path, wanted, lambda: io.BytesIO(content))]
            self.tables.add(path)
            for row in rows:
                status = (row.text("BillingPeriodStatus") or "").casefold()
                if status not in (_OPEN, _CLOSED):
                    raise RejectedRecord(f"BillingPeriodStatus {status!r} is neither Open nor Closed")
                start, updated = row["BillingPeriodStart"], row["BillingPeriodLastUpdated"]
                key = _issuer(row), time_ms(start, "BillingPeriodStart")
                told = time_ms(updated, "BillingPeriodLastUpdated") if updated else 0, path, status == _CLOSED
                self._closed[key] = max(self._closed.get(key, told), told)
        except UnreadableBill:
            return  # a bill, whatever its name
        except RejectedRecord as error:
            self.unread[path] = f"{error.reason}, so that nothing is known of the billing period"

    def is_append(self, path: str) -> bool:
        """Whether a later delivery adds to what the file is of."""
        return any(about.is_append for about in self._of(path))

    def completeness(self, paths: Iterable[str]) -> Completeness:
        """What is said of the times of some files."""
        of = {about for path in paths for about in self._of(path)}
        sectors = [sector for about in of for sector in about.sectors]
        return Completeness(
            _merged(sectors, True),
            _merged(sectors, False),
            tuple(
                (issuer, start_ms, is_closed) for (issuer, start_ms), (*_, is_closed) in sorted(self._closed.items())
            ),
        )

    def _of(self, path: str) -> Iterator[_About]:
        for about in self._about:
            if path.startswith(about.root) and (about.instance not in self._named or about.instance in path):
                yield about


def _objects(node: Any, root: str, instance: str) -> Iterator[_About]:
    """What the objects within a JSON document say that are not of another dataset than CostAndUsage."""
    if isinstance(node, list):
        for each in node:
            yield from _objects(each, root, instance)
    elif isinstance(node, dict) and node.get("FocusDatasetId", _COST_AND_USAGE) == _COST_AND_USAGE:
        instance = str(node.get("DatasetInstanceId") or instance)
        sectors = tuple(map(_sector, node.get("TimeSectors") or ()))
        is_append = str(node.get("DeliveryHandling")).casefold() == _APPEND
        if sectors or is_append:
            yield _About(root, instance, sectors, is_append)
        for name, each in node.items():
            if name != "TimeSectors" and isinstance(each, (dict, list)):
                yield from _objects(each, root, instance)


def _sector(node: Any) -> tuple[int, int, bool]:
    """(start, end, whether it is complete). Raises RejectedRecord."""
    is_complete = node.get("TimeSectorComplete") if isinstance(node, dict) else None
    if not isinstance(is_complete, bool):
        raise RejectedRecord("a time sector without TimeSectorComplete true or false")
    start, end = (_moment(node.get(name), name) for name in ("TimeSectorStart", "TimeSectorEnd"))
    return start, end, is_complete


def _moment(value: object, name: str) -> int:
    """In ms. The specification's own examples have a small z, and hours of one digit."""
    return time_ms(re.sub(r"T(\d):", r"T0\1:", value.upper()) if isinstance(value, str) else value, name)


def _merged(sectors: Iterable[tuple[int, int, bool]], is_complete: bool) -> tuple[Period, ...]:
    """Those that are complete, or those that aren't, ascending, as few as they can be."""
    found: list[Period] = []
    for start, end, _ in sorted(sector for sector in sectors if sector[2] == is_complete):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return tuple(found)


def _issuer(row: FocusRow) -> str:
    return (row.text("InvoiceIssuerName") or "").casefold()
