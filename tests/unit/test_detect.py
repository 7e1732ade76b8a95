"""detect: what the detector promises, without a model, on a small literal shop whose every draw is seeded."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.pure.assemble import assemble
from udfs.pure.channels import OWN, THRESHOLD
from udfs.pure.detect import LAG_MINUTES, Detector
from udfs.pure.verdicts import READY, WARMING, MinuteResult

MINUTE_MS = 60_000
START_MS = 1_740_960_000_000
NS_PER_MS = 1_000_000
SERVER, CLIENT = 2, 3
TRACES = 12  # a minute

# Who calls whom, and the median own time in ms.
CALLS = {"gateway": ["cart", "orders"], "orders": ["tax", "stock"], "stock": ["ledger"]}
OWN_MS = {"gateway": 2.0, "cart": 8.0, "orders": 5.0, "tax": 3.0, "stock": 6.0, "ledger": 4.0}
PODS, RELEASED_PODS = ("a", "b"), ("c", "d")
CPU_PER_MS, IDLE_CPU = 0.001, 0.5


@dataclass(frozen=True)
class World:
    """What is wrong in a minute; all factors 1 and all shares 0 is a quiet one."""

    slow: Mapping[str, float] = field(default_factory=dict)  # service -> factor on own time
    accept_ms: Mapping[str, float] = field(default_factory=dict)  # service -> wait before it serves
    refusing: str = ""  # service that is not reached: calls fail, no server span
    failing: str = ""  # service that answers with errors
    looping: tuple[str, str] = ("", "")  # (service, the one it calls three times)
    missing: tuple[str, str] = ("", "")  # (service, the one it no longer calls)
    heavy: Mapping[str, float] = field(default_factory=dict)  # service -> factor on cpu
    share: float = 1.0  # of the traces
    has_client_spans: bool = True
    released: str = ""  # service that has other pods

    def pods(self, service: str) -> tuple[str, str]:
        """Those that it runs in."""
        return RELEASED_PODS if service == self.released else PODS


class _Trace:
    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng, self.spans = world, rng, []
        self.work: Counter[tuple[str, str]] = Counter()

    def serve(self, service: str, parent: str, start: float) -> tuple[float, int]:
        """Server span of ``service`` and all below it: (end, error)."""
        world, rng = self.world, self.rng
        span_id = f"{len(self.spans)}"
        pod = rng.choice(world.pods(service))
        row: list[Any] = [span_id, parent, f"/{service}", SERVER, 0, 0, 0, ""]
        self.spans.append([service, pod, row])
        own = OWN_MS[service] * rng.lognormvariate(0, 0.2)
        self.work[service, pod] += own * world.heavy.get(service, 1.0)
        time = start + own * world.slow.get(service, 1.0)
        error = int(service == world.failing)
        for callee in CALLS.get(service, ()) if not error else ():
            if (service, callee) != world.missing:
                for _ in range(3 if (service, callee) == world.looping else 1):
                    time, failed = self.call(service, pod, callee, span_id, time)
                    error |= failed
        row[4:7] = [error, start, time]
        return time, error

    def call(self, service: str, pod: str, callee: str, parent: str, start: float) -> tuple[float, int]:
        network = 0.5 * self.rng.lognormvariate(0, 0.2)
        if not self.world.has_client_spans:
            end, error = self.serve(callee, parent, start + network + self.world.accept_ms.get(callee, 0.0))
            return end + network, error
        span_id = f"{len(self.spans)}"
        row: list[Any] = [span_id, parent, "GET", CLIENT, 1, start, start + 1, callee]
        self.spans.append([service, pod, row])
        if callee != self.world.refusing:
            wait = network + self.world.accept_ms.get(callee, 0.0)
            end, row[4] = self.serve(callee, span_id, start + wait)
            row[6] = end + network
        return row[6], row[4]


def minute(
    number: int, world: World = World(), traces: int = TRACES
) -> tuple[int, list[bytes], dict[tuple[str, str], dict[str, float]]]:
    """Arguments of Detector.step for one minute; trace ids are "minute/number"."""
    start_ms = START_MS + number * MINUTE_MS
    packed = []
    work: Counter[tuple[str, str]] = Counter()
    for i in range(traces):
        rng = random.Random(f"{number}/{i}")
        trace = _Trace(world if rng.random() < world.share else World(), rng)
        trace.serve("gateway", "", start_ms + rng.uniform(0, 59_000))
        for _, _, row in trace.spans:
            row[5:7] = [int(row[5] * NS_PER_MS), int(row[6] * NS_PER_MS)]
        groups = [[service, pod, "node", [row]] for service, pod, row in trace.spans]
        packed.append(assemble(f"{number}/{i}", [orjson.dumps(["spans", groups])])[1])
        work.update(trace.work)
    idle = random.Random(f"{number}")
    usage = {
        (service, pod): {"cpu": CPU_PER_MS * work[service, pod] + IDLE_CPU * idle.uniform(0.0098, 0.0102)}
        for service in OWN_MS
        for pod in world.pods(service)
    }
    return start_ms, packed, usage


WARM = 60  # minutes


@pytest.fixture(scope="module")
def warm() -> Callable[[], Detector]:
    """A detector that saw WARM quiet minutes, anew for each caller."""
    detector = Detector()
    for number in range(WARM):
        detector.step(*minute(number))
    return frozen(detector)


def frozen(detector: Detector) -> Callable[[], Detector]:
    """Makes copies of a detector as it is now, with the minutes that it will tell anew."""
    pickled, predictor = pickle.dumps((detector, detector.pending)), detector.predictor

    def copy() -> Detector:
        copied, copied.pending = pickle.loads(pickled)
        copied.predictor = predictor
        return copied

    return copy


def run(
    detector: Detector, world: World, first: int = WARM, minutes: int = 1, traces: int = TRACES
) -> list[MinuteResult]:
    """What is said of each minute at once."""
    return [result for result in run_all(detector, world, first, minutes, traces) if not result.is_final]


def run_all(
    detector: Detector, world: World, first: int = WARM, minutes: int = 1, traces: int = TRACES
) -> list[MinuteResult]:
    """The same, and what is told anew of earlier minutes."""
    results = []
    for number in range(first, first + minutes):
        results += detector.step(*minute(number, world, traces))
    return results


def flagged(results: list[MinuteResult]) -> float:
    """Share of the traces that were found anomalous."""
    verdicts = [verdict for result in results for verdict in result.verdicts]
    return sum(verdict["is_anomalous"] for verdict in verdicts) / len(verdicts)


def named(results: list[MinuteResult]) -> tuple[str, str]:
    """The most frequent (culprit, kind)."""
    counts = Counter(
        (verdict["culprit_service_name"], verdict["anomaly_kind"])
        for result in results
        for verdict in result.verdicts
        if verdict["is_anomalous"]
    )
    return max(sorted(counts), key=lambda key: counts[key])


def test_quiet_traffic_stays_quiet(warm) -> None:
    assert flagged(run(warm(), World(), minutes=60)) < 0.01


def test_a_warming_trace_is_never_anomalous() -> None:
    detector = Detector()
    results = run(detector, World(slow={"tax": 50.0}, share=0.3), first=0, minutes=9)
    assert {v["verdict_state"] for r in results for v in r.verdicts} == {WARMING}
    assert flagged(results) == 0.0


def test_warming_ends(warm) -> None:
    (result,) = run(warm(), World())
    assert {verdict["verdict_state"] for verdict in result.verdicts} == {READY}


@pytest.mark.parametrize(
    ("world", "culprit"),
    [
        (World(slow={"tax": 12.0}), ("tax", "latency_spike")),
        (World(slow={"ledger": 12.0}), ("ledger", "latency_spike")),
        (World(accept_ms={"stock": 60.0}), ("stock", "latency_spike")),
        (World(refusing="ledger"), ("ledger", "dependency_failure")),
        (World(failing="ledger"), ("ledger", "dependency_failure")),
        (World(looping=("orders", "tax")), ("orders", "retry_loop")),
        (World(missing=("orders", "tax")), ("orders", "structure_change")),
    ],
)
def test_a_fault_is_found_with_its_culprit(warm, world: World, culprit: tuple[str, str]) -> None:
    results = run(warm(), world, minutes=4)
    assert flagged(results[1:]) > 0.9
    assert named(results) == culprit


def test_a_lone_outlier_stands_out_by_its_score_and_is_no_episode(warm) -> None:
    """One slow trace among its like has many reasons: it is nobody's trouble until another one follows."""
    results = run(warm(), World(slow={"cart": 60.0}, share=0.01), minutes=6)
    verdicts = [v for r in results for v in r.verdicts]
    assert max(verdicts, key=lambda v: v["anomaly_score"])["trace_id"] == "65/5"  # the only draw below the share
    assert not any(v["is_anomalous"] for v in verdicts)


def test_the_deepest_slow_service_is_blamed_not_the_loudest(warm) -> None:
    # Who calls the culprit waits for a free connection, and loses more than the culprit does.
    results = run(warm(), World(slow={"orders": 30.0, "stock": 4.0}), minutes=4)
    assert named(results) == ("stock", "latency_spike")


def test_overuse_that_slows_nothing_is_found_by_the_metrics(warm) -> None:
    results = run(warm(), World(heavy={"orders": 3.0}), minutes=15)
    assert flagged(results[5:]) > 0.9
    assert named(results) == ("orders", "resource_overuse")


def test_more_requests_are_no_overuse(warm) -> None:
    assert flagged(run(warm(), World(), minutes=15, traces=3 * TRACES)) < 0.02


def test_a_minute_is_compared_with_earlier_ones_not_with_itself(warm) -> None:
    """The first minute of a shift that all traces share is found in full."""
    assert flagged(run(warm(), World(slow={"tax": 12.0}))) == 1.0


def test_traces_of_a_later_minute_change_no_verdict(warm) -> None:
    one, other = warm(), warm()
    assert run(one, World(), minutes=1) == run(other, World(), minutes=1)
    run(one, World(slow={"tax": 9.0}), first=WARM + 1)
    assert one.step(*minute(WARM + 2)) is not None  # and the past result is not held back


@pytest.mark.parametrize(
    "world",
    [
        World(failing="stock"),
        World(slow={"stock": 5.0}, heavy={"stock": 3.0}),
        World(slow={"stock": 5.0}, failing="ledger"),
        World(looping=("orders", "tax")),
    ],
)
def test_a_storm_of_hours_is_not_silenced(warm, world: World) -> None:
    """What fails, asks again and again or uses more costs somebody something for as long as it lasts."""
    detector = warm()
    assert flagged(run(detector, world, minutes=240, traces=6)[-30:]) > 0.9
    assert flagged(run(detector, World(), first=WARM + 240, minutes=60, traces=6)[20:]) < 0.02


@pytest.mark.parametrize(
    "world", [World(slow={"stock": 2.2}), World(slow={"stock": 5.0}), World(accept_ms={"stock": 60.0})]
)
def test_a_shift_that_lasts_is_told_for_an_hour_at_most(warm, world: World) -> None:
    """Slow and nothing else. Once it is over the next one is found as the first was."""
    detector = warm()
    results = run(detector, world, minutes=180, traces=6)
    assert flagged(results[:40]) > 0.9
    assert flagged(results[60:]) < 0.02
    assert flagged(run(detector, World(), first=WARM + 180, minutes=60, traces=6)) < 0.02
    assert flagged(run(detector, world, first=WARM + 240, minutes=30, traces=6)[10:]) > 0.9


def test_a_call_that_is_made_no_more_is_told_for_an_hour_at_most(warm) -> None:
    detector, left_out = warm(), World(missing=("orders", "tax"))
    results = run(detector, left_out, minutes=120, traces=6)
    assert flagged(results[:40]) > 0.9
    assert flagged(results[60:]) < 0.02
    assert flagged(run(detector, World(), first=WARM + 120, minutes=60, traces=6)) < 0.02


def test_who_asks_without_a_span_for_it_learns_how_far_a_release_is() -> None:
    detector = Detector()
    run(detector, World(has_client_spans=False), first=0, minutes=90)
    far = World(has_client_spans=False, accept_ms={"ledger": 25.0})
    assert flagged(run(frozen(detector)(), far, first=90, minutes=20)[10:]) > 0.9
    assert flagged(run(detector, replace(far, released="ledger"), first=90, minutes=20)[10:]) < 0.05


def test_what_is_slow_for_a_part_of_its_calls_is_no_shift(warm) -> None:
    slow = World(slow={"stock": 5.0}, share=0.4)
    assert flagged(run(warm(), slow, minutes=180, traces=6)[-60:]) > 0.3


def test_a_slight_shift_that_stays_is_absorbed(warm) -> None:
    detector = warm()
    deployed = World(slow={"cart": 1.25})
    results = run(detector, deployed, minutes=300, traces=6)
    assert flagged(results) < 0.1
    assert flagged(results[-60:]) < 0.01


def test_a_surge_that_slows_everybody_is_nobodys_fault(warm) -> None:
    detector = warm()
    for step in range(30):
        everybody = dict.fromkeys(OWN_MS, 1 + step / 15)
        (result,) = run(detector, World(slow=everybody), first=WARM + step)
        assert flagged([result]) <= 0.1, step


def test_a_service_that_a_crowd_slows_is_not_at_fault(warm) -> None:
    """Nobody else feels the crowd; as slow at the usual demand it is at fault."""
    slow = World(slow={"stock": 2.2})
    assert flagged(run_all(warm(), slow, minutes=8, traces=3 * TRACES)) < 0.02
    assert flagged(run_all(warm(), slow, minutes=8)) > 0.4


@pytest.mark.parametrize("factor", [3.0, 4.0])
def test_as_slow_as_at_the_same_demand_before_is_usual(warm, factor: float) -> None:
    """A crowd that slows a service more than demand commonly does; at the usual demand it is at fault as ever."""
    slow = World(slow={"stock": factor})
    first, after, again = warm(), WARM + 20, WARM + 50
    assert flagged(run(first, slow, minutes=20, traces=3 * TRACES)[5:]) < 0.02
    assert flagged(run(first, World(), first=after, minutes=30)) < 0.02
    other = frozen(first)
    assert flagged(run(first, slow, first=again, minutes=20, traces=3 * TRACES)) < 0.02
    assert flagged(run(other(), slow, first=again, minutes=8)[1:]) > 0.8


def test_a_pickled_detector_goes_on_as_if_nothing_had_been(warm) -> None:
    kept, moved = warm(), warm()
    for number in range(WARM, WARM + 8):
        world = World(slow={"tax": 6.0}, heavy={"cart": 3.0}, share=0.5)
        expected = kept.step(*minute(number, world))
        moved = frozen(moved)()
        assert moved.step(*minute(number, world)) == expected


def test_the_state_is_the_same_in_every_process() -> None:
    script = (
        "import hashlib, pickle\n"
        "from tests.unit.test_detect import Detector, minute\n"
        "detector = Detector()\n"
        "[detector.step(*minute(n)) for n in range(3)]\n"
        "print(hashlib.sha256(pickle.dumps(detector)).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@settings(derandomize=True, max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_traces_and_of_usage_has_no_say(shuffle: random.Random) -> None:
    expected, found = Detector(), Detector()
    for number in range(14):
        start_ms, traces, usage = minute(number, World(failing="tax", share=0.3), traces=8)
        result = expected.step(start_ms, traces, usage)
        shuffled, keys = list(traces), list(usage)
        shuffle.shuffle(shuffled)
        shuffle.shuffle(keys)
        assert found.step(start_ms, shuffled, {key: usage[key] for key in keys}) == result
    assert pickle.dumps(found) == pickle.dumps(expected)


def test_ids_have_no_say(warm) -> None:
    start_ms, traces, usage = minute(WARM, World(slow={"tax": 6.0}, share=0.5))
    (expected, *_) = warm().step(start_ms, traces, usage)
    renamed = [trace.replace(b'"60/', b'"xx/') for trace in traces]
    (result, *_) = warm().step(start_ms, renamed, usage)
    assert [v["anomaly_score"] for v in result.verdicts] == pytest.approx(
        [v["anomaly_score"] for v in expected.verdicts]
    )


def test_a_minute_of_usage_alone_gives_nothing_and_breaks_nothing(warm) -> None:
    detector = warm()
    start_ms, _, usage = minute(WARM)
    assert {result.minute_ms for result in detector.step(start_ms, [], usage)} == {start_ms - LAG_MINUTES * MINUTE_MS}
    assert Detector().step(start_ms, [], {}) == []
    assert flagged(run(detector, World(), first=WARM + 1, minutes=5)) < 0.05


def test_verdicts_and_incidents_agree(warm) -> None:
    detector = warm()
    result = run(detector, World(slow={"tax": 9.0}, share=0.5), minutes=3)[-1]
    anomalous = [verdict for verdict in result.verdicts if verdict["is_anomalous"]]
    assert 0 < len(anomalous) < TRACES
    for verdict in result.verdicts:
        assert verdict["is_anomalous"] == (verdict["anomaly_score"] > verdict["threshold"])
        assert (verdict["culprit_service_name"] is not None) == verdict["is_anomalous"]
        assert verdict["root_service_name"] == "gateway"
        assert verdict["root_operation"] == "/gateway"
    (incident,) = result.incidents
    assert incident["otel_service_name"] == "tax"
    assert incident["anomalous_traces"] == len(anomalous) == sum(incident["kinds"].values())
    assert sorted(incident["scores"]) == sorted(v["anomaly_score"] for v in anomalous)
    assert incident["operations"] == {"/tax": len(anomalous)}
    assert incident["affected"] == dict.fromkeys(["gateway", "orders", "tax"], len(anomalous))
    ranked = sorted(([v["anomaly_score"], v["trace_id"]] for v in anomalous),
                    key=lambda e: (-e[0], e[1]))  # fmt: skip
    assert incident["exemplars"] == ranked[:5]
    assert result.service_traces == dict.fromkeys(OWN_MS, TRACES)
    orjson.dumps([result.verdicts, result.incidents, result.service_traces])


def test_what_is_not_seen_for_days_is_forgotten(warm) -> None:
    detector = warm()
    before = len(pickle.dumps(detector))
    for number in range(400):
        start_ms, traces, usage = minute(10_000 + number, traces=2)
        renamed = {("new", pod): amounts for (_, pod), amounts in usage.items()}
        detector.step(start_ms, [], renamed)
    assert len(pickle.dumps(detector)) < before
    assert flagged(run(detector, World(), first=10_400, minutes=9)) == 0.0  # it warms up again


def test_the_threshold_is_what_the_guard_asks_of_whom_a_trace_blames(warm) -> None:
    """A service that is slow now and then for no reason has to show more; the others' threshold stays."""
    detector = warm()
    assert {v["threshold"] for r in run(detector, World()) for v in r.verdicts} == {THRESHOLD}
    guard = detector._beliefs._services._guard
    tax = detector._baselines.services.get("tax")
    guard._sum[tax, OWN], guard._minutes[tax, OWN] = 500.0, 30.0
    asked = detector._beliefs._services.threshold()[tax, OWN]
    assert asked > 1.0
    blamed, _ = run(detector, World(slow={"tax": 12.0}), first=WARM + 1, minutes=2)
    for verdict in blamed.verdicts:
        assert verdict["culprit_service_name"] == "tax"
        assert verdict["threshold"] == pytest.approx(THRESHOLD + asked)
        assert verdict["is_anomalous"] and verdict["anomaly_score"] > verdict["threshold"]
    (incident,) = blamed.incidents
    assert incident["threshold"] == pytest.approx(THRESHOLD + asked)
    (others,) = run(warm(), World(slow={"ledger": 12.0}))
    assert {v["threshold"] for v in others.verdicts if v["culprit_service_name"] == "ledger"} == {THRESHOLD}


def test_an_anomaly_is_what_exceeds_its_threshold(warm) -> None:
    results = run_all(warm(), World(slow={"stock": 3.0}, share=0.4), minutes=15)
    verdicts = [v for r in results for v in r.verdicts]
    assert {v["is_anomalous"] for v in verdicts} == {True, False}
    for verdict in verdicts:
        assert verdict["threshold"] >= THRESHOLD
        assert verdict["is_anomalous"] == (verdict["anomaly_score"] > verdict["threshold"])
