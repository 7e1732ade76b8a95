"""Who an operation usually calls: the children that its spans have, told by the service that answered.

A dead callee leaves no span, and where callers emit no client spans nothing else names it: the caller is slow, or errs,
and a child that it usually has is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from udfs.pure.baseline import grown
from udfs.pure.pairs import Pairs

# A child is expected that so many of the operation's calls have.
EXPECTED = 0.8


class Children:
    """State: per (operation, child's service) how many spans had such a child, faded as the operation's calls are."""

    def __init__(self) -> None:
        self._pairs = Pairs()
        self._count = np.zeros(0)

    def __len__(self) -> int:
        return len(self._pairs)

    def learn(
        self, minute_ms: int, operation: Sequence[str], service: Sequence[str], weights: np.ndarray, fade: float
    ) -> None:
        """Take in a minute: (operation, service of a child) pairs, each once, and the weight of their spans."""
        places = self._pairs.see(operation, service, minute_ms)
        self._count = grown(self._count * fade, len(self._pairs))
        self._count[places] += weights

    def missing(self, operation: str, calls: float, present: set[str]) -> str:
        """The service that the operation's calls most often have a child of, of those that are not ``present``.

        Empty where none is expected. calls: of the operation, as learnt.
        """
        best, most = "", EXPECTED * calls
        for place in self._pairs.of(operation):
            service = self._pairs.service(place)
            if service not in present and self._count[place] > most:
                best, most = service, self._count[place]
        return best

    def forget(self, before_ms: int, most: int) -> None:
        """Forget what was last seen before a time, and of more than ``most`` the oldest."""
        self._count = self._count[self._pairs.forget(before_ms, most)]
