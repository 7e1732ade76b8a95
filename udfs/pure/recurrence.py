"""How often an anomaly comes: minutes of the last 30 days in which a culprit showed a kind, of those observed."""

from __future__ import annotations

from udfs.pure.windows import HOUR_MS

DAY_MS = 24 * HOUR_MS
DAYS = 30
MONTH_MINUTES = DAYS * 24 * 60


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
        """The minute's verdict stands: the culprit showed the kind."""
        days = self._minutes.setdefault((culprit, kind), {})
        day = minute_ms // DAY_MS
        days[day] = days.get(day, 0) + 1

    def share(self, culprit: str, kind: str) -> tuple[int, int]:
        """(minutes of the anomaly, minutes observed) of the last 30 days."""
        return sum(self._minutes.get((culprit, kind), {}).values()), sum(self._observed.values())

    def _forget(self, before_day: int) -> None:
        self._observed = {day: n for day, n in self._observed.items() if day > before_day}
        for key, days in list(self._minutes.items()):
            kept = {day: n for day, n in days.items() if day > before_day}
            if kept:
                self._minutes[key] = kept
            else:
                del self._minutes[key]
