"""A rule of a few lines: a request is slow where some service took longer than in the last hour.

The time of an answered call that its callee's span doesn't cover is given to the callee, all other own time to the
span's own service. A trace's score is the greatest ratio of such a time to the median of its operation in the last
hour; it is flagged above the QUANTILE of the scores of that hour. So a twentieth is flagged in the long run, whatever
happens: the rule ranks, it doesn't know when all is well. Errors, calls and usage aren't looked at.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

import numpy as np

from simulator.evaluation.detection import verdict
from simulator.evaluation.rule import owners
from udfs.pure.assemble import unpack
from udfs.pure.frame import Frame
from udfs.pure.verdicts import MinuteResult
from udfs.pure.windows import HOUR_MS

QUANTILE = 0.95
SAMPLES_MIN = 20
# Shorter times differ by nothing that matters.
FLOOR_MS = 1.0


class GapDetector:
    """Knows of each operation what it took in the last hour."""

    def __init__(self) -> None:
        self._past: dict[str, deque[tuple[int, np.ndarray]]] = defaultdict(deque)
        self._scores: deque[tuple[int, np.ndarray]] = deque()

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
        owner = owners(frame)
        usual = np.array([_quantile(self._past[name], 0.5, minute_ms) for name in frame.operations])[frame.operation]
        ratio = (frame.own_ms + FLOOR_MS) / (usual + FLOOR_MS)
        threshold = _quantile(self._scores, QUANTILE, minute_ms)
        result = MinuteResult(minute_ms)
        scores = []
        for number, trace in enumerate(frame.traces):
            rows = np.flatnonzero(frame.trace == number)
            row = rows[np.argmax(ratio[rows])]
            scores.append(float(ratio[row]))
            culprit = owner[row] if scores[-1] > threshold else None
            result.verdicts.append(verdict(trace, scores[-1], threshold, culprit))
        for place, name in enumerate(frame.operations):
            self._past[name].append((minute_ms, frame.own_ms[frame.operation == place]))
        self._scores.append((minute_ms, np.array(scores)))
        return [result]


def _quantile(past: deque[tuple[int, np.ndarray]], share: float, minute_ms: int) -> float:
    """Of the last hour, what is older being forgotten; infinite while too little is known."""
    while past and past[0][0] < minute_ms - HOUR_MS:
        past.popleft()
    known = np.concatenate([values for _, values in past]) if past else np.empty(0)
    return float(np.quantile(known, share)) if len(known) >= SAMPLES_MIN else np.inf
