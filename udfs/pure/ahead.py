"""detect, on an input without end: minutes that aren't over, judged as if they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from udfs.pure.detect import MinuteResult, RuleDetector

# The detector is kept as it was after each of so many of the newest minutes.
KEPT = 5


class Ahead:
    """Open minutes, one after the other, by copies of a detector that are thrown away once its next minute is over.

    A minute gains from those before it and, where the detector tells minutes anew, from those after it: an episode
    that has just begun is found by what there is of all its minutes. What comes before the first change isn't judged
    again.
    """

    def __init__(self, detector: RuleDetector) -> None:
        """detector: after the last minute that is over; it stays as it is."""
        # Minute -> the detector after it, ascending; the first is the one given, then at most the last KEPT.
        self._after: list[tuple[int, RuleDetector]] = [(-1, detector)]
        self._results: dict[int, MinuteResult] = {}

    def judge(
        self,
        minutes: Sequence[int],
        changed_ms: int,
        step: Callable[[RuleDetector, int], list[MinuteResult]],
    ) -> dict[int, MinuteResult]:
        """What is to be said of each minute that has traces.

        minutes: all that are open, ascending. changed_ms: the first that is not as it was at the last call.
        step: has a detector step a minute, with all that is known of it.
        """
        self._after[1:] = [(minute_ms, after) for minute_ms, after in self._after[1:] if minute_ms < changed_ms]
        last_ms, detector = self._after[-1]
        todo = [minute_ms for minute_ms in minutes if minute_ms > last_ms]
        self._results = {minute_ms: result for minute_ms, result in self._results.items() if minute_ms <= last_ms}
        for left, minute_ms in zip(range(len(todo) - 1, -1, -1), todo):
            if left < KEPT or minute_ms == todo[0]:
                detector = detector.ahead()
            self._results |= {result.minute_ms: result for result in step(detector, minute_ms)}
            if left < KEPT:
                self._after.append((minute_ms, detector))
        self._after[1:] = self._after[1:][-KEPT:]
        self._results |= {result.minute_ms: result for result in detector.anew()}
        return self._results
