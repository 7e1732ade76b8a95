"""How often an anomaly comes: minutes of the last 30 days in which a culprit showed a kind, of those observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from udfs.pure.windows import HOUR_MS

DAY_MS = 24 * HOUR_MS
DAYS = 30
MONTH_MINUTES = DAYS * 24 * 60


class Recurring(NamedTuple):
    """How often an incident's like came until this minute, which counts, in the last 30 days."""

    minutes: Mapping[tuple[str, str], int]  # (culprit, kind) -> minutes
    observed: int  # minutes with traces

    def of(self, culprit: str, kind: str, is_counted: bool) -> list[int]:
        """[minutes, of so many]; is_counted: the minute at hand is among them."""
        return [self.minutes.get((culprit, kind), 0) + (not is_counted), self.observed]


class Recurrence:
    """State: minutes by day, observed and by (culprit, kind); bounded by DAYS."""

    def __init__(self) -> None:
        self._observed: dict[int, int] = {}  # day -> minutes that had traces
        self._minutes: dict[tuple[str, str], dict[int, int]] = {}  # (culprit, kind) -> day -> minutes

    def observe(self, minute_ms: int) -> None:
        """A minute has traces."""
        day = minute_ms // DAY_MS
        if day not in self._observed:
            self._forget(day - DAYS)
        self._observed[day] = self._observed.get(day, 0) + 1

    def count(self, minute_ms: int, culprit: str, kind: str) -> None:
        """The culprit showed the kind in this minute."""
        days = self._minutes.setdefault((culprit, kind), {})
        day = minute_ms // DAY_MS
        days[day] = days.get(day, 0) + 1

    def on(self, time_ms: int, culprit: str) -> dict[str, int]:
        """Minutes by kind in which a culprit was seen on the day of a time."""
        day = time_ms // DAY_MS
        return {kind: days[day] for (name, kind), days in self._minutes.items() if name == culprit and day in days}

    def by_now(self) -> Recurring:
        """Minutes of the last 30 days."""
        return Recurring({key: sum(days.values()) for key, days in self._minutes.items()}, sum(self._observed.values()))

    def _forget(self, before_day: int) -> None:
        self._observed = {day: n for day, n in self._observed.items() if day > before_day}
        for key, days in list(self._minutes.items()):
            kept = {day: n for day, n in days.items() if day > before_day}
            if kept:
                self._minutes[key] = kept
            else:
                del self._minutes[key]
