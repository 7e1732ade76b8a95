"""collect: OTLP and FOCUS bytes to fragments, charges and rejects; each request is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import orjson
import pandas as pd
from pyflink.table.udf import udf, udtf

from udfs.pure import focus, otlp

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


@udtf(result_types=["STRING", "STRING", "STRING", "STRING"])
def collect_charges(path: str, cost_column: str) -> Iterator[tuple]:
    """A billing file -> a row each: (resource_id, charge_key, charge JSON, NULL) or (.., .., .., reject)."""
    for kind, value in focus.collect_charges(path, cost_column):
        if kind == "reject":
            yield None, None, None, value
        else:
            yield value["resource_id"], value["key"], orjson.dumps(value).decode(), None


@udtf(result_types=["STRING", "STRING", "STRING", "BIGINT"])
def reject_columns(reject: str) -> Iterator[tuple]:
    """A reject as JSON -> (stream, reason, payload, event_time_ms or NULL)."""
    fields = orjson.loads(reject)
    yield fields["stream"], fields["reason"], fields["payload"], fields["event_time_ms"]
