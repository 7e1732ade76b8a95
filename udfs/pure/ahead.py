"""detect, on an input without end: minutes that aren't over, judged as if they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Generic, NamedTuple

from udfs.pure.detect import Detector, Told
from udfs.pure.windows import bucket_start

# (otel_service_name, pod) -> dimension -> amount, of a minute.
Usage = Mapping[tuple[str, str], Mapping[str, float]]

# So many of the newest minutes are looked at together; a backlog has more, which are soon over.
TOGETHER = 5


class _Stepped(NamedTuple, Generic[Told]):
    """The detector after a minute; before_ms: the minute that it stepped before that one."""

    minute_ms: int
    before_ms: int
    detector: Detector[Told]


class Ahead(Generic[Told]):
    """Open minutes, one after the other, by copies of a detector. It will be what they are once these minutes are over,
    if nothing changes in them.

    A minute gains from those before it and, where the detector tells minutes anew, from those after it: an episode
    that has just begun is found by what there is of all its minutes. What comes before the first change isn't judged
    again. Nothing is learnt from the newest one: no minute is there yet that would be judged by it.
    """

    def __init__(self, detector: Detector[Told]) -> None:
        """detector: after the last minute that is over; it stays as it is."""
        # By minute, ascending; the first is the one given, then at most the last TOGETHER.
        self._after: list[_Stepped[Told]] = [_Stepped(-1, -1, detector)]

    def judge(
        self, minutes: Sequence[int], changed: Set[int], step: Callable[[Detector[Told], int, bool], list[Told]]
    ) -> dict[int, Told]:
        """What is to be said of minutes by now: of those that changed and of the last TOGETHER.

        minutes: all that are open, ascending. changed: those that are not as they were at the last call, be they gone.
        step: has a detector step a minute, with all that is known of it, and learn from it or not.
        returns: minute -> result, where it has traces; it may have others that stand in the light of what changed.
        """
        first_ms = min(changed)
        self._after[1:] = [stepped for stepped in self._after[1:] if stepped.minute_ms < first_ms]
        last_ms, _, detector = self._after[-1]
        todo = [m for m in minutes if m > last_ms and (m in changed or m in minutes[-TOGETHER:])]
        found: dict[int, Told] = {}
        for place, minute_ms in enumerate(todo, -len(todo)):
            is_kept = place >= -TOGETHER
            if is_kept or minute_ms == todo[0]:
                detector = detector.ahead()
            is_newest = minute_ms == minutes[-1]
            found |= {result.minute_ms: result for result in step(detector, minute_ms, not is_newest)}
            if is_kept and not is_newest:
                self._after.append(_Stepped(minute_ms, last_ms, detector))
            last_ms = minute_ms
        self._after[1:] = self._after[1:][-TOGETHER:]
        return found | {result.minute_ms: result for result in detector.anew()}

    def after(self, minute_ms: int) -> Detector[Told] | None:
        """What the given detector will be once it has stepped a minute; None if that is not known."""
        base, *others = self._after[:2]
        return next((of.detector for of in others if of[:2] == (minute_ms, base.minute_ms)), None)

    def go_on(self, minute_ms: int, detector: Detector[Told]) -> None:
        """The minute is over. detector: after it, as ``after`` said it would be."""
        self._after[:2] = [_Stepped(minute_ms, -1, detector)]
        for stepped in self._after[1:]:
            stepped.detector.drop(minute_ms)


class OpenMinutes(Generic[Told]):
    """Which open minutes have changed since they were last judged, and how to judge them again.

    Usage of a minute is what ``usage_of`` says. Kept in memory since the start: at first all that is open has changed.
    """

    def __init__(
        self,
        usage_of: Callable[[int], Usage],
        without_traces: Callable[[int], Told],
        are_alike: Callable[[Told, Told], bool],
    ) -> None:
        """without_traces: what is said of a minute that has no trace any more. are_alike: whether what is to be said of
        a minute of the same traces is nearly what was said."""
        self._usage_of, self._without_traces, self._are_alike = usage_of, without_traces, are_alike
        self._said: dict[int, Told] = {}  # what was said last of open minutes
        self._judged_by: dict[int, Usage] = {}  # open minute as it stands -> the usage that it was judged by
        self._moved: set[int] = set()  # minutes of which a trace came or went since they were judged
        self._usage_changed: set[int] = set()  # buckets
        self._ahead: Ahead[Told] | None = None

    def trace_changed(self, minute_ms: int) -> None:
        """A trace of an open minute came or went."""
        self._judged_by.pop(minute_ms, None)
        self._moved.add(minute_ms)

    def usage_changed(self, bucket_ms: int) -> None:
        """Usage of a bucket changed, of this minute of it or of another one."""
        self._usage_changed.add(bucket_ms)

    def changed(self, minutes: Sequence[int]) -> list[int]:
        """Those of the open ``minutes`` that are not as they were judged."""
        for minute_ms in minutes:
            if minute_ms in self._judged_by and bucket_start(minute_ms) in self._usage_changed:
                if not self.stands(minute_ms):
                    del self._judged_by[minute_ms]
        self._usage_changed.clear()
        return [minute_ms for minute_ms in minutes if minute_ms not in self._judged_by]

    def stands(self, minute_ms: int) -> bool:
        """Whether a minute is as it was judged while it was open."""
        return minute_ms in self._judged_by and self._judged_by[minute_ms] == self._usage_of(minute_ms)

    def judge(
        self,
        detector: Detector[Told],
        minutes: Sequence[int],
        changed: Sequence[int],
        step: Callable[[Detector[Told], int, bool], list[Told]],
    ) -> list[Told]:
        """Results of the ``changed`` minutes, and of the others of ``minutes`` of which these have changed what is to
        be said; what has just come first.

        detector: after the last minute that is over. step: see ``Ahead.judge``."""
        self._ahead = self._ahead or Ahead(detector)
        found = self._ahead.judge(minutes, self._moved.union(changed), step)
        self._moved.clear()
        self._judged_by |= {minute_ms: self._usage_of(minute_ms) for minute_ms in changed}
        say: list[Told] = []
        for minute_ms in sorted(found.keys() | set(changed), reverse=True):
            result = found.get(minute_ms) or self._without_traces(minute_ms)
            before = None if minute_ms in changed else self._said.get(minute_ms)
            if before is None or not self._are_alike(before, result):
                self._said[minute_ms] = result
                say.append(result)
        return say

    def step(
        self, detector: Detector[Told], minute_ms: int, step: Callable[[], list[Told]], is_as_before: bool
    ) -> list[Told]:
        """Have the detector itself step a minute that is over: what is ahead has done that, where the minute stands as
        it was judged last.

        step: does it. is_as_before: nothing else has changed the detector meanwhile.
        """
        if self._ahead and is_as_before and self.stands(minute_ms) and (ahead := self._ahead.after(minute_ms)):
            results = detector.adopt(ahead, minute_ms)
            self._ahead.go_on(minute_ms, detector)
            return results
        self._ahead = None
        return step()

    def close(self, over_ms: int) -> None:
        """The detector has learnt from the minutes up to ``over_ms``."""
        self._judged_by = {minute_ms: usage for minute_ms, usage in self._judged_by.items() if minute_ms > over_ms}
        self._said = {minute_ms: said for minute_ms, said in self._said.items() if minute_ms > over_ms}
