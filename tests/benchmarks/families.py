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
import json
import math
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from simulator.config import CASES, MIXES
from simulator.evaluation import measures as m
from simulator.evaluation import money, worlds
from simulator.evaluation.detection import detect, judge, stated
from simulator.evaluation.grid import in_processes
from simulator.evaluation.measures import Measures
from simulator.evaluation.worlds import (
    GIVEN,
    LEAVE_OUT_MINUTES,
    ROOT,
    Command,
    Source,
    World,
    WorldError,
    bare,
    code_of,
    digest,
    given,
    of_directory,
    shifts_of,
    shifts_of_case,
)  # fmt: skip
from tests.benchmarks import detectors
from udfs.pure.verdicts import MinuteResult

DATA = ROOT.parent / "shared" / "data"
CACHE = Path(tempfile.gettempdir()) / "families"

FAMILIES = (*GIVEN, "simulated", "wide", "queueing")
SEEDS = (21, 22)
QUEUEING = "tests.benchmarks.queueing"
QUEUEING_SEEDS = {1: ("--calm",), 2: ("--calm",), 3: (), 4: ()}
HOURS = 6  # of a queueing world


MEASURES = {
    "normal flagged": "share of the normal traces that are flagged",
    "normal flagged at once": "the same by the first word for each minute, where a later one may differ",
    "worst hour": "the greatest share of normal traces flagged in an hour (of 60 minutes with data)",
    "locked minutes": "the most minutes in a row with more than half of the normal traces flagged",
    "warming": "share of all traces that are judged without being known well; these are never flagged",
    "false incidents": "a day and 20 services: runs of false alarms on a service, outside of its true faults",
    "false incidents as told": "the same by the runs of all alarms on a service: what is left of a true one is none",
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

PLACES = {
    "traces": 0,
    "faults": 0,
    "locked minutes": 0,
    "false incidents": 1,
    "false incidents as told": 1,
    "detect CPU s": 1,
    "µs a span": 1,
}
DEFAULT_PLACES = 3


# ---- the worlds of a family ------------------------------------------------------------------


def sources(family: str, found: argparse.Namespace) -> list[Source]:
    """The worlds of a family, or of a directory.

    Raises:
        WorldError: there are none.
    """
    made = found.cache / "made"
    if family in GIVEN:
        some = given(found.data, family)
    elif family in ("simulated", "wide"):
        some = _simulated(family, found, made)
    elif family == "queueing":
        code = digest(*code_of(QUEUEING))[:8]
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


def _simulated(family: str, found: argparse.Namespace, made: Path) -> list[Source]:
    days, requests = f"{found.days:g}", str(found.requests_per_day)
    code = digest(*sorted((ROOT / "simulator").glob("*.py")))[:8]
    some = []
    for kind, word in [("mix", mix) for mix in MIXES] + [("case", case) for case in CASES]:
        for seed in found.seeds:
            options = ("--seed", str(seed), "--days", days, "--requests-per-day", requests, f"--{kind}", word)
            options += ("--noise", "wide") if family == "wide" else ()
            case = word if kind == "case" else None
            some.append(
                Source(
                    family,
                    f"{word} {seed}",
                    made / f"{family}-{code}-{word}-{seed}-{days}-{requests}",
                    Command("simulator", options),
                    shifts=shifts_of_case(case, found.days),
                    case=case,
                )
            )
    return some


# ---- what is kept ----------------------------------------------------------------------------


def kept(cache: Path, kind: str, directory: Path, code: Sequence[Path], make: Callable[[], object]) -> object:
    """What ``make`` gives of a directory with this code, or gave of the same files and code before."""
    inputs = sorted(path for path in directory.rglob("*") if path.is_file())
    states = [(str(path), (of := path.stat()).st_size, of.st_mtime_ns) for path in inputs]
    key = digest(*code, more=repr((kind, states)))[:24]
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
    code = [*code_of("udfs.pure.offline"), Path(worlds.__file__)]
    world = kept(cache, "world", source.place, code, lambda: worlds.load(source.place, is_calm=source.is_calm))
    truth = world.truth.assign(culprit_service_name=world.truth["culprit_service_name"].map(bare))
    faults = world.faults.assign(otel_service_name=world.faults["otel_service_name"].map(bare))
    return replace(world, truth=truth, faults=faults)


# ---- measures --------------------------------------------------------------------------------


def evaluate(source: Source, arm: str, world: World, cache: Path) -> tuple[Measures, dict]:
    """(measures, what else there is to see: the timeline) of an arm in a world."""
    results, took = detect(detectors.ARMS[arm](world), world)
    first, last, is_restated = stated(results)
    measures, more = judge(last, world, source)
    if is_restated:
        at_once, _ = judge(first, world, source)
        for name in ("normal flagged", "precision", "recall", "F1"):
            if name in at_once:
                measures[f"{name} at once"] = at_once[name]
    measures |= excess_cost(source, world, results, cache)
    measures |= {"detect CPU s": took, "µs a span": took / max(world.spans, 1) * 1e6}
    return measures, more


def excess_cost(source: Source, world: World, results: Sequence[MinuteResult], cache: Path) -> Measures:
    """A and bias of excess cost, where the world's excess is known and the arm tells incidents."""
    truth = source.place / "truth"
    if not (truth / "costs.parquet").is_file() or not any(result.incidents for result in results):
        return {}
    code = [*code_of("udfs.pure.attribute", "udfs.pure.focus", "udfs.pure.offline"), Path(money.__file__)]
    allocations = kept(cache, "allocations", source.place, code, lambda: money.Bill(source.place).allocations)
    faults, costs = (
        money.with_namespace(pd.read_parquet(truth / f"{name}.parquet"), world.names) for name in ("faults", "costs")
    )
    found = money.excess_measures(money.ranked(results, allocations), faults, costs)
    return {f"excess {name}": found[f"attribution {name}"] for name in ("A", "bias", "A by cause")}


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
    begun = time.monotonic()
    done = in_processes(run, {source.title: (source, arms, found.cache) for source in tasks}, found.jobs)
    print(f"families: {len(tasks)} worlds, {len(arms)} arms in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return done


if __name__ == "__main__":
    sys.exit(main())
