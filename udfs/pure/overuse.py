"""The chance of over-use over time: a filter, and its smoother.

A pod or a service uses what its calls explain, or more for each call that it serves (over-use, a fault of what it
does), or more by an amount that its calls have no part in (a level: a batch job, a backup, a sidecar). The last two are
told apart by minutes in which the calls are many or few; only the first is an anomaly of traces.

Where a minute has no evidence (NaN) either soon ends: no data, no belief.
"""

from __future__ import annotations

import numpy as np

# What calls take, times so much: over-use of this size; a level of its own is as much more as that is at the usual
# number of calls. What is nearer to 1 than to the least is what a deploy or another mix of requests explains.
FACTORS = np.array([1.6, 2.2, 3.0, 4.4])
# Each stands for those near it: their spread, as a share of the surplus.
NEAR = 0.2
# The last axis of chances and evidence: over-use and a level, of each size. Being well has what is left of the chance,
# and evidence 0.
STATES = 2 * len(FACTORS)
OVERUSE = slice(0, len(FACTORS))

# However sure over-use is, it is in no trace in particular: what spans show goes first.
CHANCE_MAX = 0.99
# Chances per minute that either begins, of each size, and ends.
BEGINS, ENDS = 1 / 3000 / len(FACTORS), 1 / 60
# ... and that it ends in a minute without data: no data, no belief.
UNHEARD_ENDS = 0.5


def _ends(told: np.ndarray) -> np.ndarray:
    """The chance that a state ended before a minute; told: its evidence, NaN = none."""
    return np.where(np.isnan(told), UNHEARD_ENDS, ENDS)


def passed(chance: np.ndarray, told: np.ndarray) -> np.ndarray:
    """The chances a minute later, before its evidence counts.  # (..., STATES)"""
    well = 1 - chance.sum(axis=-1, keepdims=True)
    return chance * (1 - _ends(told)) + well * BEGINS


def weigh(chance: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """The chances after evidence, log likelihood ratios against being well.  # (..., STATES)"""
    likelihood = chance * np.exp(evidence)
    well = 1 - chance.sum(axis=-1, keepdims=True)
    return likelihood / (likelihood.sum(axis=-1, keepdims=True) + well)


def with_future(chance: np.ndarray, future: np.ndarray, told: np.ndarray) -> np.ndarray:
    """The chances, by what comes later as well: it may withdraw, and confirm where the minute itself speaks for it.

    chance, told: (..., STATES). future: (..., 1 + STATES) of being well first.
    """
    ill = chance * future[..., 1:]
    well = (1 - chance.sum(axis=-1)) * future[..., 0]
    later = ill / (ill.sum(axis=-1) + well)[..., None]
    return np.where((later < chance) | (np.nan_to_num(told) > 0), later, chance)


def passed_back(future: np.ndarray, told: np.ndarray) -> np.ndarray:
    """What a minute and all after it say of the minute before.  # (..., 1 + STATES)"""
    ends = _ends(told)
    well, ill = future[..., :1], future[..., 1:] * np.exp(np.nan_to_num(told))
    before = np.concatenate(
        [
            well * (1 - STATES * BEGINS) + ill.sum(axis=-1, keepdims=True) * BEGINS,
            well * ends + ill * (1 - ends),
        ],
        axis=-1,
    )
    return before / before.max(axis=-1, keepdims=True)


def of_any_size(chance: np.ndarray) -> np.ndarray:
    """The chance of over-use, of whatever size."""
    return chance[..., OVERUSE].sum(axis=-1)


def of_any_kind(chance: np.ndarray) -> np.ndarray:
    """The chance of over-use or a level of its own."""
    return chance.sum(axis=-1)


def logit(chance: np.ndarray) -> np.ndarray:
    chance = np.clip(chance, 1e-6, CHANCE_MAX)
    return np.log(chance / (1 - chance))


def evidence(residual: np.ndarray, work: np.ndarray, usual: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Log likelihood ratios of a minute's residuals, each state against being well.  # (pods, dimensions, STATES)

    residual: (pods, dimensions) use beyond the expected, of that variance. work: what the calls of this minute take.
    usual: what those of a usual minute take.
    """
    shift = np.concatenate([(FACTORS - 1) * work[..., None], (FACTORS - 1) * usual[..., None]], axis=-1)
    wider = variance[..., None] + (NEAR * shift) ** 2
    off, residual = residual[..., None] - shift, residual[..., None]
    return (residual**2 / variance[..., None] - off**2 / wider - np.log(wider / variance[..., None])) / 2


def bounded(evidence: np.ndarray, least: float, most: float) -> np.ndarray:
    """What a minute may say at most for the likeliest state, and for it beside the others."""
    top = evidence.max(axis=-1, keepdims=True)
    return np.clip(top, least, most) + np.maximum(evidence - top, -most)


def whole(evidence: np.ndarray) -> np.ndarray:
    """Evidence for over-use of whatever size."""
    return np.logaddexp.reduce(evidence[..., OVERUSE], axis=-1) - np.log(len(FACTORS))
