"""What pods use: idle usage, batch jobs and the work of requests, minute by minute, in integers.

Units: cpu in core-microseconds, memory in byte-milliseconds, io in operations, network in bytes.
Integers make sums exact in any order, so usage without a fault is usage less the fault's part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from simulator.config import MINUTE_MS, MINUTES_PER_DAY
from simulator.keyed import key_of
from simulator.noise import Noise
from simulator.placement import Pod
from simulator.requests import Use
from simulator.topology import Topology
from simulator.weather import BatchJobs

CPU, MEMORY, IO, TRANSMIT, RECEIVE = range(5)
DIMENSIONS = 5

# Idle pods write logs, answer probes and talk to their control plane, each minute.
_IDLE_IO_OPERATIONS = 240
_IDLE_BYTES = 150_000
# Memory of an idle pod breathes slowly (garbage collection), the rest flickers.
_IDLE_SPREAD = np.array([0.15, 0.02, 0.3, 0.2, 0.2])

# A pod's level of memory never falls below this share of its mean.
_LEVEL_MIN = 0.1

# usage[dimension][slot] of one minute
MinuteUsage = list[list[int]]
# {(fault number, slot): usage by dimension that the fault adds in one minute}
MinuteDelta = dict[tuple[int, int], list[int]]


class MemoryLevel:
    """What pods hold whatever they do: a slow level, stepped minute by minute."""

    def __init__(self, noise: Noise, topology: Topology) -> None:
        services = [service for service in topology.services for _ in service.slots]
        self._noise = noise
        self._mean = np.array([service.level_memory for service in services])
        self._state = np.zeros(len(services))  # standard normal
        names = [(service.name, slot) for slot, service in enumerate(services)]
        self._phase = np.array([noise.unit("collector phase", *name) for name in names])
        self._leak = np.array(
            [noise.leak_per_day * noise.is_among(noise.leaking, "leaking", service.name) for service in services]
        )

    def step(self, minute: int, pods: Sequence[Pod]) -> np.ndarray:
        """(slots,) mean bytes of a minute; to be called for every minute in turn."""
        noise = self._noise
        age = np.array([minute - pod.started_minute for pod in pods])
        rng = np.random.Generator(np.random.Philox(key=key_of(noise.seed, "level", minute)))
        phi = np.where(age > 0, noise.level_persistence, 0.0) * bool(minute)
        self._state = phi * self._state + np.sqrt(1 - phi**2) * rng.standard_normal(len(pods))
        waves = noise.level_spread * self._state
        caches = -noise.cache_share * np.exp(-age / noise.cache_minutes)
        collector = noise.collector_share * ((age / noise.collector_minutes + self._phase) % 1 - 0.5)
        leak = np.minimum(self._leak * age / MINUTES_PER_DAY, 1.0)
        return self._mean * np.maximum(1 + waves + caches + collector + leak, _LEVEL_MIN)


class UsageMeter:
    """Collects the work of requests and hands out whole minutes."""

    def __init__(self, noise: Noise, topology: Topology, batches: BatchJobs) -> None:
        self._seed = noise.seed
        self._level = MemoryLevel(noise, topology)
        self._batches = batches
        self._slots = topology.slot_count
        services = [service for service in topology.services for _ in service.slots]
        self._idle = np.array(
            [
                [service.idle_cpu * MINUTE_MS * 1000 for service in services],
                [service.idle_memory * MINUTE_MS for service in services],
                [_IDLE_IO_OPERATIONS] * self._slots,
                [_IDLE_BYTES] * self._slots,
                [_IDLE_BYTES] * self._slots,
            ]
        )
        self._work: dict[int, MinuteUsage] = defaultdict(lambda: [[0] * self._slots for _ in range(DIMENSIONS)])
        self._deltas: dict[int, MinuteDelta] = defaultdict(lambda: defaultdict(lambda: [0] * DIMENSIONS))

    def add(self, uses: Iterable[Use]) -> None:
        """Count the work of one request."""
        for minute, slot, cpu, memory, io, transmit, receive in uses:
            work = self._work[minute]
            work[CPU][slot] += cpu
            work[MEMORY][slot] += memory
            work[IO][slot] += io
            work[TRANSMIT][slot] += transmit
            work[RECEIVE][slot] += receive

    def blame(self, fault: int, uses: Iterable[Use], without: Iterable[Use]) -> None:
        """Count what one fault changes of a request's work: with all faults, less without it."""
        for sign, side in ((1, uses), (-1, without)):
            for use in side:
                delta = self._deltas[use.minute][fault, use.slot]
                for dimension in range(DIMENSIONS):
                    delta[dimension] += sign * use[2 + dimension]

    def idle(self, minute: int) -> np.ndarray:
        """(dimensions, slots) idle usage, keyed by (seed, minute): the same whatever is done."""
        rng = np.random.Generator(np.random.Philox(key=key_of(self._seed, "idle", minute)))
        noise = rng.random((DIMENSIONS, self._slots)) * 2 - 1
        idle = self._idle * (1 + _IDLE_SPREAD[:, None] * noise)
        return np.rint(idle + self._batches.usage(minute)).astype(np.int64)

    def close(self, minute: int, pods: Sequence[Pod]) -> tuple[MinuteUsage, MinuteDelta]:
        """Usage of all pods in a minute that no request can reach any more, and faults' parts.

        A pod that is stopped is idle no more, but ends what it had begun.
        """
        idle = self.idle(minute)
        idle[MEMORY] += np.rint(self._level.step(minute, pods) * MINUTE_MS).astype(np.int64)
        usage = (idle * [pod.is_running for pod in pods]).tolist()
        work = self._work.pop(minute, None)
        if work:
            usage = [[idle + done for idle, done in zip(*rows)] for rows in zip(usage, work)]
        return usage, dict(self._deltas.pop(minute, {}))
