"""How much a service is asked for, and whether that is known."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from udfs.pure.assemble import assemble, unpack
from udfs.pure.demand import Demand, requests_of
from udfs.pure.frame import Frame

MINUTE_MS, NS_PER_MS = 60_000, 1_000_000
START_MS = 1_740_960_000_000
SERVER, CLIENT = 2, 3


def asked(demand: Demand, minute: int, requests: float) -> float:
    """A minute of one service, and what isn't known of its times in it."""
    demand.follow(START_MS + minute * MINUTE_MS, np.array([requests]))
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


def test_a_service_that_takes_the_place_of_another_is_known_by_nothing() -> None:
    demand = Demand()
    for minute in range(60):
        asked(demand, minute, 40)
    demand.reset(np.array([0, 7]))
    assert asked(demand, 61, 400) == 0.0


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
