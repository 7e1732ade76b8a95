"""How much each service is asked for, and whether it has been asked for as much before.

A service that nears its capacity lets its callers wait while nobody else is busy. That is its demand's, and nobody's
fault. How slow it gets at a demand that it hasn't had isn't known, so its times say the less. The same is true of a pod
of it: where an autoscaler took pods away, each of those that are left is asked for more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from udfs.pure.baseline import grown
from udfs.pure.frame import Frame
from udfs.pure.windows import MINUTE_MS

# The demand of now is that of about so many minutes.
RECENT_MINUTES = 2.0
# A demand that has lasted for KNOWN_MINUTES, about, is known; it is forgotten with the time constant MEMORY_MINUTES.
KNOWN_MINUTES, MEMORY_MINUTES = 10.0, 2880.0
# So many requests more or less are chance.
REQUESTS = 10.0
# And what is within so many standard deviations of it.
CHANCE = 2.0
# By how much the log of a time may change with the log of a demand that isn't known: that of a queue of which half is
# used does so by 1, use / (1 - use).
ELASTICITY = 1.0

_COLUMNS = "_recent", "_minutes", "_known", "_pods", "_known_of_pod"


class Demand:
    """State: how much each service, and each pod of it, is asked for now, and at most."""

    def __init__(self) -> None:
        self._minute_ms = 0
        self._recent = np.zeros(0)  # (services,) requests of the last minutes, fading
        self._minutes = np.zeros(0)  # (services,) since the first request
        self._known = np.zeros(0)  # (services,) log of the greatest demand that is known
        self._pods = np.zeros(0)  # (services,) that run, 0 = nobody ever told
        self._known_of_pod = np.zeros(0)  # (services,) as _known, of each of these

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of an earlier release, which counted no pods, too."""
        known = state["_known"]
        self.__dict__.update({"_pods": np.zeros(len(known)), "_known_of_pod": known.copy()} | state)

    def follow(self, minute_ms: int, requests: np.ndarray, pods: np.ndarray | None = None) -> None:
        """Bring the demand up to the minute.

        requests: (services,) of it. pods: (services,) that run in it, 0 = nobody tells; as many as before, then.
        """
        for name in _COLUMNS:
            setattr(self, name, grown(getattr(self, name), len(requests)))
        passed = max((minute_ms - self._minute_ms) // MINUTE_MS, 1)
        self._minute_ms = minute_ms
        is_new = (self._minutes == 0) & (requests > 0)
        self._recent = self._recent * (1 - 1 / RECENT_MINUTES) ** passed + requests
        # As if the minutes before its first had been like it.
        self._recent[is_new] *= RECENT_MINUTES
        self._minutes += is_new | (self._minutes > 0)
        if pods is not None:
            pods = grown(pods, len(requests))
            is_told = (self._pods == 0) & (pods > 0)
            # As if there had always been so many; until then it is that of the service.
            self._known_of_pod[is_told] -= np.log(pods[is_told])
            self._pods = np.where(pods > 0, pods, self._pods)

    def unknown(self) -> np.ndarray:
        """By how much log times may be greater, as the demand is greater than any that is known.  # (services,)"""
        of_service = self._beyond(_log(self._recent), self._known)
        return ELASTICITY * np.maximum(of_service, self._beyond(self._of_pod(), self._known_of_pod))

    def is_new(self, services: int) -> np.ndarray:
        """Whether the demand is greater than any that is known, and that is no chance.  # (services,)"""
        chance = np.sqrt(self._recent) / (self._recent + REQUESTS)
        return grown(self._beyond(_log(self._recent), self._known) > CHANCE * chance, services)

    def _beyond(self, now: np.ndarray, known: np.ndarray) -> np.ndarray:
        return np.where(self._minutes > 1, np.maximum(now - known, 0.0), 0.0)

    def _of_pod(self) -> np.ndarray:
        return _log(self._recent) - np.log(np.maximum(self._pods, 1.0))

    def now(self, services: int) -> np.ndarray:
        """Log of the demand on each service; 0 = hardly any.  # (services,)"""
        return grown(_log(self._recent) - np.log(REQUESTS), services)

    def learn(self) -> None:
        """Take in the demand of the minute."""
        rises = np.clip(self._minutes, 1.0, KNOWN_MINUTES)
        for known, now in ((self._known, _log(self._recent)), (self._known_of_pod, self._of_pod())):
            gap = now - known
            known += gap / np.where(gap > 0, rises, MEMORY_MINUTES)

    def reset(self, services: np.ndarray) -> None:
        """These services are others from now on."""
        services = services[services < len(self._recent)]
        for name in _COLUMNS:
            getattr(self, name)[services] = 0.0


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
