"""detect, on an input without end: when a minute is over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from udfs.pure.horizon import AGREE, SKEW_MS, Horizon
from udfs.pure.versioned import Versioned
from udfs.pure.windows import MINUTE_MS

# The engine starts its tasks one by one: so long after a start, the sources may not have begun to read.
STARTING_MS = 60_000


@dataclass(frozen=True)
class Pace:
    """When a minute is over, where the input has no end.

    Event time says it: a minute is judged, and learnt from, once the newest of every stream (traces, usage) is
    ``lateness_ms`` ahead of it. Newest is what ``Horizon`` believes: a record more than ``skew_ms`` ahead of the others
    moves nothing on. Stages before this one hand on what they have now and then, and a backlog is read a piece of each
    partition at a time, so that newest time has to have stood for ``settle_ms`` of the engine's time, or for
    ``settle_backlog_ms`` where it is ``backlog_ms`` behind the engine's.
    A stream that brings nothing for ``idle_ms`` of it holds nothing back, and where none does, all that is there is
    over; where the engine goes on from what it held, silence counts from when something came, or from ``STARTING_MS``
    after that start. Until then a verdict is out all the same, every ``emit_every_ms`` or as often as half the stage's
    time allows, by what is known and without learning.
    """

    emit_every_ms: int = 1_000
    lateness_ms: int = 2 * MINUTE_MS
    settle_ms: int = 10_000
    settle_backlog_ms: int = 60_000
    backlog_ms: int = 5 * MINUTE_MS
    idle_ms: int = 180_000
    skew_ms: int = SKEW_MS


@dataclass
class _Stream(Versioned):
    """Of version 1: newest_ms, of the records as they were."""

    STATE_VERSION: ClassVar[int] = 2

    horizon: Horizon = field(default_factory=Horizon)
    changed_at: int = 0
    reached: list[tuple[int, int]] = field(default_factory=list)  # (engine's time, newest minute then), both ascending

    @classmethod
    def migrated(cls, version: int, state: dict[str, Any]) -> dict[str, Any]:
        newest_ms = state.pop("newest_ms")
        return state | {"horizon": Horizon(newest_ms)}

    def look(self, pace: Pace, clock_ms: int | None) -> int:
        """The newest minute that is believed by now, -1 = none."""
        newest_ms = self.horizon.newest(pace.skew_ms, clock_ms)
        while self.reached and self.reached[-1][1] > newest_ms:
            self.reached.pop()
        if newest_ms >= 0 and (not self.reached or self.reached[-1][1] < newest_ms):
            self.reached.append((self.changed_at, newest_ms))
        return newest_ms

    def stood_ms(self, now_ms: int, settle_ms: int) -> int:
        """The newest minute that has been believed for long enough, -1 = none."""
        stood = [at for at, _ in self.reached if now_ms - at >= settle_ms]
        if not stood:
            return -1
        del self.reached[: len(stood) - 1]
        return self.reached[0][1]

    def all_ms(self, pace: Pace, clock_ms: int | None) -> int:
        """The newest minute, where nothing more comes: records that are too few to agree stand if they are alone."""
        newest_ms, votes = self.horizon.newest(pace.skew_ms, clock_ms), self.horizon.votes
        if newest_ms < 0 and sum(votes.values()) < AGREE:
            newest_ms = max((ms for ms in votes if clock_ms is None or ms <= clock_ms + pace.skew_ms), default=-1)
        return newest_ms


@dataclass
class Progress(Versioned):
    """What the pace is measured by; times of the engine in ms. Its clock (``clock_ms``): see ``horizon.clock_at``."""

    STATE_VERSION: ClassVar[int] = 2

    streams: dict[str, _Stream] = field(default_factory=dict)
    begun_at: int = -1  # since when silence counts, whoever is silent
    judged_ms: int = -1  # the last minute that is over
    late: set[int] = field(default_factory=set)  # minutes that changed after they were over
    changed_at: int = 0  # when anything changed last
    ended_at: int = -1  # when the last words were
    ahead_since: int = -1  # since when there are traces ahead of what is believed, -1 = there are none
    rejected: dict[str, int] = field(default_factory=dict)  # trace -> the minute that it was rejected for as ahead

    def take(self, stream: str, came: Iterable[int], gone: Iterable[int], now_ms: int, pace: Pace) -> None:
        """A stream brought records of some minutes, and took back others."""
        of = self.streams.setdefault(stream, _Stream())
        self.begun_at = now_ms if self.begun_at < 0 else min(self.begun_at, now_ms)
        of.changed_at = self.changed_at = now_ms
        for minute_ms in came:
            of.horizon.take(minute_ms, pace.skew_ms)
        for minute_ms in gone:
            of.horizon.take_back(minute_ms)

    def restart(self, now_ms: int, pace: Pace, clock_ms: int | None) -> None:
        """The engine was started again: what stood before its end may be far behind what it reads now."""
        self.begun_at = now_ms + STARTING_MS
        self.ahead_since = now_ms if self.ahead_since >= 0 else -1
        for of in self.streams.values():
            of.changed_at = now_ms
            of.reached = []
            of.look(pace, clock_ms)

    def is_idle(self, now_ms: int, pace: Pace) -> bool:
        """Whether nothing came for so long that what is there is all there is."""
        return now_ms - max(self.begun_at, self.changed_at) >= pace.idle_ms

    def newest(self, stream: str, pace: Pace, clock_ms: int | None) -> int:
        """The newest minute of a stream that is believed by now; -1 = none."""
        of = self.streams.get(stream)
        return of.look(pace, clock_ms) if of else -1

    def over(self, now_ms: int, pace: Pace, streams: tuple[str, ...], engine_ms: int, clock_ms: int | None) -> int:
        """The last minute that is over by now. streams: those that there may be; engine_ms: what the clock shows."""
        if self.is_idle(now_ms, pace):
            for stream in self.streams.values():
                stream.horizon.confirm(stream.all_ms(pace, clock_ms), pace.skew_ms)
            return max([self.judged_ms, *(stream.horizon.firm_ms for stream in self.streams.values())])
        found = [self.streams.get(name) for name in streams]
        awake = [of for of in found if now_ms - max(self.begun_at, of.changed_at if of else -1) < pace.idle_ms]
        newest_ms = min((of.look(pace, clock_ms) for of in awake if of), default=-1)
        settle_ms = pace.settle_ms if engine_ms - newest_ms < pace.backlog_ms else pace.settle_backlog_ms
        stood = [of.stood_ms(now_ms, settle_ms) if of else -1 for of in awake]
        for of, stood_ms in zip(awake, stood, strict=True):
            if of:
                of.horizon.confirm(stood_ms, pace.skew_ms)
        return max(self.judged_ms, min(stood, default=-1) - pace.lateness_ms)
