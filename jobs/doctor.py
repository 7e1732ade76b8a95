"""What of the bill met telemetry, what did not, and what may belong together: where allocation is lost, and why.

    python -m jobs.doctor --input DIR [--bill URL] [--aliases FILE] [--trust ORDER] [--cost-column EffectiveCost]
        [--top 20]

Reads an input directory (docs/interface.md, section 1) without the engine, as the job reads it, and writes a report in
plain text. Exit status: 0 = all that telemetry saw being used is in the bill; 3 = some of it is not; 2 for wrong use
and 1 for what failed, with one line each.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from jobs import billing
from jobs.arguments import Parser
from jobs.errors import JobError, UsageError, ended
from jobs.report import format as fmt
from jobs.telemetry import requests
from udfs.pure.bills import collect
from udfs.pure.dimensions import DIMENSIONS
from udfs.pure.focus import COST_COLUMNS
from udfs.pure.matching import (
    FATES,
    Billed,
    Matcher,
    Telemetry,
    better_first,
    fate,
    read_bill,
    read_telemetry,
    trusts,
    unmet_bill,
    unmet_telemetry,
)
from udfs.pure.price import to_decimal
from udfs.pure.resources import SHARED_BY_ALL, Alias, kind, load_aliases, read_trust
from udfs.pure.windows import HOUR_MS, NO_RESOURCE

UNMET_USAGE = 3

# Usage as a bill counts it: how much of a dimension's unit, and its name.
_HOUR_S = HOUR_MS // 1000
_COUNTED_IN = {
    "cpu": (_HOUR_S, "core-hours"),
    "memory": (_HOUR_S << 30, "GiB-hours"),
    "io": (1, "operations"),
    "network": (10**9, "GB"),
    "gpu": (_HOUR_S, "GPU-hours"),
}


def diagnose(
    directory: Path,
    aliases: Sequence[Alias],
    cost_column: str,
    top: int,
    bill: str | None = None,
    trust: Sequence[str] = (),
) -> tuple[list[str], int]:
    """(lines of the report, exit status). bill: where the bill lies, None = in the directory.

    Raises:
        UsageError: there is no bill. JobError: one can't be read.
    """
    charges, rejected = _charges(bill or directory / billing.FOLDER, cost_column)
    billed = read_bill(charges)
    telemetry = read_telemetry(requests(directory, "metrics"), requests(directory, "traces"), aliases, trust)
    matcher = Matcher(billed, telemetry)
    unbilled = unmet_telemetry(billed, telemetry)
    suggested: dict[Alias, None] = {}  # in the order of the report, each once
    report = [
        *_totals(billed, telemetry, rejected, len(unbilled)),
        *_of_trust(billed, telemetry),
        *_of_bill(billed, telemetry, matcher, top),
        *_of_telemetry(telemetry, unbilled, matcher, top, suggested),
        *_aliases(suggested),
    ]
    return report, UNMET_USAGE if unbilled else 0


def _charges(bill: Path | str, cost_column: str) -> tuple[list[dict], int]:
    """The accepted charges of a bill's current deliveries, and how many rows were rejected."""
    deliveries = billing.find(bill, cost_column, "doctor").deliveries
    if not deliveries:
        raise UsageError(f"no bill in {bill} (.csv, .csv.gz, .parquet)")
    charges: list[dict] = []
    rejected = 0
    for delivery in deliveries:
        for _, _, value in collect(delivery, cost_column):
            if isinstance(value, dict):
                charges.append(value)
            else:
                rejected += 1
    return charges, rejected


def _totals(billed: Billed, telemetry: Telemetry, rejected: int, unbilled: int) -> Iterator[str]:
    by_fate: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(FATES, 0))
    for (resource_id, dimension, currency), units in billed.costs.items():
        by_fate[currency][fate(resource_id, dimension, telemetry)] += units
    resources = billed.spellings.keys() - {NO_RESOURCE}
    yield (
        f"Bill: {fmt.counted(billed.charges, 'charge')} of {fmt.counted(len(resources), 'resource')}"
        + (f", {fmt.counted(rejected, 'row')} rejected" if rejected else "")
    )
    for currency, costs in sorted(by_fate.items()):
        total = sum(costs.values())
        rows = [
            ["", fmt.exact(to_decimal(units)), currency, _share(units, total), name] for name, units in costs.items()
        ]
        yield from _table([*rows, ["", fmt.exact(to_decimal(total)), currency, "", "in all"]], right=(1, 3))
    used = len(telemetry.usage)
    yield f"Telemetry: {fmt.counted(used, 'resource')} in use, of which {unbilled:,} met no charge"


def _of_trust(billed: Billed, telemetry: Telemetry) -> Iterator[str]:
    found = trusts(billed, telemetry)
    if not found:
        return
    yield ""
    yield "Ids that telemetry sends of what is in use, in the order of trust, and what of them the bill has"
    cells = [["id", "sent by", "in the bill", "cost"]]
    for trust in found:
        costs = ", ".join(
            f"{fmt.exact(to_decimal(units))} {currency}" for currency, units in sorted(trust.costs.items())
        )
        cells.append([trust.attribute, f"{trust.sent:,}", f"{trust.billed:,}", costs])
    yield from _table(cells, right=(1, 2))
    if first := better_first(billed, telemetry):
        yield f"  More would meet by --set resources.trust={first}"


def _share(units: int, total: int) -> str:
    return f"{Decimal(units) / Decimal(total):.1%}" if total > 0 else "–"


def _of_bill(billed: Billed, telemetry: Telemetry, matcher: Matcher, top: int) -> Iterator[str]:
    rows = unmet_bill(billed, telemetry)
    if not rows:
        return
    yield ""
    yield "Of the bill, what met no telemetry, the dearest first"
    decimals = fmt.places(to_decimal(units) for _, _, units in rows)
    cells, notes = [["cost", "", "kind", "ResourceId"]], [""]
    for resource_id, currency, units in rows[:top]:
        what = kind(resource_id) or min(billed.services[resource_id], default="")
        spelling = min(billed.spellings[resource_id])
        cells.append([fmt.fixed(to_decimal(units), decimals), currency, what, spelling])
        match = matcher.of_billed(resource_id)
        notes.append(f"likeliest: telemetry's {match.observed_id} ({match.reason})" if match else "")
    yield from _table(cells, right=(0,), notes=notes)
    yield from _more(len(rows), top)
    shared = Counter(kind(resource_id) for resource_id, _, _ in rows if kind(resource_id) in SHARED_BY_ALL)
    if shared:
        counts = ", ".join(f"{number} {what}" for what, number in sorted(shared.items()))
        yield f"  Shared by all workloads, and so allocated to none: {counts}"


def _of_telemetry(
    telemetry: Telemetry, unbilled: list[str], matcher: Matcher, top: int, suggested: dict[Alias, None]
) -> Iterator[str]:
    if not unbilled:
        return
    yield ""
    yield "Of the telemetry, what met no charge, the most used first"
    cells, notes = [["usage", "pods", "resource"]], [""]
    for resource_id in unbilled[:top]:
        named = resource_id or "(none is named: send cloud.resource_id, host.id or k8s.node.name)"
        cells.append([_usage(telemetry.usage[resource_id]), f"{len(telemetry.pods[resource_id]):,}", named])
        match = matcher.of_observed(resource_id) if resource_id else None
        if match and match.alias:
            suggested[match.alias] = None
        notes.append(f"likeliest: the bill's {match.billed_id} ({match.reason})" if match else "")
    yield from _table(cells, right=(1,), notes=notes)
    yield from _more(len(unbilled), top)


def _usage(used: dict[str, float]) -> str:
    parts = []
    for name, dimension in DIMENSIONS.items():
        if used.get(name):
            per, unit = _COUNTED_IN.get(name, (1, dimension.usage))
            parts.append(f"{fmt.significant(used[name] / per, 3)} {unit}")
    return ", ".join(parts) or "none"


def _aliases(suggested: Iterable[Alias]) -> Iterator[str]:
    lines = [f"  {alias.billed_id},{alias.observed_id},{alias.attribute}" for alias in suggested]
    if not lines:
        return
    yield ""
    yield "Lines for a file of aliases (--set resources.aliases=FILE), to be looked at first"
    yield "  billed_id,observed_id,attribute"
    yield from lines


def _more(rows: int, top: int) -> Iterator[str]:
    if rows > top:
        yield f"  ... and {rows - top:,} more: --top {rows}"


def _table(rows: list[list[str]], right: Sequence[int] = (), notes: Sequence[str] = ()) -> Iterator[str]:
    """Cells in columns, as wide as their longest; below each row its note, if it has one."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()
        if notes and notes[number]:
            yield f"      {notes[number]}"


def _arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog=prog, description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--input", required=True, type=Path, metavar="DIR", help="directory with billing/, metrics/ and traces/")
    add("--bill", metavar="URL", help="what the job is told by --set billing.from=URL")
    add("--aliases", type=Path, metavar="FILE", help="what the job is told by --set resources.aliases=FILE")
    add("--trust", default="", metavar="ORDER", help="what the job is told by --set resources.trust=ORDER")
    add("--cost-column", choices=COST_COLUMNS, default="EffectiveCost", help="FOCUS column that is attributed")
    add("--top", type=int, default=20, metavar="N", help="how many rows of each list")
    arguments = parser.parse_args(argv)
    if not arguments.input.is_dir():
        raise UsageError(f"--input {arguments.input}: no such directory")
    if arguments.top < 1:
        raise UsageError(f"--top {arguments.top}: must be a whole number from 1")
    return arguments


def main(argv: Sequence[str], prog: str = "python -m jobs.doctor") -> int:
    """Exit status: see the module."""
    try:
        arguments = _arguments(argv, prog)
        try:
            aliases = load_aliases(arguments.aliases) if arguments.aliases else ()
        except ValueError as error:
            raise UsageError(f"--aliases: {error}") from None
        try:
            trust = read_trust(arguments.trust)
        except ValueError as error:
            raise UsageError(f"--trust: {error}") from None
        report, status = diagnose(arguments.input, aliases, arguments.cost_column, arguments.top, arguments.bill, trust)
    except (UsageError, JobError, OSError) as error:
        return ended("doctor", error)
    print("\n".join(report))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
