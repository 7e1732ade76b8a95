"""How much is asked when: daily and weekly rhythm, surges, and the latency that load brings."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from simulator.config import MINUTE_MS, MINUTES_PER_DAY, Config
from simulator.keyed import key_of
from simulator.topology import Topology

# Requests of a minute are numbered below this; a request's id is minute * this + number.
_REQUESTS_PER_MINUTE_MAX = 1 << 20

# Utilisation is cut here: beyond it the queues of a real service would be shed.
_UTILISATION_MAX = 0.9

# One surge in one and a half days on average, at least one in a world.
_SURGES_PER_DAY = 0.7


@dataclass(frozen=True)
class Workload:
    """Expected requests of each minute, and how busy they make everybody."""

    seed: int
    rate: np.ndarray  # (minutes,) expected requests a minute, surges included
    usual_peak: float  # requests a minute at the usual daily peak
    endpoint_edges: np.ndarray  # (endpoints,) cumulated shares

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

    def slowdown(self, topology: Topology, minute: int) -> list[float]:
        """Factor on the own time of each service in a minute, 1 at half of the usual peak.

        Waiting time of a queue, 1 / (1 - utilisation). Load is the expected one: what a fault adds
        does not slow the requests it does not touch, or every trace would be anomalous.
        """
        load = self.rate[minute] / self.usual_peak
        return [
            (1 - 0.5 * service.peak_utilisation) / (1 - min(service.peak_utilisation * load, _UTILISATION_MAX))
            for service in topology.services
        ]


def build(config: Config, topology: Topology) -> Workload:
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
        rhythm = 1 + swing * math.cos(angle) + second_swing * math.cos(2 * angle)
        rate[minute] = max(rhythm, 0.05) * (weekend if day % 7 >= 5 else 1.0)
    usual_peak = float(rate.max())
    for _ in range(max(1, round(config.days * _SURGES_PER_DAY))):
        length = min(rng.uniform(15, 60), config.minutes / 10)
        start = rng.uniform(0, config.minutes - length)
        height = rng.uniform(0.4, 1.2)
        for minute in range(int(start), min(int(start + length) + 1, config.minutes)):
            # Rises and falls like a campaign's, not like a switch.
            phase = min(max((minute - start) / length, 0.0), 1.0)
            rate[minute] *= 1 + height * math.sin(math.pi * phase)
    scale = config.requests_per_day * config.days / rate.sum()
    edges = np.cumsum([endpoint.weight for endpoint in topology.endpoints])
    return Workload(config.seed, rate * scale, usual_peak * scale, edges)
