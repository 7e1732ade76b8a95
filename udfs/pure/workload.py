"""What usual traces ask of each service: the expectation that an anomaly's excess usage is measured against.

Grain: a kind of trace (its root operation) and a piece of work (an entry operation of a service, or the calls that
a service makes). A trace's usual shape is how often its kind does each piece, learnt from traces that seem well.
What the anomalous traces of an incident do beyond it (a retry, a lost cache), or less (a call tree cut short), is
their excess work; what a piece of work takes of cpu, memory, io and network is usage_watch's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

import numpy as np

# What a piece of work is called: by its number, or by its service and slot.
Piece = TypeVar("Piece", int, tuple[str, int])

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

    def shapes(self, roots: Iterable[str]) -> dict[str, dict[int, float]]:
        """How often a usual trace of each of these kinds, as far as they are known, does each piece of work."""
        known = {root: self._traces.get(root, 0.0) for root in roots}
        return {
            root: {piece: times / traces for piece, times in self._pieces.get(root, {}).items()}
            for root, traces in known.items()
            if traces >= TRACES_MIN
        }

    def learn(self, minute_ms: int, roots: Sequence[str], done: Work, sound: np.ndarray, weight: np.ndarray) -> None:
        """Take in a minute's traces.

        sound: (traces,) the chance that nothing ails each of them. weight: (traces,) how many each stands for: a minute
        teaches what all those would, but counts for as many as came.
        """
        weights = np.where(sound >= SOUND_MIN, sound, 0.0)
        names = {root: number for number, root in enumerate(sorted(set(roots)))}
        kind = np.array([names[root] for root in roots])
        came, meant = np.bincount(kind, weights), np.bincount(kind, weights * weight)
        weights = weights * weight * np.divide(came, meant, out=np.ones(len(names)), where=meant > 0)[kind]
        for at, root in enumerate(roots):
            self._last_seen[root] = minute_ms
            if weights[at]:
                self._traces[root] = self._traces.get(root, 0.0) + weights[at]
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


def excess(
    shapes: Mapping[str, Mapping[Piece, float]],
    roots: Sequence[str],
    done: Work,
    weight: np.ndarray,
    chosen: np.ndarray,
    named: Callable[[int], Piece],
) -> dict[Piece, float]:
    """What the traces at ``chosen``, and those that they stand for, did beyond, or short of, the usual of their kinds,
    by piece of work.

    shapes: of the kinds that are known, see Workload.shapes; the others say nothing. roots: (traces,) root operation of
    each trace. weight: (traces,) how many each stands for. named: what the shapes call a piece of ``done``.
    """
    known = [at for at in chosen.tolist() if roots[at] in shapes]
    of = np.isin(done.trace, known)
    total: dict[Piece, float] = {}
    times_of_all = done.times[of] * weight[done.trace[of]]
    for piece, times in zip(map(named, done.piece[of].tolist()), times_of_all.tolist()):
        total[piece] = total.get(piece, 0.0) + times
    numbers: dict[str, float] = {}
    for at in known:
        numbers[roots[at]] = numbers.get(roots[at], 0.0) + float(weight[at])
    for root, number in sorted(numbers.items()):
        for piece, usual in shapes[root].items():
            total[piece] = total.get(piece, 0.0) - usual * number
    return dict(sorted(total.items()))


def usage_of(pieces: Mapping[tuple[str, int], float], costs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Usage that pieces of work take: service -> (dimensions,).

    pieces: (service, slot) -> how many. costs: service -> (dimensions, slots) what one of each takes.
    """
    usage: dict[str, np.ndarray] = {}
    for (service, slot), count in pieces.items():
        if service in costs:
            usage[service] = usage.get(service, 0.0) + count * costs[service][:, slot]
    return usage
