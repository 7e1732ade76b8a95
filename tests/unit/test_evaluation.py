"""The measures, against worlds small enough to be worked out by hand."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from simulator.evaluation import measures as m
from simulator.evaluation import runs
from simulator.evaluation.job import main
from tests.unit.literal_tables import write, write_outputs

MINUTE = 60_000
WINDOW = 30 * MINUTE
T0 = 1_767_571_200_000  # 2026-01-05T00:00Z


def verdict(trace_id: str, minute: float, culprit: str | None, score: float = 5.0) -> dict:
    return {
        "trace_id": trace_id,
        "start_time": T0 + int(minute * MINUTE),
        "span_count": 3,
        "anomaly_score": score,
        "threshold": 3.0,
        "is_anomalous": culprit is not None,
        "culprit_service_name": culprit,
        "verdict_state": "ready",
    }


def truth(trace_id: str, fault: str | None = None, culprit: str | None = None, kind: str | None = None) -> dict:
    return {
        "trace_id": trace_id,
        "is_anomalous": fault is not None,
        "fault_id": fault,
        "culprit_service_name": culprit,
        "anomaly_kind": kind,
    }


def fault(fault_id: str, service: str, kind: str, first: int, last: int) -> dict:
    return {
        "fault_id": fault_id,
        "otel_service_name": service,
        "anomaly_kind": kind,
        "start_time": T0 + first * MINUTE,
        "end_time": T0 + last * MINUTE,
        "severity": 1.0,
    }


def ranked(service: str, window: int, rank: int, cost: str, currency: str = "USD") -> dict:
    return {
        "window_start": T0 + window * WINDOW,
        "window_end": T0 + (window + 1) * WINDOW,
        "otel_service_name": service,
        "rank": rank,
        "attributed_cost": cost,
        "billing_currency": currency,
    }


def excess(fault_id: str, window: int, service: str, cost: str) -> dict:
    return {
        "fault_id": fault_id,
        "window_start": T0 + window * WINDOW,
        "otel_service_name": service,
        "excess_cost": cost,
    }


# Two faults that overlap in minutes 5 to 10, one that nothing shows.
VERDICTS = [
    verdict("a", 1, "cart"),
    verdict("b", 6, "cart", 4.0),
    verdict("c", 7, "payment", 9.0),
    verdict("d", 8, None),
    verdict("e", 20, "search"),
    verdict("f", 21, None),
]
TRUTH = [
    truth("a", "F1", "cart", "latency_spike"),
    truth("b", "F1", "cart", "latency_spike"),
    truth("c", "F2", "payment", "retry_loop"),
    truth("d", "F2", "payment", "retry_loop"),
    truth("e"),
    truth("f"),
    truth("g"),
]
FAULTS = [
    fault("F1", "cart", "latency_spike", 0, 10),
    fault("F2", "payment", "retry_loop", 5, 8),
    fault("F3", "users", "latency_spike", 40, 50),
]
COSTS = [
    excess("F1", 0, "cart", "2"),
    excess("F1", 0, "users", "1"),
    excess("F2", 0, "payment", "3"),
    excess("F3", 1, "users", "-1"),
]
RANKED = [
    ranked("payment", 0, 1, "1"),
    ranked("cart", 0, 2, "5"),
    ranked("search", 1, 1, "2"),
]


@pytest.fixture
def world(tmp_path):
    """The world above on disk: (tables, input)."""
    tables = write_outputs(
        tmp_path / "output",
        trace_verdicts=VERDICTS,
        ranked_anomalies=RANKED,
        cost_allocations=[
            {"allocated_cost": "1.000000000001", "billing_currency": "USD"},
            {"allocated_cost": "0.5", "billing_currency": "USD"},
        ],
    )
    for name, rows in (("traces", TRUTH), ("faults", FAULTS), ("costs", COSTS)):
        write(tmp_path / "input" / "truth", name, rows)
    billing = tmp_path / "input" / "billing"
    billing.mkdir()
    (billing / "focus.csv").write_text(
        "BilledCost,EffectiveCost,BillingCurrency\n9,1.000000000001,USD\n0.5,NULL,USD\n",
        encoding="utf-8",
    )
    return tables, tmp_path / "input"


def frame(directory, name: str, rows: list[dict]) -> pd.DataFrame:
    write(directory, name, rows)
    return pd.read_parquet(directory / f"{name}.parquet")


@pytest.fixture
def frames(tmp_path):
    rows = {
        "trace_verdicts": VERDICTS,
        "ranked_anomalies": RANKED,
        "traces": TRUTH,
        "faults": FAULTS,
        "costs": COSTS,
    }
    return {name: frame(tmp_path, name, rows[name]) for name in rows}


def test_detection_counts_every_trace_of_the_truth(frames):
    # Flagged a, b, c, e; true a, b, c, d: 3 hits, 1 false alarm, 1 miss, 2 rightly quiet.
    found = m.detection(frames["trace_verdicts"], frames["traces"])
    assert found == pytest.approx({
        "traces": 7, "anomalous": 4 / 7, "unjudged": 1 / 7,
        "precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4,
        "false_positive_rate": 1 / 3, "accuracy": 5 / 7,
        "recall latency_spike": 1.0, "recall retry_loop": 1 / 2,
    })  # fmt: skip


def test_detection_of_nothing_is_not_a_number_rather_than_perfect(frames):
    nothing = frames["trace_verdicts"].assign(is_anomalous=False)
    found = m.detection(nothing, frames["traces"])
    assert math.isnan(found["precision"]) and found["recall"] == 0.0 and found["f1"] == 0.0


def test_a_trace_with_two_verdicts_is_an_error_that_names_it(frames):
    twice = pd.concat([frames["trace_verdicts"], frames["trace_verdicts"].head(1)])
    with pytest.raises(ValueError, match="trace_id a, must have one"):
        m.detection(twice, frames["traces"])


def test_culprits_of_a_faults_time_compete_by_traces_then_score(frames):
    # F1: cart 2 traces, payment 1 -> 1. F2, minutes 5 to 8: cart b (4.0), payment c (9.0) -> 1.
    ranks = m.culprit_ranks(frames["trace_verdicts"], frames["faults"])
    assert ranks.tolist() == [1.0, 1.0, m.UNNAMED]
    # With a third of cart's in that time, payment is second though its score is higher.
    louder = pd.concat([frames["trace_verdicts"], frames["trace_verdicts"].iloc[[1]].assign(trace_id="b2")])
    assert m.culprit_ranks(louder, frames["faults"]).tolist() == [1.0, 2.0, m.UNNAMED]


def test_a_faults_time_is_half_open(frames):
    faults = frames["faults"].iloc[[0]].copy()
    faults["end_time"] = pd.Timestamp(T0 + 6 * MINUTE, unit="ms", tz="UTC")
    only_a = frames["trace_verdicts"].iloc[[0, 2]]  # cart at 1, payment at 7
    assert m.culprit_ranks(only_a, faults).tolist() == [1.0]
    faults["start_time"] = pd.Timestamp(T0 + MINUTE + 1, unit="ms", tz="UTC")
    assert m.culprit_ranks(only_a, faults).tolist() == [m.UNNAMED]


def test_ranks_do_not_depend_on_the_order_of_the_verdicts(frames):
    shuffled = frames["trace_verdicts"].sample(frac=1, random_state=4)
    assert m.culprit_ranks(shuffled, frames["faults"]).tolist() == [1.0, 1.0, m.UNNAMED]
    of_own = m.culprit_ranks_of_own_traces(shuffled, frames["traces"], frames["faults"])
    assert of_own.tolist() == [1.0, 1.0, m.UNNAMED]


def test_own_traces_leave_an_overlapping_fault_out(frames):
    wrong = frames["trace_verdicts"].copy()
    wrong.loc[wrong["trace_id"] == "c", "culprit_service_name"] = "cart"
    ranks = m.culprit_ranks_of_own_traces(wrong, frames["traces"], frames["faults"])
    assert ranks.tolist() == [1.0, m.UNNAMED, m.UNNAMED]


def test_culprits_are_also_weighed_by_money_and_looked_up_in_the_ranking(frames):
    found = m.culprits(*(frames[name] for name in ("trace_verdicts", "ranked_anomalies", "traces", "faults", "costs")))
    # Money: F1 2 + 1, F2 3, F3 -1 -> 0. The ranking: payment at 1, cart at 2, users nowhere.
    assert found == pytest.approx({
        "faults": 3, "faults unnamed": 1 / 3,
        "AC@1": 2 / 3, "AC@1 by money": 1.0, "AC@1 own traces": 2 / 3,
        "AC@1 ranking": 1 / 3, "AC@1 ranking, by money": 1 / 2,
        "AC@3": 2 / 3, "AC@3 by money": 1.0, "AC@3 own traces": 2 / 3,
        "AC@3 ranking": 2 / 3, "AC@3 ranking, by money": 1.0,
    })  # fmt: skip


def test_the_ranking_counts_in_every_window_that_the_fault_overlaps_and_no_other(frames):
    at_bound = frames["faults"].iloc[[0]].copy()  # cart, ranked in the first window only
    at_bound["start_time"] = pd.Timestamp(T0 + WINDOW, unit="ms", tz="UTC")
    at_bound["end_time"] = pd.Timestamp(T0 + 2 * WINDOW, unit="ms", tz="UTC")
    assert m.ranking_ranks(frames["ranked_anomalies"], at_bound).tolist() == [m.UNNAMED]
    at_bound["start_time"] -= pd.Timedelta(1, "ms")
    assert m.ranking_ranks(frames["ranked_anomalies"], at_bound).tolist() == [2.0]


def test_chance_is_what_a_ranking_dealt_at_random_would_name(frames):
    # F1 and F2 lie in window 0 (2 names at 3 or above), F3 in window 1 (1 name); 10 services.
    assert m.ranking_chance(frames["ranked_anomalies"], frames["faults"], 10, 3) == pytest.approx(5 / 30)
    assert m.ranking_chance(frames["ranked_anomalies"], frames["faults"], 10, 1) == pytest.approx(3 / 30)


def test_attribution_is_signed_and_takes_in_what_is_true_or_predicted(frames):
    # cart 5 vs 2, users 0 vs 1, payment 1 vs 3, search 2 vs 0, users in the next window 0 vs -1.
    found = m.attribution(frames["ranked_anomalies"], frames["costs"])
    assert found == pytest.approx({
        "anomaly cost": 5.0,
        "attribution A": 1 - (3 + 1 + 2 + 2 + 1) / (2 + 1 + 3 + 1),
        "attribution bias": 8 / 5 - 1,
        "share on right service": (2 + 0 + 1) / (2 + 1 + 3),
    })  # fmt: skip


def test_costs_in_two_currencies_are_never_added(tmp_path, frames):
    mixed = frame(tmp_path, "ranked_anomalies", [ranked("a", 0, 1, "1"), ranked("b", 0, 1, "1", "EUR")])
    with pytest.raises(ValueError, match="2 currencies"):
        m.attribution(mixed, frames["costs"])


def test_conservation_is_checked_to_the_last_decimal():
    a, b = {"USD": Decimal("1.000000000001")}, {"USD": Decimal("1")}
    assert m.unconserved(a, a) == 0
    assert m.unconserved(a, b) == Decimal("0.000000000001")
    # What one currency has too much doesn't make up for another.
    assert m.unconserved({"USD": Decimal(1)}, {"EUR": Decimal(1)}) == 2


def test_a_bill_counts_effective_cost_else_billed_cost(world):
    assert runs.charged(world[1] / "billing") == {"USD": Decimal("1.500000000001")}


def test_weak_labels_compare_injections_with_quiet_times(tmp_path, frames):
    labels = frame(tmp_path, "labels", [
        {"trace_id": "a", "label": "positive", "services": ["cart"],
         "culprit_service_name": "cart"},
        {"trace_id": "b", "label": "positive", "services": ["cart"],
         "culprit_service_name": "users"},
        {"trace_id": "d", "label": "positive", "services": ["users"],
         "culprit_service_name": "users"},
        {"trace_id": "e", "label": "negative", "services": ["search"]},
        {"trace_id": "f", "label": "negative", "services": ["search"]},
        {"trace_id": "c", "label": "ignore", "services": ["payment"]},
    ])  # fmt: skip
    found = m.weak_labels(frames["trace_verdicts"], frames["ranked_anomalies"], labels, frames["faults"], services=10)
    assert found == pytest.approx({
        "positive traces": 3, "positive flagged": 2 / 3, "quiet traces": 2, "quiet flagged": 1 / 2,
        "right culprit, of positive flagged": 1 / 2, "faults": 3, "faults unnamed": 1 / 3,
        "AC@1": 2 / 3, "AC@1 ranking": 1 / 3, "AC@1 ranking by chance": 3 / 30,
        "AC@3": 2 / 3, "AC@3 ranking": 2 / 3, "AC@3 ranking by chance": 5 / 30,
        "faults in the ranking": 2 / 3,
        "AC@3 ranking, latency_spike": 1 / 2, "AC@3 ranking, retry_loop": 1.0,
    })  # fmt: skip


def test_the_interval_is_students():
    # Mean 3, standard deviation sqrt(2.5), t(4) = 2.776: 2.776 * sqrt(2.5 / 5).
    assert m.mean_and_interval([1, 2, 3, 4, 5]) == pytest.approx((3.0, 2.776 * math.sqrt(0.5)))
    assert m.mean_and_interval([1.0, math.nan, 3.0]) == pytest.approx((2.0, 12.706))
    one = m.mean_and_interval([7.0])
    assert one[0] == 7.0 and math.isnan(one[1])
    # 35 degrees of freedom are not in the table: those of 30 hold.
    many = np.arange(36.0)
    assert m.mean_and_interval(many)[1] == pytest.approx(2.042 * many.std(ddof=1) / 6)


def test_the_command_prints_a_run_and_writes_it_as_json(world, tmp_path, capsys):
    tables, source = world
    target = tmp_path / "measures.json"
    assert main(["--tables", str(tables), "--truth", str(source / "truth"), "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "f1" in printed and "0.750" in printed
    result = json.loads(target.read_text())
    assert result["unconserved"] == 0.0 and result["AC@1"] == pytest.approx(2 / 3)


def test_a_missing_table_is_one_line_and_exit_1(tmp_path, capsys):
    assert main(["--tables", str(tmp_path), "--truth", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "trace_verdicts.parquet: no such table" in error and error.count("\n") == 1


def test_seeds_are_simulated_run_and_averaged(tmp_path, monkeypatch, capsys):
    """Stands in for the two commands only: what they are called with, and what becomes of it."""
    called = []

    def run(arguments, log):
        called.append(arguments)
        target = tmp_path / "kept" / f"seed-{len(called) // 2 + len(called) % 2}"
        if arguments[0] == "simulator":
            for name, rows in (("traces", TRUTH), ("faults", FAULTS), ("costs", COSTS)):
                write(target / "input" / "truth", name, rows)
        else:
            # Seed 2 finds nothing.
            verdicts = VERDICTS if len(called) == 2 else []
            write_outputs(target / "output", trace_verdicts=verdicts, ranked_anomalies=RANKED)
        return 2.0

    monkeypatch.setattr(runs, "_run", run)
    target = tmp_path / "measures.json"
    arguments = ["--seeds", "1", "2", "--days", "0.5", "--billing", "mixed"]
    arguments += ["--keep", str(tmp_path / "kept"), "--json", str(target)]
    assert main(arguments) == 0
    world, tables = (str(tmp_path / "kept" / "seed-1" / name) for name in ("input", "output"))
    assert called[0] == [
        "simulator", "--output", world, "--seed", "1", "--days", "0.5", "--billing", "mixed",
    ]  # fmt: skip
    assert called[1] == ["jobs.anomaly_cost", "--input", world, "--output", tables]
    result = json.loads(target.read_text())
    assert result["seeds"]["1"]["f1"] == 0.75 and result["seeds"]["2"]["f1"] == 0.0
    assert result["mean"]["f1"] == pytest.approx(0.375)
    assert result["interval_95"]["f1"] == pytest.approx(12.706 * 0.375)
    assert result["seeds"]["1"]["spans a second"] == 9.0
    printed = capsys.readouterr()
    assert "seed 2: job took 2 s; F1 0.000" in printed.err and "± 95 %" in printed.out


def test_a_command_that_fails_is_told_with_the_end_of_what_it_said(tmp_path):
    with pytest.raises(runs.RunError, match="(?s)exit 1.*No module named no_such_module"):
        runs._run(["no_such_module"], tmp_path / "log")
