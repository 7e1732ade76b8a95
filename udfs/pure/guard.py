"""Evidence that keeps its promise on the system at hand: a running check by e-values.

Evidence is a log Bayes factor, trouble against usual. Where nothing is wrong the mean of its exponential is at most 1
(Markov: an e-value; Vovk and Wang 2021, "E-values: calibration, combination and applications"), whatever the
distribution. Where the mean of the past is greater, the model of the usual is wrong for this subject, and its evidence
is lowered by just that much: the log of the mean. So no threshold has to be chosen for a system. Minutes that are
believed to be in an episode teach nothing, and evidence is lowered by EVIDENCE_MAX at most: a storm still speaks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from udfs.pure.baseline import grown

# The mean forgets with this time constant, and is thought to be 1 until so many minutes told otherwise.
MEMORY_MINUTES = 720.0
PRIOR_MINUTES = 30.0
# What is clearer than this in a minute counts as this: so evidence is never lowered by more, and a storm still speaks.
EVIDENCE_MAX = 4.0


class Guard:
    """State: mean of exp(evidence) by (subject, channel)."""

    def __init__(self, channels: int) -> None:
        self._sum = np.zeros((0, channels))
        self._minutes = np.zeros((0, channels))

    def resize(self, subjects: int) -> None:
        """Have at least ``subjects`` rows; new ones are thought to be honest."""
        self._sum = grown(self._sum, subjects)
        self._minutes = grown(self._minutes, subjects)

    def keep(self, kept: np.ndarray) -> None:
        """Keep the subjects at ``kept``."""
        self._sum, self._minutes = self._sum[kept], self._minutes[kept]

    def reset(self, rows: np.ndarray) -> None:
        """The subjects at ``rows`` are others from now on, and thought to be honest."""
        self._sum[rows] = self._minutes[rows] = 0.0

    def excess(self) -> np.ndarray:
        """By how much evidence is to be lowered, in nats, at least 0.  # (subjects, channels)"""
        mean = (self._sum + PRIOR_MINUTES) / (self._minutes + PRIOR_MINUTES)
        return np.log(np.maximum(mean, 1.0))

    def admit(self, rows: np.ndarray, channels: Sequence[int], minutes: int) -> None:
        """Take in that nothing was wrong in so many minutes in which all seemed clear: somebody says so."""
        at = np.ix_(rows, np.array(channels))
        self._sum[at] += min(minutes, MEMORY_MINUTES) * np.exp(EVIDENCE_MAX)
        self._minutes[at] += min(minutes, MEMORY_MINUTES)

    def learn(self, evidence: np.ndarray, heard: np.ndarray, ill: np.ndarray) -> None:
        """Take in a minute, after it was judged. evidence: (subjects, channels) as it was before it was lowered;
        heard: (subjects, channels) whether there was any; ill: the chance that there is an episode."""
        weight = (heard & (ill <= 0.5)).astype(float)
        fade = 1 - weight / MEMORY_MINUTES
        self._sum = self._sum * fade + weight * np.exp(np.minimum(evidence, EVIDENCE_MAX))
        self._minutes = self._minutes * fade + weight
