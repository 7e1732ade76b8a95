"""Is something going on, since when, and how strongly? What is faint in one trace is plain in a hundred.

A hidden Markov model of each (subject, channel), a subject being a service, a pod or an operation.
It is well, or in an episode in which a share of the traces that touch the subject is affected, by
some strength (a factor on times, say). Filtered forward as minutes come; with ``lag`` minutes more
at hand, the same minute is smoothed backward: an episode's first minutes gain from what followed,
and what turned out to stand alone loses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from udfs.pure.baseline import grown, rows_of
from udfs.pure.guard import Guard
from udfs.pure.windows import MINUTE_MS

# Chance that a trace is affected where all is well: a hiccup of its own, not an episode's.
LONE = 1e-5
# Shares of the traces that an episode affects.
SHARES = np.array([0.12, 0.4, 0.95])

# Chances per minute that an episode begins and ends.
BEGINS, ENDS = 1 / (7 * 24 * 60), 1 / 40
# And that one which goes on changes its share or strength.
CHANGES = 0.02

# What each trace has to say for an episode before it counts, so that slight shifts never add up;
# and the most that one minute says.
MARGIN = 0.15
MINUTE_EVIDENCE = 4.0
MINUTE_CLEAR = 10.0


# The chance that an episode ends in a minute in which its subject isn't heard of: no data, no belief.
UNHEARD_ENDS = 0.5
# How often a subject is heard of forgets with this time constant.
HEARD_MINUTES = 120.0
# Silent minutes after which nothing is left of an episode.
SILENCE_MAX = 30


def _silent(before_ms: int, after_ms: int) -> int:
    """Minutes between one step and the next."""
    return min((after_ms - before_ms) // MINUTE_MS - 1, SILENCE_MAX)


class Past(NamedTuple):
    """A minute as it was seen, by subject."""

    minute_ms: int
    filtered: np.ndarray  # (subjects, channels, states) chances
    likelihood: np.ndarray  # (subjects, channels, states) of the minute
    ends: np.ndarray  # (subjects,) chance that an episode ended before it
    said: np.ndarray  # (subjects, channels) evidence for any episode, before the guard; NaN = not heard of

    def keep(self, kept: np.ndarray) -> Past:
        """Of the subjects at ``kept``; all is well with those that weren't there yet."""
        filtered = rows_of(self.filtered, kept)
        filtered[kept >= len(self.filtered), :, 0] = 1.0
        return self._replace(
            filtered=filtered,
            likelihood=rows_of(self.likelihood, kept, 1.0),
            ends=rows_of(self.ends, kept, ENDS),
            said=rows_of(self.said, kept, np.nan),
        )

    def reset(self, rows: np.ndarray) -> Past:
        """All is well with the subjects at ``rows``."""
        rows = rows[rows < len(self.filtered)]
        past = self._replace(**{name: getattr(self, name).copy() for name in self._fields[1:]})
        past.filtered[rows], past.likelihood[rows], past.ends[rows], past.said[rows] = 0.0, 1.0, ENDS, np.nan
        past.filtered[rows, :, 0] = 1.0
        return past


class Episodes:
    """State: the chance of each state, now and for the last ``lag`` minutes.

    States: 0 = well, then each share with each strength.  # (subjects, channels, states)
    """

    def __init__(self, channels: int, strengths: int, lag: int) -> None:
        self._shares = np.repeat(SHARES, strengths)  # (states - 1,)
        self._lag = lag
        self.now = np.zeros((0, channels, 1 + len(self._shares)))
        self._guard = Guard(channels)
        self._heard = np.zeros(0)  # (subjects,) share of the minutes in which each was heard of
        self._past: list[Past] = []  # oldest first
        # Chances in the minute that the guard learnt from last, which is told anew next. Not part of the state.
        self._taught: tuple[int, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_taught": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_taught": None} | state)

    def resize(self, subjects: int) -> None:
        """Have at least ``subjects`` rows; new ones are well."""
        known = len(self.now)
        if subjects > known:
            self._taught = None
        self.now = grown(self.now, subjects)
        self.now[known:, :, 0] = 1.0
        self._guard.resize(subjects)
        self._heard = grown(self._heard, subjects, 1.0)

    def keep(self, kept: np.ndarray) -> None:
        """Keep the subjects at ``kept``."""
        self._taught = None
        self.now = self.now[kept]
        self._guard.keep(kept)
        self._heard = self._heard[kept]
        self._past = [past.keep(kept) for past in self._past]

    def reset(self, rows: np.ndarray) -> None:
        """The subjects at ``rows`` are others from now on: all is well with them."""
        self._taught = None
        rows = rows[rows < len(self.now)]
        self.now[rows] = 0.0
        self.now[rows, :, 0] = 1.0
        self._guard.reset(rows)
        self._heard[rows] = 1.0
        self._past = [past.reset(rows) for past in self._past]

    def threshold(self) -> np.ndarray:
        """By how much a subject's evidence has to be greater than elsewhere, in nats.  # (subjects, channels)"""
        return self._guard.excess()

    def admit(self, rows: np.ndarray, channels: Sequence[int], minutes: int) -> None:
        """So many minutes of an episode were none: see Guard.admit."""
        self._guard.admit(rows[rows < len(self.now)], channels, minutes)

    def step(self, minute_ms: int, subject: np.ndarray, weights: np.ndarray, counts: np.ndarray | float = 1.0) -> None:
        """Take in a minute. subject: (n,), weights: (n, channels, strengths) nats of its traces.

        counts: (n, channels) what each counts for beside the others of the minute, from 0 to 1.
        """
        share = self._shares
        each = np.exp(np.minimum(np.tile(weights, len(SHARES)), 30.0))  # (n, channels, states - 1)
        says = np.log((1 - share + share * each) / (1 - LONE + LONE * each)) - MARGIN
        says *= np.broadcast_to(counts, says.shape[:2])[:, :, None]
        evidence = np.zeros_like(self.now)
        evidence[:, :, 1:] = _sums(says, subject, len(self.now))
        evidence = np.clip(evidence, -MINUTE_EVIDENCE, MINUTE_CLEAR)
        heard = np.bincount(subject, minlength=len(self.now)) > 0
        whole = np.log(np.exp(evidence[:, :, 1:]).mean(axis=2))
        evidence[:, :, 1:] -= self._guard.excess()[:, :, None]
        evidence[~heard] = 0.0
        likelihood = np.exp(evidence)
        # Silence tells where there is talk: of what is rarely called anyway a minute without calls says little.
        ends = np.where(heard, ENDS, ENDS + (UNHEARD_ENDS - ENDS) * self._heard)
        self._heard += (heard - self._heard) / HEARD_MINUTES
        self._taught = None
        states = self.now
        for _ in range(_silent(self._past[-1].minute_ms, minute_ms) if self._past else 0):
            states = self._passed(states, np.full(len(states), UNHEARD_ENDS))
        states = self._passed(states, ends) * likelihood
        self.now = states / states.sum(axis=2, keepdims=True)
        said = np.where(heard[:, None], whole, np.nan)
        self._past.append(Past(minute_ms, self.now, likelihood, ends, said))
        if len(self._past) > self._lag:
            self._teach(self._past[-self._lag - 1])
        del self._past[: -self._lag - 1]

    def _teach(self, past: Past) -> None:
        """Let the guard learn from a minute that is over, by what is known of it in hindsight: what only seems to be
        well while an episode begins, or is faint, is no usual minute."""
        said = grown(past.said, len(self.now), np.nan)
        states = self.at(past.minute_ms)
        self._taught = past.minute_ms, states
        ill = 1 - states[:, :, 0]
        self._guard.learn(np.nan_to_num(said), np.isfinite(said), ill)

    def _passed(self, states: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The chances a minute later. An episode that goes on may change its share or strength."""
        ends = ends[:, None, None]
        well, ill = states[:, :, :1], states[:, :, 1:]
        some = ill.sum(axis=2, keepdims=True)
        count = len(self._shares)
        stays = ill * (1 - ends) * (1 - CHANGES) + some * ((1 - ends) * CHANGES / count)
        return np.concatenate([well * (1 - BEGINS) + some * ends, stays + well * BEGINS / count], axis=2)

    def _passed_back(self, future: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """What the next minute's evidence says of each state of this minute."""
        ends = ends[:, None, None]
        well, ill = future[:, :, :1], future[:, :, 1:]
        some = np.add.reduce(ill, axis=2, keepdims=True) / ill.shape[2]  # the mean, without its checks
        goes_on = ill * (1 - CHANGES) + some * CHANGES
        return np.concatenate([well * (1 - BEGINS) + some * BEGINS, well * ends + goes_on * (1 - ends)], axis=2)

    def at(self, minute_ms: int) -> np.ndarray:
        """Chances in a minute by all that came since.  # (subjects, channels, states)"""
        if self._taught is not None and self._taught[0] == minute_ms:
            return self._taught[1]
        subjects = len(self.now)
        future = np.ones_like(self.now)
        later: tuple[int, np.ndarray] | None = None
        for minute, filtered, likelihood, ends, _ in reversed(self._past):
            if later is not None:
                later_ms, later_ends = later
                future = self._passed_back(future, later_ends)
                for _ in range(_silent(minute, later_ms)):
                    future = self._passed_back(future, np.full(subjects, UNHEARD_ENDS))
                future /= future.max(axis=2, keepdims=True)
            later = minute, grown(ends, subjects, ENDS)
            likelihood = grown(likelihood, subjects, 1.0)
            if minute <= minute_ms:
                states = np.zeros_like(self.now)
                states[:, :, 0] = 1.0
                states[: len(filtered)] = filtered
                later_too = states * future
                later_too /= later_too.sum(axis=2, keepdims=True)
                # What followed may confirm or withdraw; it finds an episode only where the minute itself speaks for it.
                speaks = likelihood[:, :, 1:].max(axis=2) > 1
                sinks = later_too[:, :, 0] > states[:, :, 0]
                return np.where((speaks | sinks)[:, :, None], later_too, states)
            future = future * likelihood
        return self.now


def _sums(values: np.ndarray, subject: np.ndarray, subjects: int) -> np.ndarray:
    """Sums of the rows of each subject.  # (subjects, ...)  As by np.add.at but for rounding, and much faster."""
    found = np.zeros((subjects, *values.shape[1:]))
    if len(subject):
        order = np.argsort(subject, kind="stable")
        of = subject[order]
        first = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
        found[of[first]] = np.add.reduceat(values[order], first)
    return found


def by_share(states: np.ndarray) -> np.ndarray:
    """Chances of the episodes' states.  # (subjects, channels, shares, strengths)"""
    return states[:, :, 1:].reshape(*states.shape[:2], len(SHARES), -1)
