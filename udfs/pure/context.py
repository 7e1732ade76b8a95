"""Is something going on? Evidence too weak for a lone trace counts in the midst of an episode.

A forward filter over minutes. Each subject (a service, an operation) and channel is in one of
three states, in which another share of the traces that touch it is affected: hardly any, some, or
nearly all.
"""

from __future__ import annotations

import math

import numpy as np

from udfs.pure.baseline import grown

# Chance that a trace is affected where all is well: what a lone trace's evidence has to overcome.
PRIOR = 1e-3
THRESHOLD = math.log((1 - PRIOR) / PRIOR)
SHARES = np.array([PRIOR, 0.2, 0.9])

# Chances per minute that an episode begins and ends.
BEGINS, ENDS = 1 / 4000, 1 / 40

# What each trace has to say for an episode before it counts, so that slight shifts never add up;
# and the most that one minute says.
MARGIN = 0.1
MINUTE_EVIDENCE = 4.0


class Context:
    """State: the chance of each state.  # (subjects, channels, states)"""

    def __init__(self, channels: int) -> None:
        self.states = np.zeros((0, channels, len(SHARES)))

    def resize(self, subjects: int) -> None:
        """Have at least ``subjects`` rows; new ones are well."""
        known = len(self.states)
        self.states = grown(self.states, subjects)
        self.states[known:, :, 0] = 1.0

    def keep(self, kept: np.ndarray) -> None:
        """Keep the subjects at ``kept``."""
        self.states = self.states[kept]

    def step(self, subject: np.ndarray, weights: np.ndarray) -> None:
        """Take in a minute. subject: (n,), weights: (n, channels) nats of traces that touch it."""
        ill = self.states[:, :, 1:].sum(axis=2, keepdims=True)
        well = self.states[:, :, :1]
        states = np.concatenate(
            [
                well * (1 - BEGINS) + ill * ENDS,
                self.states[:, :, 1:] * (1 - ENDS) + well * BEGINS / (len(SHARES) - 1),
            ],
            axis=2,
        )
        says = np.log(1 - SHARES + SHARES * np.exp(weights)[:, :, None])  # (n, channels, states)
        says = says[:, :, 1:] - says[:, :, :1] - MARGIN
        evidence = np.zeros_like(states)
        np.add.at(evidence[:, :, 1:], subject, says)
        states *= np.exp(np.clip(evidence, -MINUTE_EVIDENCE, MINUTE_EVIDENCE))
        self.states = states / states.sum(axis=2, keepdims=True)

    def log_odds(self) -> np.ndarray:
        """Prior log odds that a trace is affected, as things stand.  # (subjects, channels)"""
        share = self.states @ SHARES
        return np.log(share / (1 - share))
