"""What a month will cost: daily costs so far -> what is left of it, with an interval.

Money that a model predicts is an estimate and computed in floats; what was spent is never touched here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Of ten months nine are between the bounds.
COVERAGE = 0.9
_PATHS = 1_000
# Days of the past at which the model is tried.
_ORIGINS = 8
_WEEK = 7
# Days from which on a week's pattern is learnt, and from which on a level is followed.
_DAYS_WEEKLY, _DAYS_LEVEL = 3 * _WEEK, 8

WEEKLY, LEVEL, MEAN, NONE = "weekly", "level", "mean", "none"


class Forecast(NamedTuple):
    """The cost of what is to come: bounds and median, None where they aren't known."""

    low: float | None
    middle: float | None
    high: float | None
    method: str


def forecast(daily: Sequence[float], days: float, seed: int = 0) -> Forecast:
    """What the next ``days`` cost, after whole days that cost ``daily``, the oldest first.

    days: 0.25 and the like for the rest of a day that has begun, which comes first; of the last day a part may be left.
    """
    series = np.asarray(daily, float)
    if days <= 0:
        return Forecast(0.0, 0.0, 0.0, MEAN if len(series) else NONE)
    told = _forecast(series, days, seed)
    if told.low is None or told.middle is None or told.high is None:
        return told
    wider = _missed_by(series, math.ceil(days), seed)
    return told._replace(low=told.middle - wider * (told.middle - told.low),
                         high=told.middle + wider * (told.high - told.middle))  # fmt: skip


def _forecast(series: np.ndarray, days: float, seed: int) -> Forecast:
    """As far as the model is right."""
    if not len(series):
        return Forecast(None, None, None, NONE)
    if len(series) >= _DAYS_LEVEL and np.ptp(series) > 0:
        method = WEEKLY if len(series) >= _DAYS_WEEKLY else LEVEL
        sums = _simulated(series, days, method, seed)
        if sums is not None:
            low, middle, high = np.quantile(sums, [(1 - COVERAGE) / 2, 0.5, (1 + COVERAGE) / 2])
            return Forecast(float(low), float(middle), float(high), method)
    return _by_mean(series, days)


def _missed_by(series: np.ndarray, days: int, seed: int) -> float:
    """By how much bounds have to be wider, at least 1: so far off, of theirs, forecasts of this series would have been
    that were made at days of its past."""
    ratios = []
    for known in np.unique(np.linspace(3, len(series) - 1, _ORIGINS).astype(int)) if len(series) > 3 else ():
        ahead = series[known : known + days]
        told = _forecast(series[:known], len(ahead), seed)
        if told.low is not None and told.middle is not None and told.high is not None and told.high > told.low:
            miss = float(ahead.sum()) - told.middle
            ratios.append(miss / (told.high - told.middle) if miss > 0 else -miss / (told.middle - told.low))
    return max(1.0, float(np.quantile(ratios, COVERAGE))) if ratios else 1.0


def _simulated(series: np.ndarray, days: float, method: str, seed: int) -> np.ndarray | None:
    """Sums of what may come, by exponential smoothing; None where it can't be fitted.  # (_PATHS,)"""
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    # Of a scale near 1, whatever the currency.
    scale = float(np.abs(series).mean()) or 1.0
    weekly = {"seasonal": "add", "seasonal_periods": _WEEK} if method == WEEKLY else {}
    steps = math.ceil(days)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = ETSModel(series / scale, error="add", **weekly).fit(disp=False)
            paths = fitted.simulate(
                nsimulations=steps, repetitions=_PATHS, anchor="end", rng=np.random.default_rng(seed)
            )
    except (ValueError, np.linalg.LinAlgError):
        return None
    weights = np.ones(steps)
    weights[0] -= steps - days
    sums = weights @ np.asarray(paths).reshape(steps, _PATHS) * scale
    return sums if np.isfinite(sums).all() else None


def _by_mean(series: np.ndarray, days: float) -> Forecast:
    """The mean of the days; its bounds widen as the mean itself is known badly."""
    middle = float(series.mean()) * days
    if len(series) < 3:
        return Forecast(None, middle, None, MEAN)
    from scipy.stats import t

    spread = float(series.std(ddof=1)) * math.sqrt(days + days**2 / len(series))
    bound = float(t.ppf((1 + COVERAGE) / 2, len(series) - 1)) * spread
    return Forecast(middle - bound, middle, middle + bound, MEAN)
