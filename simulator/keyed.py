"""Counter-based randomness: every draw is a hash of what it is for, never of what came before.

A draw is keyed by (seed, request, span path, attempt, purpose). So a fault that repeats a call, or
leaves one out, shifts no other draw, and a request without the fault is the same request: what the
counterfactual truth of evaluation.md rests on.

Source: splitmix64, S. Vigna, after Steele, Lea, Flood: Fast splittable pseudorandom number
generators (2014).
"""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB

_TO_UNIT = 2.0**-53
_HALF_TO_UNIT = 2.0**-32


def mix(value: int) -> int:
    """splitmix64 of one 64-bit integer."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def mix_array(values: np.ndarray) -> np.ndarray:
    """splitmix64 of each element of a uint64 array; the same numbers as ``mix``."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MIX_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MIX_2)
    return values ^ (values >> np.uint64(31))


def key_of(*parts: int | str) -> int:
    """A 64-bit key of integers and names, the same in every process."""
    key = 0
    for part in parts:
        if isinstance(part, str):
            part = int.from_bytes(blake2b(part.encode(), digest_size=8).digest(), "big")
        key = mix(key ^ mix(part & _MASK))
    return key


def unit(hashed: int) -> float:
    """A hash as a number in [0, 1)."""
    return (hashed >> 11) * _TO_UNIT


def unit_array(hashed: np.ndarray) -> np.ndarray:
    """Hashes as numbers in [0, 1)."""
    return (hashed >> np.uint64(11)).astype(np.float64) * _TO_UNIT


def normal(hashed: int) -> float:
    """A hash as a draw from the standard normal distribution (Box-Muller on its two halves)."""
    radius = math.sqrt(-2.0 * math.log(((hashed >> 32) + 0.5) * _HALF_TO_UNIT))
    return radius * math.cos(2.0 * math.pi * (hashed & 0xFFFFFFFF) * _HALF_TO_UNIT)


def normal_array(hashed: np.ndarray) -> np.ndarray:
    """Hashes as draws from the standard normal distribution."""
    high = (hashed >> np.uint64(32)).astype(np.float64)
    low = (hashed & np.uint64(0xFFFFFFFF)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((high + 0.5) * _HALF_TO_UNIT))
    return radius * np.cos(2.0 * math.pi * low * _HALF_TO_UNIT)
