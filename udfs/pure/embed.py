"""A minute's spans as tokens, each value against what its operation's running past makes usual."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from udfs.pure import evidence as e
from udfs.pure import tokens as t
from udfs.pure.baseline import Profiles, grown
from udfs.pure.evidence import Baselines, Reading
from udfs.pure.frame import Frame
from udfs.pure.predict import SLOW_ENOUGH
from udfs.pure.tokens import Tokens

# Events that are counted by operation beside those of Baselines.
REPEATS, UNANSWERED = range(2)
# How often they are thought to happen, as if e.ERROR_CALLS calls had told it.
EVENT_RATES = np.array([1e-3, e.ERROR_RATE])

# What the times of a minute have in common forgets with this time constant, and is thought to be nothing
# until so many minutes told.
WANDER_MINUTES, WANDER_YOUTH = 120.0, 5.0


class SpanBaselines(Baselines):
    """The baselines, with what a token needs beyond the rule's evidence."""

    def __init__(self) -> None:
        super().__init__()
        self._starts = Profiles(e.SCALE_START, e.SCALE_FLOOR)  # (operations,) after the parent's
        self._events = np.zeros((0, len(EVENT_RATES)))  # (operations, events)
        # (services * TIME_CHANNELS, 2) sum of the variances that whole minutes have in common, and minutes
        self._wander = np.zeros((0, 2))

    def _resize(self, services: int, rows: int) -> None:
        super()._resize(services, rows)
        self._starts.resize(rows)
        self._events = grown(self._events, rows)
        self._wander = grown(self._wander, services * e.TIME_CHANNELS)

    def tokens(self, frame: Frame, reading: Reading, usage: np.ndarray, names: Mapping[str, int]) -> Tokens:
        """usage: (pods of the frame, dimensions) surplus in standard deviations, NaN = not known.
        names: the model's vocabulary, operation -> its place, from 1."""
        operation, calls = reading.operation, self._calls[reading.operation]
        has_children = np.zeros(frame.count, bool)
        has_children[frame.parent[frame.has_parent]] = True
        child_operations = np.bincount(frame.parent[reading.groups], minlength=frame.count)
        is_again = frame.has_parent.copy()
        is_again[reading.groups] = False

        def rate(events: np.ndarray, thought: float) -> np.ndarray:
            return np.log((events + thought * e.ERROR_CALLS) / (calls + e.ERROR_CALLS))

        events = self._events[operation]
        scale = np.sqrt(reading.variance)
        known = np.column_stack(
            [
                reading.is_entry,
                frame.is_call,
                frame.has_parent,
                np.minimum(frame.depth, 12) / 4,
                np.minimum(child_operations, 8) / 4,
                np.log1p(calls) / 5,
                rate(self._failures[operation], e.ERROR_RATE) / 5,
                rate(events[:, REPEATS], EVENT_RATES[REPEATS]) / 5,
                rate(self._rare[operation], e.RARE_RATE) / 5,
                rate(events[:, UNANSWERED], EVENT_RATES[UNANSWERED]) / 5,
                np.log1p(self._durations.samples[operation]) / 5,
                np.log(scale),
                np.log1p(self._times.minutes[reading.profile]) / 5,
                reading.load,
            ]
        )
        log_duration = np.log(frame.duration_ms + e.TIME_FLOOR_MS)
        total = (log_duration - self._durations.location[operation]) / self._durations.scale[operation]
        start = self._start(frame)
        start = (start - self._starts.location[operation]) / self._starts.scale[operation]
        used = np.where(reading.is_entry[:, None], usage[frame.pod], np.nan)
        business = ~(frame.is_error | frame.has_erring_child)
        reals_seen = np.column_stack(
            [
                reading.is_known,
                business & self._durations.is_settled(operation, e.SAMPLES_MIN, e.MINUTES_MIN),
                frame.has_parent & self._starts.is_settled(operation, e.SAMPLES_MIN, e.MINUTES_MIN),
                np.isfinite(used),
            ]
        )
        reals = np.where(reals_seen, np.column_stack([reading.surplus / scale, total, start, used]), 0.0)
        repeats = self._caller_repeats(frame, reading)
        unanswered = frame.is_call & ~frame.is_answered & (reading.callee >= 0)
        bits = np.column_stack(
            [
                *(repeats >= level for level in t.REPEAT_LEVELS),
                frame.is_error,
                frame.error_logs > 0,
                unanswered,
                self._structure_share(reading.structure, calls) < e.RARE,
            ]
        )
        bits_seen = np.column_stack(
            [
                has_children,
                *(repeats >= level for level in t.REPEAT_LEVELS[:-1]),
                np.ones((frame.count, 2), bool),
                frame.is_call & (reading.callee >= 0),
                (calls >= e.CALLS_MIN) & business,
            ]
        )
        first = np.cumsum(frame.spans_of_trace) - frame.spans_of_trace
        own_names = [names.get(name, 0) for name in frame.operations] if names else None
        return Tokens(
            name=np.array(own_names, np.int32)[frame.operation] if own_names else np.zeros(frame.count, np.int32),
            known=known.astype(np.float32),
            excuse=self._excuses(frame, unanswered, reals[:, t.OWN_TIME]),
            reals=reals.astype(np.float32),
            reals_seen=reals_seen,
            bits=bits & bits_seen,
            bits_seen=bits_seen,
            parent=np.where(frame.has_parent, frame.parent - first[frame.trace], -1),
            service=reading.service,
            is_again=is_again,
            lengths=frame.spans_of_trace,
        )

    def together(self, reading: Reading) -> np.ndarray:
        """What each span's time counts for in the sum over its minute, from 0 to 1.  # (spans,)

        The times of one service in one minute are off together, by what it shares (garbage collection, a noisy
        neighbour, the network): n spans say no more than their mean does, whose variance is scale^2 / n and what
        minutes have in common beside it.
        """
        slot = reading.load_slot
        counts = np.bincount(slot[reading.is_known], minlength=len(self._wander))
        total, minutes = self._wander.T
        common = np.maximum(total, 0.0) / (minutes + WANDER_YOUTH)
        return 1 / (1 + np.maximum(counts - 1, 0) * common)[slot]

    def _learn_wander(self, reading: Reading, times: np.ndarray) -> None:
        """Take in what a minute's times have in common, in variances of the operations' own."""
        known = np.flatnonzero(reading.is_known)
        slot, rows = reading.load_slot[known], len(self._wander)
        counts = np.bincount(slot, minlength=rows)
        z = np.clip(reading.surplus[known] / np.sqrt(reading.variance[known]), -e.OFF_MAX, e.OFF_MAX)
        seen = counts > 1
        each = counts[seen]
        mean = np.bincount(slot, z, rows)[seen] / each
        spread = np.bincount(slot, z * z, rows)[seen] / each - mean**2
        weight = (np.bincount(slot, times[known], rows)[seen] / each)[:, None]
        self._wander[seen] *= 1 - weight / WANDER_MINUTES
        self._wander[seen] += weight * np.column_stack([mean**2 - spread / (each - 1), np.ones(len(each))])

    @staticmethod
    def _start(frame: Frame) -> np.ndarray:
        """Log of the time from the parent's start to the span's.  # (spans,)"""
        after = np.where(frame.has_parent, frame.start_ms - frame.start_ms[frame.parent], 0.0)
        return np.log(np.maximum(after, 0.0) + e.TIME_FLOOR_MS)

    def _excuses(self, frame: Frame, unanswered: np.ndarray, own_time: np.ndarray) -> np.ndarray:
        """Columns of t.EXCUSES.  # (spans, EXCUSES)"""
        slow_below = self._slow_below(frame, own_time)
        # A statement that fails has nobody below; a call that a sound callee answered has no excuse.
        reason = frame.has_erring_child | ~frame.is_answered | (slow_below > SLOW_ENOUGH)
        call_failed = frame.is_parent_of(frame.is_call & frame.is_error & reason)
        return np.column_stack([frame.has_erring_child, unanswered, slow_below, call_failed]).astype(np.float32)

    @staticmethod
    def _slow_below(frame: Frame, own_time: np.ndarray) -> np.ndarray:
        """The greatest own time below each span, in standard deviations, from 0 to t.CUT.  # (spans,)"""
        below = np.zeros(frame.count)
        for depth in range(int(frame.depth.max()), 0, -1):
            rows = np.flatnonzero((frame.depth == depth) & frame.has_parent)
            slowest = np.clip(np.maximum(own_time[rows], below[rows]), 0.0, t.CUT)
            np.maximum.at(below, frame.parent[rows], slowest)
        return below / t.CUT

    @staticmethod
    def _caller_repeats(frame: Frame, reading: Reading) -> np.ndarray:
        """How often a span makes the call that it makes most often; 0 without calls.  # (spans,)"""
        repeats = np.zeros(frame.count, np.int64)
        np.maximum.at(repeats, frame.parent[reading.groups], frame.repeats[reading.groups])
        return repeats

    def learn(
        self,
        minute_ms: int,
        frame: Frame,
        reading: Reading,
        times: np.ndarray,
        events: np.ndarray,
    ) -> None:
        super().learn(minute_ms, frame, reading, times, events)
        self._learn_wander(reading, times)
        operation = reading.operation
        timed = np.where(reading.is_timed & frame.has_parent, times, 0.0)
        self._starts.learn(operation, self._start(frame), timed)
        self._events *= 1 - 1 / e.COUNT_MEMORY_MINUTES
        for event, happened in (
            (REPEATS, self._caller_repeats(frame, reading) > 1),
            (UNANSWERED, frame.is_call & ~frame.is_answered & (reading.callee >= 0)),
        ):
            self._events[:, event] += np.bincount(operation[happened], events[happened], minlength=len(self._events))

    def renew(self, services: np.ndarray, samples: float) -> None:
        """Let the own times of these services be learnt quickly: they have a new release."""
        of = np.isin(self._service_of, services)
        for table, rows in ((self._times, np.repeat(of, e.SHAPES)), (self._durations, of)):
            table.samples[rows] = np.minimum(table.samples[rows], samples)

    def _keep_operations(self, kept: np.ndarray) -> None:
        super()._keep_operations(kept)
        self._starts.keep(kept)
        self._events = self._events[kept]
