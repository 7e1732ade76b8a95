"""A rule of a few lines: a request is slow where some service took longer than in most requests of the last hour.

The time of an answered call that its callee's span doesn't cover is given to the callee, all other own time to the
span's own service. A trace is flagged where, for one of its operations at least, this is above the QUANTILE of the last
hour's, and by how many times decides the culprit and the score. Errors, calls and usage aren't looked at.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

import numpy as np

from tests.benchmarks.knn import verdict
from udfs.pure.assemble import SEPARATOR, unpack
from udfs.pure.detect import MinuteResult
from udfs.pure.frame import Frame
from udfs.pure.windows import HOUR_MS

QUANTILE = 0.95
# What is that much above the quantile is flagged: the quantile alone would flag one of twenty by itself.
FACTOR = 2.0
SAMPLES_MIN = 20
# Shorter times differ by nothing that matters.
FLOOR_MS = 1.0


class GapDetector:
    """Knows of each operation what it took in the last hour."""

    def __init__(self) -> None:
        self._past: dict[str, deque[tuple[int, np.ndarray]]] = defaultdict(deque)

    def step(
        self,
        minute_ms: int,
        traces: Sequence[bytes],
        usage: Mapping[tuple[str, str], Mapping[str, float]],
    ) -> list[MinuteResult]:
        """The verdicts of a minute, which counts as past from the next one on."""
        if not traces:
            return []
        frame = Frame(sorted(map(unpack, traces), key=lambda trace: trace.trace_id))
        owner = self._owners(frame)
        limit = np.array([self._limit(name, minute_ms) for name in frame.operations])[frame.operation]
        ratio = (frame.own_ms + FLOOR_MS) / (limit + FLOOR_MS)
        result = MinuteResult(minute_ms)
        for number, trace in enumerate(frame.traces):
            rows = np.flatnonzero(frame.trace == number)
            row = rows[np.argmax(ratio[rows])]
            score = float(ratio[row])
            result.verdicts.append(verdict(trace, score, FACTOR, owner[row] if score > FACTOR else None))
        for place, name in enumerate(frame.operations):
            self._past[name].append((minute_ms, frame.own_ms[frame.operation == place]))
        return [result]

    def _limit(self, operation: str, minute_ms: int) -> float:
        """Infinite while too little is known."""
        past = self._past[operation]
        while past and past[0][0] < minute_ms - HOUR_MS:
            past.popleft()
        known = np.concatenate([times for _, times in past]) if past else np.empty(0)
        return float(np.quantile(known, QUANTILE)) if len(known) >= SAMPLES_MIN else np.inf

    @staticmethod
    def _owners(frame: Frame) -> list[str]:
        """Whose time each span's own time is."""
        service = [name.split(SEPARATOR)[0] for name in frame.operations]
        owner = [service[operation] for operation in frame.operation]
        for row in np.flatnonzero(frame.has_parent):
            parent = frame.parent[row]
            callee = service[frame.operation[row]]
            if frame.is_answered[parent] and callee != service[frame.operation[parent]]:
                owner[parent] = callee
        return owner
