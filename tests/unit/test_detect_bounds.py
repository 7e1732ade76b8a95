"""The detector's state is bounded, whatever names come: a number of a service that is forgotten is another's."""

from __future__ import annotations

import pickle
import random

import numpy as np
import orjson
import pytest

from udfs.pure import baselines, pods
from udfs.pure.assemble import assemble
from udfs.pure.baselines import SERVICES_MOST
from udfs.pure.detect import FORGET_MS, TIDY_MINUTES, Detector
from udfs.pure.episodes import Episodes
from udfs.pure.usage_watch import UsageWatch

MINUTE_MS = 60_000
START_MS = 1_740_960_000_000
NS = 1_000_000


def trace(number: int, child: str, minute: int) -> bytes:
    """gateway calls a service; the id is the number."""
    rng = random.Random(number)
    start = (START_MS + minute * MINUTE_MS + rng.randrange(50_000)) * NS
    end = start + int(8 * rng.lognormvariate(0, 0.2) * NS)
    rows = [
        ["gateway", "0", "/", 2, ["0", ""], start, end + 3 * NS],
        ["gateway", "1", "GET", 3, ["1", "0"], start + NS, end + 2 * NS],
        [child, "2", f"/{child}", 2, ["2", "1"], start + 2 * NS, end],
    ]
    groups = [
        [service, f"{service}-0", "node", [[*ids, name, kind, 0, begin, stop, child if kind == 3 else ""]]]
        for service, _, name, kind, ids, begin, stop in rows
    ]
    return assemble(f"{number}", [orjson.dumps(["spans", groups])])[1]


def step(detector: Detector, minute: int, children: list[str]) -> list:
    packed = [trace(minute * 1_000 + place, child, minute) for place, child in enumerate(children)]
    usage = {(child, f"{child}-0"): {"cpu": 0.1, "memory": 1e8} for child in {*children, "gateway"}}
    return detector.step(START_MS + minute * MINUTE_MS, packed, usage)


def test_six_thousand_names_in_two_hours_take_what_the_most_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a service that stays is known throughout. (At a fifth of the bounds, for speed.)"""
    most = SERVICES_MOST // 5
    monkeypatch.setattr(baselines, "SERVICES_MOST", most)
    monkeypatch.setattr(baselines, "ROWS_MOST", 5 * most)
    monkeypatch.setattr(pods, "PODS_MOST", 2 * most)
    monkeypatch.setattr("udfs.pure.usage_watch.PODS_MOST", 2 * most)
    detector, sizes = Detector(), []
    for minute in range(120):
        results = step(detector, minute, [f"job-{minute}-{n}" for n in range(50)] + ["cart"] * 6)
        if minute % 20 == 19:
            sizes.append(len(pickle.dumps(detector)))
        assert detector._baselines.services.taken <= most
        assert {v["anomaly_score"] >= 0 for v in results[0].verdicts} == {True}
        assert len(results[0].service_traces) == 52
    assert max(sizes) < 1.2 * sizes[0]
    assert max(sizes) < 65_000 * most
    assert detector._baselines.services.get("cart") >= 0
    known = detector._baselines.samples[detector._baselines.services.get("cart")]
    assert known > 100


def test_a_service_that_takes_a_forgotten_one_s_number_starts_with_nothing_of_it() -> None:
    detector = Detector()
    for minute in range(40):
        step(detector, minute, ["old"] * 8)
    number = detector._baselines.services.get("old")
    detector._beliefs._services._guard._sum[number] = 1e3
    later = 40 + FORGET_MS // MINUTE_MS
    for minute in range(later, later + TIDY_MINUTES):
        detector.step(START_MS + minute * MINUTE_MS, [], {})
    assert detector._baselines.services.get("old") < 0
    fresh, anew = later + TIDY_MINUTES, Detector()
    for one in (detector, anew):
        step(one, fresh, ["new"] * 8)
    ours, theirs = (d._baselines.services.get("new") for d in (detector, anew))
    assert detector._baselines.services.get("gateway") in (0, 1) and ours in (0, 1)
    for what in (
        lambda d: d._beliefs._services.threshold(),
        lambda d: d._beliefs.of_services(),
        lambda d: d._baselines.samples,
        lambda d: d._baselines.service_since,
        lambda d: d._baselines._service_hash[1:],
        lambda d: d._usage._gram,
        lambda d: d._usage._samples,
    ):
        np.testing.assert_allclose(what(detector)[ours], what(anew)[theirs], rtol=0, atol=1e-4)


def test_a_minute_that_is_told_anew_may_name_who_is_forgotten_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are others' by then: it goes by names."""
    monkeypatch.setattr(baselines, "SERVICES_MOST", 20)
    detector = Detector()
    told: dict[int, list[dict]] = {}
    for minute in range(30):
        for result in step(detector, minute, [f"job-{minute}-{n}" for n in range(10)]):
            told.setdefault(result.minute_ms, []).append(result.service_traces)
    assert all(len(words) == 2 for words in list(told.values())[:20])
    assert all(first == last for first, last in list(told.values())[:20])


def test_rows_that_are_reset_are_well_now_and_in_the_past() -> None:
    episodes = Episodes(1, 1, lag=10)
    episodes.resize(2)
    for number in range(20):
        episodes.step(number * MINUTE_MS, np.array([0, 0, 1, 1]), np.full((4, 1, 1), 2.0))
    assert (episodes.now[:, 0, 0] < 0.1).all()
    episodes.reset(np.array([1]))
    for minute in (12, 15, 19):
        well = episodes.at(minute * MINUTE_MS)[:, 0, 0]
        assert well[0] < 0.1 and well[1] == pytest.approx(1.0, abs=1e-3)


def test_usage_of_a_service_that_is_reset_is_unknown() -> None:
    watch = UsageWatch(lag=3)
    watch.resize(2)
    names = {"a\x1f0": 0, "b\x1f0": 1}
    for number in range(1, 90):
        calls = {name: np.eye(1, 9)[0] * (5 + number % 7) for name in names}
        watch.step(number * MINUTE_MS, {name: {"cpu": 5.0 + number % 7} for name in names}, names, calls)
    assert (watch._samples[:, 0] > 0).all()
    watch.forget(0, np.array([1]))
    assert watch._samples[0, 0] > 0 == watch._samples[1, 0]
    assert watch.pods.names == ["a\x1f0"]
    assert [set(of) for of in watch.at(88 * MINUTE_MS)] == [{"a\x1f0"}] * 2
