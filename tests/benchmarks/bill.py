"""What the bill alone finds: charge_anomalies over whole worlds, without a trace (the FinOps arm).

    python -m tests.benchmarks.bill --seeds 401 402 403 --billing metered machine mixed --days 7
    python -m tests.benchmarks.bill DIR [DIR ...]

Worlds are simulated (--seeds) or read (directories as in docs/interface.md §1, with a
``truth/costs.parquet``). Prints a Markdown table for each kind of bill: mean ± 95 % t-interval over
its worlds. An hour of the bill is found if a charge of any resource is irregular in it, whichever
fault is the reason: the bill names no culprit. It counts as having anomaly cost if the faults cost
or save anything in it, as *dear* if they do so by a tenth of the hour's bill.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from simulator.evaluation.measures import mean_and_interval
from udfs.pure import irregular
from udfs.pure.focus import collect_charges
from udfs.pure.price import cost_by_window, to_units
from udfs.pure.windows import HOUR_MS

DEAR_SHARE = 0.1
BILL_KINDS = ("metered", "machine", "mixed")


def judge(directory: Path) -> list[dict]:
    """Rows of charge_anomalies of the bill in ``directory``, by the job's own functions."""
    costs: defaultdict[tuple, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    periods: defaultdict[tuple, dict[int, tuple[int, int]]] = defaultdict(dict)
    for charge in _charges(directory):
        for window_ms, by_dimension in cost_by_window(charge).items():
            for dimension, units in by_dimension.items():
                series = charge["resource_id"], dimension, charge["currency"]
                costs[series][window_ms] += units
                period = charge["start_ms"], charge["end_ms"]
                shortest = periods[series].get(window_ms, period)
                periods[series][window_ms] = min(period, shortest, key=lambda of: (of[1] - of[0], of[0]))
    return [
        row
        for series, by_window in sorted(costs.items())
        for row in irregular.charge_anomalies(*series, by_window, periods[series])
    ]


def measure(directory: Path) -> dict[str, float]:
    """Shares and counts of one world; NaN where there is nothing to take a share of."""
    bill: defaultdict[int, int] = defaultdict(int)
    for charge in _charges(directory):
        for window_ms, by_dimension in cost_by_window(charge).items():
            bill[window_ms - window_ms % HOUR_MS] += sum(by_dimension.values())
    excess: defaultdict[int, int] = defaultdict(int)
    for row in pq.read_table(directory / "truth" / "costs.parquet").to_pylist():
        start_ms = int(row["window_start"].timestamp() * 1000)
        excess[start_ms - start_ms % HOUR_MS] += abs(to_units(row["excess_cost"]))
    rows = judge(directory)
    hours = set(bill)
    flagged = {row["window_start"] - row["window_start"] % HOUR_MS for row in rows}
    costly = {hour for hour in hours if excess[hour]}
    dear = {hour for hour in costly if excess[hour] >= DEAR_SHARE * bill[hour]}
    return {
        "hours of the bill": len(hours),
        "of these with anomaly cost": _share(costly, hours),
        "of these dear": _share(dear, hours),
        "rows of charge_anomalies": len(rows),
        "hours flagged": len(flagged),
        "precision: flagged hours with anomaly cost": _share(flagged & costly, flagged),
        "flagged hours that are dear": _share(flagged & dear, flagged),
        "recall: hours with anomaly cost that are flagged": _share(flagged & costly, costly),
        "dear hours that are flagged": _share(flagged & dear, dear),
        "anomaly cost that is in flagged hours": (
            sum(excess[hour] for hour in flagged & costly) / sum(excess.values())
            if sum(excess.values())
            else float("nan")
        ),
    }


def _charges(directory: Path) -> Iterable[dict]:
    for path in sorted((directory / "billing").iterdir()):
        for kind, charge in collect_charges(path):
            if kind == "charge":
                yield charge


def _share(part: set, whole: set) -> float:
    return len(part) / len(whole) if whole else float("nan")


def _table(title: str, measured: Sequence[dict[str, float]]) -> str:
    lines = [f"| {title}, {len(measured)} worlds | mean ± 95 % |", "|---|---|"]
    for name in measured[0]:
        values = np.array([one[name] for one in measured], float)
        values = values[~np.isnan(values)]
        places = 1 if name.startswith(("hours", "rows")) else 3
        if not len(values):
            lines.append(f"| {name} | - |")
            continue
        mean, half = mean_and_interval(list(values))
        lines.append(f"| {name} | {mean:.{places}f} ± {half:.{places}f} |")
    return "\n".join(lines)


def _simulate(arguments: tuple[str, int, int, int, str]) -> dict[str, float]:
    kind, seed, days, requests, folder = arguments
    directory = Path(folder) / f"{kind}-{seed}"
    command = [
        sys.executable,
        "-m",
        "simulator",
        "--output",
        str(directory),
        "--seed",
        str(seed),
        "--days",
        str(days),
        "--requests-per-day",
        str(requests),
        "--billing",
        kind,
    ]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return measure(directory)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directories", nargs="*", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[])
    parser.add_argument("--billing", nargs="+", choices=BILL_KINDS, default=list(BILL_KINDS))
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--requests-per-day", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(argv)
    if bool(options.directories) == bool(options.seeds):
        parser.error("give either directories or --seeds")
    if options.directories:
        print(_table("given", [measure(directory) for directory in options.directories]))
        return 0
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.jobs) as pool:
        for kind in options.billing:
            worlds = [(kind, seed, options.days, options.requests_per_day, folder) for seed in options.seeds]
            print(_table(kind, list(pool.map(_simulate, worlds))), end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
