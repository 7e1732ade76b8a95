"""The grid of cells: which there are, running those whose result isn't there, and reading them all."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from simulator.config import BILLINGS, DEPLOY
from simulator.evaluation.cells import SIMULATED, Cell, code_version, key_of, run
from simulator.evaluation.worlds import GIVEN, given

Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Plan:
    """Which cells there are. The source's family has every kind of bill, other simulated ones have the first.

    data: a folder of given worlds, live systems and recorded days, for the families of GIVEN.
    """

    seeds: tuple[int, ...]
    days: float
    requests_per_day: int
    families: tuple[str, ...] = (*SIMULATED, *GIVEN)
    billings: tuple[str, ...] = BILLINGS
    data: Path | None = None
    ablations: bool = True

    def cells(self) -> list[Cell]:
        """The source's family first, all of a seed together."""
        simulated = [family for family in self.families if family in SIMULATED]
        cells = [
            Cell(family, billing, seed, self.days, self.requests_per_day, ablations=self._is_ablated(family, billing))
            for seed in self.seeds
            for family in simulated
            for billing in (self.billings if family == "source" else self.billings[:1])
        ]
        families = [family for family in GIVEN if family in self.families]
        places = [source for family in families for source in given(self.data, family)] if self.data else []
        return cells + [Cell(source.family, place=str(source.place.resolve())) for source in places]

    def _is_ablated(self, family: str, billing: str) -> bool:
        return self.ablations and family == "source" and billing == self.billings[0]


# The source's protocol, and one of minutes that shows the order of the arms, not the figures.
FULL = Plan(seeds=tuple(range(701, 711)), days=7.0, requests_per_day=50_000)
QUICK = Plan((701, 702, 703), days=0.5, requests_per_day=8_000, families=("source", DEPLOY, *GIVEN), ablations=False)


def in_processes(
    work: Callable[..., Result],
    tasks: Mapping[Key, tuple],
    jobs: int,
    tell: Callable[[Key, Result], None] = lambda key, result: None,
) -> dict[Key, Result]:
    """What ``work`` gives of the arguments of each task, which has a process of its own; ``tell`` hears it when it is
    there. The first failure ends all, and so does the end of this process, however it comes."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # CPU seconds are to compare
    results = {}
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_ends_with_parent, max_tasks_per_child=1
    ) as pool:
        waiting = {pool.submit(work, *arguments): key for key, arguments in tasks.items()}
        try:
            for done in as_completed(waiting):
                results[waiting[done]] = done.result()
                tell(waiting[done], done.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def _ends_with_parent() -> None:
    """Have a worker end in good order, so that no world of it stays behind: by SIGTERM, and when its parent is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_end_after, args=(parent_process(),), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def complete(plan: Plan, output: Path, jobs: int, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], int]:
    """(results of all cells in their order, how many of them had to be computed); each is kept as soon as it is there.

    A result that other code, another model or other settings made has another key, and is computed anew.
    """
    folder = output / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    code = code_version()
    keys = {cell: key_of(cell, code) for cell in plan.cells()}
    files = {cell: folder / f"{cell.name}-{key}.json" for cell, key in keys.items()}
    missing = [cell for cell, file in files.items() if _stored(file, keys[cell]) is None]
    say(f"{len(keys)} cells, {len(missing)} to compute, code {code}")
    number = count(1)
    in_processes(
        run,
        {cell: (cell, keys[cell], files[cell]) for cell in missing},
        jobs,
        lambda cell, seconds: say(f"{next(number)} of {len(missing)}: {cell.name}, {seconds:.0f} s"),
    )
    return [orjson.loads(file.read_bytes()) for file in files.values()], len(missing)


def _stored(file: Path, key: str) -> dict[str, Any] | None:
    """The result in a file; None if there is none, or not the whole of it, or another's."""
    try:
        found = orjson.loads(file.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return found if isinstance(found, dict) and found.get("key") == key else None


def long(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row for each (family, billing, world, table, arm, measure): value, NaN where it isn't known."""
    rows = [
        (cell["family"], cell["billing"], str(cell["seed"] or Path(cell["place"]).name), table, arm, measure, value)
        for result in results
        for cell in (result["cell"],)
        for table, arms in result["measures"].items()
        for arm, measures in arms.items()
        for measure, value in measures.items()
    ]
    columns = ["family", "billing", "world", "table", "arm", "measure", "value"]
    return pd.DataFrame(rows, columns=columns).astype({"value": float})


def write_parquet(table: pd.DataFrame, file: Path, about: dict[str, Any]) -> None:
    """``long`` as Parquet, with what made it in the file's metadata."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    kept = {**(arrow.schema.metadata or {}), b"evaluation": json.dumps(about).encode()}
    pq.write_table(arrow.replace_schema_metadata(kept), file)
