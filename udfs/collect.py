"""collect: OTLP and FOCUS bytes to fragments, charges and rejects; each request is decoded once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Set

import orjson
import pandas as pd
from pyflink.table.udf import (
    FunctionContext,
    ScalarFunction,
    TableFunction,
    UserDefinedScalarFunctionWrapper,
    UserDefinedTableFunctionWrapper,
    udf,
    udtf,
)

from udfs import metrics
from udfs.pure import bills, focus, otlp, rates
from udfs.pure.feedback import collect_feedback as feedback_of
from udfs.pure.focus_record import collect_charge_record
from udfs.pure.rates import Exchange
from udfs.pure.resources import Resources

_COLLECTED = "ROW<fragments MAP<STRING, BYTES>, pods MAP<STRING, BYTES>, rejects ARRAY<STRING>>"


class _Collect(ScalarFunction):
    """A request a row; an empty line is nothing, and neither is a message without a value.

    What requests that come together say of one trace, or of one consumer, goes on as one fragment: a trace's spans come
    from many exporters that flush each second. It stands in the first of these rows, the others are empty. They are
    read as sets of spans or points, so it doesn't matter which requests came together.
    """

    # What requests become, beside their rejects.
    parts: tuple[str, ...] = ("fragments", "pods")
    # The metric that counts the records that can be used.
    counted: str | None = None

    def open(self, context: FunctionContext) -> None:
        self._rejected = metrics.counter(context, "rejected")
        self._records = metrics.counter(context, self.counted) if self.counted else None

    def is_deterministic(self) -> bool:
        """Keeps the planner from copying the call once for each mention of its result."""
        return False

    @abstractmethod
    def collect(self, *lines: bytes) -> tuple:
        """The parts of requests, and their rejects."""

    def records(self, fragments: dict[str, bytes]) -> int:
        """How many records the fragments of requests hold."""
        return 0

    def eval(self, lines: pd.Series) -> pd.DataFrame:
        """BYTES -> a row of the parts and the rejects."""
        rows: list[tuple] = []
        for together in _together(lines):
            *parts, rejects = self.collect(*together)
            self._rejected.inc(len(rejects))
            if self._records:
                self._records.inc(self.records(parts[0]))
            rows += [(*parts, rejects), *[(*({} for _ in parts), [])] * (len(together) - 1)]
        return pd.DataFrame(rows, columns=[*self.parts, "rejects"])


def _together(lines: Iterable[bytes | None]) -> Iterator[list[bytes]]:
    """Requests in a row that hold no more bytes than one may."""
    together: list[bytes] = []
    held = 0
    for line in (line or b"" for line in lines):
        held += len(line)
        if together and held > otlp.MAX_REQUEST_BYTES:
            yield together
            together, held = [], len(line)
        together.append(line)
    if together:
        yield together


class _CollectSpans(_Collect):
    """ExportTraceServiceRequest -> fragments by trace_id, pods, rejects."""

    counted = "spans_in"

    def __init__(self, resources: Resources, traits: Set[str]) -> None:
        self._resources, self._traits = resources, traits

    def collect(self, *lines: bytes) -> tuple:
        return otlp.collect_spans(*lines, resources=self._resources, traits=self._traits)

    def records(self, fragments: dict[str, bytes]) -> int:
        return sum(len(spans) for packed in fragments.values() for _, _, _, spans, *_ in orjson.loads(packed)[1])


class _CollectMetrics(_Collect):
    """ExportMetricsServiceRequest -> fragments by bucket and consumer, pods, rejects."""

    counted = "usage_points_in"

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def collect(self, *lines: bytes) -> tuple:
        return otlp.collect_metrics(*lines, resources=self._resources)

    def records(self, fragments: dict[str, bytes]) -> int:
        # A point stands in its bucket and in neighbours.
        return len({
            (key.partition(otlp.SEPARATOR)[2], dimension, series, time_ns)
            for key, packed in fragments.items()
            for dimension, _, series, _, _, time_ns, _ in orjson.loads(packed)
        })  # fmt: skip


class _CollectLogs(_Collect):
    """ExportLogsServiceRequest -> fragments by trace_id, rejects."""

    parts = ("fragments",)

    def collect(self, *lines: bytes) -> tuple:
        return otlp.collect_logs(*lines)


def collect_spans(resources: Resources, traits: Set[str] = frozenset()) -> UserDefinedScalarFunctionWrapper:
    """Function of a request of traces; resources: what ties telemetry to the bill. traits: see otlp.collect_spans."""
    return udf(_CollectSpans(resources, traits), result_type=_COLLECTED, func_type="pandas", deterministic=False)


def collect_metrics(resources: Resources) -> UserDefinedScalarFunctionWrapper:
    """Function of a request of metrics; resources as of collect_spans."""
    return udf(_CollectMetrics(resources), result_type=_COLLECTED, func_type="pandas", deterministic=False)


collect_logs = udf(
    _CollectLogs(),
    result_type="ROW<fragments MAP<STRING, BYTES>, rejects ARRAY<STRING>>",
    func_type="pandas",
    deterministic=False,
)


class _Charges(TableFunction):
    """What both ways to read charges share: a row is a charge, with what it tells of its SKU's rate, or a reject."""

    def __init__(self, cost_column: str, exchange: Exchange | None) -> None:
        self._cost_column = cost_column
        self._exchange = exchange

    def open(self, context: FunctionContext) -> None:
        self._rejected = metrics.counter(context, "rejected")

    def _row(self, value: dict | str) -> tuple:
        if isinstance(value, str):
            self._rejected.inc()
            return reject_row(value)
        return charge_row(value)


class _CollectCharges(_Charges):
    """A delivery of a bill, as ``bills.delivery_text`` tells it -> a row each."""

    def eval(self, delivery: str) -> Iterator[tuple]:
        for _, _, value in bills.collect(delivery, self._cost_column, self._exchange):
            yield self._row(value)


class _CollectChargeRecord(_Charges):
    """A FOCUS row as a JSON object, and when it was delivered (ISO text) -> the same, one row."""

    def eval(self, line: bytes, delivered: str) -> Iterator[tuple]:
        yield self._row(collect_charge_record(line or b"", delivered, self._cost_column, self._exchange)[1])


def charge_row(charge: dict) -> tuple:
    """(resource_id, charge_key, charge JSON, sku, offered_ms, offer, NULL); the three of rates.offer or NULL."""
    return (
        charge["resource_id"],
        focus.charge_key(charge),
        orjson.dumps(charge).decode(),
        *((None if charge.get("withdrawn") else rates.offer(charge)) or (None, None, None)),
        None,
    )


def reject_row(reject: str) -> tuple:
    """The same columns for a reject."""
    return (*(None,) * 6, reject)


_CHARGE_TYPES = ["STRING", "STRING", "STRING", "STRING", "BIGINT", "STRING", "STRING"]


def collect_charges(cost_column: str, exchange: Exchange | None) -> UserDefinedTableFunctionWrapper:
    """Table function of a delivery of a bill; exchange: see focus.collect_charge."""
    return udtf(_CollectCharges(cost_column, exchange), result_types=_CHARGE_TYPES)


def collect_charge_records(cost_column: str, exchange: Exchange | None) -> UserDefinedTableFunctionWrapper:
    """Table function of a record (BYTES) and when it was delivered."""
    return udtf(_CollectChargeRecord(cost_column, exchange), result_types=_CHARGE_TYPES)


@udtf(result_types=["STRING", "STRING", "STRING", "BIGINT", "STRING"])
def reject_columns(reject: str) -> Iterator[tuple]:
    """A reject as JSON -> (stream, reason, payload, event_time_ms or NULL, reason_code)."""
    fields = orjson.loads(reject)
    yield fields["stream"], fields["reason"], fields["payload"], fields["event_time_ms"], fields["code"]


@udtf(result_types=["STRING", "BYTES", "STRING"])
def collect_feedback(line: bytes) -> Iterator[tuple]:
    """What somebody said of incidents (BYTES) -> (said_key, said, NULL) or (NULL, NULL, reject)."""
    found = feedback_of(line or b"")
    if found:
        yield found
