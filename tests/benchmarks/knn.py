"""A plain baseline: how far a trace is from its nearest neighbours of quieter days.

Unsupervised, after the k-nearest-neighbour outlier score of Ramaswamy et al. (SIGMOD 2000), with
the mean of the distances: Angiulli & Pizzuti (PKDD 2002). It hears no labels, no usage, and not
the call tree beyond own time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from simulator.evaluation.detection import verdict
from udfs.pure.assemble import SEPARATOR, unpack
from udfs.pure.frame import Frame
from udfs.pure.irregular import MAD_TO_SIGMA
from udfs.pure.verdicts import MinuteResult

NEIGHBOURS = 5
REFERENCES_MAX = 500
# Of the references, this share is flagged when each is held against the others.
FLAGGED_SHARE = 0.01
# A root operation with fewer references takes the threshold of all of them together.
OWN_THRESHOLD_MIN = 50

# Per service: log1p of the own time in ms, spans, spans that failed by themselves, error logs.
FEATURES = 4
# The least scale, as counts that never vary have a MAD of 0.
SCALE_MIN = 0.1


class References(NamedTuple):
    """The reference traces of one root operation."""

    row_of: dict[str, int]  # by trace id
    centre: np.ndarray  # (features,) median
    scale: np.ndarray  # (features,)
    vectors: np.ndarray  # (references, features) scaled

    def nearest(self, vector: np.ndarray, trace_id: str) -> tuple[float, np.ndarray]:
        """(mean distance to the nearest references, difference from their mean), in scales.

        vector: (features,) scaled. A trace is no neighbour of itself; without any other its
        distance is NaN.
        """
        distances = np.sqrt(np.square(self.vectors - vector).sum(axis=1))
        others = len(distances)
        if trace_id in self.row_of:
            distances[self.row_of[trace_id]] = np.inf
            others -= 1
        if not others:
            return np.nan, np.zeros_like(vector)
        rows = np.argsort(distances, kind="stable")[: min(NEIGHBOURS, others)]
        return float(distances[rows].mean()), vector - self.vectors[rows].mean(axis=0)


class NeighbourDetector:
    """Holds each trace against up to REFERENCES_MAX of its root operation, of the time before
    ``reference_until_ms``; the minutes of that time are judged when it is over."""

    def __init__(self, reference_until_ms: int) -> None:
        self._until_ms = reference_until_ms
        self._waiting: list[tuple[int, Frame]] | None = []  # None: the references are known
        self._services: list[str] = []
        self._references: dict[str, References] = {}
        self._thresholds: dict[str, float] = {}

    def step(
        self,
        minute_ms: int,
        traces: Sequence[bytes],
        usage: Mapping[tuple[str, str], Mapping[str, float]],
    ) -> list[MinuteResult]:
        """Verdicts of this minute, with the first one beyond the reference also of those before."""
        if not traces:
            return []
        frame = Frame(sorted(map(unpack, traces), key=lambda trace: trace.trace_id))
        if self._waiting is None:
            return [self._judge(minute_ms, frame)]
        if minute_ms < self._until_ms:
            self._waiting.append((minute_ms, frame))
            return []
        self._fit([frame for _, frame in self._waiting])
        waiting, self._waiting = [*self._waiting, (minute_ms, frame)], None
        return [self._judge(*of_minute) for of_minute in waiting]

    def _fit(self, frames: list[Frame]) -> None:
        self._services = sorted({name for frame in frames for name in _services(frame)})
        by_root: dict[str, list[tuple[str, np.ndarray]]] = defaultdict(list)
        for frame in frames:
            for trace, root, vector in zip(frame.traces, _roots(frame), self._vectors(frame)):
                by_root[root].append((trace.trace_id, vector))
        scores = {}
        for root, of_root in by_root.items():
            # As many as are wanted, evenly over the time.
            rows = np.unique(np.linspace(0, len(of_root) - 1, REFERENCES_MAX).round().astype(int))
            ids, vectors = zip(*(of_root[row] for row in rows))
            centre = np.median(vectors, axis=0)
            scale = np.maximum(MAD_TO_SIGMA * np.median(np.abs(vectors - centre), axis=0), SCALE_MIN)
            scaled = (np.array(vectors) - centre) / scale
            references = References({name: i for i, name in enumerate(ids)}, centre, scale, scaled)
            self._references[root] = references
            scores[root] = np.array([references.nearest(v, i)[0] for v, i in zip(scaled, ids)])
        pooled = _threshold(np.concatenate([*scores.values(), []]))
        self._thresholds = {
            root: _threshold(own) if len(own) >= OWN_THRESHOLD_MIN else pooled for root, own in scores.items()
        }

    def _vectors(self, frame: Frame) -> np.ndarray:
        """Features of each trace; services that the references don't know are left out.

        Shape (traces, services x FEATURES).
        """
        place = {name: i for i, name in enumerate(self._services)}
        service = np.array([place.get(name, -1) for name in _services(frame)])[frame.operation]
        known = service >= 0
        size = len(frame.traces) * len(self._services)
        cell = (frame.trace * len(self._services) + service)[known]
        sums = [
            np.bincount(cell, np.asarray(values, float)[known], minlength=size)
            for values in (frame.own_ms, np.ones(frame.count), frame.failed, frame.error_logs)
        ]
        sums[0] = np.log1p(np.maximum(sums[0], 0.0))
        return np.column_stack(sums).reshape(len(frame.traces), -1)

    def _judge(self, minute_ms: int, frame: Frame) -> MinuteResult:
        result = MinuteResult(minute_ms)
        for trace, root, vector in zip(frame.traces, _roots(frame), self._vectors(frame)):
            score, threshold, culprit = 0.0, np.inf, None
            if references := self._references.get(root):
                threshold = self._thresholds[root]
                scaled = (vector - references.centre) / references.scale
                score, difference = references.nearest(scaled, trace.trace_id)
                if score > threshold:
                    by_service = np.square(difference).reshape(-1, FEATURES).sum(axis=1)
                    culprit = self._services[int(np.argmax(by_service))]
            result.verdicts.append(verdict(trace, score, threshold, culprit))
        return result


def _services(frame: Frame) -> list[str]:
    """The service of each operation of the frame's vocabulary."""
    return [name.split(SEPARATOR)[0] for name in frame.operations]


def _roots(frame: Frame) -> list[str]:
    """The root operation of each trace."""
    return [frame.operations[i] for i in frame.operation[frame.root]]


def _threshold(scores: np.ndarray) -> float:
    """What FLAGGED_SHARE of the scores exceed; no score does where there are none."""
    known = scores[~np.isnan(scores)]
    return float(np.quantile(known, 1 - FLAGGED_SHARE)) if len(known) else np.inf
