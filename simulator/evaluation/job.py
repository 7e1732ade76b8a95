"""How good a run of the job is: one that is there, or one of each seed, with its engine.

python -m simulator.evaluation.job --tables DIR --truth DIR [--weak-labels] [--json FILE]
python -m simulator.evaluation.job --seeds 1 2 3 4 5 [--days 7 ...] [--keep DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from simulator.evaluation.measures import Measures, mean_and_interval
from simulator.evaluation.runs import RunError, evaluate, evaluate_weak, run_seed

# Passed on to the simulator, as they are; what is not given is the simulator's to decide.
SIMULATOR_OPTIONS = (
    "--services",
    "--days",
    "--requests-per-day",
    "--anomaly-rate",
    "--faults",
    "--mix",
    "--severity",
    "--billing",
)

# Counts, seconds and money beside shares: how many decimals tell something.
PLACES = {"traces": 0, "positive traces": 0, "quiet traces": 0, "faults": 0, "spans": 0,
          "job seconds": 0, "spans a second": 0, "anomaly cost": 2, "unconserved": 12}  # fmt: skip
DEFAULT_PLACES = 3


def _number(name: str, value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.{PLACES.get(name, DEFAULT_PLACES)}f}"


def table(measures: Measures) -> str:
    """The measures of one run as text, one a line."""
    width = max(map(len, measures))
    return "\n".join(f"{name:<{width}}  {_number(name, value):>12}" for name, value in measures.items())


def _names(by_seed: dict[int, Measures]) -> list[str]:
    """The measures of any seed, as a kind of fault may be missing in one; in their order."""
    return list(dict.fromkeys(name for measures in by_seed.values() for name in measures))


def _values(by_seed: dict[int, Measures], name: str) -> list[float]:
    return [measures.get(name, math.nan) for measures in by_seed.values()]


def seeds_table(by_seed: dict[int, Measures]) -> str:
    """Mean, 95 % t-interval and each seed's value of every measure, as text."""
    lines = [["", "mean", "± 95 %", *(f"seed {seed}" for seed in by_seed)]]
    for name in _names(by_seed):
        values = _values(by_seed, name)
        lines.append([name, *(_number(name, value) for value in (*mean_and_interval(values), *values))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    )


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _of_seeds(by_seed: dict[int, Measures]) -> dict:
    """``seeds_table`` for a program; what is not known is null."""
    intervals = {name: mean_and_interval(_values(by_seed, name)) for name in _names(by_seed)}
    return {
        "seeds": {
            str(seed): {name: _or_null(value) for name, value in measures.items()} for seed, measures in by_seed.items()
        },
        "mean": {name: _or_null(mean) for name, (mean, _) in intervals.items()},
        "interval_95": {name: _or_null(half) for name, (_, half) in intervals.items()},
    }


def _arguments(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="How good a run is: detection, culprit, cost.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tables", type=Path, metavar="DIR", help="the output of a run, with --truth")
    source.add_argument("--seeds", type=int, nargs="+", metavar="N", help="worlds to simulate and run")
    parser.add_argument("--truth", type=Path, metavar="DIR", help="the truth/ of the run's input")
    parser.add_argument(
        "--weak-labels",
        action="store_true",
        help="truth/ knows injections only: labels.parquet, faults.parquet",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave every seed's input and output here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures there, too")
    for option in SIMULATOR_OPTIONS:
        parser.add_argument(option, metavar="X", help="the simulator's, with --seeds")
    arguments = parser.parse_args(argv)
    if arguments.tables and not arguments.truth:
        parser.error("--tables needs --truth")
    if arguments.seeds and len(set(arguments.seeds)) < len(arguments.seeds):
        parser.error(f"--seeds {arguments.seeds}: each must be given once")
    return arguments


def _run_seeds(arguments: argparse.Namespace) -> dict[int, Measures]:
    options = []
    for option in SIMULATOR_OPTIONS:
        value = getattr(arguments, option.removeprefix("--").replace("-", "_"))
        if value is not None:
            options += [option, value]

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    by_seed = {}
    for seed in arguments.seeds:
        # One world at a time on the disk, unless they are to be kept.
        place = nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory()
        with place as directory:
            by_seed[seed] = run_seed(seed, Path(directory) / f"seed-{seed}", options, say)
    return by_seed


def main(argv: Sequence[str] | None = None, prog: str = "python -m simulator.evaluation.job") -> int:
    """Evaluate what ``argv`` asks for; the exit status."""
    arguments = _arguments(argv, prog)
    try:
        if arguments.seeds:
            by_seed = _run_seeds(arguments)
            text, result = seeds_table(by_seed), _of_seeds(by_seed)
        else:
            judge = evaluate_weak if arguments.weak_labels else evaluate
            measures = judge(arguments.tables, arguments.truth, arguments.truth.parent / "billing")
            text, result = (
                table(measures),
                {name: _or_null(value) for name, value in measures.items()},
            )
    except (RunError, OSError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 1
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
