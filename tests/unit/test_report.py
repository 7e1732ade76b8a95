"""The HTML report: what it shows, that names cannot become markup, and that it stays small."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest

from jobs.report import format as fmt
from jobs.report.chart import MOST_BINS, series_of, step_for
from jobs.report.incidents import MOST_DETAIL_CHARS, MOST_WINDOWS
from jobs.report.page import MOST_INCIDENTS, main, write_report
from jobs.report.trace import abridge, call_tree, culprit_span, read_traces
from tests.unit.literal_tables import write_outputs
from tests.unit.test_terminal import RUN, T0, WINDOW, allocation, ranked
from udfs.pure.dimensions import DIMENSIONS
from udfs.pure.rank import rank_window

TRACE = "0af7651916cd43dd8448eb211c80319c"
MS = 1_000_000
T0_NS = T0 * MS

# Markup, quotes, an override of the writing direction, a line end, and 300 characters.
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\u200f\n$headline{0}%s" + "x" * 300


def span(span_id: int, parent: int, name: str, start_ms: int, end_ms: int, **fields) -> dict:
    return {
        "traceId": TRACE,
        "spanId": f"{span_id:016x}",
        "parentSpanId": f"{parent:016x}" if parent else "",
        "name": name,
        "startTimeUnixNano": str(T0_NS + start_ms * MS),
        "endTimeUnixNano": str(T0_NS + end_ms * MS),
    } | fields


def request(**spans_by_service: list[dict]) -> bytes:
    return json.dumps({
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [{"key": "service.name", "value": {"stringValue": service}}]
                },
                "scopeSpans": [{"spans": spans}],
            }
            for service, spans in spans_by_service.items()
        ]
    }).encode()  # fmt: skip


# gateway 0..100 calls payment 10..90, which calls bank 20..50 and 40..60 (they overlap) and fails.
GATEWAY = [span(1, 0, "GET /pay", 0, 100)]
PAYMENT = [span(2, 1, "charge", 10, 90, status={"code": 2}), span(3, 2, "audit", 60, 61)]
BANK = [span(4, 2, "transfer", 20, 50), span(5, 2, "transfer", 40, 60)]


def read_trace(source: Path, trace_id: str, span_count: int | None) -> list:
    return read_traces(source, {trace_id: span_count}).get(trace_id, [])


@pytest.fixture
def source(tmp_path):
    """An input directory that holds the trace in two files, one span of it twice."""
    traces = tmp_path / "input" / "traces"
    traces.mkdir(parents=True)
    other = [span(9, 0, "noise", 0, 1, traceId="ff" * 16)]
    lines = [
        request(noise=other),
        request(gateway=GATEWAY, payment=PAYMENT),
        request(gateway=GATEWAY),
    ]
    (traces / "b.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    upper = request(bank=BANK).replace(TRACE.encode(), TRACE.upper().encode())
    (traces / "a.jsonl.gz").write_bytes(gzip.compress(upper + b"\n"))
    return tmp_path / "input"


def explained(service: str = "payment", **columns) -> dict:
    """A top row with c_s = 2/8 * 0.04 + 1/4 * 0.02 = 0.015 and alpha = 5 * log2(1 + 3) = 10."""
    elements = [
        {
            "AllocatedRatio": 0.25, "UsageUnit": "Core-Seconds", "UsageQuantity": 2.0,
            "x_AllocatedCost": "0.010000000000", "x_CostStatus": "billed", "x_Dimension": "cpu",
            "x_Rate": None, "x_Charges": [{"sku_id": "SKU-CPU", "cost": "0.08"}],
            "x_ResourceCost": "0.040000000000", "x_ResourceId": "node-1", "x_TotalUsage": 8.0,
        },
        {
            "AllocatedRatio": 0.25, "UsageUnit": "Byte-Seconds", "UsageQuantity": 1e12,
            "x_AllocatedCost": "0.005000000000", "x_CostStatus": "provisional",
            "x_Dimension": "memory", "x_Charges": [],
            "x_Rate": {"window_start": "2026-01-04T23:00:00Z"}, "x_ResourceCost": "0.020000000000",
            "x_ResourceId": "node-1", "x_TotalUsage": 4e12,
        },
    ]  # fmt: skip
    explanation = {"Elements": elements, "x_MeanTraceScore": 5.0, "x_AnomalousTraces": 3}
    # 10 * ln(1.015)
    row = ranked(service, 0.14888612, attributed_cost="0.015", anomaly_score=10.0, anomalous_traces=3)
    return (
        row
        | {
            "explanation": json.dumps(explanation),
            "exemplar_trace_ids": [TRACE],
            "affected_services": [service, "gateway"],
        }
        | columns
    )


VERDICT = {
    "trace_id": TRACE, "span_count": 5, "is_anomalous": True, "anomaly_score": 7.5,
    "threshold": 3.5, "culprit_service_name": "payment", "culprit_operation": "charge",
    "verdict_state": "ready",
}  # fmt: skip


def incident_of(*windows: dict, **columns) -> dict:
    """The row of ``incidents`` that owns ``windows`` of ranked_anomalies, as follow makes it."""

    def total(name: str) -> str | None:
        known = [Decimal(window[name]) for window in windows if window.get(name) is not None]
        return str(sum(known)) if known else None

    first, last = windows[0], windows[-1]
    return {
        "incident_id": first["anomaly_id"],
        "otel_service_name": first["otel_service_name"],
        "culprit_operation": "charge",
        "anomaly_kind": first["anomaly_kind"],
        "incident_state": "closed",
        "opened_at": first["window_start"],
        "last_seen_at": last["window_end"],
        "windows": len(windows),
        "window_start": first["window_start"],
        "window_end": last["window_end"],
        "anomalous_minutes": 10 * len(windows),
        "anomalous_traces": sum(window["anomalous_traces"] for window in windows),
        "total_traces": sum(window["total_traces"] for window in windows),
        "affected_services": first.get("affected_services"),
        "attributed_cost": total("attributed_cost"),
        "excess_cost": total("excess_cost"),
        "billed_excess_cost": total("billed_excess_cost"),
        "billing_currency": first["billing_currency"],
        "cost_status": first["cost_status"],
        "evidence": f"{first['otel_service_name']}'s charge took 4.1× as long",
        "changes": "[]",
        "exemplar_trace_ids": first.get("exemplar_trace_ids"),
        "exemplar_urls": [],
        "is_silenced": False,
    } | columns


def with_incidents(*ranked_rows: dict) -> dict[str, list[dict]]:
    """The rows, and an incident of each."""
    return {"ranked_anomalies": list(ranked_rows), "incidents": [incident_of(row) for row in ranked_rows]}


def report(tmp_path, source=None, **rows) -> str:
    target = tmp_path / "report.html"
    write_report(write_outputs(tmp_path / "output", **rows), source, target)
    return target.read_text(encoding="utf-8")


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text; fails where tags don't match."""

    VOID = {"meta", "link", "input", "br", "line", "rect"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in {"line", "rect"}:
            return
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_a_trace_is_found_in_all_files_in_any_case_each_span_once(source):
    found = read_traces(source, {TRACE: None, "0" * 31 + "1": None})
    assert found.keys() == {TRACE}
    assert sorted(s.span_id[-1] for s in found[TRACE]) == ["1", "2", "3", "4", "5"]


def test_several_traces_are_read_in_one_pass(source, monkeypatch):
    from jobs import telemetry

    passes = []
    lines = telemetry.requests
    monkeypatch.setattr(telemetry, "requests", lambda *of: passes.append(of) or lines(*of))
    found = read_traces(source, {TRACE: 5, "ff" * 16: 1})
    assert {trace_id: len(spans) for trace_id, spans in found.items()} == {TRACE: 5, "ff" * 16: 1}
    assert len(passes) == 1


def test_the_scan_ends_once_the_spans_are_found(source):
    # a.jsonl.gz comes first and holds two: b.jsonl is not looked at.
    assert len(read_trace(source, TRACE, 2)) == 2


def test_own_time_leaves_out_children_once_where_they_overlap(source):
    tree = call_tree(read_trace(source, TRACE, 5))
    assert [(s.operation, s.depth, s.own_ns // MS) for s in tree] == [
        ("GET /pay", 0, 20), ("charge", 1, 39), ("transfer", 2, 30), ("transfer", 2, 20),
        ("audit", 2, 1),
    ]  # fmt: skip


def test_orphans_and_rings_of_parents_are_in_the_tree_once(tmp_path):
    traces = tmp_path / "traces"
    traces.mkdir()
    ring = [
        span(1, 2, "a", 0, 9),
        span(2, 1, "b", 1, 8),
        span(3, 7, "orphan", 2, 3),
        span(4, 4, "self", 4, 5),
    ]
    (traces / "x.jsonl").write_bytes(request(s=ring))
    tree = call_tree(read_trace(tmp_path, TRACE, None))
    assert sorted(s.operation for s in tree) == ["a", "b", "orphan", "self"]


def test_a_sampled_trace_is_found(tmp_path):
    (tmp_path / "traces").mkdir()
    sampled = span(1, 0, "a", 0, 9) | {"traceState": "ot=th:8"}
    (tmp_path / "traces" / "x.jsonl").write_bytes(request(s=[sampled]))
    assert [s.operation for s in read_trace(tmp_path, TRACE, None)] == ["a"]


def test_a_trace_of_services_that_tell_their_version_is_found(tmp_path):
    (tmp_path / "traces").mkdir()
    told = orjson.loads(request(s=[span(1, 0, "a", 0, 9)]))
    version = {"key": "service.version", "value": {"stringValue": "1.2"}}
    told["resourceSpans"][0]["resource"]["attributes"].append(version)
    (tmp_path / "traces" / "x.jsonl").write_bytes(orjson.dumps(told))
    assert [s.operation for s in read_trace(tmp_path, TRACE, None)] == ["a"]


def test_the_culprit_span_is_its_operation_then_its_error_then_its_own_time(source):
    tree = call_tree(read_trace(source, TRACE, 5))
    assert culprit_span(tree, "payment", "audit").operation == "audit"
    assert culprit_span(tree, "payment", None).operation == "charge"
    assert culprit_span(tree, "bank", "transfer").own_ns == 30 * MS
    assert culprit_span(tree, "absent", "charge") is None


def test_a_long_trace_keeps_the_culprit_and_its_callers(source):
    tree = call_tree(read_trace(source, TRACE, 5))
    audit = culprit_span(tree, "payment", "audit")
    assert [s.operation for s in abridge(tree, audit, 3)] == ["GET /pay", "charge", "audit"]


def test_each_incident_opens_to_its_tree_and_its_arithmetic(tmp_path, source):
    other = explained("search", anomaly_id="1/search", exemplar_trace_ids=["ff" * 16])
    page = Page(report(tmp_path, source, **with_incidents(explained(), other), trace_verdicts=[VERDICT]))
    details = [attrs for tag, attrs in page.elements if tag == "details" and attrs.get("class") == "incident"]
    assert len(details) == 2 and len({attrs["id"] for attrs in details}) == 2
    for service in ("payment", "search"):
        assert f"{service} 's charge took 4.1× as long".replace(" '", "'") in page.text
    assert page.text.count("node-1 cpu 0.000556 core-hours 0.00222 core-hours 0.25 0.040000 0.010000 SKU-CPU") == 2
    assert page.text.count("node-1 memory 0.278 GB-hours 1.11 GB-hours 0.25 0.020000 0.005000 rate of 2026-01-04") == 2
    assert "rate of 2026-01-04T23:00:00Z provisional" in page.text
    assert "mean trace score · log2(1 + anomalous traces) = 5.000000 · log2(1 + 3) = 10.000000" in page.text
    assert "α · ln(1 + c_s) = 10.000000 · ln(1 + 0.015) = 10.000000 · 0.014888612 = 0.148886120" in page.text
    assert "the shares sum to" not in page.text
    assert "5 spans in 100 ms, scored 7.5, threshold 3.5" in page.text and "1 span in 1 ms" in page.text
    culprits = [attrs for tag, attrs in page.elements if tag == "tr" and attrs.get("class") == "culprit"]
    assert len(culprits) == 1
    assert "payment charge culprit error 10 ms 80 ms 39 ms" in page.text


def evidence_of(minute_traces: int = 3, recurrence: tuple[int, int] = (1, 60)) -> dict:
    """A minute of an incident of payment, as the judges tell it."""
    return {
        "otel_service_name": "payment", "anomalous_traces": minute_traces, "scores": [4.0, 5.0, 6.0],
        "threshold": 3.5, "kinds": {"latency_spike": 3}, "affected": {"gateway": 2},
        "exemplars": [[6.0, TRACE]], "operations": {"charge": 3}, "model_versions": {"usual-1": 3},
        "excess_usage": {"payment": {"cpu": 0.5}}, "unexplained_usage": {}, "recurrence": list(recurrence),
    }  # fmt: skip


COST = {
    "billing_currency": "USD", "cost_status": "billed", "cost_center": None, "rate": None, "marginal_rate": "0.005",
    "marginal_basis": "capacity", "idle_policy": "proportional", "idle_share": None, "resource_id": "node-1",
    "dimension": "cpu", "otel_service_name": "payment", "usage": 2.0, "total_usage": 8.0, "share": 0.25,
    "resource_cost": "0.04", "allocated_cost": "0.01", "charges": [{"sku_id": "SKU-CPU"}],
    "charge_period_end": T0 + 2 * WINDOW,
}  # fmt: skip


def test_the_arithmetic_is_read_from_what_the_ranking_explains(tmp_path):
    """The shape of ``explanation`` is rank's: a change there has to show here."""
    rows = rank_window(T0, [[evidence_of()]], [{"payment": 10}], [COST])
    text = Page(report(tmp_path, **with_incidents(*rows))).text
    assert "node-1 cpu 0.000556 core-hours 0.00222 core-hours 0.25 0.040000 0.010000 SKU-CPU billed" in text
    assert "payment cpu 0.000139 core-hours 18 / core-hour capacity price 0.002500" in text
    assert "Of it 0.00 USD changed the bill" in text
    assert "Excess cost 0.0025 USD" in text
    assert "= 5.000000 · log2(1 + 3) = 10.000000" in text
    assert "ln(1 + 0.01) = 10.000000 · 0.009950331 = 0.099503309" in text


def test_the_cost_of_an_incident_is_that_of_its_windows(tmp_path):
    first = rank_window(T0, [[evidence_of()]], [{"payment": 10}], [COST])
    later = rank_window(T0 + WINDOW, [[evidence_of()]], [{"payment": 7}], [COST | {"marginal_rate": "0.007"}])
    windows = [*first, *later]
    # 0.006 USD in ten minutes, one of sixty minutes is such: 0.006 / 10 * 1 / 60 * 43200
    row = incident_of(*windows, anomalous_minutes=10, projected_monthly_cost="0.432")
    text = Page(report(tmp_path, ranked_anomalies=windows, incidents=[row])).text
    assert "payment cpu 0.000278 core-hours mean 21.6 / core-hour capacity price 0.006000" in text
    assert "Excess cost 0.006 USD" in text
    assert "a month = 0.006 / 10 minutes · 1 such minutes / 60 observed · 43,200 minutes = 0.432 USD" in text
    assert "2026-01-05 00:00 1 3 of 10 10.00 0.01000 0.0995 0.002500 0.000000 billed" in text
    assert "Together, USD 6 of 17 0.02 0.006 0" in text
    assert "they sum to" not in text and "are others" not in text


def test_an_incident_that_its_windows_do_not_make_up_is_told(tmp_path):
    windows = rank_window(T0, [[evidence_of()]], [{"payment": 10}], [COST])
    row = incident_of(*windows, excess_cost="0.0026")
    text = Page(report(tmp_path, ranked_anomalies=windows, incidents=[row])).text
    assert "they sum to 0.0025" in text and "the incident's are others" in text


def test_shares_that_do_not_make_up_c_s_are_told(tmp_path):
    page = Page(report(tmp_path, **with_incidents(explained(attributed_cost="0.016"))))
    assert "the shares sum to 0.015" in page.text


@pytest.mark.parametrize("explanation", [None, "", "not json", "[]", "{}", '{"Elements": [{}]}', '{"Elements": [1]}'])
def test_a_poor_explanation_leaves_the_rest_of_the_report(tmp_path, explanation):
    page = Page(report(tmp_path, **with_incidents(explained(explanation=explanation))))
    assert "payment's charge took 4.1× as long" in page.text


@pytest.mark.parametrize("changes", [None, "", "not json", "{}", "[1]"])
def test_poor_changes_leave_the_rest_of_the_report(tmp_path, changes):
    row = explained()
    text = Page(report(tmp_path, ranked_anomalies=[row], incidents=[incident_of(row, changes=changes)])).text
    assert "Telemetry tells of no new version and no new pods in the 60 minutes before." in text


def test_a_credit_shows_the_formula_that_it_is_ranked_by(tmp_path):
    row = ranked("cart", -1.0, attributed_cost="-0.1051709", anomaly_score=10.0)
    assert "-α · ln(1 + |c_s|) = -10.000000 · ln(1 + 0.1051709)" in Page(report(tmp_path, **with_incidents(row))).text


def test_what_changed_what_was_said_and_where_to_look_is_told(tmp_path):
    row = explained()
    change = {"what": "version", "at": "2026-01-04T23:50:00Z", "from": "1.4", "to": "1.5"}
    said = incident_of(
        row,
        changes=json.dumps([change]),
        feedback="false_alarm", feedback_by="ann", feedback_note="a drill", is_silenced=True,
        exemplar_trace_ids=[TRACE, "ff" * 16],
        exemplar_urls=["https://traces.example/" + TRACE, "javascript:alert(1)"],
    )  # fmt: skip
    page = Page(report(tmp_path, ranked_anomalies=[row], incidents=[said]))
    assert "2026-01-04T23:50:00Z: version 1.4 → 1.5" in page.text
    assert "false alarm says ann : “ a drill ”. Nobody is told of it" in page.text
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    assert links == ["https://traces.example/" + TRACE]


def headline(text: str) -> str:
    return text[: text.index("Charged")]


def test_the_headline_is_what_incidents_cost_and_how_settled_that_is(tmp_path):
    rows = [
        ranked("cart", 1.0, excess_cost="3", billed_excess_cost="1"),
        ranked("cart", 1.0, window=1, excess_cost="2", billed_excess_cost="1", cost_status="provisional"),
        ranked("pay", 1.0, window=4, excess_cost="10.000000000001", billed_excess_cost="0"),
        ranked("odd", 1.0, window=5, excess_cost="700", billed_excess_cost="700"),
    ]
    incidents = [
        incident_of(*rows[:2], projected_monthly_cost="30", incident_state="open", excess_cost_per_hour="7"),
        incident_of(rows[2], projected_monthly_cost="80"),
        # Of cart's like the later one tells the month of both.
        incident_of(ranked("cart", 1.0, window=9), excess_cost="0.5", projected_monthly_cost="40"),
        incident_of(rows[3], is_silenced=True, feedback="expected", projected_monthly_cost="9000"),
    ]
    html = report(tmp_path, ranked_anomalies=rows, incidents=incidents, cost_allocations=RUN["cost_allocations"])
    text = headline(Page(html).text)
    assert "Excess cost 15.50 USD 3 incidents" in text
    assert "Projected a month 120.00 USD each culprit's latest, if it recurs" in text
    assert "On the bill 2.00 USD 12.9 % of the excess" in text
    assert "Billed 13.50 USD" in text and "Provisional 2.00 USD" in text
    assert "Open incidents 1 7.00 USD an hour" in text
    assert "Silenced 1 700.00 USD , in no other figure" in text
    assert 'title="15.500000000001 USD"' in html


def test_silenced_incidents_come_last(tmp_path):
    rows = [ranked("odd", 1.0, excess_cost="9"), ranked("pay", 1.0, window=1, excess_cost="1")]
    incidents = [incident_of(rows[0], is_silenced=True, feedback="planned"), incident_of(rows[1])]
    text = Page(report(tmp_path, ranked_anomalies=rows, incidents=incidents)).text
    assert text.index("pay's charge took") < text.index("odd's charge took")


@pytest.mark.parametrize("order, first", [("excess", "dear"), ("billed_excess", "billed"), ("score", "scored")])
def test_incidents_are_ordered_by_what_the_run_was_ranked_by(tmp_path, order, first):
    told = {"explanation": json.dumps({"x_RankedBy": order})}
    rows = [
        ranked("dear", 1.0, excess_cost="9", billed_excess_cost="1", **told),
        ranked("billed", 2.0, window=1, excess_cost="5", billed_excess_cost="5", **told),
        ranked("scored", 3.0, window=2, excess_cost="1", billed_excess_cost="0", **told),
    ]
    text = Page(report(tmp_path, **with_incidents(*rows))).text
    places = {name: text.index(f"{name}'s charge took") for name in ("dear", "billed", "scored")}
    assert min(places, key=places.__getitem__) == first
    assert f"By {fmt.ORDERS[order]}, the most first" in text


def test_rows_of_no_incident_are_told(tmp_path):
    text = Page(report(tmp_path, ranked_anomalies=[ranked("cart", 1.0)])).text
    assert "Of no incident: 1 row of ranked_anomalies" in text


def test_since_leaves_out_what_was_before(tmp_path):
    rows = [ranked("cart", 1.0, excess_cost="3"), ranked("pay", 1.0, window=4, excess_cost="2")]
    output = write_outputs(tmp_path / "output", **with_incidents(*rows))
    target = tmp_path / "r.html"
    assert main(["--tables", str(output), "--since", "2026-01-05T01:00Z", "--html", str(target)]) == 0
    text = Page(target.read_text(encoding="utf-8")).text
    assert "pay's charge took" in text and "cart" not in text
    assert "2026-01-05 02:00 to 2026-01-05 02:30 UTC, 1 windows" in text


def test_people_read_hours_and_gigabytes():
    assert {dimension.focus_unit for dimension in DIMENSIONS.values()} <= fmt.UNITS.keys()
    assert fmt.unit("Byte-Seconds") == ("GB-hours", 3_600_000_000_000)
    assert fmt.unit("Tokens") == ("Tokens", 1)


@pytest.mark.parametrize(
    "amount, shown",
    [
        ("1234.5678", "1,234.57"),
        ("0.050160516156", "0.0502"),
        ("-0.000660123", "-0.000660"),
        ("0", "0.00"),
        ("12", "12.00"),
    ],
)
def test_money_is_in_digits_that_are_read(amount, shown):
    assert fmt.money(Decimal(amount)) == shown


def test_no_value_from_outside_becomes_markup(tmp_path, source):
    """Every string column of every table, and every name in the trace, is hostile."""
    evil = {"gateway": GATEWAY, HOSTILE: [span(2, 1, HOSTILE, 10, 90)]}
    (source / "traces" / "c.jsonl").write_bytes(request(**evil))
    (source / "traces" / "b.jsonl").unlink()
    element = dict.fromkeys(("UsageUnit", "x_CostStatus", "x_Dimension", "x_ResourceId"), HOSTILE)
    element |= {"x_AllocatedCost": "0.015", "x_Charges": [{"sku_id": HOSTILE}]}
    used = dict.fromkeys(("x_OtelServiceName", "x_Dimension", "UsageUnit", "x_PriceBasis", "x_UnitRate"), HOSTILE)
    used |= {"x_Cost": "0.01", "x_ExcessQuantity": 1.0}
    row = explained(
        HOSTILE,
        explanation=json.dumps({"Elements": [element], "x_ExcessUsage": [used], HOSTILE: HOSTILE}),
        excess_cost="0.01", anomaly_id=HOSTILE, billing_currency=HOSTILE, cost_status=HOSTILE, anomaly_kind=HOSTILE,
        model_version=HOSTILE, affected_services=[HOSTILE, HOSTILE + "2"],
    )  # fmt: skip
    told = incident_of(
        row,
        culprit_operation=HOSTILE, evidence=HOSTILE, feedback=HOSTILE, feedback_by=HOSTILE, feedback_note=HOSTILE,
        incident_state=HOSTILE, changes=json.dumps([dict.fromkeys(("what", "at", "from", "to"), HOSTILE)]),
        exemplar_trace_ids=[TRACE, HOSTILE], exemplar_urls=["https://" + HOSTILE, HOSTILE],
    )  # fmt: skip
    html = report(
        tmp_path,
        source,
        ranked_anomalies=[row],
        incidents=[told],
        trace_verdicts=[VERDICT | {"culprit_service_name": HOSTILE, "culprit_operation": HOSTILE}],
        cost_allocations=[
            allocation(HOSTILE, "1", "1", resource_id=HOSTILE, dimension=HOSTILE, billing_currency=HOSTILE)
        ],
        rejected_records=[{"stream": HOSTILE, "reason": HOSTILE, "payload": HOSTILE}],
    )
    page = Page(html)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "img" not in {tag for tag, _ in page.elements}
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert "alert(1)" in page.text
    assert "<img" not in html
    assert not {"\u202e", "\u200f"} & set(html)
    assert not [attrs for tag, attrs in page.elements if tag == "a"]


def test_the_page_asks_nothing_of_anyone_and_allows_its_own_script_only(tmp_path):
    html = report(tmp_path, **(RUN | with_incidents(*RUN["ranked_anomalies"])))
    page = Page(html)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    linked = [attrs for tag, attrs in page.elements if {"src", "href"} & attrs.keys() if attrs.get("href") != "data:,"]
    assert not linked
    policy = next(attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv"))
    assert re.search(r"default-src 'none'.*script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)


def test_tables_and_controls_have_names_and_can_be_reached_by_keyboard(tmp_path, source):
    page = Page(
        report(
            tmp_path,
            source,
            **(RUN | with_incidents(explained()) | {"trace_verdicts": [VERDICT]}),
        )
    )
    regions = [attrs for _, attrs in page.elements if attrs.get("role") == "region"]
    assert len(regions) >= 3
    assert all(attrs.get("tabindex") == "0" for attrs in regions)
    assert all({"aria-label", "aria-labelledby"} & attrs.keys() for attrs in regions)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("summary") == tags.count("details") == 2
    charts = [attrs for tag, attrs in page.elements if tag == "svg" and attrs.get("role") == "img"]
    assert charts and all(attrs["aria-label"] for attrs in charts)


def test_each_currency_has_its_figures_and_its_incidents(tmp_path):
    rows = [
        ranked("yen", 9.0, billing_currency="JPY", excess_cost="5000", attributed_cost="5000"),
        ranked("dear", 1.0, excess_cost="900", attributed_cost="900"),
        ranked("cheap", 1.0, window=1, excess_cost="7", attributed_cost="7"),
    ]
    page = Page(report(tmp_path, **with_incidents(*rows)))
    assert "907.00 USD 2 incidents" in page.text and "5,000.00 JPY 1 incident" in page.text
    places = [page.text.index(title) for title in ("Incidents, USD", "Incidents, JPY")]
    assert places == sorted(places)
    of_usd, of_jpy = page.text[: places[1]], page.text[places[1] :]
    assert "dear" in of_usd and "cheap" in of_usd and "yen" not in of_usd
    assert "yen" in of_jpy and "dear" not in of_jpy
    # The dearest of each currency has the longest bar: no other currency's amount shortens it.
    full = [attrs for tag, attrs in page.elements if tag == "i" and attrs.get("style") == "width:100.0%"]
    assert len(full) == 2
    keys = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(keys) == len(set(keys))


def test_the_bill_is_shown_as_accounted_for_or_not(tmp_path):
    assert "equal to the last decimal" in Page(report(tmp_path, **RUN)).text
    leaky = [allocation("cart", "0.6", "1")]
    assert "0.4 is missing" in Page(report(tmp_path, cost_allocations=leaky)).text


def test_what_is_provisional_and_what_was_rejected_is_told(tmp_path):
    costs = [
        allocation("cart", "1", "1", cost_status="provisional"),
        allocation("cart", "2", "2", dimension="io"),
    ]
    text = Page(report(tmp_path, **(RUN | {"cost_allocations": costs}))).text
    assert "1 of 3 USD and 1 of 3 windows of incidents are provisional" in text
    assert "focus_charges no currency 2" in text


def test_an_empty_run_has_a_report(tmp_path):
    text = Page(report(tmp_path)).text
    assert "No window holds an anomaly." in text and "Every input record was used." in text


def test_a_large_run_gives_a_page_of_bounded_size(tmp_path, source):
    """Details stop where the page would grow too large, rows where there are too many; both say so."""
    element = json.loads(explained()["explanation"])["Elements"][0] | {"x_ResourceId": "node/" + "x" * 900}
    words = json.dumps({"Elements": [element] * 30})
    rows = [explained(f"service-{i:04d}", anomaly_id=f"{i}", explanation=words) for i in range(1_200)]
    costs = [allocation(f"service-{i % 40}", "0.01", "0.01", window_start=T0 + i // 40 * WINDOW) for i in range(10_000)]
    html = report(tmp_path, source, **with_incidents(*rows), cost_allocations=costs, trace_verdicts=[VERDICT])
    assert f"The {MOST_INCIDENTS} first of 1,200" in html
    assert html.count('<details class="incident"') == MOST_INCIDENTS
    assert "Its detail is left out: with it the page would be over 6 MB" in html
    assert MOST_DETAIL_CHARS * 0.9 < len(html) < 10_000_000


def test_a_long_incident_shows_its_first_windows_and_sums_up_all(tmp_path):
    rows = [ranked("cart", 1.0, window=i, excess_cost="1", attributed_cost="1") for i in range(MOST_WINDOWS + 7)]
    text = Page(report(tmp_path, ranked_anomalies=rows, incidents=[incident_of(*rows)])).text
    assert "7 later ones are in the table ranked_anomalies" in text
    assert (
        f"Together, USD {12 * (MOST_WINDOWS + 7):,} of" in text and f" {MOST_WINDOWS + 7} {MOST_WINDOWS + 7} –" in text
    )


def test_the_dearest_workloads_have_a_colour_and_the_rest_is_one_sum():
    rows = [{"otel_service_name": f"s{i:02d}", "bin_ms": 0, "cost": i} for i in range(1, 11)]
    rows += [{"otel_service_name": "__idle__", "bin_ms": 0, "cost": 99}]
    series = series_of(rows)
    assert [one.name for one in series] == [
        "s10", "s09", "s08", "s07", "s06", "s05", "s04", "s03", "2 other workloads", "idle",
    ]  # fmt: skip
    assert series[-2].total == 3 and series[-2].costs == {0: 3}


@pytest.mark.parametrize("days", [1, 2, 7, 31, 400])
def test_bins_are_whole_windows_and_never_too_many(days):
    step = step_for(0, days * 86_400_000)
    assert step % 1_800_000 == 0 and days * 86_400_000 / step <= MOST_BINS


def test_the_command_says_what_is_missing_in_one_line(tmp_path, capsys):
    assert main(["--tables", str(tmp_path), "--html", str(tmp_path / "r.html")]) == 1
    error = capsys.readouterr().err
    assert "ranked_anomalies.parquet: no such table" in error and error.count("\n") == 1
    write_outputs(tmp_path, **RUN)
    assert main(["--tables", str(tmp_path), "--html", str(tmp_path / "deep" / "r.html")]) == 0
    assert (tmp_path / "deep" / "r.html").is_file()


def test_a_watched_report_is_written_again_and_outlives_what_fails(tmp_path, monkeypatch, capsys):
    output, target = write_outputs(tmp_path / "output", **with_incidents(ranked("cart", 1.0))), tmp_path / "r.html"
    steps = iter([
        lambda: (output / "incidents.parquet").unlink(),
        lambda: write_outputs(output, **with_incidents(ranked("pay", 1.0))),
        lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    ])  # fmt: skip
    seen = []
    monkeypatch.setattr("time.sleep", lambda seconds: (seen.append(target.read_text("utf-8")), next(steps)()))
    assert main(["--tables", str(output), "--watch", "7", "--html", str(target)]) == 130
    assert ["cart's charge" in page for page in map(Page, seen) for page in [page.text]] == [True, True, False]
    assert "pay's charge" in Page(seen[2]).text and '<meta http-equiv="refresh" content="7">' in seen[2]
    assert capsys.readouterr().err.count("\n") == 1
    assert 'http-equiv="refresh" content' not in report(tmp_path, **RUN)


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["--html", "r.html"], 2, "--tables"),
        (["--tables", "x", "--html", "r.html", "--watch", "0"], 2, "a second or more"),
        (["--tables", "x", "--html", "r.html", "--since", "yesterday"], 2, "must be a time"),
        (["--tables", "x", "--html", "r.html", "--since", "2026-01-01T00:00"], 2, "time and its zone"),
        (["--tables", "x", "--html", "r.html", "--since", "2026-01-01"], 2, "as in 2026-01-01T00:00Z"),
        (["--tables", "x", "--html", "r.html", "--input", "nowhere"], 2, "--input nowhere: no such directory"),
        (["--tables", "postgresql://ann:secret@host/db", "--html", "r.html"], 2, "PGPASSWORD"),
        (["--tables", "postgresql://ann@127.0.0.1:9/db", "--html", "r.html"], 1, "127.0.0.1"),
    ],
)
def test_wrong_use_and_a_database_that_is_away_are_one_line(tmp_path, monkeypatch, capsys, arguments, status, said):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "secret" not in error


def test_what_is_left_out_is_said(tmp_path):
    """... and a page without cost does not call its bill complete."""
    target = tmp_path / "report.html"
    write_report(write_outputs(tmp_path / "output", **RUN), None, target, datetime(2030, 1, 1, tzinfo=UTC))
    later = Page(target.read_text(encoding="utf-8")).text
    assert "No cost and no anomaly in this run since 2030-01-01 00:00 UTC" in later
    assert "Nothing is provisional" not in later


def test_a_page_that_can_not_be_written_leaves_nothing(tmp_path):
    folder = write_outputs(tmp_path / "tables", **RUN)
    (tmp_path / "page").mkdir()
    with pytest.raises(OSError):
        write_report(Path(folder), None, tmp_path / "page")
    assert {path.name for path in tmp_path.iterdir()} == {"tables", "page"}
