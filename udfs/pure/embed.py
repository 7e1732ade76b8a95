"""A minute's spans as tokens, each value against what its operation's running past makes usual."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from udfs.pure import tokens as t
from udfs.pure.baselines import Baselines, log_start
from udfs.pure.counts import ERROR_RATE, EVENT_RATES, RARE_RATE, REPEATS, UNANSWERED, caller_repeats
from udfs.pure.frame import Frame
from udfs.pure.predict import SLOW_ENOUGH
from udfs.pure.reading import CALLS_MIN, MINUTES_MIN, SAMPLES_MIN, TIME_FLOOR_MS, Reading
from udfs.pure.structures import RARE
from udfs.pure.tokens import Tokens


def tokens(base: Baselines, frame: Frame, reading: Reading, usage: np.ndarray, names: Mapping[str, int]) -> Tokens:
    """The minute's spans as a model sees them.

    usage: (pods of the frame, dimensions) surplus in standard deviations, NaN = not known.
    names: the model's vocabulary, operation -> its place, from 1."""
    operation, calls = reading.operation, base.counts.calls[reading.operation]
    has_children = np.zeros(frame.count, bool)
    has_children[frame.parent[frame.has_parent]] = True
    child_operations = np.bincount(frame.parent[reading.groups], minlength=frame.count)
    is_again = frame.has_parent.copy()
    is_again[reading.groups] = False

    counts = base.counts

    def rate(events: np.ndarray, thought: float) -> np.ndarray:
        return counts.log_rate(events, thought, operation)

    scale = np.sqrt(reading.variance)
    known = np.column_stack(
        [
            reading.is_entry,
            frame.is_call,
            frame.has_parent,
            np.minimum(frame.depth, 12) / 4,
            np.minimum(child_operations, 8) / 4,
            np.log1p(calls) / 5,
            rate(counts.failures, ERROR_RATE) / 5,
            rate(counts.events[:, REPEATS], EVENT_RATES[REPEATS]) / 5,
            rate(counts.rare, RARE_RATE) / 5,
            rate(counts.events[:, UNANSWERED], EVENT_RATES[UNANSWERED]) / 5,
            np.log1p(base.durations.samples[operation]) / 5,
            np.log(scale),
            np.log1p(base.times.minutes[reading.profile]) / 5,
            reading.load,
        ]
    )
    log_duration = np.log(frame.duration_ms + TIME_FLOOR_MS)
    total = (log_duration - base.durations.location[operation]) / base.durations.scale[operation]
    start = log_start(frame)
    start = (start - base.starts.location[operation]) / base.starts.scale[operation]
    used = np.where(reading.is_entry[:, None], usage[frame.pod], np.nan)
    business = ~(frame.is_error | frame.has_erring_child)
    reals_seen = np.column_stack(
        [
            reading.is_known,
            business & base.durations.is_settled(operation, SAMPLES_MIN, MINUTES_MIN),
            frame.has_parent & base.starts.is_settled(operation, SAMPLES_MIN, MINUTES_MIN),
            np.isfinite(used),
        ]
    )
    reals = np.where(reals_seen, np.column_stack([reading.surplus / scale, total, start, used]), 0.0)
    repeats = caller_repeats(frame, reading)
    # A callee that never had a span (a database, a third party) is not missing.
    answers = (reading.callee >= 0) & (counts.answered[operation] > 0)
    unanswered = frame.is_call & ~frame.is_answered & answers
    bits = np.column_stack(
        [
            *(repeats >= level for level in t.REPEAT_LEVELS),
            frame.is_error,
            frame.error_logs > 0,
            unanswered,
            base.structures.share(reading.structure, calls) < RARE,
        ]
    )
    bits_seen = np.column_stack(
        [
            has_children,
            *(repeats >= level for level in t.REPEAT_LEVELS[:-1]),
            np.ones((frame.count, 2), bool),
            frame.is_call & answers,
            (calls >= CALLS_MIN) & business,
        ]
    )
    first = np.cumsum(frame.spans_of_trace) - frame.spans_of_trace
    own_names = [names.get(name, 0) for name in frame.operations] if names else None
    return Tokens(
        name=np.array(own_names, np.int32)[frame.operation] if own_names else np.zeros(frame.count, np.int32),
        known=known.astype(np.float32),
        excuse=_excuses(frame, unanswered, reals[:, t.OWN_TIME]),
        reals=reals.astype(np.float32),
        reals_seen=reals_seen,
        bits=bits & bits_seen,
        bits_seen=bits_seen,
        parent=np.where(frame.has_parent, frame.parent - first[frame.trace], -1),
        service=reading.service,
        is_again=is_again,
        lengths=frame.spans_of_trace,
    )


def _excuses(frame: Frame, unanswered: np.ndarray, own_time: np.ndarray) -> np.ndarray:
    """Columns of t.EXCUSES.  # (spans, EXCUSES)"""
    slow_below = _slow_below(frame, own_time)
    # A statement that fails has nobody below; a call that a sound callee answered has no excuse.
    reason = frame.has_erring_child | ~frame.is_answered | (slow_below > SLOW_ENOUGH)
    call_failed = frame.is_parent_of(frame.is_call & frame.is_error & reason)
    return np.column_stack([frame.has_erring_child, unanswered, slow_below, call_failed]).astype(np.float32)


def _slow_below(frame: Frame, own_time: np.ndarray) -> np.ndarray:
    """The greatest own time below each span, in standard deviations, from 0 to t.CUT.  # (spans,)"""
    below = np.zeros(frame.count)
    for depth in range(int(frame.depth.max()), 0, -1):
        rows = np.flatnonzero((frame.depth == depth) & frame.has_parent)
        slowest = np.clip(np.maximum(own_time[rows], below[rows]), 0.0, t.CUT)
        np.maximum.at(below, frame.parent[rows], slowest)
    return below / t.CUT
