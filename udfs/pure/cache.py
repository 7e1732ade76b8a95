"""Caches whose size in memory is bounded, whatever the input holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", str, bytes, tuple[str, ...], tuple[bytes, Any])
Value = TypeVar("Value")


def characters(texts: tuple[str, ...]) -> int:
    """Of all texts together: the ``size`` of a key that is several."""
    return sum(map(len, texts))


def cached(
    entries: int, longest: int, size: Callable[[Any], int] = len
) -> Callable[[Callable[[Key], Value]], Callable[[Key], Value]]:
    """As ``lru_cache``, of a function of one key: at most so many entries, and none of a key whose ``size`` is more
    than ``longest``, which is computed each time."""

    def decorate(function: Callable[[Key], Value]) -> Callable[[Key], Value]:
        remembered = lru_cache(maxsize=entries)(function)

        @wraps(function)
        def call(key: Key) -> Value:
            return remembered(key) if size(key) <= longest else function(key)

        call.cache_info = remembered.cache_info  # type: ignore[attr-defined]
        return call

    return decorate


class Bounded(Generic[Value]):
    """What was computed last, by key, up to so many bytes in all: the oldest leave first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.size_bytes = 0
        self._held: dict[bytes, tuple[Value, int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, key: bytes) -> Value | None:
        """The value of ``key``, which is not held from now on; None where none is."""
        value, size = self._held.pop(key, (None, 0))
        self.size_bytes -= size
        return value

    def put(self, key: bytes, value: Value, size: int) -> None:
        """Hold a value of so many bytes; one that alone is larger than all may be isn't held."""
        self.take(key)
        if size > self._most_bytes:
            return
        self._held[key] = (value, size)
        self.size_bytes += size
        while self.size_bytes > self._most_bytes:
            self.take(next(iter(self._held)))
