"""collect: OTLP and FOCUS bytes to fragments, charges and rejects; each request is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import orjson
import pandas as pd
from pyflink.table.udf import TableFunction, UserDefinedTableFunctionWrapper, udf, udtf

from udfs.pure import focus, otlp, rates
from udfs.pure.focus_record import collect_charge_record
from udfs.pure.rates import Exchange

_COLLECTED = (
    "ROW<fragments MAP<STRING, BYTES>, pods MAP<STRING, BYTES>, rejects ARRAY<STRING>>"
)


def _collected(lines: pd.Series, collect: Callable[[bytes], tuple]) -> pd.DataFrame:
    """One row a request; an empty line is nothing."""
    fragments, pods, rejects = zip(*(collect(line) for line in lines), strict=True)
    return pd.DataFrame({"fragments": fragments, "pods": pods, "rejects": rejects})


# deterministic=False keeps the planner from copying the call once for each mention of its result.
@udf(result_type=_COLLECTED, func_type="pandas", deterministic=False)
def collect_spans(lines: pd.Series) -> pd.DataFrame:
    """BYTES (ExportTraceServiceRequest) -> fragments by trace_id, pods, rejects."""
    return _collected(lines, otlp.collect_spans)


@udf(result_type=_COLLECTED, func_type="pandas", deterministic=False)
def collect_metrics(lines: pd.Series) -> pd.DataFrame:
    """BYTES (ExportMetricsServiceRequest) -> fragments by bucket and consumer, pods, rejects."""
    return _collected(lines, otlp.collect_metrics)


@udf(
    result_type="ROW<fragments MAP<STRING, BYTES>, rejects ARRAY<STRING>>",
    func_type="pandas",
    deterministic=False,
)
def collect_logs(lines: pd.Series) -> pd.DataFrame:
    """BYTES (ExportLogsServiceRequest) -> fragments by trace_id, rejects."""
    fragments, rejects = zip(*(otlp.collect_logs(line) for line in lines), strict=True)
    return pd.DataFrame({"fragments": fragments, "rejects": rejects})


class _CollectCharges(TableFunction):
    """A billing file -> a row each: a charge, with what it tells of its SKU's rate, or a reject."""

    def __init__(self, cost_column: str, exchange: Exchange | None) -> None:
        self._cost_column = cost_column
        self._exchange = exchange

    def eval(self, path: str) -> Iterator[tuple]:
        for kind, value in focus.collect_charges(path, self._cost_column, self._exchange):
            yield reject_row(value) if kind == "reject" else charge_row(value)


class _CollectChargeRecord(_CollectCharges):
    """A FOCUS row as a JSON object, and when it was delivered (ISO text) -> the same, one row."""

    def eval(self, line: bytes, delivered: str) -> Iterator[tuple]:
        kind, value = collect_charge_record(line or b"", delivered, self._cost_column, self._exchange)
        yield reject_row(value) if kind == "reject" else charge_row(value)


def charge_row(charge: dict) -> tuple:
    """(resource_id, charge_key, charge JSON, sku, offered_ms, offer, NULL); the three of rates.offer or NULL."""
    return (
        charge["resource_id"],
        focus.charge_key(charge),
        orjson.dumps(charge).decode(),
        *(rates.offer(charge) or (None, None, None)),
        None,
    )


def reject_row(reject: str) -> tuple:
    """The same columns for a reject."""
    return (*(None,) * 6, reject)


_CHARGE_TYPES = ["STRING", "STRING", "STRING", "STRING", "BIGINT", "STRING", "STRING"]


def collect_charges(
    cost_column: str, exchange: Exchange | None
) -> UserDefinedTableFunctionWrapper:
    """Table function of a billing file's path; exchange: see focus.collect_charge."""
    return udtf(_CollectCharges(cost_column, exchange), result_types=_CHARGE_TYPES)


def collect_charge_records(
    cost_column: str, exchange: Exchange | None
) -> UserDefinedTableFunctionWrapper:
    """Table function of a record (BYTES) and when it was delivered."""
    return udtf(_CollectChargeRecord(cost_column, exchange), result_types=_CHARGE_TYPES)


@udtf(result_types=["STRING", "STRING", "STRING", "BIGINT"])
def reject_columns(reject: str) -> Iterator[tuple]:
    """A reject as JSON -> (stream, reason, payload, event_time_ms or NULL)."""
    fields = orjson.loads(reject)
    yield fields["stream"], fields["reason"], fields["payload"], fields["event_time_ms"]
