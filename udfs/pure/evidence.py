"""What a minute's spans say against whom: the rule's channels, each against its own lagged past.

Evidence is a log likelihood ratio in nats, anomalous against usual, of one span, on one channel,
against one service:

    own        own time of a span, against its operation's running location and scale
    leaf       duration of a call that nobody answers with a span (databases, dead callees)
    gap        time between a call and its callee's span: network, accept queue, broker
    failure    an own error, against the operation's own error rate
    repeat     a call repeated more often than usual, unless the callee had failed before
    structure  a set of children that the operation hardly ever has
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.baseline import Profiles, Vocabulary, grown
from udfs.pure.children import Children
from udfs.pure.context import THRESHOLD, Context
from udfs.pure.frame import Frame
from udfs.pure.load import Load
from udfs.pure.replicas import Replicas

OWN, LEAF, GAP, FAILURE, REPEAT, STRUCTURE = range(6)
CHANNELS = 6
TIME_CHANNELS = 3  # the first ones

# Times are compared as logarithms; what is faster than this is all the same.
TIME_FLOOR_MS = 0.2
SCALE_START, SCALE_FLOOR = 0.5, 0.1
# Slowdowns looked for, by these factors.
SLOWDOWNS = np.log([1.6, 2.5, 5.0, 12.0])
# Beyond this, evidence of time counts by its logarithm only: usual times have heavy tails.
TAIL = 5.0
# The most that a span which is not slow says for its service.
RELIEF = -3.0
# Of what a minute's times have in common, a time counts for no more than so many scales: so slight shifts that
# come and go are soon known to be a service's way, while a storm of hours can't teach that it is one.
OFF_MAX = 1.5
# What load adds to times is known to this share of it.
LOAD_TOLERANCE = 0.45
# An operation's times are kept apart by how many different operations it called, those of a call
# by the operation that it was made for (statements of one name do different work) and by who
# answered it (so do calls that are named after their protocol alone), in so many rows.
SHAPES = 8
# A callee is slow enough to explain its caller's time-out beyond this many scales.
SLOW_CALLEE = 2.5

# Samples and minutes before an operation's times are judged, and calls before its children are.
SAMPLES_MIN, MINUTES_MIN = 12.0, 5.0
CALLS_MIN = 60.0

# Chance of an error, or of repetitions, in a service that is in trouble with them.
TROUBLE_RATE = 0.5
# What an operation's rate is thought to be, as if so many calls had told it.
ERROR_RATE, ERROR_CALLS = 5e-4, 200.0
# Of slow calls: how often the evidence of their times is thought to be beyond each level, as if SLOW_CALLS had
# told it. Times are skewed, or of two kinds (a connection that is there or has to be made): what a bell curve
# takes for a sign may be an operation's way.
SLOW_LEVELS = np.array([1.0, 2.0, 3.0, 6.0])
SLOW_RATES = np.array([2e-2, 5e-3, 1e-3, 3e-4])
SLOW_CALLS = 200.0
# Of repetitions, for the second call; each further one is thought to be rarer by REPEAT_DECAY.
REPEAT_RATE, REPEAT_CALLS, REPEAT_DECAY = 5e-4, 200.0, 0.3
# What is repeated in more than this share of the cases is the operation's way of working.
REPEAT_USUAL = 0.05
# Groups of 1, 2, 3, 4, and 5 or more calls are told apart.
REPEATS_MAX = 5
# A set of children that comes less often than this is rare.
RARE = 0.01
RARE_RATE, RARE_CALLS = 2e-3, 50.0
STRUCTURE_TROUBLE_RATE = 0.1
# Counts of calls, errors and structures forget with this time constant.
COUNT_MEMORY_MINUTES = 1440.0


class Evidence(NamedTuple):
    """One entry for each (row, channel) that says anything."""

    row: np.ndarray
    channel: np.ndarray
    service: np.ndarray  # id of who is to blame
    weight: np.ndarray  # nats


class Reading(NamedTuple):
    """A frame in the terms of the baselines, and what was found of it."""

    operation: np.ndarray  # (spans,) ids
    service: np.ndarray  # (spans,) ids
    callee: np.ndarray  # (spans,) id of who a call goes to, -1 = nobody known, or no call
    is_entry: np.ndarray  # (spans,) the callee's side of a call, or a root
    profile: np.ndarray  # (spans,) row in the table of times
    raw_log_time: np.ndarray  # (spans,) log of own time, duration of a leaf, or gap
    log_time: np.ndarray  # (spans,) the same less what the load adds
    load_slot: np.ndarray  # (spans,) row in the table of load
    load: np.ndarray  # (spans,) what the load adds
    replica: np.ndarray  # (spans,) row in the table of replicas
    is_timed: np.ndarray  # (spans,) the time is the operation's usual business
    is_known: np.ndarray  # (spans,) timed, and the time's profile is well known
    slow_level: np.ndarray  # (spans,) how many of SLOW_LEVELS the time is beyond
    surplus: np.ndarray  # (spans,) log_time above the profile's location
    variance: np.ndarray  # (spans,) of log_time around it
    failed: np.ndarray  # (spans,) by its own fault, or that of who it called
    groups: np.ndarray  # (groups,) first row of sibling calls of one operation
    repeat_row: np.ndarray  # (groups,) row in the table of repetitions
    structure: np.ndarray  # (spans,) hash of the operation and its children
    evidence: Evidence


class Baselines:
    """Tables of what is usual for each operation, and the vocabulary that they are kept by."""

    def __init__(self) -> None:
        self.services = Vocabulary()
        self.operations = Vocabulary()  # service SEPARATOR operation [SEPARATOR peer]
        self.samples = np.zeros(0)  # (services,) timed spans seen
        self.minutes = np.zeros(0)  # (services,) minutes in which any was seen
        self.roots = np.zeros(0)  # (operations,) traces seen with this root
        self._service_of = np.zeros(0, np.int64)  # (operations,)
        self._callee_of = np.zeros(0, np.int64)  # (operations,) who answers this call, -1 unknown
        self._hash_of = np.zeros(0, np.uint64)  # (operations,)
        self._service_hash = np.zeros(1, np.int64)  # (1 + services,) below SHAPES; 0: nobody
        self._times = Profiles(SCALE_START, SCALE_FLOOR)  # (operations * SHAPES,)
        self._durations = Profiles(SCALE_START, SCALE_FLOOR)  # (operations,)
        # (operations * SHAPES, ...) calls beyond each level of SLOW_LEVELS, all calls first
        self._slow = np.zeros((0, len(SLOW_LEVELS) + 1))
        self._load = Load()
        self._replicas = Replicas()
        self._children = Children()
        self._calls = np.zeros(0)  # (operations,)
        self._failures = np.zeros(0)
        self._rare = np.zeros(0)  # calls with a rare set of children
        # (operations * SHAPES, ...) groups of at least n sibling calls; index 0 is not used
        self._repeats = np.zeros((0, REPEATS_MAX + 1))
        self._loops = Context(channels=1)  # of operations
        self._structures = np.zeros(0, np.uint64)  # sorted
        self._structure_calls = np.zeros(0)
        self._structure_seen = np.zeros(0, np.int64)

    def read(self, minute_ms: int, frame: Frame) -> Reading:
        """Compare a minute with the past. Names are entered and the load's level follows; nothing
        else is learnt."""
        operation = self._enter(minute_ms, frame)
        service = self._service_of[operation]
        is_entry = ~frame.has_parent | (service[frame.parent] != service)
        callee = self._callees(frame, operation, service, is_entry)
        blamed = np.where(callee >= 0, callee, service)
        channel = np.where(frame.is_answered, GAP, np.where(frame.is_call, LEAF, OWN))

        # Sibling calls of one operation, and the set of children that they make up.
        groups, group_of = frame.sibling_groups()
        structure = self._hash_of[operation].copy()
        np.add.at(structure, frame.parent[groups], self._hash_of[operation[groups]] * _CHILD)
        children = np.bincount(frame.parent[groups], minlength=frame.count)
        caller = (self._hash_of[operation[frame.parent]] % SHAPES).astype(np.int64)
        caller[~frame.has_parent] = 0
        answerer = np.where(frame.is_answered & (callee >= 0), callee + 1, 0)
        of_call = (caller + self._service_hash[answerer]) % SHAPES
        shape = np.where(frame.is_call, of_call, np.minimum(children, SHAPES - 1))
        profile = operation * SHAPES + shape
        repeat_row = operation[groups] * SHAPES + caller[groups]

        business = ~(frame.is_error | frame.has_erring_child)
        known = business & self._times.is_settled(profile, SAMPLES_MIN, MINUTES_MIN)
        load_slot = blamed * TIME_CHANNELS + channel
        raw_log_time = np.log(np.maximum(frame.own_ms, 0.0) + TIME_FLOOR_MS)
        telling = np.flatnonzero(known & (channel == OWN))
        surplus = raw_log_time[telling] - self._times.location[profile[telling]]
        self._load.follow(service[telling], surplus, self._times.scale[profile[telling]])
        load = self._load.shift()[load_slot]
        replica = self._replicas.enter(minute_ms, frame, load_slot, channel == GAP)
        offset, uncertainty = self._replicas.offset(replica)
        log_time = raw_log_time - load - offset
        surplus = log_time - self._times.location[profile]
        variance = self._time_variance(profile, LOAD_TOLERANCE * load) + uncertainty
        time_weight = _time_weight(surplus, variance)
        slow_level = np.searchsorted(SLOW_LEVELS, time_weight)
        time_weight = self._tempered(profile, time_weight, slow_level)

        excused = self._excused(frame, operation, time_weight > 0)
        unexcused = np.bincount(group_of, ~excused[frame.has_parent], minlength=len(groups))
        rate = self._repeat_rate(repeat_row, _repeats(frame, groups))
        is_loop = (frame.repeats[groups] > 1) & (unexcused > 1) & (rate < REPEAT_USUAL)
        repeat_weight = np.where(is_loop, np.log(TROUBLE_RATE / rate), -np.inf)
        # A loop shows in one kind of call, be the service that makes it ever so busy with others.
        settled = self.are_repeats_known(repeat_row)
        self._loops.step(operation[groups[settled]], repeat_weight[settled, None])
        repeat_weight += self.loop_context(operation[groups])
        in_loop = np.zeros(frame.count, bool)
        in_loop[frame.has_parent] = is_loop[group_of]
        is_timed = business & ~frame.is_parent_of(in_loop)
        is_known = known & is_timed
        failed = frame.failed & ~in_loop

        timed, erring, loops = np.flatnonzero(is_known), np.flatnonzero(failed), groups[is_loop]
        rare, rare_weight = self._rare_structures(frame, operation, structure)
        parts = (
            (timed, channel[timed], blamed[timed], time_weight[timed]),
            (erring, FAILURE, blamed[erring], self._failure_weight(operation[erring])),
            (loops, REPEAT, service[frame.parent[loops]], repeat_weight[is_loop]),
            (rare, STRUCTURE, service[rare], rare_weight),
        )
        evidence = Evidence(*(
            np.concatenate([np.broadcast_to(part[i], len(part[0])) for part in parts])
            for i in range(len(Evidence._fields))
        ))  # fmt: skip
        return Reading(
            operation, service, callee, is_entry, profile, raw_log_time, log_time, load_slot, load, replica,
            is_timed, is_known, slow_level, surplus, variance, failed, groups, repeat_row, structure, evidence,
        )  # fmt: skip

    def _callees(self, frame: Frame, operation: np.ndarray, service: np.ndarray, is_entry: np.ndarray) -> np.ndarray:
        """Who answers each call: who did, else who usually does, else -1. No call: -1."""
        callee = self._callee_of[operation]
        answers = np.flatnonzero(is_entry & frame.has_parent)
        callee[frame.parent[answers]] = service[answers]
        return np.where(frame.is_call, callee, -1)

    def _excused(self, frame: Frame, operation: np.ndarray, is_slow: np.ndarray) -> np.ndarray:
        """Attempts that failed by the callee, so that to try again is no fault of the caller's.

        The callee did not answer, or with an error, or was slow; without calling spans any error.
        """
        usual = self._durations
        surplus = np.log(frame.duration_ms + TIME_FLOOR_MS) - usual.location[operation]
        slow = surplus > SLOW_CALLEE * usual.scale[operation]
        slow &= usual.is_settled(operation, SAMPLES_MIN, MINUTES_MIN)
        by_callee = ~frame.is_answered | frame.has_erring_child | frame.is_parent_of(slow) | is_slow
        return frame.is_error & (by_callee | ~frame.is_call)

    def _enter(self, minute_ms: int, frame: Frame) -> np.ndarray:
        """Enter the names of a frame; the operation's id of each span."""
        parts = [name.split(SEPARATOR) for name in frame.operations]
        services, operations = len(self.services), len(self.operations)
        self.services.see([part[0] for part in parts], minute_ms)
        new = [int(_hash(name)) % SHAPES for name in self.services.names[len(self._service_hash) - 1 :]]
        self._service_hash = np.append(self._service_hash, np.array(new, np.int64))
        self.operations.see(frame.operations, minute_ms)
        self._resize(len(self.services), len(self.operations))
        if len(self.operations) > operations:
            for i in range(operations, len(self.operations)):
                name = self.operations.names[i]
                self._service_of[i] = self.services.get(name.split(SEPARATOR)[0])
                self._hash_of[i] = _hash(name)
        if len(self.operations) > operations or len(self.services) > services:
            # A peer that became known as a service answers from now on.
            known = {name.rsplit("/", 1)[-1]: i for i, name in enumerate(self.services.names)}
            for i in np.flatnonzero(self._callee_of < 0):
                for peer in self.operations.names[i].split(SEPARATOR)[2:]:
                    self._callee_of[i] = known.get(peer, known.get(_host(peer), -1))
        ids = np.array([self.operations.get(name) for name in frame.operations])
        return ids[frame.operation]

    def _resize(self, services: int, rows: int) -> None:
        self.samples = grown(self.samples, services)
        self.minutes = grown(self.minutes, services)
        self._load.resize(services * TIME_CHANNELS)
        for name in ("roots", "_service_of", "_hash_of", "_calls", "_failures", "_rare"):
            setattr(self, name, grown(getattr(self, name), rows))
        self._callee_of = grown(self._callee_of, rows, -1)
        self._repeats = grown(self._repeats, rows * SHAPES)
        self._slow = grown(self._slow, rows * SHAPES)
        self._times.resize(rows * SHAPES)
        self._durations.resize(rows)
        self._loops.resize(rows)

    def _time_variance(self, profile: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
        """Variance of each span's log time around its profile's location.  # (spans,)

        tolerance: (spans,) by how much the usual may be off.
        """
        variance = self._times.scale[profile] ** 2
        # Young estimates are uncertain by themselves.
        variance = variance * (1 + 4 / np.maximum(self._times.minutes[profile], 1.0))
        variance = variance * self._load.widening()
        return variance + tolerance**2

    def loop_context(self, operation: np.ndarray) -> np.ndarray:
        """What the context of loops adds to the evidence of repeated calls.  # (len(operation),)"""
        return self._loops.log_odds()[operation, 0] + THRESHOLD

    def are_repeats_known(self, repeat_row: np.ndarray) -> np.ndarray:
        """Whether it is known how often each call is repeated.  # (len(repeat_row),)"""
        return self._repeats[repeat_row, 1] >= CALLS_MIN

    def _tempered(self, profile: np.ndarray, weight: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Evidence of time, where the operation is slow now and then by nature at most so much."""
        return np.minimum(weight, self._slow_limit(profile, level))

    def _slow_limit(self, profile: np.ndarray, level: np.ndarray) -> np.ndarray:
        slow = self._slow[profile, level] + SLOW_CALLS * SLOW_RATES[np.maximum(level, 1) - 1]
        rate = slow / (self._slow[profile, 0] + SLOW_CALLS)
        return np.where(level > 0, np.log(TROUBLE_RATE / rate), np.inf)

    def slow_limit(self, reading: Reading) -> np.ndarray:
        """The most that each span's time can say, by how often its like is that slow.  # (spans,)"""
        return self._slow_limit(reading.profile, reading.slow_level)

    def _failure_weight(self, operation: np.ndarray) -> np.ndarray:
        """Evidence of a failure, by how often the operation fails anyway."""
        failures = self._failures[operation] + ERROR_RATE * ERROR_CALLS
        return np.log(TROUBLE_RATE / failures * (self._calls[operation] + ERROR_CALLS))

    def _repeat_rate(self, row: np.ndarray, repeats: np.ndarray) -> np.ndarray:
        """How often a call is made at least so many times."""
        thought = REPEAT_RATE * REPEAT_DECAY ** (repeats - 2.0)
        groups = self._repeats[row, repeats] + thought * REPEAT_CALLS
        return groups / (self._repeats[row, 1] + REPEAT_CALLS)

    def _rare_structures(
        self, frame: Frame, operation: np.ndarray, structure: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(rows with a rare set of children that no error explains, evidence)"""
        calls = self._calls[operation]
        judged = (calls >= CALLS_MIN) & ~frame.is_error & ~frame.has_erring_child
        share = self._structure_share(structure, calls)
        rate = (self._rare[operation] + RARE_RATE * RARE_CALLS) / (calls + RARE_CALLS)
        rows = np.flatnonzero(judged & (share < RARE))
        return rows, np.log(STRUCTURE_TROUBLE_RATE / np.maximum(share, rate)[rows])

    def _structure_share(self, structure: np.ndarray, calls: np.ndarray) -> np.ndarray:
        """How often an operation's call has just this set of children."""
        if not len(self._structures):
            return np.zeros(len(structure))
        at = np.minimum(np.searchsorted(self._structures, structure), len(self._structures) - 1)
        seen = np.where(self._structures[at] == structure, self._structure_calls[at], 0.0)
        return seen / np.maximum(calls, 1.0)

    def learn(
        self,
        minute_ms: int,
        frame: Frame,
        reading: Reading,
        times: np.ndarray,
        events: np.ndarray,
    ) -> None:
        """Take in a minute. times, events: (spans,) how far each may teach how long things take,
        and how often things happen; 1 = fully."""
        operation = reading.operation
        known = reading.is_known
        surplus = reading.raw_log_time - self._times.location[reading.profile]
        self._load.learn(reading.load_slot[known], (surplus - self._replicas.offset(reading.replica)[0])[known])
        timed = np.where(reading.is_timed, times, 0.0)
        self._replicas.learn(reading.replica, surplus - reading.load, np.where(known, timed, 0.0))
        self._times.learn(reading.profile, reading.log_time, timed)
        self._durations.learn(operation, np.log(frame.duration_ms + TIME_FLOOR_MS), timed)
        timed_spans = np.bincount(reading.service, reading.is_timed, minlength=len(self.samples))
        self.samples += timed_spans
        self.minutes += timed_spans > 0
        self.roots += np.bincount(operation[frame.root], minlength=len(self.roots))
        answered = np.flatnonzero(frame.is_answered & (reading.callee >= 0))
        self._callee_of[operation[answered]] = reading.callee[answered]

        fade = 1 - 1 / COUNT_MEMORY_MINUTES
        self._learn_children(minute_ms, frame, reading, events, fade)
        calls = self._calls
        rare = self._structure_share(reading.structure, calls[operation]) < RARE
        size = len(calls)
        for column, chosen in (
            (self._failures, reading.failed),
            (self._rare, rare & (calls[operation] >= CALLS_MIN)),
            (self._calls, np.ones(frame.count, bool)),
        ):
            column *= fade
            column += np.bincount(operation[chosen], events[chosen], minlength=size)
        self._slow *= fade
        for least in range(len(SLOW_LEVELS) + 1):
            of = known & (reading.slow_level >= least)
            self._slow[:, least] += np.bincount(reading.profile[of], times[of], minlength=len(self._slow))
        self._repeats *= fade
        groups = reading.groups
        repeats = _repeats(frame, groups)
        for least in range(1, REPEATS_MAX + 1):
            of = repeats >= least
            self._repeats[:, least] += np.bincount(
                reading.repeat_row[of], events[groups[of]], minlength=len(self._repeats)
            )
        self._learn_structures(minute_ms, reading.structure, events)

    def _learn_children(self, minute_ms: int, frame: Frame, reading: Reading, events: np.ndarray, fade: float) -> None:
        below = np.flatnonzero(frame.has_parent & reading.is_entry)
        services = len(self.services)
        # Each parent and service of a child once.
        pairs = np.unique(frame.parent[below] * services + reading.service[below])
        parent, service = np.divmod(pairs, services)
        kinds, index = np.unique(frame.operation[parent] * services + service, return_inverse=True)
        weights = np.bincount(index, events[parent], minlength=len(kinds))
        operations, answering = np.divmod(kinds, services)
        self._children.learn(
            minute_ms,
            [frame.operations[i] for i in operations.tolist()],
            [self.services.names[i] for i in answering.tolist()],
            weights,
            fade,
        )

    def missing_callee(self, frame: Frame, reading: Reading, rows: np.ndarray) -> np.ndarray:
        """The service of a child that each of ``rows`` should have and lacks, -1 = none.  # (len(rows),)"""
        below = np.flatnonzero(frame.has_parent & reading.is_entry & np.isin(frame.parent, rows))
        present: dict[int, set[str]] = {}
        for child in below.tolist():
            present.setdefault(int(frame.parent[child]), set()).add(self.services.names[reading.service[child]])
        found = [
            self._children.missing(
                frame.operations[frame.operation[row]], self._calls[reading.operation[row]], present.get(row, set())
            )
            for row in rows.tolist()
        ]
        return np.array([self.services.get(name) if name else -1 for name in found], np.int64)

    def _learn_structures(self, minute_ms: int, structure: np.ndarray, weights: np.ndarray) -> None:
        seen, inverse = np.unique(structure, return_inverse=True)
        counts = np.bincount(inverse, weights)
        new = seen[~np.isin(seen, self._structures)]
        if len(new):
            places = np.searchsorted(self._structures, new)
            self._structures = np.insert(self._structures, places, new)
            self._structure_calls = np.insert(self._structure_calls, places, 0.0)
            self._structure_seen = np.insert(self._structure_seen, places, 0)
        at = np.searchsorted(self._structures, seen)
        self._structure_calls *= 1 - 1 / COUNT_MEMORY_MINUTES
        self._structure_calls[at] += counts
        self._structure_seen[at] = minute_ms

    def forget(self, before_ms: int) -> None:
        """Forget what was last seen before a time; of services, that they were ever known well."""
        gone = self.services.last_seen[: len(self.samples)] < before_ms
        self.samples[gone] = self.minutes[gone] = 0.0
        self._replicas.forget(before_ms)
        self._children.forget(before_ms)
        kept = self._structure_seen >= before_ms
        self._structures = self._structures[kept]
        self._structure_calls = self._structure_calls[kept]
        self._structure_seen = self._structure_seen[kept]
        kept = np.flatnonzero(self.operations.last_seen >= before_ms)
        if len(kept) < len(self.operations):
            self._keep_operations(kept)

    def _keep_operations(self, kept: np.ndarray) -> None:
        """Forget all operations but those at ``kept``."""
        self.operations.keep(kept)
        for name in (
            "roots", "_service_of", "_callee_of", "_hash_of", "_calls", "_failures", "_rare",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[kept])
        rows = (kept[:, None] * SHAPES + np.arange(SHAPES)).ravel()
        self._repeats, self._slow = self._repeats[rows], self._slow[rows]
        self._times.keep(rows)
        self._durations.keep(kept)
        self._loops.keep(kept)


def _time_weight(surplus: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Evidence in nats of each span's log time above the usual, over all slowdowns.  # (spans,)"""
    shift = SLOWDOWNS[:, None]
    each = (shift * surplus - shift**2 / 2) / variance  # (slowdowns, spans)
    top = each.max(axis=0)
    weight = top + np.log(np.exp(each - top).mean(axis=0))
    weight = np.where(weight > TAIL, TAIL + np.log1p(np.maximum(weight - TAIL, 0.0)), weight)
    return np.maximum(weight, RELIEF)


def _repeats(frame: Frame, groups: np.ndarray) -> np.ndarray:
    return np.minimum(frame.repeats[groups], REPEATS_MAX)


def _host(peer: str) -> str:
    """The workload's name in an address such as cart.shop.svc.cluster.local:8080."""
    return peer.split(":")[0].split(".")[0]


# An odd factor, so that an operation as a child has another hash than as a parent.
_CHILD = np.uint64(0x9E3779B97F4A7C15)


def _hash(name: str) -> np.uint64:
    """64 bits of a name, the same in every process."""
    data = name.encode()
    return np.uint64(zlib.crc32(data) << 32 | zlib.crc32(data, 0x5BD1E995))
