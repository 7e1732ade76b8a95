"""A shop whose pay service stalls: the smallest world of which the job ranks anomalies."""

from __future__ import annotations

import random
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

NAMES = ("cart", "search", "pay")


def write_shop(target: Path) -> None:
    """Two hours of three workloads on two nodes, 399 traces; pay stalls in the second hour."""
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
    write_lines(target / "traces/shop.jsonl", requests)
    write_lines(target / "metrics/shop.jsonl", metrics)
    write_bill(
        target / "billing/shop.csv",
        [
            charge(
                f"node-{flag}",
                NOON_MS + h * HOUR_MS,
                NOON_MS + (h + 1) * HOUR_MS,
                f"0.{h}371{h}",
                unit,
                SkuId=f"sku-{flag}",
            )
            for flag in (True, False)
            for h in range(2)
            for unit in ("Hours", "GB-Hours")
        ],
    )
