"""The doctor: what of the bill met no telemetry, what of the telemetry met no bill, and what may belong together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from jobs.doctor import UNMET_USAGE, main
from tests.literal import (
    HOUR_MS,
    MINUTE_MS,
    NOON_MS,
    charge,
    cpu_gauge,
    resource,
    span,
    span_request,
    write_bill,
    write_lines,
)

SCALE_SET = "/subscriptions/1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachineScaleSets/aks-pool-vmss"


def write_world(
    directory: Path, billed: Mapping[str | None, str], used: Mapping[str, Mapping[str, str]], **more
) -> Path:
    """A bill of an hour, {ResourceId: cost}, and a pod each of half a core in it, {pod: the ids that it sends}."""
    write_bill(
        directory / "billing/a.csv",
        [charge(one, NOON_MS, NOON_MS + HOUR_MS, cost, **more) for one, cost in billed.items()],
    )
    points = [(NOON_MS + minute * MINUTE_MS, 0.5) for minute in range(61)]
    write_lines(
        directory / "metrics/a.jsonl",
        [cpu_gauge(resource("cart", pod, more=ids), points) for pod, ids in used.items()],
    )
    return directory


def diagnosed(capsys: pytest.CaptureFixture, directory: Path, *arguments: str) -> tuple[int, str]:
    """(exit status, report)."""
    status = main(["--input", str(directory), *arguments])
    return status, capsys.readouterr().out


def flat(report: str) -> str:
    """Whatever the widths of the columns."""
    return " ".join(report.split())


def test_all_that_meets_is_a_share_of_the_whole_bill(capsys, tmp_path: Path) -> None:
    arn = "arn:aws:ec2:us-east-1:123456789012:instance/i-0abc"
    write_world(tmp_path, {arn: "0.75000000007", None: "0.25"}, {"cart-1": {"host.id": "i-0abc"}})
    status, report = diagnosed(capsys, tmp_path)
    assert status == 0
    assert "0.75000000007 USD 75.0% met telemetry" in flat(report)
    assert "0.25 USD 25.0% of no resource" in flat(report)
    assert "1.00000000007 USD in all" in flat(report)
    assert "1 resource in use, of which 0 met no charge" in report
    assert "likeliest" not in report


def test_telemetry_is_read_wherever_the_job_reads_it(capsys, tmp_path: Path) -> None:
    write_world(tmp_path, {"node-1": "3"}, {"cart-1": {"k8s.node.name": "node-1"}})
    (tmp_path / "metrics/day=03").mkdir()
    (tmp_path / "metrics/a.jsonl").rename(tmp_path / "metrics/day=03/a.json")
    assert "3 USD 100.0% met telemetry" in flat(diagnosed(capsys, tmp_path)[1])


def test_what_met_nothing_is_listed_the_dearest_first(capsys, tmp_path: Path) -> None:
    cheap, dear = "nat-0aaa", "arn:aws:eks:us-east-1:123456789012:cluster/shop"
    write_world(tmp_path, {cheap: "1", dear: "2.5", "node-1": "3"}, {"cart-1": {"k8s.node.name": "node-1"}})
    status, report = diagnosed(capsys, tmp_path)
    assert status == 0
    lines = report.splitlines()
    first = next(number for number, line in enumerate(lines) if line.split()[:1] == ["2.500"])
    assert lines[first].split() == ["2.500", "USD", "control", "plane", dear]
    assert lines[first + 1].split() == ["1.000", "USD", "NAT", "or", "egress", cheap]
    assert "allocated to none: 1 NAT or egress, 1 control plane" in report
    _, short = diagnosed(capsys, tmp_path, "--top", "1")
    assert "... and 1 more: --top 2" in short and f"  {cheap}" not in short


CASES = {
    "another of its ids": ("i-0abc", {"cloud.resource_id": "pool-7", "host.id": "i-0abc"}, {}, "its host.id"),
    "its name": (
        "//compute.googleapis.com/projects/p/zones/z/instances/gke-1",
        {"host.id": "15233045891481496305", "k8s.node.name": "GKE-1"},
        {},
        "the same name as its k8s.node.name",
    ),
    "a tag": (
        "i-0abc",
        {"k8s.node.name": "ip-10-0-0-7.ec2.internal"},
        {"Tags": '{"Name": "ip-10-0-0-7.ec2.internal"}'},
        "the bill's tag Name has its k8s.node.name",
    ),
    "a set": (SCALE_SET, {"k8s.node.name": "aks-pool-vmss000001"}, {}, "its k8s.node.name begins so"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_likeliest_match_comes_with_a_line_of_aliases_that_ties_it(capsys, tmp_path: Path, case: str) -> None:
    billed_id, ids, more, reason = CASES[case]
    # Others that match less well, on both sides.
    others = {"lb-1": "7", "gke-2": "7", "i-0def": "7"}
    write_world(tmp_path, {billed_id: "1"} | others, {"cart-1": ids}, **more)
    if "Tags" in more:
        write_bill(tmp_path / "billing/b.csv", [charge(one, NOON_MS, NOON_MS + HOUR_MS, "7") for one in others])
        write_bill(tmp_path / "billing/a.csv", [charge(billed_id, NOON_MS, NOON_MS + HOUR_MS, "1", **more)])
    status, report = diagnosed(capsys, tmp_path)
    assert status == UNMET_USAGE
    assert f"likeliest: the bill's {billed_id} ({reason})" in report
    assert "met no charge, the most used first" in report and "0.5 core-hours" in report

    lines = report.split("looked at first\n")[1]
    (tmp_path / "aliases.csv").write_text("\n".join(line.strip() for line in lines.splitlines()))
    status, report = diagnosed(capsys, tmp_path, "--aliases", str(tmp_path / "aliases.csv"))
    assert status == 0
    assert "1 USD 4.5% met telemetry" in flat(report)


def test_each_id_is_tried_against_the_bill_and_a_better_order_is_told(capsys, tmp_path: Path) -> None:
    """The agent says another host.id than the bill; the node's providerID is the bill's."""
    machines = {f"cart-{n}": f"i-0{n}" for n in range(3)}
    used = {
        pod: {"cloud.resource_id": f"vm-{machine}", "k8s.node.provider_id": f"aws:///us-east-1a/{machine}"}
        for pod, machine in machines.items()
    }
    write_world(tmp_path, dict.fromkeys(machines.values(), "1.5") | {"i-0def": "7"}, used)
    status, report = diagnosed(capsys, tmp_path)
    assert status == UNMET_USAGE
    assert "cloud.resource_id 3 0 k8s.node.provider_id 3 3 4.5 USD" in flat(report)
    assert "More would meet by --set resources.trust=k8s.node.provider_id" in report

    status, report = diagnosed(capsys, tmp_path, "--trust", "k8s.node.provider_id")
    assert status == 0
    assert "4.5 USD 39.1% met telemetry" in flat(report)
    assert "More would meet" not in report
    assert main(["--input", str(tmp_path), "--trust", "host.ip"]) == 2
    assert capsys.readouterr().err.startswith("doctor: --trust: 'host.ip' must be one of ")


def test_a_bill_of_pools_alone_meets_nodes_that_name_their_machine(capsys, tmp_path: Path) -> None:
    place = {"cloud.account.id": "my-project", "cloud.region": "us-central1", "k8s.cluster.name": "hello-cluster"}
    label = {"k8s.node.label.cloud.google.com/gke-nodepool": "default-pool"}
    used = {
        f"cart-{n}": {"host.id": f"{n}5233045891481496305", "k8s.node.name": f"gke-{n}", **place, **label}
        for n in range(1, 3)
    }
    tags = '{"goog-k8s-cluster-name": "hello-cluster", "goog-k8s-node-pool-name": "default-pool"}'
    write_world(tmp_path, {None: "3"}, used, SubAccountId="my-project", RegionId="us-central1", Tags=tags)
    status, report = diagnosed(capsys, tmp_path)
    assert status == UNMET_USAGE
    assert "host.id 2 0 pool 2 2 3 USD k8s.node.name 2 0" in flat(report)
    assert "More would meet by --set resources.trust=pool" in report
    status, report = diagnosed(capsys, tmp_path, "--trust", "pool")
    assert (status, "3 USD 100.0% met telemetry" in flat(report)) == (0, True)


def test_a_similar_name_is_shown_and_not_suggested(capsys, tmp_path: Path) -> None:
    write_world(tmp_path, {"worker-node-17": "1"}, {"cart-1": {"k8s.node.name": "worker-node-71"}})
    _, report = diagnosed(capsys, tmp_path)
    assert "likeliest: the bill's worker-node-17 (a similar name)" in report
    assert "likeliest: telemetry's worker-node-71 (a similar name)" in report
    assert "billed_id,observed_id" not in report


def test_a_pod_of_no_machine_gets_that_of_its_spans_as_in_the_job(capsys, tmp_path: Path) -> None:
    write_world(tmp_path, {"node-1": "1"}, {"cart-1": {}, "stray-1": {}})
    owner = resource("cart", "cart-1", "node-1")
    write_lines(tmp_path / "traces/a.jsonl", [span_request((owner, [span(1, 1, None, NOON_MS, 5)]))])
    status, report = diagnosed(capsys, tmp_path)
    assert status == UNMET_USAGE
    assert "1 USD 100.0% met telemetry" in flat(report)
    assert "0.5 core-hours 1 (none is named: send cloud.resource_id" in flat(report)


def test_what_no_metric_measures_is_told_apart(capsys, tmp_path: Path) -> None:
    write_world(tmp_path, {"node-1": "1"}, {"cart-1": {"k8s.node.name": "node-1"}}, ConsumedUnit="Requests")
    _, report = diagnosed(capsys, tmp_path)
    assert "1 USD 100.0% of a resource that met, for what no metric of it measures" in flat(report)


def test_a_charge_that_a_later_delivery_replaced_counts_once(capsys, tmp_path: Path) -> None:
    write_world(tmp_path, {"node-1": "1"}, {"cart-1": {"k8s.node.name": "node-1"}})
    write_bill(tmp_path / "billing/b.csv", [charge("node-1", NOON_MS, NOON_MS + HOUR_MS, "2")])
    _, report = diagnosed(capsys, tmp_path)
    assert "Bill: 1 charge of 1 resource" in report
    assert "2 USD in all" in flat(report)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], 2, "--input"),
        (["--input", "{dir}/none"], 2, "no such directory"),
        (["--input", "{dir}"], 2, "no bill in"),
        (["--input", "{dir}/broken"], 1, "not a FOCUS bill"),
        (["--input", "{dir}/broken", "--aliases", "{dir}/none.csv"], 2, "none.csv: can't be read"),
        (["--input", "{dir}", "--top", "0"], 2, "--top 0"),
    ],
)
def test_what_cannot_be_done_is_one_line(capsys, tmp_path: Path, arguments: list[str], status: int, told: str) -> None:
    bill = tmp_path / "broken/billing/a.csv"
    bill.parent.mkdir(parents=True)
    bill.write_text("Colour\nred\n")
    assert main([argument.format(dir=tmp_path) for argument in arguments]) == status
    shown = capsys.readouterr()
    assert shown.out == "" and told in shown.err and len(shown.err.splitlines()) == 1


def test_it_starts_no_engine() -> None:
    code = "import jobs.doctor, sys; assert 'pyflink' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


SAMPLE = Path(__file__).resolve().parents[3] / "shared/data/focus-sample"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"{SAMPLE} is missing")
def test_the_sample_bill_is_accounted_for_to_the_last_decimal(capsys) -> None:
    status, report = diagnosed(capsys, SAMPLE)
    assert status == 0
    totals = [line.split() for line in report.splitlines()[1:6]]
    *parts, whole = (Decimal(cells[0]) for cells in totals)
    assert sum(parts) == whole == Decimal("14.97651418586")
