"""How good the detectors are on every family of data that there is, by one command and without the engine.

    python -m tests.benchmarks.families                                # all arms of ARMS, all families of FAMILIES
    python -m tests.benchmarks.families --quick --arms model live recorded worlds
    python -m tests.benchmarks.families --arms usual model --only faint --json FILE worlds DIR

A family is a kind of data; what is tuned on one has to hold on the others:

worlds      another generator's worlds with exact truth (DATA/worlds/*); their first hour is left out
live        live systems under a benign change of load (DATA/traceweaver-*): every flag is a false alarm
recorded    recorded days of demo systems with injected faults, weakly labelled
simulated   our simulator at its usual noise: each mix of faults, a storm, new releases
wide        our simulator at its wide noise
queueing    the queueing simulation of tests.benchmarks.queueing: calm worlds and worlds with faults

A DIR is a world (docs/interface.md §1, with or without truth/) in a family of the name of the folder that it is in.
Prints a line for each world and arm as it is done, then (not with --quick) a Markdown table for each family: mean
± 95 % t-interval over its worlds. The measures are explained in MEASURES.

Input that is read or made is kept in --cache, under a key of the input and of the code before the detectors: a change
of the detectors doesn't make it stale, a change of collect, assemble or meter does.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import os
import pickle
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from simulator.config import CASES, DEPLOY, MIXES, RELEASE_SHARES, STORM
from simulator.evaluation import alarms as a
from simulator.evaluation import measures as m
from simulator.evaluation.measures import Measures
from tests.benchmarks import costs, detectors
from tests.benchmarks.detectors import MINUTE_MS, World, WorldError
from udfs.pure.verdicts import WARMING, MinuteResult

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
CACHE = Path(tempfile.gettempdir()) / "families"

FAMILIES = ("worlds", "live", "recorded", "simulated", "wide", "queueing")
RECORDED = ("train-ticket", "online-boutique")
SEEDS = (21, 22)
QUEUEING = "tests.benchmarks.queueing"
QUEUEING_SEEDS = {1: ("--calm",), 2: ("--calm",), 3: (), 4: ()}
HOURS = 6  # of a queueing world

# Detection figures leave this out of a world that has to be learnt first.
LEAVE_OUT_MINUTES = 60
# Live recordings: the load is steady for so long, then it rises.
RAMP_AT_MINUTES = 30
# How long after a benign shift it is looked at whether it is quiet again.
SHIFT_MINUTES = 120

# How far a true trace is changed, by the greatest log ratio of its times and work.
STRENGTHS = (("up to 1.1 times", math.log(1.1)), ("1.1 to 1.5 times", math.log(1.5)),
             ("1.5 to 3 times", math.log(3)), ("over 3 times", math.inf))  # fmt: skip

MEASURES = {
    "normal flagged": "share of the normal traces that are flagged",
    "normal flagged at once": "the same by the first word for each minute, where a later one may differ",
    "worst hour": "the greatest share of normal traces flagged in an hour (of 60 minutes with data)",
    "locked minutes": "the most minutes in a row with more than half of the normal traces flagged",
    "warming": "share of all traces that are judged without being known well; these are never flagged",
    "false incidents": "a day and 20 services: runs of false alarms on a service, outside of its true faults",
    "precision at 1 %": "where 1 % of traces are anomalous, from recall and normal flagged",
    "PR-AUC": "area under the precision-recall curve of the score",
    "recall at 1 %": "by the score, where 1 % of the normal traces may be flagged; at 3 % as well",
    "AC@1": "share of faults whose flagged traces blame its service most often; a fault without any counts as wrong",
    "AC@1 of its time": "the same by all flagged traces in the time of the fault",
    "AC@1 of traces": "share of the flagged true traces that blame the service of their fault",
    "minutes to quiet": "of data after a benign shift, until at most 1 % of the traces of 10 minutes are flagged",
    "excess A, excess bias": "of excess cost against the counterfactual bill (evaluation.md), where that is known",
    "excess A by cause": "the same, what a fault costs at any service being counted at its culprit, as the job does",
    "µs a span": "CPU time of the detector alone",
}

PLACES = {"traces": 0, "faults": 0, "locked minutes": 0, "false incidents": 1, "detect CPU s": 1, "µs a span": 1}
DEFAULT_PLACES = 3


# ---- the worlds of a family ------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A world to read, or to make first."""

    family: str
    name: str
    place: Path
    make: Callable[[Path], None] | None = None  # None: it is there
    leave_out_minutes: int = 0
    is_calm: bool = False  # nothing is wrong in it
    shifts: tuple[float, ...] = ()  # minutes from its begin at which something benign changes
    case: str | None = None  # the simulator's

    @property
    def title(self) -> str:
        """Family and name."""
        return f"{self.family}/{self.name}"


@dataclass(frozen=True)
class Command:
    """Makes a world by a module's command."""

    module: str
    options: tuple[str, ...]

    def __call__(self, output: Path) -> None:
        detectors.simulate(output, self.options, self.module)


def sources(family: str, found: argparse.Namespace) -> list[Source]:
    """The worlds of a family, or of a directory.

    Raises:
        WorldError: there are none.
    """
    made = found.cache / "made"
    if family == "worlds":
        some = [of_directory(path, family) for path in sorted((found.data / family).glob("*/"))]
    elif family == "live":
        paths = sorted(found.data.glob("traceweaver-*/"))
        some = [Source(family, path.name, path, is_calm=True, shifts=(RAMP_AT_MINUTES,)) for path in paths]
    elif family == "recorded":
        paths = [found.data / name for name in RECORDED]
        some = [Source(family, path.name, path) for path in paths if path.is_dir()]
    elif family in ("simulated", "wide"):
        some = _simulated(family, found, made)
    elif family == "queueing":
        code = _digest(*code_of(QUEUEING))[:8]
        some = [
            Source(
                family,
                f"{seed} calm" if calm else f"{seed}",
                made / f"queueing-{code}-{seed}-{HOURS}",
                Command(QUEUEING, ("--seed", str(seed), "--hours", str(HOURS), *calm)),
                LEAVE_OUT_MINUTES,
            )
            for seed, calm in QUEUEING_SEEDS.items()
        ]
    elif Path(family).is_dir():
        some = [of_directory(Path(family), Path(family).resolve().parent.name)]
    else:
        raise WorldError(f"{family} is none of {', '.join((*detectors.ARMS, *FAMILIES))}, nor a directory")
    if not some:
        raise WorldError(f"{found.data} has none of the family {family}")
    return some


def of_directory(path: Path, family: str) -> Source:
    """A world that is there: recorded, with exact truth, or without any."""
    is_real = (path / "truth" / "labels.parquet").is_file()
    is_calm = not (path / "truth").is_dir()
    leave_out = 0 if is_real else LEAVE_OUT_MINUTES
    return Source(family, path.name, path, None, leave_out, is_calm, shifts_of(path))


def shifts_of(path: Path) -> tuple[float, ...]:
    """Minutes at which a world has a new release or more load, by its truth; none where that doesn't tell."""
    file = path / "truth" / "world.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    seconds = [of["time"] for of in known.get("deploys", [])] + [of["start"] for of in known.get("surges", [])]
    return tuple(second / 60 for second in sorted(seconds))


def _simulated(family: str, found: argparse.Namespace, made: Path) -> list[Source]:
    days, requests = f"{found.days:g}", str(found.requests_per_day)
    code = _digest(*sorted((ROOT / "simulator").glob("*.py")))[:8]
    some = []
    for kind, word in [("mix", mix) for mix in MIXES] + [("case", case) for case in CASES]:
        for seed in found.seeds:
            options = ("--seed", str(seed), "--days", days, "--requests-per-day", requests, f"--{kind}", word)
            options += ("--noise", "wide") if family == "wide" else ()
            shifts = [share * found.days * a.MINUTES_PER_DAY for share in RELEASE_SHARES] if word == DEPLOY else []
            some.append(
                Source(
                    family,
                    f"{word} {seed}",
                    made / f"{family}-{code}-{word}-{seed}-{days}-{requests}",
                    Command("simulator", options),
                    shifts=tuple(shifts),
                    case=word if kind == "case" else None,
                )
            )
    return some


# ---- what is kept ----------------------------------------------------------------------------


def _digest(*files: Path, more: str = "") -> str:
    """Of the bytes of the files and of a text."""
    sum_ = hashlib.sha256(more.encode())
    for file in files:
        sum_.update(file.read_bytes())
    return sum_.hexdigest()


def code_of(*modules: str) -> list[Path]:
    """Files of modules of this project, and of all of its modules that they import."""
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        if module in files or not path.is_file():
            continue
        files[module] = path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                waiting += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [name.name for name in node.names]
    return sorted(files.values())


def kept(cache: Path, kind: str, directory: Path, code: Sequence[Path], make: Callable[[], object]) -> object:
    """What ``make`` gives of a directory with this code, or gave of the same files and code before."""
    inputs = sorted(path for path in directory.rglob("*") if path.is_file())
    states = [(str(path), (of := path.stat()).st_size, of.st_mtime_ns) for path in inputs]
    key = _digest(*code, more=repr((kind, states)))[:24]
    file = cache / f"{kind}-{key}.pickle"
    if file.is_file():
        return pickle.loads(file.read_bytes())
    value = make()
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    partial.replace(file)
    return value


def load(source: Source, cache: Path) -> World:
    """The world of a source, made if need be; services are named as ``bare`` does."""
    if source.make and not source.place.exists():
        source.place.parent.mkdir(parents=True, exist_ok=True)
        source.make(source.place)
    code = [*code_of("udfs.pure.offline"), Path(detectors.__file__)]
    world = kept(cache, "world", source.place, code, lambda: detectors.load(source.place, is_calm=source.is_calm))
    truth = world.truth.assign(culprit_service_name=world.truth["culprit_service_name"].map(bare))
    faults = world.faults.assign(otel_service_name=world.faults["otel_service_name"].map(bare))
    return replace(world, truth=truth, faults=faults)


def bare(name: str | None) -> str | None:
    """A service's name without its namespace: some truths name none."""
    return name.rsplit("/", 1)[-1] if isinstance(name, str) else None


# ---- measures --------------------------------------------------------------------------------


def evaluate(source: Source, arm: str, world: World, cache: Path) -> tuple[Measures, dict]:
    """(measures, what else there is to see: the timeline) of an arm in a world."""
    results, took = detectors.detect(arm, world)
    first, last, is_restated = detectors.stated(results)
    measures, more = judge(last, world, source)
    if is_restated:
        at_once, _ = judge(first, world, source)
        for name in ("normal flagged", "precision", "recall", "F1"):
            if name in at_once:
                measures[f"{name} at once"] = at_once[name]
    measures |= excess_cost(source, results, cache)
    measures |= {"detect CPU s": took, "µs a span": took / max(world.spans, 1) * 1e6}
    return measures, more


def judge(verdicts: pd.DataFrame, world: World, source: Source) -> tuple[Measures, dict]:
    """The measures of verdicts, and the timeline of the normal traces."""
    begin = world.times[0]
    verdicts = verdicts.assign(culprit_service_name=verdicts["culprit_service_name"].map(bare))
    truth = world.truth[world.truth["start_ms"] >= begin + source.leave_out_minutes * MINUTE_MS]
    verdicts = verdicts[verdicts["trace_id"].isin(truth["trace_id"])]
    table = truth.merge(
        verdicts[["trace_id", "anomaly_score", "threshold", "is_anomalous", "culprit_service_name",
                  "anomaly_kind", "verdict_state"]],
        on="trace_id", how="left", suffixes=("", " said"),
    )  # fmt: skip
    if len(table) > len(truth):
        raise ValueError(f"{source.title}: a trace has two verdicts")
    if world.is_real:
        true, normal = (table["label"] == label for label in ("positive", "negative"))
        true, normal = true.to_numpy(), normal.to_numpy()
    else:
        true = table["is_anomalous"].to_numpy(bool)
        normal = ~true
    said = "is_anomalous said" if "is_anomalous said" in table else "is_anomalous"
    flags = table[said].eq(True).to_numpy()
    minutes = ((table["start_ms"].to_numpy(float) - begin) // MINUTE_MS).astype(int)
    faults = world.faults[world.faults["fault_id"].isin(table.loc[true, "fault_id"])]

    measures = _false_alarms(table, normal, flags, minutes, world, begin)
    if true.any():
        measures |= _found(table, true, normal, flags)
        measures |= _culprits(table, true, flags, verdicts, faults)
    if world.is_real:
        real = detectors.real_days(verdicts, world)
        measures |= {name: real[name] for name in ("faults found", "faults found by chance")}
    if source.case == STORM:
        measures |= detectors.storm(verdicts, truth, world.faults)
    measures |= _shifts(source, minutes[normal], flags[normal], table.loc[normal, "verdict_state"] != WARMING)
    times, traces, flagged = a.by_minute(minutes[normal], flags[normal])
    more = {
        "timeline": a.timeline(minutes[normal], flags[normal]),
        "by minute": [[int(t), int(n), int(k)] for t, n, k in zip(times, traces, flagged)],
    }
    return measures, more


def _false_alarms(
    table: pd.DataFrame, normal: np.ndarray, flags: np.ndarray, minutes: np.ndarray, world: World, begin: int
) -> Measures:
    alarms = normal & flags
    state = table["verdict_state"]
    measures = {
        "traces": float(len(table)),
        "normal flagged": detectors._mean(flags[normal]),
        "worst hour": _worst_hour(minutes[normal], flags[normal]),
        "locked minutes": float(a.longest_locked(minutes[normal], flags[normal])),
        "warming": float((state == WARMING).mean()),
    }
    of: dict[str, list[tuple[float, float]]] = defaultdict(list)
    starts, ends = (m.epoch_ms(world.faults[name]) for name in ("start_time", "end_time"))
    for service, start, end in zip(world.faults["otel_service_name"], starts, ends):
        of[service].append(((start - begin) / MINUTE_MS, (end - begin) / MINUTE_MS))
    culprits = _culprit_said(table).fillna("?").to_numpy(object)
    runs = a.incidents(minutes[alarms], culprits[alarms])
    count = len(a.false_incidents(runs, of))
    measures["false incidents"] = a.a_day(count, len(np.unique(minutes[normal])), world.services)
    kinds = (table["anomaly_kind said"] if "anomaly_kind said" in table else table["anomaly_kind"])[alarms]
    for kind, traces in kinds.fillna("no kind").value_counts().items():
        measures[f"normal flagged as {kind}"] = float(traces / max(normal.sum(), 1))
    return measures


def _culprit_said(table: pd.DataFrame) -> pd.Series:
    name = "culprit_service_name said"
    return table[name] if name in table else table["culprit_service_name"]


def _worst_hour(minutes: np.ndarray, flags: np.ndarray) -> float:
    _, traces, flagged = a.by_minute(minutes, flags)
    if not len(traces):
        return math.nan
    ones = np.ones(min(60, len(traces)))
    return float((np.convolve(flagged, ones, "valid") / np.convolve(traces, ones, "valid")).max())


def _found(table: pd.DataFrame, true: np.ndarray, normal: np.ndarray, flags: np.ndarray) -> Measures:
    """Detection of the true traces; of real days those near an injection, which need not show it."""
    hits, alarms = int((flags & true).sum()), int((flags & normal).sum())
    recall, rate = hits / true.sum(), detectors._mean(flags[normal])
    measures = {
        "F1": 2 * hits / (hits + alarms + true.sum()),
        "precision": hits / (hits + alarms) if hits + alarms else math.nan,
        "recall": recall,
    }
    for prevalence in a.PREVALENCES:
        measures[f"precision at {prevalence:.0%}".replace("%", " %")] = a.precision_at(prevalence, recall, rate)
    known = true | normal
    scores = table["anomaly_score"].fillna(-np.inf).to_numpy(float)[known]
    measures["PR-AUC"] = a.average_precision(scores, true[known])
    for share in (0.01, 0.03):
        measures[f"recall at {share:.0%}".replace("%", " %")] = a.recall_at(share, scores, true[known])
    own = table[true].assign(found=flags[true])
    for kind, of_kind in own.groupby("anomaly_kind"):
        measures[f"recall {kind}"] = float(of_kind["found"].mean())
    if "latency_log_ratio" in own:
        for name, of_strength in own.groupby(strength(own)):
            measures[f"recall {name}"] = float(of_strength["found"].mean())
    return measures


def strength(table: pd.DataFrame) -> np.ndarray:
    """How far each trace is changed by its fault: a word.  # (traces,)"""
    ratio = table[["latency_log_ratio", "work_log_ratio"]].abs().max(axis=1).fillna(0.0).to_numpy()
    words = np.array([name for name, _ in STRENGTHS], object)
    word = words[np.searchsorted([bound for _, bound in STRENGTHS[:-1]], ratio, side="right")]
    word = np.where(table["structure_changed"].to_numpy(bool), "other calls", word)
    return np.where(table["error_changed"].to_numpy(bool), "other errors", word)


def _culprits(
    table: pd.DataFrame, true: np.ndarray, flags: np.ndarray, verdicts: pd.DataFrame, faults: pd.DataFrame
) -> Measures:
    struck = table[true]
    of_traces = m.culprit_ranks_of_own_traces(verdicts, struck[["trace_id", "fault_id"]], faults)
    of_time = m.culprit_ranks(verdicts, faults)
    own = table[true & flags]
    measures = {
        "faults": float(len(faults)),
        "faults without a flag": 1 - own["fault_id"].nunique() / max(len(faults), 1),
    }
    for top in m.TOPS:
        measures[f"AC@{top}"] = m.named_share(of_traces, top)
        measures[f"AC@{top} of its time"] = m.named_share(of_time, top)
    right = _culprit_said(own) == own["fault_id"].map(dict(zip(faults["fault_id"], faults["otel_service_name"])))
    return measures | {"AC@1 of traces": detectors._mean(right.to_numpy())}


def _shifts(source: Source, minutes: np.ndarray, flags: np.ndarray, is_ready: pd.Series) -> Measures:
    """How the normal traces fare around what changes for good without any harm."""
    if not source.shifts:
        return {}
    ready = is_ready.to_numpy(bool)
    before = ready & (minutes < source.shifts[0])
    measures = {"normal flagged before the shift": detectors._mean(flags[before])}
    ends = [*source.shifts[1:], math.inf]
    spans = [(at, min(end, at + SHIFT_MINUTES)) for at, end in zip(source.shifts, ends)]
    after = np.zeros(len(minutes), bool)
    for begin, end in spans:
        after |= (minutes >= begin) & (minutes < end)
    measures["normal flagged after the shift"] = detectors._mean(flags[after & ready])
    quiet = [a.minutes_to_quiet(minutes, flags, begin, end) for begin, end in spans]
    return measures | {"minutes to quiet": float(np.nanmax(quiet)) if not np.isnan(quiet).all() else math.nan}


def excess_cost(source: Source, results: Sequence[MinuteResult], cache: Path) -> Measures:
    """A and bias of excess cost, where the world's excess is known and the arm tells incidents."""
    file = source.place / "truth" / "costs.parquet"
    if not file.is_file() or not any(result.incidents for result in results):
        return {}
    code = [*code_of("udfs.pure.attribute", "udfs.pure.focus", "udfs.pure.offline"), Path(costs.__file__)]
    allocations = kept(cache, "allocations", source.place, code, lambda: costs.Bill(source.place).allocations)
    ranked = costs.ranked(results, allocations)
    spent, ranked, true = (
        table.assign(otel_service_name=table["otel_service_name"].map(bare))
        for table in (costs.spent(ranked), ranked, pd.read_parquet(file))
    )
    found = m.attribution(spent, true, "excess_cost")
    measures = {f"excess {name}": found[f"attribution {name}"] for name in ("A", "bias")}
    faults = pd.read_parquet(source.place / "truth" / "faults.parquet")
    culprit = dict(zip(faults["fault_id"], faults["otel_service_name"].map(bare)))
    caused = true.assign(otel_service_name=true["fault_id"].map(culprit))
    return measures | {"excess A by cause": m.attribution(ranked, caused, "excess_cost")["attribution A"]}


# ---- runs ------------------------------------------------------------------------------------


def run(source: Source, arms: Sequence[str], cache: Path) -> dict[str, tuple[Measures, dict]]:
    """Measures, and what else there is, by arm."""
    world = load(source, cache)
    # Of a world that had to be made its truth is known only now.
    source = replace(source, shifts=source.shifts or shifts_of(source.place))
    done = {}
    for arm in arms:
        done[arm] = evaluate(source, arm, world, cache)
        print(line(source.title, arm, *done[arm]), flush=True)
    return done


def line(title: str, arm: str, measures: Measures, more: Mapping) -> str:
    """One world and arm, the figures that matter most."""
    cells = [f"{title:<28} {arm:<8}"]
    for short, name, places in (
        ("flagged", "normal flagged", 4), ("warming", "warming", 3), ("false/day", "false incidents", 1),
        ("F1", "F1", 3), ("P", "precision", 3), ("R", "recall", 3), ("AUC", "PR-AUC", 3),
        ("AC@1", "AC@1", 2), ("A", "excess A", 2), ("caused", "excess A by cause", 2), ("bias", "excess bias", 2),
        ("before", "normal flagged before the shift", 4), ("after", "normal flagged after the shift", 4),
        ("quiet", "minutes to quiet", 0),
        ("found", "faults found", 2), ("CPU s", "detect CPU s", 1), ("µs/span", "µs a span", 0),
    ):  # fmt: skip
        if not math.isnan(measures.get(name, math.nan)):
            cells.append(f"{short} {_number(measures[name], places)}")
    return "  ".join([*cells, f"|{more['timeline']}|"])


def _number(value: float, places: int) -> str:
    return "–" if math.isnan(value) else "never" if math.isinf(value) else f"{value:,.{places}f}"


def table(family: str, arms: Mapping[str, Mapping[str, Measures]]) -> str:
    """A family as Markdown: a row a measure, a column an arm."""
    names = dict.fromkeys(name for worlds in arms.values() for of in worlds.values() for name in of)
    count = len(next(iter(arms.values())))
    rows = [["", *arms], ["---", *("---:" for _ in arms)]]
    for name in names:
        rows.append([name, *(_cell(name, [of.get(name, math.nan) for of in arms[arm].values()]) for arm in arms)])
    rows.append(["worst world, normal flagged", *(_worst(worlds) for worlds in arms.values())])
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"### {family} ({count} {'world' if count == 1 else 'worlds'})\n\n{body}\n"


def _cell(name: str, values: Sequence[float]) -> str:
    places = PLACES.get(name, DEFAULT_PLACES)
    if np.isinf(values).any():
        return "never" if len(values) == 1 else f"never in {int(np.isinf(values).sum())}"
    mean, half = m.mean_and_interval(values)
    return _number(mean, places) + ("" if math.isnan(half) else f" ± {_number(half, places)}")


def _worst(worlds: Mapping[str, Measures]) -> str:
    name = max(worlds, key=lambda world: worlds[world]["normal flagged"])
    return f"{worlds[name]['normal flagged']:.3f} ({name})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what ``argv`` asks for; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.families", description="How good the detectors are, family by family."
    )
    add = parser.add_argument
    add("families", nargs="*", metavar="FAMILY|DIR", help=f"of {', '.join(FAMILIES)} [all]")
    add("--arms", nargs="+", metavar="ARM", help=f"of {', '.join(detectors.ARMS)} [all]")
    add("--only", metavar="TEXT", help="the worlds alone whose family/name has this")
    add("--quick", action="store_true", help="no tables")
    add("--data", type=Path, default=DATA, help="the folder of the data that is given")
    add("--cache", type=Path, default=CACHE, help=f"what is read and made is kept there [{CACHE}]")
    add("--seeds", type=int, nargs="+", default=list(SEEDS), help="of our simulator")
    add("--days", type=float, default=1.0, help="of our simulator [1]")
    add("--requests-per-day", type=int, default=10_000, help="of our simulator")
    add("--jobs", type=int, default=1, help="worlds at a time [1]")
    add("--json", type=Path, metavar="FILE", help="write the measures there, with those by minute")
    found = parser.parse_args(argv)
    if found.jobs < 1:
        parser.error(f"--jobs {found.jobs} is below 1")
    # What follows the arms and is none is a family.
    arms = [name for name in found.arms or detectors.ARMS if name in detectors.ARMS]
    families = [*found.families, *(name for name in found.arms or () if name not in detectors.ARMS)]
    if not arms:
        parser.error(f"--arms: name some of {', '.join(detectors.ARMS)}")
    try:
        tasks = [source for family in families or FAMILIES for source in sources(family, found)]
        tasks = [source for source in tasks if not found.only or found.only in source.title]
        done = _run_all(tasks, tuple(dict.fromkeys(arms)), found)
    except (WorldError, OSError) as error:
        print(f"families: {error}", file=sys.stderr)
        return 1
    groups: dict[str, dict[str, dict[str, Measures]]] = {}
    seen: dict[str, dict[str, dict]] = {}
    for source in tasks:
        for arm, (measures, more) in done[source.title].items():
            groups.setdefault(source.family, {}).setdefault(arm, {})[source.name] = measures
            seen.setdefault(source.title, {})[arm] = more
    if not found.quick:
        print("\n" + "\n".join(table(family, arms) for family, arms in groups.items()))
        print("\n".join(f"- {name}: {what}" for name, what in MEASURES.items()))
    if found.json:
        clean = {f: {arm: {w: _finite(of) for w, of in worlds.items()} for arm, worlds in arms.items()}
                 for f, arms in groups.items()}  # fmt: skip
        found.json.write_text(json.dumps({"measures": clean, "seen": seen}, indent=1) + "\n", encoding="utf-8")
    return 0


def _finite(measures: Measures) -> dict[str, float | str | None]:
    """For JSON: what isn't known is null, what never comes is a word."""
    return {
        name: None if math.isnan(value) else "never" if math.isinf(value) else value for name, value in measures.items()
    }


def _run_all(tasks: Sequence[Source], arms: tuple[str, ...], found: argparse.Namespace) -> dict[str, dict]:
    """What ``run`` gives of each source, by its title; each world in a process of its own."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # CPU seconds are to compare
    begun = time.monotonic()
    with ProcessPoolExecutor(found.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = {pool.submit(run, source, arms, found.cache): source.title for source in tasks}
        try:
            done = {waiting[one]: one.result() for one in as_completed(waiting)}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(f"families: {len(tasks)} worlds, {len(arms)} arms in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return done


if __name__ == "__main__":
    sys.exit(main())
