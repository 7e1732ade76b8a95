"""Incidents in the report: a row each, which opens to what happened and to the arithmetic of what it cost."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs.report import format as fmt
from jobs.report.html import (
    NUMBER,
    cost_status,
    definitions,
    disclosure,
    money,
    name,
    number,
    row_head,
    scrollable,
    table,
    tag,
    td,
    text,
    titled,
)
from jobs.report.tables import Tables
from jobs.report.trace import Span, abridge, call_tree, culprit_span, read_traces
from udfs.pure.follow import OPEN
from udfs.pure.pods import CHANGES_MINUTES
from udfs.pure.recurrence import MONTH_MINUTES

# What a person reads through; the rest is in the tables, or in the trace store.
MOST_WINDOWS = 48
MOST_TERMS = 24
MOST_SPANS = 48
MOST_SKUS = 2
MOST_AFFECTED = 12
# Characters of all details together, so that hundreds of incidents stay a page that opens at once.
MOST_DETAIL_CHARS = 6_000_000
# Of what was used beyond the usual, a part that costs less than this share is summed up with its like.
LEAST_SHARE = Decimal("0.002")
# A price below this is told of a million.
LEAST_PRICE = Decimal("0.0001")
# Shares are smaller than their sum, so they get one more place than c_s would.
EXTRA_PLACES = 1
# Indent of a call below its caller; deeper than this the tree would leave its column.
INDENT_EM, DEEPEST_INDENT = 1.1, 14

Row = dict[str, Any]

WINDOW_COLUMNS = (
    ("Window, UTC", ""),
    ("Rank in W", NUMBER),
    ("Anomalous traces", NUMBER),
    ("α", NUMBER),
    ("c_s", NUMBER),
    ("S", NUMBER),
    ("Excess cost", NUMBER),
    ("On the bill", NUMBER),
    ("Cost status", ""),
)
TERM_COLUMNS = (
    ("Resource r", ""),
    ("Dimension", ""),
    ("Its usage u", NUMBER),
    ("All usage U", NUMBER),
    ("u / U", NUMBER),
    ("Charged C", NUMBER),
    ("u / U · C", NUMBER),
    ("C rests on", ""),
)
EXCESS_COLUMNS = (
    ("Service", ""),
    ("Dimension", ""),
    ("Used beyond the usual", NUMBER),
    ("Price of one more", NUMBER),
    ("Known by", ""),
    ("Excess cost", NUMBER),
)
TREE_KEY = (
    '<span class="keys"><span class="key culprit-key"></span>culprit span'
    '<span class="key service-key"></span>other spans of its service'
    '<span class="key"></span>other services</span>'
)


# ---- what the windows tell ----------------------------------------------------------------------


@dataclass
class Used:
    """What a service used of a dimension beyond the usual in all windows of an incident, and what that costs."""

    quantities: list[float] = field(default_factory=list)
    cost: Decimal = Decimal()
    rates: set[Decimal] = field(default_factory=set)


@dataclass
class Windows:
    """The windows of an incident: their rows, the one that ranks highest, and what was used beyond the usual.

    ``used`` is by service, dimension, unit and basis of the price. ``explanation`` is that of ``dearest``,
    ``recurrence`` that of the last: [minutes in which its like came, of so many observed].
    """

    rows: list[Row] = field(default_factory=list)
    dearest: Row | None = None
    explanation: dict[str, Any] = field(default_factory=dict)
    used: dict[tuple[str, str, str, str], Used] = field(default_factory=lambda: defaultdict(Used))
    recurrence: tuple[int, int] | None = None

    def add(self, row: Row) -> None:
        """One more, the last so far."""
        explanation = _explanation(row.pop("explanation"))
        self.rows.append(row)
        if self.dearest is None or row["merit"] > self.dearest["merit"]:
            self.dearest, self.explanation = row, explanation
        for element in _elements(explanation, "x_ExcessUsage"):
            keys = ("x_OtelServiceName", "x_Dimension", "UsageUnit", "x_PriceBasis")
            used = self.used[tuple(str(element.get(key) or "") for key in keys)]  # type: ignore[index]
            used.quantities.append(_float(element.get("x_ExcessQuantity")) or 0.0)
            used.cost += _decimal(element.get("x_Cost"))
            used.rates.add(_decimal(element.get("x_UnitRate")))
        recurring, observed = explanation.get("x_RecurringMinutes"), explanation.get("x_ObservedMinutes")
        self.recurrence = (recurring, observed) if isinstance(recurring, int) and isinstance(observed, int) else None


def windows_by_incident(tables: Tables, incident_ids: Sequence[str]) -> dict[str, Windows]:
    """The windows of incidents, read as they come: an explanation is kept of one of each."""
    found: dict[str, Windows] = defaultdict(Windows)
    for row in tables.windows_of(incident_ids):
        found[row["incident_id"]].add(row)
    return found


def _explanation(words: str | None) -> dict[str, Any]:
    """A record's explanation (udfs/pure/rank.py gives its shape), empty where it has none."""
    try:
        explanation = json.loads(words or "{}")
    except ValueError:
        return {}
    return explanation if isinstance(explanation, dict) else {}


def _elements(explanation: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    elements = explanation.get(key)
    return [element for element in elements if isinstance(element, dict)] if isinstance(elements, list) else []


def _decimal(amount: object) -> Decimal:
    try:
        return Decimal(str(amount))
    except InvalidOperation:
        return Decimal()


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


# ---- the arithmetic -----------------------------------------------------------------------------


def _usage(quantity: float | None, unit: str | None) -> str:
    """A quantity in the unit that people think in; its title has it as the tables do."""
    if quantity is None:
        return "–"
    shown, size = fmt.unit(unit)
    return titled(text(f"{fmt.significant(quantity / size, 3)} {shown or ''}".strip()), f"{quantity!r} {unit or ''}")


def _price(used: Used, unit: str, currency: str) -> str:
    """Of one more unit; where windows had several prices, their mean."""
    quantity = math.fsum(used.quantities)
    rate, several = next(iter(used.rates)), ""
    if len(used.rates) > 1:
        if not quantity:
            return "–"
        rate, several = used.cost / Decimal(repr(quantity)), "mean "
    shown, size = fmt.unit(unit)
    price, of = rate * size, (shown or "").removesuffix("s")
    if 0 < abs(price) < LEAST_PRICE:
        price, of = price * 10**6, f"million {shown}"
    exact = f"{rate:f} {currency} for one of {unit}"
    return titled(text(f"{several}{fmt.significant(price, 4)} / {of}"), exact)


def _excess(incident: Row, windows: Windows) -> str:
    """What the incident cost: usage beyond the usual at the price of one more unit."""
    currency = incident["billing_currency"]
    if incident["excess_cost"] is None or not windows.used:
        return "<p>No usage beyond the usual is known, or no price of it.</p>"
    places = fmt.places(used.cost for used in windows.used.values())
    whole = sum((abs(used.cost) for used in windows.used.values()), Decimal())
    priced = sorted(((u, k) for k, u in windows.used.items() if u.cost), key=lambda pair: (-abs(pair[0].cost), pair[1]))
    costly = [pair for pair in priced if abs(pair[0].cost) >= whole * LEAST_SHARE][:MOST_TERMS]
    rows = [
        row_head(name(service), "name", title=service)
        + td(text(dimension))
        + number(_usage(math.fsum(used.quantities), unit))
        + number(_price(used, unit, currency))
        + td(text(fmt.PRICE_BASES.get(basis, "–")))
        + number(money(used.cost, "", places))
        for used, (service, dimension, unit, basis) in costly
    ]
    rest = priced[len(costly) :]
    if rest:
        smaller = sum((used.cost for used, _ in rest), Decimal())
        rows.append(row_head(f"{len(rest):,} smaller ones", span=5) + number(money(smaller, "", places)))
    free = len(windows.used) - len(priced)
    if free:
        what = "use" if free == 1 else "uses"
        rows.append(row_head(f"{free:,} {what} at no price: machines have room for it", span=5) + number("0"))
    total = sum((used.cost for used in windows.used.values()), Decimal())
    differs = tag(f"they sum to {fmt.exact(total)}", "bad") if total != incident["excess_cost"] else ""
    foot = row_head(f"Excess cost {differs}", span=5) + number(f"{fmt.exact(incident['excess_cost'])} {text(currency)}")
    billed = money(incident["billed_excess_cost"], currency)
    note = (
        '<p class="soft">What its traces used beyond the usual of such traces, in all services that they touch, and'
        f" what that is worth in {text(currency)}. Of it {billed} changed the bill: machines that are paid for anyway"
        " cost no more when they are used.</p>"
    )
    return (
        note
        + scrollable("Excess cost, service by service", table(EXCESS_COLUMNS, rows, foot))
        + _month(incident, windows)
    )


def _month(incident: Row, windows: Windows) -> str:
    """How the projection comes about, where the windows tell it."""
    monthly, minutes = incident["projected_monthly_cost"], incident["anomalous_minutes"]
    if monthly is None or not windows.recurrence or not minutes or not windows.recurrence[1]:
        return ""
    recurring, observed = windows.recurrence
    projected = incident["excess_cost"] * recurring * MONTH_MINUTES / (minutes * observed)
    if abs(projected - monthly) > Decimal("1e-11"):
        return ""
    line = (
        f"a month = {fmt.exact(incident['excess_cost'])} / {fmt.counted(minutes, 'minute')} · {recurring:,} such"
        f" minutes / {observed:,} observed · {MONTH_MINUTES:,} minutes = <b>{fmt.exact(monthly)}</b>"
        f" {text(incident['billing_currency'])}"
    )
    return scrollable("The projection with its numbers", line, "formula")


def _windows(incident: Row, windows: Windows) -> str:
    """A row for each window, and their sums, which are the incident's."""
    rows = windows.rows
    excess_places = fmt.places(row["excess_cost"] or 0 for row in rows)
    cost_places = fmt.places(row["attributed_cost"] or 0 for row in rows)
    lines = [
        row_head(fmt.utc(row["window_start_ms"]))
        + number(str(row["rank"]))
        + number(f"{row['anomalous_traces']:,} of {row['total_traces']:,}")
        + number(fmt.fixed(row["anomaly_score"], 2))
        + number(money(row["attributed_cost"], "", cost_places))
        + number(fmt.significant(row["cost_weighted_score"], 4))
        + number(money(row["excess_cost"], "", excess_places))
        + number(money(row["billed_excess_cost"], "", excess_places))
        + td(cost_status(row["cost_status"]))
        for row in rows[:MOST_WINDOWS]
    ]
    more = len(rows) - MOST_WINDOWS
    if more > 0:
        lines.append(row_head(f"{more:,} later ones are in the table ranked_anomalies", span=9))
    sums = {key: _sum(rows, key) for key in ("attributed_cost", "excess_cost", "billed_excess_cost")}
    differs = "" if all(sums[key] == incident[key] for key in sums) else tag("the incident's are others", "bad")
    foot = (
        row_head(f"Together, {text(incident['billing_currency'])}")
        + td("")
        + number(f"{incident['anomalous_traces']:,} of {incident['total_traces']:,}")
        + td("")
        + number(_exact(sums["attributed_cost"]))
        + td("")
        + number(_exact(sums["excess_cost"]))
        + number(_exact(sums["billed_excess_cost"]))
        + td(differs)
    )
    return scrollable("Its windows", table(WINDOW_COLUMNS, lines, foot))


def _sum(rows: Sequence[Row], key: str) -> Decimal | None:
    known = [row[key] for row in rows if row[key] is not None]
    return sum(known, Decimal()) if known else None


def _exact(amount: Decimal | None) -> str:
    return "–" if amount is None else fmt.exact(amount)


def _resource(element: Mapping[str, Any]) -> str:
    """The end of the resource's id, which tells it from its neighbours; its title has it whole."""
    whole = str(element.get("x_ResourceId"))
    last = whole.rstrip("/").rsplit("/", 1)[-1]
    return name(whole if last == whole else f"…/{last}")


def _origin(element: Mapping[str, Any]) -> str:
    """What the cost C of one resource and dimension rests on: its charges, or an earlier rate."""
    rate = element.get("x_Rate")
    if isinstance(rate, dict):
        return f"rate of {text(rate.get('window_start'))}"
    charges = _elements(element, "x_Charges")
    skus = sorted({str(c.get("sku_id") or c.get("focus_service_name") or "–") for c in charges})
    more = len(skus) - MOST_SKUS
    return ", ".join(map(name, skus[:MOST_SKUS])) + (f" and {more} more" if more > 0 else "")


def _terms(elements: Sequence[Mapping[str, Any]], cost: Decimal, currency: str) -> str:
    """Formula (1): a row for each resource and dimension, dearest first, and their sum."""
    costs = [_decimal(element.get("x_AllocatedCost")) for element in elements]
    ordered = sorted(zip(costs, elements, strict=True), key=lambda pair: -pair[0])
    places = fmt.places([cost]) + EXTRA_PLACES
    rows = [
        row_head(_resource(element), "name", title=str(element.get("x_ResourceId")))
        + td(text(element.get("x_Dimension")))
        + number(_usage(_float(element.get("UsageQuantity")), element.get("UsageUnit")))
        + number(_usage(_float(element.get("x_TotalUsage")), element.get("UsageUnit")))
        + number(fmt.significant(_float(element.get("AllocatedRatio")), 4))
        + number(money(_decimal(element.get("x_ResourceCost")), "", places))
        + number(money(allocated, "", places))
        + td(f"{_origin(element)} {cost_status(element.get('x_CostStatus'))}")
        for allocated, element in ordered[:MOST_TERMS]
    ]
    if len(ordered) > MOST_TERMS:
        rest = sum((allocated for allocated, _ in ordered[MOST_TERMS:]), Decimal())
        rows.append(
            row_head(f"{len(ordered) - MOST_TERMS:,} smaller shares", span=6) + number(money(rest, "", places)) + td("")
        )
    total = sum(costs, Decimal())
    differs = tag(f"the shares sum to {fmt.exact(total)}", "bad") if total != cost else ""
    note = f"Formula (1): c_s = Σ u / U · C over the resources that the culprit used in W; money in {text(currency)}"
    foot = row_head("c_s", span=6) + number(fmt.exact(cost)) + td(differs)
    shares = scrollable("Formula (1), resource by resource", table(TERM_COLUMNS, rows, foot))
    return f'<p class="soft">{note}</p>{shares}'


def _formula(row: Row, explanation: Mapping[str, Any]) -> str:
    """Formula (2), and what α is made of, with the numbers of ``row`` in them."""
    cost, alpha, score = row["attributed_cost"], row["anomaly_score"], row["cost_weighted_score"]
    lines = [f"c_s = {fmt.exact(cost)} {text(row['billing_currency'])}"]
    mean, traces = _float(explanation.get("x_MeanTraceScore")), explanation.get("x_AnomalousTraces")
    if mean is not None and isinstance(traces, int):
        lines.append(
            f"α   = mean trace score · log2(1 + anomalous traces) = {mean:.6f} · log2(1 + {traces:,}) = {alpha:.6f}"
        )
    # Of a credit S is negative: its size is that of the same cost.
    sign, size, symbol = ("-", -cost, "|c_s|") if cost < 0 else ("", cost, "c_s")
    lines.append(
        f"S   = {sign}α · ln(1 + {symbol}) = {sign}{alpha:.6f} · ln(1 + {fmt.exact(size)})"
        f" = {sign}{alpha:.6f} · {math.log1p(float(size)):.9f} = <b>{score:.9f}</b>"
    )
    return scrollable("Formula (2) with its numbers", "\n".join(lines), "formula")


def _score(windows: Windows) -> str:
    """Formulas (1) and (2) of the window that ranks highest."""
    row = windows.dearest
    if row is None:
        return ""
    elements = _elements(windows.explanation, "Elements")
    terms = (
        _terms(elements, row["attributed_cost"], row["billing_currency"])
        if elements
        else "<p>No cost is allocated to the culprit in this window: nothing weighs it.</p>"
    )
    summary = f"c_s and S of its window of {fmt.utc(row['window_start_ms'])} UTC, factor by factor"
    return disclosure(summary, terms + _formula(row, windows.explanation), "factors")


# ---- the trace ----------------------------------------------------------------------------------


def _span_row(span: Span, culprit: Span | None, start_ns: int, length_ns: int) -> str:
    css = ""
    if culprit is not None and span.otel_service_name == culprit.otel_service_name:
        css = "culprit" if span is culprit else "of-culprit"
    labels = ["culprit"] * (span is culprit) + ["error"] * span.error
    indent = INDENT_EM * min(span.depth, DEEPEST_INDENT)
    left = 100 * (span.start_ns - start_ns) / length_ns
    width = 100 * span.duration_ns / length_ns
    return (
        f'<tr class="{css}"><td style="padding-left:{indent:.1f}em"'
        f' title="{text(span.otel_service_name)} {text(span.operation)}">'
        f"<b>{name(span.otel_service_name)}</b> {name(span.operation)}</td>"
        + td(" ".join(tag(label, "bad") for label in labels))
        + number(fmt.duration(span.start_ns - start_ns))
        + number(fmt.duration(span.duration_ns))
        + number(fmt.duration(span.own_ns))
        + f'<td class="time"><i style="margin-left:{left:.1f}%;width:{width:.1f}%"></i></td></tr>'
    )


def _waterfall(trace_id: str, spans: Sequence[Span], service: str, verdict: Mapping[str, Any]) -> str:
    """The call tree of one trace; ``service`` is the culprit, ``verdict`` may be empty."""
    tree = call_tree(spans)
    culprit = culprit_span(tree, service, verdict.get("culprit_operation"))
    start_ns = min(span.start_ns for span in tree)
    length_ns = max(max(span.end_ns for span in tree) - start_ns, 1)
    shown = abridge(tree, culprit, MOST_SPANS)
    note = f"<code>{text(trace_id)}</code>: {fmt.counted(len(tree), 'span')} in {fmt.duration(length_ns)}"
    if verdict.get("anomaly_score") is not None:
        score, threshold = verdict["anomaly_score"], verdict["threshold"]
        note += f", scored {fmt.significant(score, 4)}, threshold {fmt.significant(threshold, 4)}"
    if len(shown) < len(tree):
        note += f"; {len(tree) - len(shown):,} shorter spans are left out"
    absent = f"<p>The culprit, {name(service)}, left no span in this trace.</p>" if culprit is None else ""
    columns = (
        ("Service and operation", ""),
        ('<span class="hidden">Marks</span>', ""),
        ("Start", NUMBER),
        ("Duration", NUMBER),
        ("Own time", NUMBER),
        (f"0 to {fmt.duration(length_ns)}", "time"),
    )
    rows = (_span_row(span, culprit, start_ns, length_ns) for span in shown)
    return f'<p class="soft">{note}. {TREE_KEY}</p>{absent}' + scrollable(
        "Call tree of the exemplary trace", table(columns, rows, css="tree")
    )


class Exemplars:
    """The first exemplary trace of each incident, read in one pass over the input."""

    def __init__(self, tables: Tables, input_dir: Path | None, incidents: Sequence[Row]) -> None:
        """``input_dir`` holds the spans; None: they are not here."""
        first = [row["exemplar_trace_ids"][0] for row in incidents if row["exemplar_trace_ids"]]
        self._is_here = input_dir is not None
        self._verdicts = tables.verdicts(first)
        self._spans: dict[str, list[Span]] = {}
        if input_dir is not None and first:
            counts = {trace_id: self._verdicts.get(trace_id, {}).get("span_count") for trace_id in first}
            self._spans = read_traces(input_dir, counts)

    def shown(self, incident: Row) -> str:
        """The call tree of the incident's, or why there is none, and links to all of its exemplars."""
        trace_ids = incident["exemplar_trace_ids"] or ()
        if not trace_ids:
            return "<p>The incident names no exemplary trace.</p>"
        first, verdict = trace_ids[0], self._verdicts.get(trace_ids[0], {})
        if first in self._spans:
            service = verdict.get("culprit_service_name") or incident["otel_service_name"]
            tree = _waterfall(first, self._spans[first], service, verdict)
        elif self._is_here:
            tree = f"<p><code>{text(first)}</code>: none of its spans is in the input's traces.</p>"
        else:
            tree = f"<p><code>{text(first)}</code>: its spans are not here, no --input was given.</p>"
        return tree + _links(trace_ids, incident["exemplar_urls"] or ())


def _links(trace_ids: Sequence[str], urls: Sequence[str]) -> str:
    """All exemplars, as links where the run was given trace.url; a page asks nothing of them by itself."""
    if len(trace_ids) == 1 and not urls:
        return ""
    items = []
    for place, trace_id in enumerate(trace_ids):
        shown = f"<code>{text(trace_id)}</code>"
        url = urls[place] if place < len(urls) else ""
        items.append(f'<a href="{text(url)}" rel="noreferrer">{shown}</a>' if _is_web(url) else shown)
    return f'<p class="traces">Exemplary traces: {", ".join(items)}</p>'


def _is_web(url: str) -> bool:
    """Whether a link may be made of it: a script's address comes from outside, too."""
    try:
        return urlsplit(url).scheme in ("http", "https") and fmt.clean(url) == url
    except ValueError:
        return False


# ---- one incident -------------------------------------------------------------------------------


def _changes(incident: Row) -> str:
    """What changed at the culprit just before."""
    try:
        changes = json.loads(incident["changes"] or "[]")
    except ValueError:
        changes = []
    told = [
        f"<li>{text(change.get('at'))}: {text(change.get('what'))} {name(change.get('from'))}"
        f" → {name(change.get('to'))}</li>"
        for change in (changes if isinstance(changes, list) else [])
        if isinstance(change, dict)
    ]
    if not told:
        return f"<p>Telemetry tells of no new version and no new pods in the {CHANGES_MINUTES} minutes before.</p>"
    return f"<ul>{''.join(told)}</ul>"


def _feedback(incident: Row) -> str:
    if not incident["feedback"]:
        return ""
    note = f": “{name(incident['feedback_note'])}”" if incident["feedback_note"] else ""
    silenced = " Nobody is told of it, and it counts in none of the sums above." if incident["is_silenced"] else ""
    return (
        f"<h3>What was said of it</h3><p>{tag(text(fmt.kind(incident['feedback'])))} says"
        f" {name(incident['feedback_by'])}{note}.{silenced}</p>"
    )


def _facts(incident: Row) -> str:
    currency = incident["billing_currency"]
    affected = [other for other in incident["affected_services"] or () if other != incident["otel_service_name"]]
    more = len(affected) - MOST_AFFECTED
    also = ", ".join(map(name, affected[:MOST_AFFECTED])) + (f" and {more:,} more" if more > 0 else "")
    return definitions(
        (
            ("Excess cost", money(incident["excess_cost"], currency)),
            ("Of it on the bill", money(incident["billed_excess_cost"], currency)),
            ("An hour of it", money(incident["excess_cost_per_hour"], currency)),
            ("A month, if it recurs as it did", money(incident["projected_monthly_cost"], currency)),
            ("All that the culprit cost", money(incident["attributed_cost"], currency)),
            ("Cost status", cost_status(incident["cost_status"])),
            ("Seen in", fmt.counted(incident["anomalous_minutes"] or 0, "minute")),
            ("Anomalous traces", f"{incident['anomalous_traces']:,} of {incident['total_traces']:,}"),
            ("Operation", name(incident["culprit_operation"])),
            ("Also affected", also or "no other service"),
            ("Detector", text(incident["model_version"])),
            ("Incident", f"<code>{name(incident['incident_id'])}</code>"),
        ),
        "facts",
        "The incident",
    )


def _detail(incident: Row, windows: Windows, exemplars: Exemplars) -> str:
    return (
        f'<p class="evidence">{name(incident["evidence"])}</p>{_facts(incident)}'
        f"<h3>What changed just before</h3>{_changes(incident)}"
        f"{_feedback(incident)}"
        f"<h3>An exemplary trace</h3>{exemplars.shown(incident)}"
        f"<h3>What it cost</h3>{_excess(incident, windows)}"
        f"<h3>Its windows</h3>{_windows(incident, windows)}"
        f"{_score(windows)}"
    )


def _when(incident: Row) -> str:
    opened = fmt.utc(incident["opened_ms"], "%d %b %H:%M")
    if incident["incident_state"] == OPEN:
        return f"{tag('open', 'bad')} since {opened}"
    is_one_day = fmt.utc(incident["opened_ms"], "%d") == fmt.utc(incident["last_seen_ms"], "%d")
    return f"{opened} to {fmt.utc(incident['last_seen_ms'], '%H:%M' if is_one_day else '%d %b %H:%M')}"


def _summary(incident: Row, highest: Decimal) -> str:
    """The row that opens: what it is, what it cost, what a month of it costs, and when it was."""
    currency, excess = incident["billing_currency"], incident["excess_cost"]
    filled = 100 * max(float((excess or 0) / highest), 0.0) if highest > 0 else 0.0
    marks = [tag(text(fmt.kind(incident["feedback"])))] if incident["feedback"] else []
    if incident["cost_status"] != "billed":
        marks.append(cost_status(incident["cost_status"]))
    monthly, places = incident["projected_monthly_cost"], fmt.money_places(highest)
    return (
        f'<span class="place">{incident["place"]}</span>'
        f'<span class="what"><b title="{text(incident["otel_service_name"])}">'
        f"{name(incident['otel_service_name'])}</b>"
        f" <span>{text(fmt.kind(incident['anomaly_kind']))}</span> {' '.join(marks)}"
        f"<small>{name(incident['culprit_operation'])}</small></span>"
        f'<span class="cost"><span class="hidden">excess</span> {money(excess, currency, places)}'
        f'<span class="meter" aria-hidden="true"><i style="width:{filled:.1f}%"></i></span></span>'
        f'<span class="month">{money(monthly, currency)}{" a month" if monthly is not None else ""}</span>'
        f'<span class="when">{_when(incident)}</span>'
    )


def _key(incident: Row) -> str:
    """Its id in the page, the same in every report, so that a link to it stays."""
    return "i-" + blake2b(str(incident["incident_id"]).encode("utf-8", "replace"), digest_size=6).hexdigest()


def incident_rows(tables: Tables, input_dir: Path | None, incidents: Sequence[Row]) -> Iterator[str]:
    """A row for each of ``incidents`` (Tables.incidents), in their order, that opens to its detail.

    ``input_dir`` holds the spans, None where they are not here. Beyond MOST_DETAIL_CHARS a detail only says where it
    can be found.
    """
    windows = windows_by_incident(tables, [row["incident_id"] for row in incidents])
    exemplars = Exemplars(tables, input_dir, incidents)
    highest: dict[str, Decimal] = defaultdict(Decimal)
    for row in incidents:
        currency = row["billing_currency"]
        highest[currency] = max(highest[currency], row["excess_cost"] or Decimal())
    room = MOST_DETAIL_CHARS
    for row in incidents:
        detail = _detail(row, windows[row["incident_id"]], exemplars) if room > 0 else ""
        room -= len(detail)
        if room < 0:
            detail = (
                f"<p>Its detail is left out: with it the page would be over {MOST_DETAIL_CHARS // 1_000_000} MB. It is"
                f" in the tables incidents and ranked_anomalies: <code>{name(row['incident_id'])}</code></p>"
            )
        yield (
            f'<details class="incident" id="{_key(row)}" data-opened="{row["opened_ms"] or 0}"'
            f' data-month="{row["projected_monthly_cost"] or 0}" data-place="{row["place"]}">'
            f"<summary>{_summary(row, highest[row['billing_currency']])}</summary>"
            f'<div class="detail">{detail}</div></details>'
        )
