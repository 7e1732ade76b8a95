"""assemble: the fragments of a trace to the packed trace that the detector reads."""

from __future__ import annotations

from base64 import b64encode
from hashlib import blake2b

import pandas as pd
from pyflink.table.udf import udf

from udfs.pure import assemble as pure
from udfs.pure.cache import Bounded

# What versions of traces were assembled to. The engine asks for each twice: when it comes, and when it takes it back
# for the next one.
_assembled: Bounded[tuple[int | None, str | None]] = Bounded(64 << 20)
# Beside the text: key, tuple and number.
_ENTRY_BYTES = 300


def _assemble(trace_id: str, fragments: list[bytes]) -> tuple[int | None, str | None]:
    """Minute and packed trace as base64."""
    version = blake2b(b"".join([trace_id.encode(), *fragments]), digest_size=16).digest()
    found = _assembled.take(version)
    if found is None:
        trace = pure.assemble(trace_id, fragments)
        found = (trace[0], b64encode(trace[1]).decode("ascii")) if trace else (None, None)
        _assembled.put(version, found, len(found[1] or "") + _ENTRY_BYTES)
    return found


# STRING and not BYTES: a minute's traces are gathered by an aggregate that has to take back the
# earlier state of a trace, and the engine finds no byte array equal to another.
@udf(result_type="ROW<minute_ms BIGINT, packed STRING>", func_type="pandas", deterministic=False)
def assemble(trace_ids: pd.Series, fragments: pd.Series) -> pd.DataFrame:
    """trace_id, ARRAY<BYTES> fragments -> the minute its first span starts in, the packed trace as base64.

    Both are NULL for a trace of which there are only logs.
    """
    found = [_assemble(trace_id, list(parts)) for trace_id, parts in zip(trace_ids, fragments, strict=True)]
    # As objects: a column of integers with a NULL would become one of floats.
    return pd.DataFrame(found, columns=["minute_ms", "packed"], dtype=object)
