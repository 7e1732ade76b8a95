"""The queueing simulation: its parts against what queues do, and a small world as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.benchmarks import queueing as q
from udfs.pure.offline import collect_traces, read


def test_jobs_on_a_node_share_its_cores_and_a_hog_takes_its_part() -> None:
    engine, ended = q.Engine(), {}
    node = q.Node(engine, "n", 0, 1.0, 0.0)

    def job(name: str, cpu_s: float) -> q.Process:
        yield node.use(cpu_s)
        ended[name] = engine.now

    engine.spawn(job("long", 2.0))
    engine.spawn(job("short", 0.5))
    engine.at(10.0, lambda _: node.hog(1.0))
    engine.at(10.0, lambda _: engine.spawn(job("beside a hog", 1.0)))
    engine.run()
    assert ended == pytest.approx({"short": 1.0, "long": 2.5, "beside a hog": 12.0})


def test_slots_are_taken_first_come_first_served() -> None:
    engine, begun = q.Engine(), []
    slots = q.Slots(engine, 1)

    def process(name: str) -> q.Process:
        yield slots.acquire
        begun.append((name, engine.now))
        yield engine.sleep(1.0)
        slots.release()

    for name in "abc":
        engine.spawn(process(name))
    engine.run()
    assert begun == [("a", 0.0), ("b", 1.0), ("c", 2.0)]


def test_who_stops_waiting_does_not_stop_the_other() -> None:
    engine, seen = q.Engine(), []

    def slow() -> q.Process:
        yield engine.sleep(5.0)
        seen.append(("done", engine.now))
        return True

    def client() -> q.Process:
        seen.append(((yield engine.first(slow(), 2.0, False)), engine.now))
        seen.append(((yield engine.first(slow(), 9.0, False)), engine.now))

    engine.spawn(client())
    engine.run()
    assert seen == [(False, 2.0), ("done", 5.0), ("done", 7.0), (True, 7.0)]


HOURS, SPANS = "2.2", "4000"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("queueing") / "world"
    assert q.main(["--output", str(output), "--seed", "4", "--hours", HOURS, "--spans", SPANS]) == 0
    return output


def test_a_world_is_read_whole_and_has_a_truth_for_every_trace(world: Path) -> None:
    fragments, _ = collect_traces(world)
    minutes, usage = read(world)
    traces, faults = (pd.read_parquet(world / "truth" / f"{name}.parquet") for name in ("traces", "faults"))
    assert set(traces["trace_id"]) == set(fragments)
    assert 1000 < traces["span_count"].sum() < 3 * int(SPANS)
    assert sum(map(len, minutes.values())) == len(traces)
    dimensions = {dimension for used in usage.values() for amounts in used.values() for dimension in amounts}
    assert dimensions == {"cpu", "memory", "network"}
    assert len(pd.read_csv(world / "billing" / "focus.csv"))
    assert len(faults) >= 1
    assert set(faults["anomaly_kind"]) <= set(q.KINDS)
    assert faults["traces"].sum() == traces["is_anomalous"].sum() > 0


def test_nothing_differs_before_the_first_fault(world: Path) -> None:
    """The same randomness whatever fails: else every later trace would differ."""
    traces, faults = (pd.read_parquet(world / "truth" / f"{name}.parquet") for name in ("traces", "faults"))
    before = traces[
        traces["start_time"] < faults["start_time"].min() - pd.Timedelta(minutes=20)
    ]  # a small shop is slow
    assert len(before) > 100
    assert (before[["latency_log_ratio", "work_log_ratio", "root_duration_change"]] == 0).all(axis=None)


def test_what_differs_by_more_than_a_little_is_anomalous_however_long_the_trace_goes_on(world: Path) -> None:
    """A consumer may meet a fault after the root's span is over."""
    traces = pd.read_parquet(world / "truth" / "traces.parquet")
    ratio = traces[["latency_log_ratio", "work_log_ratio"]].abs().max(axis=1)
    differs = (ratio >= q.DIFFERENCE) | traces["structure_changed"] | traces["error_changed"]
    assert (traces["is_anomalous"] == differs).all()


def test_equal_seeds_give_equal_bytes_and_a_calm_world_has_no_fault(tmp_path: Path) -> None:
    argv = ["--seed", "5", "--hours", "0.2", "--spans", "1000", "--calm"]
    for name in ("one", "other"):
        q.main(["--output", str(tmp_path / name), *argv])
    for path in ("traces/spans.jsonl.gz", "metrics/metrics.jsonl.gz", "billing/focus.csv"):
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "other" / path).read_bytes()
    assert not pd.read_parquet(tmp_path / "one" / "truth" / "traces.parquet")["is_anomalous"].any()
    assert pd.read_parquet(tmp_path / "one" / "truth" / "faults.parquet").empty


@pytest.mark.parametrize("kind", q.KINDS)
def test_each_kind_of_fault_changes_traces_of_its_time_and_each_trace_is_one_tree(kind: str) -> None:
    shop = q.draw_shop(4, 0.7, 1500, is_calm=True)
    calm = q.Run(shop, ())
    often = [name for name in shop.services if name != "front"]
    for target in sorted(shop.stores) if kind == q.LOST_CACHE else often:
        if kind == q.LOST_CACHE and not target.endswith("-cache"):
            continue
        fault = q.Fault("0123456789abcdef", kind, target, 900.0, 1800.0, 3.0, "refuse" if kind == q.FAILING else "")
        struck = q.replace(shop, faults=(fault,))
        run = q.Run(struck, struck.faults)
        traces, faults = q.truth(struck, run, calm)
        if faults["traces"][0]:
            break
    else:
        pytest.fail(f"no {kind} has any effect")
    true = traces[traces["is_anomalous"]]
    assert (true["culprit_service_name"] == target).all()
    assert true["start_time"].min() > q._time(900.0) - pd.Timedelta(minutes=2)
    ids = {(span.trace, span.span_id) for span in run.spans}
    assert len(ids) == len(run.spans)
    roots = pd.Series([span.trace for span in run.spans if not span.parent_id])
    assert not roots.duplicated().any()
    assert np.isfinite(traces["latency_log_ratio"]).all()
