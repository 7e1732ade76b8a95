"""How varied a world is where nobody is at fault: the knobs, the prior of each, and what they draw.

``--noise plain`` is one point of it, the default of every knob; ``--noise wide`` draws each knob
from its prior. Knobs are the world's. What differs by service, operation, pod or node is drawn by
the modules that use it, keyed by its name, so that no draw moves another. All of it is benign: no
fault changes it, and no label tells of it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from simulator.config import WIDE, Config
from simulator.keyed import key_of, normal, unit

Prior = Callable[[random.Random], Any]

# Natural errors of a call are cut at this multiple of the plain rate: 5 % of the calls.
_ERROR_FACTOR_MAX = 125.0
# Pareto tails are cut at this multiple of the usual time.
TAIL_MAX = 40.0


def _uniform(low: float, high: float) -> Prior:
    return lambda rng: rng.uniform(low, high)


def _log_uniform(low: float, high: float) -> Prior:
    return lambda rng: math.exp(rng.uniform(math.log(low), math.log(high)))


def _one_of(*values: Any) -> Prior:
    return lambda rng: rng.choice(values)


def _sometimes(chance: float, prior: Prior, otherwise: float = 0.0) -> Prior:
    return lambda rng: prior(rng) if rng.random() < chance else otherwise


def _knob(plain: Any, prior: Prior) -> Any:
    return field(default=plain, metadata={"prior": prior})


class Shape(NamedTuple):
    """The distribution of a time around its log-normal body, as factors on it."""

    slow_chance: float = 0.0  # of the slow mode: a cache missed, a connection made
    slow_factor: float = 1.0
    tail_chance: float = 0.0  # of the Pareto tail
    tail_exponent: float = 2.0

    def factor(self, draw: float) -> float:
        """The factor for one call; draw in [0, 1)."""
        if draw < self.slow_chance:
            return self.slow_factor
        if draw > 1 - self.tail_chance:
            return min(((1 - draw) / self.tail_chance) ** (-1 / self.tail_exponent), TAIL_MAX)
        return 1.0


@dataclass(frozen=True)
class Noise:
    """The knobs of one world. Shares are of [0, 1], spreads are standard deviations of a log."""

    seed: int = 0

    # ---- memory: a slow level that calls hardly move ----
    # Share of the calls' memory that the level holds in their place.
    level_share: float = _knob(0.0, _uniform(0.7, 0.99))
    # Standard deviation of the level, as a share of it, and its autocorrelation at one minute.
    level_spread: float = _knob(0.0, _uniform(0.01, 0.12))
    level_persistence: float = _knob(0.0, _uniform(0.7, 0.99))
    # Caches of a new pod fill by this share of the level, with this time constant in minutes.
    cache_share: float = _knob(0.0, _uniform(0.0, 0.6))
    cache_minutes: float = _knob(60.0, _log_uniform(10, 300))
    # Saw-tooth of the garbage collector: its height as a share of the level, its period in minutes.
    collector_share: float = _knob(0.0, _sometimes(0.7, _uniform(0.02, 0.35)))
    collector_minutes: float = _knob(15.0, _log_uniform(3, 120))
    # Share of the services that leak, and the growth of their level a day, until a restart.
    leaking: float = _knob(0.0, _uniform(0.0, 0.4))
    leak_per_day: float = _knob(0.0, _log_uniform(0.03, 0.5))

    # ---- where it runs: near and far, fast and slow ----
    # Zones that nodes lie in, and the factor on the network's time from one to another.
    zones: int = _knob(1, _one_of(1, 2, 2, 3))
    far_factor: float = _knob(1.0, _log_uniform(2, 25))
    # Spread of the network's time over pairs of nodes.
    pair_spread: float = _knob(0.0, _uniform(0.0, 0.4))
    # Spread of speed over the replicas of a service: each life of a pod has its own.
    replica_spread: float = _knob(0.0, _uniform(0.0, 0.25))
    # Spread of a node's speed over minutes, its autocorrelation, and that of a pod's, uncorrelated.
    node_spread: float = _knob(0.0, _uniform(0.0, 0.12))
    node_persistence: float = _knob(0.0, _uniform(0.2, 0.97))
    pod_spread: float = _knob(0.0, _uniform(0.0, 0.1))
    # Noisy neighbours a day and node, and the most that they slow a node down.
    neighbours_per_day: float = _knob(0.0, _sometimes(0.7, _log_uniform(0.2, 6)))
    neighbour_factor: float = _knob(1.0, _uniform(1.1, 1.7))
    # Standard deviation of the nodes' clocks, in ms; they drift within hours.
    clock_ms: float = _knob(0.0, _sometimes(0.7, _log_uniform(0.05, 4)))

    # ---- instrumentation ----
    # Shares of the services that emit server spans only; that emit none (their callers name them);
    # whose spans have no kind; whose spans have neither status nor error.
    server_only: float = _knob(0.0, _sometimes(0.5, _one_of(0.2, 0.5, 1.0)))
    silent: float = _knob(0.0, _uniform(0.0, 0.3))
    kindless: float = _knob(0.0, _sometimes(0.4, _one_of(0.2, 0.5, 1.0)))
    statusless: float = _knob(0.0, _sometimes(0.3, _one_of(0.2, 0.5, 1.0)))
    # Whether services differ in the attribute by which they name whom they call.
    mixed_peers: bool = _knob(False, _one_of(False, True))
    # Share of the operations with an internal span, beside or around what they call.
    internal: float = _knob(0.0, _uniform(0.0, 0.5))
    # Share of the spans that get lost, and of those whose parent's id names no span.
    lost: float = _knob(0.0, _sometimes(0.5, _log_uniform(0.0005, 0.03)))
    orphaned: float = _knob(0.0, _sometimes(0.4, _log_uniform(0.0005, 0.02)))
    # Share of the consumers that link to the message's span, half of them in place of a parent.
    linked: float = _knob(0.0, _uniform(0.0, 1.0))
    # Share of the services whose times are cut to whole milliseconds, and to microseconds.
    millisecond_clocks: float = _knob(0.0, _sometimes(0.5, _one_of(0.3, 1.0)))
    microsecond_clocks: float = _knob(0.0, _uniform(0.0, 1.0))
    # One trace in so many is kept: at its head, by its id.
    sampled_one_in: int = _knob(1, _one_of(1, 1, 1, 1, 1, 1, 1, 2, 4, 8))

    # ---- times ----
    # Factor on all own times, and their spread over operations: from microseconds to seconds.
    pace: float = _knob(1.0, _log_uniform(0.03, 3))
    pace_spread: float = _knob(0.0, _uniform(0.0, 1.2))
    # Factor on the log-normal sigma of own times, and its spread over operations.
    sigma: float = _knob(1.0, _log_uniform(0.6, 2.5))
    sigma_spread: float = _knob(0.0, _uniform(0.0, 0.4))
    # Shares of the operations with two modes of time, and with a Pareto tail.
    bimodal: float = _knob(0.0, _uniform(0.0, 0.5))
    heavy_tailed: float = _knob(0.0, _uniform(0.0, 0.4))
    # Spread of the requests' sizes, and the share of the operations whose time and work follow it.
    payload_spread: float = _knob(0.0, _uniform(0.0, 0.9))
    payload_bound: float = _knob(0.0, _uniform(0.0, 0.8))
    # Factor on the network's times, and the chance that a call makes its connection first.
    network_pace: float = _knob(1.0, _log_uniform(0.2, 3))
    connecting: float = _knob(0.0, _sometimes(0.6, _log_uniform(0.005, 0.3)))
    # Factor on the time that messages wait in queues, and its spread over topics.
    queue_pace: float = _knob(1.0, _log_uniform(0.1, 5))
    queue_spread: float = _knob(0.0, _uniform(0.0, 1.0))

    # ---- benign change ----
    # Share of the services that have as many replicas as the load needs.
    autoscaled: float = _knob(0.0, _uniform(0.0, 0.8))
    # Share of the services with a batch job at fixed times, and the most that it slows them down.
    batched: float = _knob(0.0, _uniform(0.0, 0.4))
    batch_factor: float = _knob(1.0, _uniform(1.0, 1.5))
    # Factors on the rates of deploys and restarts.
    deploys: float = _knob(1.0, _log_uniform(1, 12))
    restarts: float = _knob(1.0, _log_uniform(1, 20))
    # Chance that a deploy adds or removes a call, or changes an operation's time by up to x1.3.
    reworked: float = _knob(0.0, _uniform(0.0, 0.8))
    # What the load slowly rises to, as a multiple.
    ramp: float = _knob(1.0, _sometimes(0.4, _log_uniform(1.5, 6), 1.0))
    # Flash crowds a day, gaps without any traffic a day.
    crowds_per_day: float = _knob(0.0, _sometimes(0.5, _uniform(0.5, 5)))
    gaps_per_day: float = _knob(0.0, _sometimes(0.4, _uniform(0.5, 6)))
    # Factor on the amplitude of the daily rhythm, and on the load that makes services slow.
    swing: float = _knob(1.0, _uniform(0.0, 1.6))
    pressure: float = _knob(1.0, _uniform(0.3, 1.1))
    # Exponent and floor of the endpoints' popularity: rare ones have a few requests an hour.
    endpoint_skew: float = _knob(0.8, _uniform(0.5, 2.0))
    endpoint_floor: float = _knob(0.1, _log_uniform(0.003, 0.1))

    # ---- natural errors ----
    # Factor on the rate of failures, and its spread over operations.
    errors: float = _knob(1.0, _log_uniform(0.3, 25))
    errors_spread: float = _knob(0.0, _uniform(0.5, 1.5))
    # Share of the operations that answer a share of the calls with "not found" (a client's error).
    refusing: float = _knob(0.0, _uniform(0.0, 0.4))
    # Share of the operations that are asked again as a way of working.
    polled: float = _knob(0.0, _sometimes(0.6, _uniform(0.0, 0.3)))

    @classmethod
    def drawn(cls, seed: int) -> Noise:
        """Every knob from its prior, keyed by (seed, knob)."""
        knobs = {knob.name: knob.metadata["prior"] for knob in fields(cls) if knob.metadata}
        return cls(seed, **{name: prior(random.Random(f"noise/{seed}/{name}")) for name, prior in knobs.items()})

    @classmethod
    def of(cls, config: Config) -> Noise:
        """The noise that a config asks for."""
        return cls.drawn(config.seed) if config.noise == WIDE else cls(config.seed)

    # ---- keyed draws: ``what`` names what is drawn, and for whom --------------------------------

    def unit(self, *what: int | str) -> float:
        """A draw in [0, 1)."""
        return unit(key_of(self.seed, "noise", *what))

    def is_among(self, share: float, *what: int | str) -> bool:
        """Whether one of many belongs to a share of them."""
        return self.unit(*what) < share

    def uniform(self, low: float, high: float, *what: int | str) -> float:
        """A draw in [low, high)."""
        return low + (high - low) * self.unit(*what)

    def log_uniform(self, low: float, high: float, *what: int | str) -> float:
        """A draw in [low, high), uniform in its logarithm."""
        return math.exp(self.uniform(math.log(low), math.log(high), *what))

    def normal(self, *what: int | str) -> float:
        """A standard normal draw."""
        return normal(key_of(self.seed, "noise", *what))

    def spread(self, spread: float, *what: int | str) -> float:
        """A log-normal factor around 1; 1 where the spread is 0."""
        return math.exp(spread * self.normal(*what))

    def error_factor(self, *what: int | str) -> float:
        """Factor on an operation's rate of natural errors."""
        return min(self.errors * self.spread(self.errors_spread, "errors", *what), _ERROR_FACTOR_MAX)

    def shape_of_work(self, *what: int | str) -> Shape:
        """How an operation's own time is distributed around its body."""
        is_bimodal = self.is_among(self.bimodal, "bimodal", *what)
        is_heavy = self.is_among(self.heavy_tailed, "heavy-tailed", *what)
        return Shape(
            slow_chance=is_bimodal * self.log_uniform(0.03, 0.5, "slow chance", *what),
            slow_factor=self.log_uniform(2, 15, "slow factor", *what),
            tail_chance=is_heavy * self.log_uniform(0.005, 0.1, "tail chance", *what),
            tail_exponent=self.uniform(1.2, 3, "tail exponent", *what),
        )

    def shape_of_network(self, *what: int | str) -> Shape:
        """How the network's time of a call is distributed around its body."""
        return Shape(
            slow_chance=self.connecting,
            slow_factor=self.log_uniform(2, 8, "connect factor", *what),
        )
