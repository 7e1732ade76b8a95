"""The detector's running statistics and its watch over usage, each by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from udfs.pure.baseline import MEMORY_MINUTES, Profiles, Vocabulary
from udfs.pure.load import Load
from udfs.pure.usage_watch import FEATURES, UsageWatch

ROW = np.zeros(20, int)
MINUTE_MS = 60_000


def learnt(profiles: Profiles, location: float, scale: float, minutes: int, weight: float = 1.0) -> Profiles:
    profiles.resize(1)
    rng = np.random.default_rng(7)
    for _ in range(minutes):
        values = rng.normal(location, scale, len(ROW))
        profiles.learn(ROW, values, np.full(len(ROW), weight))
    return profiles


def test_location_and_scale_are_those_of_the_samples() -> None:
    profiles = learnt(Profiles(0.5, 0.05), 3.0, 0.2, 60)
    assert profiles.location[0] == pytest.approx(3.0, abs=0.03)
    assert profiles.scale[0] == pytest.approx(0.2, abs=0.03)


def test_outliers_hardly_move_them() -> None:
    profiles = learnt(Profiles(0.5, 0.05), 3.0, 0.2, 60)
    values = np.r_[np.linspace(2.8, 3.2, 18), 20.0, 20.0]
    for _ in range(30):
        profiles.learn(ROW, values, np.ones(len(ROW)))
    assert profiles.location[0] == pytest.approx(3.0, abs=0.1)
    assert profiles.scale[0] < 0.4


def test_a_shift_is_followed_within_the_memory_and_faster_when_young() -> None:
    old = learnt(learnt(Profiles(0.5, 0.05), 3.0, 0.2, int(3 * MEMORY_MINUTES)), 3.2, 0.2, 10)
    young = learnt(learnt(Profiles(0.5, 0.05), 3.0, 0.2, 10), 3.2, 0.2, 10)
    assert old.location[0] < 3.05 < young.location[0]
    assert learnt(old, 3.2, 0.2, int(3 * MEMORY_MINUTES)).location[0] > 3.15


def test_what_weighs_little_teaches_little_but_not_in_the_first_minutes() -> None:
    old = learnt(Profiles(0.5, 0.05), 3.0, 0.2, 200)
    assert learnt(old, 5.0, 0.2, 30, weight=0.01).location[0] < 3.1
    young = learnt(Profiles(0.5, 0.05), 3.0, 0.2, 1)
    assert learnt(young, 5.0, 0.2, 30, weight=0.01).location[0] > 3.4


def test_the_order_of_samples_has_no_say() -> None:
    values = np.random.default_rng(3).normal(0, 1, 20)
    one, other = Profiles(0.5, 0.05), Profiles(0.5, 0.05)
    for profiles, order in ((one, slice(None)), (other, slice(None, None, -1))):
        profiles.resize(1)
        profiles.learn(ROW, values[order], np.ones(20))
    assert one.location == other.location and one.scale == other.scale


def test_names_keep_their_ids_until_they_are_forgotten() -> None:
    names = Vocabulary()
    names.see(["b", "a"], 1)
    names.see(["c", "a"], 2)
    assert names.names == ["a", "b", "c"]
    names.keep(np.flatnonzero(names.last_seen >= 2))
    assert [names.get(name) for name in "abc"] == [0, -1, 1]


def test_what_most_services_agree_on_is_load_and_one_of_them_is_not() -> None:
    services = np.repeat(np.arange(8), 10)
    load = Load()
    load.resize(8)
    for _ in range(20):
        load.follow(services, np.where(services == 3, 2.0, 0.0), np.full(80, 0.2))
    assert load.shift()[3] == 0.0
    for _ in range(20):
        load.follow(services, np.full(80, 0.7), np.full(80, 0.2))
    assert load.shift() == pytest.approx(0.7, abs=0.01)


def test_who_feels_load_more_is_expected_to() -> None:
    services = np.repeat(np.arange(8), 10)
    surplus = np.where(services == 3, 0.8, 0.4)
    load = Load()
    load.resize(8)
    for _ in range(60):
        load.follow(services, surplus, np.full(80, 0.2))
        load.learn(services, surplus)
    assert load.shift()[[0, 3]] == pytest.approx([0.4, 0.8], abs=0.05)


def test_few_services_have_no_common_load() -> None:
    load = Load()
    load.resize(3)
    load.follow(np.arange(3), np.full(3, 1.0), np.full(3, 0.2))
    assert load.shift().tolist() == [0.0, 0.0, 0.0]


def test_pods_run_that_used_something_a_moment_ago() -> None:
    watch = UsageWatch()
    watch.resize(2)
    of = {"s\x1fa": 0, "s\x1fb": 0, "t\x1fa": 1}
    for minute, names in enumerate([["s\x1fa", "t\x1fa"], ["s\x1fa", "s\x1fb"], [], []]):
        running = watch.running(minute * MINUTE_MS, names).tolist()
        watch.step(minute * MINUTE_MS, {name: {"cpu": 1.0} for name in names}, of, {})
        # Of those that are new nobody knows whose they are; usage that isn't there yet is no pod that is gone.
        assert running == [[0, 0], [1, 1], [2, 1], [2, 0]][minute]


class _Pods:
    """Two pods of one service, with a cost per call, a base load and noise."""

    names = ("s\x1fa", "s\x1fb")

    def __init__(self) -> None:
        self.watch = UsageWatch()
        self.watch.resize(1)
        self.rng = np.random.default_rng(11)
        self.minute = 0

    def run(
        self,
        minutes: int,
        cost: float = 1.0,
        base: Sequence[float] = (10.0, 10.0),
        calls: float = 10.0,
    ) -> dict[str, float]:
        """Log odds of over-use after so many minutes; base: of each pod."""
        for _ in range(minutes):
            counts, usage = {}, {}
            for name, idle in zip(self.names, base, strict=True):
                served = self.rng.poisson(calls)
                counts[name] = np.zeros(FEATURES - 2)
                counts[name][0] = served
                noise = self.rng.normal(0, 0.5 + 0.2 * np.sqrt(served))
                usage[name] = {"cpu": idle + cost * served + noise}
            self.minute += 1
            odds = self.watch.step(self.minute * MINUTE_MS, usage, dict.fromkeys(self.names, 0), counts)
        return odds


def test_usage_that_its_calls_explain_is_no_overuse() -> None:
    pods = _Pods()
    assert max(pods.run(120).values()) < -3
    assert max(pods.run(30, calls=30.0).values()) < -3
    assert max(pods.run(30, calls=2.0).values()) < -3


def test_a_call_that_costs_twice_as_much_is_overuse_until_it_no_longer_does() -> None:
    pods = _Pods()
    pods.run(120)
    assert min(pods.run(60, cost=2.0).values()) > 0
    assert max(pods.run(5).values()) < 0


def test_a_slightly_heavier_release_is_no_overuse() -> None:
    pods = _Pods()
    pods.run(120)
    assert max(max(pods.run(1, cost=1.12).values()) for _ in range(120)) < 0


def test_a_storm_of_overuse_is_not_taken_for_usual() -> None:
    pods = _Pods()
    pods.run(240)
    assert min(pods.run(240, cost=2.5).values()) > 0


def test_without_traces_nothing_is_judged() -> None:
    pods = _Pods()
    pods.run(120)
    usage = {name: {"cpu": 500.0} for name in pods.names}
    for _ in range(300):
        pods.minute += 1
        odds = pods.watch.step(pods.minute * MINUTE_MS, usage, dict.fromkeys(pods.names, 0), {})
        assert max(odds.values()) < -2
    assert max(pods.run(60).values()) < -2
    assert min(pods.run(8, cost=2.0).values()) > 0


def test_what_is_peculiar_to_a_pod_is_no_overuse() -> None:
    pods = _Pods()
    pods.run(120)
    pods.run(60, base=(10.0, 13.0))
    assert max(max(pods.run(1, base=(10.0, 13.0)).values()) for _ in range(120)) < 0


def test_a_heap_that_creeps_is_no_overuse() -> None:
    pods, creep = _Pods(), 0.0
    walk = np.random.default_rng(5)
    for _ in range(600):
        creep = 0.98 * creep + walk.normal(0, 2.0)
        odds = pods.run(1, base=(30.0 + creep, 30.0 + creep))
        assert max(odds.values()) < 0
