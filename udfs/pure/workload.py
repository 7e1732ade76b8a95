"""What usual traces ask of each service: the expectation that an anomaly's excess usage is measured against.

Grain: a kind of trace (its root operation) and a piece of work (an entry operation of a service, or the calls that
a service makes). A trace's usual shape is how often its kind does each piece, learnt from traces that seem well.
What the anomalous traces of an incident do beyond it (a retry, a lost cache), or less (a call tree cut short), is
their excess work; what a piece of work takes of cpu, memory, io and network is usage_watch's to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np

# A kind's shape forgets beyond so many traces; and is not known from fewer than these.
MEMORY_TRACES = 500.0
TRACES_MIN = 5.0
# A trace teaches if it is sound with at least this chance.
SOUND_MIN = 0.5


class Work(NamedTuple):
    """Pieces of work of a minute's traces, each (trace, piece) once."""

    trace: np.ndarray  # (n,) place of the trace
    piece: np.ndarray  # (n,) number of the piece of work
    times: np.ndarray  # (n,) how often the trace does it


def work(trace: np.ndarray, piece: np.ndarray, pieces: int) -> Work:
    """Count how often each trace does each piece, from one (trace, piece) an occurrence."""
    keys, counts = np.unique(trace * pieces + piece, return_counts=True)
    return Work(*np.divmod(keys, pieces), counts)


class Workload:
    """State: by root operation, traces seen and how often they did each piece of work."""

    def __init__(self) -> None:
        self._traces: dict[str, float] = {}
        self._pieces: dict[str, dict[int, float]] = {}
        self._last_seen: dict[str, int] = {}  # minute in ms

    def excess(self, roots: Sequence[str], done: Work, chosen: np.ndarray) -> dict[int, float]:
        """What the traces at ``chosen`` did beyond, or short of, the usual of their kinds, by piece of work.

        roots: (traces,) root operation of each trace. A kind of trace that isn't known yet says nothing.
        """
        known = [at for at in chosen.tolist() if self._traces.get(roots[at], 0.0) >= TRACES_MIN]
        kinds = Counter(roots[at] for at in known)
        of = np.isin(done.trace, known)
        pieces, index = np.unique(done.piece[of], return_inverse=True)
        counts = np.bincount(index, done.times[of], minlength=len(pieces))
        total = dict(zip(pieces.tolist(), counts.tolist()))
        for root, number in sorted(kinds.items()):
            each = number / self._traces[root]
            for piece, usual in self._pieces[root].items():
                total[piece] = total.get(piece, 0.0) - usual * each
        return dict(sorted(total.items()))

    def learn(self, minute_ms: int, roots: Sequence[str], done: Work, sound: np.ndarray) -> None:
        """Take in a minute's traces; sound: (traces,) the chance that nothing ails each of them."""
        weights = np.where(sound >= SOUND_MIN, sound, 0.0)
        for at, root in enumerate(roots):
            self._last_seen[root] = minute_ms
            if weights[at]:
                self._traces[root] = self._traces.get(root, 0.0) + weights[at]
        names = {root: number for number, root in enumerate(sorted(set(roots)))}
        kind = np.array([names[root] for root in roots])
        size = int(done.piece.max()) + 1
        keys, index = np.unique(kind[done.trace] * size + done.piece, return_inverse=True)
        sums = np.bincount(index, done.times * weights[done.trace], minlength=len(keys))
        kinds, pieces = np.divmod(keys, size)
        by_number = list(names)
        for number, piece, counted in zip(kinds.tolist(), pieces.tolist(), sums.tolist()):
            if counted:
                shape = self._pieces.setdefault(by_number[number], {})
                shape[piece] = shape.get(piece, 0.0) + counted
        for root in names:
            traces = self._traces.get(root, 0.0)
            if traces > MEMORY_TRACES:
                kept = MEMORY_TRACES / traces
                self._traces[root] = MEMORY_TRACES
                shape = self._pieces.get(root, {})
                for piece in shape:
                    shape[piece] *= kept

    def forget(self, before_ms: int) -> None:
        """Forget kinds of traces that were last seen before a time."""
        for root in [root for root, seen in self._last_seen.items() if seen < before_ms]:
            del self._last_seen[root]
            self._traces.pop(root, None)
            self._pieces.pop(root, None)

    def drop(self, pieces: Set[int]) -> None:
        """Forget these pieces of work: their numbers are others' from now on."""
        for shape in self._pieces.values():
            for piece in pieces & shape.keys():
                del shape[piece]


def usage_of(pieces: Mapping[int, float], costs: np.ndarray) -> np.ndarray:
    """Usage that pieces of work take.  # (services, dimensions)

    costs: (services, dimensions, pieces of a service) of one of each.
    """
    services, dimensions, width = costs.shape
    usage = np.zeros((services, dimensions))
    for piece, count in pieces.items():
        service, slot = divmod(piece, width)
        usage[service] += count * costs[service, :, slot]
    return usage
