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
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from simulator.config import CASES, DEPLOY, MIXES, RELEASE_SHARES, STORM
from simulator.evaluation import measures as m
from simulator.evaluation.detection import Detector, detect, mean, real_days, stated, storm, verdict, within
from simulator.evaluation.grid import in_processes
from simulator.evaluation.measures import Measures
from simulator.evaluation.rule import RuleDetector, reference_until_ms
from simulator.evaluation.worlds import World, WorldError, load, simulate
from tests.benchmarks.gap import GapDetector
from tests.benchmarks.knn import NeighbourDetector
from udfs.pure import detect as pure
from udfs.pure.assemble import Trace, unpack
from udfs.pure.predict import DEFAULT_MODEL, MaskedSpanModel, Usual
from udfs.pure.verdicts import MinuteResult
from udfs.pure.windows import HOUR_MS, MINUTE_MS

# Of these the first word for each minute is told, too, where a later one may have changed it.
AT_ONCE = ("f1", "false_positive_rate", "positive flagged", "quiet flagged")

# Counts and seconds beside shares: how many decimals tell something.
PLACES = {"traces": 0, "positive traces": 0, "quiet traces": 0, "faults": 0,
          "detect CPU s": 1, "traces per CPU s": 0}  # fmt: skip
DEFAULT_PLACES = 3


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


ARMS: dict[str, Callable[[World], Detector]] = {
    "model": lambda world: pure.Detector(MaskedSpanModel(DEFAULT_MODEL)),
    # The same without the Transformer: each span is predicted from its operation's own past alone.
    "usual": lambda world: pure.Detector(Usual()),
    # The same with the source's threshold.
    "ema": lambda world: pure.Detector(MaskedSpanModel(DEFAULT_MODEL), pure.EMA),
    "knn": lambda world: NeighbourDetector(reference_until_ms(world)),
    "gap": lambda world: GapDetector(),
    "rule": lambda world: RuleDetector(reference_until_ms(world)),
    "oracle": lambda world: OracleDetector(world.truth),
}


def run_arm(arm: str, world: World, case: str | None) -> Measures:
    """All measures of one arm in one world."""
    results, took = detect(ARMS[arm](world), world)
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


def deploy(verdicts: pd.DataFrame, truth: pd.DataFrame, begin_ms: int, end_ms: int) -> Measures:
    """False-positive rate of a world in [begin_ms, end_ms) that has new releases and no fault."""
    found = m.flagged(verdicts, truth["trace_id"])
    start = truth["start_ms"].to_numpy(float)
    releases = [begin_ms + share * (end_ms - begin_ms) for share in RELEASE_SHARES]
    measures = {
        "traces": float(len(truth)),
        "false_positive_rate": mean(found),
        "false_positive_rate, before the first deploy": mean(found[start < releases[0]]),
    }
    for number, release in enumerate(releases, 1):
        hour = within(start, release, release + HOUR_MS)
        measures[f"false_positive_rate, hour after deploy {number}"] = mean(found[hour])
    return measures


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
    done = in_processes(run_task, {number: (task,) for number, task in enumerate(tasks)}, jobs)
    groups: dict[str, dict[str, dict[str, Measures]]] = {}
    for number, task in enumerate(tasks):
        for arm, measures in done[number].items():
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
