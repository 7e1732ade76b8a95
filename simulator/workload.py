"""How much is asked when: daily and weekly rhythm, surges, and the latency that load brings."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.config import MINUTE_MS, MINUTES_PER_DAY, Config
from simulator.keyed import key_of
from simulator.noise import Noise
from simulator.topology import Topology

# Requests of a minute are numbered below this; a request's id is minute * this + number.
_REQUESTS_PER_MINUTE_MAX = 1 << 20

# Utilisation is cut here: beyond it the queues of a real service would be shed.
_UTILISATION_MAX = 0.9

# Flash crowds, and gaps without any traffic: minutes, and the factor on the rate less 1.
_CROWD_MINUTES = (2.0, 15.0)
_CROWD_HEIGHT = (0.5, 4.0)
_GAP_MINUTES = (3.0, 45.0)
# A ramp takes such a share of the time, and ends before the world does.
_RAMP_SHARE = (0.15, 0.5)

# One surge in one and a half days on average, at least one in a world.
_SURGES_PER_DAY = 0.7


@dataclass(frozen=True)
class Workload:
    """Expected requests of each minute, and how busy they make everybody."""

    seed: int
    rate: np.ndarray  # (minutes,) expected requests a minute, surges included
    usual_peak: float  # requests a minute at the usual daily peak
    endpoint_edges: np.ndarray  # (endpoints,) cumulated shares

    @property
    def load(self) -> np.ndarray:
        """(minutes,) the rate as a share of the usual peak."""
        return self.rate / self.usual_peak

    def arrivals(self, minute: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Requests of one minute: (ids uint64, offsets in ms ascending, endpoint indices).

        Poisson, keyed by (seed, minute): independent of every other minute and of any fault.
        """
        rng = np.random.Generator(np.random.Philox(key=key_of(self.seed, "arrivals", minute)))
        count = min(int(rng.poisson(self.rate[minute])), _REQUESTS_PER_MINUTE_MAX - 1)
        offsets = np.sort(rng.random(count)) * MINUTE_MS
        endpoints = np.searchsorted(self.endpoint_edges, rng.random(count), side="right")
        ids = np.arange(count, dtype=np.uint64) + np.uint64(minute * _REQUESTS_PER_MINUTE_MAX)
        return ids, offsets, np.minimum(endpoints, len(self.endpoint_edges) - 1)

    def slowdown(self, topology: Topology, minute: int, replicas: Sequence[int]) -> list[float]:
        """Factor on the own time of each service in a minute, 1 at half of the usual peak.

        replicas: by service; of fewer than it has at most, each has more to do.

        Waiting time of a queue, 1 / (1 - utilisation). Load is the expected one: what a fault adds
        does not slow the requests it does not touch, or every trace would be anomalous.
        """
        load = self.rate[minute] / self.usual_peak
        return [
            (1 - 0.5 * service.peak_utilisation)
            / (1 - min(service.peak_utilisation * load * (service.replicas / running), _UTILISATION_MAX))
            for service, running in zip(topology.services, replicas)
        ]


def build(config: Config, topology: Topology, noise: Noise) -> Workload:
    """The workload of a world; its expected total is requests-per-day times days."""
    rng = random.Random(f"workload/{config.seed}")
    peak_hour = rng.uniform(11, 21)
    swing, second_swing = rng.uniform(0.4, 0.6), rng.uniform(0.1, 0.25)
    weekend = rng.uniform(0.7, 1.25)
    first = config.start.weekday() * MINUTES_PER_DAY + config.start.hour * 60
    rate = np.empty(config.minutes)
    for minute in range(config.minutes):
        day, minute_of_day = divmod(first + minute, MINUTES_PER_DAY)
        angle = 2 * math.pi * (minute_of_day / 60 - peak_hour) / 24
        rhythm = 1 + noise.swing * (swing * math.cos(angle) + second_swing * math.cos(2 * angle))
        rate[minute] = max(rhythm, 0.05) * (weekend if day % 7 >= 5 else 1.0)
    rate *= _ramp(config.minutes, noise)
    usual_peak = float(rate.max()) / noise.pressure
    for _ in range(max(1, round(config.days * _SURGES_PER_DAY))):
        length = min(rng.uniform(15, 60), config.minutes / 10)
        start = rng.uniform(0, config.minutes - length)
        height = rng.uniform(0.4, 1.2)
        for minute in range(int(start), min(int(start + length) + 1, config.minutes)):
            # Rises and falls like a campaign's, not like a switch.
            phase = min(max((minute - start) / length, 0.0), 1.0)
            rate[minute] *= 1 + height * math.sin(math.pi * phase)
    rate *= _crowds_and_gaps(config, noise)
    scale = config.requests_per_day * config.days / rate.sum()
    edges = np.cumsum([endpoint.weight for endpoint in topology.endpoints])
    return Workload(config.seed, rate * scale, usual_peak * scale, edges)


def _ramp(minutes: int, noise: Noise) -> np.ndarray:
    """(minutes,) a slow rise from 1 to the ramp's height, where it stays."""
    length = minutes * noise.uniform(*_RAMP_SHARE, "ramp length")
    start = noise.uniform(0, minutes - length, "ramp start")
    return noise.ramp ** np.clip((np.arange(minutes) - start) / length, 0, 1)


def _crowds_and_gaps(config: Config, noise: Noise) -> np.ndarray:
    """(minutes,) factor on the rate: crowds come at once and lose interest, in gaps nobody asks."""
    rng = random.Random(f"crowds/{config.seed}")
    factor = np.ones(config.minutes)
    for _ in range(math.ceil(noise.crowds_per_day * config.days)):
        start, length = rng.randrange(config.minutes), rng.uniform(*_CROWD_MINUTES)
        since = np.arange(config.minutes) - start
        factor += np.where(since >= 0, rng.uniform(*_CROWD_HEIGHT) * np.exp(-np.maximum(since, 0) / length), 0)
    for _ in range(math.ceil(noise.gaps_per_day * config.days)):
        start, length = rng.randrange(config.minutes), rng.uniform(*_GAP_MINUTES)
        factor[start : start + round(length)] = 0
    return factor
