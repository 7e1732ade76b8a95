"""The table in the terminal: what it says, and that it fits."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from jobs.errors import JobError
from jobs.report.terminal import _text_width, ranked_table
from tests.unit.literal_tables import write_outputs
from tests.unit.test_rank import allocation as allocation_of_rank
from tests.unit.test_rank import incident
from udfs.pure.rank import rank_window

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


def test_what_no_bill_told_yet_is_shown(tmp_path):
    costs = [
        allocation("cart", "0.6", "0.6"), allocation("web", "0.25", "0.25", resource_id="b", cost_status="provisional")
    ]  # fmt: skip
    text = ranked_table(write_outputs(tmp_path, cost_allocations=costs), width=120)
    assert "USD 0.85 charged" in text and "\n  0.25 of it is provisional: its bill has yet to come" in text


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


def by(order: str, rows: list[dict]) -> list[dict]:
    return [row | {"explanation": json.dumps({"x_RankedBy": order})} for row in rows]


# S of cart is the highest, its excess the lowest; search has many faint traces and the middle excess.
ORDERED = [
    ranked("cart", 9.0, anomaly_score=2.0, excess_cost="0.1", billed_excess_cost="0.1"),
    ranked("search", 1.0, anomaly_score=90.0, excess_cost="0.2"),
    ranked("payment", 2.0, anomaly_score=1.0, excess_cost="0.3", billed_excess_cost="-0.01"),
]


@pytest.mark.parametrize(
    ("order", "heading", "expected"),
    [
        ("excess", "Anomalies by excess cost, 3 of 3", ["payment", "search", "cart"]),
        ("excess_score", "Anomalies by α · ln(1 + excess cost), 3 of 3", ["search", "payment", "cart"]),
        ("billed_excess", "Anomalies by excess cost on the bill, 3 of 3", ["cart", "search", "payment"]),
        ("score", "Anomalies by cost-weighted score S, 3 of 3", ["cart", "payment", "search"]),
        ("of a later version", "Anomalies by excess cost", ["payment", "search", "cart"]),
    ],
)
def test_the_order_of_the_run_is_that_of_rank_by(tmp_path, order, heading, expected):
    text = ranked_table(write_outputs(tmp_path, ranked_anomalies=by(order, ORDERED)), width=120)
    assert [row[4] for row in rows_of(text)] == expected
    assert text.startswith(heading)


def test_the_table_shows_what_it_is_ordered_by(tmp_path):
    outputs = write_outputs(tmp_path, ranked_anomalies=by("billed_excess", ORDERED))
    text = ranked_table(outputs, width=120)
    assert "on the bill" in text
    assert [row[7] for row in rows_of(text)] == ["0.1000", "–", "-0.0100"]


def test_tables_of_an_earlier_release_are_read(tmp_path):
    """Theirs lack a column."""
    outputs = write_outputs(tmp_path, ranked_anomalies=by("excess", ORDERED))
    path = outputs / "ranked_anomalies.parquet"
    pq.write_table(pq.read_table(path).drop_columns("billed_excess_cost"), path)
    assert [row[4] for row in rows_of(ranked_table(outputs, width=120))] == ["payment", "search", "cart"]


@pytest.mark.parametrize("order", ["excess", "excess_score", "billed_excess", "score"])
def test_the_order_of_one_window_is_that_of_its_ranks(tmp_path, order):
    """One with a credit and one whose excess nobody knows among them."""
    incidents = [incident(name, score) for name, score in (("a", 9.0), ("b", 4.0), ("c", 5.0), ("d", 3.0))]
    for each, excess in zip(incidents, (0.5, 3.0, -2.0), strict=False):
        each["excess_usage"] = {each["otel_service_name"]: {"cpu": excess}}
    costs = [
        allocation_of_rank(name, cost, currency, marginal_rate="0.5", marginal_basis="metered")
        for name, cost in (("a", "0.1"), ("b", "-3"), ("c", "7"), ("d", "2"))
        for currency in ("USD", "JPY")
    ]
    rows = rank_window(T0, [incidents], [], costs, order)
    found = rows_of(ranked_table(write_outputs(tmp_path, ranked_anomalies=rows), width=140))
    assert [row[0] for row in found] == [row[1] for row in found] == [*"1234", *"1234"]


def test_amounts_of_different_currencies_are_never_compared(tmp_path):
    """5,000 JPY are less than 900 USD; and the report doesn't know that either."""
    rows = [
        ranked("yen", 9.0, window=0, billing_currency="JPY", excess_cost="5000", attributed_cost="5000"),
        ranked("dear", 1.0, window=0, excess_cost="900", attributed_cost="900"),
        ranked("cheap", 1.0, window=1, excess_cost="7", attributed_cost="7"),
    ]
    costs = [allocation("yen", "5000", "5000", billing_currency="JPY"), *(
        allocation("dear", "450", "450", dimension=dimension) for dimension in ("cpu", "memory")
    )]  # fmt: skip
    target = write_outputs(tmp_path, ranked_anomalies=rows, cost_allocations=costs)
    text = ranked_table(target, width=120)
    assert [(row[0], row[4]) for row in rows_of(text)] == [("1", "dear"), ("2", "cheap"), ("1", "yen")]
    assert "each currency by itself" in text
    assert text.index("USD 900 charged") < text.index("JPY 5,000 charged")
    assert [row[4] for row in rows_of(ranked_table(target, limit=1, width=120))] == ["dear", "yen"]


def test_a_run_without_anomalies_or_costs_still_sums_up(tmp_path):
    text = ranked_table(write_outputs(tmp_path), width=80)
    assert text.startswith("No cost and no anomaly")
    assert "0 traces, 0 anomalous (0.0 %); 0 spans" in text and "no record rejected" in text


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(JobError, match=r"ranked_anomalies\.parquet: no such table"):
        ranked_table(tmp_path)
