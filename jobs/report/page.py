"""The HTML report of a run: one file, no request to anywhere, small however large the run.

    python -m jobs.report --tables DIR|postgresql://… [--input DIR] [--since TIME] [--watch S] --html FILE

Every value from the tables goes through ``text``: names, reasons and ids come from outside. The
page forbids itself, by its content security policy, every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from string import Template
from typing import Any

from jobs.arguments import Parser, moment
from jobs.errors import JobError, UsageError, ended
from jobs.postgres import FORM
from jobs.report import format as fmt
from jobs.report.chart import Series, cost_chart, series_of, step_for
from jobs.report.html import (
    NUMBER,
    definitions,
    money,
    name,
    number,
    row_head,
    scrollable,
    section,
    table,
    tag,
    td,
    text,
)
from jobs.report.incidents import incident_rows
from jobs.report.tables import Excess, Money, Summary, Tables

TEMPLATE = Path(__file__).with_name("template.html")

# What a person scrolls through; the rest is in the tables.
MOST_INCIDENTS = 500
MOST_REASONS = 50
MOST_CURRENCIES = 4

CONTROLS = (
    '<div class="controls" hidden><label>Filter <input type="search" placeholder="service, kind, open"></label>'
    '<label>Order <select><option value="place">the most costly first</option>'
    '<option value="opened">the newest first</option><option value="month">by a month of it</option></select></label>'
    '<button type="button" data-open>Open all</button><span class="soft" data-shown role="status"></span></div>'
)
HEADS = (
    '<div class="heads" aria-hidden="true"><span class="place">#</span><span class="what">Culprit and kind</span>'
    '<span class="cost">Excess cost</span><span class="month">If it recurs</span>'
    '<span class="when">When, UTC</span></div>'
)


def _share(part: float | Decimal, whole: float | Decimal) -> float | None:
    return float(part) / float(whole) if whole else None


def _headline(excess: Excess) -> str:
    """What the incidents of one currency cost, how settled that is, and which go on."""
    currency = excess.currency
    whole = excess.excess or Decimal()
    share = fmt.percent(_share(excess.on_the_bill or 0, whole))
    figures = [
        ("Excess cost", money(excess.excess, currency), fmt.counted(excess.incidents, "incident")),
        ("Projected a month", money(excess.monthly, currency), "each culprit's latest, if it recurs"),
        ("On the bill", money(excess.on_the_bill, currency), f"{share} of the excess"),
        ("Billed", money(whole - excess.provisional, currency), "its windows' bill is there"),
        ("Provisional", money(excess.provisional, currency), "may change with the bill"),
        ("Open incidents", f"{excess.open:,}", f"{money(excess.per_hour or Decimal(), currency)} an hour"),
    ]
    if excess.silenced:
        more = f"{money(excess.silenced_excess, currency)}, in no other figure"
        figures.append(("Silenced", f"{excess.silenced:,}", more))
    pairs = ((title, f"{value}<small>{note}</small>") for title, value, note in figures)
    return definitions(pairs, "figures headline", f"Headline figures in {text(currency)}")


def _figures(summary: Summary) -> str:
    """What the run read and what of the bill it allocated."""
    figures = []
    for one in summary.money[:MOST_CURRENCIES]:
        figures.append(("Charged", money(one.charged, one.currency), "by the bill"))
        for part in ("allocated", "idle", "unallocated"):
            amount = getattr(one, part)
            share = fmt.percent(_share(amount, one.charged))
            figures.append((part.capitalize(), money(amount, one.currency), share))
    rejected = sum(records for *_, records in summary.rejected)
    figures += [
        ("Traces", f"{summary.traces:,}", fmt.counted(summary.spans, "span")),
        ("Anomalous", f"{summary.anomalous_traces:,}", fmt.percent(summary.anomalous_share)),
        ("Rejected records", f"{rejected:,}", fmt.counted(len(summary.rejected), "reason")),
    ]
    pairs = ((title, f"{value}<small>{note}</small>") for title, value, note in figures)
    return definitions(pairs, "figures", "The run in figures")


def _step_in_words(step_ms: int) -> str:
    minutes = step_ms // 60_000
    return f"{minutes} minutes" if minutes < 60 else f"{minutes // 60} h"


def _cost_section(tables: Tables, summary: Summary, bill: Money, key: str) -> str:
    """Cost over time in one currency: chart, legend with totals, and the account's balance."""
    currency = text(bill.currency)
    # A currency has charges or anomalies, so the time is known.
    start_ms, end_ms = summary.start_ms or 0, summary.end_ms or 0
    step_ms = step_for(start_ms, end_ms)
    series = series_of(tables.costs_over_time(bill.currency, step_ms))
    excess = tables.excess_over_time(bill.currency, step_ms)
    chart = cost_chart(series, excess, start_ms, end_ms, step_ms, bill.currency)
    decimal_places = fmt.places([bill.charged]) + 2

    def line(one: Series) -> str:
        swatch = (
            '<svg class="swatch" viewBox="0 0 11 11" aria-hidden="true">'
            f'<rect class="{one.css_class}" width="11" height="11"/></svg>'
        )
        return (
            row_head(swatch + name(one.name), "name", title=one.name)
            + number(fmt.fixed(one.total, decimal_places))
            + number(fmt.percent(_share(one.total, bill.charged)))
        )

    half = math.ceil(len(series) / 2)
    columns = (("Service", ""), (currency, NUMBER), ("Share", NUMBER))
    legends = "".join(table(columns, map(line, part)) for part in (series[:half], series[half:]))
    balance = "equal to the last decimal"
    if bill.leak:
        balance = tag(f"{fmt.exact(bill.leak)} is missing", "bad")
    account = (
        f"Charged {fmt.exact(bill.charged)} {currency} = allocated {fmt.exact(bill.allocated)}"
        f" + idle {fmt.exact(bill.idle)} + unallocated {fmt.exact(bill.unallocated)}: {balance}."
    )
    return section(
        key,
        f"Cost by service over time, {currency}",
        f'{scrollable("The chart", chart)}<div class="columns">{legends}</div><p class="soft">{account}</p>',
        f"A bar is {_step_in_words(step_ms)}; point at it for its figures.",
    )


def _open_section(summary: Summary) -> str:
    """What may still change, or is not known yet."""
    parts = [
        f"{fmt.exact(one.provisional)} of {fmt.exact(one.charged)} {text(one.currency)}"
        for one in summary.money
        if one.provisional
    ]
    lines = ["Nothing is provisional: the bill is there for every window."] if summary.money else []
    if parts or summary.provisional_ranked:
        lines = [
            f"{', '.join(parts) or 'No cost'} and {summary.provisional_ranked:,} of"
            f" {summary.ranked:,} windows of incidents are provisional: the bill for them has not"
            " come, or its provider says that it is not complete. Where it has not come they rest on the"
            " latest known unit rates, where there are any. They are restated under the same key."
        ]
    if summary.warming_traces:
        lines.append(
            f"{summary.warming_traces:,} traces came while the detector had seen too little to"
            " judge by (verdict_state warming)."
        )
    if summary.charge_anomalies:
        charges = fmt.counted(summary.charge_anomalies, "charge")
        lines.append(f"Irregular by the bill alone: {charges}, see the table charge_anomalies.")
    if summary.stray:
        rows = fmt.counted(summary.stray, "row")
        lines.append(
            f"Of no incident: {rows} of ranked_anomalies, of a release that followed none; no figure has them."
        )
    return section("open", "What may still change", "".join(f"<p>{line}</p>" for line in lines))


def _rejected_section(summary: Summary) -> str:
    if not summary.rejected:
        return section("rejected", "Rejected records", "<p>Every input record was used.</p>")
    rows = (
        td(text(stream)) + row_head(text(reason), "wrap") + number(f"{records:,}")
        for stream, reason, records in summary.rejected[:MOST_REASONS]
    )
    more = len(summary.rejected) - MOST_REASONS
    note = f"{more:,} more reasons are in the table rejected_records." if more > 0 else ""
    columns = (("Stream", ""), ("Reason", ""), ("Records", NUMBER))
    content = scrollable("Rejected records by reason", table(columns, rows))
    return section("rejected", "Rejected records", content, note)


def _incident_section(rows: Sequence[dict], lines: Sequence[str], order: str, key: str, currency: str) -> str:
    """The incidents of one currency; ``currency`` is for the title, "" where the run has but one."""
    total = rows[0]["of_currency"]
    note = f"By {fmt.ORDERS[order]}, the most first. Each opens to what happened and how its cost comes about."
    if total > len(rows):
        note = (
            f"The {len(rows):,} first of {total:,} by {fmt.ORDERS[order]}: with more the page would be slow to open."
            " All of them are in the table incidents."
        )
    body = f'{HEADS}<div class="incidents">{"".join(lines)}</div>'
    return section(key, f"Incidents{currency}", body, note, CONTROLS)


def _sections(tables: Tables, input_dir: Path | None, summary: Summary) -> Iterator[str]:
    order = tables.ranked_by
    by_currency = [list(rows) for _, rows in groupby(tables.incidents(MOST_INCIDENTS), itemgetter("billing_currency"))][
        :MOST_CURRENCIES
    ]
    # Of several currencies each gets its part of the page.
    shown = [rows[: MOST_INCIDENTS // len(by_currency)] for rows in by_currency]
    if not shown:
        yield section("incidents", "Incidents", "<p>No window holds an anomaly.</p>")
    lines = incident_rows(tables, input_dir, [row for rows in shown for row in rows])
    for i, rows in enumerate(shown):
        currency = f", {text(rows[0]['billing_currency'])}" if len(shown) > 1 else ""
        yield _incident_section(rows, list(islice(lines, len(rows))), order, f"incidents-{i}", currency)
    yield _figures(summary)
    for i, bill in enumerate(summary.money[:MOST_CURRENCIES]):
        yield _cost_section(tables, summary, bill, f"cost-{i}")
    yield _open_section(summary)
    yield _rejected_section(summary)


def _script_hash(template: str) -> str:
    """The template's only script, as a content security policy names it."""
    script = template.partition("<script>")[2].partition("</script>")[0]
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def write_report(
    tables: Path | str,
    input_dir: Path | None,
    target: Path,
    since: datetime | None = None,
    refresh_s: int | None = None,
) -> None:
    """Write the report on ``tables``, a directory or a ``postgresql://`` URL, to ``target``; the same from both.

    ``input_dir`` is where the run read from, for the spans of exemplary traces; with None the report says that they
    are left out. ``since``: of what came later only. ``refresh_s``: so often a browser reads the file again. The page
    stays below 10 MB, however many incidents there are.

    Raises:
        UsageError: ``tables`` is no URL of a database.
        JobError: a table is missing or cannot be read.
        OSError: ``target`` cannot be written, or a file of ``input_dir`` not read.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    with Tables(tables, since) as opened:
        summary = opened.summary()
        later = f" since {fmt.utc(int(since.timestamp() * 1000))} UTC" if since else ""
        subtitle = f"No cost and no anomaly in this run{later}"
        if summary.start_ms is not None:
            subtitle = (
                f"{fmt.utc(summary.start_ms)} to {fmt.utc(summary.end_ms)} UTC,"
                f" {summary.windows:,} windows of 30 minutes"
            )
            subtitle += f"; what was before {later.removeprefix(' since ')} is left out" if later else ""
        page = Template(template).substitute(
            script_hash=_script_hash(template),
            refresh="" if refresh_s is None else f'<meta http-equiv="refresh" content="{refresh_s}">',
            subtitle=subtitle,
            headline="".join(map(_headline, opened.excess()[:MOST_CURRENCIES])),
            sections="\n".join(_sections(opened, input_dir, summary)),
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    written = target.with_name(f".{target.name}")
    try:
        written.write_text(page, encoding="utf-8")
        written.replace(target)
    finally:
        written.unlink(missing_ok=True)


def _write_again(*report: Any) -> None:
    """What fails leaves the last page, and a line: a database may be away for a while."""
    try:
        write_report(*report)
    except (JobError, OSError) as error:
        print(f"report: {error}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None, prog: str = "python -m jobs.report") -> int:
    """Exit status: 0; 2 for wrong use, 1 for what failed; the last two with one line."""
    parser = Parser(prog=prog, description="The HTML report of a run.")
    parser.add_argument(
        "--tables", required=True, metavar="DIR|URL", help=f"the job's output, a directory or {FORM} (PGPASSWORD)"
    )
    parser.add_argument("--input", type=Path, metavar="DIR", help="the job's input, for the exemplary traces")
    parser.add_argument("--since", metavar="TIME", help="of what came later only, as 2025-03-03T00:00Z")
    parser.add_argument("--watch", type=int, metavar="S", help="write it again every S seconds, until it is stopped")
    parser.add_argument("--html", type=Path, required=True, metavar="FILE", help="what to write")
    try:
        arguments = parser.parse_args(argv)
        since = moment(arguments.since, f"--since {arguments.since}") if arguments.since else None
        if arguments.watch is not None and arguments.watch < 1:
            raise UsageError(f"--watch {arguments.watch}: must be a second or more")
        if arguments.input and not arguments.input.is_dir():
            raise UsageError(f"--input {arguments.input}: no such directory")
        write_report(arguments.tables, arguments.input, arguments.html, since, arguments.watch)
        print(arguments.html, flush=True)
        while arguments.watch is not None:
            time.sleep(arguments.watch)
            _write_again(arguments.tables, arguments.input, arguments.html, since, arguments.watch)
    except KeyboardInterrupt:
        return 130
    except (UsageError, JobError, OSError) as error:
        return ended("report", error)
    return 0
