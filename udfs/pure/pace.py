"""detect, on an input without end: when a minute is over."""

from __future__ import annotations

from dataclasses import dataclass, field

from udfs.pure.windows import MINUTE_MS


@dataclass(frozen=True)
class Pace:
    """When a minute is over, where the input has no end.

    Event time says it: a minute is judged, and learnt from, once the newest of every stream (traces, usage) is
    ``lateness_ms`` ahead of it. Stages before this one hand on what they have now and then, and a backlog is read a
    piece of each partition at a time, so that newest time has to have stood for ``settle_ms`` of the engine's time, or
    for ``settle_backlog_ms`` where it is ``backlog_ms`` behind the engine's.
    A stream that brings nothing for ``idle_ms`` of it holds nothing back, and where none does, all that is there is
    over. Until then a verdict is out all the same, every ``emit_every_ms`` or as often as half the stage's time allows,
    by what is known and without learning.
    """

    emit_every_ms: int = 1_000
    lateness_ms: int = 2 * MINUTE_MS
    settle_ms: int = 10_000
    settle_backlog_ms: int = 60_000
    backlog_ms: int = 5 * MINUTE_MS
    idle_ms: int = 180_000


@dataclass
class _Stream:
    newest_ms: int = -1  # newest minute that it told of
    changed_at: int = 0
    reached: list[tuple[int, int]] = field(default_factory=list)  # (engine's time, newest minute then), ascending

    def stood_ms(self, now_ms: int, settle_ms: int) -> int:
        """The newest minute that has stood for long enough, -1 = none."""
        stood = [at for at, _ in self.reached if now_ms - at >= settle_ms]
        if not stood:
            return -1
        del self.reached[: len(stood) - 1]
        return self.reached[0][1]


@dataclass
class Progress:
    """What the pace is measured by; times of the engine in ms."""

    streams: dict[str, _Stream] = field(default_factory=dict)
    begun_at: int = -1
    judged_ms: int = -1  # the last minute that is over
    late: set[int] = field(default_factory=set)  # minutes that changed after they were over
    changed_at: int = 0  # when anything changed last
    ended_at: int = -1  # when the last words were

    def take(self, stream: str, newest_ms: int, now_ms: int) -> None:
        """A stream has told something new; newest_ms: of the minutes that it told of."""
        of = self.streams.setdefault(stream, _Stream())
        self.begun_at = now_ms if self.begun_at < 0 else self.begun_at
        of.changed_at = self.changed_at = now_ms
        if newest_ms > of.newest_ms:
            of.newest_ms = newest_ms
            of.reached.append((now_ms, newest_ms))

    def restart(self, now_ms: int) -> None:
        """The engine was started again: what stood before its end may be far behind what it reads now."""
        self.begun_at = now_ms
        for of in self.streams.values():
            of.changed_at = now_ms
            of.reached = [(now_ms, of.newest_ms)]

    def is_idle(self, now_ms: int, pace: Pace) -> bool:
        """Whether nothing came for so long that what is there is all there is."""
        return now_ms - max(self.begun_at, self.changed_at) >= pace.idle_ms

    def over(self, now_ms: int, pace: Pace, streams: tuple[str, ...], engine_ms: int) -> int:
        """The last minute that is over by now. streams: those that there may be; engine_ms: what the clock shows."""
        if self.is_idle(now_ms, pace):
            return max([self.judged_ms, *(of.newest_ms for of in self.streams.values())])
        found = [self.streams.get(name) for name in streams]
        awake = [of for of in found if now_ms - (of.changed_at if of else self.begun_at) < pace.idle_ms]
        newest_ms = min((of.newest_ms for of in awake if of), default=-1)
        settle_ms = pace.settle_ms if engine_ms - newest_ms < pace.backlog_ms else pace.settle_backlog_ms
        stood_ms = min((of.stood_ms(now_ms, settle_ms) if of else -1 for of in awake), default=-1)
        return max(self.judged_ms, stood_ms - pace.lateness_ms)
