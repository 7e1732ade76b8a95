"""The benchmark over families of data, on inputs small enough to be worked out by hand."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import pytest

from simulator.evaluation.detection import VERDICT_COLUMNS, strength
from simulator.evaluation.money import with_namespace
from simulator.evaluation.rule import RuleDetector
from tests.benchmarks import detectors as d
from tests.benchmarks import families as f
from tests.benchmarks.gap import GapDetector
from udfs.pure.assemble import assemble
from udfs.pure.otlp import collect_spans
from udfs.pure.verdicts import MinuteResult

MINUTE = 60_000
T0 = 1_767_571_200_000  # 2026-01-05T00:00Z
NS_PER_MS = 1_000_000


def verdict(trace_id: str, culprit: str | None = None, minute: float = 0, kind: str = "latency_spike") -> dict:
    return {
        "trace_id": trace_id,
        "start_time": T0 + int(minute * MINUTE),
        "anomaly_score": 9.0 if culprit else 1.0,
        "threshold": 6.0,
        "is_anomalous": culprit is not None,
        "culprit_service_name": culprit,
        "anomaly_kind": kind if culprit else None,
        "verdict_state": "ready",
    }


def verdicts(*rows: dict) -> pd.DataFrame:
    return d.stated([MinuteResult(T0, list(rows))])[1]


def world(traces: list[tuple[str, float, str | None]], faults: list[tuple[str, str, float, float]]) -> d.World:
    """Of 10 services over 100 minutes. traces: (id, minute, fault); faults: (id, service, begin, end)."""
    truth = pd.DataFrame(traces, columns=["trace_id", "minute", "fault_id"])
    service = {fault: name for fault, name, _, _ in faults}
    true = truth["fault_id"].notna()
    truth = truth.assign(
        start_ms=T0 + truth["minute"] * MINUTE,
        is_anomalous=true,
        anomaly_kind=np.where(true, "latency_spike", None),
        culprit_service_name=truth["fault_id"].map(service),
    )
    known = pd.DataFrame(faults, columns=["fault_id", "otel_service_name", "begin", "end"])
    for name, of in (("start_time", "begin"), ("end_time", "end")):
        known[name] = pd.to_datetime(T0 + known[of].astype(float) * MINUTE, unit="ms", utc=True)
    return d.World({T0: [], T0 + 99 * MINUTE: []}, {}, truth, known, frozenset("abcdefghij"))


def source(**more: object) -> f.Source:
    return f.Source("worlds", "one", Path("nowhere"), **more)


def test_false_alarms_are_counted_apart_from_faults_and_after_the_first_hour() -> None:
    normal = [(f"n{i}", 60 + i, None) for i in range(20)]
    seen = world([("early", 5, None), *normal, ("a", 70, "x"), ("b", 71, "x")], [("x", "cart", 70, 75)])
    said = verdicts(
        verdict("early", "web", 5),  # left out
        verdict("n2", "shop/web", 62, "retry_loop"),
        verdict("n4", "shop/web", 64),  # one incident with the one before
        verdict("n12", "shop/cart", 72),  # in a fault of its service
        verdict("a", "shop/cart", 70),
        verdict("b", "shop/web", 71),
    )
    measures, more = f.judge(said, seen, source(leave_out_minutes=60))
    assert measures["traces"] == 22
    assert measures["normal flagged"] == pytest.approx(3 / 20)
    assert measures["false incidents"] == pytest.approx(1 / 20 * 24 * 60 * 2)
    assert measures["false incidents as told"] == measures["false incidents"]
    assert measures["normal flagged as retry_loop"] == pytest.approx(1 / 20)
    assert measures["normal flagged as latency_spike"] == pytest.approx(2 / 20)
    assert (measures["recall"], measures["precision"]) == (1.0, 0.4)
    assert measures["precision at 10 %"] == pytest.approx(0.1 / (0.1 + 0.9 * 3 / 20))
    assert measures["AC@1"] == 1.0, "cart and web have one trace each: equal scores, by name"
    assert measures["AC@1 of traces"] == 0.5
    assert sum(k for _, _, k in more["by minute"]) == 3


def test_an_incident_that_goes_on_after_its_fault_is_told_once() -> None:
    seen = world([("a", 70, "x"), *((f"n{i}", 60 + i, None) for i in range(40))], [("x", "cart", 70, 71)])
    after, apart = verdict("n15", "shop/cart", 75), verdict("n39", "shop/cart", 99)
    measures, _ = f.judge(verdicts(verdict("a", "shop/cart", 70), after, apart), seen, source())
    assert (measures["false incidents"], measures["false incidents as told"]) == (144.0, 72.0)


def test_a_fault_without_a_flag_counts_as_wrong() -> None:
    seen = world([("a", 1, "x"), ("b", 50, "y"), ("n", 3, None)], [("x", "cart", 0, 5), ("y", "web", 50, 55)])
    measures, _ = f.judge(verdicts(verdict("a", "cart", 1), verdict("b", None, 50)), seen, source())
    assert (measures["faults"], measures["AC@1"], measures["faults without a flag"]) == (2.0, 0.5, 0.5)


def test_a_calm_world_has_false_alarms_alone_and_times_around_the_shift() -> None:
    seen = world([(f"n{i}", i, None) for i in range(80)], [])
    said = verdicts(*(verdict(f"n{i}", "web" if i in (10, 35) else None, i) for i in range(80)))
    measures, _ = f.judge(said, seen, source(is_calm=True, shifts=(30.0,)))
    assert "F1" not in measures
    assert measures["normal flagged before the shift"] == pytest.approx(1 / 30)
    assert measures["normal flagged after the shift"] == pytest.approx(1 / 50)
    assert measures["minutes to quiet"] == 6.0
    # The same alarms by a detector that still learns: its traces are no part of what it was ready for.
    measures, _ = f.judge(said.assign(verdict_state="warming"), seen, source(is_calm=True, shifts=(30.0,)))
    assert measures["warming"] == 1.0
    assert math.isnan(measures["normal flagged before the shift"])


def test_recall_is_told_by_how_far_traces_changed() -> None:
    table = pd.DataFrame(
        {
            "latency_log_ratio": [0.05, -0.3, 0.0, 2.0, 3.0, 0.0],
            "work_log_ratio": [0.0, 0.0, 1.0, 0.0, 0.0, np.nan],
            "structure_changed": [False, False, False, False, True, True],
            "error_changed": [False, False, False, False, False, True],
        }
    )
    assert strength(table).tolist() == [
        "up to 1.1 times", "1.1 to 1.5 times", "1.5 to 3 times", "over 3 times", "other calls", "other errors",
    ]  # fmt: skip


def test_what_is_kept_is_made_anew_when_input_or_code_changes(tmp_path: Path) -> None:
    made = []
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("1")
    code = tmp_path / "code.py"
    code.write_text("one")

    def get() -> int:
        return f.kept(tmp_path / "cache", "world", tmp_path / "in", [code], lambda: made.append(0) or len(made))

    assert (get(), get()) == (1, 1)
    code.write_text("other")
    assert get() == 2
    (tmp_path / "in" / "b").write_text("2")
    assert (get(), get()) == (3, 3)


def test_the_code_of_a_world_is_all_that_makes_it_and_no_detector() -> None:
    names = {path.stem for path in f.code_of("udfs.pure.offline")}
    assert {"offline", "assemble", "calltree", "meter", "otlp"} <= names
    assert not {"detect", "masked", "evidence", "usage_watch"} & names


def test_truth_without_namespaces_gets_those_of_the_telemetry() -> None:
    table = pd.DataFrame({"otel_service_name": ["cart", "db", "web", "shop/cart", "__unallocated__"]})
    found = with_namespace(table, {"shop/cart", "a/web", "b/web"})
    assert found["otel_service_name"].tolist() == ["shop/cart", "db", "web", "shop/cart", "__unallocated__"]


@pytest.mark.parametrize("at", ["cart", "db"])
def test_excess_is_held_against_the_truth_where_it_counts_a_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """cart makes db spend 4: a truth counts that at the culprit, as our simulator does, or at db; we say db."""
    time = pd.Timestamp(T0, unit="ms", tz="UTC")
    told = pd.DataFrame([{
        "window_start": time, "otel_service_name": "shop/cart", "billing_currency": "USD", "excess_cost": Decimal(4),
        "explanation": '{"x_ExcessUsage": [{"x_OtelServiceName": "shop/db", "x_Cost": "4"}]}',
    }])  # fmt: skip
    truth = tmp_path / "truth"
    truth.mkdir()
    of_fault = {"fault_id": "x", "otel_service_name": "cart", "start_time": time, "end_time": time}
    pd.DataFrame([of_fault]).to_parquet(truth / "faults.parquet")
    cost = {"fault_id": "x", "window_start": time, "otel_service_name": at, "excess_cost": Decimal(4)}
    pd.DataFrame([cost]).to_parquet(truth / "costs.parquet")
    monkeypatch.setattr(f, "kept", lambda *_: {})
    monkeypatch.setattr(f.money, "ranked", lambda *_: told)
    seen = replace(world([], []), names=frozenset({"shop/cart", "shop/db"}))
    results = [MinuteResult(T0, incidents=[{}])]
    measures = f.excess_cost(f.Source("worlds", "one", tmp_path), seen, results, tmp_path)
    assert measures == {"excess A": 1.0, "excess bias": 0.0, "excess A by cause": 1.0}


def line(trace: int, minute: int, cart_ms: float) -> bytes:
    """A request of web that waits for cart, as an export request."""
    start = (T0 + minute * MINUTE) * NS_PER_MS + trace
    rows = (("web", 1, None, 2, cart_ms + 6), ("web", 2, 1, 3, cart_ms + 2), ("cart", 3, 2, 2, cart_ms))
    spans = [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": name}}]},
            "scopeSpans": [{"spans": [{
                "traceId": f"{trace:032x}", "spanId": f"{trace:08x}{number:08x}", "name": f"GET {name}", "kind": kind,
                "parentSpanId": f"{trace:08x}{parent:08x}" if parent else "",
                "startTimeUnixNano": str(start), "endTimeUnixNano": str(start + int(ms * NS_PER_MS)),
            }]}],
        }
        for name, number, parent, kind, ms in rows
    ]  # fmt: skip
    return orjson.dumps({"resourceSpans": spans})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data as it is given, with one live recording of 70 minutes."""
    folder = tmp_path_factory.mktemp("data")
    traces = folder / "traceweaver-one" / "traces"
    traces.mkdir(parents=True)
    random = np.random.default_rng(3)
    lines = [line(10 * m + i + 1, m, 20 * math.exp(0.1 * random.normal())) for m in range(70) for i in range(4)]
    (traces / "all.jsonl").write_bytes(b"\n".join(lines))
    return folder


def test_the_command_runs_arms_over_a_family_and_prints_a_line_a_world_and_a_table(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    file = tmp_path / "measures.json"
    options = ["--data", str(data), "--cache", str(tmp_path / "cache"), "--json", str(file)]
    assert f.main([*options, "--arms", "usual", "oracle", "live"]) == 0
    out = capfd.readouterr().out.splitlines()
    assert [row.split()[:2] for row in out[:2]] == [
        ["live/traceweaver-one", "usual"],
        ["live/traceweaver-one", "oracle"],
    ]
    assert "### live (1 world)" in out
    measures = json.loads(file.read_text())["measures"]["live"]
    assert measures["oracle"]["traceweaver-one"]["normal flagged"] == 0.0
    assert measures["usual"]["traceweaver-one"]["traces"] == 280
    assert f.main([*options, "--quick", "--arms", "oracle", "--only", "one", "live"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1


def test_wrong_use_is_told_in_a_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--data", str(data), "--cache", str(tmp_path)]
    assert f.main([*options, "rhubarb"]) == 1
    assert "rhubarb is none of" in capsys.readouterr().err
    assert f.main([*options, "worlds"]) == 1
    assert "has none of the family worlds" in capsys.readouterr().err


def test_a_directory_is_judged_by_the_truth_that_it_has(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "mine" / "one"
    shutil.copytree(data / "traceweaver-one", place)
    found = argparse.Namespace(cache=tmp_path, data=data)
    (calm,) = f.sources(str(place), found)
    assert (calm.title, calm.is_calm, calm.leave_out_minutes) == ("mine/one", True, 60)
    (place / "truth").mkdir()
    (place / "truth" / "world.json").write_text('{"deploys": [{"time": 600}], "surges": [{"start": 60, "end": 90}]}')
    (exact,) = f.sources(str(place), found)
    assert (exact.is_calm, exact.shifts) == (False, (1.0, 10.0))
    (place / "truth" / "labels.parquet").touch()
    (recorded,) = f.sources(str(place), found)
    assert recorded.leave_out_minutes == 0


def test_a_world_without_truth_is_read_where_it_is_said_to_be_calm(data: Path) -> None:
    with pytest.raises(d.WorldError, match="neither"):
        d.load(data / "traceweaver-one")
    world = d.load(data / "traceweaver-one", is_calm=True)
    assert (len(world.truth), world.spans, world.services) == (280, 840, 2)
    assert not world.truth["is_anomalous"].any()
    assert world.truth["start_ms"].notna().all()
    measures, _ = f.evaluate(source(is_calm=True), "usual", world, Path("nowhere"))
    assert measures["µs a span"] == pytest.approx(measures["detect CPU s"] / 840 * 1e6)


@pytest.mark.parametrize("detector", [GapDetector(), RuleDetector(T0 + 60 * MINUTE)])
def test_the_rules_give_the_callee_what_its_span_does_not_cover(data: Path, detector: d.Detector) -> None:
    world = d.load(data / "traceweaver-one", is_calm=True)
    for minute in world.times:
        detector.step(minute, world.minutes[minute], {})
    slow = line(9_999, 70, 20).replace(
        str((T0 + 70 * MINUTE) * NS_PER_MS + 9_999 + 22 * NS_PER_MS).encode(),
        str((T0 + 70 * MINUTE) * NS_PER_MS + 9_999 + 222 * NS_PER_MS).encode(),
    )
    ((trace_id, fragment),) = collect_spans(slow)[0].items()
    (result,) = detector.step(T0 + 70 * MINUTE, [assemble(trace_id, [fragment])[1]], {})
    assert [v["culprit_service_name"] for v in result.verdicts] == ["cart"]


@pytest.mark.parametrize("arm", d.ARMS)
def test_every_arm_has_a_verdict_on_every_trace(data: Path, arm: str) -> None:
    world = d.load(data / "traceweaver-one", is_calm=True)
    _, last, _ = d.stated(d.detect(d.ARMS[arm](world), world)[0])
    assert list(last.columns) == list(VERDICT_COLUMNS)
    assert sorted(last["trace_id"]) == sorted(world.truth["trace_id"])
