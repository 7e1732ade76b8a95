"""The best simple rule: what a person would write down who looks at spans alone.

A span is odd if its own time is far from its operation's usual one (robust z of the log), if it fails where its
operation seldom fails, or if it is repeated more often than usual. The time of an answered call that its callee's span
doesn't cover is the callee's. A trace's score is that of its oddest span, and that span's service is blamed. What is
usual is known from the first part of the time, by medians, so that anomalies in it move it little. The threshold is one
z for all worlds: what a share of the first part exceeds would be high where anomalies are in that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from simulator.evaluation.detection import verdict
from simulator.evaluation.worlds import World
from udfs.pure.assemble import SEPARATOR, Trace, opened
from udfs.pure.frame import Frame
from udfs.pure.irregular import MAD_TO_SIGMA
from udfs.pure.verdicts import MinuteResult, incidents
from udfs.pure.windows import MINUTE_MS

# The share of a world's time from which the rule knows what is usual.
REFERENCE_SHARE = 0.25
# Of 4, 5, 6 and 7 that with the best F1 in the source's mix of seeds 401 (3 days), 402 and 403 (1.5 days).
ODD_Z = 6.0
SAMPLES_MIN = 20
# A scale below which times differ by nothing that matters; shorter times are taken as equal.
SCALE_MIN, FLOOR_MS = 0.1, 1.0
# An operation that fails more often than this does so for reasons of its own.
ERRORS_MAX = 0.05
# What a failure counts, and a repetition for each time beyond the most that is usual, as z.
FAILURE_Z, REPEAT_Z = 8.0, 4.0


def reference_until_ms(world: World) -> int:
    """When the first REFERENCE_SHARE of a world's time is over."""
    first, last = world.times[0], world.times[-1] + MINUTE_MS
    return round(first + REFERENCE_SHARE * (last - first))


class RuleDetector:
    """Takes minutes in ascending order; those before ``reference_until_ms`` are judged when they are over."""

    def __init__(self, reference_until_ms: int) -> None:
        self._until_ms = reference_until_ms
        self._waiting: list[tuple[int, Frame]] | None = []  # None: what is usual is known
        self._usual: dict[str, tuple[float, float, float, float]] = {}  # log time, its scale, failed share, repeats

    def step(
        self, minute_ms: int, traces: Sequence[bytes | Trace], usage: Mapping[tuple[str, str], Mapping[str, float]]
    ) -> list[MinuteResult]:
        """Verdicts of this minute, with the first one beyond the reference also of those before."""
        if not traces:
            return []
        frame = Frame(sorted(map(opened, traces), key=lambda trace: trace.trace_id))
        if self._waiting is None:
            return [self._judge(minute_ms, frame)]
        self._waiting.append((minute_ms, frame))
        if minute_ms < self._until_ms:
            return []
        waiting, self._waiting = self._waiting, None
        reference = [frame for _, frame in waiting[:-1]] or [frame]
        self._learn(reference)
        return [self._judge(*of_minute) for of_minute in waiting]

    def _learn(self, frames: Sequence[Frame]) -> None:
        columns: defaultdict[str, list[np.ndarray]] = defaultdict(list)
        for frame in frames:
            values = np.column_stack([_log_time(frame), frame.failed, frame.repeats])
            for number, name in enumerate(frame.operations):
                columns[name].append(values[frame.operation == number])
        for name, parts in columns.items():
            known = np.concatenate(parts)
            if len(known) >= SAMPLES_MIN:
                centre = float(np.median(known[:, 0]))
                scale = MAD_TO_SIGMA * float(np.median(np.abs(known[:, 0] - centre)))
                self._usual[name] = centre, max(scale, SCALE_MIN), float(known[:, 1].mean()), float(known[:, 2].max())

    def _oddness(self, frame: Frame) -> np.ndarray:
        """How odd each span is, as z; 0 of operations that are not known.  # (spans,)"""
        unknown = (np.nan, np.nan, 1.0, np.inf)
        centre, scale, failing, repeats = np.array([self._usual.get(name, unknown) for name in frame.operations])[
            frame.operation
        ].T
        z = np.nan_to_num((_log_time(frame) - centre) / scale)
        failure = np.where(frame.failed & (failing <= ERRORS_MAX), FAILURE_Z, 0.0)
        beyond = np.maximum(frame.repeats - repeats, 0.0)
        return np.maximum.reduce([z, failure, REPEAT_Z * beyond])

    def _judge(self, minute_ms: int, frame: Frame) -> MinuteResult:
        odd, owner = self._oddness(frame), owners(frame)
        edges = np.r_[_first(frame), frame.count]
        result = MinuteResult(minute_ms)
        for number, trace in enumerate(frame.traces):
            rows = np.arange(edges[number], edges[number + 1])
            score = float(odd[rows].max())
            culprit, kind = None, None
            if score > ODD_Z:
                culprit, kind = owner[rows[np.argmax(odd[rows])]], "anomaly"
            row = verdict(trace, score, ODD_Z, culprit)
            more = {"anomaly_kind": kind, "verdict_state": "ready", "culprit_operation": "", "model_version": "rule"}
            result.verdicts.append(row | more)
        affected = [[row["culprit_service_name"]] for row in result.verdicts if row["is_anomalous"]]
        result.incidents = incidents(result.verdicts, affected, [None] * len(affected))
        for incident in result.incidents:  # a rule over spans knows nothing of use
            incident |= {"excess_usage": {}, "unexplained_usage": {}, "changes": [], "recurrence": [0, 0]}
        return result


def owners(frame: Frame) -> list[str]:
    """Whose time each span's own time is: what a callee's span doesn't cover of an answered call is the callee's."""
    service = [name.split(SEPARATOR)[0] for name in frame.operations]
    owner = [service[operation] for operation in frame.operation]
    for row in np.flatnonzero(frame.has_parent):
        parent = frame.parent[row]
        callee = service[frame.operation[row]]
        if frame.is_answered[parent] and callee != service[frame.operation[parent]]:
            owner[parent] = callee
    return owner


def _log_time(frame: Frame) -> np.ndarray:
    return np.log(np.maximum(frame.own_ms, 0.0) + FLOOR_MS)


def _first(frame: Frame) -> np.ndarray:
    """Row of each trace's first span.  # (traces,)"""
    return np.cumsum(frame.spans_of_trace) - frame.spans_of_trace
