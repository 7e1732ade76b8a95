"""Worlds: made by the simulator or read from a directory, and brought to what detectors take, by the job's pure stages.

A world is a directory as in docs/interface.md §1, with a ``truth/``: ``traces.parquet`` of a simulated world,
``labels.parquet`` of real days, whose labels are weak; nothing is wrong in a world without one.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import pandas as pd

from simulator.config import DEPLOY, MINUTES_PER_DAY, RELEASE_SHARES
from udfs.pure.assemble import NS_PER_MS, SEPARATOR, Trace, opened, unpack
from udfs.pure.offline import Consumer, UsageByMinute, assemble_all, by_minute, collect_traces, meter_consumers

ROOT = Path(__file__).resolve().parents[2]

# Detection figures leave this out of a world that has to be learnt first.
LEAVE_OUT_MINUTES = 60
# Live recordings: the load is steady for so long, then it rises.
RAMP_AT_MINUTES = 30

# Worlds of others, by family: their folders in the data that is given. Recorded ones have weak labels.
GIVEN = {"worlds": ("worlds/*/",), "live": ("traceweaver-*/",), "recorded": ("train-ticket/", "online-boutique/")}


class WorldError(Exception):
    """A world could not be made or read; the message is for the user."""


@dataclass(frozen=True)
class World:
    """The input of the detectors, and what is known about it.

    truth: a row a trace; of real days with ``label`` (positive, negative or ignore) in place of
    ``is_anomalous``. ``start_ms`` is NaN for a trace without spans.
    """

    minutes: Mapping[int, Sequence[bytes | Trace]]  # packed traces, or unpacked ones
    usage: UsageByMinute  # by minute, then (service, pod), then dimension
    truth: pd.DataFrame
    faults: pd.DataFrame
    names: frozenset[str]  # of the services that usage and traces tell
    spans: int = 0
    consumers: tuple[Consumer, ...] = ()  # what each used of which resource, by window

    @property
    def is_real(self) -> bool:
        """Whether the labels are weak."""
        return "label" in self.truth

    @property
    def services(self) -> int:
        """How many of them there are."""
        return len(self.names)

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
    consumers: list[Consumer] = []
    usage = by_minute(_windows_kept(meter_consumers(directory, owners), consumers))
    clock.append(time.process_time())

    spans, started, names = 0, {}, {service for used in usage.values() for service, _ in used}
    for trace in (unpack(packed) for packed_traces in minutes.values() for packed in packed_traces):
        spans += len(trace.spans)
        started[trace.trace_id] = trace.start_ns // NS_PER_MS
        names.update(pod.split(SEPARATOR)[0] for pod in trace.pods)
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
        frozenset(names - {""}),
        spans,
        tuple(consumers),
    )


def _windows_kept(consumers: Iterable[Consumer], kept: list[Consumer]) -> Iterator[Consumer]:
    """The same consumers; what each used by window is added to ``kept``: by minute there is too much of it."""
    for consumer in consumers:
        kept.append(consumer._replace(usage={"windows": consumer.usage["windows"]}))
        yield consumer


def sample(traces: Iterable[bytes | Trace], chance: float) -> list[Trace]:
    """What a sampler by trace ids leaves of traces, and says so: these count for those that it left out."""
    return [
        trace._replace(weight=trace.weight / chance)
        for trace in map(opened, traces)
        if crc32(trace.trace_id.encode()) < chance * 2**32
    ]


def sampled(world: World, chance: float) -> World:
    """A world of which a sampler leaves so many traces."""
    kept = {minute: sample(traces, chance) for minute, traces in world.minutes.items()}
    ids = {trace.trace_id for traces in kept.values() for trace in traces}
    spans = sum(len(trace.spans) for traces in kept.values() for trace in traces)
    return replace(world, minutes=kept, truth=world.truth[world.truth["trace_id"].isin(ids)], spans=spans)


def _calm(trace_ids: Iterable[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truth and faults where nothing is wrong."""
    truth = pd.DataFrame({"trace_id": list(trace_ids), "is_anomalous": False})
    times = pd.to_datetime([], utc=True)
    faults = pd.DataFrame({"fault_id": [], "otel_service_name": [], "start_time": times, "end_time": times})
    return truth.assign(fault_id=None, culprit_service_name=None, anomaly_kind=None), faults


def simulate(output: Path, options: Sequence[str], module: str = "simulator") -> None:
    """Make a world in ``output`` by a module's command, in place of nothing or all. module: and its first arguments.

    Raises:
        WorldError: the command's last words.
    """
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    command = [sys.executable, "-m", *module.split(), "--output", str(partial), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise WorldError(f"{' '.join(command)} exits {done.returncode}: {done.stderr.strip()[-500:]}")
    partial.rename(output)


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
        simulate(output, self.options, self.module)


def of_directory(path: Path, family: str) -> Source:
    """A world that is there: recorded, with exact truth, or without any."""
    is_real = (path / "truth" / "labels.parquet").is_file()
    is_calm = not (path / "truth").is_dir()
    leave_out = 0 if is_real else LEAVE_OUT_MINUTES
    return Source(family, path.name, path, None, leave_out, is_calm, shifts_of(path))


def given(data: Path, family: str) -> list[Source]:
    """Those of a family of GIVEN that are there."""
    return [of_given(path, family) for pattern in GIVEN[family] for path in sorted(data.glob(pattern))]


def of_given(path: Path, family: str) -> Source:
    """One of them; in a live system nothing is wrong."""
    if family == "live":
        return Source(family, path.name, path, is_calm=True, shifts=(RAMP_AT_MINUTES,))
    return Source(family, path.name, path) if family == "recorded" else of_directory(path, family)


def shifts_of_case(case: str | None, days: float) -> tuple[float, ...]:
    """Minutes at which our simulator has new releases, in the case of these."""
    return tuple(share * days * MINUTES_PER_DAY for share in RELEASE_SHARES) if case == DEPLOY else ()


def shifts_of(path: Path) -> tuple[float, ...]:
    """Minutes at which a world has a new release or more load, by its truth; none where that doesn't tell."""
    file = path / "truth" / "world.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    seconds = [of["time"] for of in known.get("deploys", [])] + [of["start"] for of in known.get("surges", [])]
    return tuple(second / 60 for second in sorted(seconds))


def digest(*files: Path, more: str = "") -> str:
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


def bare(name: str | None) -> str | None:
    """A service's name without its namespace: some truths name none."""
    return name.rsplit("/", 1)[-1] if isinstance(name, str) else None
