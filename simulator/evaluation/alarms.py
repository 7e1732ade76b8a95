"""How quiet a detector is where nothing is wrong: measures of false alarms, each a function of arrays.

Minutes are whole ones, counted from anywhere. Only minutes that hold traces count as time: a recording's gaps are none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from simulator.config import MINUTES_PER_DAY

# Alarms on one service that are no further apart are one incident.
BRIDGE_MINUTES = 10
REFERENCE_SERVICES = 20
PREVALENCES = (0.01, 0.05, 0.10)

# Quiet: of the traces of so many minutes that hold any, at most this share is flagged.
QUIET_MINUTES, QUIET_SHARE = 10, 0.01
# A minute in which more of the traces than this are flagged shows a detector that is locked out.
LOCKED_SHARE = 0.5

MARKS = "·▁▂▃▄▅▆▇█"


class Incident(NamedTuple):
    """Alarms on a service in [begin, end), minutes."""

    culprit: str
    begin: int
    end: int
    traces: int


def incidents(minutes: Sequence[int], culprits: Sequence[str]) -> list[Incident]:
    """The runs of alarms (one a trace) on each service, by service and time; gaps up to BRIDGE_MINUTES are bridged."""
    of: dict[str, list[int]] = {}
    for minute, culprit in zip(minutes, culprits, strict=True):
        of.setdefault(culprit, []).append(int(minute))
    found = []
    for culprit, times in sorted(of.items()):
        times.sort()
        cuts = [0, *(i for i in range(1, len(times)) if times[i] - times[i - 1] > BRIDGE_MINUTES + 1), len(times)]
        found += [Incident(culprit, times[a], times[b - 1] + 1, b - a) for a, b in zip(cuts, cuts[1:])]
    return found


def false_incidents(alarms: Iterable[Incident], faults: Mapping[str, Sequence[tuple[float, float]]]) -> list[Incident]:
    """Those of the false alarms that overlap no fault of their service ([begin, end) in minutes)."""
    return [
        one for one in alarms
        if not any(begin < one.end and one.begin < end for begin, end in faults.get(one.culprit, ()))
    ]  # fmt: skip


def a_day(count: int, minutes: int, services: int) -> float:
    """``count`` in ``minutes`` of data of ``services`` services, as a rate a day and REFERENCE_SERVICES services."""
    if not minutes or not services:
        return math.nan
    return count * MINUTES_PER_DAY / minutes * REFERENCE_SERVICES / services


def precision_at(prevalence: float, recall: float, false_positive_rate: float) -> float:
    """Precision where this share of the traces is anomalous; NaN where nothing is flagged."""
    hits, alarms = prevalence * recall, (1 - prevalence) * false_positive_rate
    return hits / (hits + alarms) if hits + alarms > 0 else math.nan


def average_precision(scores: np.ndarray, true: np.ndarray) -> float:
    """Area under the precision-recall curve, by steps; equal scores are one step.  # (traces,), (traces,) bool"""
    if not true.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.flatnonzero(np.r_[falling[1:] != falling[:-1], True])
    hits = np.cumsum(true[order])[ends]
    gains = np.diff(np.r_[0, hits])
    return float((gains * hits / (ends + 1)).sum() / true.sum())


def recall_at(false_positive_rate: float, scores: np.ndarray, true: np.ndarray) -> float:
    """The most of the true that a threshold on the score finds while it flags at most this share of the others."""
    if not true.any() or true.all():
        return math.nan
    others = np.sort(scores[~true])[::-1]
    allowed = int(false_positive_rate * len(others))
    threshold = others[allowed] if allowed < len(others) else -np.inf
    return float((scores[true] > threshold).mean())


def by_minute(minutes: np.ndarray, flags: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(minutes that hold traces, ascending; traces; flagged traces), each (minutes,)."""
    times, index = np.unique(minutes, return_inverse=True)
    return times, np.bincount(index, minlength=len(times)), np.bincount(index[flags], minlength=len(times))


def minutes_to_quiet(minutes: np.ndarray, flags: np.ndarray, shift: float, until: float = math.inf) -> float:
    """Minutes of data from ``shift`` on until it stays quiet, before ``until``; inf if it never does.

    It isn't quiet yet at the end of each QUIET_MINUTES minutes of data with more than QUIET_SHARE flagged; 0 if there
    are none of these. NaN if there is no data.
    """
    times, traces, flagged = by_minute(minutes, flags)
    own = (times >= shift) & (times < until)
    traces, flagged = traces[own], flagged[own]
    if not len(traces):
        return math.nan
    width = min(QUIET_MINUTES, len(traces))
    over = np.convolve(flagged, np.ones(width), "valid") > QUIET_SHARE * np.convolve(traces, np.ones(width), "valid")
    if not over.any():
        return 0.0
    # The last minute with an alarm, of the last stretch that isn't quiet.
    last = int(np.flatnonzero(over)[-1])
    if last + width >= len(traces):
        return math.inf
    return float(last + int(np.flatnonzero(flagged[last : last + width])[-1]) + 1)


def longest_locked(minutes: np.ndarray, flags: np.ndarray) -> int:
    """The most minutes with data in a row in which more than LOCKED_SHARE of the traces are flagged."""
    _, traces, flagged = by_minute(minutes, flags)
    longest = run = 0
    for is_locked in (flagged > LOCKED_SHARE * traces).tolist():
        run = run + 1 if is_locked else 0
        longest = max(longest, run)
    return longest


def timeline(minutes: np.ndarray, flags: np.ndarray, marks: int = 48) -> str:
    """The share flagged over the time of the data, a mark for each equal part: a dot for none, a full block for all.

    A space is a part without traces.
    """
    if not len(minutes):
        return ""
    width = max(math.ceil((minutes.max() - minutes.min() + 1) / marks), 1)
    parts, traces, flagged = by_minute((minutes - minutes.min()) // width, flags)
    line = [" "] * (int(parts.max()) + 1)
    for part, of, hits in zip(parts.tolist(), traces.tolist(), flagged.tolist()):
        line[int(part)] = MARKS[math.ceil(hits / of * (len(MARKS) - 1))]
    return "".join(line)
