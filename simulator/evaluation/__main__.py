"""The evaluation: the source's claims beside what this project does, on worlds whose truth is known.

python -m simulator.evaluation --output DIR --quick                   # minutes: the order of the arms, not the figures
python -m simulator.evaluation --output DIR --jobs 2                  # the source's protocol, 10 topologies: hours
python -m simulator.evaluation --output DIR --days 1 --requests-per-day 10000 --families source deploy

DIR gets cells/ (a result for each world, kept as soon as it is there: the same command goes on where it was stopped),
measures.parquet (all measures), results.json (Table 3, savings by each whole, aims) and report.html. How good one run
of the job with its engine is says ``python -m simulator.evaluation.job``.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from simulator.config import BILLINGS
from simulator.evaluation.cells import SIMULATED, code_version
from simulator.evaluation.grid import FULL, QUICK, Plan, complete, long, write_parquet
from simulator.evaluation.worlds import GIVEN, ROOT, WorldError


class _Parser(argparse.ArgumentParser):
    """One whose errors are a line."""

    def error(self, message: str) -> NoReturn:
        """Exits with 2."""
        self.exit(2, f"evaluation: {message} (--help tells the arguments)\n")


def _plan(argv: Sequence[str] | None, prog: str) -> tuple[Plan, argparse.Namespace]:
    parser = _Parser(prog=prog, description="The source's claims beside what this project does.")
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="results and report; what is there is not computed again",
    )
    add("--quick", action="store_true", help="minutes: few, small worlds")
    add("--seeds", type=int, nargs="+", metavar="N", help=f"worlds [{FULL.seeds[0]} to {FULL.seeds[-1]}]")
    add("--days", type=float, help=f"length of a world [{FULL.days:g}]")
    add("--requests-per-day", type=int, help=f"[{FULL.requests_per_day}]")
    add("--families", nargs="+", choices=(*SIMULATED, *GIVEN), help="of worlds [all]")
    add("--billings", nargs="+", choices=BILLINGS, help="kinds of bill of the source's family [all]")
    add("--data", type=Path, metavar="DIR", help="given worlds, live systems and recorded days, as well")
    add("--no-ablations", action="store_true", help="leave out the detectors without some of their parts")
    add("--jobs", type=int, default=1, help="worlds at a time [1]")
    found = parser.parse_args(argv)
    if found.jobs < 1:
        parser.error(f"--jobs {found.jobs} is below 1")
    if found.days is not None and not 0 < found.days < math.inf:
        parser.error(f"--days {found.days:g} is no length")
    if found.data and not found.data.is_dir():
        parser.error(f"--data {found.data} is no directory")
    if found.families and not found.data and not {*found.families} & {*SIMULATED}:
        parser.error(f"--families {' '.join(found.families)} are given ones: give --data")
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in ("seeds", "days", "requests_per_day", "families", "billings", "data")
        if (value := getattr(found, name)) is not None
    }
    plan = replace(QUICK if found.quick else FULL, **given)
    if len(set(plan.seeds)) < len(plan.seeds):
        parser.error(f"--seeds {list(plan.seeds)}: each must be given once")
    if not plan.cells():
        parser.error(f"--data {plan.data} has no world of --families {' '.join(plan.families)}")
    return (replace(plan, ablations=False) if found.no_ablations else plan), found


def commit_of(folder: Path) -> str | None:
    """The commit that a folder is a checkout of, and whether it has been changed since; None if it is none."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (", changed" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _about(command: str, plan: Plan, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What made results, for people: of worlds that are given nothing is planned."""
    from simulator.evaluation.figures import in_runs

    families = list(dict.fromkeys(of["cell"]["family"] for of in results))
    made = [family for family in families if family in SIMULATED]
    size = f"{plan.days * 24:g} hours, {plan.requests_per_day:,} requests a day, 12 % anomalous, W = 30 min"
    size += "" if {*made} <= {"source"} else ", but where the name of a family says otherwise"
    parts = [size] if made else []
    parts += ["others as given"] if len(made) < len(families) else []
    return {
        "command": command,
        "code": code_version(),
        **({"commit": commit} if (commit := commit_of(ROOT)) else {}),
        "worlds": f"{len(results)}, of {', '.join(families)}",
        "seeds": in_runs(plan.seeds) if made else "none",
        "each": "; ".join(parts) if made else "as given",
        "spans": f"{sum(of['spans'] for of in results):,}",
        "time": f"{sum(of['seconds'] for of in results) / 60:.0f} minutes, world by world",
    }


def main(argv: Sequence[str] | None = None, prog: str = "python -m simulator.evaluation") -> int:
    """Run what ``argv`` asks for; the exit status."""
    plan, found = _plan(argv, prog)
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"evaluation: {time.monotonic() - begun:.0f} s: {line}", file=sys.stderr, flush=True)

    try:
        results, _ = complete(plan, found.output, found.jobs, say)
    except (WorldError, OSError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 1
    except BrokenProcessPool:
        print("evaluation: a world's process was killed; if for want of memory, give fewer --jobs", file=sys.stderr)
        return 1
    # Only now, since drawing needs what computing doesn't.
    from simulator.evaluation import figures, report

    words = ["DIR" if word == str(found.output) else word for word in (sys.argv[1:] if argv is None else argv)]
    about = _about(" ".join([prog, shlex.join(words)]), plan, results)
    table = long(results)
    write_parquet(table, found.output / "measures.parquet", about)
    summary = {"about": about, **report.summary(table)}
    (found.output / "results.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    report.write(found.output / "report.html", table, figures.draw(results, table), about)
    print(report.markdown(summary), report.readings_markdown(summary), report.aims_markdown(summary), sep="\n", end="")
    say(f"{found.output / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
