"""assemble: the fragments of a trace to the packed trace that the detector reads."""

from __future__ import annotations

from base64 import b64encode

import pandas as pd
from pyflink.table.udf import udf

from udfs.pure import assemble as pure


# STRING and not BYTES: a minute's traces are gathered by an aggregate that has to take back the
# earlier state of a trace, and the engine finds no byte array equal to another.
@udf(
    result_type="ROW<minute_ms BIGINT, packed STRING>", func_type="pandas", deterministic=False
)
def assemble(trace_ids: pd.Series, fragments: pd.Series) -> pd.DataFrame:
    """trace_id, ARRAY<BYTES> fragments -> the minute its first span starts in, the packed trace as base64.

    Both are NULL for a trace of which there are only logs.
    """
    minutes: list[int | None] = []
    packed: list[str | None] = []
    for trace_id, parts in zip(trace_ids, fragments, strict=True):
        trace = pure.assemble(trace_id, list(parts))
        minutes.append(trace and trace[0])
        packed.append(trace and b64encode(trace[1]).decode("ascii"))
    # As objects: a column of integers with a NULL would become one of floats.
    return pd.DataFrame({"minute_ms": pd.Series(minutes, dtype=object), "packed": packed})
