"""What a world is made from: the one reader of the simulator's command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

MINUTE_MS = 60_000
MINUTES_PER_HOUR = 60
MINUTES_PER_DAY = 24 * 60

LATENCY_SPIKE = "latency_spike"
RETRY_LOOP = "retry_loop"
RESOURCE_OVERUSE = "resource_overuse"
DEPENDENCY_FAILURE = "dependency_failure"
KINDS = (LATENCY_SPIKE, RETRY_LOOP, RESOURCE_OVERUSE, DEPENDENCY_FAILURE)

# Kinds that no detector is trained or tuned for: they tell how one does on the unknown.
SHORT_CIRCUIT = "short_circuit"
N_PLUS_ONE = "n_plus_one"
INTERMITTENT_STALL = "intermittent_stall"
SWALLOWED_EXCEPTION = "swallowed_exception"
CACHE_LOSS = "cache_loss"
QUEUE_BACKLOG = "queue_backlog"
NOVEL_KINDS = (
    SHORT_CIRCUIT,
    N_PLUS_ONE,
    INTERMITTENT_STALL,
    SWALLOWED_EXCEPTION,
    CACHE_LOSS,
    QUEUE_BACKLOG,
)
ALL_KINDS = KINDS + NOVEL_KINDS

BILLINGS = ("metered", "machine", "mixed")
# Kinds that occur, in equal weights, where none are named.
MIXES = {"source": KINDS, "faint": KINDS, "novel": NOVEL_KINDS}

PLAIN, WIDE = "plain", "wide"
NOISES = (PLAIN, WIDE)

STORM, DEPLOY = "storm", "deploy"
CASES = (STORM, DEPLOY)
# Begin and end of a storm, and the two times of new releases, as shares of the world's length.
STORM_SHARES = (0.45, 0.7)
RELEASE_SHARES = (0.4, 0.65)

# A quarter of a small world, half a day of a large one, is quiet at the start: detectors learn.
WARM_UP_SHARE = 0.25
WARM_UP_MAX_HOURS = 12.0

# Beyond a third of all traces "anomalous" has lost its meaning, and the episodes their room.
ANOMALY_RATE_MAX = 0.35


class UsageError(Exception):
    """A wrong argument: one line that names the value and the bound."""


@dataclass(frozen=True)
class Config:
    """One world. Equal configs give equal bytes."""

    seed: int
    services: int = 20
    days: float = 7.0
    requests_per_day: int = 50_000
    anomaly_rate: float = 0.12
    faults: Mapping[str, float] | None = None  # weights by kind; None: as the mix has it
    mix: str = "source"
    case: str | None = None  # one lasting fault, or benign change alone, in place of the episodes
    severity: float = 1.0  # exponent on every fault's factor: 1 as drawn, 0.5 faint, 2 drastic
    billing: str = "mixed"
    noise: str = PLAIN  # what is nobody's fault: as it always was, or drawn from wide priors
    start: datetime = datetime(2025, 3, 3, tzinfo=UTC)
    warm_up_hours: float | None = None
    metrics_interval_s: int = 60

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("services", self.services, 3, 200),
            ("days", self.days, 0.01, 366),
            ("requests-per-day", self.requests_per_day, 100, 100_000_000),
            ("anomaly-rate", self.anomaly_rate, 0, ANOMALY_RATE_MAX),
            ("severity", self.severity, 0.1, 4),
            ("warm-up-hours", self.warm_up_minutes / MINUTES_PER_HOUR, 0, 24 * self.days * 0.8),
        ):
            if not low <= value <= high:
                raise UsageError(f"--{name} {value:g} is outside of {low:g} to {high:g}")
        if self.metrics_interval_s % 60 or not 60 <= self.metrics_interval_s <= 900:
            raise UsageError(f"--metrics-interval-s {self.metrics_interval_s} is not whole minutes of 60 to 900")
        if self.billing not in BILLINGS:
            raise UsageError(f"--billing {self.billing} is none of {', '.join(BILLINGS)}")
        if self.noise not in NOISES:
            raise UsageError(f"--noise {self.noise} is none of {', '.join(NOISES)}")
        if self.mix not in MIXES:
            raise UsageError(f"--mix {self.mix} is none of {', '.join(MIXES)}")
        if self.case not in (None, *CASES):
            raise UsageError(f"--case {self.case} is none of {', '.join(CASES)}")
        if self.case == STORM and self.warm_up_minutes > STORM_SHARES[0] * self.minutes:
            raise UsageError(
                f"--warm-up-hours {self.warm_up_minutes / MINUTES_PER_HOUR:g} is beyond the storm's "
                f"begin, {STORM_SHARES[0]:.0%} of the time"
            )
        unknown = sorted(set(self.weights) - set(ALL_KINDS))
        if unknown:
            raise UsageError(f"--faults {unknown[0]} is none of {', '.join(ALL_KINDS)}")
        if min(self.weights.values(), default=0) < 0 or not sum(self.weights.values()) > 0:
            raise UsageError("--faults: give no weight below 0 and at least one above 0")

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each kind of fault that may occur."""
        return dict.fromkeys(MIXES[self.mix], 1.0) if self.faults is None else self.faults

    @property
    def minutes(self) -> int:
        """Length of the world in whole minutes."""
        return round(self.days * MINUTES_PER_DAY)

    @property
    def warm_up_minutes(self) -> int:
        """Minutes at the start without faults."""
        hours = self.warm_up_hours
        if hours is None:
            hours = min(WARM_UP_SHARE * self.days * 24, WARM_UP_MAX_HOURS)
        return round(hours * MINUTES_PER_HOUR)

    @property
    def start_ms(self) -> int:
        """Start of the world, UTC milliseconds."""
        return int(self.start.timestamp() * 1000)


def _weights(text: str) -> dict[str, float]:
    """``latency_spike=1,retry_loop=2`` as a dict; kinds that are not named don't occur."""
    weights = {}
    for part in text.split(","):
        kind, _, weight = part.partition("=")
        try:
            weights[kind.strip()] = float(weight or 1)
        except ValueError:
            raise UsageError(f"--faults {part}: give kind=weight,...") from None
    return weights


def _start(text: str) -> datetime:
    """An ISO time at a full hour, UTC where it names no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--start {text} is not an ISO time such as 2025-03-03T00:00Z") from None
    moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    if (moment.minute, moment.second, moment.microsecond) != (0, 0, 0):
        raise UsageError(f"--start {text} is not a full hour")
    return moment


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse(argv: Sequence[str], prog: str = "python -m simulator") -> tuple[Config, Path]:
    """The config and the output directory of a command line.

    Raises:
        UsageError: one line that says what is wrong.
    """
    parser = _Parser(
        prog=prog,
        description="Simulate the telemetry and the bill of a shop, with faults that are known.",
    )
    add = parser.add_argument
    add("--output", required=True, help="directory that is empty or not there yet (or file:// URL)")
    add("--seed", required=True, type=int, help="each seed is another topology, provider, bill")
    add("--services", type=int, default=20)
    add("--days", type=float, default=7.0, help="fractions of a day work: 0.1")
    add("--requests-per-day", type=int, default=50_000, help="mean over the simulated time")
    add("--anomaly-rate", type=float, default=0.12, help="share of traces that a fault touches")
    add(
        "--faults",
        type=_weights,
        metavar="KIND=WEIGHT,...",
        help=f"of {', '.join(ALL_KINDS)} [the mix's kinds in equal weights]",
    )
    add(
        "--mix",
        default="source",
        help="source: clear and partial faults; faint: weak, partial;"
        " novel: kinds that no detector is made for, clear and partial",
    )
    add(
        "--case",
        help="storm: one fault that lasts for hours; deploy: many new releases, no fault;"
        " either way whatever the anomaly rate",
    )
    add("--severity", type=float, default=1.0, help="exponent on the faults' factors")
    add("--billing", default="mixed", help="metered, machine or mixed")
    add(
        "--noise",
        default=PLAIN,
        help="plain: mild; wide: memory, instrumentation, times, load, errors and benign change"
        " drawn from wide priors by the seed",
    )
    add("--start", default="2025-03-03T00:00Z", help="ISO time at a full hour")
    add(
        "--warm-up-hours",
        type=float,
        help="time without faults at the start"
        f" [{WARM_UP_SHARE:.0%}% of the time, at most {WARM_UP_MAX_HOURS:g} hours]",
    )
    add("--metrics-interval-s", type=int, default=60, help="whole minutes, in seconds")
    found = parser.parse_args(argv)
    config = Config(
        seed=found.seed,
        services=found.services,
        days=found.days,
        requests_per_day=found.requests_per_day,
        anomaly_rate=found.anomaly_rate,
        faults=found.faults,
        mix=found.mix,
        case=found.case,
        severity=found.severity,
        billing=found.billing,
        noise=found.noise,
        start=_start(found.start),
        warm_up_hours=found.warm_up_hours,
        metrics_interval_s=found.metrics_interval_s,
    )
    if "://" in found.output and not found.output.startswith("file://"):
        raise UsageError(f"--output {found.output} is not a directory or a file:// URL")
    output = Path(found.output.removeprefix("file://"))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output {output} is not an empty directory")
    return config, output
