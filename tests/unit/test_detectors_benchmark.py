"""The benchmark of the detectors, on inputs small enough to be worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import orjson
import pandas as pd
import pytest

from simulator.config import STORM
from simulator.evaluation.detection import FOUND_P, faults_found
from tests.benchmarks import detectors as d
from tests.benchmarks.knn import NeighbourDetector, References
from udfs.pure.assemble import assemble
from udfs.pure.verdicts import MinuteResult

MINUTE = 60_000
T0 = 1_767_571_200_000  # 2026-01-05T00:00Z
NS_PER_MS = 1_000_000

SERVER = 2


def verdict(trace_id: str, minute: float = 0, culprit: str | None = None) -> dict:
    return {
        "trace_id": trace_id,
        "start_time": T0 + int(minute * MINUTE),
        "anomaly_score": 1.0,
        "threshold": 0.5,
        "is_anomalous": culprit is not None,
        "culprit_service_name": culprit,
    }


def verdicts(*rows: dict) -> pd.DataFrame:
    return d.stated([MinuteResult(T0, list(rows))])[1]


def truth(*rows: tuple[str, float, str | None]) -> pd.DataFrame:
    """Rows of trace_id, minute and fault."""
    frame = pd.DataFrame(rows, columns=["trace_id", "minute", "fault_id"])
    true = frame["fault_id"].notna()
    return frame.assign(
        start_ms=T0 + frame["minute"] * MINUTE,
        is_anomalous=true,
        anomaly_kind=np.where(true, "latency_spike", None),
        culprit_service_name=np.where(true, "cart", None),
    )


def fault(fault_id: str, begin: float, end: float, service: str = "cart") -> dict:
    return {
        "fault_id": fault_id,
        "otel_service_name": service,
        "start_time": pd.Timestamp(T0 + begin * MINUTE, unit="ms", tz="UTC"),
        "end_time": pd.Timestamp(T0 + end * MINUTE, unit="ms", tz="UTC"),
    }


def world(labels: pd.DataFrame, *faults: dict) -> d.World:
    return d.World({T0: [], T0 + 99 * MINUTE: []}, {}, labels, pd.DataFrame(faults), frozenset("abcd"))


def packed(trace_id: str, minute: int, cart_ms: float, is_error: bool = False) -> bytes:
    """A request of web that spends 5 ms itself and ``cart_ms`` in cart."""
    start = (T0 + minute * MINUTE) * NS_PER_MS
    end = start + int((cart_ms + 5) * NS_PER_MS)

    def group(service: str, *span: object) -> list:
        return [service, f"{service}-0", "", [span]]

    groups = [
        group("web", "a", "", "GET /", SERVER, False, start, end, ""),
        group("cart", "b", "a", "Get", SERVER, is_error, start, start + int(cart_ms * NS_PER_MS), ""),
    ]
    return assemble(trace_id, [orjson.dumps(["spans", groups])])[1]


def test_the_last_word_for_a_minute_counts_and_the_first_is_told_at_once() -> None:
    first, last, is_restated = d.stated(
        [
            MinuteResult(T0, [verdict("a"), verdict("b")]),
            MinuteResult(T0 + MINUTE, [verdict("c", 1)]),
            MinuteResult(T0, [verdict("a", 0, "cart"), verdict("b")]),
        ]
    )
    assert is_restated
    assert first.set_index("trace_id")["is_anomalous"].to_dict() == {"a": False, "b": False, "c": False}
    assert last.set_index("trace_id")["is_anomalous"].to_dict() == {"a": True, "b": False, "c": False}


def test_a_detector_that_restates_is_measured_at_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        """Knows a minute's fault one step later."""

        def step(self, minute_ms: int, traces: list, usage: dict) -> list[MinuteResult]:
            if minute_ms == T0:
                return [MinuteResult(T0, [verdict("a", 0), verdict("b", 0)])]
            return [MinuteResult(T0, [verdict("a", 0, "cart"), verdict("b", 0)])]

    monkeypatch.setitem(d.ARMS, "late", lambda world: Late())
    labels = truth(("a", 0, "f"), ("b", 0, None))
    measures = d.run_arm("late", world(labels, fault("f", 0, 1)), None)
    assert (measures["f1"], measures["f1 at once"]) == (1.0, 0.0)
    assert measures["AC@1"] == measures["AC@1 own traces"] == 1.0


def knn_verdicts() -> dict[str, dict]:
    random = np.random.default_rng(7)
    detector = NeighbourDetector(T0 + 60 * MINUTE)
    results = []
    for minute in range(60):
        traces = [packed(f"{minute}/{i}", minute, 20 * math.exp(0.1 * random.normal())) for i in range(4)]
        results += detector.step(T0 + minute * MINUTE, traces, {})
    assert not results, "the references are not known yet"
    last = [packed("usual", 60, 20), packed("slow", 60, 90), packed("failed", 60, 20, is_error=True)]
    results += detector.step(T0 + 60 * MINUTE, last, {})
    assert [result.minute_ms for result in results] == [T0 + i * MINUTE for i in range(61)]
    return {v["trace_id"]: v for result in results for v in result.verdicts}


def test_knn_finds_what_is_out_of_the_ordinary_and_no_more_than_its_share_of_the_usual() -> None:
    found = knn_verdicts()
    assert [found[name]["culprit_service_name"] for name in ("usual", "slow", "failed")] == [
        None, "cart", "cart",
    ]  # fmt: skip
    assert sum(v["is_anomalous"] for name, v in found.items() if "/" in name) == 3  # 1 % of 240


def test_knn_says_the_same_twice() -> None:
    assert knn_verdicts() == knn_verdicts()


def test_a_reference_of_knn_is_no_neighbour_of_itself() -> None:
    vectors = np.array([[0.0], [3.0], [4.0]])
    references = References({"a": 0, "b": 1, "c": 2}, np.zeros(1), np.ones(1), vectors)
    assert references.nearest(vectors[0], "a")[0] == (3 + 4) / 2
    assert references.nearest(vectors[0], "other")[0] == (0 + 3 + 4) / 3


def test_knn_is_silent_where_it_has_no_reference() -> None:
    detector = NeighbourDetector(T0)
    (result,) = detector.step(T0, [packed("slow", 0, 900)], {})
    assert [v["is_anomalous"] for v in result.verdicts] == [False]


def test_a_storm_is_measured_by_its_thirds_and_the_time_around_it() -> None:
    labels = truth(
        ("before", 5, None), ("before too", 9, None),
        ("first", 10, "f"), ("first too", 19, "f"),
        ("middle", 20, "f"), ("normal", 21, None),
        ("last", 39, "f"),
        ("after", 40, None),
    )  # fmt: skip
    said = verdicts(*(verdict(name, 0, "cart") for name in ("before", "first", "middle", "after")))
    measures = d.storm(said, labels, pd.DataFrame([fault("f", 10, 40)]))
    assert measures == {
        "recall, first third": 0.5,
        "recall, middle third": 1.0,
        "recall, last third": 0.0,
        "false_positive_rate, before the storm": 0.5,
        "false_positive_rate, in the storm": 0.0,
        "false_positive_rate, after the storm": 1.0,
    }
    assert d.judge(said, world(labels, fault("f", 10, 40)), STORM).items() >= measures.items()


def test_deploys_are_measured_before_after_and_over_all() -> None:
    """1,000 minutes: releases at 400 and 650."""
    minutes = {"before": 10, "before too": 399, "one": 400, "one too": 459, "no more": 460, "two": 709}
    labels = truth(*((name, minute, None) for name, minute in minutes.items()))
    said = verdicts(verdict("before", 0, "cart"), verdict("one", 0, "cart"), verdict("two", 0, "cart"))
    measures = d.deploy(said, labels, T0, T0 + 1000 * MINUTE)
    assert measures == {
        "traces": 6.0,
        "false_positive_rate": 0.5,
        "false_positive_rate, before the first deploy": 0.5,
        "false_positive_rate, hour after deploy 1": 0.5,
        "false_positive_rate, hour after deploy 2": 1.0,
    }


def test_real_days_are_measured_beside_chance() -> None:
    """A fault whose 8 traces are all flagged, one that nobody sees, and 30 quiet traces."""
    near = [(f"p{i}", i / 8, "f") for i in range(8)] + [(f"o{i}", 2 + i / 8, "g") for i in range(8)]
    quiet = [(f"q{i}", 10 + i, None) for i in range(30)]
    labels = truth(*near, *quiet).drop(columns="is_anomalous")
    labels["label"] = ["positive"] * 16 + ["negative"] * 30
    said = [verdict(f"p{i}", i / 8, "web" if i < 5 else "cart") for i in range(8)]
    measures = d.judge(
        verdicts(*said, verdict("q0", 10, "cart")),
        world(labels, fault("f", 0, 1), fault("g", 2, 3)),
        None,
    )
    assert measures["positive flagged"] == 0.5
    assert measures["quiet flagged"] == pytest.approx(1 / 30)
    assert (measures["AC@1"], measures["AC@3"]) == (0.0, 0.5)  # web comes before cart
    # One name of 4 services in the first fault's time, or two of 4; none in the second's.
    assert measures["AC@1 by chance"] == pytest.approx((1 / 4 + 0) / 2)
    assert measures["AC@3 by chance"] == pytest.approx((2 / 4 + 0) / 2)
    assert measures["faults found"] == 0.5
    assert measures["faults found by chance"] < 0.2


@pytest.mark.parametrize("hits", range(13))
def test_a_fault_is_found_by_the_exact_binomial_tail(hits: int) -> None:
    """Of 12 traces, where one of 8 quiet ones is flagged: 2 of 10. A fault without traces is not found."""
    tail = sum(math.comb(12, k) * 0.2**k * 0.8 ** (12 - k) for k in range(hits, 13))
    flags = np.array([True] + [False] * 7 + [True] * hits + [False] * (12 - hits))
    fault_of = np.repeat([-1, 0], [8, 12])
    assert faults_found(flags, fault_of, 2) == (tail < FOUND_P) / 2


def test_a_table_has_the_interval_over_seeds_and_gaps_where_nothing_is_known() -> None:
    usual = {"1": {"f1": 0.4, "detect CPU s": 2.0}, "2": {"f1": 0.6, "detect CPU s": 2.0, "extra": 1.0}}
    knn = {"1": {"f1": 0.1}, "2": {"f1": math.nan}}
    assert d.table("mix source", {"usual": usual, "knn": knn}).splitlines() == [
        "### mix source (2 worlds)",
        "",
        "|  | usual | knn |",
        "| --- | ---: | ---: |",
        "| f1 | 0.500 ± 1.271 | 0.100 |",  # t of one degree of freedom: 12.706 x 0.1
        "| extra | 1.000 | – |",
        "| detect CPU s | 2.0 ± 0.0 | – |",
    ]


@pytest.mark.slow
def test_the_command_makes_a_world_prints_its_table_and_writes_json(tmp_path, capsys: pytest.CaptureFixture) -> None:
    file, keep = tmp_path / "measures.json", tmp_path / "worlds"
    argv = ["--seeds", "3", "--days", "0.05", "--arms", "usual", "knn", "oracle"]
    assert d.main([*argv, "--keep", str(keep), "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "### mix source (1 world)"
    assert sum(line.startswith("| f1 | 0.") for line in lines) == 1
    of_arm = json.loads(file.read_text())["mix source"]
    assert list(of_arm) == ["usual", "knn", "oracle"]
    assert of_arm["oracle"]["mean"]["f1"] == of_arm["oracle"]["mean"]["AC@1 own traces"] == 1.0
    assert 0.0 < of_arm["usual"]["mean"]["f1"] < 1.0
    assert [path.name for path in keep.iterdir()] == ["mix-source-3-0.05-10000"]
