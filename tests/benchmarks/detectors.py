"""How good the detectors are: the pure stages over whole worlds, without the engine.

    python -m tests.benchmarks.detectors --seeds 11 12 --mixes source faint --cases storm deploy
    python -m tests.benchmarks.detectors DIR [DIR ...] --arms usual knn --json FILE

Worlds are simulated (--seeds) or read (directories as in docs/interface.md §1, with a ``truth/``:
``traces.parquet`` of a simulated world, ``labels.parquet`` of real days, whose labels are weak).
Each is collected, assembled and metered once; every arm judges the same packed minutes. Prints a
Markdown table for each mix, case and directory: arms are columns, measures are rows, mean ± 95 %
t-interval over the seeds. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from simulator.config import CASES, DEPLOY, MIXES, RELEASE_SHARES, STORM
from simulator.evaluation import measures as m
from simulator.evaluation.measures import Measures
from tests.benchmarks.gap import GapDetector
from tests.benchmarks.knn import NeighbourDetector, verdict
from udfs.pure import detect as pure
from udfs.pure.assemble import NS_PER_MS, SEPARATOR, Trace, unpack
from udfs.pure.offline import Minutes, UsageByMinute, assemble_all, collect_traces, meter_all
from udfs.pure.predict import DEFAULT_MODEL, MaskedSpanModel, Usual
from udfs.pure.verdicts import MinuteResult
from udfs.pure.windows import HOUR_MS

MINUTE_MS = 60_000

# knn knows the first part of the time.
REFERENCE_SHARE = 0.25

VERDICT_COLUMNS = (
    "trace_id", "start_time", "anomaly_score", "threshold", "is_anomalous", "culprit_service_name",
    "anomaly_kind", "verdict_state",
)  # fmt: skip
# Of these the first word for each minute is told, too, where a later one may have changed it.
AT_ONCE = ("f1", "false_positive_rate", "positive flagged", "quiet flagged")

# A fault of real days is found where its traces are flagged more often than quiet ones, at this p.
FOUND_P = 0.05
SHUFFLES = 200

# Counts and seconds beside shares: how many decimals tell something.
PLACES = {"traces": 0, "positive traces": 0, "quiet traces": 0, "faults": 0,
          "detect CPU s": 1, "traces per CPU s": 0}  # fmt: skip
DEFAULT_PLACES = 3


class Detector(Protocol):
    """What an arm is: minutes come in ascending order, and the last word for a minute counts."""

    def step(
        self,
        minute_ms: int,
        traces: Sequence[bytes],
        usage: Mapping[tuple[str, str], Mapping[str, float]],
    ) -> list[MinuteResult]: ...


class WorldError(Exception):
    """A world could not be made or read; the message is for the user."""


# ---- worlds ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """The input of the detectors, and what is known about it.

    truth: a row a trace; of real days with ``label`` (positive, negative or ignore) in place of
    ``is_anomalous``. ``start_ms`` is NaN for a trace without spans.
    """

    minutes: Minutes  # packed traces
    usage: UsageByMinute  # by minute, then (service, pod), then dimension
    truth: pd.DataFrame
    faults: pd.DataFrame
    services: int
    spans: int = 0

    @property
    def is_real(self) -> bool:
        """Whether the labels are weak."""
        return "label" in self.truth

    @property
    def times(self) -> list[int]:
        """Minutes with traces or usage, ascending, in ms."""
        return sorted(self.minutes.keys() | self.usage.keys())


def load(directory: Path, say: Callable[[str], None] = lambda line: None, is_calm: bool = False) -> World:
    """Run the stages before the detectors over ``directory``.

    is_calm: nothing is wrong in it, so it needs no truth.

    Raises:
        WorldError: it has no truth.
    """
    folder = directory / "truth"
    known = [path for name in ("traces", "labels") if (path := folder / f"{name}.parquet").is_file()]
    if not known and not is_calm:
        raise WorldError(f"{folder} has neither traces.parquet nor labels.parquet")
    clock = [time.process_time()]
    fragments, owners = collect_traces(directory)
    clock.append(time.process_time())
    minutes = assemble_all(fragments)
    clock.append(time.process_time())
    usage = meter_all(directory, owners)
    clock.append(time.process_time())

    spans, started, services = 0, {}, {service for used in usage.values() for service, _ in used}
    for trace in (unpack(packed) for packed_traces in minutes.values() for packed in packed_traces):
        spans += len(trace.spans)
        started[trace.trace_id] = trace.start_ns // NS_PER_MS
        services.update(pod.split(SEPARATOR)[0] for pod in trace.pods)
    took = (after - before for before, after in zip(clock, clock[1:]))
    stages = (f"{name} {s:.1f} s" for name, s in zip(("collect", "assemble", "meter"), took))
    say(f"{len(started):,} traces, {spans:,} spans; CPU: {', '.join(stages)}")
    if known:
        truth, faults = pd.read_parquet(known[0]), pd.read_parquet(folder / "faults.parquet")
    else:
        truth, faults = _calm(started)
    return World(
        minutes,
        usage,
        truth.assign(start_ms=truth["trace_id"].map(started)),
        faults,
        len(services - {""}),
        spans,
    )


def _calm(trace_ids: Iterable[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truth and faults where nothing is wrong."""
    truth = pd.DataFrame({"trace_id": list(trace_ids), "is_anomalous": False})
    times = pd.to_datetime([], utc=True)
    faults = pd.DataFrame({"fault_id": [], "otel_service_name": [], "start_time": times, "end_time": times})
    return truth.assign(fault_id=None, culprit_service_name=None, anomaly_kind=None), faults


def simulate(output: Path, options: Sequence[str], module: str = "simulator") -> None:
    """Make a world in ``output`` by a module's command, in place of nothing or all.

    Raises:
        WorldError: the command's last words.
    """
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    command = [sys.executable, "-m", module, "--output", str(partial), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise WorldError(f"{' '.join(command)} exits {done.returncode}: {done.stderr.strip()[-500:]}")
    partial.rename(output)


# ---- arms ------------------------------------------------------------------------------------


class OracleDetector:
    """Says what the truth says, by the packed traces: what the measures allow at most."""

    def __init__(self, truth: pd.DataFrame) -> None:
        true = truth["label"] == "positive" if "label" in truth else truth["is_anomalous"]
        self._culprit_of = truth[true.astype(bool)].set_index("trace_id")["culprit_service_name"].to_dict()

    def step(self, minute_ms: int, traces: Sequence[bytes], usage: Mapping) -> list[MinuteResult]:
        """The truth about the traces of a minute."""
        return [MinuteResult(minute_ms, [self._verdict(unpack(packed)) for packed in traces])]

    def _verdict(self, trace: Trace) -> dict[str, Any]:
        culprit = self._culprit_of.get(trace.trace_id)
        return verdict(trace, float(culprit is not None), 0.5, culprit)


def _neighbours(world: World) -> Detector:
    first, last = world.times[0], world.times[-1] + MINUTE_MS
    return NeighbourDetector(round(first + REFERENCE_SHARE * (last - first)))


ARMS: dict[str, Callable[[World], Detector]] = {
    "model": lambda world: pure.Detector(MaskedSpanModel(DEFAULT_MODEL)),
    # The same without the Transformer: each span is predicted from its operation's own past alone.
    "usual": lambda world: pure.Detector(Usual()),
    # The same with the source's threshold.
    "ema": lambda world: pure.Detector(MaskedSpanModel(DEFAULT_MODEL), pure.EMA),
    "knn": _neighbours,
    "gap": lambda world: GapDetector(),
    "oracle": lambda world: OracleDetector(world.truth),
}


def stated(results: Iterable[MinuteResult]) -> tuple[pd.DataFrame, pd.DataFrame, bool]:
    """Verdicts by the first and by the last result for each minute; whether any came twice."""
    first: dict[int, list[dict]] = {}
    last: dict[int, list[dict]] = {}
    is_restated = False
    for result in results:
        is_restated |= result.minute_ms in first
        first.setdefault(result.minute_ms, result.verdicts)
        last[result.minute_ms] = result.verdicts
    return _frame(first), _frame(last), is_restated


def _frame(by_minute: Mapping[int, list[dict]]) -> pd.DataFrame:
    rows = [row for verdicts in by_minute.values() for row in verdicts]
    frame = pd.DataFrame(rows, columns=list(VERDICT_COLUMNS))
    return frame.assign(start_time=pd.to_datetime(frame["start_time"], unit="ms", utc=True))


def detect(arm: str, world: World) -> tuple[list[MinuteResult], float]:
    """All that an arm says about a world, in its order, and the CPU seconds that it took."""
    detector = ARMS[arm](world)
    results: list[MinuteResult] = []
    begun = time.process_time()
    for minute in world.times:
        results += detector.step(minute, world.minutes.get(minute, []), world.usage.get(minute, {}))
    return results, time.process_time() - begun


def run_arm(arm: str, world: World, case: str | None) -> Measures:
    """All measures of one arm in one world."""
    results, took = detect(arm, world)
    first, last, is_restated = stated(results)
    measures = judge(last, world, case)
    if is_restated:
        at_once = judge(first, world, case)
        measures |= {f"{name} at once": at_once[name] for name in AT_ONCE if name in at_once}
    traces = sum(map(len, world.minutes.values()))
    return measures | {"detect CPU s": took, "traces per CPU s": traces / max(took, 1e-9)}


# ---- measures --------------------------------------------------------------------------------


def judge(verdicts: pd.DataFrame, world: World, case: str | None) -> Measures:
    """The measures of ``verdicts`` that its world, or case, allows."""
    if world.is_real:
        return real_days(verdicts, world)
    if case == DEPLOY:
        return deploy(verdicts, world.truth, world.times[0], world.times[-1] + MINUTE_MS)
    measures = m.detection(verdicts, world.truth)
    for whose, ranks in (
        (" own traces", m.culprit_ranks_of_own_traces(verdicts, world.truth, world.faults)),
        ("", m.culprit_ranks(verdicts, world.faults)),
    ):
        measures |= {f"AC@{top}{whose}": m.named_share(ranks, top) for top in m.TOPS}
    return measures | storm(verdicts, world.truth, world.faults) if case == STORM else measures


def storm(verdicts: pd.DataFrame, truth: pd.DataFrame, faults: pd.DataFrame) -> Measures:
    """Recall as the storm (the only fault) goes on, false-positive rate before, in and after it."""
    found = m.flagged(verdicts, truth["trace_id"])
    start = truth["start_ms"].to_numpy(float)
    true = truth["is_anomalous"].to_numpy(bool)
    begin, end = (m.epoch_ms(faults[name])[0] for name in ("start_time", "end_time"))
    edges = np.linspace(begin, end, 4)
    thirds = zip(("first", "middle", "last"), edges, edges[1:])
    measures = {f"recall, {name} third": _mean(found[true & _within(start, a, b)]) for name, a, b in thirds}
    phases = {"before": (-np.inf, begin), "in": (begin, end), "after": (end, np.inf)}
    return measures | {
        f"false_positive_rate, {name} the storm": _mean(found[~true & _within(start, a, b)])
        for name, (a, b) in phases.items()
    }


def deploy(verdicts: pd.DataFrame, truth: pd.DataFrame, begin_ms: int, end_ms: int) -> Measures:
    """False-positive rate of a world in [begin_ms, end_ms) that has new releases and no fault."""
    found = m.flagged(verdicts, truth["trace_id"])
    start = truth["start_ms"].to_numpy(float)
    releases = [begin_ms + share * (end_ms - begin_ms) for share in RELEASE_SHARES]
    measures = {
        "traces": float(len(truth)),
        "false_positive_rate": _mean(found),
        "false_positive_rate, before the first deploy": _mean(found[start < releases[0]]),
    }
    for number, release in enumerate(releases, 1):
        hour = _within(start, release, release + HOUR_MS)
        measures[f"false_positive_rate, hour after deploy {number}"] = _mean(found[hour])
    return measures


def real_days(verdicts: pd.DataFrame, world: World) -> Measures:
    """Shares flagged near injections and in quiet, culprits and faults found, beside chance.

    Chance of a culprit: as many names as a fault's time has, up to the top, of all services at
    random. Chance of a fault found: the labels of the labelled traces dealt at random.
    """
    labels, faults = world.truth, world.faults
    found = m.flagged(verdicts, labels["trace_id"])
    is_quiet = (labels["label"] == "negative").to_numpy()
    is_positive = (labels["label"] == "positive").to_numpy()
    measures = {
        "positive traces": float(is_positive.sum()),
        "positive flagged": _mean(found[is_positive]),
        "quiet traces": float(is_quiet.sum()),
        "quiet flagged": _mean(found[is_quiet]),
        "faults": float(len(faults)),
    }
    ranks, named = m.culprit_ranks(verdicts, faults), _named(verdicts, faults)
    for top in m.TOPS:
        measures[f"AC@{top}"] = m.named_share(ranks, top)
        measures[f"AC@{top} by chance"] = _mean(np.minimum(named, top)) / world.services
    is_labelled = is_quiet | is_positive
    fault_of = labels["fault_id"].where(is_positive).to_numpy(object)[is_labelled]
    places = pd.Index(faults["fault_id"]).get_indexer(fault_of)  # -1: quiet
    flags = found[is_labelled]
    measures["faults found"] = faults_found(flags, places, len(faults))
    random = np.random.default_rng(0)
    measures["faults found by chance"] = _mean(
        [faults_found(flags, random.permutation(places), len(faults)) for _ in range(SHUFFLES)]
    )
    return measures


def faults_found(flags: np.ndarray, fault_of: np.ndarray, faults: int) -> float:
    """Share of the faults whose traces are flagged more often than quiet ones, one-sided p < FOUND_P.

    flags: (traces,) bool. fault_of: (traces,) place of a trace's fault, or -1 if it is quiet. The
    quiet share has one flagged and one unflagged trace added: that none of a few was flagged
    doesn't prove that none ever is. A fault without traces is not found.
    """
    quiet = flags[fault_of < 0]
    share = (quiet.sum() + 1) / (len(quiet) + 2)
    near = fault_of >= 0
    traces = np.bincount(fault_of[near], minlength=faults)
    hits = np.bincount(fault_of[near & flags], minlength=faults)
    return _mean([binomial_tail(k, n, share) < FOUND_P for k, n in zip(hits.tolist(), traces.tolist())])


def binomial_tail(hits: int, trials: int, share: float) -> float:
    """P(X >= hits) of ``trials``, each a hit with probability 0 < ``share`` < 1."""
    logs = (
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(share) + (trials - k) * math.log1p(-share)
        for k in range(hits, trials + 1)
    )  # fmt: skip
    return min(math.fsum(map(math.exp, logs)), 1.0)


def _named(verdicts: pd.DataFrame, faults: pd.DataFrame) -> np.ndarray:
    """How many services the anomalous traces of each fault's time name.  # (faults,)"""
    anomalous = verdicts[verdicts["is_anomalous"].astype(bool)]
    start = m.epoch_ms(anomalous["start_time"])
    times = zip(m.epoch_ms(faults["start_time"]), m.epoch_ms(faults["end_time"]))
    culprit = anomalous["culprit_service_name"]
    return np.array([culprit[_within(start, a, b)].nunique() for a, b in times])


def _within(times: np.ndarray, begin: float, end: float) -> np.ndarray:
    return (begin <= times) & (times < end)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """NaN where there are none."""
    return float(np.mean(values)) if len(values) else math.nan


# ---- runs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One world and the arms to run in it; ``options`` are the simulator's, None to read ``place``."""

    group: str  # the table that it goes into
    name: str
    arms: tuple[str, ...]
    place: Path | None  # None: a temporary directory
    options: tuple[str, ...] | None = None
    case: str | None = None


def run_task(task: Task) -> dict[str, Measures]:
    """Measures by arm."""

    def say(line: str) -> None:
        print(f"detectors: {task.group}, {task.name}: {line}", file=sys.stderr, flush=True)

    with nullcontext(task.place) if task.place else tempfile.TemporaryDirectory() as place:
        directory = Path(place) if task.place else Path(place) / "world"
        if task.options is not None and not directory.exists():
            simulate(directory, task.options)
        world = load(directory, say)
    by_arm = {}
    for arm in task.arms:
        by_arm[arm] = run_arm(arm, world, task.case)
        told = [name for name in (*AT_ONCE, "detect CPU s") if name in by_arm[arm]]
        say(f"{arm}: {', '.join(f'{name} {_number(name, by_arm[arm][name])}' for name in told)}")
    return by_arm


def run_all(tasks: Sequence[Task], jobs: int) -> dict[str, dict[str, dict[str, Measures]]]:
    """Measures by group, arm and name of the world; each world in a process of its own."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # CPU seconds are to compare
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        done = list(pool.map(run_task, tasks))
    groups: dict[str, dict[str, dict[str, Measures]]] = {}
    for task, by_arm in zip(tasks, done):
        for arm, measures in by_arm.items():
            groups.setdefault(task.group, {}).setdefault(arm, {})[task.name] = measures
    return groups


def intervals(worlds: Mapping[str, Measures]) -> dict[str, tuple[float, float]]:
    """Mean and half the 95 % t-interval over worlds of each measure that any of them has."""
    names = dict.fromkeys(name for measures in worlds.values() for name in measures)
    return {name: m.mean_and_interval([w.get(name, math.nan) for w in worlds.values()]) for name in names}


def table(title: str, arms: Mapping[str, Mapping[str, Measures]]) -> str:
    """One group as Markdown: arms are columns, measures are rows."""
    by_arm = {arm: intervals(worlds) for arm, worlds in arms.items()}
    names = dict.fromkeys(name for measures in by_arm.values() for name in measures)
    count = len(next(iter(arms.values())))
    lines = [["", *by_arm], ["---", *("---:" for _ in by_arm)]]
    nothing = (math.nan, math.nan)
    for name in sorted(names, key=lambda name: "CPU" in name):
        lines.append([name, *(_cell(name, *of.get(name, nothing)) for of in by_arm.values())])
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {title} ({count} {'world' if count == 1 else 'worlds'})\n\n{rows}\n"


def _cell(name: str, mean: float, half: float) -> str:
    number = _number(name, mean)
    return number if math.isnan(half) else f"{number} ± {_number(name, half)}"


def _number(name: str, value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.{PLACES.get(name, DEFAULT_PLACES)}f}"


def _for_json(groups: Mapping[str, Mapping[str, Mapping[str, Measures]]]) -> dict:
    """``table`` for a program; what is not known is null."""

    def known(measures: Measures) -> dict[str, float | None]:
        return {name: None if math.isnan(value) else value for name, value in measures.items()}

    return {
        group: {
            arm: {
                "worlds": {name: known(measures) for name, measures in worlds.items()},
                "mean": known({name: mean for name, (mean, _) in intervals(worlds).items()}),
                "interval_95": known({name: half for name, (_, half) in intervals(worlds).items()}),
            }
            for arm, worlds in arms.items()
        }
        for group, arms in groups.items()
    }


# ---- command line ----------------------------------------------------------------------------


def _parse(argv: Sequence[str] | None) -> tuple[list[Task], argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.detectors", description="How good the detectors are."
    )
    add = parser.add_argument
    add("directories", type=Path, nargs="*", metavar="DIR", help="worlds or real days, with truth/")
    add("--seeds", type=int, nargs="+", metavar="N", default=[], help="worlds to simulate")
    add("--mixes", "--mix", nargs="+", choices=MIXES, help="of faults [source, but with --cases none]")
    add("--cases", nargs="+", choices=CASES, default=[], help="a lasting storm; benign releases")
    add("--days", type=float, default=1.0, help="length of a simulated world [1]")
    add("--requests-per-day", type=int, default=10_000)
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    add("--jobs", type=int, default=1, help="worlds at a time [1]")
    add("--keep", type=Path, metavar="DIR", help="leave the simulated worlds here; use those there are")
    add("--json", type=Path, metavar="FILE", help="write the measures there, too")
    found = parser.parse_args(argv)
    if not found.seeds and not found.directories:
        parser.error("give --seeds or directories")
    if (found.mixes or found.cases) and not found.seeds:
        parser.error("--mixes and --cases are of worlds to simulate: give --seeds")
    if len(set(found.seeds)) < len(found.seeds):
        parser.error(f"--seeds {found.seeds}: each must be given once")
    if found.jobs < 1:
        parser.error(f"--jobs {found.jobs} is below 1")

    arms = tuple(dict.fromkeys(found.arms))
    tasks = []
    mixes = found.mixes or ([] if found.cases else ["source"])
    for kind, word in [("mix", word) for word in mixes] + [("case", word) for word in found.cases]:
        for seed in found.seeds:
            size = ("--days", f"{found.days:g}", "--requests-per-day", str(found.requests_per_day))
            name = f"{kind}-{word}-{seed}-{found.days:g}-{found.requests_per_day}"
            tasks.append(
                Task(
                    group=f"{kind} {word}",
                    name=f"seed {seed}",
                    arms=arms,
                    place=found.keep / name if found.keep else None,
                    options=("--seed", str(seed), *size, f"--{kind}", word),
                    case=word if kind == "case" else None,
                )
            )
    tasks += [Task(str(path), path.name, arms, path) for path in found.directories]
    return tasks, found


def main(argv: Sequence[str] | None = None) -> int:
    """Run what ``argv`` asks for and print the tables; the exit status."""
    tasks, found = _parse(argv)
    try:
        if found.keep:
            found.keep.mkdir(parents=True, exist_ok=True)
        groups = run_all(tasks, found.jobs)
    except (WorldError, OSError) as error:
        print(f"detectors: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(group, arms) for group, arms in groups.items()))
    if found.json:
        found.json.write_text(json.dumps(_for_json(groups), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
