"""What anomalous traces do beyond the usual of their kind, and how often an anomaly comes."""

from __future__ import annotations

import numpy as np
import pytest

from udfs.pure.recurrence import DAY_MS, Recurrence
from udfs.pure.workload import Workload, excess, usage_of, work

MINUTE_MS = 60_000


def traces(*pieces: tuple[int, ...]):
    """A minute's work: of each trace, the pieces that it did."""
    trace = np.repeat(np.arange(len(pieces)), [len(of) for of in pieces])
    return work(trace, np.array([piece for of in pieces for piece in of], int), 100)


def taught(**shapes: tuple[int, ...]) -> Workload:
    workload = Workload()
    for minute in range(10):
        done = traces(*shapes.values())
        workload.learn(minute * MINUTE_MS, list(shapes), done, np.ones(len(shapes)), np.ones(len(shapes)))
    return workload


def beyond(workload: Workload, roots: list[str], done, *chosen: int) -> dict[int, float]:
    """What the chosen traces did beyond the usual of their kinds."""
    return excess(workload.shapes(set(roots)), roots, done, np.ones(len(roots)), np.array(chosen), int)


def test_a_retry_is_excess_and_a_tree_cut_short_is_less() -> None:
    workload = taught(buy=(1, 2, 3), look=(1,))
    done = traces((1, 2, 2, 2, 3), (1,), (1, 2, 3))
    roots = ["buy", "buy", "buy"]
    assert beyond(workload, roots, done, 0) == {1: 0, 2: 2, 3: 0}
    assert beyond(workload, roots, done, 1) == {1: 0, 2: -1, 3: -1}
    assert beyond(workload, roots, done, 0, 1, 2) == {1: 0, 2: 1, 3: -1}
    assert beyond(workload, ["look", "buy", "buy"], done, 0) == {1: 0, 2: 3, 3: 1}


def test_what_is_not_known_yet_says_nothing_and_the_ill_teach_nothing() -> None:
    workload = taught(buy=(1, 2))
    assert beyond(workload, ["new"], traces((1, 2)), 0) == {}
    for minute in range(50):
        workload.learn(minute * MINUTE_MS, ["buy"], traces((1, 2, 2, 2)), np.array([0.2]), np.ones(1))
    assert beyond(workload, ["buy"], traces((1, 2)), 0) == {1: 0, 2: 0}


def test_the_usual_follows_a_change_that_is_sound() -> None:
    workload = taught(buy=(1, 2))
    for minute in range(10):
        many = traces(*[(1, 2, 3)] * 500)
        workload.learn(minute * MINUTE_MS, ["buy"] * 500, many, np.ones(500), np.ones(500))
    found = beyond(workload, ["buy"], traces((1, 2, 3)), 0)
    assert found == pytest.approx({1: 0, 2: 0, 3: 0}, abs=0.01)


def test_kinds_that_are_gone_are_forgotten() -> None:
    workload = taught(buy=(1, 2))
    workload.forget(100 * MINUTE_MS)
    assert beyond(workload, ["buy"], traces((1,)), 0) == {}


def test_work_takes_usage_by_its_service() -> None:
    costs = {"tax": np.zeros((4, 3)), "cart": np.zeros((4, 3))}
    costs["cart"][0] = (10.0, 0.0, 1.0)
    found = usage_of({("cart", 0): 2.0, ("cart", 2): -4.0, ("gone", 1): 1.0}, costs)
    assert {service: used.tolist() for service, used in found.items()} == {"cart": [16.0, 0.0, 0.0, 0.0]}


def test_recurrence_counts_a_month_back() -> None:
    recurrence = Recurrence()
    for day in range(40):
        for minute in range(10):
            recurrence.observe(day * DAY_MS + minute * MINUTE_MS)
        recurrence.count(day * DAY_MS, "cart", "retry_loop")
    assert recurrence.by_now() == ({("cart", "retry_loop"): 30}, 300)
