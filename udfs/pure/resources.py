"""Which billed resource a charge and a workload's telemetry mean: canonical ids, the order of trust, aliases.

A bill and telemetry name one thing in different words: ``arn:aws:ec2:us-east-1:123456789012:instance/i-0abc`` and
``i-0abc``. Both are brought to one canonical form when they are read, and the job joins by it. The form is the one that
the provider's bill or API writes. Text of no known form stays as it is, byte for byte, and two ids that differ in more
than spelling never become one.

What no rule knows, a file of aliases says (``load_aliases``): telemetry that an alias fits counts for its billed id.

Sources: AWS "Amazon Resource Names", Azure Resource Manager (ids are case-insensitive), Google Cloud "Full resource
names", OCI "Resource identifiers", ``spec.providerID`` of the Kubernetes cloud providers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from udfs.pure import names
from udfs.pure.settings_file import lines

# Attributes of a telemetry resource that name the billed resource, in the order of trust.
CLOUD_RESOURCE_ID, PROVIDER_ID, HOST_ID = "cloud.resource_id", "k8s.node.provider_id", "host.id"
NODE_NAME, HOST_NAME = "k8s.node.name", "host.name"
TRUST = (CLOUD_RESOURCE_ID, PROVIDER_ID, HOST_ID, NODE_NAME, HOST_NAME)
# The pool that labels name; a node in a cloud is in no bill by its name.
POOL = "pool"
ORDER = (CLOUD_RESOURCE_ID, PROVIDER_ID, HOST_ID, POOL, NODE_NAME, HOST_NAME)

# What the Collector's detector says of a machine of Azure, whose host.id is in no bill.
_AZURE_SUBSCRIPTION, _AZURE_GROUP = "cloud.account.id", "azure.resourcegroup.name"
_AZURE_SCALE_SET, _AZURE_MACHINE = "azure.vm.scaleset.name", "azure.vm.name"

# Inside of a pod or a container its SDK takes the pod's name or the container's id for the host's name.
_NAMES_A_POD = ("k8s.pod.uid", "k8s.pod.name")
CONTAINER_ID = "container.id"


# ---- canonical forms ------------------------------------------------------------------------

_SCHEME = re.compile(r"(?i)(aws|azure|gce|oci)://")

_ARN = re.compile(r"(?i)arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9-]*:")
# EC2 gives these ids once, and its bill and its machines say them without an ARN: type in the ARN -> prefix of the id.
_EC2 = {
    "capacity-reservation": "cr",
    "dedicated-host": "h",
    "elastic-ip": "eipalloc",
    "image": "ami",
    "instance": "i",
    "internet-gateway": "igw",
    "natgateway": "nat",
    "network-interface": "eni",
    "snapshot": "snap",
    "subnet": "subnet",
    "transit-gateway": "tgw",
    "transit-gateway-attachment": "tgw-attach",
    "volume": "vol",
    "vpc": "vpc",
    "vpc-endpoint": "vpce",
    "vpn-connection": "vpn",
}
_EC2_ARN = re.compile(r"arn:aws[a-z-]*:ec2:[a-z0-9-]*:[0-9]*:([a-z-]+)/([a-z-]+)-([0-9a-f]+)")
_EC2_NODE = re.compile(r"(?i:aws)://.*/(i-[0-9a-f]+)")
# What is billed as the whole that it is a part of: a version or an alias of a function, a machine of a scale set.
_PARTS = (
    re.compile(r"(arn:aws[a-z-]*:lambda:[^:]*:[^:]*:function:[^:]+):[^:]+"),
    re.compile(r"(.*/virtualMachineScaleSets/[^/]+)/virtualMachines/[^/]+"),
)

_AZURE = re.compile(r"(?i)(?:azure:/+|https://management\.azure\.com/+|/)?(subscriptions/[^/].*)")
# Azure compares ids without case. Its types are shown as its API writes them, names in lower case.
_AZURE_WORDS = {
    word.lower(): word
    for word in (
        "resourceGroups Microsoft.Cache Microsoft.Compute Microsoft.ContainerInstance Microsoft.ContainerRegistry"
        " Microsoft.ContainerService Microsoft.DBforMySQL Microsoft.DBforPostgreSQL Microsoft.DocumentDB"
        " Microsoft.EventHub Microsoft.KeyVault Microsoft.Network Microsoft.OperationalInsights Microsoft.ServiceBus"
        " Microsoft.Sql Microsoft.Storage Microsoft.Web"
        " agentPools applicationGateways availabilitySets azureFirewalls bastionHosts containerGroups databaseAccounts"
        " expressRouteCircuits flexibleServers loadBalancers managedClusters natGateways networkInterfaces"
        " privateEndpoints proximityPlacementGroups publicIPAddresses serverFarms storageAccounts"
        " virtualMachineScaleSets virtualMachines virtualNetworkGateways virtualNetworks"
    ).split()
}

_GOOGLE_COMPUTE = re.compile(
    r"(?:(?:https?:)?//(?:www\.googleapis\.com/compute/(?:v1|beta|alpha)|compute\.googleapis\.com(?:/compute/v1)?)/)?"
    r"(projects/[^/]+/(?:uid/)?(?:zones/[^/]+|regions/[^/]+|global)/"
    r"(?:addresses|disks|forwardingRules|instanceGroupManagers|instanceGroups|instances|routers|snapshots)/([^/]+))"
)
_GOOGLE_CLUSTER = re.compile(r"(projects/[^/]+/(?:locations|zones|regions)/[^/]+/clusters/[^/]+)")
_GOOGLE_NODE = re.compile(r"(?i:gce)://([^/]+)/([^/]+)/([^/]+)")
# Numbers that Google gives to machines have 16 to 20 digits, a machine's name begins with a letter.
_GOOGLE_NUMBER = re.compile(r"[0-9]{8,}")

_OCID = re.compile(r"(?i:oci)://(ocid1\..+)")


def canonical(resource_id: str) -> str:
    """The one way to write the id of a billed resource, from any of those that are known; else as it is.

    canonical(canonical(x)) is canonical(x).

    AWS: an id of EC2 (i-, vol-, nat-, eipalloc-, ...) without its ARN; any other ARN as it is.
    Azure: types in the case of its API, names in lower case.
    Google Cloud: the full resource name; of a machine that is named by its number that alone, as ``host.id`` has it.
    OCI: the OCID.
    """
    if "/" not in resource_id and ":" not in resource_id:
        return resource_id
    text = resource_id.rstrip("/")
    if _SCHEME.match(text):
        return _provider_id(text) or resource_id
    if _ARN.match(text):
        return _arn(text)
    if azure := _AZURE.fullmatch(text):
        return _azure(azure[1])
    if google := _GOOGLE_COMPUTE.fullmatch(text):
        return _google_compute(google)
    if cluster := _GOOGLE_CLUSTER.fullmatch(text):
        return f"//container.googleapis.com/{cluster[1]}"
    return text if text.startswith("//") and ".googleapis.com/" in text else resource_id


def billed_whole(resource_id: str) -> str:
    """Of a canonical id that of what is billed: the function of a version, the scale set of a machine."""
    for part in _PARTS:
        if found := part.fullmatch(resource_id):
            return found[1]
    return resource_id


def _provider_id(text: str) -> str | None:
    """spec.providerID of a Kubernetes node; None where it names no machine that is billed."""
    if node := _EC2_NODE.fullmatch(text):
        return node[1]
    if node := _GOOGLE_NODE.fullmatch(text):
        project, zone, name = node.groups()
        return f"//compute.googleapis.com/projects/{project}/zones/{zone}/instances/{name}"
    if node := _OCID.fullmatch(text):
        return node[1]
    if node := _AZURE.fullmatch(text):
        return _azure(node[1])
    return None


def _arn(text: str) -> str:
    """An ARN; partition, service and region have no capitals."""
    *head, account, rest = text.split(":", 5)
    text = ":".join((*(part.lower() for part in head), account, rest))
    found = _EC2_ARN.fullmatch(text)
    if found and _EC2.get(found[1]) == found[2]:
        return f"{found[2]}-{found[3]}"
    return text


def _azure(path: str) -> str:
    """subscriptions/ID/resourceGroups/NAME/providers/NAMESPACE/TYPE/NAME[/TYPE/NAME ...], in any case."""
    segments = path.lower().split("/")
    for index, segment in enumerate(segments):
        is_word = index % 2 == 0 or segments[index - 1] == "providers"
        if is_word:
            segments[index] = _AZURE_WORDS.get(segment, segment)
    return "/" + "/".join(segments)


def _google_compute(found: re.Match[str]) -> str:
    path, name = found.groups()
    if "/instances/" in path and _GOOGLE_NUMBER.fullmatch(name):
        return name
    return f"//compute.googleapis.com/{path}"


# ---- pools by tag and label -----------------------------------------------------------------

# A bill that names no machine may name its pool by a tag, of which the node's label (or, of an autoscaling group, the
# tag that the Collector's ec2 detector sends) has the value: tag -> tags that name the cluster, attribute.
# Sources: EKS "Tag your nodes for billing"; GKE "Labels in cost allocation and billing export"; Auto Scaling "Tag
# lifecycle". A name is unique within an account (a project), region and cluster.
_POOLS = {
    "eks:nodegroup-name": (("eks:cluster-name", "aws:eks:cluster-name"), "k8s.node.label.eks.amazonaws.com/nodegroup"),
    "goog-k8s-node-pool-name": (("goog-k8s-cluster-name",), "k8s.node.label.cloud.google.com/gke-nodepool"),
    "aws:autoscaling:groupName": ((), "ec2.tag.aws:autoscaling:groupName"),
}
_ACCOUNT, _REGION, _CLUSTER = "cloud.account.id", "cloud.region", "k8s.cluster.name"


def pool_by_tags(tags: Mapping[str, object], account: str, region: str) -> str:
    """The pool that the tags of a charge without ResourceId name, as ``TAG=ACCOUNT/REGION/CLUSTER/NAME``; "" if none.

    account, region: FOCUS SubAccountId and RegionId; "" = unknown, and then there is no pool.
    """
    own = {str(name).removeprefix("user:"): value for name, value in tags.items()}  # as AWS has those of the user
    for tag, (cluster_tags, _) in _POOLS.items():
        cluster = next(filter(None, map(own.get, cluster_tags)), None)
        if pool := _pool(tag, account, region, cluster, own.get(tag)):
            return pool
    return ""


def is_of_a_tag(resource_id: str) -> bool:
    """Whether it is of ``pool_by_tags``, and no id of the bill."""
    return resource_id.partition("=")[0] in _POOLS


def _pool_by_labels(sent: Mapping[str, str]) -> str:
    """The same of what telemetry sends of a node."""
    account, region = sent.get(_ACCOUNT, ""), sent.get(_REGION, "")
    for tag, (_, attribute) in _POOLS.items():
        if pool := _pool(tag, account, region, sent.get(_CLUSTER), sent.get(attribute)):
            return pool
    return ""


def _pool(tag: str, account: str, region: str, cluster: object, name: object) -> str:
    parts = (account, region, *([cluster] if _POOLS[tag][0] else []), name)
    return f"{tag}={'/'.join(map(str, parts))}" if all(parts) else ""


# What a node is called, the first that is sent: most of a node's telemetry has its name.
_NODE_NAMES = (NODE_NAME, PROVIDER_ID, HOST_ID, _AZURE_MACHINE)
# Labels that tell a node's cores, the first that is sent. Sources: AKS "Reserved system labels",
# Karpenter "Well-known labels", for Azure and AWS; GKE sets its own on each node.
_CORES = tuple(
    f"k8s.node.label.{label}"
    for label in (
        "kubernetes.azure.com/sku-cpu",
        "karpenter.azure.com/sku-cpu",
        "karpenter.k8s.aws/instance-cpu",
        "cloud.google.com/gke-cpu-scaling-level",
    )
)
# ... else what its type is called: learn.microsoft.com/azure/virtual-machines/vm-naming-conventions, and "Machine
# types" of Compute Engine.
_TYPES = ("host.type", "k8s.node.label.node.kubernetes.io/instance-type")
_CORES_OF_TYPE = (
    # Since version 3 the number is that of cores.
    re.compile(r"Standard_[A-Z]+([1-9][0-9]*)(?:-[0-9]+)?[a-z]*(?:_[A-Z0-9]+)?_v(?:[3-9]|[1-9][0-9])"),
    re.compile(r"[a-z][a-z0-9]*-(?:standard|highmem|highcpu|ultramem|megamem|custom)-([1-9][0-9]*)(?:-.*)?"),
)


def _cores(sent: Mapping[str, str]) -> str:
    """Cores of a node as digits; "" if nobody tells."""
    for attribute in _CORES:
        if re.fullmatch(r"[1-9][0-9]{0,4}", sent.get(attribute, "")):
            return sent[attribute]
    for attribute in _TYPES:
        for form in _CORES_OF_TYPE:
            if found := form.fullmatch(sent.get(attribute, "")):
                return found[1]
    return ""


# ---- aliases --------------------------------------------------------------------------------


class Alias(NamedTuple):
    """Telemetry whose ``attribute`` ("" = any of TRUST) fits ``observed_id`` is of ``billed_id``.

    A ``*`` in observed_id is any text without a slash; each ``*`` of billed_id stands for the next of those texts.
    """

    billed_id: str
    observed_id: str
    attribute: str = ""

    @property
    def is_pattern(self) -> bool:
        return "*" in self.observed_id


class Resources:
    """How telemetry is tied to billed resources. One instance is one identity: caches are kept by it."""

    def __init__(self, aliases: Iterable[Alias] = (), trust: Iterable[str] = ()) -> None:
        """trust: of ORDER, what goes before the others."""
        aliases, first = tuple(aliases), tuple(trust)
        self._order = (*first, *(each for each in ORDER if each not in first))
        self._exact: dict[tuple[str, str], str] = {}
        self._patterns: list[tuple[Alias, re.Pattern[str]]] = []
        for alias in aliases:
            if alias.is_pattern:
                self._patterns.append((alias, _pattern(alias.observed_id)))
            else:
                self._exact.setdefault((alias.attribute, alias.observed_id), alias.billed_id)
        named = {alias.attribute for alias in aliases if alias.attribute}
        self._naming = (*TRUST, *sorted(named - set(TRUST)))
        # What billed_as looks at.
        self.attributes = frozenset(
            (*self._naming, *_NAMES_A_POD, CONTAINER_ID)
            + (_AZURE_SUBSCRIPTION, _AZURE_GROUP, _AZURE_SCALE_SET, _AZURE_MACHINE)
            + (_ACCOUNT, _REGION, _CLUSTER, *(attribute for _, attribute in _POOLS.values()), *_CORES, *_TYPES)
        )

    def billed_as(self, sent: Mapping[str, str]) -> str:
        """Canonical id of the billed resource that the attributes name; "" if none.

        An alias goes before all: lines without ``*`` first, then the others in their order in the file. Then the first
        of the order of trust that was sent counts; what the bill names plays no part, since it may come later.
        """
        spelt = [
            (attribute, spelling)
            for attribute in self._naming
            if sent.get(attribute)
            for spelling in dict.fromkeys((sent[attribute], canonical(sent[attribute])))
        ]
        return names.name(self._by_name(spelt) or self._by_pattern(spelt) or self._by_trust(sent))

    @staticmethod
    def node_of(sent: Mapping[str, str], resource_id: str) -> tuple[str, str] | None:
        """(name, cores as digits or "") of the node that the attributes name, where it is one of a group of machines
        that is billed as ``resource_id``; else None."""
        if kind(resource_id) != GROUP:
            return None
        name = next((sent[attribute] for attribute in _NODE_NAMES if sent.get(attribute)), "")
        itself = canonical(sent.get(CLOUD_RESOURCE_ID, ""))
        name = name or (itself if itself != billed_whole(itself) else "")
        return (name, _cores(sent)) if name else None

    def _by_name(self, spelt: list[tuple[str, str]]) -> str:
        for attribute, spelling in spelt:
            for named in (attribute, "") if attribute in TRUST else (attribute,):
                if billed_id := self._exact.get((named, spelling)):
                    return billed_id
        return ""

    def _by_pattern(self, spelt: list[tuple[str, str]]) -> str:
        for alias, pattern in self._patterns:
            for attribute, spelling in spelt:
                fits_here = alias.attribute == attribute if alias.attribute else attribute in TRUST
                if fits_here and (found := pattern.fullmatch(spelling)):
                    return canonical(_filled(alias.billed_id, found.groups()))
        return ""

    def _by_trust(self, sent: Mapping[str, str]) -> str:
        return next(filter(None, (named(sent, attribute) for attribute in self._order)), "")


def named(sent: Mapping[str, str], attribute: str) -> str:
    """Canonical id of what one of ORDER says is billed; "" if it says nothing."""
    if attribute == POOL:
        return _pool_by_labels(sent)
    if attribute == HOST_ID and (machine := _azure_machine(sent)):
        return machine
    value = sent.get(attribute, "")
    if not value or (attribute == HOST_NAME and not _is_of_the_host(value, sent)):
        return ""
    return billed_whole(canonical(value))


def _azure_machine(sent: Mapping[str, str]) -> str:
    """What Azure bills of a machine that the Collector's detector describes: its scale set, else itself; "" if none."""
    subscription, group = sent.get(_AZURE_SUBSCRIPTION), sent.get(_AZURE_GROUP)
    for attribute, kind in ((_AZURE_SCALE_SET, "virtualMachineScaleSets"), (_AZURE_MACHINE, "virtualMachines")):
        if subscription and group and (name := sent.get(attribute)):
            return canonical(
                f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/{kind}/{name}"
            )
    return ""


def _is_of_the_host(host_name: str, sent: Mapping[str, str]) -> bool:
    """host.name is the machine's, and not that of the pod or container in which it was asked for."""
    return not any(map(sent.get, _NAMES_A_POD)) and not sent.get(CONTAINER_ID, "").startswith(host_name)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("([^/]*)".join(map(re.escape, text.split("*"))), re.DOTALL)


def _filled(template: str, texts: Iterable[str]) -> str:
    """``template`` with each ``*`` replaced by the next of ``texts``; those that are left over count for nothing."""
    first, *parts = template.split("*")
    return first + "".join(text + part for text, part in zip(texts, parts, strict=False))


NO_ALIASES = Resources()


def read_trust(text: str) -> tuple[str, ...]:
    """Of ORDER, by comma, what goes before the others.

    Raises:
        ValueError: another word; one line that names it.
    """
    trust = tuple(word.strip() for word in text.split(",") if word.strip())
    if unknown := next((word for word in trust if word not in ORDER), ""):
        raise ValueError(f"{unknown!r} must be one of {', '.join(ORDER)}")
    return trust


def load_aliases(path: Path) -> tuple[Alias, ...]:
    """The lines of a CSV file with the columns billed_id, observed_id and, if need be, attribute.

    billed_id: ResourceId of the bill, in any spelling. observed_id: what telemetry says, with ``*`` for any text
    without a slash; as many or more of them as in billed_id. attribute: the resource attribute that says it (a label of
    the node, for example); empty = any of TRUST.

    Raises:
        ValueError: a line can't be used; one line of text that says which, and why.
    """
    aliases = []
    for where, row in lines(path, ("billed_id", "observed_id")):
        billed_id, observed_id = row["billed_id"], row["observed_id"]
        if not billed_id or not observed_id:
            raise ValueError(f"{where}: billed_id and observed_id must both be given")
        if billed_id in names.RESERVED:
            raise ValueError(f"{where}: billed_id {billed_id!r} is a name of the tables and no resource")
        if billed_id.count("*") > observed_id.count("*"):
            raise ValueError(
                f"{where}: billed_id {billed_id!r} has more * than observed_id {observed_id!r} gives texts for"
            )
        aliases.append(Alias(canonical(billed_id), canonical(observed_id), row.get("attribute", "")))
    return tuple(aliases)


# ---- kinds ----------------------------------------------------------------------------------

GROUP = "group of machines"

# By canonical id, the first that fits.
_KINDS = (
    ("machine", r"i-[0-9a-f]+|[0-9]{8,}|.*/instances/[^/]+|.*/virtualMachines/[^/]+|ocid1\.instance\..*"),
    (GROUP, "|".join((
        *(f"{re.escape(tag)}=.*" for tag in _POOLS), r".*/virtualMachineScaleSets/[^/]+", r"arn:.*:autoScalingGroup:.*",
        r".*/instanceGroupManagers/[^/]+", r"ocid1\.instancepool\..*",
    ))),
    ("function", r"arn:[^:]*:lambda:.*"),
)  # fmt: skip

# Of what no metric measures the use: as SQL has it, % for any text. ``python -m jobs.contract`` writes them into the
# queries.
UNMEASURED = {
    "control plane": (
        "arn:%:eks:%:cluster/%", "%/managedClusters/%", "//container.googleapis.com/%/clusters/%", "ocid1.cluster.%",
    ),
    "load balancer": (
        "arn:%:elasticloadbalancing:%", "%/loadBalancers/%", "%/applicationGateways/%", "%/forwardingRules/%",
        "ocid1.loadbalancer.%", "ocid1.networkloadbalancer.%",
    ),
    "NAT or egress": (
        "nat-%", "eipalloc-%", "vpce-%", "tgw-%", "%/natGateways/%", "%/publicIPAddresses/%", "%/routers/%",
        "%/addresses/%", "ocid1.natgateway.%",
    ),
    "volume": ("vol-%", "snap-%", "%/disks/%", "%/snapshots/%", "ocid1.volume.%", "ocid1.bootvolume.%"),
}  # fmt: skip

# Of these what all workloads of a cluster share: no use of one of them tells its part, and so it is allocated to none.
SHARED_BY_ALL = ("control plane", "load balancer", "NAT or egress")

_FORMS = tuple(
    (kind, re.compile(pattern, re.DOTALL))
    for kind, pattern in (
        *_KINDS,
        *(
            (of, "|".join(".*".join(map(re.escape, each.split("%"))) for each in like))
            for of, like in UNMEASURED.items()
        ),
    )
)


def kind(resource_id: str) -> str:
    """What a billed resource is, by its canonical id; "" where that doesn't say."""
    return next((kind for kind, pattern in _FORMS if pattern.fullmatch(resource_id)), "")
