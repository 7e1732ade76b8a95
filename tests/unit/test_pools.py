"""A group of machines that is billed as one meets its nodes by rule, and its charge is theirs by their capacity."""

from __future__ import annotations

from collections import defaultdict

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.literal import HOUR_MS, MINUTE_MS, NOON_MS, charge, cpu_gauge, resource, span, span_request
from tests.unit.keyed_stage import Stage
from tests.unit.test_rank import incident, rank
from tests.unit.test_resources import allocated
from udfs.attribute import Attribute
from udfs.pure.assemble import assemble, unpack
from udfs.pure.attribute import BY_CORES, BY_USE, EVENLY, IDLE_POLICIES, resource_rows, user_of
from udfs.pure.focus import charge_key, collect_charge
from udfs.pure.otlp import collect_spans
from udfs.pure.price import apportion, to_units
from udfs.pure.resources import GROUP, Resources, kind
from udfs.pure.windows import IDLE, NO_RESOURCE, UNALLOCATED, WINDOW_MS

# learn.microsoft.com/azure/aks: node pools are scale sets; the providerID of a node is that of its machine there.
AKS = (
    "/subscriptions/1be3b2e6-497b-45b9-915f-eb35cae23c6a/resourceGroups/mc_myresourcegroup_myakscluster_eastus"
    "/providers/Microsoft.Compute/virtualMachineScaleSets/aks-nodepool1-28706398-vmss"
)

# What a bill says, and what the telemetry of a node says. EKS: docs.aws.amazon.com/eks/latest/userguide, eks-using-tags
# and managed-node-groups; GKE: cloud.google.com/kubernetes-engine/docs/how-to/cost-allocations; Auto Scaling:
# docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-tagging.
POOLS = {
    "EKS": (
        {
            "SubAccountId": "111122223333", "RegionId": "us-east-1",
            "Tags": '{"eks:cluster-name": "my-cluster", "user:eks:nodegroup-name": "my-mng",'
                    ' "aws:autoscaling:groupName": "eks-my-mng-56c0f9a1"}',
        },
        {
            "cloud.account.id": "111122223333", "cloud.region": "us-east-1", "k8s.cluster.name": "my-cluster",
            "k8s.node.label.eks.amazonaws.com/nodegroup": "my-mng",
        },
        "eks:nodegroup-name=111122223333/us-east-1/my-cluster/my-mng",
    ),
    "GKE": (
        {
            "SubAccountId": "my-project", "RegionId": "us-central1",
            "Tags": '{"goog-k8s-cluster-name": "hello-cluster", "goog-k8s-node-pool-name": "default-pool"}',
        },
        {
            "cloud.account.id": "my-project", "cloud.region": "us-central1", "k8s.cluster.name": "hello-cluster",
            "k8s.node.label.cloud.google.com/gke-nodepool": "default-pool",
        },
        "goog-k8s-node-pool-name=my-project/us-central1/hello-cluster/default-pool",
    ),
    "an autoscaling group": (
        {
            "SubAccountId": "123456789012", "RegionId": "eu-west-1",
            "Tags": '{"aws:autoscaling:groupName": "my-asg"}',
        },
        {
            "cloud.account.id": "123456789012", "cloud.region": "eu-west-1",
            "ec2.tag.aws:autoscaling:groupName": "my-asg",
        },
        "aws:autoscaling:groupName=123456789012/eu-west-1/my-asg",
    ),
}  # fmt: skip

END_MS = NOON_MS + HOUR_MS // 2


def told(service: str, node: str, cores: float, **labels: str) -> dict:
    """Half an hour's metrics of a pod."""
    more = {name.replace("__", "."): value for name, value in labels.items()}
    points = [(NOON_MS + minute * MINUTE_MS, cores) for minute in range(31)]
    return cpu_gauge(resource(service, f"{service}-{node}", node, more=more), points)


def costs(rows: list[dict]) -> dict[str, int]:
    return {row["otel_service_name"]: to_units(row["allocated_cost"]) for row in rows}


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_that_the_bill_names_by_a_tag_meets_the_label_of_its_nodes(pool: str) -> None:
    bill, labels, resource_id = POOLS[pool]
    row = charge(None, NOON_MS, END_MS, "0.6", **bill)
    assert collect_charge(row)["resource_id"] == resource_id
    assert kind(resource_id) == GROUP
    nodes = [told("cart", "ip-1", 0.1, **labels), told("pay", "ip-2", 0.5, **labels)]
    [cart, pay] = sorted(allocated([row], nodes, Resources()), key=lambda row: row["otel_service_name"])
    assert (cart["resource_id"], cart["divided_by"]) == (resource_id, EVENLY)
    assert costs([cart, pay]) == {"cart": to_units("0.3"), "pay": to_units("0.3")}
    # A machine's own id goes before the pool, the pool before the node's name.
    assert Resources().billed_as(labels | {"k8s.node.name": "ip-1"}) == resource_id
    assert Resources().billed_as(labels | {"k8s.node.name": "ip-1", "host.id": "i-0abc"}) == "i-0abc"


@pytest.mark.parametrize("pool", POOLS)
def test_pools_of_one_name_in_two_places_stay_two(pool: str) -> None:
    bill, labels, resource_id = POOLS[pool]
    for column in ("SubAccountId", "RegionId"):
        row = charge(None, NOON_MS, END_MS, "1", **bill | {column: "another"})
        assert collect_charge(row)["resource_id"] not in (resource_id, NO_RESOURCE)
        # Where a place is unknown nothing is known.
        assert collect_charge(charge(None, NOON_MS, END_MS, "1", **bill | {column: None}))["resource_id"] == NO_RESOURCE
    for attribute in labels:
        assert Resources().billed_as(labels | {attribute: ""}) == ""
        assert Resources().billed_as(labels | {attribute: "another"}) not in (resource_id, "")


def test_a_cluster_may_be_named_by_the_tag_that_aws_sets() -> None:
    bill, _, resource_id = POOLS["EKS"]
    by_aws = bill["Tags"].replace('"eks:cluster-name"', '"aws:eks:cluster-name"')
    assert collect_charge(charge(None, NOON_MS, END_MS, "1", **bill | {"Tags": by_aws}))["resource_id"] == resource_id


def test_a_charge_of_a_machine_stays_the_machines() -> None:
    bill, _, _ = POOLS["EKS"]
    assert collect_charge(charge("i-0abc", NOON_MS, END_MS, "1", **bill))["resource_id"] == "i-0abc"


@pytest.mark.parametrize(
    ("labels", "how", "parts"),
    [
        ([{}, {}], EVENLY, {"cart": 2, "pay": 2}),
        # learn.microsoft.com/azure/aks/use-labels; karpenter.sh/docs/concepts/scheduling.
        ([{"k8s.node.label.kubernetes.azure.com/sku-cpu": "4"}, {"k8s.node.label.karpenter.azure.com/sku-cpu": "12"}],
         BY_CORES, {"cart": 1, "pay": 3}),
        ([{"k8s.node.label.karpenter.k8s.aws/instance-cpu": "12"},
          {"k8s.node.label.cloud.google.com/gke-cpu-scaling-level": "4"}], BY_CORES, {"cart": 3, "pay": 1}),
        # learn.microsoft.com/azure/virtual-machines/vm-naming-conventions,
        # cloud.google.com/compute/docs/machine-resource.
        ([{"host.type": "Standard_D4s_v5"}, {"host.type": "Standard_E64-16s_v3"}], BY_CORES, {"cart": 1, "pay": 16}),
        ([{"host.type": "Standard_NC24ads_A100_v4"},
          {"k8s.node.label.node.kubernetes.io/instance-type": "n2-standard-8"}], BY_CORES, {"cart": 3, "pay": 1}),
        ([{"host.type": "e2-custom-6-8192"}, {"host.type": "c3-highcpu-22"}], BY_CORES, {"cart": 3, "pay": 11}),
        # A DS3_v2 has 4 cores; an e2-medium, and AWS's types, don't say how many.
        ([{"host.type": "Standard_DS3_v2"}, {"host.type": "Standard_D4s_v5"}], EVENLY, {"cart": 1, "pay": 1}),
        ([{"host.type": "e2-medium"}, {"host.type": "n2-standard-8"}], EVENLY, {"cart": 1, "pay": 1}),
        ([{"host.type": "m5.2xlarge"}, {"host.type": "m5.xlarge"}], EVENLY, {"cart": 1, "pay": 1}),
    ],
)  # fmt: skip
def test_a_charge_is_the_nodes_by_their_cores_and_alike_where_one_is_unknown(labels, how, parts) -> None:
    of_set = [{"k8s.node.provider_id": f"azure://{AKS}/virtualMachines/{number}"} for number in range(2)]
    nodes = [
        told("cart", "aks-nodepool1-28706398-vmss000000", 3.0, **of_set[0] | labels[0]),
        told("pay", "aks-nodepool1-28706398-vmss000001", 0.1, **of_set[1] | labels[1]),
    ]
    rows = allocated([charge(AKS, NOON_MS, END_MS, "2.24")], nodes, Resources())
    found = costs(rows)
    whole = sum(parts.values())
    assert found == apportion(to_units("2.24"), parts)
    assert {row["divided_by"] for row in rows} == {how}
    assert [row["share"] for row in rows] == pytest.approx([parts[row["otel_service_name"]] / whole for row in rows])
    assert rows[0]["total_usage"] == pytest.approx(3.1 * 1800)


def test_within_a_node_it_is_use_and_an_unused_node_is_idle() -> None:
    usage = [
        (user_of("cart", _key("a", "4")), {NOON_MS: {"cpu": 3.0}}),
        (user_of("pay", _key("a", "4")), {NOON_MS: {"cpu": 1.0}}),
        (user_of("cart", _key("b", "")), {NOON_MS: {"cpu": 0.0}}),
        (user_of("", _key("c", "4")), {NOON_MS: {"cpu": 9.0}}),
        # One source of a node's telemetry may leave out its size.
        (user_of("cart", _key("b", "8")), {NOON_MS: {"cpu": 0.0}}),
    ]
    charges = [collect_charge(charge(AKS, NOON_MS, END_MS, "16"))]
    [rows] = resource_rows(AKS, usage, charges).values()
    of = {"cart": "3", "pay": "1", IDLE: "8", UNALLOCATED: "4"}
    assert costs(rows) == {name: to_units(cost) for name, cost in of.items()}
    assert {row["otel_service_name"]: row["share"] for row in rows} == {
        "cart": 3 / 16, "pay": 1 / 16, IDLE: 0.5, UNALLOCATED: 0.25,
    }  # fmt: skip
    # Where some use tells no node, the whole is by use.
    usage.append(("stray", {NOON_MS: {"cpu": 3.0}}))
    [rows] = resource_rows(AKS, usage, charges).values()
    assert {row["divided_by"] for row in rows} == {BY_USE}
    assert costs(rows) == {name: to_units(n) for name, n in {"cart": 3, "pay": 1, UNALLOCATED: 9, "stray": 3}.items()}


def test_pods_on_two_machines_of_a_pool_share_none() -> None:
    """Who crowds whom out is told by the machine, not by what is billed."""
    pods = [("a", "0"), ("b", "1"), ("c", "1")]
    machines = [{"cloud.resource_id": f"{AKS}/virtualMachines/{machine}"} for _, machine in pods]
    spans = [span(1, 1 + at, at or None, NOON_MS + at, 1) for at in range(3)]
    groups = [(resource("s", pod, more=on), [of]) for (pod, _), on, of in zip(pods, machines, spans)]
    (fragments, *_) = collect_spans(orjson.dumps(span_request(*groups)))
    trace = unpack(assemble(f"{1:032x}", fragments.values())[1])
    host_of = {pod[-1]: host for pod, host in zip(trace.pods, trace.hosts)}
    assert host_of["a"] != host_of["b"] == host_of["c"]


def test_the_record_names_the_rule() -> None:
    usage = [(user_of("cart", _key("a", "4")), {NOON_MS: {"cpu": 3.0}})]
    charges = [collect_charge(charge(resource_id, NOON_MS, END_MS, "16")) for resource_id in (AKS, "i-0abc")]
    rows = []
    for each, users in zip(charges, (usage, [("cart", {NOON_MS: {"cpu": 1.0}})]), strict=True):
        rows += resource_rows(each["resource_id"], users, [each])[NOON_MS]
    [ranked] = rank([incident("cart", 4.5)], orjson.loads(orjson.dumps(rows, default=str)))
    why = orjson.loads(ranked["explanation"])
    assert {of["x_ResourceId"]: of.get("x_DividedBy") for of in why["Elements"]} == {AKS: BY_CORES, "i-0abc": None}


# ---- whatever comes in -----------------------------------------------------------------------


def _key(node: str | None, cores: str) -> str:
    """Of a consumer, as otlp.collect_metrics has it; None = its node is unknown."""
    return "\x1f".join(("0", "uid", "pod", "service", AKS, *((node, cores) if node else ())))


USERS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["cpu", "memory"]),
        st.sampled_from(["", "cart", "pay", "__system__"]),
        st.sampled_from(["a", "b", "c", "d", None]),
        st.sampled_from(["", "2", "96"]),
        st.one_of(st.just(0.0), st.floats(1e-3, 1e13)),
    ),
    max_size=12,
)
MONEY = st.decimals(-50, 50, places=11)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(users=USERS, money=st.lists(MONEY, max_size=3), policy=st.sampled_from(IDLE_POLICIES), draw=st.randoms())
def test_not_a_unit_is_lost_and_no_order_shows(users, money, policy, draw) -> None:
    start_ms = NOON_MS
    rows = [
        charge(AKS, start_ms, start_ms + HOUR_MS, str(cost), SkuPriceDetails='{"CoreCount": 2, "MemorySize": "8 GiB"}')
        for cost in money
    ]
    charges = [collect_charge(row, copy=copy) for copy, row in enumerate(rows, 1)]
    consumers = [
        (user_of(service, _key(node, cores)), {start_ms + number * WINDOW_MS: {dimension: used}})
        for number, dimension, service, node, cores, used in users
    ]
    found = resource_rows(AKS, consumers, charges, idle_policy=policy)
    total, parts = 0, defaultdict(int)
    for row in (row for of_window in found.values() for row in of_window):
        key = row["window_start"], row["dimension"], to_units(row["resource_cost"])
        parts[key] += to_units(row["allocated_cost"])
        total += to_units(row["allocated_cost"]) if row["cost_status"] != "provisional" else 0
    assert all(whole == part for (_, _, whole), part in parts.items())
    assert total == sum(to_units(str(cost)) for cost in money)

    draw.shuffle(consumers)
    assert resource_rows(AKS, consumers, charges[::-1], idle_policy=policy) == found

    events: list[tuple] = []
    for number, (window, dimension, service, node, cores, used) in enumerate(users):
        key = _key(node, cores).replace("uid", f"uid{number}")
        events.append(("usage", key, [service, "pod", {"windows": {start_ms + window * WINDOW_MS: {dimension: used}}}]))
    events += [("charge", charge_key(each), each) for each in charges]
    at_once, stream = Stage(Attribute(None, None, (), policy), AKS), Stage(Attribute(None, 10_000, (), policy), AKS)
    for event in events:
        at_once.feed(*event)
    draw.shuffle(events)
    for event in events:
        stream.feed(*event)
        if draw.random() < 0.3:
            stream.fire()
    assert stream.end() == at_once.end()
