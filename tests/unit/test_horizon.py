"""Event time is what several records agree on: one wrong clock moves nothing on, and a gap holds nothing up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.pure.horizon import AGREE, Horizon, agreed, clock_at, latest

MINUTE = 60_000
SKEW = 10 * MINUTE
NOON = 1_740_960_000_000
DAY = 24 * 60 * MINUTE


def after(times: list[int], horizon: Horizon | None = None) -> Horizon:
    horizon = horizon or Horizon()
    for time_ms in times:
        horizon.take(time_ms, SKEW)
    return horizon


def steady(minutes: int, start_ms: int = NOON, of_each: int = 5) -> list[int]:
    return [start_ms + n * MINUTE for n in range(minutes) for _ in range(of_each)]


@pytest.mark.parametrize("place", [0, 40, 100, 200])
@pytest.mark.parametrize("ahead", [SKEW + 46 * MINUTE, DAY, 400 * DAY])
def test_one_record_ahead_is_not_followed_wherever_it_comes(place: int, ahead: int) -> None:
    times = steady(40)
    times.insert(place, NOON + ahead)
    assert after(times).newest(SKEW, None) == NOON + 39 * MINUTE


def test_what_is_within_the_skew_is_followed_at_once() -> None:
    horizon = after(steady(10))
    assert after([NOON + 9 * MINUTE + SKEW], horizon).newest(SKEW, None) == NOON + 9 * MINUTE + SKEW


@pytest.mark.parametrize("gap", [SKEW + MINUTE, 9 * 60 * MINUTE, 30 * DAY])
def test_after_a_gap_time_goes_on_once_several_records_agree(gap: int) -> None:
    horizon = after(steady(10))
    horizon.confirm(horizon.newest(SKEW, None), SKEW)
    morning = NOON + 10 * MINUTE + gap
    for number in range(1, 6):
        after([morning + number * MINUTE], horizon)
        expected = NOON + 9 * MINUTE if number < AGREE else morning + number * MINUTE
        assert horizon.newest(SKEW, None) == expected


@pytest.mark.parametrize("share", [3, 4, 10])
@pytest.mark.parametrize("confirmed_after", [0, 1, 40])
def test_a_host_with_a_wrong_clock_is_outvoted_however_many_records_it_sends(share: int, confirmed_after: int) -> None:
    """One record of so many is a day ahead, from the first on."""
    horizon = Horizon()
    for number, time_ms in enumerate(steady(300)):
        after([time_ms + DAY if number % share == 0 else time_ms], horizon)
        if number > AGREE:
            assert horizon.newest(SKEW, None) <= NOON + 300 * MINUTE
        if number > AGREE and number >= confirmed_after:
            horizon.confirm(horizon.newest(SKEW, None), SKEW)
    assert horizon.newest(SKEW, None) == NOON + 299 * MINUTE


def test_a_gap_in_a_backlog_that_is_read_at_once_is_no_end() -> None:
    """The stream begins with it, most of its records lie before the gap, and nothing more comes."""
    horizon = after([*steady(40), *steady(3, NOON + DAY)])
    assert horizon.newest(SKEW, None) == NOON + DAY + 2 * MINUTE
    horizon.confirm(NOON + 39 * MINUTE, SKEW)
    assert horizon.newest(SKEW, None) == NOON + DAY + 2 * MINUTE


def test_a_burst_ahead_is_followed_only_until_others_come() -> None:
    horizon = after(steady(10))
    horizon.confirm(horizon.newest(SKEW, None), SKEW)
    assert after([NOON + DAY] * 500, horizon).newest(SKEW, None) == NOON + DAY
    assert after([NOON + 9 * MINUTE] * 8, horizon).newest(SKEW, None) == NOON + 9 * MINUTE


def test_what_is_taken_back_has_no_vote() -> None:
    horizon = after(steady(10))
    horizon.confirm(horizon.newest(SKEW, None), SKEW)
    for _ in range(20):
        after([NOON + DAY], horizon)
        horizon.take_back(NOON + DAY)
    assert horizon == Horizon(NOON + 9 * MINUTE)


def test_a_record_as_late_as_the_clock_needs_no_other() -> None:
    """A service with a request now and then."""
    horizon = Horizon()
    for number in range(1, 10):
        now_ms = NOON + number * 60 * MINUTE
        after([now_ms], horizon)
        assert horizon.newest(SKEW, now_ms + 5_000) == now_ms
        horizon.confirm(now_ms, SKEW)


def test_ahead_of_a_clock_that_was_right_so_far_nobody_is_followed() -> None:
    horizon = after(steady(10))
    horizon.confirm(horizon.newest(SKEW, None), SKEW)
    after([NOON + DAY] * 50, horizon)
    assert horizon.newest(SKEW, NOON + 10 * MINUTE) == NOON + 9 * MINUTE
    assert after([NOON + DAY] * 50 + steady(4)).newest(SKEW, NOON) == NOON + 3 * MINUTE


def test_a_simulated_future_is_no_error() -> None:
    assert after(steady(40)).newest(SKEW, NOON - 365 * DAY) == NOON + 39 * MINUTE


def test_a_clock_that_was_never_set_says_nothing() -> None:
    assert clock_at(86_400_000) is None
    assert clock_at(NOON) == NOON


def test_too_few_to_agree_stand_where_they_are_alone() -> None:
    assert latest({NOON: 1, NOON + DAY: 1}, SKEW, None) == NOON + DAY
    assert latest({NOON: 5, NOON + DAY: 1}, SKEW, None) == NOON
    assert latest({}, SKEW, None) == -1


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5_000), min_size=AGREE, max_size=60), st.randoms())
def test_of_what_agrees_the_order_has_no_say(minutes: list[int], shuffle) -> None:
    votes: dict[int, int] = {}
    for minute in minutes:
        votes[minute * MINUTE] = votes.get(minute * MINUTE, 0) + 1
    found = agreed(votes, SKEW, None)
    mixed = list(votes.items())
    shuffle.shuffle(mixed)
    assert agreed(dict(mixed), SKEW, None) == found
    beyond = sum(count for time_ms, count in votes.items() if time_ms > found + SKEW)
    assert beyond < AGREE
