"""Work and state grow with what comes in, and no faster. Work is counted in calls: see tests/work.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.test_attribute import HOUR, charge
from tests.work import calls_of
from udfs.pure.attribute import resource_rows
from udfs.pure.windows import WINDOW_MS

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
