"""The floor: decode and write, nothing else, as a Collector does. OTLP/JSON in, Parquet out, one process."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.arms import shared

if __name__ == "__main__":
    chosen = shared.arguments(__doc__.splitlines()[0])
    pq.write_table(pa.table(shared.spans(chosen.input)), chosen.output / "spans.parquet")
