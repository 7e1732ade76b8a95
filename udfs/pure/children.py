"""Who an operation usually calls: the children that its spans have.

A dead callee leaves no span, and where callers emit no client spans nothing else names it: the caller is slow, or errs,
and a child that it usually has is missing. And a caller that is well may leave out a call that it always made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from udfs.pure.baseline import grown
from udfs.pure.pairs import Pairs
from udfs.pure.reading import CALLS_MIN

# A child is expected that so many of the operation's calls have.
EXPECTED = 0.8
# How often one that all had until now is thought to be missing, as if so many spans had told it.
LACKING_RATE, LACKING_SPANS = 2e-3, 200.0


class Missing(NamedTuple):
    """A row for each child that a span lacks."""

    row: np.ndarray  # of the span
    child: np.ndarray  # number of the child's operation
    rate: np.ndarray  # how often spans of this operation lack it, or one that is lacked more rarely


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


class ChildOperations:
    """State: how many spans each operation had that were well, and how many of them had a child of each operation.

    Operations are numbers; both fade alike.
    """

    def __init__(self) -> None:
        self._spans = np.zeros(0)  # (operations,)
        self._pairs = np.zeros(0, np.int64)  # of an operation and a child's, ascending: see _pair
        self._count = np.zeros(0)  # (pairs,)

    def __len__(self) -> int:
        return len(self._pairs)

    def resize(self, operations: int) -> None:
        """Have rows for so many operations."""
        self._spans = grown(self._spans, operations)

    def parents(self, is_child: np.ndarray) -> np.ndarray:
        """The operations that have had children of these. is_child: (operations,) bool."""
        of, child = _unpaired(self._pairs)
        return np.unique(of[is_child[child]])

    def missing(self, rows: np.ndarray, operation: np.ndarray, has: np.ndarray, child: np.ndarray) -> Missing:
        """Children that spans lack, and how often such spans lack them.

        rows, operation: (spans,) ascending. has, child: (children,) a row of ``rows``, and the operation of a child.
        """
        of, expected = _unpaired(self._pairs)
        known = self._spans[of] >= CALLS_MIN
        lacking = np.maximum(self._spans[of] - self._count, 0.0) + LACKING_RATE * LACKING_SPANS
        rate = lacking / (self._spans[of] + LACKING_SPANS)
        known &= rate < 1 - EXPECTED
        of, expected, rate = of[known], expected[known], rate[known]
        order = np.lexsort((rate, of))
        of, expected, rate = of[order], expected[order], np.cumsum(rate[order])
        before = np.searchsorted(of, of)  # the first of the same operation
        rate = np.minimum(rate - np.r_[0.0, rate][before], 1.0)
        # Each span with each child that its operation is expected to have; ``of`` is ascending.
        first, last = np.searchsorted(of, operation), np.searchsorted(of, operation, "right")
        counts = last - first
        of_row = np.repeat(np.arange(len(rows)), counts)
        at = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        lacks = ~np.isin(_pair(rows[of_row], expected[at]), _pair(has, child))
        return Missing(rows[of_row[lacks]], expected[at[lacks]], rate[at[lacks]])

    def learn(
        self, operation: np.ndarray, weights: np.ndarray, of: np.ndarray, child: np.ndarray, having: np.ndarray,
        fade: float,
    ) -> None:  # fmt: skip
        """Take in a minute's spans that are well: of which operation, and the weight of each.

        of, child, having: (spans and children,) operations of a span and of a child that it has, each such pair of a
        span once, and the span's weight.
        """
        self._spans *= fade
        self._spans += np.bincount(operation, weights, minlength=len(self._spans))
        seen, index = np.unique(_pair(of, child), return_inverse=True)
        new = seen[~np.isin(seen, self._pairs)]
        places = np.searchsorted(self._pairs, new)
        self._pairs = np.insert(self._pairs, places, new)
        self._count = np.insert(self._count * fade, places, 0.0)
        self._count[np.searchsorted(self._pairs, seen)] += np.bincount(index, having, minlength=len(seen))

    def renew(self, operations: np.ndarray, most: float) -> None:
        """Let it be learnt quickly what these have: as if they had had so many spans at most."""
        factor = np.ones(len(self._spans))
        factor[operations] = most / np.maximum(self._spans[operations], most)
        self._spans *= factor
        self._count *= factor[_unpaired(self._pairs)[0]]

    def keep(self, kept: np.ndarray, most: int) -> None:
        """Keep the operations at ``kept``, numbered anew in that order, and at most so many pairs, the most usual."""
        number = np.full(len(self._spans), -1)
        number[kept] = np.arange(len(kept))
        of, child = _unpaired(self._pairs)
        share = self._count / np.maximum(self._spans[of], 1.0)
        of, child = number[of], number[child]
        chosen = np.flatnonzero((of >= 0) & (child >= 0))
        chosen = chosen[np.argsort(-share[chosen], kind="stable")[:most]]
        chosen = chosen[np.argsort(_pair(of, child)[chosen])]
        self._pairs, self._count, self._spans = _pair(of, child)[chosen], self._count[chosen], self._spans[kept]


def _pair(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one.astype(np.int64) << 32 | other


def _unpaired(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return pairs >> 32, pairs & 0xFFFFFFFF
