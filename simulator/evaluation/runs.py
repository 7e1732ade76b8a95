"""Runs: read one that is there, or make one for a seed by the commands that anyone would type."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from simulator.evaluation import measures as m

# What the engine says about itself before the line that matters fits into this.
LOG_TAIL_LINES = 15


class RunError(Exception):
    """A run could not be made or read; the message is for the user."""


def _read(path: Path) -> pd.DataFrame:
    """A Parquet table; money stays Decimal, times are UTC.

    Raises:
        RunError: there is no such table.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such table")
    return pq.read_table(path).to_pandas()


def _allocated(tables: Path) -> dict[str, Decimal]:
    """Sum of cost_allocations per currency."""
    path = tables / "cost_allocations.parquet"
    if not path.is_file():
        raise RunError(f"{path}: no such table")
    allocations = pq.read_table(path, columns=["billing_currency", "allocated_cost"])
    sums = allocations.group_by("billing_currency").aggregate([("allocated_cost", "sum")])
    return {row["billing_currency"]: row["allocated_cost_sum"] for row in sums.to_pylist()}


def _billing_rows(billing: Path) -> Iterator[Mapping[str, object]]:
    for path in sorted(billing.glob("*.csv")):
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
    for path in sorted(billing.glob("*.parquet")):
        yield from pq.read_table(path).to_pylist()


def charged(billing: Path) -> dict[str, Decimal]:
    """Sum of EffectiveCost, else BilledCost, over the FOCUS files of ``billing``, per currency."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for row in _billing_rows(billing):
        for column in ("EffectiveCost", "BilledCost"):
            text = str(row.get(column) if row.get(column) is not None else "").strip()
            if text and text.upper() != "NULL":
                sums[str(row["BillingCurrency"])] += Decimal(text)
                break
    return dict(sums)


def evaluate(tables: Path, truth: Path, billing: Path | None = None) -> m.Measures:
    """All measures of a run on a simulated world; ``billing`` to hold the allocations against.

    Raises:
        RunError: a table is missing.
    """
    verdicts, ranked = (
        _read(tables / "trace_verdicts.parquet"),
        _read(tables / "ranked_anomalies.parquet"),
    )
    traces, faults = _read(truth / "traces.parquet"), _read(truth / "faults.parquet")
    costs = _read(truth / "costs.parquet")
    measures = (
        m.detection(verdicts, traces)
        | m.culprits(verdicts, ranked, traces, faults, costs)
        | m.attribution(ranked, costs)
    )
    if billing is not None and billing.is_dir():
        measures["unconserved"] = float(m.unconserved(_allocated(tables), charged(billing)))
    return measures


def evaluate_weak(tables: Path, truth: Path, billing: Path | None = None) -> m.Measures:
    """The measures that weak labels allow, of a run on a real world.

    Raises:
        RunError: a table is missing.
    """
    verdicts, ranked = (
        _read(tables / "trace_verdicts.parquet"),
        _read(tables / "ranked_anomalies.parquet"),
    )
    labels, faults = _read(truth / "labels.parquet"), _read(truth / "faults.parquet")
    services = {name for names in labels["services"] for name in names} | set(faults["otel_service_name"])
    measures = m.weak_labels(verdicts, ranked, labels, faults, len(services))
    if billing is not None and billing.is_dir():
        measures["unconserved"] = float(m.unconserved(_allocated(tables), charged(billing)))
    return measures


def _run(arguments: Sequence[str], log: Path) -> float:
    """Run ``python -m arguments`` to its end; its seconds.

    Raises:
        RunError: it failed; with the end of what it said.
    """
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        status = subprocess.run(
            [sys.executable, "-m", *arguments], stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        raise RunError("\n".join([f"python -m {' '.join(arguments)}: exit {status}", *tail]))
    return time.monotonic() - started


def run_seed(seed: int, directory: Path, simulator_arguments: Sequence[str], say: Callable[[str], None]) -> m.Measures:
    """Simulate the world of ``seed`` in ``directory``, run the job on it, and evaluate that.

    Raises:
        RunError: a command failed.
    """
    world, tables = directory / "input", directory / "output"
    directory.mkdir(parents=True, exist_ok=True)
    say(f"seed {seed}: simulating")
    seconds = _run(
        ["simulator", "--output", str(world), "--seed", str(seed), *simulator_arguments],
        directory / "simulator.log",
    )
    say(f"seed {seed}: simulated in {seconds:.0f} s, running the job")
    seconds = _run(["jobs.anomaly_cost", "--input", str(world), "--output", str(tables)], directory / "job.log")
    measures = evaluate(tables, world / "truth", world / "billing")
    spans = pc.sum(pq.read_table(tables / "trace_verdicts.parquet", columns=["span_count"])[0]).as_py() or 0
    measures |= {"spans": float(spans), "job seconds": seconds, "spans a second": spans / seconds}
    say(f"seed {seed}: job took {seconds:.0f} s; F1 {measures['f1']:.3f}, AC@1 {measures['AC@1']:.3f}")
    return measures
