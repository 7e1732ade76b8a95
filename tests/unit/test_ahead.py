"""Open minutes ahead of the detector: what is not judged again gives what judging all of them gives."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from tests.unit.test_detect import World, minute
from udfs.pure.ahead import TOGETHER, Ahead, OpenMinutes
from udfs.pure.case import Case
from udfs.pure.detect import Detector
from udfs.pure.predict import DEFAULT_MODEL, MaskedSpanModel, Predictor, Usual
from udfs.pure.verdicts import MinuteResult

FIRST = 30  # open minute
OPEN = TOGETHER + 3


class Open:
    """Open minutes as they are known now; ``stepped``: those that were judged."""

    def __init__(self) -> None:
        self.known = {
            start_ms: (traces, usage)
            for start_ms, traces, usage in (minute(FIRST + i, World(slow={"tax": 1.6})) for i in range(OPEN))
        }
        self.stepped: list[int] = []
        self.learnt: list[int] = []

    def step(self, detector: Detector, minute_ms: int, learns: bool) -> list[MinuteResult]:
        self.stepped.append(minute_ms)
        self.learnt += [minute_ms] * learns
        return detector.step(minute_ms, *self.known[minute_ms], learns)

    def all_anew(self, detector: Detector) -> dict[int, MinuteResult]:
        return Ahead(detector).judge(sorted(self.known), set(self.known), self.step)


@pytest.fixture(scope="module", params=[Usual, lambda: MaskedSpanModel(DEFAULT_MODEL)], ids=["usual", "masked"])
def warm(request: pytest.FixtureRequest) -> Detector:
    detector = warmed(request.param())
    detector.pending.clear()
    return detector


def warmed(predictor: Predictor) -> Detector:
    detector = Detector(predictor)
    for number in range(FIRST):
        detector.step(*minute(number))
    return detector


@pytest.mark.parametrize("place", range(OPEN))
def test_a_change_has_what_comes_after_it_judged_again(warm: Detector, place: int) -> None:
    minutes = Open()
    ahead = Ahead(warm)
    before = pickle.dumps(warm)
    assert ahead.judge(sorted(minutes.known), set(minutes.known), minutes.step).keys() == minutes.known.keys()
    changed_ms = sorted(minutes.known)[place]
    traces, usage = minutes.known[changed_ms]
    minutes.known[changed_ms] = traces[1:], usage
    minutes.stepped.clear()
    found = ahead.judge(sorted(minutes.known), {changed_ms}, minutes.step)
    assert pickle.dumps(warm) == before
    assert found.keys() >= set(minutes.stepped)
    if place > OPEN - TOGETHER:
        assert minutes.stepped == sorted(minutes.known)[place:]
        anew = minutes.all_anew(warm)
        assert found == {minute_ms: anew[minute_ms] for minute_ms in found}
    else:
        # The detector before it is gone: a backlog's minute is looked at without what lies between.
        assert minutes.stepped == sorted({changed_ms, *sorted(minutes.known)[-TOGETHER:]})


def test_minutes_are_added_one_by_one(warm: Detector) -> None:
    minutes = Open()
    ahead = Ahead(warm)
    for count in range(1, OPEN + 1):
        known = sorted(minutes.known)[:count]
        found = ahead.judge(known, {known[-1]}, minutes.step)
    # Of the newest nothing is learnt until there is one after it.
    first, *others = sorted(minutes.known)
    assert minutes.stepped == [first, *(ms for pair in zip([first, *others], others) for ms in pair)]
    assert minutes.learnt == sorted(minutes.known)[:-1]
    anew = minutes.all_anew(warm)
    assert found == {minute_ms: anew[minute_ms] for minute_ms in found}


def test_a_minute_that_is_no_more_leaves_nothing_behind(warm: Detector) -> None:
    minutes = Open()
    ahead = Ahead(warm)
    ahead.judge(sorted(minutes.known), set(minutes.known), minutes.step)
    gone = sorted(minutes.known)[-2]
    del minutes.known[gone]
    found = ahead.judge(sorted(minutes.known), {gone}, minutes.step)
    assert gone not in found
    anew = minutes.all_anew(warm)
    assert found == {minute_ms: anew[minute_ms] for minute_ms in found}


def test_a_minute_that_has_not_changed_is_told_again_where_it_is_believed_otherwise(warm: Detector) -> None:
    minutes = Open()
    first, second, third = open_now = sorted(minutes.known)[:3]
    alike: set[int] = set()
    opened: OpenMinutes[MinuteResult] = OpenMinutes(
        lambda minute_ms: minutes.known[minute_ms][1], MinuteResult, lambda before, now: before.minute_ms in alike
    )

    def judged(*changed: int) -> list[int]:
        for minute_ms in changed:
            opened.trace_changed(minute_ms)
        results = opened.judge(warm, open_now, opened.changed(open_now), minutes.step)
        return [result.minute_ms for result in results]

    assert judged() == [third, second, first]
    assert judged(third) == [third, second, first]
    alike |= {first, second, third}
    assert judged(third) == [third]  # what changed is told however alike it is
    alike.remove(first)
    assert judged(third) == [third, first]
    opened.close(first)
    alike.add(first)
    assert judged(third) == [third, first]  # it was forgotten


def never() -> list[MinuteResult]:
    raise AssertionError("what is ahead has stepped it")


class Kept:
    """A detector whose minutes that are told anew are kept apart, as the stage keeps them."""

    def __init__(self, predictor: Predictor) -> None:
        self.detector = warmed(predictor)
        self._pending: dict[int, Case] = {}
        self._put()

    def over(self, minute_ms: int, step: Callable[[int], list[MinuteResult]]) -> list[MinuteResult]:
        self.detector.pending.update({due: self._pending.pop(due) for due in self.detector.due(minute_ms)})
        told = step(minute_ms)
        self._put()
        return told

    def _put(self) -> None:
        self._pending |= self.detector.pending
        self.detector.pending.clear()


def test_a_minute_that_stands_is_over_as_it_was_judged(warm: Detector) -> None:
    """The detector is what it were had it stepped the minutes itself, and so is what is ahead of it."""
    minutes = Open()
    adopting, stepping = Kept(warm.predictor), Kept(warm.predictor)
    opened: OpenMinutes[MinuteResult] = OpenMinutes(
        lambda minute_ms: minutes.known[minute_ms][1], MinuteResult, lambda before, now: False
    )
    still_open = sorted(minutes.known)[:TOGETHER]
    opened.judge(adopting.detector, still_open, still_open, minutes.step)
    while len(still_open) > 1:
        over_ms = still_open.pop(0)
        told = adopting.over(over_ms, lambda ms: opened.step(adopting.detector, ms, never, is_as_before=True))
        opened.close(over_ms)
        own, *expected = stepping.over(over_ms, lambda ms: stepping.detector.step(ms, *minutes.known[ms]))
        assert (told, own.minute_ms) == (expected, over_ms) and len(told) == 1
        opened.trace_changed(still_open[-1])
        found = opened.judge(adopting.detector, still_open, opened.changed(still_open), minutes.step)
        of_stepping = Ahead(stepping.detector).judge(still_open, set(still_open), minutes.step)
        assert {result.minute_ms: result for result in found} == of_stepping


@pytest.mark.parametrize("what", ["trace", "usage", "told", "gap"])
def test_a_minute_that_does_not_stand_is_stepped(warm: Detector, what: str) -> None:
    minutes = Open()
    detector = warmed(warm.predictor)
    opened: OpenMinutes[MinuteResult] = OpenMinutes(
        lambda minute_ms: minutes.known[minute_ms][1], MinuteResult, lambda before, now: False
    )
    first, *others = still_open = sorted(minutes.known)[:3]
    opened.judge(detector, still_open, still_open, minutes.step)
    traces, usage = minutes.known[first]
    if what == "trace":
        opened.trace_changed(first)
    if what == "usage":
        minutes.known[first] = traces, {**usage, ("tax", "another"): {"cpu": 1.0}}
    stepped: list[int] = []

    def step(minute_ms: int) -> list[MinuteResult]:
        stepped.append(minute_ms)
        return detector.step(minute_ms, *minutes.known[minute_ms])

    over_ms = others[0] if what == "gap" else first
    opened.step(detector, over_ms, lambda: step(over_ms), is_as_before=what != "told")
    assert stepped == [over_ms]
    # What was ahead knows another past: the next one is stepped, too.
    opened.step(detector, others[-1], lambda: step(others[-1]), is_as_before=True)
    assert stepped == [over_ms, others[-1]]
