"""The table in the terminal: what it says, and that it fits."""

from __future__ import annotations

import pytest

from jobs.errors import JobError
from jobs.report.terminal import _text_width, ranked_table
from tests.unit.literal_tables import write_outputs

T0 = 1_767_571_200_000  # 2026-01-05T00:00Z
WINDOW = 1_800_000


def ranked(service: str, score: float, rank: int = 1, window: int = 0, **columns) -> dict:
    return {
        "anomaly_id": f"{window}/{service}",
        "window_start": T0 + window * WINDOW,
        "window_end": T0 + (window + 1) * WINDOW,
        "otel_service_name": service,
        "rank": rank,
        "cost_weighted_score": score,
        "anomaly_score": 12.5,
        "threshold": 3.0,
        "anomalous_traces": 12,
        "total_traces": 3_400,
        "attributed_cost": "0.0123",
        "billing_currency": "USD",
        "cost_status": "billed",
        "anomaly_kind": "latency_spike",
    } | columns


def allocation(service: str, cost: str, whole: str, **columns) -> dict:
    return {
        "window_start": T0,
        "resource_id": "node-1",
        "dimension": "cpu",
        "otel_service_name": service,
        "resource_cost": whole,
        "allocated_cost": cost,
        "billing_currency": "USD",
        "cost_status": "billed",
    } | columns


RUN = {
    "ranked_anomalies": [
        ranked("cart", 0.2, rank=2),
        ranked("payment", 0.9),
        ranked("search", 0.5, window=1, cost_status="provisional"),
    ],
    "trace_verdicts": [
        {"trace_id": f"{i:032x}", "span_count": 10, "is_anomalous": i < 3, "verdict_state": "ready"} for i in range(8)
    ],
    "cost_allocations": [
        allocation("cart", "0.6", "1"),
        allocation("__idle__", "0.3", "1"),
        allocation("__unallocated__", "0.100000000000", "1"),
        allocation("__unallocated__", "0.000000000001", "0.000000000001", dimension="io"),
    ],
    "rejected_records": [{"stream": "focus_charges", "reason": "no currency", "payload": "{}"}] * 2,
}


def rows_of(text: str) -> list[list[str]]:
    lines = text.split("\n")
    rule = next(i for i, line in enumerate(lines) if line.startswith("─"))
    return [line.split() for line in lines[rule + 1 : lines.index("", rule)]]


def test_rows_are_ordered_over_the_run_and_keep_their_rank_in_the_window(tmp_path):
    rows = rows_of(ranked_table(write_outputs(tmp_path, **RUN), width=120))
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("1", "1", "payment"), ("2", "1", "search"), ("3", "2", "cart"),
    ]  # fmt: skip
    assert rows[0][2:4] == ["01-05", "00:00"]
    assert rows[0][-5:] == ["–", "0.9000", "0.01230", "12/3,400", "billed"]
    assert rows[1][-1] == "provisional"


def test_the_limit_cuts_the_table_and_the_heading_says_so(tmp_path):
    text = ranked_table(write_outputs(tmp_path, **RUN), limit=1, width=120)
    assert len(rows_of(text)) == 1 and "1 of 3" in text


def test_the_summary_accounts_for_every_trace_dollar_and_reject(tmp_path):
    text = ranked_table(write_outputs(tmp_path, **RUN), width=120)
    assert "8 traces, 3 anomalous (37.5 %); 80 spans" in text
    assert "USD 1.000000000001 charged = 0.6 allocated + 0.3 idle + 0.100000000001 unallocated" in text
    assert "LOST" not in text
    assert "2 records rejected\n  2 of focus_charges: no currency" in text


def test_money_that_leaks_is_shown(tmp_path):
    leaky = [allocation("cart", "0.6", "1")]
    assert "0.4 LOST" in ranked_table(write_outputs(tmp_path, cost_allocations=leaky), width=120)


@pytest.mark.parametrize("width", [10, 80, 100, 133, 160, 400])
def test_every_line_fits_the_width_and_numbers_are_whole(tmp_path, width):
    names = [
        "a-service-with-a-name-that-goes-on-and-on.production.example",
        "决済サービス" * 6,
        "x",
    ]
    rows = [
        ranked(name, 1.0 + i, window=i, anomaly_kind="dependency_failure", cost_status="provisional")
        for i, name in enumerate(names)
    ]
    text = ranked_table(write_outputs(tmp_path, **(RUN | {"ranked_anomalies": rows})), width=width)
    assert max(map(_text_width, text.split("\n"))) <= min(max(width, 80), 160)
    assert text.count("0.01230") == 3 and text.count("12/3,400") == 3


def test_names_cannot_steer_the_terminal(tmp_path):
    hostile = "\x1b[2J\x1b]0;owned\x07cart\u202e\r\n"
    text = ranked_table(write_outputs(tmp_path, ranked_anomalies=[ranked(hostile, 1.0)]), width=160)
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(text) and "cart" in text


def test_currencies_stand_beside_their_costs_and_are_not_added(tmp_path):
    rows = [ranked("cart", 1.0), ranked("cart", 0.5, billing_currency="EUR")]
    costs = [allocation("cart", "1", "1"), allocation("cart", "2", "2", billing_currency="EUR")]
    text = ranked_table(write_outputs(tmp_path, ranked_anomalies=rows, cost_allocations=costs), width=120)
    assert "0.01230 USD" in text and "0.01230 EUR" in text
    assert "USD 1 charged" in text and "EUR 2 charged" in text


def test_a_run_without_anomalies_or_costs_still_sums_up(tmp_path):
    text = ranked_table(write_outputs(tmp_path), width=80)
    assert text.startswith("No cost and no anomaly")
    assert "0 traces, 0 anomalous (0.0 %); 0 spans" in text and "no record rejected" in text


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(JobError, match=r"ranked_anomalies\.parquet: no such table"):
        ranked_table(tmp_path)
