"""What makes whole nodes and services slow for a while, and is nobody's fault.

Noise that is correlated within a minute and a node, noisy neighbours, batch jobs at fixed times.
Keyed by (seed, minute), stepped minute by minute.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.config import MINUTE_MS, MINUTES_PER_DAY
from simulator.keyed import key_of
from simulator.noise import Noise
from simulator.placement import Pod
from simulator.topology import Service, Topology

_NEIGHBOUR_MINUTES = (2.0, 30.0)

# Batch jobs start every so many minutes and take so many; by the minute, a pod does this.
_BATCH_PERIODS = (30, 60, 120, 360, 1440)
_BATCH_MINUTES = (2.0, 20.0)
_BATCH_CORES = (0.05, 1.5)
_BATCH_IO_A_SECOND = (1.0, 200.0)
_BATCH_BYTES_A_SECOND = (1e3, 5e5)


class BatchJobs:
    """Jobs that some services do at fixed times, on all their pods, beside the requests."""

    def __init__(self, noise: Noise, topology: Topology) -> None:
        services = [service for service in topology.services for _ in service.slots]
        jobs = {service.name: _batch(noise, service) for service in topology.services}
        self._period, self._phase, self._length, slower, *load = np.array(
            [jobs[service.name] for service in services]
        ).T
        self._slower = slower
        self._load = np.array(load)

    def _are_on(self, minute: int) -> np.ndarray:
        return (minute + self._phase) % self._period < self._length

    def slowdown(self, minute: int) -> np.ndarray:
        """(slots,) factor on own times in a minute."""
        return np.where(self._are_on(minute), self._slower, 1.0)

    def usage(self, minute: int) -> np.ndarray:
        """(dimensions, slots) usage in a minute, as in usage.py."""
        return self._load * self._are_on(minute)


def _batch(noise: Noise, service: Service) -> tuple[float, ...]:
    """(period, phase, minutes, factor on own times, then usage a minute by dimension) of a job."""
    name = service.name
    period = _BATCH_PERIODS[int(noise.uniform(0, len(_BATCH_PERIODS), "batch period", name))]
    is_batched = noise.is_among(noise.batched, "batched", name)
    traffic = noise.log_uniform(*_BATCH_BYTES_A_SECOND, "batch bytes", name) * 60
    return (
        period,
        noise.uniform(0, period, "batch phase", name),
        is_batched * noise.uniform(*_BATCH_MINUTES, "batch minutes", name),
        noise.uniform(1, noise.batch_factor, "batch factor", name),
        noise.log_uniform(*_BATCH_CORES, "batch cores", name) * MINUTE_MS * 1000,
        0.0,
        noise.log_uniform(*_BATCH_IO_A_SECOND, "batch io", name) * 60,
        traffic,
        traffic,
    )


class Weather:
    """The speed of pods, minute by minute."""

    def __init__(self, noise: Noise, nodes: int, batches: BatchJobs) -> None:
        self._noise = noise
        self._batches = batches
        self._state = np.zeros(nodes)  # of a node, standard normal
        self._until = np.zeros(nodes)  # the minute in which a neighbour falls silent
        self._neighbour = np.ones(nodes)  # factor while it makes noise

    def slowdown(self, minute: int, pods: Sequence[Pod]) -> np.ndarray:
        """(slots,) factor on own times; to be called for every minute in turn."""
        noise, nodes = self._noise, len(self._state)
        rng = np.random.Generator(np.random.Philox(key=key_of(noise.seed, "weather", minute)))
        phi = noise.node_persistence if minute else 0.0
        self._state = phi * self._state + np.sqrt(1 - phi**2) * rng.standard_normal(nodes)
        chance, length, strength = rng.random((3, nodes))
        comes = chance < noise.neighbours_per_day / MINUTES_PER_DAY
        low, high = _NEIGHBOUR_MINUTES
        self._until = np.where(comes, minute + low * (high / low) ** length, self._until)
        self._neighbour = np.where(comes, 1 + (noise.neighbour_factor - 1) * strength, self._neighbour)
        of_nodes = np.exp(noise.node_spread * self._state) * np.where(minute < self._until, self._neighbour, 1.0)
        of_pods = np.exp(noise.pod_spread * rng.standard_normal(len(pods)))
        return of_nodes[[pod.node.index for pod in pods]] * of_pods * self._batches.slowdown(minute)
