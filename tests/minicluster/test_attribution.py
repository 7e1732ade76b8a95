"""Literal usage and charges in, allocations out: the bounds of W, conservation, what nobody is tied to.

One world holds the records of all cases, and the engine reads it once (``tables``). Each case names its nodes, pods,
traces and files after itself and has a SKU of its own, so that no case changes the rows of another. Cases that need
other settings, or an input of their own, run the job themselves: they are slow.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from tests.bills import SAMPLE, SAMPLE_COST
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
from tests.minicluster.shop import write_shop
from tests.services import ROOT

Rows = dict[tuple[str, str, str, str], dict]

SCALE_SET = "/subscriptions/1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachineScaleSets/pool"

# What writes the records of a case into the world's folder.
CASES: list[Callable[[Path], None]] = [write_shop]


def in_the_world(case: Callable[[Path], None]) -> Callable[[Path], None]:
    """The world of ``tables`` holds these records, too."""
    CASES.append(case)
    return case


@pytest.fixture(scope="session")
def tables(job, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The job's tables over the world of all cases; its folder has a name that needs quoting."""
    world = tmp_path_factory.mktemp("world") / "O'Brien & co"
    for case in CASES:
        case(world)
    return job(world)


def _steady(cores: float, start_ms: int, end_ms: int) -> list[tuple[int, float]]:
    """A gauge that stands still, a point a minute, both ends included."""
    return [(t, cores) for t in range(start_ms, end_ms + 1, MINUTE_MS)]


def _charge(node: str, start_ms: int, end_ms: int, cost: str, **more) -> dict[str, str | None]:
    """A charge of ``node`` alone: its SKU's rate is no other node's."""
    return charge(node, start_ms, end_ms, cost, **{"SkuId": f"sku-{node}"} | more)


def _rows(table, *cases: str) -> Rows:
    """Allocations by window, resource, dimension and workload, of the resources whose names begin with a case's."""
    return {
        (
            row["window_start"].strftime("%H:%M"),
            row["resource_id"],
            row["dimension"],
            row["otel_service_name"],
        ): row
        for row in table.to_pylist()
        if row["resource_id"].startswith(cases)
    }


@in_the_world
def backup(world: Path) -> None:
    """A folder of another one's traces, which is no input."""
    write_lines(
        world / "backup/traces/old.jsonl",
        [span_request((resource("backup"), [span(0xBAC0, 1, None, NOON_MS, 5)]))],
    )


def test_only_the_folders_of_the_input_are_read(tables) -> None:
    assert f"{0xBAC0:032x}" not in tables["trace_verdicts"]["trace_id"].to_pylist()


@in_the_world
def split(world: Path) -> None:
    """cart uses 1 core all hour, search 3 cores in the first half only."""
    write_lines(
        world / "metrics/split.jsonl",
        [
            cpu_gauge(resource("cart", "split-cart-1", "split-1"), _steady(1.0, NOON_MS, NOON_MS + HOUR_MS)),
            cpu_gauge(resource("search", "split-search-1", "split-1"), _steady(3.0, NOON_MS, NOON_MS + HOUR_MS // 2)),
        ],
    )
    write_bill(world / "billing/split.csv", [_charge("split-1", NOON_MS, NOON_MS + HOUR_MS, "0.800000000001")])


def test_an_hour_is_split_by_window_and_usage(tables) -> None:
    """1/4, 3/4, then all."""
    rows = _rows(tables["cost_allocations"], "split-")

    assert {key: row["allocated_cost"] for key, row in rows.items()} == {
        # The odd 1e-12 goes to the earlier window, and there to the largest remainder.
        ("12:00", "split-1", "cpu", "cart"): Decimal("0.100000000000"),
        ("12:00", "split-1", "cpu", "search"): Decimal("0.300000000001"),
        ("12:30", "split-1", "cpu", "cart"): Decimal("0.400000000000"),
    }
    first = rows["12:00", "split-1", "cpu", "search"]
    assert first["usage"] == 3.0 * 1800
    assert first["total_usage"] == 4.0 * 1800
    assert first["share"] == 0.75
    assert first["resource_cost"] == Decimal("0.400000000001")
    assert first["cost_status"] == "billed"


@in_the_world
def centered(world: Path) -> None:
    """cart's telemetry tells its cost centre in its spans, search's doesn't; two of its pods contradict each other."""
    end_ms = NOON_MS + HOUR_MS // 2
    center = {"service.instance.cost_center.id": "4711"}
    other = {"service.instance.cost_center.id": "4712"}
    write_lines(
        world / "traces/centered.jsonl",
        [span_request((resource("cart", "centered-cart-1", more=center), [span(0xCE00, 1, None, NOON_MS, 5)]))],
    )
    write_lines(
        world / "metrics/centered.jsonl",
        [
            cpu_gauge(resource("cart", "centered-cart-1", "centered-1"), _steady(1.0, NOON_MS, end_ms)),
            cpu_gauge(resource("search", "centered-search-1", "centered-1"), _steady(1.0, NOON_MS, end_ms)),
            cpu_gauge(resource("ads", "centered-ads-1", "centered-1", more=center), _steady(1.0, NOON_MS, end_ms)),
            cpu_gauge(resource("ads", "centered-ads-2", "centered-1", more=other), _steady(1.0, NOON_MS, end_ms)),
            cpu_gauge(resource("search", "centered-search-2", "centered-2"), _steady(1.0, NOON_MS, end_ms)),
        ],
    )
    tags = '{"user:Cost-Center": "infra", "team": "x"}'
    bill = [_charge("centered-1", NOON_MS, end_ms, "4", Tags=tags), _charge("centered-2", NOON_MS, end_ms, "1")]
    write_bill(world / "billing/centered.csv", bill)


def test_a_cost_has_a_centre_by_its_telemetry_else_by_the_bill(tables) -> None:
    rows = _rows(tables["cost_allocations"], "centered-")
    assert {key[1:2] + key[3:]: (row["cost_center"], row["allocated_cost"]) for key, row in rows.items()} == {
        ("centered-1", "cart"): ("4711", 1),
        ("centered-1", "search"): ("infra", 1),
        ("centered-1", "ads"): ("infra", 2),
        ("centered-2", "search"): (None, 1),
    }


def test_costs_by_centre_sum_to_the_costs(tables) -> None:
    """Of allocations and of unit costs; a service has one where all that is allocated to it has one."""
    by_center: dict[str, dict[str | None, Decimal]] = {}
    for name, column in (("cost_allocations", "allocated_cost"), ("unit_costs", "cost")):
        sums: dict[str | None, Decimal] = defaultdict(Decimal)
        for row in tables[name].to_pylist():
            sums[row["cost_center"]] += row[column]
        by_center[name] = sums
    assert {"4711", "infra", None} <= by_center["cost_allocations"].keys()
    assert sum(by_center["cost_allocations"].values()) == sum(by_center["unit_costs"].values())


@in_the_world
def spelt(world: Path) -> None:
    """One machine, in the bill by its ARN and in the telemetry by its id, or by the node's providerID."""
    by_id, by_node = (
        {"host.id": "i-0bad0cafe0bad0caf"},
        {"k8s.node.provider_id": "aws:///eu-west-1a/i-0bad0cafe0bad0caf"},
    )
    points = _steady(1.0, NOON_MS, NOON_MS + HOUR_MS // 2)
    write_lines(
        world / "metrics/spelt.jsonl",
        [
            cpu_gauge(resource("cart", "spelt-cart-1", more=by_id), points),
            cpu_gauge(resource("search", "spelt-search-1", "ip-10-0-0-7", more=by_node), points),
        ],
    )
    arn = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0bad0cafe0bad0caf"
    write_bill(world / "billing/spelt.csv", [_charge(arn, NOON_MS, NOON_MS + HOUR_MS // 2, "0.300000000001")])


def test_a_machine_meets_its_bill_in_whatever_words(tables) -> None:
    rows = _rows(tables["cost_allocations"], "i-0bad0cafe")
    assert {key: row["allocated_cost"] for key, row in rows.items()} == {
        ("12:00", "i-0bad0cafe0bad0caf", "cpu", "cart"): Decimal("0.150000000001"),
        ("12:00", "i-0bad0cafe0bad0caf", "cpu", "search"): Decimal("0.150000000000"),
    }


@pytest.mark.slow
def test_machines_of_a_pool_meet_its_bill_by_an_alias(job, tmp_path: Path) -> None:
    """Whose id doesn't say that it is one: by use."""
    write_lines(
        tmp_path / "in/metrics/a.jsonl",
        [
            cpu_gauge(resource(name, f"{name}-1", f"blue-{number}"), _steady(cores, NOON_MS, NOON_MS + HOUR_MS // 2))
            for number, (name, cores) in enumerate({"cart": 1.0, "search": 3.0}.items())
        ],
    )
    write_bill(tmp_path / "in/billing/a.csv", [charge("pool/blue", NOON_MS, NOON_MS + HOUR_MS // 2, "4.000000000004")])
    (tmp_path / "aliases.csv").write_text("billed_id,observed_id\npool/blue,blue-*\n")
    found = job(tmp_path / "in", f"resources.aliases={tmp_path / 'aliases.csv'}")["cost_allocations"].to_pylist()
    assert {(row["resource_id"], row["otel_service_name"]): row["allocated_cost"] for row in found} == {
        ("pool/blue", "cart"): Decimal("1.000000000001"),
        ("pool/blue", "search"): Decimal("3.000000000003"),
    }


@in_the_world
def pool(world: Path) -> None:
    """A scale set of two nodes, the bigger of which is hardly used."""
    write_lines(
        world / "metrics/pool.jsonl",
        [
            cpu_gauge(
                resource(name, f"{name}-pool", f"pool-{number}", more={
                    "k8s.node.provider_id": f"azure://{SCALE_SET}/virtualMachines/{number}",
                    "host.type": f"Standard_D{4 * number}s_v5",
                }),
                _steady(cores, NOON_MS, NOON_MS + HOUR_MS // 2),
            )
            for number, (name, cores) in enumerate({"cart": 3.0, "search": 0.1}.items(), 1)
        ],
    )  # fmt: skip
    write_bill(
        world / "billing/pool.csv", [charge(SCALE_SET.upper(), NOON_MS, NOON_MS + HOUR_MS // 2, "6.000000000005")]
    )


def test_machines_of_a_set_meet_its_bill_by_rule_and_share_it_by_their_cores(tables) -> None:
    rows = _rows(tables["cost_allocations"], SCALE_SET)
    assert {key[3]: row["allocated_cost"] for key, row in rows.items()} == {
        "cart": Decimal("2.000000000002"),
        "search": Decimal("4.000000000003"),
    }


@in_the_world
def untied(world: Path) -> None:
    """No telemetry, no resource id, nobody's usage, the cluster's own, an unused window."""
    end_ms = NOON_MS + HOUR_MS // 2
    node = "untied-1"
    write_lines(
        world / "metrics/untied.jsonl",
        [
            cpu_gauge(resource("cart", "untied-cart-1", node), _steady(1.0, NOON_MS, end_ms)),
            cpu_gauge(resource(None, "untied-stray-1", node), _steady(1.0, NOON_MS, end_ms)),
            cpu_gauge(resource(None, "untied-proxy-1", node, "kube-system"), _steady(1.5, NOON_MS, end_ms)),
            # What says whose it is, is its own, wherever it runs.
            cpu_gauge(resource("dns", "untied-dns-1", node, "kube-system"), _steady(0.5, NOON_MS, end_ms)),
        ],
    )
    bill = [
        _charge(node, NOON_MS, end_ms, "1"),
        _charge(node, NOON_MS + HOUR_MS // 2, NOON_MS + HOUR_MS, "2"),
        _charge("untied-disk", NOON_MS, end_ms, "0.4", unit="GB-Months", ServiceCategory="Storage"),
        charge(None, NOON_MS, end_ms, "-0.25", unit=None, ChargeCategory="Credit"),
    ]
    write_bill(world / "billing/untied.csv", bill)


def test_what_cannot_be_tied_is_named_and_conserved(tables) -> None:
    """... all is accounted for."""
    rows = _rows(tables["cost_allocations"], "untied-")
    rows |= {key: row for key, row in _rows(tables["cost_allocations"], "__no_").items() if key[0] == "12:00"}
    assert {key: row["allocated_cost"] for key, row in rows.items()} == {
        ("12:00", "untied-1", "cpu", "cart"): Decimal("0.25"),
        ("12:00", "untied-1", "cpu", "__unallocated__"): Decimal("0.25"),
        ("12:00", "untied-1", "cpu", "__system__"): Decimal("0.375"),
        ("12:00", "untied-1", "cpu", "dns"): Decimal("0.125"),
        ("12:30", "untied-1", "cpu", "__idle__"): Decimal(2),
        ("12:00", "untied-disk", "other", "__unallocated__"): Decimal("0.4"),
        ("12:00", "__no_resource__", "other", "__unallocated__"): Decimal("-0.25"),
    }


@in_the_world
def unnamed(world: Path) -> None:
    """A metric with the pod's name alone, and spans of that pod."""
    end_ms = NOON_MS + HOUR_MS // 2
    write_lines(
        world / "metrics/unnamed.jsonl",
        [cpu_gauge(resource(None, "unnamed-cart-1"), _steady(1.0, NOON_MS, end_ms))],
    )
    owner = resource("cart", "unnamed-cart-1", "unnamed-1")
    write_lines(world / "traces/unnamed.jsonl", [span_request((owner, [span(1001, 1, None, NOON_MS, 5)]))])
    write_bill(world / "billing/unnamed.csv", [_charge("unnamed-1", NOON_MS, end_ms, "1")])


def test_a_pod_that_metrics_do_not_name_is_known_from_its_spans(tables) -> None:
    """It gets workload and node from them."""
    rows = _rows(tables["cost_allocations"], "unnamed-")
    assert {key: row["allocated_cost"] for key, row in rows.items()} == {
        ("12:00", "unnamed-1", "cpu", "cart"): Decimal(1)
    }


# 1 ms before the bound of a window; the trace ends after it.
BEFORE_THE_BOUND_MS = NOON_MS + HOUR_MS // 2 - 1


@in_the_world
def across(world: Path) -> None:
    """A trace that starts 1 ms before the bound and ends after it, in two requests, the later one first."""
    start_ms = BEFORE_THE_BOUND_MS
    backend, front = resource("across-backend", "across-1", "n"), resource("across-frontend", "across-2", "n")
    write_lines(
        world / "traces/across.jsonl.gz",
        [
            span_request((backend, [span(1002, 2, 1, start_ms + 5, 20)])),
            span_request((front, [span(1002, 1, None, start_ms, 40)])),
            # The same request once more, as a Collector that retries sends it.
            span_request((front, [span(1002, 1, None, start_ms, 40)])),
        ],
    )


def test_a_trace_belongs_to_the_window_of_its_first_span(tables) -> None:
    verdicts = [row for row in tables["trace_verdicts"].to_pylist() if row["trace_id"] == f"{1002:032x}"]
    assert len(verdicts) == 1
    assert verdicts[0]["span_count"] == 2
    assert verdicts[0]["root_service_name"] == "across-frontend"
    assert int(verdicts[0]["start_time"].timestamp() * 1000) == BEFORE_THE_BOUND_MS
    assert verdicts[0]["verdict_state"] == "warming"


@pytest.mark.slow
def test_a_bill_alone_and_spans_alone_are_enough(job, tmp_path: Path) -> None:
    write_bill(tmp_path / "bill/billing/bill.csv", [charge("node-1", NOON_MS, NOON_MS + HOUR_MS, "1")])
    write_lines(
        tmp_path / "spans/traces/a.jsonl",
        [span_request((resource("cart"), [span(7, 1, None, NOON_MS, 5)]))],
    )
    bill = job(tmp_path / "bill")
    assert sum(bill["cost_allocations"]["allocated_cost"].to_pylist()) == Decimal(1)
    assert bill["trace_verdicts"].num_rows == 0
    spans = job(tmp_path / "spans")
    assert spans["trace_verdicts"].num_rows == 1
    assert spans["cost_allocations"].num_rows == 0


@in_the_world
def unusable(world: Path) -> None:
    """A span and a charge that end before they start, beside good ones; a line that isn't JSON, in two files."""
    good, backwards = span(1003, 1, None, NOON_MS, 5), span(1004, 1, None, NOON_MS, -5)
    request = span_request((resource("cart", "unusable-1", "n"), [good, backwards]))
    write_lines(world / "traces/unusable-a.jsonl", [request, b"{ not json", b""])
    write_lines(world / "traces/unusable-b.jsonl", [b"{ not json", request])
    write_bill(
        world / "billing/unusable.csv",
        [
            _charge("unusable-1", NOON_MS, NOON_MS + HOUR_MS, "1"),
            _charge("unusable-1", NOON_MS, NOON_MS - HOUR_MS, "1"),
        ],
    )


def test_the_unusable_is_rejected_once_and_the_rest_of_its_request_is_used(tables) -> None:
    traces = tables["trace_verdicts"]["trace_id"].to_pylist()
    assert [trace for trace in traces if trace in (f"{1003:032x}", f"{1004:032x}")] == [f"{1003:032x}"]
    allocated = _rows(tables["cost_allocations"], "unusable-").values()
    assert sum(row["allocated_cost"] for row in allocated) == Decimal(1)
    rejected = tables["rejected_records"].to_pylist()
    assert [row["stream"] for row in rejected] == ["focus_charges", "otlp_spans", "otlp_spans"]
    assert {row["payload"][:9] for row in rejected[1:]} >= {"{ not jso"}
    assert all(row["reason"] and row["rejected_at"] for row in rejected)
    assert iso(NOON_MS - HOUR_MS) in rejected[0]["payload"]


@in_the_world
def currencies(world: Path) -> None:
    """Two currencies on one resource and window."""
    start_ms, end_ms = NOON_MS + HOUR_MS // 2, NOON_MS + HOUR_MS
    bill = [
        charge(None, start_ms, end_ms, "1", ChargeCategory="Tax"),
        charge(None, start_ms, end_ms, "2", ChargeCategory="Tax", BillingCurrency="EUR"),
    ]
    write_bill(world / "billing/currencies.csv", bill)


def test_currencies_are_kept_apart(tables) -> None:
    """Neither row takes the other's place."""
    rows = [row for row in tables["cost_allocations"].to_pylist() if row["resource_id"] == "__no_resource__"]
    assert {
        row["billing_currency"]: row["allocated_cost"] for row in rows if row["window_start"].strftime("%M") == "30"
    } == {
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


@in_the_world
def moved(world: Path) -> None:
    """cart-0 runs on node 1, then under another uid on node 2, its counter from 0 again; search-1 restarts."""
    half_ms = NOON_MS + HOUR_MS // 2
    until_ms = NOON_MS + HOUR_MS
    first = [(t, (t - NOON_MS) / 1000) for t in range(NOON_MS, half_ms + 1, MINUTE_MS)]
    second = [(t, 2 * (t - half_ms) / 1000) for t in range(half_ms, until_ms + 1, MINUTE_MS)]
    restart_ms = half_ms + 10 * MINUTE_MS
    restarted = [
        (t, (t - (restart_ms if t > restart_ms else NOON_MS)) / 1000) for t in range(NOON_MS, until_ms + 1, MINUTE_MS)
    ]
    write_lines(
        world / "metrics/moved.jsonl",
        [
            _counter(resource("cart", "moved-cart-0", "moved-2"), "u2", second),
            _counter(resource("search", "moved-search-1", "moved-2"), "s", restarted),
            _counter(resource("cart", "moved-cart-0", "moved-1"), "u1", first),
        ],
    )
    bill = [_charge(node, NOON_MS, until_ms, "0.6") for node in ("moved-1", "moved-2")]
    write_bill(world / "billing/moved.csv", bill)


def test_a_pod_that_moves_and_a_counter_that_resets_are_used_where_and_as_much_as_they_are(tables) -> None:
    rows = _rows(tables["cost_allocations"], "moved-")
    assert {key: row["allocated_cost"] for key, row in rows.items()} == {
        ("12:00", "moved-1", "cpu", "cart"): Decimal("0.3"),
        ("12:30", "moved-1", "cpu", "__idle__"): Decimal("0.3"),
        ("12:00", "moved-2", "cpu", "search"): Decimal("0.3"),
        ("12:30", "moved-2", "cpu", "cart"): Decimal("0.2"),
        ("12:30", "moved-2", "cpu", "search"): Decimal("0.1"),
    }
    assert rows["12:30", "moved-2", "cpu", "search"]["usage"] == 1800


@in_the_world
def restated(world: Path) -> None:
    """A later snapshot of node 1's hour, a correction of node 2's, and node 3 without any bill yet."""
    end_ms = NOON_MS + HOUR_MS
    later_ms = end_ms + HOUR_MS
    write_lines(
        world / "metrics/restated.jsonl",
        [
            cpu_gauge(resource("cart", f"restated-cart-{n}", f"restated-{n}"), _steady(1.0, NOON_MS, end_ms))
            for n in (1, 2)
        ]
        + [cpu_gauge(resource("cart", "restated-cart-3", "restated-3"), _steady(0.5, end_ms, later_ms))],
    )
    # The only SKU of the world that more than one resource is charged for: what has no bill is priced by it.
    first = [charge(f"restated-{n}", NOON_MS, end_ms, "0.8", SkuId="sku-restated") for n in (1, 2)]
    write_bill(world / "billing/2025-03-03.csv", first)
    write_bill(world / "billing/2025-03-04.csv", [first[0] | {"EffectiveCost": "0.6"}, first[1]])
    correction = first[1] | {"ChargeClass": "Correction", "EffectiveCost": "-0.2"}
    for delivery in ("2025-04-01", "2025-04-02"):
        write_bill(world / f"billing/{delivery}.csv", [correction])


def test_a_bill_is_restated_and_what_has_none_is_provisional(tables) -> None:
    rows = _rows(tables["cost_allocations"], "restated-")
    assert {key[:2]: (row["allocated_cost"], row["cost_status"]) for key, row in rows.items()} == {
        ("12:00", "restated-1"): (Decimal("0.3"), "corrected"),
        ("12:30", "restated-1"): (Decimal("0.3"), "corrected"),
        ("12:00", "restated-2"): (Decimal("0.3"), "corrected"),
        ("12:30", "restated-2"): (Decimal("0.3"), "corrected"),
        # Half a core at the SKU's latest rate: of one vCPU-Hour at noon, 0.8 or 0.6, the dearer.
        ("13:00", "restated-3"): (Decimal("0.2"), "provisional"),
        ("13:30", "restated-3"): (Decimal("0.2"), "provisional"),
    }


@pytest.mark.slow
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
    rows = _rows(job(tmp_path / "in", *settings)["cost_allocations"], "")
    assert {key: (row["allocated_cost"], row["billing_currency"]) for key, row in rows.items()} == {
        ("12:00", "node-1", "cpu", "cart"): (Decimal("0.1"), "EUR"),
        ("12:00", "node-1", "cpu", "__idle__"): (Decimal("0.1"), "EUR"),
        ("12:30", "node-1", "cpu", "cart"): (Decimal("0.1"), "EUR"),
        ("12:30", "node-1", "cpu", "__idle__"): (Decimal("0.1"), "EUR"),
        ("12:00", "__no_resource__", "other", "__unallocated__"): (Decimal("7"), "JPY"),
    }


# ---- all cases together -----------------------------------------------------------------------


def test_allocations_are_the_bill(tables) -> None:
    """To the last decimal, in each currency: what the cases charge, but for the charge that is rejected."""
    allocated: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in tables["cost_allocations"].to_pylist():
        if row["cost_status"] != "provisional":
            allocated[row["resource_id"].partition("-")[0], row["billing_currency"]] += row["allocated_cost"]
    assert allocated == {
        ("split", "USD"): Decimal("0.800000000001"),
        ("centered", "USD"): Decimal(5),
        ("i", "USD"): Decimal("0.300000000001"),  # spelt
        (SCALE_SET, "USD"): Decimal("6.000000000005"),
        ("untied", "USD"): Decimal("3.4"),
        ("__no_resource__", "USD"): Decimal("0.75"),
        ("__no_resource__", "EUR"): Decimal(2),
        ("unnamed", "USD"): Decimal(1),
        ("unusable", "USD"): Decimal(1),
        ("moved", "USD"): Decimal("1.2"),
        # The snapshot of one node, and the other's charge with its correction.
        ("restated", "USD"): Decimal("0.6") + Decimal("0.8") - Decimal("0.2"),
        # Of two nodes, two charges an hour.
        ("node", "USD"): 4 * (Decimal("0.03710") + Decimal("0.13711")),
    }


def test_every_trace_has_one_verdict(tables) -> None:
    traces = tables["trace_verdicts"]["trace_id"].to_pylist()
    assert len(traces) == len(set(traces)) == 399 + len((1001, 1002, 1003, 0xCE00))


def test_the_stall_is_ranked_and_each_rank_can_be_recomputed(tables) -> None:
    """By what a ranked row explains, in one query."""
    ranked_anomalies = tables["ranked_anomalies"]  # read by duckdb
    assert "pay" in ranked_anomalies["otel_service_name"].to_pylist()
    assert all(rank >= 1 for rank in ranked_anomalies["rank"].to_pylist())
    assert duckdb.sql((ROOT / "sql/queries/recompute.sql").read_text(encoding="utf-8")).fetchall() == []


def test_a_price_that_rose_in_the_hour_before_the_stall_is_among_its_changes(tables) -> None:
    """That of its memory did, too, of which nobody tells the use."""
    [stall] = [row for row in tables["incidents"].to_pylist() if row["otel_service_name"] == "pay"]
    assert json.loads(stall["changes"]) == [
        {"what": "price of sku-False at node-False", "at": "2025-03-03T13:00:00Z",
         "from": "0.0371 USD per Hours", "to": "0.13711 USD per Hours"}
    ]  # fmt: skip


def test_the_providers_sample_is_accounted_for_to_the_last_decimal(job) -> None:
    """A bill alone, of 1,000 real rows."""
    rows = job(SAMPLE.parents[1])["cost_allocations"].to_pylist()
    assert sum(row["allocated_cost"] for row in rows) == Decimal(SAMPLE_COST)
