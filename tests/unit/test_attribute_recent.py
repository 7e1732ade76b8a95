"""attribute: changes of usage in a resource's newest windows are worked off without the rest of the resource."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyflink.common import RowKind

from tests.unit.keyed_stage import Stage, by_kind
from tests.unit.test_attribute import HOUR, charge
from tests.work import calls_of
from udfs import attribute as stage_module
from udfs.attribute import Attribute
from udfs.pure.attribute import usage_told
from udfs.pure.rates import BookPrice
from udfs.pure.windows import HOUR_MS, MINUTE_MS, USAGE_BUCKET_MS, WINDOW_MS

WAIT_MS = 12 * HOUR_MS
BOOK = (BookPrice("io", "0.01", "Operations", "USD"),)


def stage(wait_ms: int | None = WAIT_MS) -> Stage:
    return Stage(Attribute(wait_ms, 1_000, BOOK), "node-1")


class Resource:
    """A stage and what its consumers have told it."""

    def __init__(self, it: Stage) -> None:
        self.it, self._told = it, {}

    def tell(self, pod: str, window: int, used: dict[str, float] | None, service: str = "cart") -> None:
        """A pod's usage of a window, by dimension; None where nothing is told any more. service: after a blank its
        cost centre."""
        window_ms = HOUR + window * WINDOW_MS
        bucket_ms = window_ms - window_ms % USAGE_BUCKET_MS
        key = f"{bucket_ms}\x1f{pod}"
        windows, before = self._told.get(key, ({}, None))
        windows = {**windows, str(window_ms): used} if used is not None else {}
        minutes = {window_ms + n * MINUTE_MS: used for n in range(30)}
        name, *cost_center = service.split(" ")
        told = [name, pod, {"windows": windows, "minutes": minutes}, *cost_center]
        text = orjson.dumps(told, option=orjson.OPT_NON_STR_KEYS)
        if before is not None:
            self.it.feed("usage", key, before, RowKind.UPDATE_BEFORE)
        if used is not None:
            self.it.feed("usage", key, text.decode(), RowKind.UPDATE_AFTER if before else RowKind.INSERT)
        self._told[key] = windows, (text.decode() if used is not None else None)

    def bill(self, hour: int, cost: str = "0.8", dimension: str = "cpu", **columns: object) -> None:
        each = charge(cost, hour=hour, **{"parts": [[dimension, "1"]], **columns})
        each = {"identity": f"{hour}/{dimension}", "version": "0 a", "charge_category": "Usage", **each}
        self.it.feed("charge", f"{each['key']}/{dimension}", each)


SERVICES = st.sampled_from(["x", "x 4711", "x 4712", ""])
AMOUNTS = st.dictionaries(st.sampled_from(["cpu", "memory", "io"]), st.floats(0, 1e6), min_size=1)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.sampled_from(["a", "b"]), st.integers(0, 60), AMOUNTS, SERVICES),
        st.tuples(st.just("use now"), st.sampled_from(["a", "b"]), st.integers(0, 2), AMOUNTS, SERVICES),
        st.tuples(st.just("use no more"), st.sampled_from(["a", "b"]), st.integers(0, 60)),
        st.tuples(st.just("bill"), st.integers(0, 20), st.sampled_from(["0.8", "2"]), st.sampled_from(["cpu", "io"])),
        st.tuples(st.just("machines"), st.integers(0, 30), st.sampled_from(["1", "2", "3", "2.5"])),
        st.tuples(st.just("fee"), st.integers(0, 30), st.integers(1, 12)),
        st.tuples(st.just("call")),
        st.tuples(st.just("pass"), st.integers(1, 8)),
        st.tuples(st.just("fire")),
    ),
    min_size=10,
    max_size=60,
)


def run(it: Stage, changes: list[tuple], is_clock_set: bool) -> None:
    resource, hour = Resource(it), 0
    for what, *of in changes:
        it.now_ms = HOUR + hour * HOUR_MS if is_clock_set else it.now_ms
        if what == "use":
            pod, window, used, service = of
            resource.tell(pod, window, used, service)
        elif what == "use now":
            pod, ago, used, service = of
            resource.tell(pod, max(2 * hour - ago, 0), used, service)
            it.fire()
        elif what == "use no more":
            resource.tell(*of, None)
        elif what == "bill":
            resource.bill(of[0], of[1], of[2], key=f"{of}")
        elif what == "machines":
            parts, size = [["cpu", "0.6"], ["memory", "0.4"]], {"cpu": "100", "memory": "200"}
            resource.bill(of[0], parts=parts, key=f"{of}", per="hour", machine=size, consumed_unit="Hours",
                          consumed_quantity=of[1], identity=f"{of[0]}/machines")  # fmt: skip
        elif what == "fee":
            resource.bill(of[0], hours=of[1], key=f"fee {of}", per="hour", charge_category="Purchase")
        elif what == "call":
            it.feed("call", "", "")
        elif what == "pass":
            hour += of[0]
        it.fire()


@settings(derandomize=True, max_examples=120, deadline=None)
@given(CHANGES, st.booleans())
def test_what_is_sent_is_what_the_whole_resource_gives(changes, is_clock_set) -> None:
    it, whole = stage(), stage()
    whole._function._recent = stage_module.Bounded(0)  # never holds anything
    run(it, changes, is_clock_set)
    run(whole, changes, is_clock_set)
    assert it.sent == whole.sent
    assert it.rows == whole.rows
    assert {name: gauge() for name, gauge in it.metrics.gauges.items()} == {
        name: gauge() for name, gauge in whole.metrics.gauges.items()
    }


def used_for(windows: int) -> Resource:
    """A resource of so many windows, the last day without a bill."""
    resource = Resource(stage(wait_ms=None))
    for window in range(windows):
        resource.tell("a", window, {"cpu": 1.0, "io": 2.0})
    for hour in range(windows // 2 - 24):
        resource.bill(hour)
    resource.it.fire()
    return resource


@pytest.mark.parametrize("pod", ["a", "b"], ids=["another amount", "another consumer"])
def test_a_change_of_usage_takes_as_much_work_however_many_windows_wait(pod: str) -> None:
    def work(windows: int) -> int:
        resource = used_for(windows)
        resource.tell(pod, windows - 1, {"cpu": 3.0, "io": 2.0})
        return calls_of(resource.it.fire)

    few, many = work(72), work(288)
    assert many <= 1.1 * few, (few, many)


def test_only_the_windows_of_which_usage_changed_are_sent() -> None:
    resource = used_for(72)
    resource.tell("a", 71, {"cpu": 3.0, "io": 2.0})
    [(window_ms, [cpu, _])] = by_kind(resource.it.fire(), "allocations").items()
    assert (window_ms, cpu["usage"], cpu["cost_status"]) == (HOUR + 71 * WINDOW_MS, 3.0, "provisional")


def test_of_usage_the_windows_alone_are_kept() -> None:
    resource = used_for(72)
    state = resource.it.get_map_state(type("Descriptor", (), {"name": "usage"}))
    assert sum(len(text) for versions in state.values() for text in versions) < 72 * 100


def test_usage_that_an_earlier_release_kept_whole_is_taken_back() -> None:
    it = stage()
    key, whole = f"{HOUR}\x1fa", orjson.dumps(["cart", "a", {"minutes": {}, "windows": {str(HOUR): {"cpu": 9.0}}}])
    state = it.get_map_state(type("Descriptor", (), {"name": "usage"}))
    state[key] = {whole.decode(): 1}
    it.feed("charge", "c", {"identity": "c", "version": "0", **charge("0.8")})
    assert by_kind(it.fire(), "allocations")[HOUR][0]["usage"] == 9.0
    it.feed("usage", key, whole.decode(), RowKind.UPDATE_BEFORE)
    it.feed("usage", key, whole.decode().replace("9.0", "1.0"), RowKind.UPDATE_AFTER)
    assert by_kind(it.fire(), "allocations")[HOUR][0]["usage"] == 1.0
    assert list(state[key]) == [usage_told(whole.decode().replace("9.0", "1.0"))]
