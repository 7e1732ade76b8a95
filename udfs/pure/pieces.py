"""Pieces of work of a service: its entry operations by slot, and last the calls that it makes."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.baseline import Vocabulary
from udfs.pure.frame import Frame
from udfs.pure.reading import Reading
from udfs.pure.usage_watch import FEATURES, OPERATIONS
from udfs.pure.workload import Work, work

# Of a service; a piece's number is that of its service times PIECES, and its place there.
PIECES = FEATURES - 2


class Pieces:
    """State: the slot of each entry operation among those of its service."""

    def __init__(self) -> None:
        self._slot_of: dict[str, int] = {}
        self._slots_taken: Counter[str] = Counter()

    def calls_of_pods(self, frame: Frame, reading: Reading) -> dict[str, np.ndarray]:
        """Calls that each pod of a minute served, by slot, and last those that it made, with those that samplers left
        out.  # (PIECES,) each"""
        calls: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(PIECES))
        entries = np.flatnonzero(reading.is_entry)
        weight = frame.weight[frame.trace]
        pairs, index = np.unique(
            frame.pod[entries] * len(frame.operations) + frame.operation[entries],
            return_inverse=True,
        )
        counts = np.bincount(index, weight[entries], minlength=len(pairs))
        for pair, count in zip(pairs.tolist(), counts.tolist()):
            pod, operation = divmod(pair, len(frame.operations))
            calls[frame.pods[pod]][self._slot(frame.operations[operation])] += count
        made = np.bincount(frame.pod[frame.is_call], weight[frame.is_call], minlength=len(frame.pods))
        for pod in np.flatnonzero(made).tolist():
            calls[frame.pods[pod]][-1] = made[pod]
        return calls

    def noise_of_pods(self, frame: Frame, reading: Reading) -> dict[str, np.ndarray]:
        """How unsure these calls are of each pod, where samplers left traces out: the covariance of their estimates.
        # (PIECES, PIECES) each

        A trace that was kept with chance p stands for w = 1 / p; of n calls the estimate w * n has the variance
        n^2 * (w - 1) for each that there was, and w times as much for each that was kept (Horvitz and Thompson 1952).
        """
        thin = frame.weight > 1
        if not thin.any():
            return {}
        entries = np.flatnonzero(reading.is_entry & thin[frame.trace])
        made = np.flatnonzero(frame.is_call & thin[frame.trace])
        slots = np.zeros(len(frame.operations), np.int64)
        for operation in np.unique(frame.operation[entries]).tolist():
            slots[operation] = self._slot(frame.operations[operation])
        rows = np.r_[entries, made]
        slot = np.r_[slots[frame.operation[entries]], np.full(len(made), PIECES - 1)]
        # Calls of a trace stand or fall together.
        pairs, index = np.unique(frame.pod[rows] * len(frame.traces) + frame.trace[rows], return_inverse=True)
        calls = np.zeros((len(pairs), PIECES))
        np.add.at(calls, (index, slot), 1.0)
        pod, trace = np.divmod(pairs, len(frame.traces))
        weight = frame.weight[trace]
        each = (weight * (weight - 1))[:, None, None] * calls[:, :, None] * calls[:, None, :]
        first = np.flatnonzero(np.r_[True, pod[1:] != pod[:-1]])
        return dict(zip([frame.pods[at] for at in pod[first].tolist()], np.add.reduceat(each, first)))

    def of_traces(self, frame: Frame, reading: Reading, services: int) -> Work:
        """Pieces of work of the minute's traces. services: how many there are."""
        entries, calls = np.flatnonzero(reading.is_entry), np.flatnonzero(frame.is_call)
        slots = np.zeros(len(frame.operations), np.int64)
        for operation in np.unique(frame.operation[entries]).tolist():
            slots[operation] = self._slot(frame.operations[operation])
        return work(
            frame.trace[np.r_[entries, calls]],
            np.r_[
                reading.service[entries] * PIECES + slots[frame.operation[entries]],
                reading.service[calls] * PIECES + PIECES - 1,
            ],
            services * PIECES,
        )

    def _slot(self, operation: str) -> int:
        """The place of an entry operation among the first OPERATIONS of its service, or beyond."""
        if operation not in self._slot_of:
            service = operation.split(SEPARATOR)[0]
            self._slot_of[operation] = min(self._slots_taken[service], OPERATIONS)
            self._slots_taken[service] += 1
        return self._slot_of[operation]

    def forget(self, operations: Vocabulary, services: Vocabulary) -> None:
        """Forget all that is not of these any more."""
        self._slot_of = {name: slot for name, slot in self._slot_of.items() if operations.get(name) >= 0}
        self._slots_taken = Counter({name: n for name, n in self._slots_taken.items() if services.get(name) >= 0})
