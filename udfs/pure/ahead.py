"""detect, on an input without end: minutes that aren't over, judged as if they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from udfs.pure.detect import MinuteResult, RuleDetector

# So many of the newest minutes are looked at together; a backlog has more, which are soon over.
TOGETHER = 5


class Ahead:
    """Open minutes, one after the other, by copies of a detector that are thrown away once its next minute is over.

    A minute gains from those before it and, where the detector tells minutes anew, from those after it: an episode
    that has just begun is found by what there is of all its minutes. What comes before the first change isn't judged
    again.
    """

    def __init__(self, detector: RuleDetector) -> None:
        """detector: after the last minute that is over; it stays as it is."""
        # Minute -> the detector after it, ascending; the first is the one given, then at most the last TOGETHER.
        self._after: list[tuple[int, RuleDetector]] = [(-1, detector)]

    def judge(
        self, minutes: Sequence[int], changed: Set[int], step: Callable[[RuleDetector, int], list[MinuteResult]]
    ) -> dict[int, MinuteResult]:
        """What is to be said of minutes by now: of those that changed and of the last TOGETHER.

        minutes: all that are open, ascending. changed: those that are not as they were at the last call, be they gone.
        step: has a detector step a minute, with all that is known of it.
        returns: minute -> result, where it has traces; it may have others that stand in the light of what changed.
        """
        first_ms = min(changed)
        self._after[1:] = [(minute_ms, after) for minute_ms, after in self._after[1:] if minute_ms < first_ms]
        last_ms, detector = self._after[-1]
        todo = [m for m in minutes if m > last_ms and (m in changed or m in minutes[-TOGETHER:])]
        found: dict[int, MinuteResult] = {}
        for place, minute_ms in enumerate(todo, -len(todo)):
            is_kept = place >= -TOGETHER
            if is_kept or minute_ms == todo[0]:
                detector = detector.ahead()
            found |= {result.minute_ms: result for result in step(detector, minute_ms)}
            if is_kept:
                self._after.append((minute_ms, detector))
        self._after[1:] = self._after[1:][-TOGETHER:]
        return found | {result.minute_ms: result for result in detector.anew()}
