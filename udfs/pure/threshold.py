"""The source's threshold, as a policy: per service, a running mean and deviation of alpha.

theta_t = m_t + FACTOR * d_t, with m and d exponential moving averages over the minutes before t. It has no
gate: what an episode brings, it learns, so that a storm teaches it to be silent. Kept to be compared with.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import grown

DECAY = 0.97
FACTOR = 3.0
# Minutes before a service is judged.
MINUTES_MIN = 10


class EmaThreshold:
    """State: mean and variance of alpha by service, and the minutes they rest on."""

    def __init__(self) -> None:
        self._mean, self._variance = np.zeros(0), np.zeros(0)
        self._minutes = np.zeros(0)

    def reset(self, services: np.ndarray) -> None:
        """These services are others from now on."""
        services = services[services < len(self._mean)]
        self._mean[services] = self._variance[services] = self._minutes[services] = 0.0

    def step(self, service: np.ndarray, alpha: np.ndarray, services: int) -> np.ndarray:
        """The threshold of each service before this minute, then learn from it.  # (services,)

        service, alpha: (n,) the greatest alpha of each (trace, service).
        """
        self._mean, self._variance = grown(self._mean, services), grown(self._variance, services)
        self._minutes = grown(self._minutes, services)
        known = self._minutes >= MINUTES_MIN
        threshold = np.where(known, self._mean + FACTOR * np.sqrt(self._variance), np.inf)
        counts = np.bincount(service, minlength=services)
        seen = counts > 0
        mean = np.bincount(service, alpha, services)[seen] / counts[seen]
        off = np.bincount(service, (alpha - self._mean[service]) ** 2, services)[seen] / counts[seen]
        decay = np.where(self._minutes[seen] < 1 / (1 - DECAY), 1 - 1 / (self._minutes[seen] + 1), DECAY)
        self._mean[seen] = decay * self._mean[seen] + (1 - decay) * mean
        self._variance[seen] = decay * self._variance[seen] + (1 - decay) * off
        self._minutes[seen] += 1
        return threshold
