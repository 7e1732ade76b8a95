"""A minute's spans in the terms of what is usual for their operations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from udfs.pure.frame import Frame

# Times are compared as logarithms; what is faster than this is all the same.
TIME_FLOOR_MS = 0.2
# What an operation's scale of log times is thought to be, and its least value.
SCALE_START, SCALE_FLOOR = 0.5, 0.1
# An operation's times are kept apart by how many different operations it called, those of a call
# by the operation that it was made for (statements of one name do different work) and by who
# answered it (so do calls that are named after their protocol alone), in so many rows.
SHAPES = 8

# Samples and minutes before an operation's times are judged, and calls before its children are.
SAMPLES_MIN, MINUTES_MIN = 12.0, 5.0
CALLS_MIN = 60.0

# Slowdowns looked for, by these factors.
SLOWDOWNS = np.log([1.6, 2.5, 5.0, 12.0])
# Beyond this, evidence of time counts by its logarithm only: usual times have heavy tails.
TAIL = 5.0
# The most that a span which is not slow says for its service.
RELIEF = -3.0
# Of what a minute's times have in common, a time counts for no more than so many scales: so slight shifts that
# come and go are soon known to be a service's way, while a storm of hours can't teach that it is one.
OFF_MAX = 1.5


class Reading(NamedTuple):
    """A frame as the baselines see it."""

    operation: np.ndarray  # (spans,) ids
    service: np.ndarray  # (spans,) ids
    callee: np.ndarray  # (spans,) id of who a call goes to, -1 = nobody known, or no call
    is_entry: np.ndarray  # (spans,) the callee's side of a call, or a root
    profile: np.ndarray  # (spans,) row in the table of times
    raw_log_time: np.ndarray  # (spans,) log of own time, duration of a leaf, or gap
    log_time: np.ndarray  # (spans,) the same less what the load adds and the replica's offset
    load_slot: np.ndarray  # (spans,) row in the table of load
    load: np.ndarray  # (spans,) what the load adds
    replica: np.ndarray  # (spans,) row in the table of replicas
    is_timed: np.ndarray  # (spans,) the time is the operation's usual business
    is_known: np.ndarray  # (spans,) timed, and the time's profile is well known
    slow_level: np.ndarray  # (spans,) how many of counts.SLOW_LEVELS the time is beyond
    surplus: np.ndarray  # (spans,) log_time above the profile's location
    variance: np.ndarray  # (spans,) of log_time around it
    failed: np.ndarray  # (spans,) by its own fault, or that of who it called
    groups: np.ndarray  # (groups,) first row of sibling calls of one operation
    repeat_row: np.ndarray  # (groups,) row in the table of repetitions
    structure: np.ndarray  # (spans,) hash of the operation and its children
    loops: np.ndarray  # (loops,) those of groups that repeat a call without a reason
    loop_weight: np.ndarray  # (loops,) evidence of it, in nats
    misused: np.ndarray  # (spans,) it fails as it answers this caller alone
    caller: np.ndarray  # (spans,) id of who made the call that the span answers, of others the service
    is_silent: np.ndarray  # (spans,) a call to a service that never emits spans

    @property
    def blamed(self) -> np.ndarray:
        """The service that each span's time tells of: who a call goes to, else its own.  # (spans,)"""
        return np.where(self.callee >= 0, self.callee, self.service)

    def waits_for(self, frame: Frame, services: np.ndarray) -> np.ndarray:
        """Whether the own time of each span has the way to one of these services in it: it asked it itself, without a
        span for the call.  # (spans,)

        services: (services,) bool.
        """
        answers = np.flatnonzero(self.is_entry & frame.has_parent)
        asking = frame.parent[answers[services[self.service[answers]]]]
        waits = np.zeros(frame.count, bool)
        waits[asking[~frame.is_call[asking]]] = True
        return waits
