"""Event time: how far it has come, by what several records agree on.

A record with a wrong clock must move nothing on, and it looks like the first record after a gap (a night, an outage).
The difference is what the others do: after a gap all of them are later, and of a wrong clock only a few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from udfs.pure.windows import MINUTE_MS

# How far clocks may differ (``clock.skew``). What lies further ahead of all else is not followed.
SKEW_MS = 10 * MINUTE_MS

# So many records have to agree before event time follows them over a gap; the engine's clock counts for as many.
AGREE = 3
# The lead of those beyond the gap over those before it counts up to this: so a burst from one wrong host is soon
# outvoted, and a few stragglers don't hold up what comes after a gap.
LEAD_MAX = 10
# Where a stream begins, so many of the last records tell which side of a gap leads.
RECENT = 20
# Minutes beyond the gap that are remembered; the furthest are dropped first.
MINUTES_MAX = 20_000

# An engine's clock that shows less was never set, and says nothing.
_CLOCK_SET_MS = 1_000_000_000_000  # 2001


def clock_at(engine_ms: int) -> int | None:
    """The engine's time (ms) where it can be a wall clock's, else None."""
    return engine_ms if engine_ms >= _CLOCK_SET_MS else None


def agreed(votes: Mapping[int, int], skew_ms: int, clock_ms: int | None, known_ms: int = -1, need: int = AGREE) -> int:
    """The latest time that records agree on: ``need`` of them are as late, or it is within the skew of one where they
    are. -1 where fewer do. A function of the set of records.

    votes: time (ms) -> records. clock_ms: see ``clock_at``. Where the clock was right so far (``known_ms``, or AGREE of
    the records, are not ahead of it), a record that is ahead of it is wrong and has no vote; a record that is as late
    as the clock needs no other.
    """
    if clock_ms is not None:
        possible = {time_ms: count for time_ms, count in votes.items() if time_ms <= clock_ms + skew_ms}
        if sum(possible.values()) >= AGREE or 0 <= known_ms <= clock_ms + skew_ms:
            votes = possible
    times = sorted(votes)
    count, place = 0, len(times)
    while place and count < need:
        place -= 1
        is_now = clock_ms is not None and abs(times[place] - clock_ms) <= skew_ms
        count += need if is_now else votes[times[place]]
    if count < need:
        return -1
    while place + 1 < len(times) and times[place + 1] - times[place] <= skew_ms:
        place += 1
    return times[place]


def latest(votes: Mapping[int, int], skew_ms: int, clock_ms: int | None) -> int:
    """As ``agreed``, of an input that has ended: too few records to agree have nothing to differ from. -1 = none."""
    found = agreed(votes, skew_ms, clock_ms)
    return found if found >= 0 else max(votes, default=-1)


@dataclass
class Horizon:
    """How far the event time of one stream has come, record by record. Times in ms; -1 = nothing is known.

    What is at most the skew ahead of ``firm_ms`` moves it on. What is further ahead votes: event time follows once
    AGREE more records came from beyond the gap than from before it, and goes back if that doesn't last until
    ``confirm`` is called. Where a stream begins, all records vote, and half of them have to agree.
    """

    firm_ms: int = -1
    votes: dict[int, int] = field(default_factory=dict)  # time beyond the gap -> records
    lead: int = 0
    recent: list[int] = field(default_factory=list)  # the last times, before the first is confirmed

    def take(self, time_ms: int, skew_ms: int) -> None:
        """A record of a time came."""
        if not self._is_ahead(time_ms, skew_ms):
            self.lead = max(0, self.lead - 1)
            self._follow(time_ms, skew_ms)
            return
        self.lead = min(LEAD_MAX, self.lead + 1)
        if self.firm_ms < 0:
            self.recent = [*self.recent[1 - RECENT :], time_ms]
        self.votes[time_ms] = self.votes.get(time_ms, 0) + 1
        if len(self.votes) > MINUTES_MAX:
            del self.votes[max(self.votes)]

    def take_back(self, time_ms: int) -> None:
        """A record of a time is gone; event time doesn't go back by it."""
        if time_ms in self.votes:
            self.votes[time_ms] -= 1
            if not self.votes[time_ms]:
                del self.votes[time_ms]
            self.lead = self.lead if self.votes else 0

    def newest(self, skew_ms: int, clock_ms: int | None) -> int:
        """The latest time that may be believed by now."""
        if not self.votes:
            return self.firm_ms
        if self.firm_ms < 0:
            need = max(AGREE, (sum(self.votes.values()) + 1) // 2)
            first_ms = agreed(self.votes, skew_ms, clock_ms, need=need)
            return self._begun(first_ms, skew_ms).newest(skew_ms, clock_ms) if first_ms >= 0 else -1
        is_now = clock_ms is not None and any(abs(time_ms - clock_ms) <= skew_ms for time_ms in self.votes)
        if not self.lead or self.lead + is_now * (AGREE - 1) < AGREE:
            return self.firm_ms
        return max(self.firm_ms, agreed(self.votes, skew_ms, clock_ms, self.firm_ms))

    def confirm(self, time_ms: int, skew_ms: int) -> None:
        """Event time is at least at ``time_ms``, and stays."""
        if self.firm_ms < 0 <= time_ms:
            begun = self._begun(time_ms, skew_ms)
            self.firm_ms, self.votes, self.lead, self.recent = begun.firm_ms, begun.votes, begun.lead, []
        elif time_ms > self.firm_ms:
            self._follow(time_ms, skew_ms)

    def _begun(self, first_ms: int, skew_ms: int) -> Horizon:
        """What this would be, had it begun at a time."""
        begun = Horizon(first_ms, dict(self.votes))
        begun._follow(first_ms, skew_ms)
        if begun.votes:
            ahead = sum(begun._is_ahead(time_ms, skew_ms) for time_ms in self.recent)
            begun.lead = min(LEAD_MAX, max(0, 2 * ahead - len(self.recent)))
        return begun

    def _is_ahead(self, time_ms: int, skew_ms: int) -> bool:
        return self.firm_ms < 0 or time_ms > self.firm_ms + skew_ms

    def _follow(self, time_ms: int, skew_ms: int) -> None:
        """Move on to a time, and to what votes no longer lie beyond a gap."""
        self.firm_ms = max(self.firm_ms, time_ms)
        for voted_ms in sorted(self.votes):
            if self._is_ahead(voted_ms, skew_ms):
                break
            self.firm_ms = max(self.firm_ms, voted_ms)
            del self.votes[voted_ms]
        if not self.votes:
            self.lead = 0
