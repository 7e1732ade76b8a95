"""The job beside other ways to do its work, in one run: spans a second and a CPU second, and equal answers.

    python -m tests.benchmarks.peers [--input DIR] [--arms ARM ...] [--python FILE] [--under COMMAND]

floor     decode and write, as a Collector does: orjson to Parquet, one process
pandas    decode, assemble, a verdict by z-scores, allocation of the bill: a plain script, one process
duckdb    the same in SQL, on all cores
spark     the same on Spark Structured Streaming, on all cores
usual     the job with the detector that has no model; does more than the peers, see tests/benchmarks/arms/shared.py
masked    the job as it is by default, with the model

Each arm runs in processes of its own, ``--rounds`` times, one arm after the other; the run with the lesser wall time
counts. Start is the same arm on one request of each stream, and the whole bill. Spans are distinct ones. Prints a
Markdown table, and what the answers have in common: spans, traces and operations, the peers' verdicts, and each row of
allocated money, to a millionth of the currency. Exits with 1 where answers differ.

--python is an interpreter with the peers' packages, which can't all be installed beside the job's; a peer whose
packages it lacks is left out, and named. --under is a command that each measured run is given to, a lock for instance
("flock FILE").
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tests.benchmarks import job
from tests.benchmarks.arms.shared import TABLES, files
from tests.benchmarks.measure import MIB, Run

# Arm -> its module in tests/benchmarks/arms, and the packages that it needs.
PEERS = {
    "floor": ("floor", ("orjson", "pyarrow")),
    "pandas": ("frames", ("orjson", "pandas", "pyarrow")),
    "duckdb": ("duck", ("orjson", "duckdb")),
    "spark": ("spark", ("orjson", "pandas", "pyspark")),
}
FLOOR = "floor"
JOBS = ("usual", "masked")
STREAMS = ("traces", "metrics", "logs")

INSTALL = "make BENCH with `.venv/bin/uv venv BENCH; .venv/bin/uv pip install --python BENCH --group bench`"
JAVA_MODULE = "jdk.incubator.vector"  # Spark's, not part of every Java

# Allocated money and scores of two arms are the same within it: sums of floats depend on their order.
TOLERANCE = 1e-6
ALLOCATION = ["window_ns", "resource_id", "dimension", "currency", "service"]


def missing(arm: str, python: str) -> str | None:
    """What a peer needs and doesn't find, and how to get it; None if it can run."""
    packages = PEERS[arm][1]
    code = f"import importlib.util as u; print(*(p for p in {packages!r} if u.find_spec(p) is None))"
    lacking = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    if lacking:
        return f"{python} has no {', '.join(lacking)}: {INSTALL}, and name it: --python BENCH/bin/python"
    if arm == "spark":
        home = os.environ.get("JAVA_HOME")
        java = f"{home}/bin/java" if home else shutil.which("java")
        listed = subprocess.run([java, "--list-modules"], capture_output=True, text=True).stdout if java else ""
        if JAVA_MODULE not in listed:
            return f"no Java of 17 or later with the module {JAVA_MODULE}: install one, and set JAVA_HOME to it"
    return None


def command(arm: str, python: str, source: Path, output: Path, settings: Sequence[str]) -> list[str]:
    """What runs an arm on an input directory."""
    if arm in JOBS:
        return job.command(source, output, [f"detector={arm}", *settings])
    module = f"tests.benchmarks.arms.{PEERS[arm][0]}"
    return [python, "-m", module, "--input", str(source), "--output", str(output)]


def measured(words: Sequence[str], under: Sequence[str], folder: Path) -> Run:
    """One run, in a measuring process of its own, so that waiting for a lock isn't counted."""
    figures, log = folder / "run.json", folder / "run.log"
    with log.open("w") as told:
        measuring = [*under, sys.executable, "-m", "tests.benchmarks.measure", "--json", str(figures), *words]
        status = subprocess.run(measuring, stdout=told, stderr=subprocess.STDOUT).returncode
    if status:
        sys.stderr.write(log.read_text()[-4000:])
        raise SystemExit(f"peers: {shlex.join(words)} ended with {status}")
    return Run(**json.loads(figures.read_text()))


def one_request(source: Path, target: Path) -> None:
    """The first request of each stream, and the whole bill, as an input of its own."""
    for stream in STREAMS:
        for path in files(source, stream)[:1]:
            (target / stream).mkdir(parents=True)
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
                (target / stream / "first.jsonl").write_bytes(lines.readline())
    if (source / "billing").is_dir():
        shutil.copytree(source / "billing", target / "billing", copy_function=shutil.copyfile)


def answers(arm: str, output: Path) -> dict[str, pd.DataFrame]:
    """Table -> rows of an arm, the job's as the peers write theirs: what both of them have."""
    if arm not in JOBS:
        return {table: pd.read_parquet(output / f"{table}.parquet") for table in TABLES}
    rows = pd.read_parquet(output / "cost_allocations.parquet")
    rows = rows[rows["cost_status"] != "provisional"]  # on top of the bill, which peers don't foresee
    allocations = pd.DataFrame({
        "window_ns": pd.to_datetime(rows["window_start"], utc=True).astype("datetime64[ns, UTC]").astype("int64"),
        "resource_id": rows["resource_id"],
        "dimension": rows["dimension"],
        "currency": rows["billing_currency"],
        "service": rows["otel_service_name"],
        "allocated_cost": rows["allocated_cost"].astype(float),
    })  # fmt: skip
    verdicts = pd.read_parquet(output / "trace_verdicts.parquet")[["trace_id", "span_count"]]
    return {"verdicts": verdicts, "allocations": allocations}


def differences(one: Mapping[str, pd.DataFrame], other: Mapping[str, pd.DataFrame]) -> list[str]:
    """How two arms' answers differ, a line each; the tables and columns that both have are compared."""
    keys = {"verdicts": ["trace_id"], "operations": ["service", "name"], "allocations": ALLOCATION}
    found = []
    for table in (table for table in TABLES if table in one and table in other):
        rows, key = one[table], keys[table]
        both = rows.merge(other[table], on=key, how="outer", indicator=True, suffixes=("", "_other"))
        alone = both[both["_merge"] != "both"]
        if len(alone) or len(both) != len(rows):
            found.append(f"{table}: {len(rows)} and {len(other[table])} rows, {len(alone)} of them in one only")
            continue
        for column in (name for name in rows if f"{name}_other" in both):
            mine, its = both[column], both[f"{column}_other"]
            if mine.dtype.kind == "f":
                unlike = ~((mine - its).abs() <= TOLERANCE)
            else:
                unlike = (mine != its) & ~(mine.isna() & its.isna())
            if unlike.any():
                found.append(
                    f"{table}: {column} differs in {unlike.sum()} rows, first {both[unlike][key].iloc[0].tolist()}"
                )
    return found


def row(arm: str, spans: int, run: Run, start: Run) -> str:
    """A line of the table."""
    after = run.cpu_s - start.cpu_s
    cells = (
        arm, f"{spans:,}", f"{run.wall_s:.1f}", f"{run.cpu_s:.1f}", f"{spans / run.wall_s:,.0f}",
        f"{spans / run.cpu_s:,.0f}", f"{start.wall_s:.1f}, {start.cpu_s:.1f}",
        f"{spans / after:,.0f}" if after > 0 else "", f"{run.peak_bytes / MIB:,.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Run all arms, print the table and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=Path("../shared/data/online-boutique"))
    parser.add_argument("--arms", nargs="+", choices=[*PEERS, *JOBS], default=[*PEERS, *JOBS])
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--under", type=shlex.split, default=[])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="a setting of the job, KEY=VALUE")
    arguments = parser.parse_args()
    if not files(arguments.input, "traces"):
        raise SystemExit(f"peers: no traces in {arguments.input}: name an input directory with --input")
    arms = []
    for arm in arguments.arms:
        lacking = missing(arm, arguments.python) if arm in PEERS else None
        if lacking:
            print(f"{arm} is left out: {lacking}\n")
        else:
            arms.append(arm)
    if not set(arms) - {FLOOR}:
        raise SystemExit("peers: no arm is left that counts spans: name another one with --arms")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one_request(arguments.input, folder / "first")
        starts: dict[str, Run] = {}
        runs: dict[str, Run] = {}
        found: dict[str, dict[str, pd.DataFrame]] = {}
        inputs = [folder / "first", *[arguments.input] * arguments.rounds]
        for number, source in enumerate(inputs):
            for arm in arms:
                output = folder / f"{number}-{arm}"
                output.mkdir()
                run = measured(command(arm, arguments.python, source, output, arguments.set), arguments.under, folder)
                print(f"{arm}: {run.wall_s:.1f} s wall, {run.cpu_s:.1f} s CPU", file=sys.stderr)
                if source != arguments.input:
                    starts[arm] = run
                    continue
                runs[arm] = min(run, runs.get(arm, run), key=lambda each: each.wall_s)
                if arm != FLOOR and arm not in found:
                    found[arm] = answers(arm, output)
                shutil.rmtree(output)
    return report(arms, runs, starts, found)


def report(
    arms: Sequence[str],
    runs: Mapping[str, Run],
    starts: Mapping[str, Run],
    found: Mapping[str, Mapping[str, pd.DataFrame]],
) -> int:
    """Print the table and the comparison of answers with those of the first arm; 1 where some differ."""
    first, *others = found
    spans = int(found[first]["verdicts"]["span_count"].sum())
    print("| arm | spans | wall s | CPU s | spans/s | spans/CPU s | start: wall, CPU s | ... after it | peak MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for arm in arms:
        print(row(arm, spans, runs[arm], starts[arm]))
    unlike = {arm: differences(found[first], found[arm]) for arm in others}
    print(f"\n{spans:,} spans in {len(found[first]['verdicts']):,} traces", end="")
    if "operations" in found[first]:
        print(f" of {len(found[first]['operations']):,} operations", end="")
    money = found[first]["allocations"].groupby("currency")["allocated_cost"].sum()
    print("; " + ", ".join(f"{cost:.6f} {currency}" for currency, cost in money.items()) + f" allocated ({first})")
    for arm, lines in unlike.items():
        print(f"{arm}: " + ("; ".join(lines) if lines else f"as {first}"))
    return 1 if any(unlike.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
