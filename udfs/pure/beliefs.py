"""What is believed of services, pods and operations: are they in an episode?

What is faint in one trace is plain in a hundred. Services and pods are watched in every channel; loops of calls by
operation, as they show in one kind of call, be the service that makes it ever so busy with others.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.channels import CHANNELS, KINDS, OWN, REPEAT
from udfs.pure.episodes import Episodes
from udfs.pure.evidence import STRENGTHS, Level


class Beliefs:
    """State: episodes of services, pods and operations, by their numbers."""

    def __init__(self, lag: int) -> None:
        """lag: how many past minutes can be told anew by what came after them."""
        self._services = Episodes(CHANNELS, STRENGTHS, lag)
        self._pods = Episodes(CHANNELS, STRENGTHS, lag)
        self._loops = Episodes(1, 1, lag)

    def of_services(self) -> np.ndarray:
        """Chances of the states of services by now.  # (services, channels, states)"""
        return self._services.now

    def observe_services(
        self,
        minute_ms: int,
        level: Level,
        together: np.ndarray,
        services: np.ndarray,
        count: int,
        is_warming: np.ndarray,
    ) -> np.ndarray:
        """Take in what a minute says of services, of which there are ``count``.

        together: (spans,) what each counts for. services: the number of each of the level's subjects. is_warming:
        (traces,) those that are not settled say nothing.
        returns: what the guard asked of these services before it learnt from this minute.  # (len(services), channels)
        """
        return _observe(self._services, minute_ms, level, together, services, count, is_warming)

    def observe_pods(
        self, minute_ms: int, level: Level, together: np.ndarray, pods: np.ndarray, count: int, is_warming: np.ndarray
    ) -> None:
        """The same of pods. pods: the number of each of the level's subjects."""
        _observe(self._pods, minute_ms, level, together, pods, count, is_warming)

    def observe_loops(self, minute_ms: int, operation: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
        """The same of repeated calls. operation, weight: (calls,); weight -inf: not repeated.

        returns: what the guard asked.  # (operations,)
        """
        self._loops.resize(count)
        asked = self._loops.threshold()[:, 0]
        self._loops.step(minute_ms, operation, weight[:, None, None])
        return asked

    def admit(self, kind: str, services: np.ndarray, pods: np.ndarray, operations: np.ndarray, minutes: int) -> None:
        """So many minutes of episodes of a kind were none, in these services, pods and operations."""
        channels = [channel for channel in range(CHANNELS) if KINDS[channel] == kind]
        self._services.admit(services, channels, minutes)
        self._pods.admit(pods, channels, minutes)
        if REPEAT in channels:
            self._loops.admit(operations, [0], minutes)

    def at(
        self, minute_ms: int, services: np.ndarray, pods: np.ndarray, loops: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Chances in a minute, by all that came since, of these services, pods and operations, -1 = nobody any more,
        who is well.  # 3 x (numbers, channels, states)

        The last one: the chance that each pod, of all, was slow by itself.  # (all pods,)
        """
        of_pods = self._pods.at(minute_ms)
        slow = 1 - of_pods[:, OWN, 0]
        return (
            _rows(self._services.at(minute_ms), services),
            _rows(of_pods, pods),
            _rows(self._loops.at(minute_ms), loops) if len(loops) else self._loops.now[:0],
            slow,
        )

    def forget(self, gone: np.ndarray, pods: np.ndarray, operations: np.ndarray) -> None:
        """gone: services that are others from now on. pods, operations: those that are kept, numbered anew."""
        self._services.reset(gone)
        if len(pods) < len(self._pods.now):
            self._pods.keep(pods)
        if len(operations) < len(self._loops.now):
            self._loops.keep(operations)


def _observe(
    episodes: Episodes,
    minute_ms: int,
    level: Level,
    together: np.ndarray,
    subject: np.ndarray,
    subjects: int,
    is_warming: np.ndarray,
) -> np.ndarray:
    """subject: the number, of so many, that each of the level's subjects has among the episodes."""
    settled = ~is_warming[level.trace]
    episodes.resize(subjects)
    asked = episodes.threshold()[subject]
    episodes.step(
        minute_ms,
        subject[level.subject[settled]],
        level.told()[settled],
        level.counts(together)[settled],
    )
    return asked


def _rows(states: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The rows at ``numbers``, a copy; at -1 all is well."""
    found = states[numbers] if len(states) else np.zeros((len(numbers), *states.shape[1:]))
    found[numbers < 0] = 0.0
    found[numbers < 0, :, 0] = 1.0
    return found
