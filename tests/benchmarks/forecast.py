"""How often a month's cost lies between the bounds of its forecast.

    python -m tests.benchmarks.forecast [--months 100]

Months are drawn: with a week's pattern or without, with noise that lasts, with a level that jumps once. Seeded.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from udfs.pure.forecast import COVERAGE, forecast

KINDS = ("even", "weekly", "lasting", "weekly lasting", "jump", "weekly jump")


def days_of(rng: np.random.Generator, kind: str, days: int) -> np.ndarray:
    """Costs of days."""
    noise = rng.normal(0, 0.1, days)
    if "lasting" in kind:
        for day in range(1, days):
            noise[day] += 0.6 * noise[day - 1]
    pattern = 1 + (0.4 * np.sin(2 * np.pi * np.arange(days) / 7) if "weekly" in kind else 0)
    level = np.where(np.arange(days) < rng.integers(days), 1.0, rng.uniform(0.5, 2.0)) if "jump" in kind else 1.0
    return 100 * pattern * (1 + noise) * level


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--months", type=int, default=100)
    months = parser.parse_args().months
    print(f"share of {months} months between the bounds (aim {COVERAGE}), and the median error of the month's rest\n")
    print("| days of past | left | " + " | ".join(KINDS) + " |")
    print("|---|---|" + "---|" * len(KINDS))
    for past, left in ((5, 25), (15, 15), (40, 20), (70, 10)):
        cells = []
        for kind in KINDS:
            rng = np.random.default_rng(7)
            hits, errors = 0, []
            for number in range(months):
                days = days_of(rng, kind, past + left)
                told, truth = forecast(days[:past], left, number), days[past:].sum()
                hits += told.low <= truth <= told.high
                errors.append(abs(told.middle / truth - 1))
            cells.append(f"{hits / months:.2f}, {np.median(errors):.1%}")
        print(f"| {past} | {left} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
