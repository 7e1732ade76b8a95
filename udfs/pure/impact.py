"""What the detector knows of incidents before they are judged: what usual traces ask of each service, and how often
each incident came."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from udfs.pure.baseline import Vocabulary
from udfs.pure.pieces import PIECES
from udfs.pure.recurrence import Recurrence, Recurring
from udfs.pure.verdicts import most
from udfs.pure.workload import Work, Workload


class Impact:
    """State: what usual traces ask of each service, and how often each incident came."""

    def __init__(self) -> None:
        self._workload = Workload()
        self._recurrence = Recurrence()

    def observe(self, minute_ms: int, found: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
        """A minute has traces.

        found: (culprit, kind) of its anomalous ones, as far as the detector knows without asking a model.
        returns: the incidents that it counts.
        """
        self._recurrence.observe(minute_ms)
        kinds: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for culprit, kind in found:
            kinds[culprit][kind] += 1
        counted = frozenset((culprit, most(counts)[0]) for culprit, counts in kinds.items())
        for culprit, kind in sorted(counted):
            self._recurrence.count(minute_ms, culprit, kind)
        return counted

    def on(self, time_ms: int, culprit: str) -> dict[str, int]:
        """Minutes by kind in which a culprit was seen on the day of a time."""
        return self._recurrence.on(time_ms, culprit)

    def recurring(self) -> Recurring:
        """How often each incident came by now."""
        return self._recurrence.by_now()

    def learn(self, minute_ms: int, roots: list[str], work: Work, sound: np.ndarray, weight: np.ndarray) -> None:
        """Take in what the traces of a minute ask.

        work: by number of the service. sound: (traces,) the chance that nothing ails each of them.
        weight: (traces,) how many each stands for.
        """
        self._workload.learn(minute_ms, roots, work, sound, weight)

    def shapes(self, roots: Iterable[str], services: Vocabulary) -> dict[str, dict[tuple[str, int], float]]:
        """How often a usual trace of each of these kinds does each (service, slot)."""
        return {
            root: {(services.names[piece // PIECES], piece % PIECES): times for piece, times in shape.items()}
            for root, shape in self._workload.shapes(roots).items()
        }

    def forget(self, before_ms: int, gone: np.ndarray) -> None:
        """Forget what was last seen before a time, and the work of the services at ``gone``."""
        self._workload.forget(before_ms)
        self._workload.drop({int(service) * PIECES + place for service in gone for place in range(PIECES)})
