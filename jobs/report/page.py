"""The HTML report of a run: one file, no request to anywhere, small however large the run.

    python -m jobs.report --tables DIR [--input DIR] --html FILE

Every value from the tables goes through ``text``: names, reasons and ids come from outside. The
page forbids itself, by its content security policy, every script but its own.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from string import Template

from jobs.errors import JobError
from jobs.report import format as fmt
from jobs.report.chart import Series, cost_chart, series_of, step_for
from jobs.report.html import (
    NUMBER,
    cost_status,
    definitions,
    number,
    row_head,
    scrollable,
    section,
    table,
    tag,
    td,
    text,
)
from jobs.report.tables import Money, Summary, Tables
from jobs.report.top import top_section
from udfs.pure.rank import BILLED_EXCESS, EXCESS, EXCESS_SCORE, SCORE

TEMPLATE = Path(__file__).with_name("template.html")

# What a person scrolls through; the rest is in the Parquet tables.
MOST_RANKED = 200
MOST_REASONS = 50
MOST_CURRENCIES = 4

RANKED_COLUMNS = (
    ("#", NUMBER),
    ("Window, UTC", ""),
    ("Rank in W", NUMBER),
    ("Culprit", ""),
    ("Kind", ""),
    ("Excess cost", NUMBER),
    ("On the bill", NUMBER),
    ("S", NUMBER),
    ("α", NUMBER),
    ("c_s", NUMBER),
    ("Anomalous traces", NUMBER),
    ("Cost status", ""),
)
# The column that shows what the rows are ordered by, if one does.
SORTED_BY = {EXCESS: "Excess cost", EXCESS_SCORE: "", BILLED_EXCESS: "On the bill", SCORE: "S"}
FILTER = (
    '<span class="soft" data-shown role="status"></span><label>Filter'
    '<input type="search" placeholder="service, kind, window"></label>'
)


def _share(part: float | Decimal, whole: float | Decimal) -> float | None:
    return float(part) / float(whole) if whole else None


def _figures(summary: Summary) -> str:
    figures = []
    for money in summary.money[:MOST_CURRENCIES]:
        decimal_places = fmt.places([money.charged])
        charged = fmt.fixed(money.charged, decimal_places)
        figures.append(("Charged", charged, text(money.currency)))
        for name in ("allocated", "idle", "unallocated"):
            part = getattr(money, name)
            share = fmt.percent(_share(part, money.charged))
            figures.append((name.capitalize(), fmt.fixed(part, decimal_places), share))
    rejected = sum(records for *_, records in summary.rejected)
    figures += [
        ("Traces", f"{summary.traces:,}", f"{summary.spans:,} spans"),
        ("Anomalous", f"{summary.anomalous_traces:,}", fmt.percent(summary.anomalous_share)),
        ("Ranked anomalies", f"{summary.ranked:,}", f"{summary.windows:,} windows"),
        ("Rejected records", f"{rejected:,}", f"{len(summary.rejected):,} reasons"),
    ]
    pairs = ((name, f"{value}<small>{note}</small>") for name, value, note in figures)
    return definitions(pairs, "figures", "Headline figures")


def _ranked_section(rows: Sequence[dict], order: str, key: str, currency: str) -> str:
    """The ranked rows of one currency; ``currency`` is for the titles, "" where the run has but one."""
    title = f"Ranked anomalies{currency}"
    total = rows[0]["of_currency"]
    money_places = fmt.places(row["attributed_cost"] for row in rows)
    score_places = fmt.places(row["cost_weighted_score"] for row in rows)
    excess_places = fmt.places(row["excess_cost"] or 0 for row in rows)
    highest = max(row["excess_cost"] or 0 for row in rows)

    def line(row: dict) -> str:
        culprit, score, cost, excess = (
            row["otel_service_name"],
            row["cost_weighted_score"],
            row["attributed_cost"],
            row["excess_cost"],
        )
        filled = 100 * max(float((excess or 0) / highest), 0.0) if highest > 0 else 0.0
        meter = f'<span class="meter" aria-hidden="true"><i style="width:{filled:.1f}%"></i></span>'
        share = fmt.percent(_share(row["anomalous_traces"], row["total_traces"]))
        traces = f"{row['anomalous_traces']:,} of {row['total_traces']:,}"
        return (
            number(str(row["place"]))
            + td(fmt.utc(row["window_start_ms"]), sort_by=row["window_start_ms"])
            + number(str(row["rank"]))
            + row_head(text(culprit), "name", title=culprit)
            + td(text(fmt.kind(row["anomaly_kind"])))
            + number(meter + fmt.fixed(excess, excess_places), excess or 0)
            + number(fmt.fixed(row["billed_excess_cost"], excess_places), row["billed_excess_cost"] or 0)
            + number(fmt.fixed(score, score_places), score)
            + number(fmt.fixed(row["anomaly_score"], 2), row["anomaly_score"])
            + number(f"{fmt.fixed(cost, money_places)} {text(row['billing_currency'])}", cost)
            + number(f'{traces} <span class="soft">{share}</span>', row["anomalous_traces"])
            + td(cost_status(row["cost_status"]))
        )

    note = f"By {fmt.ORDERS[order]}, the most first: deal with these from the top."
    if total > len(rows):
        note = (
            f"The {len(rows):,} highest of {total:,} rows by {fmt.ORDERS[order]}; all of them are in"
            " ranked_anomalies.parquet."
        )
    content = table(RANKED_COLUMNS, map(line, rows), sorted_by=SORTED_BY[order])
    return section(key, title, scrollable(title, content, "scroll"), note, FILTER)


def _step_in_words(step_ms: int) -> str:
    minutes = step_ms // 60_000
    return f"{minutes} minutes" if minutes < 60 else f"{minutes // 60} h"


def _cost_section(tables: Tables, summary: Summary, money: Money, key: str) -> str:
    """Cost over time in one currency: chart, legend with totals, and the account's balance."""
    currency = text(money.currency)
    # A currency has charges or anomalies, so the time is known.
    start_ms, end_ms = summary.start_ms or 0, summary.end_ms or 0
    step_ms = step_for(start_ms, end_ms)
    series = series_of(tables.costs_over_time(money.currency, step_ms))
    scores = tables.scores_over_time(money.currency, step_ms)
    chart = cost_chart(series, scores, start_ms, end_ms, step_ms, money.currency)
    decimal_places = fmt.places([money.charged]) + 2

    def line(one: Series) -> str:
        swatch = (
            '<svg class="swatch" viewBox="0 0 11 11" aria-hidden="true">'
            f'<rect class="{one.css_class}" width="11" height="11"/></svg>'
        )
        return (
            row_head(swatch + text(one.name), "name", title=one.name)
            + number(fmt.fixed(one.total, decimal_places))
            + number(fmt.percent(_share(one.total, money.charged)))
        )

    half = math.ceil(len(series) / 2)
    columns = (("Service", ""), (currency, NUMBER), ("Share", NUMBER))
    legends = "".join(table(columns, map(line, part)) for part in (series[:half], series[half:]))
    balance = "equal to the last decimal"
    if money.leak:
        balance = tag(f"{fmt.exact(money.leak)} is missing", "bad")
    account = (
        f"Charged {fmt.exact(money.charged)} {currency} = allocated {fmt.exact(money.allocated)}"
        f" + idle {fmt.exact(money.idle)} + unallocated {fmt.exact(money.unallocated)}: {balance}."
    )
    return section(
        key,
        f"Cost by service over time, {currency}",
        f'{chart}<div class="columns">{legends}</div><p class="soft">{account}</p>',
        f"A bar is {_step_in_words(step_ms)}; point at it for its figures.",
    )


def _open_section(summary: Summary) -> str:
    """What may still change, or is not known yet."""
    parts = [
        f"{fmt.exact(money.provisional)} of {fmt.exact(money.charged)} {text(money.currency)}"
        for money in summary.money
        if money.provisional
    ]
    lines = ["Nothing is provisional: the bill is there for every window."]
    if parts or summary.provisional_ranked:
        lines = [
            f"{', '.join(parts) or 'No cost'} and {summary.provisional_ranked:,} of"
            f" {summary.ranked:,} ranked rows are provisional: the bill for their windows has not"
            " come, or its provider says that it is not complete. Where it has not come they rest on the"
            " latest known unit rates, where there are any. They are restated under the same key."
        ]
    if summary.warming_traces:
        lines.append(
            f"{summary.warming_traces:,} traces came while the detector had seen too little to"
            " judge by (verdict_state warming)."
        )
    if summary.charge_anomalies:
        lines.append(
            f"{summary.charge_anomalies:,} charges are irregular by the bill alone; they are in"
            " charge_anomalies.parquet."
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
    note = f"{more:,} more reasons are in rejected_records.parquet." if more > 0 else ""
    columns = (("Stream", ""), ("Reason", ""), ("Records", NUMBER))
    content = scrollable("Rejected records by reason", table(columns, rows))
    return section("rejected", "Rejected records", content, note)


def _sections(tables: Tables, input_dir: Path | None, summary: Summary) -> Iterator[str]:
    order = tables.ranked_by()
    by_currency = [list(rows) for _, rows in groupby(tables.ranked(MOST_RANKED), itemgetter("billing_currency"))]
    shown = [
        (f"-{i}", f", {text(rows[0]['billing_currency'])}" if len(by_currency) > 1 else "", rows)
        for i, rows in enumerate(by_currency[:MOST_CURRENCIES])
    ]
    if not shown:
        yield section("ranked", "Ranked anomalies", "<p>No window holds an anomaly.</p>")
    for key, currency, rows in shown:
        yield _ranked_section(rows, order, f"ranked{key}", currency)
    for i, money in enumerate(summary.money[:MOST_CURRENCIES]):
        yield _cost_section(tables, summary, money, f"cost-{i}")
    for key, currency, rows in shown:
        yield top_section(tables, input_dir, rows[0], f"top{key}", currency)
    yield _open_section(summary)
    yield _rejected_section(summary)


def _script_hash(template: str) -> str:
    """The template's only script, as a content security policy names it."""
    script = template.partition("<script>")[2].partition("</script>")[0]
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def write_report(output_dir: Path, input_dir: Path | None, target: Path) -> None:
    """Write the report on the tables of ``output_dir`` to ``target``.

    ``input_dir`` is where the run read from, for the spans of the top anomaly's exemplar trace;
    with None the report says that they are left out. Takes seconds and less than 3 MB for 10,000
    ranked rows and 350,000 verdicts.

    Raises:
        JobError: a table is missing or cannot be read.
        OSError: ``target`` cannot be written, or a file of ``input_dir`` not read.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    with Tables(output_dir) as tables:
        summary = tables.summary()
        subtitle = "No cost and no anomaly in this run"
        if summary.start_ms is not None:
            subtitle = (
                f"{fmt.utc(summary.start_ms)} to {fmt.utc(summary.end_ms)} UTC,"
                f" {summary.windows:,} windows of 30 minutes"
            )
        page = Template(template).substitute(
            script_hash=_script_hash(template),
            subtitle=subtitle,
            figures=_figures(summary),
            sections="\n".join(_sections(tables, input_dir, summary)),
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")


def main(argv: Sequence[str] | None = None, prog: str = "python -m jobs.report") -> int:
    """Make the report that ``argv`` asks for; the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description="The HTML report of a run.")
    parser.add_argument("--tables", type=Path, required=True, metavar="DIR", help="the job's output")
    parser.add_argument("--input", type=Path, metavar="DIR", help="the job's input, for the exemplar trace")
    parser.add_argument("--html", type=Path, required=True, metavar="FILE", help="what to write")
    arguments = parser.parse_args(argv)
    try:
        write_report(arguments.tables, arguments.input, arguments.html)
    except (JobError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(arguments.html)
    return 0
