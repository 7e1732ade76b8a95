"""What is usual for each operation, and what a minute's spans are beside it.

Every table is lagged: a minute is read first, and learnt from afterwards.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from udfs.pure.assemble import SEPARATOR
from udfs.pure.baseline import Profiles, Vocabulary, fewer, grown, seen_lately
from udfs.pure.callers import Callers
from udfs.pure.channels import GAP, LEAF, OWN, TIMES
from udfs.pure.children import ChildOperations, Children, Missing
from udfs.pure.counts import ERROR_RATE, FADE, REPEAT_USUAL, SLOW_LEVELS, TROUBLE_RATE, Counts, group_repeats
from udfs.pure.curves import Curves
from udfs.pure.demand import Demand, requests_of
from udfs.pure.frame import Frame
from udfs.pure.load import Load
from udfs.pure.reading import (
    MINUTES_MIN,
    RELIEF,
    SAMPLES_MIN,
    SCALE_FLOOR,
    SCALE_START,
    SHAPES,
    SLOWDOWNS,
    TAIL,
    TIME_FLOOR_MS,
    Reading,
)
from udfs.pure.replicas import Replicas
from udfs.pure.structures import RARE, Structures
from udfs.pure.wander import Wander

# What load adds to times is known to this share of it.
LOAD_TOLERANCE = 0.45
# A callee is slow enough to explain its caller's time-out beyond this many scales.
SLOW_CALLEE = 2.5

# The most services, and rows of every other table here, that are kept, whatever names come: those that were seen last.
SERVICES_MOST, ROWS_MOST = 2_000, 20_000


class Baselines:
    """Tables of what is usual for each operation, and the vocabulary that they are kept by."""

    def __init__(self) -> None:
        self.services = Vocabulary()
        self.operations = Vocabulary()  # service SEPARATOR operation [SEPARATOR peer]
        self.service_since = np.zeros(0, np.int64)  # (services,) minute in ms
        self.spans = np.zeros(0)  # (services,) spans seen
        self.samples = np.zeros(0)  # (services,) timed spans seen
        self.minutes = np.zeros(0)  # (services,) minutes in which any was seen
        self.roots = np.zeros(0)  # (operations,) traces seen with this root
        self.times = Profiles(SCALE_START, SCALE_FLOOR)  # (operations * SHAPES,)
        self.durations = Profiles(SCALE_START, SCALE_FLOOR)  # (operations,)
        self.starts = Profiles(SCALE_START, SCALE_FLOOR)  # (operations,) after the parent's
        self.counts = Counts()
        self.structures = Structures()
        self.wander = Wander()
        self._service_of = np.zeros(0, np.int64)  # (operations,)
        self._callee_of = np.zeros(0, np.int64)  # (operations,) who answers this call, -1 unknown
        self._peer_of = np.zeros(0, np.int64)  # (operations,) the service that this call names, -1 unknown
        self._hash_of = np.zeros(0, np.uint64)  # (operations,)
        self._has_new_services = False  # whose names calls may already have
        self._looked_up = 0  # operations whose peers were looked for among the services that are known
        self._service_hash = np.zeros(1, np.int64)  # (1 + services,) below SHAPES; 0: nobody
        self._load = Load()
        self._demand = Demand()
        self._curves = Curves()
        self._replicas = Replicas()
        self._children = Children()
        self._child_operations = ChildOperations()
        self._callers = Callers()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of an earlier release, too, which had no demand, curves or children by operation and looked all peers up."""
        new = {"_demand": Demand(), "_curves": Curves(), "_child_operations": ChildOperations(), "_looked_up": 0}
        self.__dict__.update(new | state)
        self._child_operations.resize(len(self.operations))
        self._curves.resize(len(self.services) * TIMES)

    def read(self, minute_ms: int, frame: Frame, pods: np.ndarray | None = None) -> Reading:
        """Compare a minute with the past. Names are entered, the load's level and the demand follow; nothing else is
        learnt. pods: (services that are known,) that run, 0 = nobody tells."""
        operation = self._enter(minute_ms, frame)
        service = self._service_of[operation]
        is_entry = ~frame.has_parent | (service[frame.parent] != service)
        callee, is_silent = self._callees(frame, operation, service, is_entry)
        parent = np.where(frame.has_parent, frame.parent, 0)
        caller = np.where(is_silent[parent], callee[parent], service[parent])
        caller = np.where(is_entry & frame.has_parent, caller, service)
        blamed = np.where(callee >= 0, callee, service)
        channel = np.where(frame.is_answered, GAP, np.where(frame.is_call, LEAF, OWN))

        # Sibling calls of one operation, and the set of children that they make up.
        groups, group_of = frame.sibling_groups()
        structure = self._hash_of[operation].copy()
        np.add.at(structure, frame.parent[groups], self._hash_of[operation[groups]] * _CHILD)
        children = np.bincount(frame.parent[groups], minlength=frame.count)
        of_caller = (self._hash_of[operation[frame.parent]] % SHAPES).astype(np.int64)
        of_caller[~frame.has_parent] = 0
        answerer = np.where(frame.is_answered & (callee >= 0), callee + 1, 0)
        of_call = (of_caller + self._service_hash[answerer]) % SHAPES
        shape = np.where(frame.is_call, of_call, np.minimum(children, SHAPES - 1))
        profile = operation * SHAPES + shape
        repeat_row = operation[groups] * SHAPES + of_caller[groups]

        business = ~(frame.is_error | frame.has_erring_child)
        known = business & self.times.is_settled(profile, SAMPLES_MIN, MINUTES_MIN)
        load_slot = blamed * TIMES + channel
        raw_log_time = np.log(np.maximum(frame.own_ms, 0.0) + TIME_FLOOR_MS)
        telling = np.flatnonzero(known & (channel == OWN))
        requests = requests_of(frame, groups, service, callee, is_entry, is_silent, len(self.services))
        self._demand.follow(minute_ms, requests, pods)
        surplus = raw_log_time[telling] - self.times.location[profile[telling]]
        self._load.follow(service[telling], surplus, self.times.scale[profile[telling]])
        load = (self._load.shift() + self._curves.shift(self._demand_of_slots()))[load_slot]
        replica = self._replicas.enter(minute_ms, frame, self.services.names, load_slot, channel == GAP)
        offset, uncertainty = self._replicas.offset(replica)
        log_time = raw_log_time - load - offset
        surplus = log_time - self.times.location[profile]
        variance = self._time_variance(profile, LOAD_TOLERANCE * load) + uncertainty
        slowness = time_weight(surplus, variance)
        slow_level = np.searchsorted(SLOW_LEVELS, slowness)
        slowness = np.minimum(slowness, self.counts.slow_limit(profile, slow_level))
        # Demand makes nothing faster: what is as fast as usual is well, whatever it might have been.
        surplus = surplus - np.clip(surplus, 0.0, self._demand.unknown()[blamed])

        misused = self._misused(minute_ms, frame, operation, caller, is_entry, slow_level)
        excused = self._excused(frame, operation, slowness > 0, misused)
        unexcused = np.bincount(group_of, ~excused[frame.has_parent], minlength=len(groups))
        rate = self.counts.repeat_rate(repeat_row, group_repeats(frame, groups))
        is_loop = (frame.repeats[groups] > 1) & (unexcused > 1) & (rate < REPEAT_USUAL)
        repeat_weight = np.where(is_loop, np.log(TROUBLE_RATE / rate), -np.inf)
        in_loop = np.zeros(frame.count, bool)
        in_loop[frame.has_parent] = is_loop[group_of]
        is_timed = business & ~frame.is_parent_of(in_loop)
        is_known = known & is_timed
        failed = frame.failed & ~in_loop

        return Reading(
            operation, service, callee, is_entry, profile, raw_log_time, log_time, load_slot, load, replica,
            is_timed, is_known, slow_level, surplus, variance, failed, groups, repeat_row, structure,
            groups[is_loop], repeat_weight[is_loop], misused, caller, is_silent,
        )  # fmt: skip

    def _callees(
        self, frame: Frame, operation: np.ndarray, service: np.ndarray, is_entry: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(who answers each call: who did, else who usually does, else -1, and -1 where it is no call; whether that
        one has no spans)  # 2 x (spans,)

        A workload that a call names and that never emits spans stands between the call and the spans below it.
        """
        callee, peer = self._callee_of[operation], self._peer_of[operation]
        answers = np.flatnonzero(is_entry & frame.has_parent)
        callee[frame.parent[answers]] = service[answers]
        emits = self.spans > 0
        emits[service] = True
        is_silent = frame.is_call & (peer >= 0) & ~emits[peer]
        return np.where(frame.is_call, np.where(is_silent, peer, callee), -1), is_silent

    def _misused(
        self,
        minute_ms: int,
        frame: Frame,
        operation: np.ndarray,
        caller: np.ndarray,
        is_entry: np.ndarray,
        slow_level: np.ndarray,
    ) -> np.ndarray:
        """Answers that fail by their caller's fault.  # (spans,)"""
        misused = np.zeros(frame.count, bool)
        rows, index, pairs = _answers(frame, caller, is_entry, slow_level, self.services.names)
        if pairs[2][:, 1].any():
            usual = np.exp(self.counts.log_rate(self.counts.failures, ERROR_RATE, operation[rows]))
            usual_of = np.zeros(len(pairs[0]))
            usual_of[index] = np.minimum(usual, TROUBLE_RATE)
            own = self._callers.is_their_own(minute_ms, *pairs, usual_of)
            misused[rows] = _rejects(frame, slow_level)[rows] & own[index]
        return misused

    def _excused(self, frame: Frame, operation: np.ndarray, is_slow: np.ndarray, misused: np.ndarray) -> np.ndarray:
        """Attempts that failed by the callee, so that to try again is no fault of the caller's.

        The callee did not answer, or with an error, or was slow; without calling spans any error. The calling span may
        keep quiet about its callee's error.
        """
        slow = self.took_long(frame, operation)
        by_callee = ~frame.is_answered | frame.is_parent_of(slow) | is_slow
        failed_by_callee = frame.has_erring_child | frame.is_error & by_callee
        excused = np.where(frame.is_call, failed_by_callee, frame.is_error)
        return excused & ~misused & ~frame.is_parent_of(misused)

    def took_long(self, frame: Frame, operation: np.ndarray) -> np.ndarray:
        """Whether each span, with all that it waited for, took longer than its operation's usually do.  # (spans,)"""
        usual = self.durations
        surplus = np.log(frame.duration_ms + TIME_FLOOR_MS) - usual.location[operation]
        slow = surplus > SLOW_CALLEE * usual.scale[operation]
        return slow & usual.is_settled(operation, SAMPLES_MIN, MINUTES_MIN)

    def enter_services(self, names: Iterable[str], minute_ms: int) -> None:
        """Enter the names of services that are seen in a minute."""
        before = len(self.services)
        reused = self.services.see(names, minute_ms)
        count = len(self.services)
        self.service_since = grown(self.service_since, count)
        self._service_hash = grown(self._service_hash, count + 1)
        self.samples, self.minutes = grown(self.samples, count), grown(self.minutes, count)
        self.spans = grown(self.spans, count)
        self._load.resize(count * TIMES)
        self._curves.resize(count * TIMES)
        self.wander.resize(count * TIMES)
        new = [*reused, *range(before, count)]
        for i in new:
            self.service_since[i] = minute_ms
            self._service_hash[i + 1] = int(_hash(self.services.names[i])) % SHAPES
        self._has_new_services |= bool(new)

    def _enter(self, minute_ms: int, frame: Frame) -> np.ndarray:
        """Enter the names of a frame; the operation's id of each span."""
        known = len(self.operations)
        self.enter_services([name.split(SEPARATOR)[0] for name in frame.operations], minute_ms)
        self.operations.see(frame.operations, minute_ms)
        self._resize(len(self.operations))
        for i in range(known, len(self.operations)):
            name = self.operations.names[i]
            self._service_of[i] = self.services.get(name.split(SEPARATOR)[0])
            self._hash_of[i] = _hash(name)
        if self._has_new_services or len(self.operations) > known:
            # A peer that became known as a service, be it by its usage, answers from now on; else new operations alone
            # may name one.
            unnamed = np.flatnonzero(self._peer_of < 0)
            unnamed = unnamed[unnamed >= (0 if self._has_new_services else self._looked_up)]
            self._looked_up = len(self.operations)
            self._has_new_services = False
            by_name = {name.rsplit("/", 1)[-1]: i for i, name in enumerate(self.services.names)}
            for i in unnamed:
                for peer in self.operations.names[i].split(SEPARATOR)[2:]:
                    self._peer_of[i] = by_name.get(peer, by_name.get(_host(peer), -1))
            self._callee_of = np.where(self._callee_of < 0, self._peer_of, self._callee_of)
        ids = np.array([self.operations.get(name) for name in frame.operations])
        return ids[frame.operation]

    def _resize(self, rows: int) -> None:
        for name in ("roots", "_service_of", "_hash_of"):
            setattr(self, name, grown(getattr(self, name), rows))
        self._callee_of, self._peer_of = grown(self._callee_of, rows, -1), grown(self._peer_of, rows, -1)
        self.counts.resize(rows)
        self._child_operations.resize(rows)
        self.times.resize(rows * SHAPES)
        self.durations.resize(rows)
        self.starts.resize(rows)

    def _demand_of_slots(self) -> np.ndarray:
        """Log of the demand on the service of each slot.  # (slots,)"""
        return np.repeat(self._demand.now(len(self.services)), TIMES)

    def _time_variance(self, profile: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
        """Variance of each span's log time around its profile's location.  # (spans,)

        tolerance: (spans,) by how much the usual may be off.
        """
        variance = self.times.scale[profile] ** 2
        # Young estimates are uncertain by themselves.
        variance = variance * (1 + 4 / np.maximum(self.times.minutes[profile], 1.0))
        variance = variance * self._load.widening()
        return variance + tolerance**2

    def learn(
        self,
        minute_ms: int,
        frame: Frame,
        reading: Reading,
        times: np.ndarray,
        events: np.ndarray,
        failures: np.ndarray,
    ) -> None:
        """Take in a minute. times, events, failures: (spans,) how far each may teach how long things take, how often
        things happen, and how often calls fail or are made again; 1 = fully."""
        operation = reading.operation
        known = reading.is_known
        surplus = reading.raw_log_time - self.times.location[reading.profile]
        self._learn_load(reading, surplus, times)
        timed = np.where(reading.is_timed, times, 0.0)
        self._replicas.learn(reading.replica, surplus - reading.load, np.where(known, timed, 0.0))
        self.times.learn(reading.profile, reading.log_time, timed)
        self.durations.learn(operation, np.log(frame.duration_ms + TIME_FLOOR_MS), timed)
        self.starts.learn(operation, log_start(frame), np.where(frame.has_parent, timed, 0.0))
        timed_spans = np.bincount(reading.service, reading.is_timed, minlength=len(self.samples))
        self.spans += np.bincount(reading.service, minlength=len(self.spans))
        self.samples += timed_spans
        self.minutes += timed_spans > 0
        self.roots += np.bincount(operation[frame.root], minlength=len(self.roots))
        answered = np.flatnonzero(frame.is_answered & (reading.callee >= 0))
        self._callee_of[operation[answered]] = reading.callee[answered]
        self._learn_children(minute_ms, frame, reading, events)
        sound, has, child = _children_of_sound(frame, reading)
        self._child_operations.learn(operation[sound], events[sound], operation[has], child, events[has], FADE)
        pairs = _answers(frame, reading.caller, reading.is_entry, reading.slow_level, self.services.names)[2]
        self._callers.learn(minute_ms, *pairs)
        is_rare = self.structures.share(reading.structure, self.counts.calls[operation]) < RARE
        self.counts.learn(frame, reading, is_rare, times, events, failures)
        self.structures.learn(minute_ms, reading.structure, events, FADE)
        self.wander.learn(reading, times)

    def _learn_load(self, reading: Reading, surplus: np.ndarray, times: np.ndarray) -> None:
        """surplus: (spans,) log times above the profile's, whatever the load. times: see ``learn``."""
        known = reading.is_known
        slot = reading.load_slot[known]
        above = (surplus - self._replicas.offset(reading.replica)[0])[known]
        by_level = self._load.shift()[slot]
        by_demand = reading.load[known] - by_level
        self._load.learn(slot, above - by_demand)
        # What it takes at a demand that is new nobody can know: that teaches, whatever it looks like.
        is_new = self._demand.is_new(len(self.services))[slot // TIMES]
        self._curves.learn(self._demand_of_slots(), slot, above - by_level, np.where(is_new, 1.0, times[known]))
        self._demand.learn()

    def _learn_children(self, minute_ms: int, frame: Frame, reading: Reading, events: np.ndarray) -> None:
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
            FADE,
        )

    def missing_callee(self, frame: Frame, reading: Reading, rows: np.ndarray) -> np.ndarray:
        """The service of a child that each of ``rows`` should have and lacks, -1 = none.  # (len(rows),)"""
        below = np.flatnonzero(frame.has_parent & reading.is_entry & np.isin(frame.parent, rows))
        present: dict[int, set[str]] = {}
        for child in below.tolist():
            present.setdefault(int(frame.parent[child]), set()).add(self.services.names[reading.service[child]])
        found = [
            self._children.missing(
                frame.operations[frame.operation[row]],
                self.counts.calls[reading.operation[row]],
                present.get(row, set()),
            )
            for row in rows.tolist()
        ]
        return np.array([self.services.get(name) if name else -1 for name in found], np.int64)

    def missing_children(self, frame: Frame, reading: Reading) -> Missing:
        """Children that spans without an error lack, though nearly all of their operation have them."""
        sound, has, child = _children_of_sound(frame, reading)
        return self._child_operations.missing(sound, reading.operation[sound], has, child)

    def service_of(self, operation: np.ndarray) -> np.ndarray:
        """Whose operations these are."""
        return self._service_of[operation]

    def or_callers(self, services: np.ndarray, reading: Reading) -> np.ndarray:
        """These services, or where one isn't heard of in a minute those that used to call it.  # (services,) bool"""
        silent = services.copy()
        silent[reading.service] = False
        callers = services & ~silent
        if silent.any():
            callers[self._service_of[self._child_operations.parents(silent[self._service_of])]] = True
        return callers

    def renew(self, services: np.ndarray, samples: float, waiting: np.ndarray) -> None:
        """Let the times and the children of these services be learnt quickly: they have a new release. waiting:
        operations of others whose own times have the way to them in it."""
        of = np.isin(self._service_of, services)
        self._curves.renew(_slots(services))
        self._child_operations.renew(np.flatnonzero(of), samples)
        of[waiting] = True
        self._renew_times_of(of, samples)

    def renew_times(self, services: np.ndarray, samples: float) -> None:
        """Let what these services take, and calls to them, be learnt quickly: they are slower for good."""
        self._renew_times_of(np.isin(self._service_of, services) | np.isin(self._callee_of, services), samples)

    def _renew_times_of(self, operations: np.ndarray, samples: float) -> None:
        """Let their past count for at most so many samples. operations: (operations,) bool."""
        for table, rows in ((self.times, np.repeat(operations, SHAPES)), (self.durations, operations)):
            table.samples[rows] = np.minimum(table.samples[rows], samples)

    def is_crowded(self) -> bool:
        """Whether more is kept than is to be."""
        tables = (
            self.operations, self._replicas, self._children, self._child_operations, self._callers, self.structures
        )  # fmt: skip
        return self.services.taken > SERVICES_MOST or max(len(table) for table in tables) > ROWS_MOST

    def forget(self, before_ms: int) -> tuple[np.ndarray, np.ndarray]:
        """Forget what was last seen before a time, and of too much what was seen the longest ago.

        returns: ids of services that are free for others now, and of the operations that are kept, which are numbered
        anew in that order. Whoever keeps rows by them has to follow.
        """
        most = SERVICES_MOST if self.services.taken <= SERVICES_MOST else fewer(SERVICES_MOST)
        gone = self.services.release(before_ms, most)
        self.spans[gone] = self.samples[gone] = self.minutes[gone] = 0.0
        slots = _slots(gone)
        self._load.reset(slots)
        self._curves.reset(slots)
        self._demand.reset(gone)
        self.wander.reset(slots)
        self._callee_of[np.isin(self._callee_of, gone)] = -1
        self._peer_of[np.isin(self._peer_of, gone)] = -1
        self._looked_up = 0
        self._replicas.forget(before_ms, ROWS_MOST, slots)
        self._children.forget(before_ms, ROWS_MOST)
        self._callers.forget(before_ms, ROWS_MOST)
        self.structures.forget(before_ms, ROWS_MOST)
        kept = seen_lately(self.operations.last_seen, before_ms, ROWS_MOST)
        kept = kept[~np.isin(self._service_of[kept], gone)]
        if len(kept) < len(self.operations):
            self._keep_operations(kept)
        if len(self._child_operations) > ROWS_MOST:
            self._child_operations.keep(np.arange(len(kept)), fewer(ROWS_MOST))
        return gone, kept

    def _keep_operations(self, kept: np.ndarray) -> None:
        self.operations.keep(kept)
        for name in ("roots", "_service_of", "_callee_of", "_peer_of", "_hash_of"):
            setattr(self, name, getattr(self, name)[kept])
        profiles = (kept[:, None] * SHAPES + np.arange(SHAPES)).ravel()
        self.counts.keep(kept, profiles)
        self._child_operations.keep(kept, ROWS_MOST)
        self.times.keep(profiles)
        self.durations.keep(kept)
        self.starts.keep(kept)


def _slots(services: np.ndarray) -> np.ndarray:
    """Those of all kinds of time of these services."""
    return (services[:, None] * TIMES + np.arange(TIMES)).ravel()


def _children_of_sound(frame: Frame, reading: Reading) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows of spans without an error; for each operation of a child of such a span, its row, and that operation)"""
    is_sound = ~(frame.is_error | frame.has_erring_child)
    groups = reading.groups[is_sound[frame.parent[reading.groups]]]
    return np.flatnonzero(is_sound), frame.parent[groups], reading.operation[groups]


def _rejects(frame: Frame, slow_level: np.ndarray) -> np.ndarray:
    """Failures that took no longer than usual: one that took its time waited for something, or worked.  # (spans,)"""
    return frame.failed & (slow_level == 0)


def _answers(
    frame: Frame, caller: np.ndarray, is_entry: np.ndarray, slow_level: np.ndarray, names: list[str]
) -> tuple[np.ndarray, np.ndarray, tuple[list[str], list[str], np.ndarray]]:
    """(rows of answers to calls, the pair of each, pairs as Callers wants them). names: of the services."""
    rows = np.flatnonzero(is_entry & frame.has_parent)
    keys, index = np.unique(frame.operation[rows] * len(names) + caller[rows], return_inverse=True)
    operations, callers = np.divmod(keys, len(names))
    calls = np.bincount(index, minlength=len(keys))
    failures = np.bincount(index, _rejects(frame, slow_level)[rows], minlength=len(keys))
    return rows, index, (
        [frame.operations[i] for i in operations.tolist()],
        [names[i] for i in callers.tolist()],
        np.column_stack([calls, failures]).astype(float),
    )  # fmt: skip


def log_start(frame: Frame) -> np.ndarray:
    """Log of the time from the parent's start to the span's.  # (spans,)"""
    after = np.where(frame.has_parent, frame.start_ms - frame.start_ms[frame.parent], 0.0)
    return np.log(np.maximum(after, 0.0) + TIME_FLOOR_MS)


def time_weight(surplus: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Evidence in nats of each span's log time above the usual, over all slowdowns.  # (spans,)"""
    shift = SLOWDOWNS[:, None]
    each = (shift * surplus - shift**2 / 2) / variance  # (slowdowns, spans)
    top = each.max(axis=0)
    weight = top + np.log(np.exp(each - top).mean(axis=0))
    weight = np.where(weight > TAIL, TAIL + np.log1p(np.maximum(weight - TAIL, 0.0)), weight)
    return np.maximum(weight, RELIEF)


def _host(peer: str) -> str:
    """The workload's name in an address such as cart.shop.svc.cluster.local:8080."""
    return peer.split(":")[0].split(".")[0]


# An odd factor, so that an operation as a child has another hash than as a parent.
_CHILD = np.uint64(0x9E3779B97F4A7C15)


def _hash(name: str) -> np.uint64:
    """64 bits of a name, the same in every process."""
    data = name.encode()
    return np.uint64(zlib.crc32(data) << 32 | zlib.crc32(data, 0x5BD1E995))
