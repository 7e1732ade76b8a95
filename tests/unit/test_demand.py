"""How much a service is asked for, whether that is known, and how slow it is then."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from udfs.pure.assemble import assemble, unpack
from udfs.pure.curves import Curves
from udfs.pure.demand import Demand, requests_of
from udfs.pure.frame import Frame

MINUTE_MS, NS_PER_MS = 60_000, 1_000_000
START_MS = 1_740_960_000_000
SERVER, CLIENT = 2, 3


def asked(demand: Demand, minute: int, requests: float, pods: float | None = None) -> float:
    """A minute of one service, and what isn't known of its times in it."""
    demand.follow(START_MS + minute * MINUTE_MS, np.array([requests]), None if pods is None else np.array([pods]))
    unknown = float(demand.unknown()[0])
    demand.learn()
    return unknown


@pytest.mark.parametrize("requests", [0.3, 3, 40])
def test_a_steady_demand_excuses_nothing(requests: float) -> None:
    demand, rng = Demand(), np.random.default_rng(1)
    told = [asked(demand, minute, rng.poisson(requests)) for minute in range(600)]
    assert np.quantile(told[60:], 0.99) < 0.15


def test_a_demand_that_has_lasted_for_some_minutes_is_known() -> None:
    demand = Demand()
    told = [asked(demand, minute, 40) for minute in range(120)]
    assert max(told[10:]) < 0.01
    told = [asked(demand, minute, 120) for minute in range(120, 160)]
    assert max(told) > 0.7
    assert told[-1] < 0.05
    assert max(asked(demand, minute, requests) for minute, requests in enumerate([40] * 60 + [120] * 3, 160)) < 0.1


def test_fewer_pods_are_asked_for_more_each() -> None:
    demand = Demand()
    told = [asked(demand, minute, 40, 3) for minute in range(120)]
    assert max(told[10:]) < 0.01
    # An autoscaler took two of three away while nothing came.
    told = [asked(demand, minute, 40, 1) for minute in range(160, 200)]
    assert 0.7 < max(told) < np.log(3) + 0.01
    assert told[-1] < 0.05  # one that goes on so is known
    # As many pods more as there are requests more are asked for as much each, but for what the service shares.
    told = [asked(demand, minute, 120, 3) for minute in range(200, 240)]
    assert 0.7 < max(told) < np.log(3)


def test_nobody_tells_of_pods_for_a_while() -> None:
    by_pods, without = Demand(), Demand()
    pods = [0, 0, *[2] * 30, *[0] * 30, *[2] * 30]
    for minute, count in enumerate(pods):
        requests = 40.0 + 10 * (minute % 7)
        assert asked(by_pods, minute, requests, count) == pytest.approx(asked(without, minute, requests))


def test_the_state_of_a_release_that_counted_no_pods_is_read() -> None:
    old, new = Demand(), Demand()
    for minute in range(60):
        asked(old, minute, 40)
        asked(new, minute, 40)
    restored = Demand.__new__(Demand)
    restored.__setstate__({name: value for name, value in vars(old).items() if "pod" not in name})
    told = [[asked(demand, minute, 90, 2) for minute in range(60, 65)] for demand in (restored, new)]
    assert told[0] == told[1] and told[0][0] > 0.3


def test_a_service_that_takes_the_place_of_another_is_known_by_nothing() -> None:
    demand = Demand()
    for minute in range(60):
        asked(demand, minute, 40)
    demand.reset(np.array([0, 7]))
    assert asked(demand, 61, 400) == 0.0


@pytest.mark.parametrize("requests", [3, 40, 400])
def test_a_demand_is_new_where_it_is_no_chance(requests: float) -> None:
    demand, rng = Demand(), np.random.default_rng(1)
    new = []
    for minute in range(600):
        demand.follow(START_MS + minute * MINUTE_MS, np.array([rng.poisson(requests)]))
        new.append(demand.is_new(2))
        demand.learn()
    assert np.mean(new[60:], axis=0) == pytest.approx([0, 0], abs=0.02)
    demand.follow(START_MS + 600 * MINUTE_MS, np.array([5.0 * requests + 20]))
    assert demand.is_new(2).tolist() == [True, False]


def lasted(curves: Curves, rng: np.random.Generator, demand: float, factor: float, minutes: int = 60) -> float:
    """Minutes of twenty spans in slot 1 of 2; the shift at this demand when they are over."""
    curves.resize(2)
    at = np.full(2, np.log(demand))
    for _ in range(minutes):
        above = np.log(factor) + rng.exponential(0.3, 20)
        curves.learn(at, np.ones(20, np.int64), above, np.ones(20))
    return shift(curves, demand)


def shift(curves: Curves, demand: float) -> float:
    nobodys, found = curves.shift(np.full(2, np.log(demand)))
    assert nobodys == 0
    return float(found)


def test_what_it_takes_at_each_demand_is_known_from_the_last_time() -> None:
    curves, rng = Curves(), np.random.default_rng(1)
    for _ in range(4):
        lasted(curves, rng, 10, 1)
        lasted(curves, rng, 30, 3, minutes=20)
    assert shift(curves, 30) - shift(curves, 10) == pytest.approx(np.log(3), abs=0.35)
    assert shift(curves, 10) == 0
    assert 0 <= shift(curves, 18) < shift(curves, 25) < shift(curves, 30)
    assert shift(curves, 300) == pytest.approx(shift(curves, 30), abs=0.2)  # it is no faster there
    assert shift(curves, 1e9) > 0.3


def test_a_demand_that_changes_nothing_has_no_shift() -> None:
    """Nor has a mean of times that is above their usual, as it is where some take long."""
    curves, rng = Curves(), np.random.default_rng(1)
    found = [lasted(curves, rng, rng.uniform(8, 40), 1, minutes=1) for _ in range(600)]
    assert np.mean(found[60:]) < 0.01
    assert max(found[60:]) < 0.1


def test_a_fault_at_the_usual_demand_is_not_the_demands() -> None:
    curves, rng = Curves(), np.random.default_rng(1)
    lasted(curves, rng, 20, 1, minutes=120)
    assert lasted(curves, rng, 20, 5, minutes=60) < 0.1


def test_a_new_release_is_soon_known_by_what_it_does() -> None:
    curves, rng = Curves(), np.random.default_rng(1)
    lasted(curves, rng, 10, 1, minutes=600)
    lasted(curves, rng, 30, 3, minutes=200)
    curves.renew(np.array([1]))
    before = shift(curves, 30)
    lasted(curves, rng, 10, 1, minutes=30)
    assert lasted(curves, rng, 30, 1, minutes=30) < before / 2
    curves.reset(np.array([1]))
    assert shift(curves, 30) == 0


def test_a_loop_is_not_the_demand_of_its_callee() -> None:
    """A root asks one service three times, a database that has no spans twice, and another service once."""
    rows = [["root", "", "handle", SERVER, 0, 0, 100, ""]]
    groups = [["shop", "p", "node", rows]]
    for number in range(3):
        rows.append([f"call {number}", "root", "GET", CLIENT, 0, 10 + number, 20 + number, "cart"])
        groups.append(
            ["cart", "p", "node", [[f"serve {number}", f"call {number}", "GET /cart", SERVER, 0, 11, 19, ""]]]
        )
    for number in range(2):
        rows.append([f"query {number}", "root", "SELECT", CLIENT, 0, 30 + number, 40 + number, "db"])
    rows.append(["pay", "root", "POST", CLIENT, 0, 50, 60, "pay"])
    groups.append(["pay", "p", "node", [["paid", "pay", "POST /pay", SERVER, 0, 51, 59, ""]]])
    for _, _, _, spans in groups:
        for span in spans:
            span[5:7] = [(START_MS + ms) * NS_PER_MS for ms in span[5:7]]
    assembled = assemble("t", [orjson.dumps(["spans", groups])])
    assert assembled
    frame = Frame([unpack(assembled[1])])
    names = ["shop", "cart", "pay", "db"]
    service = np.array([names.index(frame.operations[i].split("\x1f")[0]) for i in frame.operation])
    peers = [[*frame.operations[i].split("\x1f"), ""][2] for i in frame.operation]
    callee = np.array([names.index(peer) if peer else -1 for peer in peers])
    parent = np.where(frame.has_parent, frame.parent, 0)
    is_entry = ~frame.has_parent | (service[parent] != service)
    found = requests_of(frame, frame.sibling_groups()[0], service, callee, is_entry, callee == 3, len(names))
    assert dict(zip(names, found.tolist())) == {"shop": 1, "cart": 1, "pay": 1, "db": 1}
