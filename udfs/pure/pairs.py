"""Pairs of an operation and a service, found by the operation: who calls it, or whom it calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.baseline import Vocabulary, seen_lately


class Pairs:
    """State: the place of each pair, and the places of each operation's pairs."""

    def __init__(self) -> None:
        self._names = Vocabulary()  # operation SEPARATOR SEPARATOR service
        self._of: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def see(self, operation: Sequence[str], service: Sequence[str], minute_ms: int) -> list[int]:
        """Enter the pairs of a minute; their places."""
        before = len(self._names)
        self._names.see([_name(*pair) for pair in zip(operation, service, strict=True)], minute_ms)
        self._index(before)
        return self.get(operation, service)

    def get(self, operation: Sequence[str], service: Sequence[str]) -> list[int]:
        """The place of each pair, -1 = not known."""
        return [self._names.get(_name(*pair)) for pair in zip(operation, service, strict=True)]

    def of(self, operation: str) -> list[int]:
        """The places of the operation's pairs."""
        return self._of.get(operation, [])

    def service(self, place: int) -> str:
        """Of the pair at ``place``."""
        return self._names.names[place].rsplit(SEPARATOR, 1)[1]

    def forget(self, before_ms: int, most: int) -> np.ndarray:
        """Forget what was last seen before a time, and of more than ``most`` the oldest; the places that are kept,
        numbered anew in that order."""
        kept = seen_lately(self._names.last_seen, before_ms, most)
        if len(kept) < len(self._names):
            self._names.keep(kept)
            self._of = {}
            self._index(0)
        return kept

    def _index(self, first: int) -> None:
        for place in range(first, len(self._names)):
            self._of.setdefault(self._names.names[place].rsplit(SEPARATOR, 2)[0], []).append(place)


def _name(operation: str, service: str) -> str:
    return f"{operation}{SEPARATOR}{SEPARATOR}{service}"
