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
    DEPENDENCY_FAILURE,
    KINDS,
    LATENCY_SPIKE,
    MINUTE_MS,
    RESOURCE_OVERUSE,
    RETRY_LOOP,
    Config,
)
from simulator.keyed import key_of, mix, unit
from simulator.topology import DB, Topology

WORK, DATABASE, ACCEPT = "work", "database", "accept"
REPEAT, DEADLINE = "repeat", "deadline"
REFUSE, ERROR, HANG = "refuse", "error", "hang"
OVERUSED = ("cpu", "memory", "io", "network")

# Factors are drawn log-uniformly from these: (low, high) by mix and kind. Retries count attempts,
# dependency failures the share of failing calls.
_SEVERITY = {
    "source": {
        LATENCY_SPIKE: (2.0, 12.0),
        RETRY_LOOP: (2.0, 6.0),
        RESOURCE_OVERUSE: (1.5, 4.0),
        DEPENDENCY_FAILURE: (0.2, 1.0),
    },
    "faint": {
        LATENCY_SPIKE: (1.4, 3.0),
        RETRY_LOOP: (2.0, 3.0),
        RESOURCE_OVERUSE: (1.25, 2.0),
        DEPENDENCY_FAILURE: (0.1, 0.5),
    },
}
# (chance that only a part of the requests is concerned, the least such part)
_PARTIAL = {"source": (0.4, 0.3), "faint": (0.8, 0.15)}
_ONE_POD_CHANCE = {"source": 0.2, "faint": 0.4}
_POOL_WAIT_CHANCE = 0.3
_POOL_WAIT = (0.3, 2.0)  # of what the culprit is slower by
# What computes or reads more mostly takes longer, too: chance, and share of the factor.
_SLOWER_OVERUSE_CHANCE = {"source": 0.7, "faint": 0.35}
_SLOWER_OVERUSE = (0.5, 1.5)
_ATTEMPTS_MAX = 7

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

    def chooses(self, request_key: int) -> bool:
        """Whether a request is among the share that is concerned."""
        return unit(mix(self.key ^ request_key)) < self.share

    def hits(self, request_key: int, place: int) -> bool:
        """Whether a call attempt is among those that fail (severity is their share).

        place: a number for the attempt's site and path.
        """
        return unit(mix(self.key ^ mix(request_key ^ mix(place)))) < self.severity

    def strength(self, jitter: float) -> float:
        """The factor for one call, around the severity; jitter in [0, 1)."""
        return 1 + (self.severity - 1) * (0.7 + 0.6 * jitter)

    def attempts(self, request_key: int) -> int:
        """How often a call is made in all, for one request."""
        wobble = unit(mix(self.key ^ mix(request_key))) - 0.5
        return min(max(round(self.severity + wobble), 2), _ATTEMPTS_MAX)


@dataclass(frozen=True)
class Visits:
    """Where a sample request without any fault went."""

    endpoint: int
    slots: Counter[int]  # calls by pod
    calls: frozenset[tuple[int, int]]  # (calling pod, called service)
    queries: frozenset[int]  # pods that asked their database


def plan(
    config: Config, topology: Topology, rate: np.ndarray, visits: Sequence[Visits]
) -> list[Fault]:
    """Episodes after the warm-up that touch about ``anomaly_rate`` of the expected requests.

    rate: (minutes,) expected requests a minute. Kinds take turns by their weights; culprits are
    drawn evenly over the services, so that rare ones have their share of faults.
    """
    rng = random.Random(f"faults/{config.seed}/{config.mix}")
    first, last = config.warm_up_minutes, config.minutes
    budget = config.anomaly_rate * float(rate.sum())
    weight_sum = sum(config.faults.values())
    weights = np.array([endpoint.weight for endpoint in topology.endpoints])
    # (minutes, endpoints) requests expected that no episode touches so far
    clean = rate[:, None] * weights
    faults: list[Fault] = []
    for kind in KINDS:
        whole = left = budget * config.faults.get(kind, 0.0) / weight_sum
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
    return [
        replace(fault, fault_id=f"fault-{number:04d}", key=key_of(config.seed, "fault", number))
        for number, fault in enumerate(faults, 1)
    ]


def _log_uniform(low: float, high: float, rng: random.Random) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _draw(
    config: Config, topology: Topology, kind: str, first: int, last: int, rng: random.Random
) -> Fault | None:
    """One episode of ``kind`` at random; None where the service drawn can't have it."""
    service = rng.choice(topology.services)
    longest = min(_MINUTES[1], (last - first) * _LENGTH_SHARE_MAX)
    length = _log_uniform(min(_MINUTES[0], longest / 2), longest, rng)
    start = rng.uniform(first, last - length)
    severity = _log_uniform(*_SEVERITY[config.mix][kind], rng) ** config.severity
    partial_chance, share_min = _PARTIAL[config.mix]
    share = rng.uniform(share_min, 0.9) if rng.random() < partial_chance else 1.0
    one_pod = service.replicas > 1 and rng.random() < _ONE_POD_CHANCE[config.mix]
    slot = rng.choice(list(service.slots)) if one_pod else None
    target, pool_wait, side_effect = None, 0.0, 0.0
    if kind == LATENCY_SPIKE:
        modes = [WORK, WORK, ACCEPT] if service.tier else [WORK]
        mode = rng.choice(modes + [DATABASE] * bool(service.database))
        if service.tier and not service.is_consumer and rng.random() < _POOL_WAIT_CHANCE:
            pool_wait = rng.uniform(*_POOL_WAIT)
        side_effect = rng.uniform(0.1, 0.6)
    elif kind == RETRY_LOOP:
        targets = sorted({
            step.target.service.index
            for operation in service.operations
            for step in operation.steps
            if step.transport != DB
        })
        if not targets:
            return None
        target = rng.choice(targets)
        mode = rng.choice((REPEAT, DEADLINE))
    elif kind == RESOURCE_OVERUSE:
        if config.mix == "source":
            share = 1.0  # a process that is ill is ill for all its requests
        mode = rng.choice(("cpu", *OVERUSED))
        if rng.random() < _SLOWER_OVERUSE_CHANCE[config.mix]:
            side_effect = rng.uniform(*_SLOWER_OVERUSE)
    else:
        if not service.tier:
            return None
        severity = min(severity, 1.0)
        mode = ERROR if service.is_consumer else rng.choice((REFUSE, ERROR, ERROR, HANG))
    return Fault("", 0, kind, service.index, start * MINUTE_MS, (start + length) * MINUTE_MS,
                 severity, share, slot, mode, target, pool_wait, side_effect)


def _touch_chances(
    fault: Fault, topology: Topology, visits: Sequence[Visits]
) -> np.ndarray:
    """(endpoints,) chance that a request which the fault chooses is touched, from the sample."""
    slots = topology.services[fault.service].slots if fault.slot is None else (fault.slot,)
    touched = np.zeros(len(topology.endpoints))
    sampled = np.zeros(len(topology.endpoints))
    for visit in visits:
        sampled[visit.endpoint] += 1
        calls = sum(visit.slots[slot] for slot in slots)
        if not calls:
            continue
        if fault.kind == DEPENDENCY_FAILURE:
            touched[visit.endpoint] += 1 - (1 - fault.severity) ** calls
        elif fault.kind == RETRY_LOOP:
            touched[visit.endpoint] += any((slot, fault.target) in visit.calls for slot in slots)
        elif fault.mode == DATABASE and not fault.pool_wait:
            touched[visit.endpoint] += any(slot in visit.queries for slot in slots)
        else:
            touched[visit.endpoint] += 1
    return touched / np.maximum(sampled, 1)


def _minutes(fault: Fault) -> slice:
    return slice(int(fault.start_ms // MINUTE_MS), int(fault.end_ms // MINUTE_MS) + 1)


def _fit(
    fault: Fault, chances: np.ndarray, most: float, clean: np.ndarray
) -> tuple[Fault, float]:
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
