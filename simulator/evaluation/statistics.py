"""Statistics over worlds: intervals, ratios of sums, and paired tests that are corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from simulator.evaluation.measures import mean_and_interval

Key = TypeVar("Key")


class Estimate(NamedTuple):
    """A mean over ``n`` worlds and half of its 95 % t-interval, NaN of fewer than two."""

    mean: float
    half: float
    n: int


def in_worlds(n: int) -> str:
    """How many worlds, for people."""
    return f"{n} {'world' if n == 1 else 'worlds'}"


class Paired(NamedTuple):
    """Ours less another arm's, in the same worlds: a paired t-test, two-sided.

    effect: Cohen's d_z, the mean of the differences in their standard deviations. p_holm: p, corrected by Holm for all
    tests that were made together.
    """

    difference: Estimate
    p: float
    p_holm: float
    effect: float


def estimate(values: Sequence[float]) -> Estimate:
    """Of what is known."""
    known = [value for value in values if not math.isnan(value)]
    return Estimate(*mean_and_interval(known), len(known))


def ratio(parts: Sequence[float], wholes: Sequence[float]) -> Estimate:
    """The sum of the parts over that of the wholes, with a 95 % t-interval by the jackknife over worlds.

    A ratio of sums, since a ratio for each world would count those the most in which there is little to win.
    """
    part, whole = np.asarray(parts, float), np.asarray(wholes, float)
    n = len(part)
    if not whole.sum():
        return Estimate(math.nan, math.nan, n)
    all_of = part.sum() / whole.sum()
    left_out = whole.sum() - whole
    if n < 2 or (left_out <= 0).any():
        return Estimate(float(all_of), math.nan, n)
    pseudo = n * all_of - (n - 1) * (part.sum() - part) / left_out
    return Estimate(float(all_of), mean_and_interval(pseudo.tolist())[1], n)


def compare(differences: Mapping[Key, Sequence[float]]) -> dict[Key, Paired]:
    """Paired tests of differences, each world by world; a NaN leaves its world out."""
    from scipy import stats
    from statsmodels.stats.multitest import multipletests

    found: dict[Key, tuple[Estimate, float, float]] = {}
    for name, values in differences.items():
        known = np.array([value for value in values if not math.isnan(value)])
        p, effect = math.nan, math.nan
        if len(known) > 1 and (spread := float(known.std(ddof=1))) > 0:
            p, effect = float(stats.ttest_1samp(known, 0.0).pvalue), float(known.mean()) / spread
        found[name] = estimate(known.tolist()), p, effect
    tested = {name: p for name, (_, p, _) in found.items() if not math.isnan(p)}
    holm = dict(zip(tested, multipletests(list(tested.values()), method="holm")[1].tolist())) if tested else {}
    return {name: Paired(of, p, holm.get(name, math.nan), effect) for name, (of, p, effect) in found.items()}
