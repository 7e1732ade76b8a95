"""The HTML report: what it shows, that names cannot become markup, and that it stays small."""

from __future__ import annotations

import gzip
import json
import re
from html.parser import HTMLParser

import orjson
import pytest

from jobs.report.chart import MOST_BINS, series_of, step_for
from jobs.report.page import main, write_report
from jobs.report.trace import abridge, call_tree, culprit_span, read_trace
from tests.unit.literal_tables import write_outputs
from tests.unit.test_terminal import RUN, T0, WINDOW, allocation, ranked
from udfs.pure.rank import rank_window

TRACE = "0af7651916cd43dd8448eb211c80319c"
MS = 1_000_000
T0_NS = T0 * MS

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


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
    assert sorted(s.span_id[-1] for s in read_trace(source, TRACE, None)) == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]
    assert read_trace(source, "0" * 31 + "1", None) == []


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


def test_the_top_anomaly_is_shown_with_its_tree_and_its_arithmetic(tmp_path, source):
    page = Page(report(tmp_path, source, ranked_anomalies=[explained()], trace_verdicts=[VERDICT]))
    assert "Top anomaly: payment" in page.text
    assert "node-1 cpu 2 8 Core-Seconds 0.25 0.04000000 0.01000000 SKU-CPU" in page.text
    assert "rate of 2026-01-04T23:00:00Z provisional" in page.text
    assert "mean trace score · log2(1 + anomalous traces) = 5.000000 · log2(1 + 3) = 10.000000" in page.text
    assert "α · ln(1 + c_s) = 10.000000 · ln(1 + 0.015) = 10.000000 · 0.014888612 = 0.148886120" in page.text
    assert "the shares sum to" not in page.text
    assert "5 spans in 100 ms, scored 7.5, threshold 3.5" in page.text
    culprits = [attrs for tag, attrs in page.elements if tag == "tr" and attrs.get("class") == "culprit"]
    assert len(culprits) == 1
    assert "payment charge culprit error 10 ms 80 ms 39 ms" in page.text


def test_the_arithmetic_is_read_from_what_the_ranking_explains(tmp_path):
    """The shape of ``explanation`` is rank's: a change there has to show here."""
    incident = {
        "otel_service_name": "payment", "anomalous_traces": 3, "scores": [4.0, 5.0, 6.0],
        "threshold": 3.5, "kinds": {"latency_spike": 3}, "affected": {"gateway": 2},
        "exemplars": [[6.0, TRACE]], "operations": {"charge": 3}, "model_versions": {"usual-1": 3},
        "excess_usage": {"payment": {"cpu": 0.5}}, "unexplained_usage": {}, "recurrence": [1, 60],
    }  # fmt: skip
    origin = {
        "billing_currency": "USD",
        "cost_status": "billed",
        "cost_center": None,
        "rate": None,
        "marginal_rate": "0.005",
        "marginal_basis": "capacity",
        "idle_policy": "proportional",
        "idle_share": None,
    }
    costs = [
        origin | {
            "resource_id": "node-1", "dimension": "cpu", "otel_service_name": "payment",
            "usage": 2.0, "total_usage": 8.0, "share": 0.25, "resource_cost": "0.04",
            "allocated_cost": "0.01", "charges": [{"sku_id": "SKU-CPU"}],
            "charge_period_end": T0 + 2 * WINDOW,
        },
    ]  # fmt: skip
    rows = rank_window(T0, [[incident]], [{"payment": 10}], costs)
    text = Page(report(tmp_path, ranked_anomalies=rows)).text
    assert "node-1 cpu 2 8 Core-Seconds 0.25 0.04000000 0.01000000 SKU-CPU billed" in text
    assert "payment cpu 0.5 Core-Seconds 0.005 capacity price 0.002500" in text
    assert "Of it 0.000000 changed the bill" in text
    assert "= 5.000000 · log2(1 + 3) = 10.000000" in text
    assert "ln(1 + 0.01) = 10.000000 · 0.009950331 = 0.099503309" in text


def test_shares_that_do_not_make_up_c_s_are_told(tmp_path):
    page = Page(report(tmp_path, ranked_anomalies=[explained(attributed_cost="0.016")]))
    assert "the shares sum to 0.015" in page.text


@pytest.mark.parametrize("explanation", [None, "", "not json", "[]", "{}", '{"Elements": [{}]}'])
def test_a_poor_explanation_leaves_the_rest_of_the_report(tmp_path, explanation):
    page = Page(report(tmp_path, ranked_anomalies=[explained(explanation=explanation)]))
    assert "Top anomaly: payment" in page.text


def test_a_credit_shows_the_formula_that_it_is_ranked_by(tmp_path):
    row = ranked("cart", -1.0, attributed_cost="-0.1051709", anomaly_score=10.0)
    assert "-α · ln(1 + |c_s|) = -10.000000 · ln(1 + 0.1051709)" in Page(report(tmp_path, ranked_anomalies=[row])).text


def test_no_value_from_outside_becomes_markup(tmp_path, source):
    """Every string column of every table, and every name in the trace, is hostile."""
    evil = {"gateway": GATEWAY, HOSTILE: [span(2, 1, HOSTILE, 10, 90)]}
    (source / "traces" / "c.jsonl").write_bytes(request(**evil))
    (source / "traces" / "b.jsonl").unlink()
    element = dict.fromkeys(("UsageUnit", "x_CostStatus", "x_Dimension", "x_ResourceId"), HOSTILE)
    element |= {"x_AllocatedCost": "0.015", "x_Charges": [{"sku_id": HOSTILE}]}
    row = explained(
        HOSTILE,
        explanation=json.dumps({"Elements": [element], HOSTILE: HOSTILE}),
        anomaly_id=HOSTILE, billing_currency=HOSTILE, cost_status=HOSTILE, anomaly_kind=HOSTILE,
        model_version=HOSTILE, affected_services=[HOSTILE, HOSTILE + "2"],
    )  # fmt: skip
    html = report(
        tmp_path,
        source,
        ranked_anomalies=[row],
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


def test_the_page_asks_nothing_of_anyone_and_allows_its_own_script_only(tmp_path):
    html = report(tmp_path, **RUN)
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
            **(RUN | {"ranked_anomalies": [explained()], "trace_verdicts": [VERDICT]}),
        )
    )
    regions = [attrs for _, attrs in page.elements if attrs.get("role") == "region"]
    assert len(regions) >= 3
    assert all(attrs.get("tabindex") == "0" for attrs in regions)
    assert all({"aria-label", "aria-labelledby"} & attrs.keys() for attrs in regions)
    assert [tag for tag, attrs in page.elements if attrs.get("aria-sort") == "descending"] == ["th"]
    charts = [attrs for tag, attrs in page.elements if tag == "svg" and attrs.get("role") == "img"]
    assert charts and all(attrs["aria-label"] for attrs in charts)


def test_each_currency_has_a_table_and_a_top_anomaly_of_its_own(tmp_path):
    rows = [
        ranked("yen", 9.0, billing_currency="JPY", excess_cost="5000", attributed_cost="5000"),
        ranked("dear", 1.0, excess_cost="900", attributed_cost="900"),
        ranked("cheap", 1.0, window=1, excess_cost="7", attributed_cost="7"),
    ]
    page = Page(report(tmp_path, ranked_anomalies=rows))
    titles = ["Ranked anomalies, USD", "Ranked anomalies, JPY", "Top anomaly, USD: dear", "Top anomaly, JPY: yen"]
    places = [page.text.index(title) for title in titles]
    assert places == sorted(places)
    of_usd, of_jpy = page.text[: places[1]], page.text[places[1] : places[2]]
    assert "dear" in of_usd and "cheap" in of_usd and "yen" not in of_usd
    assert "yen" in of_jpy and "dear" not in of_jpy
    # The dearest of each currency has the longest bar: no other currency's amount shortens it.
    full = [attrs for tag, attrs in page.elements if tag == "i" and attrs.get("style") == "width:100.0%"]
    assert len(full) == 2
    keys = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(keys) == len(set(keys))


def test_the_table_is_sorted_by_what_the_run_was_ranked_by(tmp_path):
    row = ranked("cart", 1.0, explanation=json.dumps({"x_RankedBy": "score"}))
    html = report(tmp_path, ranked_anomalies=[row])
    assert 'aria-sort="descending"><button type="button">S</button>' in html
    assert "By cost-weighted score S, the most first" in Page(html).text


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
    assert "1 of 3 USD and 1 of 3 ranked rows are provisional" in text
    assert "focus_charges no currency 2" in text


def test_an_empty_run_has_a_report(tmp_path):
    text = Page(report(tmp_path)).text
    assert "No window holds an anomaly." in text and "Every input record was used." in text


def test_a_large_run_gives_a_small_file(tmp_path):
    rows = [ranked(f"service-{i % 40}", i / 100, window=i // 40, explanation="x" * 500) for i in range(10_000)]
    costs = [allocation(f"service-{i % 40}", "0.01", "0.01", window_start=T0 + i // 40 * WINDOW) for i in range(10_000)]
    html = report(tmp_path, ranked_anomalies=rows, cost_allocations=costs)
    assert "The 200 highest of 10,000 rows" in html
    assert len(html.encode()) < 1_000_000


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
