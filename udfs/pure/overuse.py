"""The chance of over-use over time: a filter of two states, and its smoother.

Where a minute has no evidence (NaN) over-use soon ends: no data, no belief.
"""

from __future__ import annotations

import numpy as np

# However sure over-use is, it is in no trace in particular: what spans show goes first.
CHANCE_MAX = 0.99
# Chances per minute that over-use begins and ends.
BEGINS, ENDS = 1 / 3000, 1 / 60
# ... and that it ends in a minute without data: no data, no belief.
UNHEARD_ENDS = 0.5


def _ends(told: np.ndarray) -> np.ndarray:
    """The chance that over-use ended before a minute; told: its evidence, NaN = none."""
    return np.where(np.isnan(told), UNHEARD_ENDS, ENDS)


def passed(chance: np.ndarray, told: np.ndarray) -> np.ndarray:
    """The chance a minute later, before its evidence counts."""
    return chance * (1 - _ends(told)) + (1 - chance) * BEGINS


def weigh(chance: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """The chance after evidence, a log likelihood ratio."""
    likelihood = chance * np.exp(evidence)
    return likelihood / (likelihood + 1 - chance)


def with_future(chance: np.ndarray, future: np.ndarray, told: np.ndarray) -> np.ndarray:
    """The chance, by what comes later as well: it may withdraw, and confirm where the minute itself speaks for it.

    future: (..., 2) of being well, of over-use
    """
    ill = chance * future[..., 1]
    later = ill / (ill + (1 - chance) * future[..., 0])
    return np.where((later < chance) | (np.nan_to_num(told) > 0), later, chance)


def passed_back(future: np.ndarray, told: np.ndarray) -> np.ndarray:
    """What a minute and all after it say of the minute before."""
    ends = _ends(told)
    well, ill = future[..., 0], future[..., 1] * np.exp(np.where(np.isnan(told), 0.0, told))
    before = np.stack([well * (1 - BEGINS) + ill * BEGINS, well * ends + ill * (1 - ends)], axis=-1)
    return before / np.maximum(before[..., :1], before[..., 1:])


def logit(chance: np.ndarray) -> np.ndarray:
    chance = np.clip(chance, 1e-6, CHANCE_MAX)
    return np.log(chance / (1 - chance))
