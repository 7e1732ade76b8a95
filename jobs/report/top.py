"""The top anomaly in the report: the arithmetic of c_s and S, an exemplar trace as call tree."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from jobs.report import format as fmt
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
from jobs.report.tables import Tables
from jobs.report.trace import Span, abridge, call_tree, culprit_span, read_trace

# What a person reads through; the rest is in the record, or in the trace store.
MOST_TERMS = 60
MOST_SPANS = 60
MOST_SKUS = 2
MOST_EXPLANATION_CHARS = 40_000
# Shares are smaller than their sum, so they get more places than c_s would.
EXTRA_PLACES = 3
# Indent of a call below its caller; deeper than this the tree would leave its column.
INDENT_EM, DEEPEST_INDENT = 1.1, 14

TERM_COLUMNS = (
    ("Resource r", ""),
    ("Dimension", ""),
    ("Its usage u", NUMBER),
    ("All usage U", NUMBER),
    ("Unit", ""),
    ("u / U", NUMBER),
    ("Charged C", NUMBER),
    ("u / U · C", NUMBER),
    ("C rests on", ""),
)
EXCESS_COLUMNS = (
    ("Service", ""),
    ("Dimension", ""),
    ("Used beyond the usual", NUMBER),
    ("Unit", ""),
    ("Price of one more", NUMBER),
    ("Known by", ""),
    ("Excess cost", NUMBER),
)
TREE_KEY = (
    '<span class="keys"><span class="key culprit-key"></span>culprit span'
    '<span class="key service-key"></span>other spans of its service'
    '<span class="key"></span>other services</span>'
)


def _explanation(row: dict) -> dict:
    """The record's explanation (udfs/pure/rank.py gives its shape), empty where it has none."""
    try:
        explanation = json.loads(row["explanation"] or "{}")
    except ValueError:
        return {}
    return explanation if isinstance(explanation, dict) else {}


def _money(amount: str | None) -> Decimal | None:
    return None if amount is None else Decimal(amount)


def _resource(element: dict) -> str:
    """The end of the resource's id, which tells it from its neighbours; its title has it whole."""
    whole = str(element.get("x_ResourceId"))
    last = whole.rstrip("/").rsplit("/", 1)[-1]
    return text(whole if last == whole else f"…/{last}")


def _origin(element: dict) -> str:
    """What the cost C of one resource and dimension rests on: its charges, or an earlier rate."""
    rate = element.get("x_Rate")
    if rate:
        return f"rate of {text(rate.get('window_start'))}"
    charges = element.get("x_Charges") or ()
    skus = sorted({str(c.get("sku_id") or c.get("focus_service_name") or "–") for c in charges})
    more = len(skus) - MOST_SKUS
    return ", ".join(map(text, skus[:MOST_SKUS])) + (f" and {more} more" if more > 0 else "")


def _terms(elements: Sequence[dict], cost: Decimal, currency: str) -> str:
    """Formula (1): a row for each resource and dimension, dearest first, and their sum."""
    costs = [_money(element.get("x_AllocatedCost")) or Decimal() for element in elements]
    ordered = sorted(zip(costs, elements, strict=True), key=lambda pair: -pair[0])
    decimal_places = fmt.places([cost]) + EXTRA_PLACES
    rows = [
        row_head(_resource(element), "wrap id", title=str(element.get("x_ResourceId")))
        + td(text(element.get("x_Dimension")))
        + number(fmt.significant(element.get("UsageQuantity")))
        + number(fmt.significant(element.get("x_TotalUsage")))
        + td(text(element.get("UsageUnit")))
        + number(fmt.significant(element.get("AllocatedRatio")))
        + number(fmt.fixed(_money(element.get("x_ResourceCost")), decimal_places))
        + number(fmt.fixed(allocated, decimal_places))
        + td(f"{_origin(element)} {cost_status(element.get('x_CostStatus'))}")
        for allocated, element in ordered[:MOST_TERMS]
    ]
    if len(ordered) > MOST_TERMS:
        rest = sum((allocated for allocated, _ in ordered[MOST_TERMS:]), Decimal())
        rows.append(
            row_head(f"{len(ordered) - MOST_TERMS:,} smaller shares", span=7)
            + number(fmt.fixed(rest, decimal_places))
            + td("")
        )
    total = sum(costs, Decimal())
    differs = tag(f"the shares sum to {fmt.exact(total)}", "bad") if total != cost else ""
    caption = f"Formula (1): c_s = Σ u / U · C over the resources that the culprit used in W; money in {currency}"
    foot = row_head("c_s", span=7) + number(fmt.fixed(cost, decimal_places)) + td(differs)
    return scrollable("Formula (1), resource by resource", table(TERM_COLUMNS, rows, caption, foot))


def _excess(row: dict, explanation: dict, currency: str) -> str:
    """What the anomaly itself cost: usage beyond the usual at the price of one more unit; "" if nothing is known."""
    elements = explanation.get("x_ExcessUsage")
    if row["excess_cost"] is None or not elements:
        return ""
    decimal_places = fmt.places(Decimal(element["x_Cost"]) for element in elements)
    ordered = sorted(elements, key=lambda element: -abs(Decimal(element["x_Cost"])))
    rows = [
        row_head(text(element["x_OtelServiceName"]))
        + td(text(element["x_Dimension"]))
        + number(fmt.significant(element["x_ExcessQuantity"]))
        + td(text(element["UsageUnit"]))
        + number(fmt.significant(Decimal(element["x_UnitRate"])))
        + td(text(fmt.PRICE_BASES.get(element.get("x_PriceBasis"), "–")))
        + number(fmt.fixed(Decimal(element["x_Cost"]), decimal_places))
        for element in ordered[:MOST_TERMS]
    ]
    if len(ordered) > MOST_TERMS:
        rest = sum((Decimal(element["x_Cost"]) for element in ordered[MOST_TERMS:]), Decimal())
        rows.append(
            row_head(f"{len(ordered) - MOST_TERMS:,} smaller ones", span=6) + number(fmt.fixed(rest, decimal_places))
        )
    caption = (
        "What its traces used beyond such traces' usual, in all services that they touch, and what that is worth;"
        f" money in {currency}. Of it {fmt.fixed(row['billed_excess_cost'], decimal_places)} changed the bill: machines"
        " that are paid for anyway cost no more when they are used."
    )
    foot = row_head("excess", span=6) + number(fmt.fixed(row["excess_cost"], decimal_places))
    content = table(EXCESS_COLUMNS, rows, caption, foot)
    return scrollable("Excess cost, service by service", content)


def _formula(row: dict, explanation: dict, currency: str) -> str:
    """Formula (2), and what α is made of, with the numbers of ``row`` in them."""
    cost, alpha, score = (
        row["attributed_cost"],
        row["anomaly_score"],
        row["cost_weighted_score"],
    )
    lines = [f"c_s = {fmt.exact(cost)} {currency}"]
    mean, traces = explanation.get("x_MeanTraceScore"), explanation.get("x_AnomalousTraces")
    if mean is not None and traces is not None:
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


def _arithmetic(row: dict) -> str:
    """Formulas (1) and (2) with the numbers of ``row`` in them, and the explanation itself."""
    explanation = _explanation(row)
    elements = explanation.get("Elements")
    currency = text(row["billing_currency"])
    terms = (
        _terms(elements, row["attributed_cost"], currency)
        if elements
        else "<p>No cost is allocated to the culprit in this window: nothing weighs it.</p>"
    )
    excess = _excess(row, explanation, currency) or "<p>No usage beyond the usual is known.</p>"
    raw = json.dumps(explanation, indent=2, ensure_ascii=False)
    # Line by line: a line end is a control character, too.
    shown = "\n".join(map(text, raw[:MOST_EXPLANATION_CHARS].split("\n")))
    if len(raw) > MOST_EXPLANATION_CHARS:
        shown += "\n… the rest is in ranked_anomalies.parquet"
    return (
        f"<h3>What the anomaly itself cost</h3>{excess}<h3>What its service cost, and formula (2)</h3>{terms}"
        f"{_formula(row, explanation, currency)}"
        "<details><summary>The record's explanation: every factor and charge, as JSON</summary>"
        f'<pre tabindex="0">{shown}</pre></details>'
    )


def _span_row(span: Span, culprit: Span | None, start_ns: int, length_ns: int) -> str:
    css = ""
    if culprit is not None and span.otel_service_name == culprit.otel_service_name:
        css = "culprit" if span is culprit else "of-culprit"
    service, operation = text(span.otel_service_name), text(span.operation)
    labels = ["culprit"] * (span is culprit) + ["error"] * span.error
    indent = INDENT_EM * min(span.depth, DEEPEST_INDENT)
    left = 100 * (span.start_ns - start_ns) / length_ns
    width = 100 * span.duration_ns / length_ns
    return (
        f'<tr class="{css}"><td style="padding-left:{indent:.1f}em" title="{service} {operation}">'
        f'<span class="who">{service}</span> <span class="op">{operation}</span></td>'
        + td(" ".join(tag(label, "bad") for label in labels))
        + number(fmt.duration(span.start_ns - start_ns))
        + number(fmt.duration(span.duration_ns))
        + number(fmt.duration(span.own_ns))
        + '<td class="time"><span class="track" aria-hidden="true">'
        f'<i style="left:{left:.2f}%;width:{width:.2f}%"></i></span></td></tr>'
    )


def _waterfall(trace_id: str, spans: Sequence[Span], service: str, verdict: dict) -> str:
    """The call tree of one trace; ``service`` is the culprit, ``verdict`` may be empty."""
    tree = call_tree(spans)
    culprit = culprit_span(tree, service, verdict.get("culprit_operation"))
    start_ns = min(span.start_ns for span in tree)
    length_ns = max(max(span.end_ns for span in tree) - start_ns, 1)
    shown = abridge(tree, culprit, MOST_SPANS)
    note = f"{text(trace_id)}, {len(tree):,} spans in {fmt.duration(length_ns)}"
    if verdict.get("anomaly_score") is not None:
        score, threshold = verdict["anomaly_score"], verdict["threshold"]
        note += f", scored {fmt.significant(score, 4)}, threshold {fmt.significant(threshold, 4)}"
    if len(shown) < len(tree):
        note += f"; {len(tree) - len(shown):,} shorter spans are left out"
    absent = f"<p>The culprit, {text(service)}, left no span in this trace.</p>" if culprit is None else ""
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
        "Call tree of the exemplar trace", table(columns, rows, css="tree")
    )


def _exemplar(tables: Tables, input_dir: Path | None, row: dict) -> str:
    """The first exemplar trace of ``row``, or why it can't be shown."""
    if not row["exemplar_trace_ids"]:
        return "<p>The record names no exemplar trace.</p>"
    trace_id = row["exemplar_trace_ids"][0]
    if input_dir is None:
        return f"<p>{text(trace_id)}. Its spans are not here: no --input was given.</p>"
    verdict = tables.verdict(trace_id) or {}
    spans = read_trace(input_dir, trace_id, verdict.get("span_count"))
    if not spans:
        return f"<p>{text(trace_id)}. None of its spans is in the input's traces.</p>"
    service = verdict.get("culprit_service_name") or row["otel_service_name"]
    return _waterfall(trace_id, spans, service, verdict)


def top_section(tables: Tables, input_dir: Path | None, row: dict, key: str = "top", currency: str = "") -> str:
    """Everything about ``row``, the first of its currency in Tables.ranked; ``input_dir`` holds its spans.

    ``key`` is the section's id; ``currency`` is for its title, "" where the run has but one.
    """
    culprit, monthly = row["otel_service_name"], row["projected_monthly_cost"]
    others = [name for name in row["affected_services"] or () if name != culprit]
    facts = [
        ("Window", f"{fmt.utc(row['window_start_ms'])} UTC"),
        ("Kind", text(fmt.kind(row["anomaly_kind"]))),
        ("Anomalous traces", f"{row['anomalous_traces']:,} of {row['total_traces']:,}"),
        ("α", fmt.fixed(row["anomaly_score"], 3)),
        ("Threshold of a trace", fmt.fixed(row["threshold"], 3)),
        ("Cost status", cost_status(row["cost_status"])),
        ("Also affected", ", ".join(map(text, others)) or "no other service"),
        ("Detector", text(row["model_version"])),
    ]
    if monthly is not None:
        amount = fmt.fixed(monthly, fmt.places([monthly]))
        facts.insert(-2, ("Projected for a month", f"{amount} {text(row['billing_currency'])}"))
    return section(
        key,
        f"Top anomaly{currency}: {text(culprit)}",
        definitions(facts, "facts", "The top anomaly")
        + _arithmetic(row)
        + "<h3>Its exemplar trace</h3>"
        + _exemplar(tables, input_dir, row),
    )
