"""A bill and telemetry that name one thing in different words meet; two things never become one."""

from __future__ import annotations

import pickle
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.literal import HOUR_MS, MINUTE_MS, NOON_MS, charge, cpu_gauge, resource
from udfs.pure.attribute import resource_rows, user_of
from udfs.pure.focus import collect_charge
from udfs.pure.meter import meter
from udfs.pure.names import NAME_MAX_BYTES
from udfs.pure.otlp import SEPARATOR, collect_metrics, collect_spans
from udfs.pure.price import to_units
from udfs.pure.resources import Alias, Resources, canonical, kind, load_aliases, read_trust
from udfs.pure.windows import WINDOW_MS

SUBSCRIPTION = "/subscriptions/1be3b2e6-497b-45b9-915f-eb35cae23c6a"
SCALE_SET = f"{SUBSCRIPTION}/resourceGroups/6iec4/providers/Microsoft.Compute/virtualMachineScaleSets/6iec4-master"

# Each line: the canonical form and other spellings of the same thing.
# AWS: docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html, the ARN formats of the Service Authorization
#   Reference, docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_Tagging.ARN.Constructing.html.
# Azure: learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules ("compare names without case").
# Google Cloud: cloud.google.com/iam/docs/full-resource-names; the uid form of a managed identity's attestation rule.
# OCI: docs.oracle.com/iaas/Content/General/Concepts/identifiers.htm.
# providerID: the tests of kubernetes/cloud-provider-aws, -azure and -gcp, and of oracle/oci-cloud-controller-manager.
SAME = [
    ("i-1234567890abcdef0", "arn:aws:ec2:us-east-1:123456789012:instance/i-1234567890abcdef0",
     "arn:aws:ec2:us-east-1:123456789012:instance/i-1234567890abcdef0/", "aws:///us-east-1a/i-1234567890abcdef0"),
    ("i-260942b3", "aws:///us-east-1a/i-260942b3", "aws://us-east-1a/i-260942b3"),
    ("i-0abc", "arn:aws-cn:ec2:cn-north-1:123456789012:instance/i-0abc",
     "ARN:AWS:EC2:US-EAST-1:123456789012:instance/i-0abc"),
    ("vol-049df61146c4d7901", "arn:aws-us-gov:ec2:us-gov-west-1:123456789012:volume/vol-049df61146c4d7901"),
    ("nat-05dba92075d71c408", "arn:aws:ec2:us-east-1:123456789012:natgateway/nat-05dba92075d71c408"),
    ("eipalloc-64d5890a", "arn:aws:ec2:us-east-1:123456789012:elastic-ip/eipalloc-64d5890a"),
    ("tgw-attach-0a34fe6b4fEXAMPLE", ),
    ("tgw-attach-0a34fe6b4f", "arn:aws:ec2:us-east-1:123456789012:transit-gateway-attachment/tgw-attach-0a34fe6b4f"),
    ("arn:aws:elasticloadbalancing:us-west-2:123456789012:loadbalancer/app/my-load-balancer/50dc6c495c0c9188",
     "arn:aws:elasticloadbalancing:us-west-2:123456789012:loadbalancer/app/my-load-balancer/50dc6c495c0c9188/"),
    ("arn:aws:eks:us-east-1:123456789012:cluster/my-cluster", ),
    ("arn:aws:rds:us-east-2:123456789012:db:my-mysql-instance-1",
     "arn:aws:RDS:us-east-2:123456789012:db:my-mysql-instance-1"),
    ("arn:aws:rds:us-east-2:123456789012:cluster:my-aurora-cluster-1", ),
    ("arn:aws:lambda:us-east-2:123456789012:function:my-function", ),
    ("arn:aws:s3:::amzn-s3-demo-bucket", "arn:aws:s3:::amzn-s3-demo-bucket/"),
    ("arn:aws:s3:::Amzn-S3-demo-bucket", ),
    (f"{SUBSCRIPTION}/resourceGroups/myresourcegroupname/providers/Microsoft.Compute/virtualMachines/k8s-agent-aaaaaaaa-0",
     f"azure://{SUBSCRIPTION}/resourceGroups/myResourceGroupName/providers/Microsoft.Compute/virtualMachines/k8s-agent-AAAAAAAA-0",
     f"{SUBSCRIPTION}/RESOURCEGROUPS/MYRESOURCEGROUPNAME/providers/microsoft.compute/virtualmachines/k8s-agent-aaaaaaaa-0/",
     f"https://management.azure.com{SUBSCRIPTION}/resourcegroups/myResourceGroupName/providers/Microsoft.Compute"
     "/virtualMachines/K8S-agent-aaaaaaaa-0"),
    (SCALE_SET, SCALE_SET.lower(), SCALE_SET.upper(), f"azure://{SCALE_SET}"),
    (f"{SCALE_SET}/virtualMachines/0", f"azure://{SCALE_SET}/virtualMachines/0",
     f"{SCALE_SET}/virtualmachines/0".lower()),
    (f"{SCALE_SET}/virtualMachines/1", ),
    (f"{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Compute/disks/pvc-1",
     f"{SUBSCRIPTION}/resourcegroups/RG/providers/Microsoft.Compute/Disks/pvc-1"),
    (f"{SUBSCRIPTION}/resourceGroups/rg/providers/microsoft.purview/accounts/a",
     f"{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Purview/accounts/A"),
    ("//compute.googleapis.com/projects/striped-torus-760/zones/us-central1-b/instances/kubernetes-node-861h",
     "gce://striped-torus-760/us-central1-b/kubernetes-node-861h",
     "projects/striped-torus-760/zones/us-central1-b/instances/kubernetes-node-861h",
     "https://www.googleapis.com/compute/v1/projects/striped-torus-760/zones/us-central1-b/instances/kubernetes-node-861h",
     "//compute.googleapis.com/projects/striped-torus-760/zones/us-central1-b/instances/kubernetes-node-861h/"),
    ("15233045891481496305",
     "//compute.googleapis.com/projects/striped-torus-760/zones/us-central1-b/instances/15233045891481496305",
     "projects/2/uid/zones/us-central1-b/instances/15233045891481496305"),
    ("//compute.googleapis.com/projects/striped-torus-760/zones/us-central1-b/disks/15233045891481496305", ),
    ("//compute.googleapis.com/projects/striped-torus-760/zones/us-central1-c/instances/kubernetes-node-861h", ),
    ("//compute.googleapis.com/projects/p/global/forwardingRules/r", "projects/p/global/forwardingRules/r"),
    ("//container.googleapis.com/projects/p/locations/us-central1/clusters/c",
     "projects/p/locations/us-central1/clusters/c"),
    ("//storage.googleapis.com/projects/_/buckets/b", "//storage.googleapis.com/projects/_/buckets/b/"),
    ("ocid1.instance.oc1.phx.abuw4ljrlsfiqw6vzzxb43vyypt4pkodawglp3wqxjqofakrwvou52gb6s5a",
     "oci://ocid1.instance.oc1.phx.abuw4ljrlsfiqw6vzzxb43vyypt4pkodawglp3wqxjqofakrwvou52gb6s5a"),
    ("ocid1.volume.oc1.phx.abuw4ljrlsfiqw6vzzxb43vyypt4pkodawglp3wqxjqofakrwvou52gb6s5a", ),
]  # fmt: skip

# No form is known of these: they stay byte for byte.
PLAIN = [
    "", "node-1", "Node-1", "10.0.0.7", "ip-10-2-116-150.ec2.internal", "a/b", "a/b/", "__no_resource__", "urn:x:y",
    "x::", "vol-orphan-54334", "kind://docker/kind/kind-control-plane", "aws:///us-east-1a/8f8e2b/fargate-ip-10-0-0-1",
    "arn:ats:el2:us-test-2:176921218916:emastil-ip/eipammol-l19b29bl", "projects/p", "/subscriptions/",
    "arn:aws:ec2:us-east-1:123456789012:placement-group/pg-0abc", "arn:aws:ec2:us-east-1:123456789012:volume/i-0abc",
    "arn:aws:ec2:us-east-1:123456789012:instance/mi-1", "ocid1.instance", "gce://p/z",
]  # fmt: skip


@pytest.mark.parametrize(("form", "spelling"), [(form, s) for form, *more in SAME for s in (form, *more)])
def test_each_spelling_has_the_form_of_what_it_names(form: str, spelling: str) -> None:
    assert canonical(spelling) == form


def test_two_things_stay_two() -> None:
    forms = [canonical(line[0]) for line in SAME] + PLAIN
    assert len(set(forms)) == len(forms)


@pytest.mark.parametrize("text", PLAIN)
def test_text_of_no_known_form_stays_as_it_is(text: str) -> None:
    assert canonical(text) == text


PARTS = st.sampled_from(
    "arn: aws aws-cn :ec2: :lambda: us-east-1 : :123456789012: instance/ volume/ i- vol- 0abc aws:/// azure:// gce://"
    " oci:// ocid1. /subscriptions/ subscriptions/ resourceGroups/ RESOURCEGROUPS/ providers/ Microsoft.Compute/"
    " virtualMachines/ x X ß İ / // projects/ p/ zones/ z/ instances/ 12345678"
    " //compute.googleapis.com/ locations/ clusters/ .".split()
)  # fmt: skip


@given(st.lists(PARTS, max_size=9).map("".join) | st.text(max_size=40))
def test_a_canonical_form_is_its_own(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


NAME = st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True)


@given(st.lists(st.tuples(NAME, NAME, NAME), min_size=2, max_size=2, unique=True))
def test_things_of_other_names_have_other_forms(two: list[tuple[str, str, str]]) -> None:
    for template in (
        "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Compute/virtualMachines/{}",
        "azure:///subscriptions/{}/resourceGroups/{}/providers/Microsoft.Compute/virtualMachineScaleSets/{}/virtualMachines/0",
        "//compute.googleapis.com/projects/{}/zones/{}/instances/{}",
        "gce://{}/{}/{}",
        "arn:aws:rds:{}:123456789012:{}:{}",
    ):
        one, other = (canonical(template.format(*names)) for names in two)
        assert one != other


# ---- which of the ids that telemetry sends --------------------------------------------------


def billed_as(sent: dict[str, str], *aliases: Alias) -> str:
    return Resources(aliases).billed_as(sent)


def test_ids_are_tried_in_the_order_of_trust() -> None:
    sent = {
        "cloud.resource_id": "arn:aws:ec2:us-east-1:123456789012:instance/i-1",
        "k8s.node.provider_id": "aws:///us-east-1a/i-2",
        "host.id": "i-3",
        "k8s.node.name": "ip-10-0-0-4.ec2.internal",
        "host.name": "ip-10-0-0-5",
    }
    found = []
    for attribute in list(sent):
        found.append(billed_as(sent))
        sent[attribute] = ""
    assert found == ["i-1", "i-2", "i-3", "ip-10-0-0-4.ec2.internal", "ip-10-0-0-5"]
    assert billed_as(sent) == ""


def test_what_is_trusted_first_goes_before_the_others() -> None:
    sent = {
        "host.id": "i-3",
        "k8s.node.name": "ip-10-0-0-4.ec2.internal",
        "cloud.account.id": "123456789012",
        "cloud.region": "eu-west-1",
        "ec2.tag.aws:autoscaling:groupName": "my-asg",
    }
    found = [
        Resources((), read_trust(trust)).billed_as(sent)
        for trust in ("", "pool", " k8s.node.name , pool", "k8s.node.provider_id")
    ]
    pool = "aws:autoscaling:groupName=123456789012/eu-west-1/my-asg"
    assert found == ["i-3", pool, "ip-10-0-0-4.ec2.internal", "i-3"]
    with pytest.raises(ValueError, match="'host.ip' must be one of cloud.resource_id, "):
        read_trust("host.id,host.ip")


def test_a_machine_of_azure_is_told_by_what_the_collector_detects() -> None:
    """The azure detector of the Collector's resourcedetection processor; a uniform scale set is billed as a whole."""
    sent = {
        "cloud.account.id": "1be3b2e6-497b-45b9-915f-eb35cae23c6a",
        "azure.resourcegroup.name": "6IEC4",
        "azure.vm.name": "6iec4-master_0",
        "host.id": "dad05e5f-b0a8-07de-1885-e3735fc7f4a2",
    }
    assert (
        billed_as(sent)
        == f"{SUBSCRIPTION}/resourceGroups/6iec4/providers/Microsoft.Compute/virtualMachines/6iec4-master_0"
    )
    assert billed_as(sent | {"azure.vm.scaleset.name": "6iec4-master"}) == SCALE_SET
    assert billed_as(sent | {"k8s.node.provider_id": f"azure://{SCALE_SET}/virtualMachines/0"}) == SCALE_SET
    assert billed_as(sent | {"azure.resourcegroup.name": ""}) == sent["host.id"]


@pytest.mark.parametrize(
    ("inside", "host_name"),
    [
        ({"k8s.pod.name": "cart-1"}, "cart-1"),
        ({"k8s.pod.uid": "60b2a6d7"}, "node-1"),
        ({"container.id": "4ce1f2ab9c7d88"}, "4ce1f2ab9c7d"),
    ],
)
def test_the_host_name_that_a_pod_or_container_sees_is_no_machines(inside: dict[str, str], host_name: str) -> None:
    assert billed_as({**inside, "host.name": host_name}) == ""
    assert billed_as({"container.id": "4ce1f2ab9c7d88", "host.name": "node-1"}) == "node-1"


def test_a_version_of_a_function_is_billed_as_the_function() -> None:
    function = "arn:aws:lambda:us-east-2:123456789012:function:my-function"
    assert billed_as({"cloud.resource_id": f"{function}:7"}) == function
    assert canonical(f"{function}:7") == f"{function}:7"


def test_an_alias_goes_before_what_telemetry_says_itself() -> None:
    sent = {"host.id": "i-0abc", "k8s.node.name": "blue-7"}
    assert billed_as(sent, Alias("pool-blue", "blue-*")) == "pool-blue"
    assert billed_as(sent, Alias("pool-red", "red-*")) == "i-0abc"
    # A line without * goes before one with it, whatever their order.
    assert billed_as(sent, Alias("pool-blue", "blue-*"), Alias("box-7", "blue-7")) == "box-7"
    assert billed_as(sent, Alias("first", "blue-*"), Alias("second", "*")) == "first"


def test_a_star_carries_its_text_over() -> None:
    sent = {"host.id": "dad05e5f", "k8s.node.name": "gke-7"}
    whole = "//compute.googleapis.com/projects/p/zones/z/instances/*"
    assert billed_as(sent, Alias(whole, "gke-*")) == whole.replace("*", "7")
    assert billed_as({"k8s.node.name": "eu-b-7"}, Alias("*/*", "*-b-*")) == "eu/7"
    # Any text but a slash.
    assert billed_as({"k8s.node.name": "gke-a/b"}, Alias("pool", "gke-*")) == "gke-a/b"


def test_all_machines_of_a_scale_set_are_billed_as_the_set() -> None:
    for number in range(3):
        assert billed_as({"k8s.node.provider_id": f"azure://{SCALE_SET.lower()}/virtualmachines/{number}"}) == SCALE_SET
    assert billed_as({"cloud.resource_id": f"{SCALE_SET}x/virtualMachines/0"}) == f"{SCALE_SET}x"
    # An alias goes before.
    alias = Alias("pool", f"{SCALE_SET}/virtualMachines/*")
    assert billed_as({"k8s.node.provider_id": f"azure://{SCALE_SET}/virtualMachines/0"}, alias) == "pool"


def test_a_node_pool_is_told_by_a_label() -> None:
    pool = Alias("pool-blue", "blue", "k8s.node.label.agentpool")
    assert "k8s.node.label.agentpool" in Resources(iter([pool])).attributes
    sent = {"host.id": "i-0abc", "k8s.node.label.agentpool": "blue"}
    assert billed_as(sent, pool) == "pool-blue"
    assert billed_as({"host.id": "i-0abc", "k8s.node.name": "blue"}, pool) == "i-0abc"


def test_the_id_fits_a_key_of_the_tables() -> None:
    project = "p" * NAME_MAX_BYTES
    assert len(billed_as({"k8s.node.provider_id": f"gce://{project}/z/n"}).encode()) <= NAME_MAX_BYTES


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_aliases_are_read_from_a_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "aliases.csv",
        "billed_id,observed_id,attribute\n"
        f"{SCALE_SET.lower()},{SCALE_SET.lower()}/virtualmachines/*,\n"
        " arn:aws:ec2:us-east-1:123456789012:instance/i-0abc , box ,host.name\n",
    )
    assert load_aliases(path) == (
        Alias(SCALE_SET, f"{SCALE_SET}/virtualMachines/*"),
        Alias("i-0abc", "box", "host.name"),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("billed_id,observed\na,b\n", "has no column observed_id"),
        ("billed_id,observed_id\na,\n", "line 2: billed_id and observed_id must both be given"),
        ("billed_id,observed_id\na-*,b\n", "line 2: billed_id 'a-*' has more * than observed_id 'b'"),
        ("billed_id,observed_id\n__idle__,b\n", "line 2: billed_id '__idle__' is a name of the tables"),
    ],
)
def test_an_alias_that_cannot_be_used_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ValueError, match="aliases.csv") as error:
        load_aliases(write(tmp_path / "aliases.csv", text))
    assert told in str(error.value)


# ---- through collect, meter and attribute ---------------------------------------------------


def allocated(charges: list[dict], requests: list[dict], resources: Resources) -> list[dict]:
    """Rows of cost_allocations of all resources, by the pure functions alone."""
    usage: dict[str, list] = {}
    for request in requests:
        for key, fragment in collect_metrics(orjson.dumps(request), resources=resources)[0].items():
            bucket, _, _, service, resource_id, *_ = key.split(SEPARATOR)
            used = meter(int(bucket), [fragment])["windows"]
            usage.setdefault(resource_id, []).append((user_of(service, key), used))
    collected = [collect_charge(row) for row in charges]
    rows = []
    for resource_id in usage.keys() | {row["resource_id"] for row in collected}:
        of_resource = [row for row in collected if row["resource_id"] == resource_id]
        for of_window in resource_rows(resource_id, usage.get(resource_id, []), of_resource).values():
            rows += of_window
    return rows


MACHINES = {
    "AWS": ("arn:aws:ec2:us-east-1:123456789012:instance/i-1234567890abcdef0", {"host.id": "i-1234567890abcdef0"}),
    "AWS, providerID": ("i-0abc", {"k8s.node.provider_id": "aws:///us-east-1a/i-0abc",
                                   "k8s.node.name": "ip-10-0-0-1"}),
    "Azure": (
        f"{SUBSCRIPTION}/resourcegroups/rg/providers/microsoft.compute/virtualmachines/vm-1",
        {"cloud.resource_id": f"{SUBSCRIPTION}/resourceGroups/RG/providers/Microsoft.Compute/virtualMachines/VM-1"},
    ),
    "Google Cloud, by name": (
        "//compute.googleapis.com/projects/p/zones/us-central1-a/instances/gke-1",
        {"k8s.node.provider_id": "gce://p/us-central1-a/gke-1", "host.id": "15233045891481496305"},
    ),
    "Google Cloud, by number": (
        "//compute.googleapis.com/projects/p/zones/us-central1-a/instances/15233045891481496305",
        {"host.id": "15233045891481496305", "k8s.node.name": "gke-1"},
    ),
    "OCI": ("ocid1.instance.oc1.phx.abuw4", {"k8s.node.provider_id": "oci://ocid1.instance.oc1.phx.abuw4"}),
}  # fmt: skip


@pytest.mark.parametrize("cloud", MACHINES)
def test_a_bill_meets_the_telemetry_of_its_machine(cloud: str) -> None:
    resource_id, ids = MACHINES[cloud]
    points = [(NOON_MS + minute * MINUTE_MS, 0.25) for minute in range(61)]
    requests = [
        cpu_gauge(resource("cart", "cart-1", more=ids), points),
        cpu_gauge(resource("pay", "pay-1", more=ids), points),
    ]
    cost = "0.34010000007"
    charges = [charge(resource_id, NOON_MS, NOON_MS + HOUR_MS, cost)]

    rows = [row for row in allocated(charges, requests, Resources()) if row["cost_status"] == "billed"]

    assert {row["otel_service_name"] for row in rows} == {"cart", "pay"}
    assert {row["window_start"] for row in rows} == {NOON_MS, NOON_MS + WINDOW_MS}
    assert sum(to_units(row["allocated_cost"]) for row in rows) == to_units(cost)


def test_the_record_shows_the_id_as_the_bill_has_it() -> None:
    arn = "arn:aws:ec2:us-east-1:123456789012:instance/i-0abc"
    [plain, spelt] = (collect_charge(charge(one, NOON_MS, NOON_MS + HOUR_MS, "1")) for one in ("i-0abc", arn))
    assert (spelt["resource_id"], spelt["billed_resource_id"]) == ("i-0abc", arn)
    assert plain["resource_id"] == "i-0abc" and "billed_resource_id" not in plain
    [[row], [_]] = resource_rows("i-0abc", [], [spelt]).values()
    assert row["charges"][0]["billed_resource_id"] == arn


def test_spans_and_metrics_are_tied_by_the_same_rules() -> None:
    aliases = pickle.loads(pickle.dumps(Resources([Alias("pool", "ip-*")])))
    owner = resource("cart", "cart-1", "ip-1", more={"host.id": "i-0abc"})
    request = {"resourceSpans": [{"resource": owner, "scopeSpans": [{"spans": []}]}]}
    assert collect_spans(orjson.dumps(request), resources=aliases)[1] == {"shop/cart-1": b'["cart","pool"]'}
    # One instance's reading is not another's, though the attributes are the same.
    assert collect_spans(orjson.dumps(request))[1] == {"shop/cart-1": b'["cart","i-0abc"]'}


@pytest.mark.parametrize(
    ("resource_id", "what"),
    [
        ("i-0abc", "machine"),
        ("15233045891481496305", "machine"),
        (f"{SCALE_SET}/virtualMachines/0", "machine"),
        (SCALE_SET, "group of machines"),
        ("arn:aws:eks:us-east-1:123456789012:cluster/my-cluster", "control plane"),
        (f"{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/c", "control plane"),
        ("//container.googleapis.com/projects/p/locations/l/clusters/c", "control plane"),
        ("arn:aws:elasticloadbalancing:us-west-2:123456789012:loadbalancer/net/a/50dc6c495c0c9188", "load balancer"),
        ("nat-05dba92075d71c408", "NAT or egress"),
        (f"{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Network/natGateways/n", "NAT or egress"),
        ("vol-049df61146c4d7901", "volume"),
        ("arn:aws:lambda:us-east-2:123456789012:function:my-function", "function"),
        ("node-1", ""),
    ],
)
def test_the_form_tells_the_kind(resource_id: str, what: str) -> None:
    assert canonical(resource_id) == resource_id
    assert kind(resource_id) == what
