"""attribute: what all resources that a worker has seen add to its gauges, in memory."""

from __future__ import annotations

from udfs.pure.windows import WINDOW_MS

# Windows that wait for their bill, and cost that is tied to nobody in millionths of the currency.
Adds = tuple[int, int]


class Outstanding:
    """What each resource adds. A resource of which nothing has come for so long that its windows would wait no more
    adds nothing and is forgotten: a machine that is gone has no event time that would close them."""

    def __init__(self, kept_ms: int | None) -> None:
        """kept_ms: how long windows wait, in event time; None = for ever."""
        self._kept_ms = kept_ms
        self._adds: dict[str, tuple[int, Adds]] = {}  # resource -> its newest event time and what it adds
        self._newest_ms = self._forgotten_ms = -1
        self.total: Adds = (0, 0)

    def __len__(self) -> int:
        return len(self._adds)

    def put(self, resource_id: str, newest_ms: int, adds: Adds) -> None:
        """A resource adds this from now on. newest_ms: its event time."""
        self._take(resource_id)
        if any(adds):
            self._adds[resource_id] = newest_ms, adds
            self.total = self.total[0] + adds[0], self.total[1] + adds[1]
        self._newest_ms = max(self._newest_ms, newest_ms)
        # All are looked through once a window.
        if self._kept_ms is not None and self._newest_ms >= self._forgotten_ms + WINDOW_MS:
            self._forgotten_ms = self._newest_ms
            kept_ms = self._newest_ms - self._kept_ms
            for gone in [name for name, (time_ms, _) in self._adds.items() if time_ms < kept_ms]:
                self._take(gone)

    def _take(self, resource_id: str) -> None:
        _, adds = self._adds.pop(resource_id, (-1, (0, 0)))
        self.total = self.total[0] - adds[0], self.total[1] - adds[1]
