"""Evidence of a minute: what its spans say against whom, and what that comes to in each trace.

Evidence is a log likelihood ratio in nats, anomalous against usual, of one span, on one channel, against one service.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from udfs.pure import tokens as t
from udfs.pure.baselines import Baselines
from udfs.pure.channels import CHANNELS, FAILURE, GAP, LEAF, OWN, REPEAT, STRUCTURE, TIMES
from udfs.pure.counts import STRUCTURE_TROUBLE_RATE, TROUBLE_RATE
from udfs.pure.frame import Frame
from udfs.pure.predict import CHANCES, Prediction
from udfs.pure.reading import RELIEF, SLOWDOWNS, TAIL, Reading
from udfs.pure.tokens import Tokens

# Strengths looked for: factors on a time.
FACTORS = SLOWDOWNS
STRENGTHS = len(FACTORS)
# An event that was expected is no evidence.
EVENT_WEIGHT_MIN = 2.0
# Spans of one trace and service count as independent witnesses up to this number.
SPANS_TOGETHER = 3.0
# By how much more than expected the load may slow a service, as a share of what it is expected to.
LOAD_SLACK = 0.5
# By how much a new release may be slower while it is learnt.
RELEASE_SLOWER = np.log(2.0)

# Of Clues: who is blamed.
_BLAMED = ("blamed", "error_blamed", "rare_blamed", "loop_blamed", "lack_blamed")
# What cases of an earlier release say of children that are missing: nothing.
_NO_LACK, _NOBODY = np.zeros(0), np.zeros(0, np.int64)


class Clues(NamedTuple):
    """What a minute's spans show, before what was predicted of them counts. Services are numbers, -1 = nobody; places
    are rows of the spans on whose pods it happened, -1 = on no pod."""

    is_timed: np.ndarray  # (spans,) the time can be judged
    channel: np.ndarray  # (spans,) of its time
    surplus: np.ndarray  # (spans,) log time above the expected
    variance: np.ndarray  # (spans,) of the log time
    limit: np.ndarray  # (spans,) the most that the time may say, in nats
    blamed: np.ndarray  # (spans,) service to blame for a time, or for no answer
    place: np.ndarray  # (spans,)
    error_blamed: np.ndarray  # (spans,) service to blame for an error
    error_place: np.ndarray  # (spans,)
    rare_blamed: np.ndarray  # (spans,) service to blame for rare children
    is_renewed: np.ndarray  # (spans,) the service has a new release
    loop: np.ndarray  # (loops,) row of a call that is repeated without a reason
    loop_weight: np.ndarray  # (loops,) nats
    loop_blamed: np.ndarray  # (loops,) service
    loop_place: np.ndarray  # (loops,)
    lack: np.ndarray = _NO_LACK  # (spans,) how often the child is missing that is, 0 = none; (0,) of an earlier release
    lack_blamed: np.ndarray = _NOBODY  # (spans,) service to blame for it

    def services(self) -> np.ndarray:
        """Numbers of all that may be blamed, ascending."""
        found = np.unique(np.concatenate([getattr(self, name) for name in _BLAMED]))
        return found[found >= 0]

    def renumbered(self, numbers: np.ndarray) -> Clues:
        """With places in ``numbers``, ascending, in place of numbers of services."""
        return self._replace(**{
            name: np.where(getattr(self, name) >= 0, np.searchsorted(numbers, getattr(self, name)), -1)
            for name in _BLAMED
        })  # fmt: skip

    def of_rows(self, rows: np.ndarray, loops: np.ndarray) -> Clues:
        """Of the spans at ``rows``, ascending and of whole traces, and the loops among them, by their place here."""

        def renumbered(places: np.ndarray) -> np.ndarray:
            return np.where(places >= 0, np.searchsorted(rows, places), -1)

        of_loops = ("loop", "loop_weight", "loop_blamed", "loop_place")
        chosen = {name: getattr(self, name)[loops if name in of_loops else rows] for name in self._fields[:-2]}
        if len(self.lack):
            chosen |= {"lack": self.lack[rows], "lack_blamed": self.lack_blamed[rows]}
        places = {name: renumbered(chosen[name]) for name in ("place", "error_place", "loop", "loop_place")}
        return Clues(**{**chosen, **places})


class Evidence(NamedTuple):
    """One entry for each (row, channel) that says anything."""

    row: np.ndarray
    channel: np.ndarray
    service: np.ndarray  # number of who is to blame
    place: np.ndarray  # row of the span on whose pod it happened, or -1
    weight: np.ndarray  # (entries, strengths) nats


class Level(NamedTuple):
    """Evidence of a minute by (trace, subject), each pair once, in order."""

    trace: np.ndarray  # (cells,)
    subject: np.ndarray  # (cells,)
    weights: np.ndarray  # (cells, channels, strengths) nats, -inf = none
    strongest: np.ndarray  # (cells, channels) row that says most, -1 = none

    def told(self) -> np.ndarray:
        """What the cells say for an episode of their subject.  # (cells, channels, strengths)"""
        told = self.weights.copy()
        told[:, :TIMES][self.strongest[:, :TIMES] < 0] = 0.0
        told[:, REPEAT] = -np.inf
        return told

    def counts(self, together: np.ndarray) -> np.ndarray:
        """What that counts for beside others of the minute, see Wander.together.  # (cells, channels)"""
        counts = together[self.strongest]
        counts[self.strongest < 0] = 1.0
        counts[:, TIMES:] = 1.0
        return counts


def clues_of(base: Baselines, frame: Frame, reading: Reading, renewed: np.ndarray, waits: np.ndarray) -> Clues:
    """What each span of a minute shows, and against whom.

    renewed: (services,) whether a service has a new release. waits: (spans,) for one of these, see Reading.waits_for.
    """
    blamed = reading.blamed
    answer = np.full(frame.count, -1)
    answers = np.flatnonzero(reading.is_entry & frame.has_parent & ~reading.is_silent[frame.parent])
    answer[frame.parent[answers]] = answers
    place = np.where(blamed == reading.service, np.arange(frame.count), answer)

    surplus = reading.surplus - np.where(renewed[blamed] | waits, RELEASE_SLOWER, 0.0)
    # What the load brings is known roughly, and off for all traces of a service together.
    surplus = surplus - LOAD_SLACK * np.maximum(reading.load, 0.0)
    limit = base.counts.slow_limit(reading.profile, reading.slow_level)

    # A callee that is dead leaves no span: its caller waits, or errs, and lacks it.
    timed = np.flatnonzero(reading.is_known)
    slow = np.minimum(time_weights(surplus[timed], reading.variance[timed]), limit[timed, None])
    waits = np.zeros(frame.count, bool)
    waits[timed] = slow.max(axis=1) > EVENT_WEIGHT_MIN
    waiting = np.flatnonzero(waits & ~frame.is_call)
    dead = np.full(frame.count, -1)
    dead[waiting] = base.missing_callee(frame, reading, waiting)

    # An error of a call that a sound callee answered is the caller's impatience, not the callee's; unless the callee
    # kept it waiting until it had given up.
    began = np.where(answer >= 0, frame.start_ms[answer], -np.inf)
    is_late = (began > frame.start_ms + frame.duration_ms) & (reading.slow_level > 0)
    in_time = (answer >= 0) & ~is_late
    error_blamed = np.where(in_time, reading.service, blamed)
    blamed, error_blamed = (np.where(dead >= 0, dead, who) for who in (blamed, error_blamed))
    rare_blamed = np.where(dead >= 0, dead, reading.service)
    place = np.where(dead >= 0, -1, place)
    error_place = np.where(in_time, np.arange(frame.count), place)
    # What fails for one caller alone is that caller's fault.
    below_silent = frame.has_parent & reading.is_silent[frame.parent]
    place_of_caller = np.where(below_silent, -1, frame.parent)
    loops = reading.loops
    lack, lack_blamed = _lacked(base, frame, reading)
    return Clues(
        is_timed=reading.is_known,
        channel=np.where(frame.is_answered, GAP, np.where(frame.is_call, LEAF, OWN)).astype(np.int8),
        surplus=surplus,
        variance=reading.variance,
        limit=limit,
        blamed=blamed,
        place=place,
        error_blamed=np.where(reading.misused, reading.caller, error_blamed),
        error_place=np.where(reading.misused, place_of_caller, error_place),
        rare_blamed=np.where(reading.is_silent, reading.callee, rare_blamed),
        is_renewed=renewed[reading.service],
        loop=loops,
        loop_weight=reading.loop_weight,
        loop_blamed=reading.caller[loops],
        loop_place=place_of_caller[loops],
        lack=lack,
        lack_blamed=lack_blamed,
    )


def _lacked(base: Baselines, frame: Frame, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """(how often a child is missing that each span lacks, 0 = it lacks none, whom to blame)  # 2 x (spans,)

    Who leaves out a call is the caller. But one that took its time has waited for the callee, without a span for it;
    and a service that isn't heard of at all any more is silent by itself.
    """
    lack, blamed = np.zeros(frame.count), reading.service.copy()
    missing = base.missing_children(frame, reading)
    order = np.argsort(-missing.rate, kind="stable")  # the least usual last
    row, child = missing.row[order], base.service_of(missing.child[order])
    lack[row] = missing.rate[order]
    is_dead = base.took_long(frame, reading.operation)[row] | ~np.isin(child, reading.service)
    blamed[row] = np.where(is_dead, child, reading.service[row])
    return lack, blamed


def weighed(clues: Clues, tokens: Tokens, found: Prediction, kind: np.ndarray) -> Evidence:
    """What each span says against whom, beside what was predicted of it.

    kind: (spans,) a number of each trace and operation.
    """
    surplus = clues.surplus - found.mean[:, t.OWN_TIME] * np.sqrt(clues.variance)
    variance = clues.variance * found.scale[:, t.OWN_TIME] ** 2
    timed = np.flatnonzero(clues.is_timed)
    slow = np.minimum(time_weights(surplus[timed], variance[timed]), clues.limit[timed, None])

    chances = _chances(kind, tokens.bits[:, t.BIT_ERROR] | tokens.bits[:, t.BIT_LOG])
    erring = _surprising(tokens, found, t.BIT_ERROR, chances)
    unanswered = _surprising(tokens, found, t.BIT_UNANSWERED)
    logged = _surprising(tokens, found, t.BIT_LOG, chances)
    rare, rarity = _surprising(tokens, found, t.BIT_RARE)
    # What a new release calls is its own affair.
    is_old = ~clues.is_renewed[rare]
    rare, rarity = rare[is_old], rarity[is_old] + np.log(STRUCTURE_TROUBLE_RATE / TROUBLE_RATE)
    lacking, lacks = _lacking(clues, kind)
    parts: list[tuple[Any, ...]] = [
        (timed, clues.channel[timed], clues.blamed[timed], clues.place[timed], slow),
        (erring[0], FAILURE, clues.error_blamed[erring[0]], clues.error_place[erring[0]], erring[1]),
        (unanswered[0], FAILURE, clues.blamed[unanswered[0]], -1, unanswered[1]),
        (logged[0], FAILURE, tokens.service[logged[0]], logged[0], logged[1]),
        (clues.loop, REPEAT, clues.loop_blamed, clues.loop_place, clues.loop_weight),
        (rare, STRUCTURE, clues.rare_blamed[rare], clues.place[rare], rarity),
        (lacking, STRUCTURE, clues.lack_blamed[lacking], -1, lacks),
    ]
    row, channels, service, places = (
        np.concatenate([np.broadcast_to(part[i], len(part[0])) for part in parts]) for i in range(4)
    )
    weights = [part[4] if part[4].ndim == 2 else np.repeat(part[4][:, None], STRENGTHS, axis=1) for part in parts]
    return Evidence(row, channels, service, places, np.concatenate(weights))


def time_weights(surplus: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Evidence of a log time above the expected, for each strength.  # (spans, strengths)"""
    each = (FACTORS * surplus[:, None] - FACTORS**2 / 2) / variance[:, None]
    each = np.where(each > TAIL, TAIL + np.log1p(np.maximum(each - TAIL, 0.0)), each)
    return np.maximum(each, RELIEF)


def _surprising(
    tokens: Tokens, found: Prediction, bit: int, chances: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(rows where the bit is set and wasn't expected, evidence)

    chances: (spans,) how often it might have happened, to happen once.
    """
    return _surprises(tokens.bits[:, bit], found.chance[:, bit], chances)


def _surprises(happened: np.ndarray, usual: np.ndarray, chances: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """The same of what happened to spans, and usually does so often."""
    in_trouble, as_usual = (-np.expm1(chances * np.log1p(-rate)) for rate in (TROUBLE_RATE, usual))
    weight = np.log(in_trouble / as_usual)
    rows = np.flatnonzero(happened & (weight > EVENT_WEIGHT_MIN))
    return rows, weight[rows]


def _lacking(clues: Clues, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows of spans that lack a child, evidence)"""
    lacks = clues.lack > 0
    if not lacks.any():
        return np.zeros(0, np.int64), np.zeros(0)
    # Of a new release see above; below 1, for the spans that lack nothing.
    return _surprises(lacks & ~clues.is_renewed, np.clip(clues.lack, *CHANCES), _chances(kind, lacks))


def _chances(kind: np.ndarray, happened: np.ndarray) -> np.ndarray:
    """How many spans of each span's kind it didn't happen to, and one: a trace that calls an operation fifty times has
    as many chances of an error. Where it happened to several it has one cause, and what is tried again is tried for
    it.  # (spans,)"""
    if not happened.any():  # as in most minutes: nobody asks
        return np.ones(len(kind))
    _, index = np.unique(kind, return_inverse=True)
    return np.bincount(index, ~happened)[index] + 1.0


def level(
    trace: np.ndarray, touched: np.ndarray, row: np.ndarray, channel: np.ndarray, blamed: np.ndarray,
    weights: np.ndarray, subjects: int,
) -> Level:  # fmt: skip
    """Evidence by (trace, subject): of all that are touched, or blamed.

    Of several spans either all are affected or one of them, at even odds: their weights add up, or their likelihood
    ratios are averaged. What runs in one trace is slow together for many reasons: however many spans agree, they count
    as SPANS_TOGETHER.
    """
    keys, index = np.unique(
        np.concatenate([trace * subjects + touched, trace[row] * subjects + blamed]), return_inverse=True
    )
    slot = index[len(trace) :] * CHANNELS + channel
    size = len(keys) * CHANNELS
    order = np.lexsort((row, -weights.max(axis=1), slot)) if len(row) else np.zeros(0, np.int64)
    slot, row, weights = slot[order], row[order], weights[order]
    first = np.flatnonzero(np.r_[True, slot[1:] != slot[:-1]]) if len(slot) else slot
    strongest = np.full(size, -1)
    by_slot = np.full((size, STRENGTHS), -np.inf)
    if len(slot):
        strongest[slot[first]] = row[first]
        counts = np.diff(np.r_[first, len(slot)])[:, None]
        # Errors of one trace are of one cause: they don't add up.
        together = np.where(slot[first] % CHANNELS < TIMES, SPANS_TOGETHER, 1.0)[:, None]
        every = np.add.reduceat(weights, first) * (np.minimum(counts, together) / counts)
        ratio = np.add.reduceat(np.exp(weights), first) / counts
        by_slot[slot[first]] = np.logaddexp(every, np.log(ratio)) - np.log(2)
    return Level(
        *np.divmod(keys, subjects),
        by_slot.reshape(len(keys), CHANNELS, STRENGTHS),
        strongest.reshape(len(keys), CHANNELS),
    )
