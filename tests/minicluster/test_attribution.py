"""Literal usage and charges in, allocations out: the bounds of W, conservation, what nobody is tied to."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from tests.literal import (
    HOUR_MS,
    MINUTE_MS,
    NOON_MS,
    charge,
    cpu_gauge,
    iso,
    resource,
    span,
    span_request,
    write_bill,
    write_lines,
)


def _steady(cores: float, start_ms: int, end_ms: int) -> list[tuple[int, float]]:
    """A gauge that stands still, a point a minute, both ends included."""
    return [(t, cores) for t in range(start_ms, end_ms + 1, MINUTE_MS)]


def _rows(table) -> dict[tuple[str, str, str, str], dict]:
    return {
        (
            row["window_start"].strftime("%H:%M"),
            row["resource_id"],
            row["dimension"],
            row["otel_service_name"],
        ): row
        for row in table.to_pylist()
    }


def test_an_hour_is_split_by_window_and_usage(job, tmp_path: Path) -> None:
    """cart uses 1 core all hour, search 3 cores in the first half only: 1/4, 3/4, then all."""
    write_lines(
        tmp_path / "in/metrics/a.jsonl",
        [
            cpu_gauge(resource("cart", "cart-1", "node-1"), _steady(1.0, NOON_MS, NOON_MS + HOUR_MS)),
            cpu_gauge(
                resource("search", "search-1", "node-1"),
                _steady(3.0, NOON_MS, NOON_MS + HOUR_MS // 2),
            ),
        ],
    )
    write_bill(
        tmp_path / "in/billing/bill.csv",
        [charge("node-1", NOON_MS, NOON_MS + HOUR_MS, "0.800000000001")],
    )
    rows = _rows(job(tmp_path / "in")["cost_allocations"])

    assert {key: row["allocated_cost"] for key, row in rows.items()} == {
        # The odd 1e-12 goes to the earlier window, and there to the largest remainder.
        ("12:00", "node-1", "cpu", "cart"): Decimal("0.100000000000"),
        ("12:00", "node-1", "cpu", "search"): Decimal("0.300000000001"),
        ("12:30", "node-1", "cpu", "cart"): Decimal("0.400000000000"),
    }
    first = rows["12:00", "node-1", "cpu", "search"]
    assert first["usage"] == 3.0 * 1800
    assert first["total_usage"] == 4.0 * 1800
    assert first["share"] == 0.75
    assert first["resource_cost"] == Decimal("0.400000000001")
    assert first["cost_status"] == "billed"


def test_what_cannot_be_tied_is_named_and_conserved(job, tmp_path: Path) -> None:
    """No telemetry, no resource id, nobody's usage, the cluster's own, an unused window: all is accounted for."""
    end_ms = NOON_MS + HOUR_MS // 2
    write_lines(
        tmp_path / "in/metrics/a.jsonl",
        [
            cpu_gauge(resource("cart", "cart-1", "node-1"), _steady(1.0, NOON_MS, end_ms)),
            cpu_gauge(resource(None, "stray-1", "node-1"), _steady(1.0, NOON_MS, end_ms)),
            cpu_gauge(resource(None, "proxy-1", "node-1", "kube-system"), _steady(1.5, NOON_MS, end_ms)),
            # What says whose it is, is its own, wherever it runs.
            cpu_gauge(resource("dns", "dns-1", "node-1", "kube-system"), _steady(0.5, NOON_MS, end_ms)),
        ],
    )
    bill = [
        charge("node-1", NOON_MS, end_ms, "1"),
        charge("node-1", NOON_MS + HOUR_MS // 2, NOON_MS + HOUR_MS, "2"),
        charge("disk-1", NOON_MS, end_ms, "0.4", unit="GB-Months", ServiceCategory="Storage"),
        charge(None, NOON_MS, end_ms, "-0.25", unit=None, ChargeCategory="Credit"),
    ]
    write_bill(tmp_path / "in/billing/bill.csv", bill)
    rows = _rows(job(tmp_path / "in")["cost_allocations"])

    assert {key: row["allocated_cost"] for key, row in rows.items()} == {
        ("12:00", "node-1", "cpu", "cart"): Decimal("0.25"),
        ("12:00", "node-1", "cpu", "__unallocated__"): Decimal("0.25"),
        ("12:00", "node-1", "cpu", "__system__"): Decimal("0.375"),
        ("12:00", "node-1", "cpu", "dns"): Decimal("0.125"),
        ("12:30", "node-1", "cpu", "__idle__"): Decimal(2),
        ("12:00", "disk-1", "other", "__unallocated__"): Decimal("0.4"),
        ("12:00", "__no_resource__", "other", "__unallocated__"): Decimal("-0.25"),
    }


def test_a_pod_that_metrics_do_not_name_is_known_from_its_spans(job, tmp_path: Path) -> None:
    """A metric with the pod's name alone gets workload and node from the spans of that pod."""
    end_ms = NOON_MS + HOUR_MS // 2
    write_lines(
        tmp_path / "in/metrics/a.jsonl",
        [cpu_gauge(resource(None, "cart-1"), _steady(1.0, NOON_MS, end_ms))],
    )
    write_lines(
        tmp_path / "in/traces/a.jsonl",
        [span_request((resource("cart", "cart-1", "node-1"), [span(1, 1, None, NOON_MS, 5)]))],
    )
    write_bill(tmp_path / "in/billing/bill.csv", [charge("node-1", NOON_MS, end_ms, "1")])
    rows = _rows(job(tmp_path / "in")["cost_allocations"])
    assert {key: row["allocated_cost"] for key, row in rows.items()} == {("12:00", "node-1", "cpu", "cart"): Decimal(1)}


def test_a_trace_belongs_to_the_window_of_its_first_span(job, tmp_path: Path) -> None:
    """A trace that starts 1 ms before the bound and ends after it, in two requests, the later one first."""
    start_ms = NOON_MS + HOUR_MS // 2 - 1
    cart, front = resource("cart", "cart-1", "n"), resource("frontend", "front-1", "n")
    write_lines(
        tmp_path / "in/traces/a.jsonl.gz",
        [
            span_request((cart, [span(1, 2, 1, start_ms + 5, 20)])),
            span_request((front, [span(1, 1, None, start_ms, 40)])),
            # The same request once more, as a Collector that retries sends it.
            span_request((front, [span(1, 1, None, start_ms, 40)])),
        ],
    )
    verdicts = job(tmp_path / "in")["trace_verdicts"].to_pylist()
    assert len(verdicts) == 1
    assert verdicts[0]["trace_id"] == f"{1:032x}"
    assert verdicts[0]["span_count"] == 2
    assert verdicts[0]["root_service_name"] == "frontend"
    assert int(verdicts[0]["start_time"].timestamp() * 1000) == start_ms
    assert verdicts[0]["verdict_state"] == "warming"


def test_a_bill_alone_and_spans_alone_are_enough(job, tmp_path: Path) -> None:
    """... and a folder may have any name."""
    write_bill(tmp_path / "bill/billing/bill.csv", [charge("node-1", NOON_MS, NOON_MS + HOUR_MS, "1")])
    write_lines(
        tmp_path / "O'Brien & co/traces/a.jsonl",
        [span_request((resource("cart"), [span(7, 1, None, NOON_MS, 5)]))],
    )
    bill = job(tmp_path / "bill")
    assert sum(bill["cost_allocations"]["allocated_cost"].to_pylist()) == Decimal(1)
    assert bill["trace_verdicts"].num_rows == 0
    spans = job(tmp_path / "O'Brien & co")
    assert spans["trace_verdicts"].num_rows == 1
    assert spans["cost_allocations"].num_rows == 0


def test_the_unusable_is_rejected_once_and_the_rest_of_its_request_is_used(job, tmp_path: Path) -> None:
    good, backwards = span(1, 1, None, NOON_MS, 5), span(2, 1, None, NOON_MS, -5)
    request = span_request((resource("cart", "cart-1", "n"), [good, backwards]))
    write_lines(tmp_path / "in/traces/a.jsonl", [request, b"{ not json", b""])
    write_lines(tmp_path / "in/traces/b.jsonl", [b"{ not json", request])
    write_bill(
        tmp_path / "in/billing/bill.csv",
        [
            charge("node-1", NOON_MS, NOON_MS + HOUR_MS, "1"),
            charge("node-1", NOON_MS, NOON_MS - HOUR_MS, "1"),
        ],
    )
    result = job(tmp_path / "in")
    assert result["trace_verdicts"]["trace_id"].to_pylist() == [f"{1:032x}"]
    assert sum(result["cost_allocations"]["allocated_cost"].to_pylist()) == Decimal(1)
    rejected = result["rejected_records"].to_pylist()
    assert [row["stream"] for row in rejected] == ["focus_charges", "otlp_spans", "otlp_spans"]
    assert {row["payload"][:9] for row in rejected[1:]} >= {"{ not jso"}
    assert all(row["reason"] and row["rejected_at"] for row in rejected)
    assert iso(NOON_MS - HOUR_MS) in rejected[0]["payload"]


def test_currencies_are_kept_apart(job, tmp_path: Path) -> None:
    """Two currencies on one resource and window: neither row takes the other's place."""
    end_ms = NOON_MS + HOUR_MS // 2
    bill = [
        charge(None, NOON_MS, end_ms, "1", ChargeCategory="Tax"),
        charge(None, NOON_MS, end_ms, "2", ChargeCategory="Tax", BillingCurrency="EUR"),
    ]
    write_bill(tmp_path / "in/billing/bill.csv", bill)
    rows = job(tmp_path / "in")["cost_allocations"].to_pylist()
    assert {row["billing_currency"]: row["allocated_cost"] for row in rows} == {
        "EUR": Decimal(2),
        "USD": Decimal(1),
    }


def _counter(owner: dict, uid: str, points: list[tuple[int, float]]) -> dict:
    """An ExportMetricsServiceRequest with k8s.pod.cpu.time of a pod of that uid."""
    attribute = {"key": "k8s.pod.uid", "value": {"stringValue": uid}}
    data = [{"timeUnixNano": str(t * 1_000_000), "asDouble": seconds} for t, seconds in points]
    metric = {"name": "k8s.pod.cpu.time", "unit": "s", "sum": {
        "dataPoints": data, "aggregationTemporality": 2, "isMonotonic": True,
    }}  # fmt: skip
    pod = {"attributes": [*owner["attributes"], attribute]}
    return {"resourceMetrics": [{"resource": pod, "scopeMetrics": [{"metrics": [metric]}]}]}


def test_a_pod_that_moves_and_a_counter_that_resets_are_used_where_and_as_much_as_they_are(job, tmp_path: Path) -> None:
    """cart-0 runs on node-1, then under another uid on node-2, its counter from 0 again; search-1 restarts."""
    half_ms = NOON_MS + HOUR_MS // 2
    until_ms = NOON_MS + HOUR_MS
    first = [(t, (t - NOON_MS) / 1000) for t in range(NOON_MS, half_ms + 1, MINUTE_MS)]
    second = [(t, 2 * (t - half_ms) / 1000) for t in range(half_ms, until_ms + 1, MINUTE_MS)]
    restart_ms = half_ms + 10 * MINUTE_MS
    restarted = [
        (t, (t - (restart_ms if t > restart_ms else NOON_MS)) / 1000) for t in range(NOON_MS, until_ms + 1, MINUTE_MS)
    ]
    write_lines(
        tmp_path / "in/metrics/a.jsonl",
        [
            _counter(resource("cart", "cart-0", "node-2"), "u2", second),
            _counter(resource("search", "search-1", "node-2"), "s", restarted),
            _counter(resource("cart", "cart-0", "node-1"), "u1", first),
        ],
    )
    bill = [charge(node, NOON_MS, until_ms, "0.6") for node in ("node-1", "node-2")]
    write_bill(tmp_path / "in/billing/bill.csv", bill)
    rows = _rows(job(tmp_path / "in")["cost_allocations"])
    assert {key: row["allocated_cost"] for key, row in rows.items()} == {
        ("12:00", "node-1", "cpu", "cart"): Decimal("0.3"),
        ("12:30", "node-1", "cpu", "__idle__"): Decimal("0.3"),
        ("12:00", "node-2", "cpu", "search"): Decimal("0.3"),
        ("12:30", "node-2", "cpu", "cart"): Decimal("0.2"),
        ("12:30", "node-2", "cpu", "search"): Decimal("0.1"),
    }
    assert rows["12:30", "node-2", "cpu", "search"]["usage"] == 1800


def test_a_bill_is_restated_and_what_has_none_is_provisional(job, tmp_path: Path) -> None:
    """A later snapshot of node-1's hour, a correction of node-2's, and node-3 without any bill yet."""
    end_ms = NOON_MS + HOUR_MS
    later_ms = end_ms + HOUR_MS
    write_lines(
        tmp_path / "in/metrics/a.jsonl",
        [cpu_gauge(resource("cart", f"cart-{n}", f"node-{n}"), _steady(1.0, NOON_MS, end_ms)) for n in (1, 2)]
        + [cpu_gauge(resource("cart", "cart-3", "node-3"), _steady(0.5, end_ms, later_ms))],
    )
    first = [charge(f"node-{n}", NOON_MS, end_ms, "0.8") for n in (1, 2)]
    write_bill(tmp_path / "in/billing/2025-03-03.csv", first)
    write_bill(tmp_path / "in/billing/2025-03-04.csv", [first[0] | {"EffectiveCost": "0.6"}, first[1]])
    correction = first[1] | {"ChargeClass": "Correction", "EffectiveCost": "-0.2"}
    for delivery in ("2025-04-01", "2025-04-02"):
        write_bill(tmp_path / f"in/billing/{delivery}.csv", [correction])
    rows = _rows(job(tmp_path / "in")["cost_allocations"])
    assert {key[:2]: (row["allocated_cost"], row["cost_status"]) for key, row in rows.items()} == {
        ("12:00", "node-1"): (Decimal("0.3"), "corrected"),
        ("12:30", "node-1"): (Decimal("0.3"), "corrected"),
        ("12:00", "node-2"): (Decimal("0.3"), "corrected"),
        ("12:30", "node-2"): (Decimal("0.3"), "corrected"),
        # Half a core at the SKU's latest rate: of one vCPU-Hour at noon, 0.8 or 0.6, the dearer.
        ("13:00", "node-3"): (Decimal("0.2"), "provisional"),
        ("13:30", "node-3"): (Decimal("0.2"), "provisional"),
    }


def test_idle_is_named_and_currencies_are_converted_where_that_is_asked_for(job, tmp_path: Path) -> None:
    """Half of one vCPU is used; yen have no rate."""
    end_ms = NOON_MS + HOUR_MS
    write_lines(
        tmp_path / "in/metrics/a.jsonl",
        [cpu_gauge(resource("cart", "cart-1", "node-1"), _steady(0.5, NOON_MS, end_ms))],
    )
    tax = charge(None, NOON_MS, NOON_MS + HOUR_MS // 2, "7", ChargeCategory="Tax", BillingCurrency="JPY")
    write_bill(
        tmp_path / "in/billing/bill.csv",
        [charge("node-1", NOON_MS, end_ms, "0.8", BillingCurrency="USD"), tax],
    )
    (tmp_path / "fx.csv").write_text("from,to,rate,valid_from\nUSD,EUR,0.5,2025-03-01\n")
    settings = ("idle.policy=none", f"currency.rates={tmp_path}/fx.csv", "currency.target=EUR")
    rows = _rows(job(tmp_path / "in", *settings)["cost_allocations"])
    assert {key: (row["allocated_cost"], row["billing_currency"]) for key, row in rows.items()} == {
        ("12:00", "node-1", "cpu", "cart"): (Decimal("0.1"), "EUR"),
        ("12:00", "node-1", "cpu", "__idle__"): (Decimal("0.1"), "EUR"),
        ("12:30", "node-1", "cpu", "cart"): (Decimal("0.1"), "EUR"),
        ("12:30", "node-1", "cpu", "__idle__"): (Decimal("0.1"), "EUR"),
        ("12:00", "__no_resource__", "other", "__unallocated__"): (Decimal("7"), "JPY"),
    }
