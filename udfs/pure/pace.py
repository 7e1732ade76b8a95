"""detect, on an input without end: when a minute is over."""

from __future__ import annotations

from dataclasses import dataclass, field

from udfs.pure.windows import MINUTE_MS


@dataclass(frozen=True)
class Pace:
    """When a minute is over, where the input has no end.

    Event time says it: a minute is judged, and learnt from, once the newest is ``lateness_ms`` ahead of it. Stages
    before this one hand on what they have now and then, so that newest time has to have stood for ``settle_ms`` of
    the engine's time. Where nothing comes for ``idle_ms`` of it, all that is there is over. Until then a verdict is
    out all the same, every ``emit_every_ms``, by what is known and without learning.
    """

    emit_every_ms: int = 1_000
    lateness_ms: int = 2 * MINUTE_MS
    settle_ms: int = 5_000
    idle_ms: int = 30_000


@dataclass
class Progress:
    """What the pace is measured by; times of the engine in ms."""

    newest_ms: int = -1  # newest minute that has traces
    changed_at: int = 0
    reached: list[tuple[int, int]] = field(default_factory=list)  # (engine's time, newest minute then), ascending
    judged_ms: int = -1  # the last minute that is over
    late: set[int] = field(default_factory=set)  # minutes that changed after they were over
    shown_at: int = -1  # when open minutes were told last

    def take(self, minute_ms: int, now_ms: int) -> None:
        """A minute has changed."""
        self.changed_at = now_ms
        if minute_ms <= self.judged_ms:
            self.late.add(minute_ms)
        if minute_ms > self.newest_ms:
            self.newest_ms = minute_ms
            self.reached.append((now_ms, minute_ms))

    def over(self, now_ms: int, pace: Pace) -> int:
        """The last minute that is over by now."""
        if now_ms - self.changed_at >= pace.idle_ms:
            return self.newest_ms
        stood = [at for at, _ in self.reached if now_ms - at >= pace.settle_ms]
        if not stood:
            return self.judged_ms
        newest = self.reached[len(stood) - 1][1]
        del self.reached[: len(stood) - 1]
        return max(newest - pace.lateness_ms, self.judged_ms)
