"""lasting: what was slow for an hour and nothing else is learnt, and so is its end."""

from __future__ import annotations

import numpy as np
import pytest

from udfs.pure.lasting import LASTING_MINUTES, Lasting
from udfs.pure.pods import POD_YOUTH_MINUTES
from udfs.pure.reading import Reading

FRONT, DATABASE = 0, 1
YES, NO = np.array([False, True]), np.array([False, False])  # of the database


def minute(z: float = 0.0, callee: int = DATABASE) -> Reading:
    """Four calls of the front's to a database without spans, so many scales above the usual."""
    empty = Reading(*[np.zeros(4)] * len(Reading._fields))
    return empty._replace(
        service=np.full(4, FRONT),
        callee=np.full(4, callee),
        is_known=np.ones(4, bool),
        surplus=np.full(4, z),
        variance=np.ones(4),
    )


def slow_for(minutes: int, worse: np.ndarray = NO) -> tuple[Lasting, list[bool]]:
    """A database that is slow for so long, and whether it was to be learnt anew in each minute."""
    lasting = Lasting()
    return lasting, [bool(lasting.follow(minute(5.0), YES, YES, NO, worse)[DATABASE]) for _ in range(minutes)]


def test_a_shift_is_learnt_once_it_lasts_until_it_is_usual() -> None:
    lasting, learnt = slow_for(LASTING_MINUTES + 5)
    assert learnt == [False] * (LASTING_MINUTES - 1) + [True] * 6
    assert lasting.follow(minute(2.0), YES, NO, NO, NO)[DATABASE]  # only some seem to be slow by now
    assert not lasting.follow(minute(), NO, NO, NO, NO).any()


def test_what_is_slow_in_a_part_of_its_calls_is_not_learnt() -> None:
    lasting = Lasting()
    assert not any(lasting.follow(minute(5.0), YES, NO, NO, NO).any() for _ in range(2 * LASTING_MINUTES))


def test_what_does_something_else_wrong_is_not_learnt() -> None:
    lasting, learnt = slow_for(2 * LASTING_MINUTES, worse=YES)
    assert not any(learnt)
    assert not lasting.follow(minute(5.0), YES, YES, NO, NO).any()  # that hour counts for nothing


def test_the_end_of_what_was_learnt_is_learnt_and_no_other_speed() -> None:
    lasting, _ = slow_for(LASTING_MINUTES)
    assert not lasting.follow(minute(), NO, NO, NO, NO).any()
    assert lasting.follow(minute(-3.0), NO, NO, NO, NO)[DATABASE]
    assert not lasting.follow(minute(-0.5), NO, NO, NO, NO).any()
    assert not lasting.follow(minute(-3.0), NO, NO, NO, NO).any()
    assert not Lasting().follow(minute(-3.0), NO, NO, NO, NO).any()


def test_other_calls_that_last_are_learnt_as_those_of_a_release() -> None:
    lasting, renewed = Lasting(), []
    for number in range(LASTING_MINUTES + POD_YOUTH_MINUTES):
        lasting.follow(minute(), NO, NO, YES if number < LASTING_MINUTES else NO, NO)
        renewed.append(bool(lasting.is_renewed(2)[DATABASE]))
    assert renewed == [False] * (LASTING_MINUTES - 1) + [True] * POD_YOUTH_MINUTES + [False]
    assert not lasting.is_renewed(2).any()


def test_other_calls_of_what_fails_are_not_learnt() -> None:
    lasting = Lasting()
    for _ in range(2 * LASTING_MINUTES):
        lasting.follow(minute(), NO, NO, YES, YES)
    assert not lasting.is_renewed(2).any()


def test_minutes_without_calls_count_for_nothing() -> None:
    lasting, _ = slow_for(LASTING_MINUTES - 1)
    for _ in range(LASTING_MINUTES):
        assert not lasting.follow(minute(callee=-1), YES, YES, NO, NO).any()
    assert lasting.follow(minute(5.0), YES, YES, NO, NO)[DATABASE]


@pytest.mark.parametrize("services", [[DATABASE], [DATABASE, 7]])
def test_another_service_of_that_number_starts_anew(services: list[int]) -> None:
    lasting, _ = slow_for(LASTING_MINUTES)
    lasting.reset(np.array(services))
    assert not lasting.follow(minute(5.0), YES, YES, NO, NO).any()
