"""Work and state grow with what comes in, and no faster. Work is counted in calls: see tests/work.py."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from pyflink.common import Row

from tests.unit.keyed_stage import Stage
from tests.unit.test_attribute import HOUR, charge
from tests.unit.test_detect_bounds import step
from tests.unit.test_rank import allocation, incident, rank
from tests.work import calls_of
from udfs.pure.assemble import SEPARATOR
from udfs.pure.attribute import packed, resource_rows, unpacked
from udfs.pure.baselines import Baselines
from udfs.pure.detect import LAG_MINUTES, Detector
from udfs.pure.episodes import Episodes
from udfs.pure.windows import WINDOW_MS
from udfs.rank import Rank

# Four times as much is allowed so many times the work: lists are sorted.
FOUR_TIMES = 4.4


def grows_in_proportion(work: Callable[[int], Callable[[], object]], size: int) -> bool:
    """Whether four times the size takes at most four times the work, and a little. work: of a size, to be called."""
    work(size)()  # caches are filled
    return calls_of(work(4 * size)) <= FOUR_TIMES * calls_of(work(size))


def delivered(cost: str, **columns: object) -> dict:
    each = charge(cost, **columns)
    return {"identity": each["key"], "version": "0 a", "charge_category": "Usage", **each}


def used(windows: int, *dimensions: str) -> list[tuple[str, dict]]:
    usage = {HOUR + n * WINDOW_MS: {dimension: 1.0 + n for dimension in dimensions} for n in range(windows)}
    return [("cart", usage)]


def hourly(windows: int) -> list[dict]:
    return [delivered("0.8", hour=hour) for hour in range(windows // 2)]


def once_by_the_unit(windows: int) -> list[dict]:
    return [delivered("800", hours=windows // 2)]


def once_by_the_hour(windows: int) -> list[dict]:
    return [delivered("800", hours=windows // 2, per="hour")]


@pytest.mark.parametrize("bill", [hourly, once_by_the_unit, once_by_the_hour])
@pytest.mark.parametrize("dimensions", [("cpu",), ("cpu", "io")], ids=["all is billed", "io is not billed"])
def test_allocations_take_as_much_work_as_there_are_windows(bill, dimensions) -> None:
    def work(windows: int) -> Callable[[], object]:
        return lambda: resource_rows("node-1", used(windows, *dimensions), bill(windows))

    assert grows_in_proportion(work, 48)


@pytest.mark.parametrize("cost", ["0.8", "-0.8"], ids=["a rate", "credits give no rate"])
def test_windows_before_their_bill_take_as_much_work_as_there_are(cost: str) -> None:
    def work(windows: int) -> Callable[[], object]:
        bill = [delivered(cost, hour=hour) for hour in range(windows // 4)]
        return lambda: resource_rows("node-1", used(windows, "cpu"), bill)

    assert grows_in_proportion(work, 48)


def of_resources(resources: int) -> list[dict]:
    """What two services are allocated of each."""
    return [
        allocation(service, "0.5", resource_id=f"node-{n}", marginal_rate="0.25", marginal_basis="metered")
        for n in range(resources)
        for service in ("cart", "checkout")
    ]


def test_ranking_takes_as_much_work_as_there_are_resources_and_culprits() -> None:
    """Not as much as their product: a culprit asks for its own rows."""

    def work(size: int) -> Callable[[], object]:
        culprits = [incident(f"culprit-{n}", 5.0, excess_usage={"cart": {"cpu": 1.0}} if n == 0 else {})
                    for n in range(size)]  # fmt: skip
        return lambda: rank(culprits, of_resources(size))

    assert grows_in_proportion(work, 40)


def test_a_window_of_which_nobody_is_blamed_costs_the_ranking_nothing() -> None:
    def work(resources: int) -> Callable[[], object]:
        function = Rank("excess", 1_000)
        it = Stage(function, HOUR)  # type: ignore[arg-type]
        for n in range(resources):
            list(function.process_element(Row("allocations", HOUR, f"node-{n}", packed(of_resources(1))), it))
        it.fire()  # what requests cost
        list(function.process_element(Row("incidents", HOUR, "0", b"[[],{}]"), it))
        return it.fire

    assert calls_of(work(10)) == calls_of(work(100))


def test_what_services_have_in_common_is_sent_once() -> None:
    """The charges, most of all: a row more takes some dozens of bytes."""

    def size(services: int) -> int:
        consumers = [(f"service-{n:03}", {HOUR: {"cpu": 1.0 + n}}) for n in range(services)]
        return len(packed(resource_rows("node-1", consumers, hourly(2))[HOUR]))

    assert size(110) - size(10) < 100 * 100


def test_rows_that_were_packed_are_the_same_rows() -> None:
    bill = [*hourly(2), delivered("3", hour=0, key="euro", currency="EUR"), delivered("1", hour=0, parts=[["io", "1"]])]
    rows = resource_rows("node-1", [*used(2, "cpu"), ("checkout", {HOUR: {"cpu": 2.0}})], bill)[HOUR]
    assert len(rows) == 5
    sent = orjson.loads(orjson.dumps(rows, default=str))
    assert unpacked(packed(rows)) == sent
    assert unpacked(orjson.dumps(sent)) == sent  # as an earlier release sent them


# ---- detect --------------------------------------------------------------------------------------


def test_what_a_minute_says_by_what_followed_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard asks for it, and the verdict that is told anew."""
    passes, passed_back = [], Episodes._passed_back
    monkeypatch.setattr(Episodes, "_passed_back", lambda self, *of: passes.append(self) or passed_back(self, *of))
    detector = Detector()
    for minute in range(LAG_MINUTES + 5):
        passes.clear()
        step(detector, minute, ["cart", "checkout"])
    assert len(passes) == 3 * LAG_MINUTES  # services, pods and loops


def test_a_new_operation_takes_as_much_work_however_many_are_known() -> None:
    def work(known: int) -> Callable[[], object]:
        baselines = Baselines()

        def enter(names: list[str]) -> None:
            frame = SimpleNamespace(operations=names, operation=np.arange(len(names)))
            baselines._enter(HOUR, frame)

        enter([f"cart{SEPARATOR}GET /{n:05}{SEPARATOR}elsewhere" for n in range(known)])
        return lambda: enter([f"cart{SEPARATOR}POST"])

    assert calls_of(work(1_000)) <= calls_of(work(100)) + 10


class Watched(np.ndarray):
    """Counts how often it is compared as a whole."""

    compared = 0

    def __eq__(self, other: object) -> np.ndarray:
        Watched.compared += 1
        return super().__eq__(other)


def test_culprits_operations_are_found_without_a_look_at_all_spans_for_each() -> None:
    """Of a storm's traces, each would look at the spans of all."""
    detector = Detector()
    step(detector, 0, ["cart"] * 50)
    [minute] = detector.pending.values()
    minute.parent = minute.parent.view(Watched)
    calls = [row for row, name in enumerate(minute.operation.tolist()) if "GET" in minute.operations[name]]
    assert [minute.operation_of(row, "cart") for row in calls] == ["/cart"] * 50
    assert Watched.compared == 0
    assert "_by_parent" in minute.__dict__ and "_by_parent" not in pickle.loads(pickle.dumps(minute)).__dict__
