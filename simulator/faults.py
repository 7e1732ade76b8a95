"""Faults: episodes of trouble in one service, planned so that a given share of traces is touched.

Kinds, and who is to blame (`otel_service_name`, the culprit):

- ``latency_spike``: the culprit is slow by a factor: its own work, its database queries, or its
  accept queue (the time passes between the client's and the server's span). At times its callers
  wait for a free connection, too, and lose more than the culprit does.
- ``retry_loop``: the culprit is the service that retries. Its calls to one dependency are repeated,
  and each attempt makes the callee work; either the client gives up too early (its spans say
  timeout) or it takes good answers for bad ones (nothing says error).
- ``resource_overuse``: each call takes a multiple of cpu, memory, io or network; often, not
  always, it takes longer, too.
- ``dependency_failure``: the culprit is the callee. A share of the calls to it is refused (no
  server span), answered with an error, or hangs until the client's timeout; callers retry, fall
  back, or fail in turn.

Kinds that no detector is made for (mix ``novel``):

- ``short_circuit``: the culprit returns early, fast and with status OK, and leaves out the last or
  all of its calls and queries: wrong answers that nothing says error to.
- ``n_plus_one``: the culprit makes each of its database statements several times, one after the
  other.
- ``intermittent_stall``: a part of the culprit's calls takes a multiple of its own time (a lock, a
  pause of the collector); the others, of the same requests too, are as ever.
- ``swallowed_exception``: a share of the culprit's calls fails inside, leaves out what was still to
  do and answers with status OK; only a log record says error.
- ``cache_loss``: the culprit's look-aside cache is gone: what it mostly answered goes to the
  database, too, and that takes longer for each query.
- ``queue_backlog``: the culprit is the consumer of a queue. Messages wait a multiple of the usual
  time for it, and nothing else changes.

A fault acts on requests that arrive in [start, end), on a share of them, at times on one pod only.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator.config import (
    ALL_KINDS,
    CACHE_LOSS,
    DEPENDENCY_FAILURE,
    DEPLOY,
    INTERMITTENT_STALL,
    LATENCY_SPIKE,
    MINUTE_MS,
    N_PLUS_ONE,
    QUEUE_BACKLOG,
    RESOURCE_OVERUSE,
    RETRY_LOOP,
    SHORT_CIRCUIT,
    STORM,
    STORM_SHARES,
    SWALLOWED_EXCEPTION,
    Config,
    UsageError,
)
from simulator.keyed import key_of, mix, unit
from simulator.topology import DB, Service, Topology

WORK, DATABASE, ACCEPT = "work", "database", "accept"
REPEAT, DEADLINE = "repeat", "deadline"
REFUSE, ERROR, HANG = "refuse", "error", "hang"
OVERUSED = ("cpu", "memory", "io", "network")
# Where a novel kind acts; each has but one mode.
NOVEL_MODES = {
    SHORT_CIRCUIT: WORK,
    N_PLUS_ONE: DATABASE,
    INTERMITTENT_STALL: WORK,
    SWALLOWED_EXCEPTION: WORK,
    CACHE_LOSS: WORK,  # every call goes on to the database then, so every call is touched
    QUEUE_BACKLOG: ACCEPT,
}

# Factors are drawn log-uniformly from these: (low, high) by mix and kind. Retries and n_plus_one
# count attempts; dependency failures and swallowed exceptions have the share of failing calls,
# short circuits the share of steps left out. The mix novel is drawn as source is.
_SEVERITY = {
    "source": {
        LATENCY_SPIKE: (2.0, 12.0),
        RETRY_LOOP: (2.0, 6.0),
        RESOURCE_OVERUSE: (1.5, 4.0),
        DEPENDENCY_FAILURE: (0.2, 1.0),
        SHORT_CIRCUIT: (0.5, 1.0),
        N_PLUS_ONE: (3.5, 9.5),
        INTERMITTENT_STALL: (5.5, 15.5),
        SWALLOWED_EXCEPTION: (0.3, 1.0),
        CACHE_LOSS: (1.45, 2.15),
        QUEUE_BACKLOG: (7.0, 38.0),
    },
    "faint": {
        LATENCY_SPIKE: (1.4, 3.0),
        RETRY_LOOP: (2.0, 3.0),
        RESOURCE_OVERUSE: (1.25, 2.0),
        DEPENDENCY_FAILURE: (0.1, 0.5),
        SHORT_CIRCUIT: (0.3, 0.6),
        N_PLUS_ONE: (2.5, 5.0),
        INTERMITTENT_STALL: (3.0, 7.0),
        SWALLOWED_EXCEPTION: (0.1, 0.5),
        CACHE_LOSS: (1.2, 1.5),
        QUEUE_BACKLOG: (3.0, 10.0),
    },
}
_SHARES = (DEPENDENCY_FAILURE, SHORT_CIRCUIT, SWALLOWED_EXCEPTION)  # at most 1
_STALLED = (0.1, 0.4)  # share of the calls that an intermittent stall holds up
# (chance that only a part of the requests is concerned, the least such part)
_PARTIAL = {"source": (0.4, 0.3), "faint": (0.8, 0.15)}
_ONE_POD_CHANCE = {"source": 0.2, "faint": 0.4}
_POOL_WAIT_CHANCE = 0.3
_POOL_WAIT = (0.3, 2.0)  # of what the culprit is slower by
# What computes or reads more mostly takes longer, too: chance, and share of the factor.
_SLOWER_OVERUSE_CHANCE = {"source": 0.7, "faint": 0.35}
_SLOWER_OVERUSE = (0.5, 1.5)
_ATTEMPTS_MAX = 7
_STATEMENTS_MAX = 10

# Episodes last from minutes to a storm of hours; in small worlds at most a part of the time.
_MINUTES = (10.0, 360.0)
_LENGTH_SHARE_MAX = 0.2
_LENGTH_MIN = 3.0
# Most of its kind's traces that one episode takes, so that there are several of each kind: a few
# storms take much, most take little, but what a detector could see at all.
_STORM_CHANCE = 0.15
_STORM_SHARE_MAX = 0.3
_EPISODE_SHARE_MAX = 0.05
_EPISODE_TRACES_MAX = 100.0
_TRACES_MIN = 4.0
_TRIES_MAX = 1000

# A storm touches about such a share of the traces of its time.
_STORM_TOUCHED = (0.07, 0.35)
_STORM_TRIES = 300


@dataclass(frozen=True, eq=False)
class Fault:
    """One episode. Times are milliseconds since the world's start, [start_ms, end_ms)."""

    fault_id: str
    key: int
    kind: str
    service: int  # index of the culprit
    start_ms: float
    end_ms: float
    severity: float
    share: float  # of the requests
    slot: int | None  # one pod of the culprit, or all
    mode: str
    target: int | None = None  # retry_loop: index of the service that is called again and again
    pool_wait: float = 0.0  # latency_spike: what callers wait for a connection, per extra time
    side_effect: float = 0.0  # share of the factor by which cpu (latency_spike) or time rises, too
    part: float | None = None  # of the calls that are hit; None: severity is that share

    def chooses(self, request_key: int) -> bool:
        """Whether a request is among the share that is concerned."""
        return unit(mix(self.key ^ request_key)) < self.share

    def hits(self, request_key: int, place: int) -> bool:
        """Whether a call attempt is among those that fail or stall.

        place: a number for the attempt's site and path.
        """
        return unit(mix(self.key ^ mix(request_key ^ mix(place)))) < self.hit_share

    @property
    def hit_share(self) -> float:
        """Share of the call attempts that fail or stall."""
        return self.severity if self.part is None else self.part

    def strength(self, jitter: float) -> float:
        """The factor for one call, around the severity; jitter in [0, 1)."""
        return 1 + (self.severity - 1) * (0.7 + 0.6 * jitter)

    def attempts(self, request_key: int) -> int:
        """How often a call is made in all, or a statement, for one request."""
        wobble = unit(mix(self.key ^ mix(request_key))) - 0.5
        most = _STATEMENTS_MAX if self.kind == N_PLUS_ONE else _ATTEMPTS_MAX
        return min(max(round(self.severity + wobble), 2), most)

    def steps_done(self, steps: int, jitter: float) -> int:
        """After how many of its steps a call returns early; jitter in [0, 1)."""
        if self.kind == SHORT_CIRCUIT:
            return int(steps * (1 - self.severity))
        return int(jitter * (steps + 1))


@dataclass(frozen=True)
class Visits:
    """Where a sample request without any fault went."""

    endpoint: int
    slots: Counter[int]  # calls by pod
    calls: frozenset[tuple[int, int]]  # (calling pod, called service)
    queries: frozenset[int]  # pods that asked their database


def plan(config: Config, topology: Topology, rate: np.ndarray, visits: Sequence[Visits]) -> list[Fault]:
    """Episodes after the warm-up that touch about ``anomaly_rate`` of the expected requests.

    rate: (minutes,) expected requests a minute. Kinds take turns by their weights; culprits are
    drawn evenly over the services, so that rare ones have their share of faults. The cases have
    none, or one that lasts.
    """
    if config.case == DEPLOY:
        return []
    if config.case == STORM:
        return _numbered([_storm(config, topology, visits)], config)
    rng = random.Random(f"faults/{config.seed}/{config.mix}")
    first, last = config.warm_up_minutes, config.minutes
    budget = config.anomaly_rate * float(rate.sum())
    weight_sum = sum(config.weights.values())
    weights = _endpoint_weights(topology)
    # (minutes, endpoints) requests expected that no episode touches so far
    clean = rate[:, None] * weights
    faults: list[Fault] = []
    for kind in ALL_KINDS:
        whole = left = budget * config.weights.get(kind, 0.0) / weight_sum
        for _ in range(_TRIES_MAX):
            if left < _TRACES_MIN:
                break
            fault = _draw(config, topology, kind, first, last, rng)
            if not fault:
                continue
            chances = _touch_chances(fault, topology, visits)
            most = whole * _STORM_SHARE_MAX
            if rng.random() >= _STORM_CHANCE:
                most = min(most, max(whole * _EPISODE_SHARE_MAX, _EPISODE_TRACES_MAX))
            fault, touched = _fit(fault, chances, min(left, most), clean)
            if touched >= _TRACES_MIN:
                faults.append(fault)
                clean[_minutes(fault)] *= 1 - fault.share * chances
                left -= touched
    faults.sort(key=lambda fault: (fault.start_ms, fault.service, fault.kind))
    return _numbered(faults, config)


def _numbered(faults: Sequence[Fault], config: Config) -> list[Fault]:
    return [
        replace(fault, fault_id=f"fault-{number:04d}", key=key_of(config.seed, "fault", number))
        for number, fault in enumerate(faults, 1)
    ]


def _endpoint_weights(topology: Topology) -> np.ndarray:
    """(endpoints,) shares of the requests."""
    return np.array([endpoint.weight for endpoint in topology.endpoints])


def _storm(config: Config, topology: Topology, visits: Sequence[Visits]) -> Fault:
    """One clear fault on a busy way, over a quarter of the time.

    Of the faults drawn the first that touches as much as it should, or what comes nearest to it.
    """
    rng = random.Random(f"storm/{config.seed}/{config.mix}")
    kinds, weights = zip(*config.weights.items())
    start, end = (share * config.minutes for share in STORM_SHARES)
    low, high = _STORM_TOUCHED
    nearest, best = math.inf, None
    for _ in range(_STORM_TRIES):
        (kind,) = rng.choices(kinds, weights)
        drawn = _draw(config, topology, kind, config.warm_up_minutes, config.minutes, rng)
        if not drawn:
            continue
        weakest, strongest = _severity_range(config, kind)
        fault = replace(
            drawn,
            start_ms=start * MINUTE_MS,
            end_ms=end * MINUTE_MS,
            severity=_severity(config, kind, math.sqrt(weakest * strongest), strongest, rng),
            share=1.0,
            slot=None,
        )
        touched = float(_endpoint_weights(topology) @ _touch_chances(fault, topology, visits))
        distance = max(low - touched, touched - high, 0.0)
        if touched and distance < nearest:
            nearest, best = distance, fault
        if not nearest:
            break
    if best is None:
        raise UsageError(f"--case {STORM}: no service can have a fault of {', '.join(kinds)}")
    return best


def _severity_range(config: Config, kind: str) -> tuple[float, float]:
    return _SEVERITY[_manner(config)][kind]


def _severity(config: Config, kind: str, low: float, high: float, rng: random.Random) -> float:
    severity = _log_uniform(low, high, rng) ** config.severity
    return min(severity, 1.0) if kind in _SHARES else severity


def _manner(config: Config) -> str:
    """The mix after which clarity and extent are drawn."""
    return "source" if config.mix == "novel" else config.mix


def _can_have(service: Service, kind: str) -> bool:
    """Whether a service has what a novel kind of fault acts on."""
    steps = [step for operation in service.operations for step in operation.steps]
    if kind == SHORT_CIRCUIT:
        return bool(steps)
    if kind == N_PLUS_ONE:
        return any(step.transport == DB for step in steps)
    if kind == CACHE_LOSS:
        return any(step.transport == DB and step.probability < 1 for step in steps)
    return kind != QUEUE_BACKLOG or service.is_consumer


def _log_uniform(low: float, high: float, rng: random.Random) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _draw(config: Config, topology: Topology, kind: str, first: int, last: int, rng: random.Random) -> Fault | None:
    """One episode of ``kind`` at random; None where the service drawn can't have it."""
    manner = _manner(config)
    service = rng.choice(topology.services)
    longest = min(_MINUTES[1], (last - first) * _LENGTH_SHARE_MAX)
    length = _log_uniform(min(_MINUTES[0], longest / 2), longest, rng)
    start = rng.uniform(first, last - length)
    severity = _severity(config, kind, *_severity_range(config, kind), rng)
    partial_chance, share_min = _PARTIAL[manner]
    share = rng.uniform(share_min, 0.9) if rng.random() < partial_chance else 1.0
    one_pod = service.replicas > 1 and rng.random() < _ONE_POD_CHANCE[manner]
    slot = rng.choice(list(service.slots)) if one_pod else None
    target, pool_wait, side_effect, part = None, 0.0, 0.0, None
    if kind == LATENCY_SPIKE:
        modes = [WORK, WORK, ACCEPT] if service.tier else [WORK]
        mode = rng.choice(modes + [DATABASE] * bool(service.database))
        if service.tier and not service.is_consumer and rng.random() < _POOL_WAIT_CHANCE:
            pool_wait = rng.uniform(*_POOL_WAIT)
        side_effect = rng.uniform(0.1, 0.6)
    elif kind == RETRY_LOOP:
        targets = sorted(
            {
                step.target.service.index
                for operation in service.operations
                for step in operation.steps
                if step.transport != DB
            }
        )
        if not targets:
            return None
        target = rng.choice(targets)
        mode = rng.choice((REPEAT, DEADLINE))
    elif kind == RESOURCE_OVERUSE:
        if manner == "source":
            share = 1.0  # a process that is ill is ill for all its requests
        mode = rng.choice(("cpu", *OVERUSED))
        if rng.random() < _SLOWER_OVERUSE_CHANCE[manner]:
            side_effect = rng.uniform(*_SLOWER_OVERUSE)
    elif kind in NOVEL_MODES:
        if not _can_have(service, kind):
            return None
        mode = NOVEL_MODES[kind]
        if kind == INTERMITTENT_STALL:
            part = rng.uniform(*_STALLED)
    else:
        if not service.tier:
            return None
        mode = ERROR if service.is_consumer else rng.choice((REFUSE, ERROR, ERROR, HANG))
    return Fault(
        "",
        0,
        kind,
        service.index,
        start * MINUTE_MS,
        (start + length) * MINUTE_MS,
        severity,
        share,
        slot,
        mode,
        target,
        pool_wait,
        side_effect,
        part,
    )


def _touch_chances(fault: Fault, topology: Topology, visits: Sequence[Visits]) -> np.ndarray:
    """(endpoints,) chance that a request which the fault chooses is touched, from the sample."""
    slots = topology.services[fault.service].slots if fault.slot is None else (fault.slot,)
    touched = np.zeros(len(topology.endpoints))
    sampled = np.zeros(len(topology.endpoints))
    for visit in visits:
        sampled[visit.endpoint] += 1
        calls = sum(visit.slots[slot] for slot in slots)
        if not calls:
            continue
        if fault.kind in (DEPENDENCY_FAILURE, INTERMITTENT_STALL, SWALLOWED_EXCEPTION):
            touched[visit.endpoint] += 1 - (1 - fault.hit_share) ** calls
        elif fault.kind == RETRY_LOOP:
            touched[visit.endpoint] += any((slot, fault.target) in visit.calls for slot in slots)
        elif fault.kind == SHORT_CIRCUIT:
            busy = visit.queries.union(slot for slot, _ in visit.calls)
            touched[visit.endpoint] += not busy.isdisjoint(slots)
        elif fault.mode == DATABASE and not fault.pool_wait:
            touched[visit.endpoint] += any(slot in visit.queries for slot in slots)
        else:
            touched[visit.endpoint] += 1
    return touched / np.maximum(sampled, 1)


def _minutes(fault: Fault) -> slice:
    return slice(int(fault.start_ms // MINUTE_MS), int(fault.end_ms // MINUTE_MS) + 1)


def _fit(fault: Fault, chances: np.ndarray, most: float, clean: np.ndarray) -> tuple[Fault, float]:
    """The episode, cut short (or down) to touch at most ``most`` traces; and how many it does."""
    expected = clean @ chances  # (minutes,)

    def touched() -> float:
        minutes = _minutes(fault)
        # The first and last minute count by the part of them that the episode covers.
        return fault.share * float(
            expected[minutes].sum()
            - expected[minutes.start] * (fault.start_ms / MINUTE_MS - minutes.start)
            - expected[minutes.stop - 1] * (minutes.stop - fault.end_ms / MINUTE_MS)
        )

    while touched() > most and fault.end_ms - fault.start_ms > _LENGTH_MIN * MINUTE_MS:
        shorter = (fault.end_ms - fault.start_ms) * max(0.5, min(0.97, most / touched()))
        fault = replace(fault, end_ms=fault.start_ms + shorter)
    if touched() > most:
        fault = replace(fault, share=fault.share * most / touched())
    return fault, touched()
