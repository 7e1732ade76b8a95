"""What anomalies cost, how well that is known, and what knowing it is worth: the pure stages, without the engine.

    python -m tests.benchmarks.costs --seeds 11 12 --billings metered machine mixed [--jobs 2] [--json FILE]
    python -m tests.benchmarks.costs DIR [DIR ...]

Worlds are simulated, or read from directories that have ``truth/costs.parquet``. Every arm has the same bill and
usage; of the arms of attribution all but the oracle have the detector's verdicts. Prints for each
kind of bill two Markdown tables, mean ± 95 % t-interval over the seeds:

attribution   A, bias and the share on the right service, of c_s (equation 1: proportional share), of excess cost, of
              what of it is on the bill, and of an oracle that knows the anomalous traces and culprits and counts their
              excess as the job does
dollars       averted by repairing the first k rows a day (measures.averted), as a share of all that anomalies cost,
              which is the source's "cost savings"; beside it over what the oracle's order averts (a ratio of sums).
              Ranked by alpha alone (AIOps), by irregularity of the bill alone (FinOps), by alpha + log(1 + c_s) (naive
              fusion), by S with c_s, by S with excess, by excess, and in no order (the mean over shuffles)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import orjson
import pandas as pd

from simulator.evaluation import measures as m
from simulator.evaluation.measures import Measures
from tests.benchmarks.detectors import _number, intervals, simulate
from udfs.pure import excess
from udfs.pure.assemble import SEPARATOR, unpack
from udfs.pure.attribute import resource_rows
from udfs.pure.case import Case
from udfs.pure.detect import Detector
from udfs.pure.focus import collect_charges
from udfs.pure.irregular import charge_anomalies
from udfs.pure.judge import judge
from udfs.pure.offline import Consumer, assemble_all, by_minute, collect_traces, meter_consumers
from udfs.pure.predict import DEFAULT_MODEL, MaskedSpanModel, Predictor
from udfs.pure.rank import rank_window
from udfs.pure.verdicts import MinuteResult, incidents
from udfs.pure.windows import window_start

ARMS = ("alpha", "bill alone", "naive fusion", "S with c_s", "S with excess", "excess", "no order", "oracle")
SHUFFLES = 50


def knowing(model: MaskedSpanModel, truth: pd.DataFrame) -> Detector[MinuteResult]:
    """A detector that blames whom the truth names, and counts excess as the job does of those traces."""
    true = truth[truth["is_anomalous"].astype(bool)].set_index("trace_id")
    culprit_of = true["culprit_service_name"].to_dict()

    def blame(case: Case, predictor: Predictor) -> MinuteResult:
        result = judge(case, predictor)
        for row in result.verdicts:
            culprit = culprit_of.get(row["trace_id"])
            row |= {"is_anomalous": culprit is not None, "culprit_service_name": culprit,
                    "anomaly_kind": "anomaly" if culprit else None}  # fmt: skip
        affected = [[row["culprit_service_name"]] for row in result.verdicts if row["is_anomalous"]]
        result.incidents = incidents(result.verdicts, affected, [None] * len(affected))
        excess.tell(result, case)
        return result

    return Detector(model, tell=blame)


class Bill:
    """What consumers used and were charged, by resource."""

    def __init__(self, directory: Path, consumers: Sequence[Consumer] | None = None) -> None:
        if consumers is None:
            consumers = list(meter_consumers(directory, collect_traces(directory)[1]))
        self.of_resource: dict[str, list] = defaultdict(list)  # (service, usage by window)
        for consumer in consumers:
            self.of_resource[consumer.resource_id].append((consumer.service, consumer.usage["windows"]))
        self.charges: dict[str, list[dict]] = defaultdict(list)
        for path in sorted((directory / "billing").glob("*.csv")):
            for kind, charge in collect_charges(path):
                if kind == "charge":
                    self.charges[charge["resource_id"]].append(charge)

    @cached_property
    def allocations(self) -> dict[int, list[dict]]:
        """Rows of cost_allocations by window."""
        by_window: dict[int, list[dict]] = defaultdict(list)
        for resource_id in sorted(self.of_resource.keys() | self.charges.keys()):
            rows = resource_rows(resource_id, self.of_resource[resource_id], self.charges[resource_id])
            for window_ms, found in rows.items():
                by_window[window_ms] += found
        return by_window


class World:
    """What the arms share: minutes of traces, usage by minute, the bill, the truth."""

    def __init__(self, directory: Path) -> None:
        fragments, owners = collect_traces(directory)
        self.minutes = assemble_all(fragments)
        consumers = list(meter_consumers(directory, owners))
        self.usage = by_minute(consumers)
        self.allocations = Bill(directory, consumers).allocations
        truth = directory / "truth"
        names = {service for used in self.usage.values() for service, _ in used}
        names |= {
            pod.split(SEPARATOR)[0] for of in self.minutes.values() for packed in of for pod in unpack(packed).pods
        }
        self.traces, self.faults, self.costs = (
            with_namespace(pd.read_parquet(truth / f"{name}.parquet"), names) for name in ("traces", "faults", "costs")
        )

    def irregular(self) -> pd.DataFrame:
        """The bill's irregularities on the services that bear them: (window_start, otel_service_name, merit)."""
        rows = []
        costs: dict = defaultdict(lambda: defaultdict(int))
        shares: dict = defaultdict(list)
        for window_ms, found in self.allocations.items():
            for row in found:
                key = row["resource_id"], row["dimension"], row["billing_currency"]
                costs[key][window_ms] = int(row["resource_cost"].scaleb(12))
                shares[key, window_ms].append((row["otel_service_name"], row["share"]))
        for key, by_window in costs.items():
            for odd in charge_anomalies(*key, by_window):
                gain = float(odd["billed_cost"] - odd["expected_cost"])
                for service, share in shares[key, odd["window_start"]]:
                    rows.append((odd["window_start"], service, gain * share))
        table = pd.DataFrame(rows, columns=["window_start", "otel_service_name", "merit"])
        table = table.groupby(["window_start", "otel_service_name"], as_index=False)["merit"].sum()
        table["window_start"] = pd.to_datetime(table["window_start"], unit="ms", utc=True)
        return table

    def ranked(self, detector: Detector) -> pd.DataFrame:
        """ranked_anomalies."""
        results: list[MinuteResult] = []
        for minute in sorted(self.minutes.keys() | self.usage.keys()):
            results += detector.step(minute, self.minutes.get(minute, []), self.usage.get(minute, {}))
        return ranked(results, self.allocations)


def with_namespace(table: pd.DataFrame, services: Iterable[str]) -> pd.DataFrame:
    """A table of the truth with services named as the telemetry names them: some truths leave namespaces out.

    A name that the telemetry has stays, as does one that none or several services of it have without namespace.
    """
    known = set(services)
    full: dict[str, list[str]] = defaultdict(list)
    for name in sorted(known):
        full[name.rsplit("/", 1)[-1]].append(name)
    table = table.copy()
    for column in table.columns.intersection(["otel_service_name", "culprit_service_name"]):
        table[column] = [
            full[name][0] if name not in known and len(full.get(name, ())) == 1 else name for name in table[column]
        ]
    return table


def spent(ranked: pd.DataFrame) -> pd.DataFrame:
    """What the rows' excess cost is of, by the service at which it arises: (window_start, otel_service_name,
    billing_currency, excess_cost)."""
    return pd.DataFrame(
        [
            (row.window_start, element["x_OtelServiceName"], row.billing_currency, element["x_Cost"])
            for row in ranked.itertuples()
            for element in orjson.loads(row.explanation)["x_ExcessUsage"]
        ],
        columns=["window_start", "otel_service_name", "billing_currency", "excess_cost"],
    )


def ranked(results: Sequence[MinuteResult], allocations: Mapping[int, list[dict]]) -> pd.DataFrame:
    """ranked_anomalies of the last word for each minute, by the cost_allocations of each window."""
    by_window: dict[int, list] = defaultdict(list)
    for minute, result in {result.minute_ms: result for result in results}.items():
        by_window[window_start(minute)].append((result.incidents, result.service_traces))
    rows = []
    for window_ms, of_window in sorted(by_window.items()):
        incidents, service_traces = zip(*of_window)
        # As they come out of the engine.
        found = orjson.loads(orjson.dumps(allocations.get(window_ms, []), default=str))
        rows += rank_window(window_ms, incidents, service_traces, found)
    table = pd.DataFrame(rows)
    table["window_start"] = pd.to_datetime(table["window_start"], unit="ms", utc=True)
    return table


def evaluate(directory: Path) -> dict[str, dict[str, Measures]]:
    """Measures by table and arm."""
    world = World(directory)
    model = MaskedSpanModel(DEFAULT_MODEL)
    ranked = world.ranked(Detector(model))
    known = world.ranked(knowing(model, world.traces))
    attribution = {
        "c_s": m.attribution(ranked, world.costs),
        "excess cost": m.attribution(ranked, world.costs, "excess_cost"),
        "billed excess": m.attribution(ranked, world.costs, "billed_excess_cost"),
        "c_s, oracle's traces": m.attribution(known, world.costs),
        "excess, oracle's traces": m.attribution(known, world.costs, "excess_cost"),
    }
    excess, c_s = (ranked[name].map(float) for name in ("excess_cost", "attributed_cost"))
    alpha = ranked["anomaly_score"]
    merits = {
        "alpha": alpha,
        "naive fusion": alpha + np.log1p(c_s.clip(lower=0)),
        "S with c_s": ranked["cost_weighted_score"],
        "S with excess": np.sign(excess) * alpha * np.log1p(excess.abs()),
        "excess": excess,
    }
    bill = world.irregular()
    random = np.random.default_rng(0)
    keys = ["window_start", "otel_service_name"]
    saved = {arm: m.averted(ranked[keys], merit, world.faults, world.costs) for arm, merit in merits.items()}
    saved["bill alone"] = m.averted(bill[keys], bill["merit"], world.faults, world.costs)
    shuffled = [
        m.averted(ranked[keys], pd.Series(random.random(len(ranked))), world.faults, world.costs)
        for _ in range(SHUFFLES)
    ]
    saved["no order"] = {k: float(np.mean([one[k] for one in shuffled])) for k in m.REPAIRS}
    saved["oracle"] = m.averted_by_oracle(world.faults, world.costs)
    every = sum(float(cost) for cost in world.costs["excess_cost"] if cost > 0)
    dollars = {
        arm: {f"k = {k}": saved[arm][k] / every for k in m.REPAIRS}
        | {f"USD, k = {k}": saved[arm][k] for k in m.REPAIRS}
        for arm in ARMS
    }
    return {"attribution": attribution, "dollars": dollars}


def run(task: tuple[str, int | str, Sequence[str] | None]) -> dict[str, dict[str, Measures]]:
    """Evaluate one world: simulated, or where there are no options the directory of this name."""
    billing, seed, size = task
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "world" if size else Path(seed)
        if size:
            simulate(directory, ("--seed", str(seed), "--billing", billing, *size))
        found = evaluate(directory)
    excess = found["attribution"]["excess cost"]
    print(f"costs: {billing}, {seed}: A {excess['attribution A']:.2f}, "
          f"share {excess['share on right service']:.2f}", file=sys.stderr, flush=True)  # fmt: skip
    return found


def table(title: str, arms: Mapping[str, Mapping[str, Measures]]) -> str:
    """Arms are rows, measures are columns."""
    by_arm = {arm: intervals(worlds) for arm, worlds in arms.items()}
    names = list(dict.fromkeys(name for of in by_arm.values() for name in of if not name.startswith("USD")))
    ratios = [f"oracle's, k = {k}" for k in m.REPAIRS] if "oracle" in arms else []
    lines_ = [f"### {title}", "", f"| | {' | '.join(names + ratios)} |", "|---" * (1 + len(names + ratios)) + "|"]
    for arm, of in by_arm.items():
        cells = [f"{_number(name, of[name][0])} ± {_number(name, of[name][1])}" for name in names]
        for k in m.REPAIRS if ratios else ():
            ours, oracles = (sum(w[f"USD, k = {k}"] for w in arms[a].values()) for a in (arm, "oracle"))
            cells.append(f"{ours / oracles:.2f}" if oracles else "–")
        lines_.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines_) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.costs")
    add = parser.add_argument
    add("directories", type=Path, nargs="*", metavar="DIR", help="worlds with truth/costs.parquet")
    add("--seeds", type=int, nargs="+", default=[])
    add("--billings", nargs="+", default=["metered", "machine", "mixed"])
    add("--days", type=float, default=1.0)
    add("--requests-per-day", type=int, default=10_000)
    add("--mix", default="source")
    add("--jobs", type=int, default=1)
    add("--json", type=Path)
    found = parser.parse_args(argv)
    if not found.seeds and not found.directories:
        parser.error("give --seeds or directories")
    size = ("--days", f"{found.days:g}", "--requests-per-day", str(found.requests_per_day), "--mix", found.mix)
    tasks = [(billing, seed, size) for billing in found.billings for seed in found.seeds]
    tasks += [("given", str(directory), None) for directory in found.directories]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with ProcessPoolExecutor(found.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        done = list(pool.map(run, tasks))
    groups: dict[str, dict[str, dict[str, Measures]]] = {}
    for (billing, seed, _), of in zip(tasks, done):
        for kind, arms in of.items():
            for arm, measures in arms.items():
                groups.setdefault(f"{kind}, {billing}", {}).setdefault(arm, {})[str(seed)] = measures
    for title, arms in groups.items():
        print(table(title, arms))
    if found.json:
        found.json.write_text(json.dumps(groups, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
