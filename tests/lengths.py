"""How long the tests are that repeat something: short with every change, long by `make test-long`.

Such a test has the marker ``long``, too: `make test-long` runs these and no others.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Lengths:
    """What is repeated, and how often.

    Attributes:
        kills: SIGKILLs of the command at random moments of one stream.
        engine_kills: of its engine's process, before.
        away_s: seconds that the broker is away, and the database twice that long.
        mutated_messages: through the whole job.
        fuzzed_records: for each kind of input, through the functions that read it.
        seeds: of the simulated worlds whose bills are allocated.
        api_servers: of Kubernetes, on which actions are tried; the real one is built by Go.
    """

    kills: int
    engine_kills: int
    away_s: float
    mutated_messages: int
    fuzzed_records: int
    seeds: tuple[int, ...]
    api_servers: tuple[str, ...] = ("fake",)


SHORT = Lengths(kills=1, engine_kills=1, away_s=5, mutated_messages=4_000, fuzzed_records=20_000, seeds=(21,))
LONG = Lengths(
    kills=20, engine_kills=5, away_s=60, mutated_messages=200_000, fuzzed_records=200_000, seeds=(21, 31, 41),
    api_servers=("fake", "real"),
)  # fmt: skip

LENGTHS = LONG if os.environ.get("ANOMALY_COST_LONG") else SHORT
