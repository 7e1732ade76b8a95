"""The tables are a function of the set of records: not of files, order, batches or parallelism."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

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
from tests.reshuffle import reshuffle

NAMES = ("cart", "search", "pay")


def _world(target: Path) -> None:
    """Two hours of three workloads on two nodes; pay stalls in the second hour."""
    draw = random.Random(5)
    requests, metrics = [], []
    for trace in range(1, 400):
        start_ms = NOON_MS + trace * 18_000 + 0.25
        stall_ms = 900 if trace > 250 and trace % 3 == 0 else 0
        pay_ms = draw.uniform(8, 12) + stall_ms
        spans = {
            "cart": span(trace, 1, None, start_ms, pay_ms + draw.uniform(9, 11), name="GET /cart"),
            "search": span(trace, 2, 1, start_ms + 1, draw.uniform(2, 3), name="find"),
            "pay": span(trace, 3, 1, start_ms + 4, pay_ms, name="charge"),
        }
        requests += [span_request((resource(name, f"{name}-1", f"node-{name < 'd'}"), [spans[name]])) for name in NAMES]
    for minute in range(121):
        metrics += [
            cpu_gauge(
                resource(name, f"{name}-1", f"node-{name < 'd'}"),
                [(NOON_MS + minute * MINUTE_MS, draw.uniform(0.1, 0.3))],
            )
            for name in NAMES
        ]
    write_lines(target / "traces/a.jsonl", requests)
    write_lines(target / "metrics/a.jsonl", metrics)
    write_bill(
        target / "billing/a.csv",
        [
            charge(f"node-{flag}", NOON_MS + h * HOUR_MS, NOON_MS + (h + 1) * HOUR_MS, f"0.{h}371{h}", unit)
            for flag in (True, False)
            for h in range(2)
            for unit in ("Hours", "GB-Hours")
        ],
    )


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("worlds")
    _world(folder / "ordered")
    reshuffle(folder / "ordered", folder / "shuffled")
    return folder / "ordered", folder / "shuffled"


def test_order_split_repetition_batches_and_parallelism_do_not_show(job, worlds) -> None:
    ordered, shuffled = worlds
    reference = job(ordered, "parallelism.default=1")
    others = {
        "shuffled, parallelism 2": job(shuffled, "parallelism.default=2"),
        "batches of one": job(
            shuffled,
            "parallelism.default=1",
            "python.fn-execution.arrow.batch.size=1",
            "python.fn-execution.bundle.size=3",
            "table.exec.mini-batch.size=7",
        ),
    }
    assert reference["trace_verdicts"].num_rows == 399
    assert reference["ranked_anomalies"].num_rows > 0
    for name in ("ranked_anomalies", "trace_verdicts", "cost_allocations", "charge_anomalies"):
        for way, tables in others.items():
            assert tables[name].equals(reference[name]), f"{name} differs: {way}"
