"""One cell of the evaluation: a world, what each arm says about it, and how good that is.

A cell's result is a function of the cell, the code and the model, all of which its key is made of. It is JSON:

cell       the cell itself; key, seconds: what it took
measures   {table: {arm: {measure: value or null}}}; tables are detection, attribution and dollars
series     what the figures are drawn of (see ``_series``)
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

from simulator.config import CASES, DEPLOY, MIXES, STORM
from simulator.evaluation import measures as m
from simulator.evaluation import money, window
from simulator.evaluation.detection import Detector, detect, judge, minutes_to_detect, stated
from simulator.evaluation.measures import Measures
from simulator.evaluation.rule import RuleDetector, reference_until_ms
from simulator.evaluation.worlds import (
    ROOT,
    Source,
    World,
    WorldError,
    code_of,
    digest,
    load,
    of_given,
    sampled,
    shifts_of_case,
    simulate,
)
from udfs.pure import detect as pure
from udfs.pure.assemble import ERROR, OWN_ERROR, Trace, opened
from udfs.pure.case import Case
from udfs.pure.judge import judge as judge_case
from udfs.pure.predict import DEFAULT_MODEL, MaskedSpanModel, Predictor, Usual
from udfs.pure.verdicts import MinuteResult
from udfs.pure.windows import HOUR_MS, MINUTE_MS, WINDOW_MS, window_start

# Worlds of our simulator, by family; worlds of others are read.
SIMULATED = {
    "source": ("--mix", "source"),
    "faint": ("--mix", "faint"),
    "novel": ("--mix", "novel"),
    STORM: ("--case", STORM),
    DEPLOY: ("--case", DEPLOY),
    "wide": ("--noise", "wide"),
    "half severity": ("--severity", "0.5"),
    "3 % anomalous": ("--anomaly-rate", "0.03"),
    "25 % anomalous": ("--anomaly-rate", "0.25"),
    "10 % sampled": (),
    "1 % sampled": (),
    "W = 5 min": (),
    "W = 15 min": (),
    "W = 60 min": (),
}
assert {*MIXES, *CASES} < {*SIMULATED}
# The same worlds as "source" has, of which a sampler leaves so many traces, or by another attribution window.
SAMPLED = {"10 % sampled": 0.1, "1 % sampled": 0.01}
WINDOWS = {f"W = {minutes} min": minutes for minutes in window.MINUTES}

# Detectors. All rankings but the rule's are over the verdicts of the first.
DETECTOR, RULE = "detector", "simple rule"
ABLATIONS = (
    "without the Transformer", "the source's threshold", "without metrics", "without logs", "without the call tree",
)  # fmt: skip
# The first detector by its first word for each minute: what followed does not restate it.
AT_ONCE = "without restatement"

# Rankings beside those of ``money``.
BY_RULE, RANDOM, ORACLES_TRACES, ORACLE, HINDSIGHT = (
    "simple rule", "random", "oracle's traces", "oracle", "hindsight",
)  # fmt: skip

# Our order if repairs came later by so many minutes, or if the price of a dimension were wrong by a factor.
LATER = {"an hour later": 60, "six hours later": 360}
MISPRICED = {
    f"{dimension} at {word} its price": (dimension, factor)
    for dimension in ("cpu", "memory", "io")
    for word, factor in (("half", 0.5), ("1.5 times", 1.5))
}

BUDGETS = (1, 2, 3, 5, 10, 20, 50)  # repairs a day
SHOWN = 10  # repairs a day where a figure has one number
SHUFFLES = 20
BINS = 20  # of the calibration


@dataclass(frozen=True)
class Cell:
    """A world to judge. family: of SIMULATED; or of GIVEN with the directory in ``place``, and 0 or "" for the rest."""

    family: str
    billing: str = ""
    seed: int = 0
    days: float = 0.0
    requests_per_day: int = 0
    place: str = ""
    ablations: bool = False

    @property
    def name(self) -> str:
        """For people, and for the file of its result."""
        world = Path(self.place).name if self.place else f"{self.seed}-{self.days:g}d-{self.requests_per_day}"
        words = (self.family.replace(" ", ""), self.billing, world, "ablations" if self.ablations else "")
        return "-".join(filter(None, words))

    @property
    def options(self) -> tuple[str, ...]:
        """The simulator's, but for the output."""
        size = ("--days", f"{self.days:g}", "--requests-per-day", str(self.requests_per_day))
        return ("--seed", str(self.seed), *size, "--billing", self.billing, *SIMULATED[self.family])

    def source(self, directory: Path) -> Source:
        """The world in a directory, as its judge needs to know it."""
        if self.place:
            return of_given(directory, self.family)
        case = self.family if self.family in CASES else None
        return Source(self.family, self.name, directory, shifts=shifts_of_case(case, self.days), case=case)


def code_version() -> str:
    """Of all code that a cell's result depends on, and of the model."""
    generator = sorted((ROOT / "simulator").glob("*.py"))
    return digest(*code_of(__name__), *generator, Path(DEFAULT_MODEL))[:16]


def key_of(cell: Cell, code: str) -> str:
    """What a result must have been made of to be that of the cell."""
    files = sorted(path for path in Path(cell.place).rglob("*") if path.is_file()) if cell.place else []
    states = [(str(path.relative_to(cell.place)), path.stat().st_size) for path in files]
    return digest(more=json.dumps([code, asdict(cell), states], sort_keys=True))[:16]


def run(cell: Cell, key: str, file: Path) -> float:
    """Write the result of a cell, whole or not at all; its wall seconds.

    Raises:
        WorldError: a world can't be made or read.
    """
    if minutes := WINDOWS.get(cell.family):
        begun = time.monotonic()
        by_window = [sys.executable, "-m", window.__name__, str(minutes), __name__]
        done = subprocess.run([*by_window, json.dumps(asdict(cell)), key, str(file)], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise WorldError(f"{cell.name}: {done.stderr.strip()[-500:]}")
        return time.monotonic() - begun
    return _run(cell, key, file, "simulator")


def _run(cell: Cell, key: str, file: Path, simulator: str) -> float:
    """As ``run``, in this process. simulator: the module that makes the world, and what stands before its options."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(cell.place) if cell.place else Path(folder) / "world"
        if not cell.place:
            simulate(directory, cell.options, simulator)
        found = evaluate(cell, directory)
    seconds = time.monotonic() - begun
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(orjson.dumps({"cell": asdict(cell), "key": key, "seconds": seconds, **found}))
    partial.replace(file)
    return seconds


def evaluate(cell: Cell, directory: Path) -> dict[str, Any]:
    """Measures and series of a world."""
    source = cell.source(directory)
    world = load(directory, is_calm=source.is_calm)
    if cell.family in SAMPLED:
        world = sampled(world, SAMPLED[cell.family])
    model = MaskedSpanModel(DEFAULT_MODEL)
    known: list[MinuteResult] = []  # what who knows the truth says; by the same cases, so that none is judged twice
    has_costs = (directory / "truth" / "costs.parquet").is_file() and len(world.faults) > 0
    truth = money.with_namespace(world.truth, world.names) if has_costs else world.truth
    blame = money.knowing(truth) if has_costs else None

    def tell(case: Case, predictor: Predictor) -> MinuteResult:
        result = judge_case(case, predictor)
        if blame:
            known.append(blame(result, case))
        return result

    detectors: dict[str, Detector] = {
        DETECTOR: pure.Detector(model, tell=tell),
        RULE: RuleDetector(reference_until_ms(world)),
    }
    if cell.ablations:
        without: Sequence[Detector] = (
            pure.Detector(Usual()),
            pure.Detector(model, pure.EMA),
            _Unmetered(pure.Detector(model)),
            _Blind(pure.Detector(model), _without_logs),
            _Blind(pure.Detector(model), _without_tree),
        )
        detectors |= dict(zip(ABLATIONS, without, strict=True))
    measures: dict[str, dict[str, Measures]] = {"detection": {}}
    series: dict[str, Any] = {}
    said: dict[str, list[MinuteResult]] = {}
    for arm, detector in detectors.items():
        results, _ = detect(detector, world)
        first, last, _ = stated(results)
        found, _ = judge(last, world, source)
        if not world.is_real and len(world.faults):
            found |= {"accuracy": m.detection(last, world.truth)["accuracy"]}
            found |= minutes_to_detect(first, world.truth, world.faults)
        measures["detection"][arm] = found
        said[arm] = results
        if arm == DETECTOR and not world.is_real:
            series["calibration"] = calibration(last, world.truth)
        if arm == DETECTOR and cell.ablations:
            measures["detection"][AT_ONCE], _ = judge(first, world, source)
            said[AT_ONCE] = list({result.minute_ms: result for result in reversed(results)}.values())[::-1]
    if has_costs:
        of_money, more = _money(world, directory, said, known)
        measures |= of_money
        series |= more
    return {"measures": {t: {arm: _known(of) for arm, of in arms.items()} for t, arms in measures.items()},
            "series": series, "spans": world.spans, "services": world.services}  # fmt: skip


class _Unmetered:
    """A detector that never hears of usage."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def step(self, minute_ms: int, traces: Sequence[bytes | Trace], usage: Mapping) -> list[MinuteResult]:
        return self._detector.step(minute_ms, traces, {})


class _Blind:
    """A detector that sees traces by what ``view`` leaves of them."""

    def __init__(self, detector: pure.Detector[MinuteResult], view: Callable[[Trace], Trace]) -> None:
        self._detector, self._view = detector, view

    def step(self, minute_ms: int, traces: Sequence[bytes | Trace], usage: Mapping) -> list[MinuteResult]:
        return self._detector.step(minute_ms, [self._view(opened(trace)) for trace in traces], usage)


def _without_logs(trace: Trace) -> Trace:
    spans = trace.spans.copy()
    spans["error_logs"] = 0
    return trace._replace(spans=spans)


def _without_tree(trace: Trace) -> Trace:
    """Spans that nobody called: a service's time is all of its span's."""
    spans = trace.spans.copy()
    spans["parent"], spans["depth"], spans["repeats"] = -1, 0, 0
    spans["own_ns"] = spans["duration_ns"]
    spans["flags"] &= ERROR | OWN_ERROR
    return trace._replace(spans=spans)


def _known(measures: Measures) -> dict[str, float | None]:
    """For JSON: null is what isn't known, or never comes."""
    return {name: float(value) if math.isfinite(value) else None for name, value in measures.items()}


def calibration(verdicts: pd.DataFrame, truth: pd.DataFrame) -> list[list[float]]:
    """[traces, sum of the chance that was told, anomalous traces] of each of BINS equal bins of the chance.

    The chance is told as log odds: by how much a score is above its threshold. Warming verdicts tell none.
    """
    known = truth.merge(verdicts[verdicts["verdict_state"] == "ready"], on="trace_id", suffixes=("", " said"))
    margin = (known["anomaly_score"] - known["threshold"]).to_numpy(float)
    chance = 1 / (1 + np.exp(-np.clip(margin, -700, 700)))
    place = np.minimum((chance * BINS).astype(int), BINS - 1)
    columns = (np.ones(len(known)), chance, known["is_anomalous"].to_numpy(float))
    return np.column_stack([np.bincount(place, weights=of, minlength=BINS) for of in columns]).tolist()


def _money(
    world: World, directory: Path, said: Mapping[str, list[MinuteResult]], known: list[MinuteResult]
) -> tuple[dict[str, dict[str, Measures]], dict[str, Any]]:
    faults = money.with_namespace(world.faults, world.names)
    costs = money.with_namespace(pd.read_parquet(directory / "truth" / "costs.parquet"), world.names)

    begun = time.process_time()
    bill = money.Bill(directory, world.consumers)
    ranked = money.ranked(said[DETECTOR], bill.allocations)
    took = time.process_time() - begun
    by_rule = money.ranked(said[RULE], bill.allocations)
    of_truth = money.ranked(known, bill.allocations)

    attribution = {
        "c_s": m.attribution(ranked, costs),
        "excess": money.excess_measures(ranked, faults, costs)
        | {"CPU s a window": took / max(len(bill.allocations), 1)},
        "billed excess": m.attribution(ranked, costs, "billed_excess_cost"),
        "c_s, oracle's traces": m.attribution(of_truth, costs),
        "excess, oracle's traces": money.excess_measures(of_truth, faults, costs),
    }

    irregular = bill.irregular()
    true = m.true_costs(costs)
    orders = {arm: (ranked[money.KEYS], merit) for arm, merit in money.merits(ranked).items()} | {
        money.FINOPS: (irregular[money.KEYS], irregular["merit"]),
        BY_RULE: (by_rule[money.KEYS], by_rule["cost_weighted_score"]),
        ORACLES_TRACES: (of_truth[money.KEYS], pd.Series(m.floats(of_truth["excess_cost"]))),
        ORACLE: (true[money.KEYS], true["cost"]),
    }
    worth = m.Worth(faults, costs)
    every = sum(float(cost) for cost in costs["excess_cost"] if cost > 0)
    done = {arm: m.repairs(rows, merit, faults, costs, BUDGETS) for arm, (rows, merit) in orders.items()}
    dollars = {arm: _dollars(of, worth, every) for arm, of in done.items()}
    rows, merit = orders[money.OURS]
    for name, minutes in LATER.items():
        later = m.repairs(rows, merit, faults, costs, BUDGETS, minutes * MINUTE_MS)
        dollars[f"{money.OURS}, {name}"] = _dollars(later, worth, every)
    for name, of in MISPRICED.items():
        wrong = m.repairs(rows, money.excess_at(ranked, *of), faults, costs, BUDGETS)
        dollars[f"{money.OURS}, {name}"] = _dollars(wrong, worth, every)
    if AT_ONCE in said:
        first = money.ranked(said[AT_ONCE], bill.allocations)
        at_once = m.repairs(first[money.KEYS], money.merits(first)[money.OURS], faults, costs, BUDGETS)
        dollars[f"{money.OURS}, {AT_ONCE}"] = _dollars(at_once, worth, every)
    random = np.random.default_rng(0)
    shuffles = (pd.Series(random.random(len(ranked))) for _ in range(SHUFFLES))
    shuffled = [_dollars(m.repairs(ranked[money.KEYS], of, faults, costs, BUDGETS), worth, every) for of in shuffles]
    dollars[RANDOM] = {name: float(np.mean([one[name] for one in shuffled])) for name in shuffled[0]}
    best = m.averted_in_hindsight(faults, costs, BUDGETS)
    dollars[HINDSIGHT] = {f"USD, k = {k}": saved for k, saved in best.items()}
    dollars[HINDSIGHT] |= {f"saved, k = {k}": saved / every if every else math.nan for k, saved in best.items()}
    series = _series(ranked, true, worth, {arm: of[SHOWN] for arm, of in done.items()}, world)
    return {"attribution": attribution, "dollars": dollars}, series


def _dollars(done: Mapping[int, m.Repairs], worth: m.Worth, every: float) -> Measures:
    """By k: dollars averted, as a share of all that faults cost, repairs made, and those of them that ended nothing."""
    measures: Measures = {}
    for k, of in done.items():
        saved = worth.saved(of.ended)
        measures |= {
            f"USD, k = {k}": saved,
            f"saved, k = {k}": saved / every if every else math.nan,
            f"repairs, k = {k}": float(of.made),
            f"idle, k = {k}": of.idle / of.made if of.made else math.nan,
        }
    return measures


def _series(
    ranked: pd.DataFrame, true: pd.DataFrame, worth: m.Worth, done: Mapping[str, m.Repairs], world: World
) -> dict[str, Any]:
    """What figures are drawn of.

    remaining: {arm: dollars that faults cost in each window of the world, with the arm's SHOWN repairs a day}
    rows: [hour since the begin, service, alpha, anomalous traces, excess cost, the culprit's own part of it, true cost]
        of each row of ranked_anomalies; dollars
    """
    begin = window_start(world.times[0])
    windows = list(range(begin, world.times[-1] + 1, WINDOW_MS))
    remaining = {arm: worth.remaining(windows, of.ended) for arm, of in done.items()}
    remaining["no repair"] = worth.remaining(windows, {})
    rows = ranked.merge(true, on=money.KEYS, how="left")
    columns = (
        ((m.epoch_ms(rows["window_start"]) - begin) / HOUR_MS).tolist(),
        rows["otel_service_name"],
        rows["anomaly_score"].tolist(),
        rows["anomalous_traces"].tolist(),
        [float(excess or 0) for excess in rows["excess_cost"]],
        [_own_part(*of) for of in zip(rows["otel_service_name"], rows["explanation"])],
        rows["cost"].fillna(0.0).tolist(),
    )
    return {
        "remaining": {arm: np.round(of, 9).tolist() for arm, of in remaining.items()},
        "rows": [list(of) for of in zip(*columns, strict=True)],
    }


def _own_part(culprit: str, explanation: str) -> float | None:
    """How much of a row's excess, each part by its size, arises at the culprit itself."""
    parts = [(of["x_OtelServiceName"], abs(float(of["x_Cost"]))) for of in orjson.loads(explanation)["x_ExcessUsage"]]
    whole = math.fsum(cost for _, cost in parts)
    return math.fsum(cost for service, cost in parts if service == culprit) / whole if whole else None


if __name__ == "__main__":
    told = Cell(**json.loads(sys.argv[1]))
    _run(told, sys.argv[2], Path(sys.argv[3]), f"{window.__name__} {WINDOWS[told.family]} simulator")
