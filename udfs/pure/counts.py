"""How often things happen to an operation: calls, errors, repetitions, rare children, slow times.

Every rate is what the operation showed, and what is thought of it at first as if so many calls had told it.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import grown
from udfs.pure.frame import Frame
from udfs.pure.reading import CALLS_MIN, SHAPES, Reading

# Counts forget with this time constant.
COUNT_MEMORY_MINUTES = 1440.0
FADE = 1 - 1 / COUNT_MEMORY_MINUTES

# Chance of an error, or of repetitions, in a service that is in trouble with them.
TROUBLE_RATE = 0.5
ERROR_RATE, ERROR_CALLS = 5e-4, 200.0
# Of a rare set of children; and its chance in a service that is in trouble.
RARE_RATE = 2e-3
STRUCTURE_TROUBLE_RATE = 0.1
# Of slow calls: how often the evidence of their times is beyond each level. Times are skewed, or of two kinds (a
# connection that is there or has to be made): what a bell curve takes for a sign may be an operation's way.
SLOW_LEVELS = np.array([1.0, 2.0, 3.0, 6.0])
SLOW_RATES = np.array([2e-2, 5e-3, 1e-3, 3e-4])
SLOW_CALLS = 200.0
# Of repetitions, for the second call; each further one is thought to be rarer by REPEAT_DECAY.
REPEAT_RATE, REPEAT_CALLS, REPEAT_DECAY = 5e-4, 200.0, 0.3
# What is repeated in more than this share of the cases is the operation's way of working.
REPEAT_USUAL = 0.05
# Groups of 1, 2, 3, 4, and 5 or more calls are told apart.
REPEATS_MAX = 5

# Events that only tokens tell of, and how often they are thought to happen.
REPEATS, UNANSWERED = range(2)
EVENT_RATES = np.array([1e-3, ERROR_RATE])


class Counts:
    """State: faded counts by operation, and by operation and shape."""

    def __init__(self) -> None:
        self.calls = np.zeros(0)  # (operations,)
        self.answered = np.zeros(0)  # calls of which the callee has a span
        self.failures = np.zeros(0)
        self.rare = np.zeros(0)  # calls with a rare set of children
        self.events = np.zeros((0, len(EVENT_RATES)))  # (operations, events)
        # (operations * SHAPES, ...) calls beyond each level of SLOW_LEVELS, all calls first
        self._slow = np.zeros((0, len(SLOW_LEVELS) + 1))
        # (operations * SHAPES, ...) groups of at least n sibling calls; index 0 is not used
        self._repeats = np.zeros((0, REPEATS_MAX + 1))

    def resize(self, operations: int) -> None:
        """Have rows for so many operations."""
        for name in ("calls", "answered", "failures", "rare", "events"):
            setattr(self, name, grown(getattr(self, name), operations))
        self._slow = grown(self._slow, operations * SHAPES)
        self._repeats = grown(self._repeats, operations * SHAPES)

    def keep(self, kept: np.ndarray, profiles: np.ndarray) -> None:
        """Keep the operations at ``kept``, whose rows by shape are ``profiles``."""
        for name in ("calls", "answered", "failures", "rare", "events"):
            setattr(self, name, getattr(self, name)[kept])
        self._slow, self._repeats = self._slow[profiles], self._repeats[profiles]

    def age(self, operation: np.ndarray) -> np.ndarray:
        """How much of what counts remember they have seen of each span's operation, at the pace of these spans.

        operation: (spans,) of a minute.  # (spans,) from 0 to 1
        """
        now = np.bincount(operation, minlength=len(self.calls))
        return np.minimum(self.calls / np.maximum(now * COUNT_MEMORY_MINUTES, 1.0), 1.0)[operation]

    def log_rate(self, events: np.ndarray, thought: float, operation: np.ndarray) -> np.ndarray:
        """Log of how often such events happen to the operations' calls.  # (len(operation),)"""
        return np.log((events[operation] + thought * ERROR_CALLS) / (self.calls[operation] + ERROR_CALLS))

    def slow_limit(self, profile: np.ndarray, level: np.ndarray) -> np.ndarray:
        """The most that a time of this level can say, by how often its like is that slow.  # (len(profile),)"""
        slow = self._slow[profile, level] + SLOW_CALLS * SLOW_RATES[np.maximum(level, 1) - 1]
        rate = slow / (self._slow[profile, 0] + SLOW_CALLS)
        return np.where(level > 0, np.log(TROUBLE_RATE / rate), np.inf)

    def repeat_rate(self, row: np.ndarray, repeats: np.ndarray) -> np.ndarray:
        """How often a call is made at least so many times."""
        thought = REPEAT_RATE * REPEAT_DECAY ** (repeats - 2.0)
        groups = self._repeats[row, repeats] + thought * REPEAT_CALLS
        return groups / (self._repeats[row, 1] + REPEAT_CALLS)

    def are_repeats_known(self, row: np.ndarray) -> np.ndarray:
        """Whether it is known how often each call is repeated."""
        return self._repeats[row, 1] >= CALLS_MIN

    def learn(
        self,
        frame: Frame,
        reading: Reading,
        is_rare: np.ndarray,
        times: np.ndarray,
        events: np.ndarray,
        failures: np.ndarray,
    ) -> None:
        """Take in a minute. is_rare: (spans,) the set of children is. times, events, failures: see Baselines.learn."""
        operation, size = reading.operation, len(self.calls)
        is_rare = is_rare & (self.calls[operation] >= CALLS_MIN)
        columns = [
            (self.failures, reading.failed, failures),
            (self.rare, is_rare, events),
            (self.calls, np.ones(frame.count, bool), events),
            (self.answered, frame.is_answered, events),
            (self.events[:, REPEATS], caller_repeats(frame, reading) > 1, failures),
            (self.events[:, UNANSWERED], frame.is_call & ~frame.is_answered & (reading.callee >= 0), failures),
        ]
        for column, chosen, weights in columns:
            column *= FADE
            column += np.bincount(operation[chosen], weights[chosen], minlength=size)
        self._slow *= FADE
        for least in range(len(SLOW_LEVELS) + 1):
            of = reading.is_known & (reading.slow_level >= least)
            self._slow[:, least] += np.bincount(reading.profile[of], times[of], minlength=len(self._slow))
        self._repeats *= FADE
        repeats = group_repeats(frame, reading.groups)
        for least in range(1, REPEATS_MAX + 1):
            of = repeats >= least
            self._repeats[:, least] += np.bincount(
                reading.repeat_row[of], failures[reading.groups[of]], minlength=len(self._repeats)
            )


def group_repeats(frame: Frame, groups: np.ndarray) -> np.ndarray:
    """How often each group of sibling calls repeats its call, up to REPEATS_MAX.  # (groups,)"""
    return np.minimum(frame.repeats[groups], REPEATS_MAX)


def caller_repeats(frame: Frame, reading: Reading) -> np.ndarray:
    """How often a span makes the call that it makes most often; 0 without calls.  # (spans,)"""
    repeats = np.zeros(frame.count, np.int64)
    np.maximum.at(repeats, frame.parent[reading.groups], frame.repeats[reading.groups])
    return repeats


def made_by(frame: Frame, reading: Reading) -> np.ndarray:
    """The span that tells the kind of call which led to each span: its own, or, where its service answers a caller that
    has no span for calling, the caller's.  # (spans,)
    """
    parent = np.where(frame.has_parent, frame.parent, 0)
    is_direct = frame.has_parent & ~frame.is_call[parent] & (reading.service[parent] != reading.service)
    return np.where(is_direct, parent, np.arange(frame.count))
