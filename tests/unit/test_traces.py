"""The traces of minutes that are open, whatever order their changes come in, and of those that are over."""

from __future__ import annotations

import itertools

import pytest
from pyflink.common import RowKind

from tests.unit.keyed_stage import Stage
from tests.unit.test_detect import minute
from udfs.pure.assemble import unpack
from udfs.traces import Traces

COMES, GOES = RowKind.UPDATE_AFTER, RowKind.UPDATE_BEFORE
MINUTE_MS = 60_000


class Holder(Stage):
    """A key with traces, and what a new worker makes of its state."""

    def __init__(self) -> None:
        super().__init__(self, "")

    def open(self, context: Stage) -> None:
        self.traces = Traces(context)


@pytest.fixture
def holder() -> Holder:
    return Holder()


PACKED = minute(0)[1][:4]


def of(holder: Holder, minute_ms: int) -> set[str]:
    return {trace.trace_id for trace in holder.traces.of(minute_ms)}


def ids(packed: list[bytes]) -> set[str]:
    return {unpack(one).trace_id for one in packed}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("restarts_after", range(4))
def test_what_stands_is_what_came_more_often_than_it_was_taken_back(
    holder: Holder, order: tuple[int, ...], restarts_after: int
) -> None:
    old, new = PACKED[:2]
    changes = [(COMES, 0, old), (GOES, 0, old), (COMES, MINUTE_MS, new)]
    for number, which in enumerate(order):
        if number == restarts_after:
            holder.open(holder)
        holder.traces.apply(*changes[which])
    if restarts_after == 3:
        holder.open(holder)
    assert of(holder, 0) == set()
    assert of(holder, MINUTE_MS) == ids([new])
    assert holder.traces.minutes() == [MINUTE_MS]
    assert holder.size()["trace_changes"] == 1


def test_a_minute_that_is_over_takes_in_what_comes_later(holder: Holder) -> None:
    first, second, third, late = PACKED
    for packed in (first, second, third):
        holder.traces.apply(COMES, 0, packed)
    assert set(holder.traces.close(0)) == {first, second, third}
    assert holder.traces.minutes() == []
    holder.open(holder)
    holder.traces.apply(COMES, 0, late)
    holder.traces.apply(GOES, 0, second)
    assert holder.traces.minutes() == [0]
    assert set(holder.traces.close(0)) == {first, third, late}
    assert holder.size() == {"trace_changes": 0, "traces_over": 1}
    for packed in (first, third, late):
        holder.traces.apply(GOES, 0, packed)
    assert holder.traces.close(0) == []
    assert holder.size() == {"trace_changes": 0, "traces_over": 0}
