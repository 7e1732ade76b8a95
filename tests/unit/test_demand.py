"""How much a service is asked for: what is usual, what is known, and what the times owe to it."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from udfs.pure.assemble import assemble, unpack
from udfs.pure.channels import OWN, TIMES
from udfs.pure.demand import Demand, requests_of
from udfs.pure.frame import Frame

MINUTE_MS, NS_PER_MS = 60_000, 1_000_000
START_MS = 1_740_960_000_000
SERVER, CLIENT = 2, 3


def felt(demand: Demand, minute: int, requests: float, surplus: float) -> None:
    """A minute of one service whose times are off by ``surplus``."""
    demand.follow(START_MS + minute * MINUTE_MS, np.array([requests]))
    spans = int(requests)
    demand.learn(np.full(spans, OWN), np.full(spans, surplus))


@pytest.mark.parametrize("requests", [0.3, 3, 40])
def test_a_steady_demand_explains_nothing(requests: float) -> None:
    demand, rng, told = Demand(), np.random.default_rng(1), []
    for minute in range(600):
        felt(demand, minute, rng.poisson(requests), 0.3 * rng.standard_normal())
        if minute > 60:
            told.append((demand.shift()[OWN], demand.unknown()[0]))
    assert np.quantile(told, 0.99) < 0.15


def test_how_times_feel_it_is_learnt_and_a_greater_one_is_not_known() -> None:
    demand = Demand()
    for minute in range(120):
        felt(demand, minute, 40, 0.0)
    demand.follow(START_MS + 120 * MINUTE_MS, np.array([120.0]))
    assert demand.shift()[OWN] == 0.0
    assert demand.unknown()[0] > 0.4
    for minute in range(121, 151):
        felt(demand, minute, 120, 0.7)
    assert demand.shift()[OWN] == pytest.approx(0.7, abs=0.15)
    assert demand.unknown()[0] < 0.1
    for minute in range(151, 160):
        felt(demand, minute, 40, 0.0)
    assert demand.shift()[OWN] < 0.05


def test_a_service_that_takes_the_place_of_another_knows_nothing_of_it() -> None:
    demand = Demand()
    for minute in range(60):
        felt(demand, minute, 40 + minute, minute / 60)
    demand.reset(np.array([0, 7]))
    assert demand.shift().tolist() == [0.0] * TIMES
    demand.follow(START_MS + 61 * MINUTE_MS, np.array([400.0]))
    assert demand.beyond()[0] == demand.unknown()[0] == 0.0


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
