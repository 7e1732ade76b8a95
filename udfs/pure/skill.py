"""How far a prediction has proven itself on the system at hand, and what it may say until then.

A model that was trained elsewhere extrapolates here. So its word is mixed with what is usual anyway, by service and
value, as two hypotheses of unknown merit are: the weight of each is the chance that it is right by what both said of
past minutes (a Bayesian mixture of experts; its regret to the better one is bounded: Cesa-Bianchi and Lugosi 2006,
"Prediction, Learning, and Games"). That holds for what it accuses, which would be false alarms, and for what it
excuses, which would be faults that nobody hears of.

State: one number by (service, value).
"""

from __future__ import annotations

import numpy as np

from udfs.pure import tokens as t
from udfs.pure.baseline import MEMORY_MINUTES, grown
from udfs.pure.predict import Prediction
from udfs.pure.tokens import Tokens

# What has to be made good before a prediction is as likely to be right as the usual, in nats.
DOUBT = 3.0
# The most that one minute says for or against it: its spans may be off together.
MINUTE_SAYS = 1.0
# Student's degrees of freedom, as in training: outliers say little.
FREEDOM = 4.0


class Skill:
    """What a predictor gained over the usual so far, in nats, fading."""

    def __init__(self) -> None:
        self._gain = np.zeros((0, len(t.REALS) + len(t.BITS)))

    def of(self, services: np.ndarray) -> np.ndarray:
        """What was gained by these services.  # (services, values)"""
        self._gain = grown(self._gain, int(services.max(initial=-1)) + 1)
        return self._gain[services]

    def learn(self, tokens: Tokens, usual: Prediction, found: Prediction, weights: np.ndarray) -> None:
        """Take in a minute, after it was judged, by what was predicted of it.

        tokens: of services by their numbers, see ``of``. found: before it was calibrated; weights: (spans,) how far
        each span may teach.
        """
        of_reals = _surprise(tokens.reals) - _surprise((tokens.reals - found.mean) / found.scale) - np.log(found.scale)
        of_bits = np.where(
            tokens.bits, np.log(found.chance / usual.chance), np.log((1 - found.chance) / (1 - usual.chance))
        )
        services = np.arange(len(self._gain))
        seen = weights[:, None] * np.column_stack([tokens.reals_seen, tokens.bits_seen])
        total = _by_service(tokens.service, seen * np.column_stack([of_reals, of_bits]), len(services))
        counts = _by_service(tokens.service, seen, len(services))
        # Times of one minute are off together, and tell as one; events are told one by one.
        total[:, : len(t.REALS)] /= np.maximum(counts[:, : len(t.REALS)], 1.0)
        self._gain *= 1 - (counts > 0) / MEMORY_MINUTES
        self._gain += np.clip(total, -MINUTE_SAYS, MINUTE_SAYS)

    def reset(self, services: np.ndarray) -> None:
        """Forget what was seen of ``services``."""
        self._gain[services[services < len(self._gain)]] = 0.0


def calibrated(gain: np.ndarray | None, tokens: Tokens, usual: Prediction, found: Prediction) -> Prediction:
    """``found`` as far as it is proven; ``usual``, see ``usual_of``, as far as it is not.

    gain: (services, values) what it gained so far; None = no model was asked.
    """
    if gain is None:
        return usual
    trust = 1 / (1 + np.exp(DOUBT - gain))[tokens.service]
    of_reals, of_bits = np.split(trust, [len(t.REALS)], axis=1)
    return Prediction(
        usual.mean + of_reals * (found.mean - usual.mean),
        usual.scale + of_reals * (found.scale - usual.scale),
        usual.chance + of_bits * (found.chance - usual.chance),
    )


def _surprise(z: np.ndarray) -> np.ndarray:
    """Of a value so many deviations off, in nats."""
    return (FREEDOM + 1) / 2 * np.log1p(z * z / FREEDOM)


def _by_service(service: np.ndarray, values: np.ndarray, services: int) -> np.ndarray:
    """Sums of each column.  # (services, columns)"""
    columns = values.shape[1]
    cell = (service[:, None] * columns + np.arange(columns)).ravel()
    return np.bincount(cell, values.ravel(), services * columns).reshape(services, columns)
