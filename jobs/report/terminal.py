"""The ranked anomaly-cost table as plain text, for the end of a run."""

from __future__ import annotations

import shutil
import textwrap
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from jobs.report import format as fmt
from jobs.report.tables import Summary, Tables
from udfs.pure.rank import BILLED_EXCESS

NARROWEST, WIDEST = 80, 160
# Where no terminal says how wide it is: a log, a pipe.
DEFAULT_WIDTH = 100
# More reasons than this are a list to be looked up, not read.
MOST_REASONS = 5


@dataclass
class _Column:
    """One column: its cells as text; ``least`` is how far it may be cut, None: never (numbers)."""

    title: str
    cells: list[str]
    right: bool = True
    least: int | None = None
    width: int = 0

    def __post_init__(self) -> None:
        self.width = max(map(_text_width, [self.title, *self.cells]))


def _text_width(text: str) -> int:
    """Terminal cells that ``text`` takes: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, width: int) -> str:
    """``text`` in ``width`` cells, an ellipsis in place of what is left out."""
    if _text_width(text) <= width:
        return text
    while text and _text_width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _pad(text: str, column: _Column) -> str:
    text = _cut(text, column.width)
    gap = " " * (column.width - _text_width(text))
    return gap + text if column.right else text + gap


def _fit(columns: list[_Column], width: int) -> str:
    """Narrow the columns that may be cut, the widest first, until a line fits; their separator."""
    separator = "  "
    for separator in ("  ", " "):
        room = width - len(separator) * (len(columns) - 1)
        if sum(column.width for column in columns) <= room:
            return separator
    while sum(column.width for column in columns) > room:
        cuttable = [column for column in columns if column.least and column.width > column.least]
        if not cuttable:
            break
        max(cuttable, key=lambda column: column.width).width -= 1
    return separator


def _columns(rows: list[dict], order: str) -> list[_Column]:
    currencies = {row["billing_currency"] for row in rows}
    money_places = fmt.places(row["attributed_cost"] for row in rows)
    score_places = fmt.places(row["cost_weighted_score"] for row in rows)
    excess = "billed_excess_cost" if order == BILLED_EXCESS else "excess_cost"
    excess_places = fmt.places(row[excess] or 0 for row in rows)

    def cost(row: dict) -> str:
        text = fmt.fixed(row["attributed_cost"], money_places)
        return text if len(currencies) == 1 else f"{text} {fmt.clean(row['billing_currency'])}"

    def column(title: str, cell, **style) -> _Column:
        return _Column(title, [cell(row) for row in rows], **style)

    return [
        column("#", lambda row: str(row["place"])),
        column("in W", lambda row: str(row["rank"])),
        column("window", lambda row: fmt.utc(row["window_start_ms"], "%m-%d %H:%M"), right=False),
        column("culprit", lambda row: fmt.clean(row["otel_service_name"]), right=False, least=12),
        column("kind", lambda row: fmt.kind(row["anomaly_kind"]), right=False, least=8),
        column(
            "on the bill" if order == BILLED_EXCESS else "excess", lambda row: fmt.fixed(row[excess], excess_places)
        ),
        column("S", lambda row: fmt.fixed(row["cost_weighted_score"], score_places)),
        column("c_s" if len(currencies) > 1 else f"c_s {fmt.clean(*currencies)}", cost),
        column("traces", lambda row: f"{row['anomalous_traces']:,}/{row['total_traces']:,}"),
        column("status", lambda row: fmt.clean(row["cost_status"]), right=False, least=6),
    ]


def _summary(summary: Summary) -> list[str]:
    warming = f", {summary.warming_traces:,} seen while warming up" if summary.warming_traces else ""
    lines = [
        f"{fmt.counted(summary.traces, 'trace')}, {summary.anomalous_traces:,} anomalous"
        f" ({fmt.percent(summary.anomalous_share)}){warming}; {fmt.counted(summary.spans, 'span')}",
    ]
    for money in summary.money:
        lines.append(
            f"{fmt.clean(money.currency)} {fmt.exact(money.charged)} charged"
            f" = {fmt.exact(money.allocated)} allocated + {fmt.exact(money.idle)} idle"
            f" + {fmt.exact(money.unallocated)} unallocated" + (f"; {fmt.exact(money.leak)} LOST" if money.leak else "")
        )
        if money.provisional:
            lines.append(f"  {fmt.exact(money.provisional)} of it is provisional: its bill has yet to come")
    if not summary.rejected:
        return [*lines, "no record rejected"]
    rejected = sum(records for *_, records in summary.rejected)
    lines.append(f"{fmt.counted(rejected, 'record')} rejected")
    for stream, reason, records in summary.rejected[:MOST_REASONS]:
        lines.append(f"  {records:,} of {fmt.clean(stream)}: {fmt.clean(reason)}")
    more = len(summary.rejected) - MOST_REASONS
    return [*lines, f"  and {more:,} more reasons in rejected_records"] if more > 0 else lines


def ranked_table(output_dir: Path, limit: int = 15, width: int | None = None) -> str:
    """The ``limit`` highest rows of ranked_anomalies of each currency, by the run's ``rank.by``, and the run in a few
    lines below them.

    ``width`` is in characters, the terminal's where None, and held to NARROWEST..WIDEST: names are
    cut to fit, numbers never. ``#`` is the row's place among those of its currency in the run, ``in W``
    the rank in its own window, c_s its attributed cost, ``traces`` the anomalous ones of all that touch
    the service in the window.

    Raises:
        JobError: a table is missing or cannot be read.
    """
    if width is None:
        width = shutil.get_terminal_size((DEFAULT_WIDTH, 0)).columns
    width = min(max(width, NARROWEST), WIDEST)
    with Tables(output_dir) as tables:
        summary, rows, order = tables.summary(), tables.ranked(limit), tables.ranked_by
    if summary.start_ms is None:
        heading = "No cost and no anomaly"
    else:
        apart = ", each currency by itself" if len({row["billing_currency"] for row in rows}) > 1 else ""
        heading = (
            f"Anomalies by {fmt.ORDERS[order]}{apart}, {len(rows):,} of {summary.ranked:,},"
            f" {fmt.utc(summary.start_ms)} to {fmt.utc(summary.end_ms)} UTC"
        )
    lines = textwrap.wrap(heading, width)
    if rows:
        columns = _columns(rows, order)
        separator = _fit(columns, width)
        table = [
            separator.join(_pad(text, column) for text, column in zip(line, columns, strict=True)).rstrip()
            for line in zip(*([column.title, *column.cells] for column in columns), strict=True)
        ]
        rule = separator.join("─" * column.width for column in columns)
        lines += ["", table[0], rule, *table[1:], ""]
    for line in _summary(summary):
        lines += textwrap.wrap(line, width, subsequent_indent="    ") or [""]
    return "\n".join(lines)
