"""Who an operation usually calls: the children that its spans have, told by the service that answered.

A dead callee leaves no span, and where callers emit no client spans nothing else names it: the caller is slow, or errs,
and a child that it usually has is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.baseline import Vocabulary, grown, seen_lately

# A child is expected that so many of the operation's calls have.
EXPECTED = 0.8


class Children:
    """State: per (operation, child's service) how many spans had such a child, faded as the operation's calls are."""

    def __init__(self) -> None:
        self._pairs = Vocabulary()  # operation SEPARATOR SEPARATOR service
        self._count = np.zeros(0)
        self._of: dict[str, list[int]] = {}  # operation -> places of its pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def learn(
        self, minute_ms: int, operation: Sequence[str], service: Sequence[str], weights: np.ndarray, fade: float
    ) -> None:
        """Take in a minute: (operation, service of a child) pairs, each once, and the weight of their spans."""
        names = [f"{o}{SEPARATOR}{SEPARATOR}{s}" for o, s in zip(operation, service)]
        before = len(self._pairs)
        self._pairs.see(names, minute_ms)
        self._count = grown(self._count * fade, len(self._pairs))
        self._index(before)
        self._count[[self._pairs.get(name) for name in names]] += weights

    def missing(self, operation: str, calls: float, present: set[str]) -> str:
        """The service that the operation's calls most often have a child of, of those that are not ``present``.

        Empty where none is expected. calls: of the operation, as learnt.
        """
        best, most = "", EXPECTED * calls
        for place in self._of.get(operation, ()):
            service = self._pairs.names[place].rsplit(SEPARATOR, 1)[1]
            if service not in present and self._count[place] > most:
                best, most = service, self._count[place]
        return best

    def forget(self, before_ms: int, most: int) -> None:
        """Forget what was last seen before a time, and of more than ``most`` the oldest."""
        kept = seen_lately(self._pairs.last_seen, before_ms, most)
        if len(kept) < len(self._pairs):
            self._pairs.keep(kept)
            self._count = self._count[kept]
            self._of = {}
            self._index(0)

    def _index(self, first: int) -> None:
        for place in range(first, len(self._pairs)):
            operation = self._pairs.names[place].rsplit(SEPARATOR, 2)[0]
            self._of.setdefault(operation, []).append(place)
