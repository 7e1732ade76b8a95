"""Where it runs and who is billed for it: nodes, pools, pods; deploys and restarts.

A *billed resource* is what a row of the bill names. It is either a metered node (cpu, memory, io
and traffic of its pods are billed by the unit) or a pool of machines, billed by the machine hour:
an autoscaling group, managed instance group or scale set whose size follows the usage of its pods.
Pods on a pool carry the pool's id as ``cloud.resource_id`` (and the machine they run on as
``host.id``), so that usage can be tied to the pool's bill, whichever machines come and go.
"""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from simulator.config import DEPLOY, MINUTES_PER_DAY, RELEASE_SHARES, Config
from simulator.noise import Noise
from simulator.topology import Operation, Service, Step, Topology

METERED, MACHINE = "metered", "machine"

PROVIDERS = ("aws", "gcp", "azure")

_SLOTS_PER_METERED_NODE = 8
_SERVICES_PER_POOL = 8
_MACHINES_PER_POOL = 3  # that carry pods from the start; more come and go with the load

# Benign change, per service.
_DEPLOYS_PER_DAY = 0.15
_RESTARTS_PER_DAY = 0.1

# The case of many releases at once: how many services, and the factor on own time and cpu.
_RELEASED_MIN = 4
_RELEASED_SHARE = 0.2
_RELEASE_FACTOR = (0.6, 1.8)

# A deploy that changes the code makes an operation slower or faster by at most this.
_REWORK_FACTOR = 1.3

# The autoscaler looks this often, and takes pods away only if none of its last looks wants them.
_SCALER_MINUTES = 5
_SCALER_LOOKS = 3
# Pods that it wants: the load's share of the usual peak, by about this factor.
_SCALER_HEADROOM = (0.9, 1.4)

# Clocks drift to and fro within such times.
_CLOCK_HOURS = (2.0, 12.0)
# Pods on one node reach each other faster than over the wire.
_SAME_NODE_FACTOR = 0.5

_REPLICASET_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' own, without vowels


@dataclass(eq=False)
class Billed:
    """What rows of the bill name in ResourceId."""

    index: int
    resource_id: str
    name: str
    kind: str  # METERED or MACHINE
    machine_type: int  # which of the provider's, for pools; taken modulo their number
    nodes: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Node:
    """A Kubernetes node."""

    name: str
    host_id: str
    billed: Billed
    index: int = 0  # among all nodes
    gaps: list[float] = field(default_factory=list)  # by node: factor on the network's time
    clock_ms: float = 0.0  # by which its clock is wrong at most
    clock_hours: float = 1.0  # period of its drift
    clock_phase: float = 0.0

    def clock_error_ns(self, time_ms: float) -> int:
        """What its clock is ahead by; time_ms: since the world's start."""
        if not self.clock_ms:
            return 0
        angle = 2 * math.pi * (time_ms / 3_600_000 / self.clock_hours + self.clock_phase)
        return int(self.clock_ms * math.sin(angle) * 1e6)


@dataclass(eq=False)
class Pod:
    """One life of a replica: from a deploy, or a start by the autoscaler, to the next change."""

    slot: int
    service: Service
    name: str
    uid: str
    namespace: str
    node: Node
    version: str
    slow: float  # factor of this release on own time
    heavy: float  # factor of this release on cpu
    started_minute: int  # when its counters were last at zero
    is_running: bool = True  # False: the autoscaler has stopped it
    tempo: Mapping[Operation, float] = field(default_factory=dict)  # factors of this release
    dropped: frozenset[Step] = frozenset()  # calls that this release does not make


@dataclass(eq=False)
class Placement:
    """Billed resources, and the pods of each minute."""

    provider: str
    region: str
    account: str
    cluster: str
    billed: list[Billed]
    pods: list[Pod]  # of minute 0, by slot
    changes: dict[int, list[Pod]]  # minute -> pods that start then, start anew, or are stopped

    @property
    def nodes(self) -> list[Node]:
        return [node for billed in self.billed for node in billed.nodes]


def build(config: Config, topology: Topology, namespace: str, noise: Noise, load: np.ndarray) -> Placement:
    """Nodes, pods and their changes: a function of the config, not of any fault.

    load: (minutes,) requests expected, as a share of the usual peak.
    """
    rng = random.Random(f"placement/{config.seed}/{config.services}/{config.billing}")
    provider = rng.choice(PROVIDERS)
    region = {"aws": "us-east-1", "gcp": "us-central1", "azure": "eastus"}[provider]
    account = _account(provider, rng)
    cluster = f"{namespace}-{rng.choice(('prod', 'live', 'main'))}"
    placement = Placement(provider, region, account, cluster, [], [], {})

    services = list(topology.services)
    rng.shuffle(services)
    metered_share = {"metered": 1.0, "machine": 0.0, "mixed": 0.5}[config.billing]
    cut = round(len(services) * metered_share)
    metered, pooled = services[:cut], services[cut:]
    homes: dict[int, list[Node]] = {}  # service index -> nodes it may run on
    if metered:
        slots = sum(service.replicas for service in metered)
        nodes = []
        for _ in range(max(1, round(slots / _SLOTS_PER_METERED_NODE))):
            nodes += _billed(placement, METERED, 1, rng).nodes
        homes |= {service.index: nodes for service in metered}
    pools = max(1, round(len(pooled) / _SERVICES_PER_POOL)) if pooled else 0
    for number in range(pools):
        nodes = _billed(placement, MACHINE, _MACHINES_PER_POOL, rng).nodes
        homes |= {service.index: nodes for service in pooled[number::pools]}

    _set_apart(placement.nodes, noise)
    releases = _releases(config, topology)
    for service in topology.services:
        _schedule(
            config,
            placement,
            service,
            homes[service.index],
            namespace,
            releases.get(service.index, {}),
            _scalings(service, load, noise),
            noise,
            rng,
        )
    for pods in placement.changes.values():
        pods.sort(key=lambda pod: pod.slot)
    return placement


def _releases(config: Config, topology: Topology) -> dict[int, dict[int, float]]:
    """{service index: {minute: factor on own time and cpu}}; empty but in the case of deploys."""
    rng = random.Random(f"releases/{config.seed}/{config.services}")
    releases: dict[int, dict[int, float]] = {}
    if config.case == DEPLOY:
        services = len(topology.services)
        count = min(max(_RELEASED_MIN, round(_RELEASED_SHARE * services)), services)
        for share in RELEASE_SHARES:
            for service in rng.sample(topology.services, count):
                factor = math.exp(rng.uniform(*map(math.log, _RELEASE_FACTOR)))
                releases.setdefault(service.index, {})[round(share * config.minutes)] = factor
    return releases


def _set_apart(nodes: list[Node], noise: Noise) -> None:
    """Give nodes their places and clocks: near and far, right and wrong."""
    zones = [int(noise.uniform(0, noise.zones, "zone", node.name)) for node in nodes]
    for index, node in enumerate(nodes):
        node.index = index
        node.gaps = [
            (_SAME_NODE_FACTOR if noise.zones > 1 and other is node else 1.0)
            * (noise.far_factor if zones[index] != zone else 1.0)
            * noise.spread(noise.pair_spread, "pair", *sorted((node.name, other.name)))
            for other, zone in zip(nodes, zones)
        ]
        node.clock_ms = noise.clock_ms * noise.normal("clock", node.name)
        node.clock_hours = noise.log_uniform(*_CLOCK_HOURS, "clock hours", node.name)
        node.clock_phase = noise.unit("clock phase", node.name)


def _scalings(service: Service, load: np.ndarray, noise: Noise) -> list[tuple[int, int]]:
    """[(minute, replicas)] that the autoscaler wants, at each of its looks; empty without one."""
    if not noise.is_among(noise.autoscaled, "autoscaled", service.name):
        return []
    per_peak = service.replicas * noise.uniform(*_SCALER_HEADROOM, "headroom", service.name)
    looks = range(int(noise.uniform(1, _SCALER_MINUTES, "look", service.name)), len(load), _SCALER_MINUTES)
    wanted = [min(max(math.ceil(per_peak * load[minute]), 1), service.replicas) for minute in looks]
    return [(minute, max(wanted[max(0, n + 1 - _SCALER_LOOKS) : n + 1])) for n, minute in enumerate(looks)]


def _account(provider: str, rng: random.Random) -> str:
    if provider == "aws":
        return f"{rng.randrange(10**11, 10**12)}"
    if provider == "gcp":
        return f"shop-{rng.randrange(10**5, 10**6)}"
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _hex(rng: random.Random, digits: int) -> str:
    return f"{rng.getrandbits(4 * digits):0{digits}x}"


def _billed(placement: Placement, kind: str, node_count: int, rng: random.Random) -> Billed:
    """Add a billed resource with its nodes, ids as the provider writes them."""
    index = len(placement.billed)
    region, account, cluster = placement.region, placement.account, placement.cluster
    pool = f"{rng.choice(('general', 'compute', 'apps', 'core'))}-{index}"
    nodes = []
    for _ in range(node_count):
        if placement.provider == "aws":
            address = [rng.randrange(256) for _ in range(3)]
            name = f"ip-10-{address[0]}-{address[1]}-{address[2]}.ec2.internal"
            nodes.append((name, f"i-0{_hex(rng, 16)}"))
        elif placement.provider == "gcp":
            name = f"gke-{cluster}-{pool}-{_hex(rng, 8)}-{_hex(rng, 4)}"
            nodes.append((name, f"{rng.randrange(10**18, 9 * 10**18)}"))
        else:
            name = f"aks-{pool.replace('-', '')}-{rng.randrange(10**7, 10**8)}-vm{_hex(rng, 6)}"
            nodes.append(
                (
                    name,
                    (
                        f"/subscriptions/{account}/resourceGroups/mc_{cluster}_{region}/providers"
                        f"/Microsoft.Compute/virtualMachines/{name}"
                    ),
                )
            )
    if kind == METERED:
        ((name, resource_id),) = nodes
    elif placement.provider == "aws":
        name = f"eks-{pool}"
        group = uuid.UUID(int=rng.getrandbits(128), version=4)
        resource_id = f"arn:aws:autoscaling:{region}:{account}:autoScalingGroup:{group}:autoScalingGroupName/{name}"
    elif placement.provider == "gcp":
        name = f"gke-{cluster}-{pool}-grp"
        resource_id = f"//compute.googleapis.com/projects/{account}/zones/{region}-b/instanceGroupManagers/{name}"
    else:
        name = f"aks-{pool.replace('-', '')}-vmss"
        resource_id = (
            f"/subscriptions/{account}/resourceGroups/mc_{cluster}_{region}/providers"
            f"/Microsoft.Compute/virtualMachineScaleSets/{name}"
        )
    billed = Billed(index, resource_id, name, kind, rng.randrange(1 << 16))
    billed.nodes = [Node(name, host_id, billed) for name, host_id in nodes]
    placement.billed.append(billed)
    return billed


def _schedule(
    config: Config,
    placement: Placement,
    service: Service,
    nodes: list[Node],
    namespace: str,
    releases: Mapping[int, float],
    scalings: list[tuple[int, int]],
    noise: Noise,
    rng: random.Random,
) -> None:
    """All pods that ``service`` ever has: first release, then deploys, restarts and scalings.

    releases: deploys at given minutes, with their factor on own time and cpu. scalings: minutes,
    with the replicas wanted.
    """
    release = [rng.randrange(1, 5), rng.randrange(20), rng.randrange(10)]
    slow, heavy = 1.0, 1.0
    tempo: dict[Operation, float] = {}
    dropped: frozenset[Step] = frozenset()

    def start(slot: int, minute: int, replicaset: str) -> Pod:
        suffix = "".join(rng.choices(_REPLICASET_ALPHABET, k=5))
        name = f"{service.name}-{replicaset}-{suffix}"
        return Pod(
            slot=slot,
            service=service,
            name=name,
            uid=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            namespace=namespace,
            node=rng.choice(nodes),
            version=".".join(map(str, release)),
            slow=slow * noise.spread(noise.replica_spread, "replica", name),
            heavy=heavy,
            started_minute=minute,
            tempo=tempo,
            dropped=dropped,
        )

    if noise.is_among(noise.reworked, "call to come", service.name):
        tempo, dropped = _rework(service, tempo, dropped, noise, 0)
    replicaset = _hex(rng, 10)
    # Everything has been running for a while when the world begins.
    current = {slot: start(slot, -rng.randrange(60, 5000), replicaset) for slot in service.slots}
    placement.pods += [current[slot] for slot in service.slots]
    events = [
        (rng.randrange(1, config.minutes), kind)
        for kind, per_day in (
            ("deploy", _DEPLOYS_PER_DAY * noise.deploys),
            ("restart", _RESTARTS_PER_DAY * noise.restarts),
        )
        for _ in range(_poisson(per_day * config.minutes / MINUTES_PER_DAY, rng))
    ]
    events = sorted(events + [(minute, "release") for minute in releases])
    replicas = dict(scalings)
    events = sorted([*events, *((minute, "scale") for minute in replicas)], key=lambda event: event[0])
    rolled_out = 0
    for minute, kind in events:
        running = [slot for slot in service.slots if current[slot].is_running]
        if kind == "scale":
            if minute < rolled_out:
                continue  # the autoscaler keeps its hands off a rollout; it looks again
            wanted = service.slots[: replicas[minute]]
            for slot in sorted({*wanted} ^ {*running}):
                current[slot] = (
                    start(slot, minute, replicaset) if slot in wanted else replace(current[slot], is_running=False)
                )
                placement.changes.setdefault(minute, []).append(current[slot])
            continue
        if kind == "restart":
            slot = rng.choice(running)
            current[slot] = replace(current[slot], started_minute=minute)
            placement.changes.setdefault(minute, []).append(current[slot])
            continue
        release[1:] = [release[1] + 1, 0] if rng.random() < 0.3 else [release[1], release[2] + 1]
        if kind == "release":
            slow *= releases[minute]
            heavy *= releases[minute]
        else:
            slow *= rng.lognormvariate(0, 0.06)
            heavy *= rng.lognormvariate(0, 0.06)
        if noise.is_among(noise.reworked, "rework", service.name, minute):
            tempo, dropped = _rework(service, tempo, dropped, noise, minute)
        replicaset = _hex(rng, 10)
        rolled_out = minute + len(running)
        for number, slot in enumerate(running):  # rolling: a replica a minute
            current[slot] = start(slot, minute + number, replicaset)
            placement.changes.setdefault(minute + number, []).append(current[slot])


def _rework(
    service: Service, tempo: Mapping[Operation, float], dropped: frozenset[Step], noise: Noise, minute: int
) -> tuple[dict[Operation, float], frozenset[Step]]:
    """(factors, calls not made) of the next release: one call comes or goes, or one time changes."""
    rng = random.Random(f"rework/{noise.seed}/{service.name}/{minute}")
    steps = [step for operation in service.operations for step in operation.steps]
    if steps and rng.random() < 0.5:
        return dict(tempo), dropped ^ {rng.choice(steps)}
    edge = math.log(_REWORK_FACTOR)
    return {**tempo, rng.choice(service.operations): math.exp(rng.uniform(-edge, edge))}, dropped


def _poisson(mean: float, rng: random.Random) -> int:
    """A draw from the Poisson distribution (exponential gaps)."""
    count, time = 0, rng.expovariate(1.0)
    while time < mean:
        count += 1
        time += rng.expovariate(1.0)
    return count
