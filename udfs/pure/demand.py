"""How much more than usual each service is asked for, and how strongly each kind of its times feels it.

A service that nears its capacity lets its callers wait, and while it does so no other need be busy. That is its
demand's, and nobody's fault. How much slower it gets is learnt by kind of time; at a demand that it hasn't had it isn't
known, and times say the less.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import grown
from udfs.pure.channels import TIMES
from udfs.pure.frame import Frame
from udfs.pure.windows import MINUTE_MS

# The demand of now is that of about so many minutes.
RECENT_MINUTES = 2.0
# One that has lasted for so long, about, is known; and how times feel it, what is usual and what is known forget with
# the second.
KNOWN_MINUTES, MEMORY_MINUTES = 10.0, 2880.0
# So many requests more or less are chance.
REQUESTS = 10.0
# By how much the log of a time may change with the log of a demand that isn't known: that of a queue of which half is
# used does so by 1, use / (1 - use).
ELASTICITY = 1.0
SLOPE_MAX = 5.0
# How a kind of time feels the demand: not at all, as if 20 spans at 1.2 times the usual one had told so.
PRIOR_WEIGHT = 20 * np.log(1.2) ** 2
# Below this a demand is the usual one, and teaches nothing.
TELLING = 0.1
# What lies further from the expected than this teaches no more: it isn't the demand's.
CLIP = 0.5

_SERVICE_COLUMNS = "_recent", "_usual", "_minutes", "_known"


class Demand:
    """State: by service how much it is asked for now, usually and at most, and the normal equations of each slot."""

    def __init__(self) -> None:
        self._minute_ms = 0
        self._recent = np.zeros(0)  # (services,) requests of the last minutes, fading
        self._usual = np.zeros(0)  # (services,) the mean of these
        self._minutes = np.zeros(0)  # (services,) since the first request
        self._known = np.zeros(0)  # (services,) log of the greatest demand that is known
        self._xy = np.zeros(0)  # (slots,)
        self._xx = np.zeros(0)

    def follow(self, minute_ms: int, requests: np.ndarray) -> None:
        """Bring the demand up to the minute.  requests: (services,) of it"""
        count = len(requests)
        for name in _SERVICE_COLUMNS:
            setattr(self, name, grown(getattr(self, name), count))
        self._xy, self._xx = grown(self._xy, count * TIMES), grown(self._xx, count * TIMES)
        passed = max((minute_ms - self._minute_ms) // MINUTE_MS, 1)
        self._minute_ms = minute_ms
        is_new = (self._minutes == 0) & (requests > 0)
        self._recent = self._recent * (1 - 1 / RECENT_MINUTES) ** passed + requests
        # As if the minutes before its first had been like it.
        self._recent[is_new] *= RECENT_MINUTES
        self._minutes += is_new | (self._minutes > 0)

    def beyond(self) -> np.ndarray:
        """Log of the demand over the usual one, where it is more.  # (services,)"""
        return self._above(_log(self._usual))

    def unknown(self) -> np.ndarray:
        """How far log times may be off, as the demand is greater than any that is known.  # (services,)"""
        return ELASTICITY * self._above(self._known)

    def _above(self, level: np.ndarray) -> np.ndarray:
        return np.where(self._minutes > 1, np.maximum(_log(self._recent) - level, 0.0), 0.0)

    def shift(self) -> np.ndarray:
        """What the demand adds to the log times of each slot.  # (slots,)"""
        slope = np.clip(self._xy / (self._xx + PRIOR_WEIGHT), 0.0, SLOPE_MAX)
        return slope * np.repeat(self.beyond(), TIMES)

    def learn(self, slot: np.ndarray, surplus: np.ndarray) -> None:
        """Take in the demand of the minute, and how its spans felt it.

        slot, surplus: (spans,) log of a time over the usual, the demand's part left in it.
        """
        order = np.lexsort((surplus, slot))
        slot, surplus = slot[order], surplus[order]
        expected, beyond = self.shift()[slot], self.beyond()[slot // TIMES]
        surplus = expected + np.clip(surplus - expected, -CLIP, CLIP)
        beyond = np.where(beyond > TELLING, beyond, 0.0)
        fade, size = 1 - 1 / MEMORY_MINUTES, len(self._xy)
        self._xy = fade * self._xy + np.bincount(slot, beyond * surplus, size)
        self._xx = fade * self._xx + np.bincount(slot, beyond**2, size)
        minutes = np.clip(self._minutes, 1.0, MEMORY_MINUTES)
        self._usual += (self._recent - self._usual) / minutes
        gap = _log(self._recent) - self._known
        self._known += gap / np.where(gap > 0, np.minimum(minutes, KNOWN_MINUTES), MEMORY_MINUTES)

    def reset(self, services: np.ndarray) -> None:
        """These services are others from now on."""
        services = services[services < len(self._recent)]
        for name in _SERVICE_COLUMNS:
            getattr(self, name)[services] = 0.0
        slots = (services[:, None] * TIMES + np.arange(TIMES)).ravel()
        self._xy[slots] = self._xx[slots] = 0.0


def _log(requests: np.ndarray) -> np.ndarray:
    return np.log(requests + REQUESTS)


def requests_of(
    frame: Frame,
    groups: np.ndarray,
    service: np.ndarray,
    callee: np.ndarray,
    is_entry: np.ndarray,
    is_silent: np.ndarray,
    services: int,
) -> np.ndarray:
    """How often each service was asked in a minute. What a span asks again and again counts once: a loop is not its
    callee's demand.  # (services,)

    groups: first rows of sibling calls of one operation. The others: see Reading.
    """
    parent = np.where(frame.has_parent, frame.parent, 0)
    is_first = ~frame.has_parent
    is_first[groups] = True
    is_answer = is_entry & is_first & (~frame.has_parent | ~frame.is_call[parent] | is_first[parent])
    is_silent_call = is_silent & is_first
    weight = frame.weight[frame.trace]
    return np.bincount(service[is_answer], weight[is_answer], services) + np.bincount(
        callee[is_silent_call], weight[is_silent_call], services
    )
