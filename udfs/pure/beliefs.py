"""What is believed of services, pods and operations: are they in an episode?

What is faint in one trace is plain in a hundred. Services and pods are watched in every channel; loops of calls by
operation, as they show in one kind of call, be the service that makes it ever so busy with others.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.channels import CHANNELS, FAILURE, GAP, LEAF, OVERUSE, OWN, REPEAT
from udfs.pure.episodes import LONE, SHARES, Episodes
from udfs.pure.evidence import STRENGTHS, Level
from udfs.pure.verdicts import JudgedMinute

# What an episode of another kind in a service says against over-use as the reason for its usage.
EXPLAINED = 0.95


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

    def slow_pods(self, minute_ms: int) -> np.ndarray:
        """Chance that each pod's own times were in an episode in a minute, by all that came since.  # (pods,)"""
        return 1 - self._pods.at(minute_ms)[:, OWN, 0]

    def observe_services(
        self, minute_ms: int, level: Level, together: np.ndarray, count: int, is_warming: np.ndarray
    ) -> np.ndarray:
        """Take in what a minute says of services, of which there are ``count``.

        together: (spans,) what each counts for. is_warming: (traces,) those that are not settled say nothing.
        returns: what the guard asked before it learnt from this minute.  # (services, channels)
        """
        return _observe(self._services, minute_ms, level, together, np.arange(count), count, is_warming)

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

    def log_odds(
        self, minute: JudgedMinute, services: np.ndarray, pods: np.ndarray, operations: np.ndarray, overuse: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(log odds that each service cell is affected, what the guard asked there)  # 2 x (cells, channels, over-use)

        services, pods, operations: the numbers by now of the names that the minute has, -1 = not known any more.
        overuse: (pods,) log odds of over-use.
        """
        level = minute.services
        states = self._services.at(minute.minute_ms)
        odds = log_odds(self._services, states, level.weights, services[level.subject])
        asked = minute.asked[level.subject]
        of_pods = log_odds(self._pods, self._pods.at(minute.minute_ms), minute.pods.weights, pods[minute.pods.subject])
        np.maximum.at(odds, minute.pod_cell, of_pods)
        odds[:, REPEAT], asked[:, REPEAT] = -np.inf, 0.0
        if len(minute.loop_cell):
            loops = log_odds(
                self._loops, self._loops.at(minute.minute_ms), minute.loop_weight[:, None, None],
                operations[minute.loop_operation],
            )  # fmt: skip
            _take_greater(odds[:, REPEAT:], asked[:, REPEAT:], minute.loop_cell, loops, minute.asked_of_loops[:, None])
        used, asked_of_use = np.full((len(odds), 1), -np.inf), np.zeros((len(odds), 1))
        _take_greater(
            used, asked_of_use, minute.used_cell, overuse[minute.used_pod][:, None],
            minute.asked_of_use[minute.used_pod][:, None],
        )  # fmt: skip
        well = _with_nobody(states[:, :, 0], 1.0)[services[level.subject]]
        other = 1 - well[:, [OWN, LEAF, GAP, FAILURE]].min(axis=1)
        chance = np.clip((1 - EXPLAINED * other) / (1 + np.exp(-used[:, 0])), 1e-9, 1 - 1e-9)
        odds = np.column_stack([odds, np.log(chance / (1 - chance))])
        assert odds.shape[1] == OVERUSE + 1, odds.shape
        return odds, np.column_stack([asked, asked_of_use])

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
    asked = episodes.threshold()
    episodes.step(
        minute_ms,
        subject[level.subject[settled]],
        level.told()[settled],
        level.counts(together)[settled],
    )
    return asked


def _with_nobody(column: np.ndarray, fill: float) -> np.ndarray:
    """``column`` with a last row, that of the number -1."""
    return np.concatenate([column, np.full((1, *column.shape[1:]), fill)])


def log_odds(episodes: Episodes, states: np.ndarray, weights: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Log odds that each cell's trace is affected.  # (cells, channels)

    The states know of the trace already: in each of them it is affected or one of those that aren't, and no evidence
    counts twice. So what one trace alone says for an episode has to bear the whole doubt that there is one.

    states: chances of the episodes' states in the minute, see Episodes.at."""
    well = _with_nobody(states[:, :, :1], 1.0)[subject]
    ill = _with_nobody(episodes.by_share(states), 0.0)[subject]  # (cells, channels, shares, strengths)
    affected = _affected(SHARES[:, None], weights[:, :, None, :])
    alone = _affected(LONE, np.logaddexp.reduce(weights, axis=2, keepdims=True) - np.log(weights.shape[2]))
    with np.errstate(divide="ignore"):
        yes = np.log((ill * affected).sum(axis=(2, 3)) + (well * alone)[:, :, 0])
        no = np.log((ill * (1 - affected)).sum(axis=(2, 3)) + (well * (1 - alone))[:, :, 0])
    return yes - no


def _affected(share: np.ndarray | float, weights: np.ndarray) -> np.ndarray:
    """The chance that a trace is affected, where that happens to a share of them, after its own evidence."""
    return 1 / (1 + (1 - share) / share * np.exp(-np.clip(weights, -500.0, 500.0)))


def _take_greater(
    odds: np.ndarray, asked: np.ndarray, cell: np.ndarray, others: np.ndarray, asked_of_others: np.ndarray
) -> None:
    """Raise ``odds`` of each cell to the greatest of ``others``, and take what was asked along with it.

    odds, asked: (cells, channels), changed in place. cell: (n,). others, asked_of_others: (n, channels).
    """
    before = odds.copy()
    channels = others.shape[1]
    np.maximum.at(odds[:, :channels], cell, others)
    rows, channel = np.nonzero((others > before[cell, :channels]) & (others == odds[cell, :channels]))
    asked[cell[rows], channel] = asked_of_others[rows, channel]
