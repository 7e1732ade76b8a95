"""What a wrong clock sends is rejected, with what to do; the rest is as if it hadn't been sent."""

from __future__ import annotations

import time
from pathlib import Path

from tests.literal import (
    HOUR_MS,
    MINUTE_MS,
    NOON_MS,
    charge,
    cpu_gauge,
    resource,
    span,
    span_request,
    write_bill,
    write_lines,
)


def _world(target: Path, ahead_ms: int | None) -> None:
    """An hour of one workload; and a trace, a point of usage and a charge that are ahead."""
    cart = resource("cart", "cart-1", "node-1")
    traces = [(number, NOON_MS + number * MINUTE_MS) for number in range(1, 61)]
    points = [(NOON_MS + number * MINUTE_MS, 0.2) for number in range(61)]
    bill = [charge("node-1", NOON_MS, NOON_MS + HOUR_MS, "1")] + [
        charge("node-1", NOON_MS - hour * HOUR_MS, NOON_MS - (hour - 1) * HOUR_MS, "1") for hour in (1, 2)
    ]
    if ahead_ms is not None:
        traces.append((61, ahead_ms))
        points += [(ahead_ms, 0.2), (ahead_ms + MINUTE_MS, 0.2)]
        bill.append(charge("node-1", ahead_ms, ahead_ms + HOUR_MS, "1"))
    write_lines(
        target / "traces/a.jsonl",
        [span_request((cart, [span(number, 1, None, start_ms, 5)])) for number, start_ms in traces],
    )
    write_lines(target / "metrics/a.jsonl", [cpu_gauge(cart, [point]) for point in points])
    write_bill(target / "billing/a.csv", bill)


def test_what_is_ahead_is_rejected_and_the_rest_is_as_without_it(job, tmp_path: Path) -> None:
    day_ms = 24 * HOUR_MS
    ahead_ms = (int(time.time() * 1000) // day_ms + 400) * day_ms
    _world(tmp_path / "right", None)
    _world(tmp_path / "wrong", ahead_ms)
    expected, found = (job(tmp_path / name, "detector=usual") for name in ("right", "wrong"))
    for name in ("trace_verdicts", "cost_allocations", "ranked_anomalies"):
        assert found[name].equals(expected[name]), name
    assert expected["rejected_records"].num_rows == 0
    rejects = found["rejected_records"].to_pylist()
    assert {row["stream"] for row in rejects} == {"otlp_spans", "otlp_metrics", "focus_charges"}
    assert all("correct" in row["reason"] for row in rejects)
