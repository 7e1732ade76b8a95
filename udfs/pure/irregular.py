"""price, the bill alone: charges by window -> charge_anomalies, what is unlike the days before it.

The FinOps side of the job: no trace, no usage, only what was charged. A charge period (an hour, a
day) is one observation, however many windows it is spread over: each of them is reported, none is
further proof. A period is irregular if it is unlike all that could explain it:

1. the season: the same half hour on earlier days, of weekdays or of weekend days alone as soon as
   there are two of them; before the fourth day the week before as a whole;
2. the level: the season raised or scaled by what the last hours were above it;
3. the week: the same half hour one week ago and two weeks ago, both.

The score is that of the likeliest of them. So a jump is irregular until the level holds it, its end
is not (the season still does), and what comes every Monday is not from the third Monday on.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from udfs.pure.price import to_decimal
from udfs.pure.windows import HOUR_MS, WINDOW_MS

Row = dict[str, Any]

DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS

# Two weeks hold ten weekdays and four days of a weekend. Three values are the least of which the
# median is not moved by one; where there are as many days, two of the same kind tell more, so that
# the second Saturday is compared with the first weekend.
SEASON_DAYS = 14
MIN_DAYS = 3
MIN_ALIKE_DAYS = 2
# Few days say little of how much an hour varies: so many periods on each side say it, too.
NEIGHBOURS = 3
# Without a season: half a day is the least from which a median and its spread say anything.
MIN_HISTORY_WINDOWS = 24
MIN_HISTORY_PERIODS = 12

# A new level is learnt when most of these hours are at it, so after four hourly bills or two daily
# ones. Shorter, and an hour or two of waste would be usual while it lasts; longer, and a price
# change or a new machine would be reported for days: four bills are enough to look at once.
LEVEL_MS = 7 * HOUR_MS
MIN_LEVEL_PERIODS = 3

# All that a judgement can depend on: two weeks of season for each period of the level, which a week
# bounds. Older charges can be forgotten.
HISTORY_MS = SEASON_DAYS * DAY_MS + WEEK_MS

# A window without a charge is missing one if nine of ten like it had one.
MISSING_SHARE = 0.9

# Makes the median absolute deviation of a normal distribution its standard deviation; in samples of
# n it is too small by the factor below, beyond 9 by n / (n - 0.8) (Croux and Rousseeuw, 1992).
MAD_TO_SIGMA = 1.4826
SMALL_SAMPLES = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
# Flat bills have no deviation at all: a change below 5 % of the usual is nobody's concern, nor is
# one below a millionth of a currency unit (2 cents a year).
MIN_RELATIVE_SIGMA = 0.05
MIN_SIGMA_UNITS = 10**6
IRREGULAR_SCORE = 6.0


def charge_anomalies(
    resource_id: str,
    dimension: str,
    billing_currency: str,
    costs: Mapping[int, int],
    periods: Mapping[int, tuple[int, int]] | None = None,
    windows: Iterable[int] | None = None,
) -> list[Row]:
    """Rows of charge_anomalies: windows whose bill is unlike the days before it.

    costs: {window_start_ms: billed units of 1e-12} of one resource, dimension and currency,
        provisional costs left out.
    periods: {window_start_ms: (start_ms, end_ms)}, the shortest charge period that touches the
        window; windows of the same one are judged as one (default: each alone).
    windows: those to report (default: all). A cost that changes can change what is reported of its
        own period and of the HISTORY_MS after it.
    returns: rows for the irregular ones only, by window. anomaly_score is the robust z of the
        window's period, signed: (cost - expected) over 1.4826 * MAD, corrected for few values, or
        over 5 % of what is expected where that is more; |score| >= IRREGULAR_SCORE. A window
        without a charge is one of cost 0, if those like it had one and a later window is billed.

    Weekends are those of UTC. A resource of which there is too little history has no rows.
    """
    bill = _Bill(costs, periods or {})
    asked = None if windows is None else set(windows)
    rows = []
    for period in bill.periods:
        reported = [ms for ms in period.windows if asked is None or ms in asked]
        judged = bill.judge(period) if reported else None
        if judged is None or abs(judged.score) < IRREGULAR_SCORE:
            continue
        for window_ms in reported:
            rows.append(
                {
                    "window_start": window_ms,
                    "window_end": window_ms + WINDOW_MS,
                    "resource_id": resource_id,
                    "dimension": dimension,
                    "billed_cost": to_decimal(costs.get(window_ms, 0)),
                    "expected_cost": to_decimal(judged.expected),
                    "anomaly_score": judged.score,
                    "billing_currency": billing_currency,
                }
            )
    return sorted(rows, key=lambda row: row["window_start"])


@dataclass(frozen=True)
class _Period:
    """Windows that one charge period bills, ascending; cost: units a window, the mean of them."""

    windows: tuple[int, ...]
    cost: int
    is_billed: bool

    @cached_property
    def start_ms(self) -> int:
        return self.windows[0]

    @cached_property
    def end_ms(self) -> int:
        return self.windows[-1] + WINDOW_MS

    @cached_property
    def is_weekend(self) -> bool:
        return (self.start_ms // DAY_MS + 3) % 7 >= 5  # the epoch began on a Thursday


@dataclass(frozen=True)
class _Judged:
    expected: int
    score: float


class _Bill:
    """All periods of one series, with those that lack a charge, and what is expected of each."""

    def __init__(self, costs: Mapping[int, int], charge_periods: Mapping[int, tuple[int, int]]) -> None:
        grouped: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for window_ms in sorted(costs):
            grouped[charge_periods.get(window_ms, (window_ms, window_ms + WINDOW_MS))].append(window_ms)
        self._billed = sorted(
            (_Period(tuple(of), sum(costs[ms] for ms in of) // len(of), True) for of in grouped.values()),
            key=lambda period: period.start_ms,
        )
        self._starts = [period.start_ms for period in self._billed]
        self._by_window = {ms: period for period in self._billed for ms in period.windows}
        self._expected: dict[int, tuple[int, float] | None] = {}
        gaps = [gap for gap in self._gaps() if self._is_missing(gap)]
        self.periods = sorted([*self._billed, *gaps], key=lambda period: period.start_ms)
        self._all_starts = [period.start_ms for period in self.periods]

    def judge(self, period: _Period) -> _Judged | None:
        """The likeliest of what could explain the period; None where there is no history."""
        usual = self._usual(period)
        if usual is None:
            return None
        expected, spread = usual
        candidates = [(expected, spread), *self._levels(period, expected, spread)]
        weekly = [
            ago for weeks in (1, 2) if (ago := self._by_window.get(period.start_ms - weeks * WEEK_MS)) is not None
        ]
        if len(weekly) == 2:
            candidates.append((max((ago.cost for ago in weekly), key=lambda cost: abs(period.cost - cost)), spread))
        judged = [_Judged(cost, (period.cost - cost) / _sigma(cost, deviation)) for cost, deviation in candidates]
        if min(one.score for one in judged) < 0 < max(one.score for one in judged):
            return None
        return min(judged, key=lambda one: abs(one.score))

    def _usual(self, period: _Period) -> tuple[int, float] | None:
        """(units a window, their deviation in units) of a period like this one."""
        key = period.start_ms
        if key not in self._expected:
            self._expected[key] = self._season(period) or self._week(period)
        return self._expected[key]

    def _season(self, period: _Period) -> tuple[int, float] | None:
        """From the same half hour of earlier days; the spread from the ones beside it, too."""
        days = self._days(period, alike=False)
        center = self._on(days, period.start_ms, period)
        if len(center) < MIN_DAYS:
            return None
        alike_days = self._days(period, alike=True)
        alike = self._on(alike_days, period.start_ms, period)
        if len(alike) >= MIN_ALIKE_DAYS:
            days, center = alike_days, alike
        deviations: list[int] = []
        length = period.end_ms - period.start_ms
        for beside in range(-NEIGHBOURS, NEIGHBOURS + 1):
            window_ms = period.start_ms + beside * length
            around = [other.cost for other in self._on(days, window_ms, period)]
            if len(around) >= MIN_ALIKE_DAYS:
                middle = _median(around)
                deviations += [abs(cost - middle) for cost in around]
        expected = _median([other.cost for other in center])
        return expected, _deviation(deviations, len(center))

    def _week(self, period: _Period) -> tuple[int, float] | None:
        """From all of the week before."""
        since, until = self._between(period.start_ms - WEEK_MS, period.start_ms, period)
        history = [other.cost for other in self._billed[since:until]]
        windows = sum(len(other.windows) for other in self._billed[since:until])
        if len(history) < MIN_HISTORY_PERIODS or windows < MIN_HISTORY_WINDOWS:
            return None
        expected = _median(history)
        return expected, _deviation([abs(cost - expected) for cost in history], len(history))

    def _levels(self, period: _Period, expected: int, spread: float) -> Iterable[tuple[int, float]]:
        """What is expected, raised and scaled by what the last periods were above it."""
        until = bisect_left(self._all_starts, period.start_ms)
        since = bisect_left(self._all_starts, period.start_ms - LEVEL_MS)
        since = max(min(since, until - MIN_LEVEL_PERIODS), 0)
        recent = [
            (other.cost, usual[0])
            for other in self.periods[since:until]
            if other.start_ms >= period.start_ms - WEEK_MS
            and other.end_ms <= period.start_ms
            and (usual := self._usual(other)) is not None
        ]
        if len(recent) < MIN_LEVEL_PERIODS:
            return
        yield expected + _median([cost - usual for cost, usual in recent]), spread
        if expected > 0 and all(usual > 0 for _, usual in recent):
            ratios = sorted(cost / usual for cost, usual in recent)
            ratio = (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2
            yield round(expected * ratio), spread * max(abs(ratio), 1.0)

    def _days(self, period: _Period, alike: bool) -> list[int]:
        """How many days ago: those of the last two weeks, weekdays or weekends alone if alike."""
        return [
            day
            for day in range(1, SEASON_DAYS + 1)
            if not alike or _Period((period.start_ms - day * DAY_MS,), 0, False).is_weekend == period.is_weekend
        ]

    def _on(self, days: Iterable[int], window_ms: int, period: _Period) -> list[_Period]:
        """The distinct billed periods of that half hour on these days, ended before ``period``."""
        found: dict[int, _Period] = {}
        for day in days:
            ago_ms = window_ms - day * DAY_MS
            other = self._by_window.get(ago_ms)
            if (
                other is not None
                and ago_ms >= period.start_ms - SEASON_DAYS * DAY_MS
                and other.end_ms <= period.start_ms
            ):
                found[other.start_ms] = other
        return list(found.values())

    def _between(self, start_ms: int, end_ms: int, period: _Period) -> tuple[int, int]:
        """Range of the billed periods that start in [start_ms, end_ms) and end before ``period``."""
        since, until = bisect_left(self._starts, start_ms), bisect_left(self._starts, end_ms)
        while until > since and self._billed[until - 1].end_ms > period.start_ms:
            until -= 1
        return since, until

    def _gaps(self) -> Iterable[_Period]:
        """Periods of cost 0 for the windows between two charges that none bills, of the length of
        the one before; two weeks at most, since after them no day before has a charge."""
        for before, after in zip(self._billed, self._billed[1:]):
            length = before.end_ms - before.start_ms
            end_ms = min(after.start_ms, before.end_ms + SEASON_DAYS * DAY_MS)
            for start_ms in range(before.end_ms, end_ms, length):
                windows = [
                    ms for ms in range(start_ms, min(start_ms + length, end_ms), WINDOW_MS) if ms not in self._by_window
                ]
                if windows:
                    yield _Period(tuple(windows), 0, False)

    def _is_missing(self, gap: _Period) -> bool:
        """Whether the windows like these had a charge."""
        first_ms = self._starts[0]
        for days in (self._days(gap, alike=True), self._days(gap, alike=False)):
            known = [day for day in days if gap.start_ms - day * DAY_MS >= first_ms]
            if len(known) >= MIN_DAYS:
                return len(self._on(known, gap.start_ms, gap)) >= MISSING_SHARE * len(known)
        since_ms = max(first_ms, gap.start_ms - WEEK_MS)
        since, until = self._between(since_ms, gap.start_ms, gap)
        billed = sum(len(other.windows) for other in self._billed[since:until])
        return billed >= MISSING_SHARE * (gap.start_ms - since_ms) / WINDOW_MS


def _sigma(expected: int, deviation: float) -> float:
    return max(deviation, MIN_RELATIVE_SIGMA * abs(expected), MIN_SIGMA_UNITS)


def _deviation(deviations: list[int], values: int) -> float:
    """Standard deviation of a further value around the median of ``values`` such ones."""
    of_few = SMALL_SAMPLES.get(values, values / (values - 0.8))
    of_median = math.sqrt(1 + math.pi / (2 * values))
    return MAD_TO_SIGMA * of_few * of_median * _median(deviations)


def _median(values: list[int]) -> int:
    """Median of integers; of the two middle ones the mean, rounded down to a whole unit."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) // 2
