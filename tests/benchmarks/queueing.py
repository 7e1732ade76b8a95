"""A shop as a network of queues: telemetry of a system whose times nobody drew, with and without faults.

    python -m tests.benchmarks.queueing --output DIR --seed N [--hours 6] [--spans 100000] [--calm]

For development beside our simulator, with which it shares no code and no idea of noise. There times are drawn around a
location; here they emerge: requests arrive in bursts, wait for workers, connections and a share of their node's cores,
meet pauses of the garbage collector, cold replicas and cold caches, time out, and are sent again as clients do. The
traces are a sample of the requests, so usage is explained by them only in part. Databases, caches and the broker have
no spans of their own. Some services emit server spans only. Each seed is another shop.

Writes traces, metrics and a bill (docs/interface.md §1) and ``truth/`` with the columns of the worlds in shared/data.
The truth is exact: the same requests run a second time without the faults, with the same randomness, keyed by request,
path and attempt. A trace is anomalous if it differs: other calls, other errors, or times or work beyond DIFFERENCE.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import heapq
import json
import math
import sys
import zlib
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

START_S = 1_788_220_800  # 2026-09-01T00:00Z
NS = 1_000_000_000
HOUR_S = 3600.0

# A span or a trace's work that changes by less is the same.
DIFFERENCE = math.log(1.25)
SLACK_S = 0.001
# What at least this share of the requests asks may fail or be released.
OFTEN = 0.1

SLOW, FAILING, CRASH, HOG, LOST_CACHE, RETRY_STORM = (
    "latency_spike", "dependency_failure", "replica_crash", "resource_overuse", "cache_loss", "retry_loop",
)  # fmt: skip
KINDS = (SLOW, FAILING, CRASH, HOG, LOST_CACHE, RETRY_STORM)

NAMES = (
    "front", "cart", "orders", "catalog", "price", "stock", "users", "billing", "mail", "search",
    "review", "ship", "tax", "coupon", "media", "audit", "rank", "geo",
)  # fmt: skip
VERBS = ("get", "list", "put", "check")

INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5


# ---- randomness ------------------------------------------------------------------------------

MASK = (1 << 64) - 1


def mix(key: int, part: int) -> int:
    """A key of a part of what ``key`` stands for (splitmix64)."""
    z = (key + 0x9E3779B97F4A7C15 * (part + 1)) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniform(key: int, part: int) -> float:
    """In (0, 1)."""
    return (mix(key, part) + 0.5) / (MASK + 1)


def exponential(key: int, part: int) -> float:
    """Of mean 1."""
    return -math.log(uniform(key, part))


# ---- time, workers, cores --------------------------------------------------------------------

Resume = Callable[[Any], None]
# What a process yields: it is handed what resumes the process, once.
Wait = Callable[[Resume], None]
Process = Generator[Wait, Any, Any]


class Engine:
    """Discrete events in order of time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable, Any]] = []
        self._count = 0

    def at(self, time: float, do: Callable[[Any], None], what: Any = None) -> None:
        """Call ``do(what)`` at ``time``."""
        self._count += 1
        heapq.heappush(self._events, (time, self._count, do, what))

    def run(self) -> None:
        """Until nothing is left to do."""
        events = self._events
        while events:
            self.now, _, do, what = heapq.heappop(events)
            do(what)

    def spawn(self, process: Process, done: Resume | None = None) -> None:
        """Start a process; ``done`` is handed what it returns."""

        def step(value: Any) -> None:
            try:
                process.send(value)(step)
            except StopIteration as end:
                if done:
                    done(end.value)

        step(None)

    def sleep(self, seconds: float) -> Wait:
        """Resume later."""
        return lambda resume: self.at(self.now + seconds, resume)

    def first(self, process: Process, timeout_s: float, late: Any) -> Wait:
        """What the process returns, or ``late`` after the timeout; the process goes on nevertheless."""

        def wait(resume: Resume) -> None:
            open_ = [True]

            def finish(value: Any) -> None:
                if open_[0]:
                    open_[0] = False
                    resume(value)

            self.spawn(process, finish)
            self.at(self.now + timeout_s, finish, late)

        return wait

    def all(self, processes: Sequence[Process]) -> Wait:
        """What they return, when all have."""

        def wait(resume: Resume) -> None:
            results: list[Any] = [None] * len(processes)
            left = [len(processes)]

            def finish(at: int) -> Resume:
                def set_(value: Any) -> None:
                    results[at] = value
                    left[0] -= 1
                    if not left[0]:
                        self.at(self.now, resume, results)

                return set_

            for i, process in enumerate(processes):
                self.spawn(process, finish(i))

        return wait


class Slots:
    """So many at a time, first come, first served: workers, connections."""

    def __init__(self, engine: Engine, capacity: int) -> None:
        self._engine, self.capacity, self.used = engine, capacity, 0
        self._waiting: deque[Resume] = deque()

    def acquire(self, resume: Resume) -> None:
        """Resume when one is free; it is taken then."""
        if self.used < self.capacity:
            self.used += 1
            self._engine.at(self._engine.now, resume)
        else:
            self._waiting.append(resume)

    def release(self) -> None:
        """Hand it on."""
        if self._waiting:
            self._engine.at(self._engine.now, self._waiting.popleft())
        else:
            self.used -= 1


class Node:
    """A machine whose cores all that runs on it share evenly (processor sharing)."""

    def __init__(self, engine: Engine, name: str, zone: int, cores: float, skew_s: float) -> None:
        self._engine, self.name, self.zone, self.cores, self.skew_s = engine, name, zone, cores, skew_s
        self._hogs = 0.0  # threads that run all the time
        self._jobs: list[tuple[float, int, Resume]] = []
        self._served = self._since = 0.0  # what each job has had so far; up to when
        self._version = self._count = 0

    def use(self, cpu_s: float) -> Wait:
        """Resume when so much of a core has been had."""

        def wait(resume: Resume) -> None:
            self._advance()
            self._count += 1
            heapq.heappush(self._jobs, (self._served + cpu_s, self._count, resume))
            self._plan()

        return wait

    def hog(self, threads: float) -> None:
        """So many more threads run all the time, or fewer."""
        self._advance()
        self._hogs += threads
        self._plan()

    def share(self) -> float:
        """Of a core, what each job has."""
        return min(1.0, self.cores / max(len(self._jobs) + self._hogs, 1.0))

    def _advance(self) -> None:
        self._served += (self._engine.now - self._since) * self.share()
        self._since = self._engine.now

    def _plan(self) -> None:
        self._version += 1
        if self._jobs:
            left = max(self._jobs[0][0] - self._served, 0.0)
            self._engine.at(self._engine.now + left / self.share(), self._finish, self._version)

    def _finish(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        done = []
        while self._jobs and self._jobs[0][0] <= self._served + 1e-9:
            done.append(heapq.heappop(self._jobs)[2])
        self._plan()
        for resume in done:
            self._engine.at(self._engine.now, resume)


# ---- the shop --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call that an operation makes."""

    kind: str  # "service", "database", "cache", "message"
    target: str
    operation: int = 0  # of a service
    probability: float = 1.0
    is_optional: bool = False  # its failure is survived
    timeout_s: float = 5.0
    attempts: int = 1
    backoff_s: float = 0.1
    behind: str = ""  # the database that a cache is before


@dataclass(frozen=True)
class Operation:
    """What a service does for a request."""

    name: str
    cpu_s: float
    by_payload: float  # exponent on the payload's size
    calls: tuple[Call, ...] = ()
    is_parallel: bool = False
    has_internal_span: bool = False


@dataclass(frozen=True)
class ServicePlan:
    """How a service is built and run."""

    name: str
    operations: tuple[Operation, ...]
    replicas: int
    workers: int
    connections: int  # of each replica to each callee
    has_clients: bool  # emits client spans
    scales: bool
    gc_every_s: float
    gc_pause_s: float


@dataclass(frozen=True)
class Store:
    """A database or cache."""

    name: str
    system: str
    time_s: float
    servers: int
    hit_share: float = 1.0
    has_pod: bool = False


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong in [start_s, end_s)."""

    fault_id: str
    kind: str
    target: str
    start_s: float
    end_s: float
    size: float
    mode: str = ""
    share: float = 1.0  # of the replicas or requests


@dataclass(frozen=True)
class Shop:
    """All that is drawn once for a seed."""

    seed: int
    seconds: float
    services: dict[str, ServicePlan]
    stores: dict[str, Store]
    entries: tuple[tuple[str, int, float], ...]  # (service, operation, share of requests)
    nodes: tuple[tuple[str, int, float, float], ...]  # (name, zone, cores, skew in s)
    arrivals: np.ndarray  # seconds
    surges: tuple[tuple[float, float, float], ...]
    releases: tuple[tuple[str, float], ...]
    faults: tuple[Fault, ...]
    sampled: float
    namespace: str
    has_kinds: bool  # spans tell their kind and status
    scrape_s: int


def draw_shop(seed: int, hours: float, spans: int, is_calm: bool) -> Shop:
    """The shop of a seed; ``spans`` is about how many there will be."""
    random = np.random.default_rng([seed, 77])
    seconds = hours * HOUR_S
    names = list(random.permutation(NAMES[1:])[: random.integers(8, 15)])
    layers = [[NAMES[0]], names[: len(names) // 3], names[len(names) // 3 : 2 * len(names) // 3],
              names[2 * len(names) // 3 :]]  # fmt: skip
    stores = _draw_stores(random, names)
    plans: dict[str, ServicePlan] = {}
    visits: dict[tuple[str, int], float] = {}  # of a request; callees come after callers
    for depth in range(len(layers) - 1, -1, -1):
        below = [name for layer in layers[depth + 1 :] for name in layer if name in plans]
        for name in layers[depth]:
            plans[name] = _draw_service(random, name, depth, below, plans, stores)
    front = plans[NAMES[0]]
    shares = random.dirichlet(np.full(len(front.operations), 3.0))
    entries = tuple((front.name, i, float(share)) for i, share in enumerate(shares))
    for service, operation, share in entries:
        _visit(plans, service, operation, share, visits)
    per_request = sum(n * _spans_of(plans, *key) for key, n in visits.items())
    sampled = float(random.choice([1 / 5, 1 / 7, 1 / 9]))
    rate = spans / per_request / seconds / sampled

    # Work is such that the machines are busy to a usual degree.
    nodes = tuple(
        (f"node-{seed}-{i}", int(random.integers(3)), 1.0, float(random.normal(0, 0.0005)))
        for i in range(random.integers(3, 5))
    )
    cores = sum(node[2] for node in nodes)
    wanted = float(random.uniform(0.15, 0.35)) * cores / rate
    asked = sum(n * plans[service].operations[i].cpu_s for (service, i), n in visits.items())
    for name, plan in plans.items():
        scaled = tuple(replace(of, cpu_s=of.cpu_s * wanted / asked) for of in plan.operations)
        plans[name] = replace(plan, operations=scaled)

    arrivals, surges = _draw_arrivals(random, rate, seconds)
    asked_of = _asked_of(plans, visits, rate)
    for name, store in stores.items():
        if name.endswith("-db"):
            # Sized for what comes to it in usual times: for what a cache before it lets through.
            misses = 1 - stores[cache].hit_share if (cache := f"{name[:-3]}-cache") in stores else 1.0
            time_s = random.uniform(0.05, 0.25) * store.servers / max(asked_of[name] * misses, 1e-9)
            stores[name] = replace(store, time_s=float(np.clip(time_s, 0.002, 0.06)))
    # What is hardly ever called is left in peace.
    often = {name for name, asked in asked_of.items() if asked > OFTEN * rate}
    touched = sorted(often & plans.keys() - {NAMES[0]})
    releases = tuple(
        (str(random.choice(touched)), float(random.uniform(0.25, 0.95) * seconds)) for _ in range(random.integers(0, 3))
    )
    return Shop(
        seed, seconds, plans, stores, entries, nodes, arrivals, surges, releases,
        () if is_calm else _draw_faults(random, seed, plans, stores, touched, often, seconds),
        sampled, str(random.choice(["", "shop"])), bool(random.random() < 0.75), int(random.choice([30, 60])),
    )  # fmt: skip


def _draw_stores(random: np.random.Generator, names: Sequence[str]) -> dict[str, Store]:
    """A database of most services, with a cache before it or without."""
    stores = {}
    for name in names:
        if random.random() < 0.7:
            system = str(random.choice(["postgresql", "mysql", "mongodb"]))
            stores[f"{name}-db"] = Store(
                f"{name}-db", system, 0.01, int(random.integers(2, 6)), has_pod=bool(random.random() < 0.5)
            )
            if random.random() < 0.5:
                stores[f"{name}-cache"] = Store(
                    f"{name}-cache", "redis", float(random.uniform(0.0003, 0.001)), 4,
                    float(random.uniform(0.7, 0.95)), bool(random.random() < 0.5),
                )  # fmt: skip
    return stores


def _asked_of(plans: dict[str, ServicePlan], visits: dict[tuple[str, int], float], rate: float) -> dict[str, float]:
    """Requests a second that come to each service and store; to a database as if no cache held any."""
    found: dict[str, float] = defaultdict(float)
    for (service, operation), share in visits.items():
        found[service] += share * rate
        for call in plans[service].operations[operation].calls:
            if call.kind in ("cache", "database"):
                for name in {call.target, call.behind}:
                    found[name] += share * call.probability * rate
    return found


def _draw_service(
    random: np.random.Generator, name: str, depth: int, below: list[str], plans: dict, stores: dict[str, Store]
) -> ServicePlan:
    operations = []
    for verb in random.permutation(VERBS)[: random.integers(2, 4) if depth == 0 else random.integers(1, 4)]:
        calls = []
        for _ in range(random.integers(2, 4) if depth == 0 else random.integers(0, 3)):
            if not below:
                break
            target = str(random.choice(below))
            calls.append(
                Call(
                    "message" if random.random() < 0.1 else "service",
                    target,
                    int(random.integers(len(plans[target].operations))),
                    float(random.choice([1.0, 1.0, 0.6])),
                    bool(random.random() < 0.25),
                    float(random.uniform(3, 10)),
                    int(random.integers(1, 4)),
                    float(random.uniform(0.02, 0.3)),
                )
            )
        own = [store for store in (f"{name}-cache", f"{name}-db") if store in stores]  # the cache is asked first
        if own and random.random() < 0.9:
            kind = "cache" if own[0].endswith("-cache") else "database"
            calls.append(Call(kind, own[0], timeout_s=2.0, attempts=2, behind=own[-1]))
        order = random.permutation(len(calls))
        operations.append(
            Operation(
                f"{'GET /' if depth == 0 else ''}{name}/{verb}",
                float(random.lognormal(0.0, 1.0)),
                float(random.choice([0.0, 0.3, 0.7])),
                tuple(calls[i] for i in order),
                bool(random.random() < 0.3),
                bool(random.random() < 0.2),
            )
        )
    return ServicePlan(
        name, tuple(operations), int(random.integers(1, 4)), int(random.integers(3, 9)), int(random.integers(2, 9)),
        bool(random.random() < 0.8), bool(random.random() < 0.25),
        float(random.uniform(20, 120)), float(random.uniform(0.01, 0.12)),
    )  # fmt: skip


def _visit(plans: dict[str, ServicePlan], service: str, operation: int, share: float, visits: dict) -> None:
    visits[service, operation] = visits.get((service, operation), 0.0) + share
    for call in plans[service].operations[operation].calls:
        if call.kind in ("service", "message"):
            _visit(plans, call.target, call.operation, share * call.probability, visits)


def _spans_of(plans: dict[str, ServicePlan], service: str, operation: int) -> float:
    plan, of = plans[service], plans[service].operations[operation]
    own = 1.0 + of.has_internal_span
    return own + (sum(call.probability for call in of.calls) if plan.has_clients else 0.0)


def _draw_arrivals(random: np.random.Generator, rate: float, seconds: float) -> tuple[np.ndarray, tuple]:
    """Times of requests, of a process that switches between calm and busy over a slow swing; and flash crowds."""
    grid = np.arange(0.0, seconds, 1.0)
    level = 1 + 0.35 * np.sin(2 * np.pi * (grid / (24 * HOUR_S) + random.random()) * random.choice([1, 2]))
    busy = np.zeros(len(grid), bool)
    at, is_busy = 0.0, False
    while at < seconds:
        stays = random.exponential(180 if is_busy else 600)
        busy[int(at) : int(at + stays)] = is_busy
        at, is_busy = at + stays, not is_busy
    level = level * np.where(busy, random.uniform(1.3, 1.9), 1.0)
    surges = []
    for _ in range(random.integers(0, 3)):
        begin = random.uniform(0.3, 0.85) * seconds
        end = begin + random.uniform(300, 1500)
        factor = random.uniform(1.5, 2.5)
        level[(grid >= begin) & (grid < end)] *= factor
        surges.append((float(begin), float(end), float(factor)))
    level *= rate / level.mean()
    counts = random.poisson(level)
    times = np.repeat(grid, counts) + random.random(counts.sum())
    return np.sort(times), tuple(sorted(surges))


def _draw_faults(
    random: np.random.Generator, seed: int, plans: dict, stores: dict[str, Store], touched: list[str], used: set[str],
    seconds: float,
) -> tuple[Fault, ...]:  # fmt: skip
    """One after the other, each kind before any comes again."""
    callers = [
        name for name in touched
        if any(c.kind == "service" and c.target in touched for of in plans[name].operations for c in of.calls)
    ]  # fmt: skip
    databases, caches = ([s for s in stores if s in used and s.endswith(end)] for end in ("-db", "-cache"))
    targets = {
        SLOW: touched, FAILING: databases + touched, CRASH: touched, HOG: touched, LOST_CACHE: caches,
        RETRY_STORM: callers or [NAMES[0]],
    }  # fmt: skip
    faults: list[Fault] = []
    at = 1.15 * HOUR_S
    kinds: list[str] = []
    while True:
        kinds = kinds or list(random.permutation([kind for kind in KINDS if targets[kind]]))
        kind = kinds.pop()
        at += random.uniform(900, 2400)
        lasts = float(random.uniform(300, 900))
        if at + lasts > seconds - 300:
            return tuple(faults)
        target = str(random.choice(targets[kind]))
        mode = str(random.choice(["refuse", "hang"])) if kind == FAILING else ""
        one = Fault(
            hashlib.sha256(f"{seed}/{len(faults)}".encode()).hexdigest()[:16], kind, target, at, at + lasts,
            float(random.uniform(1.8, 6.0)), mode, float(random.choice([0.5, 1.0])),
        )  # fmt: skip
        faults.append(one)
        at += lasts


# ---- a run -----------------------------------------------------------------------------------


@dataclass
class Pod:
    """A running replica and its counters."""

    service: str
    name: str
    uid: str
    node: Node
    workers: Slots
    born_s: float
    version: str
    pauses: list[float]  # begins of collections, ascending
    pause_s: float
    is_up: bool = True
    is_listed: bool = True  # gets requests
    epoch: int = 0  # of the process: a crash ends it
    cpu_s: float = 0.0
    sent: float = 0.0
    counted_from_s: float = 0.0
    pools: dict[str, Slots] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One request and what is kept of it."""

    number: int
    trace_id: str
    payload: float  # of median 1
    is_sampled: bool
    at_s: float


@dataclass(frozen=True, slots=True)
class Span:
    """As it is emitted, by the clock of its node."""

    trace: int
    span_id: int
    parent_id: int
    path: tuple
    pod: Pod
    name: str
    kind: int
    start_s: float
    end_s: float
    is_error: bool
    attributes: tuple[tuple[str, str], ...]
    version: str


class Run:
    """The shop over its time, with some of its faults."""

    def __init__(self, shop: Shop, faults: Sequence[Fault]) -> None:
        self.shop, self.engine = shop, Engine()
        self.spans: list[Span] = []
        self.work: dict[int, float] = defaultdict(float)  # CPU seconds of sampled requests
        self.samples: list[tuple[float, Pod, float, float, float]] = []  # (time, pod, cpu, sent, counted from)
        self.pods: list[Pod] = []
        self._key = mix(shop.seed, 1)
        self._nodes = [Node(self.engine, *node) for node in shop.nodes]
        self._of: dict[str, list[Pod]] = defaultdict(list)
        self._stores = {name: Slots(self.engine, store.servers) for name, store in shop.stores.items()}
        self._store_pods: dict[str, Pod] = {}
        self._cold: dict[str, tuple[float, float]] = {}  # cache: lost at, half of it is back after
        self._active: dict[str, Fault] = {}  # service or store -> fault
        self._usual_s: dict[str, float] = {}  # of a call, by the caller and callee
        self._made: Counter[str] = Counter()  # pods by service
        for plan in shop.services.values():
            for _ in range(plan.replicas):
                self._start_pod(plan.name, 1, is_old=True)
        for store in shop.stores.values():
            if store.has_pod:
                self._store_pods[store.name] = self._new_pod(store.name, 1, 0.0, (), 0.0)
        for fault in faults:
            self.engine.at(fault.start_s, self._begin, fault)
        for service, at in shop.releases:
            self.engine.at(at, lambda name: self.engine.spawn(self._release(name)), service)
        for plan in shop.services.values():
            if plan.scales:
                self.engine.spawn(self._autoscale(plan))
        self.engine.spawn(self._arrive())
        self.engine.spawn(self._scrape())
        self.engine.spawn(self._batch())
        self.engine.run()

    # pods

    def _new_pod(self, service: str, version: int, born: float, pauses: Sequence[float], pause_s: float) -> Pod:
        self._made[service] += 1
        key = mix(mix(self._key, zlib.crc32(service.encode())), self._made[service])
        uid = f"{key:016x}{mix(key, 1):016x}"
        uid = f"{uid[:8]}-{uid[8:12]}-{uid[12:16]}-{uid[16:20]}-{uid[20:]}"
        node = self._nodes[mix(key, 2) % len(self._nodes)]
        plan = self.shop.services.get(service)
        workers = Slots(self.engine, plan.workers if plan else 1)
        pod = Pod(service, f"{service}-{mix(key, 3) & 0xFFFFF:05x}", uid, node, workers, born, f"1.{version}.0",
                  list(pauses), pause_s, counted_from_s=born)  # fmt: skip
        self.pods.append(pod)
        return pod

    def _start_pod(self, service: str, version: int, is_old: bool = False) -> Pod:
        plan = self.shop.services[service]
        now = self.engine.now
        key = mix(mix(self._key, zlib.crc32(service.encode())), -1 - self._made[service])
        pauses, at = [], now
        while at < self.shop.seconds:
            at += plan.gc_every_s * (0.7 + 0.6 * uniform(key, len(pauses)))
            pauses.append(at)
        pod = self._new_pod(service, version, now - HOUR_S * 24 * is_old, pauses, plan.gc_pause_s)
        self._of[service].append(pod)
        return pod

    def _autoscale(self, plan: ServicePlan) -> Process:
        quiet = 0
        while self.engine.now < self.shop.seconds:
            yield self.engine.sleep(30.0)
            pods = [pod for pod in self._of[plan.name] if pod.is_listed]
            busy = sum(pod.workers.used for pod in pods) / max(sum(pod.workers.capacity for pod in pods), 1)
            quiet = quiet + 1 if busy < 0.2 else 0
            if busy > 0.6 and len(pods) < 2 * plan.replicas:
                yield self.engine.sleep(25.0)
                self._start_pod(plan.name, 1)
            elif quiet >= 10 and len(pods) > plan.replicas:
                self._retire(pods[-1])
                quiet = 0

    def _retire(self, pod: Pod) -> None:
        pod.is_listed = False
        self.engine.at(self.engine.now + 60.0, lambda _: setattr(pod, "is_up", False))

    def _release(self, service: str) -> Process:
        for pod in [pod for pod in self._of[service] if pod.is_listed]:
            self._start_pod(service, 2)
            yield self.engine.sleep(20.0)
            self._retire(pod)
            yield self.engine.sleep(20.0)

    def _batch(self) -> Process:
        """A job on each node in turn, benign: half a thread for some minutes an hour."""
        key = mix(self._key, 4)
        for turn in range(int(self.shop.seconds / HOUR_S) + 1):
            yield self.engine.sleep(HOUR_S * (0.3 + 0.4 * uniform(key, 2 * turn)))
            node = self._nodes[mix(key, 2 * turn + 1) % len(self._nodes)]
            node.hog(0.5)
            yield self.engine.sleep(240.0)
            node.hog(-0.5)

    # faults

    def _begin(self, fault: Fault) -> None:
        now, key = self.engine.now, mix(self._key, int(fault.fault_id, 16) & 0xFFFF)
        self._active[fault.target] = fault
        self.engine.at(fault.end_s, lambda _: self._active.pop(fault.target, None))
        pods = [pod for pod in self._of[fault.target] if pod.is_listed]
        if fault.kind == HOG:
            for pod in pods[: max(round(fault.share * len(pods)), 1)]:
                self.engine.spawn(self._hog(pod, fault.size / 2, fault.end_s))
        elif fault.kind == CRASH:
            self.engine.spawn(self._crash(pods[mix(key, 1) % len(pods)], fault.end_s))
        elif fault.kind == LOST_CACHE:
            self._cold[fault.target] = now, (fault.end_s - now) / 3

    def _hog(self, pod: Pod, threads: float, end: float) -> Process:
        pod.node.hog(threads)
        while self.engine.now < end:
            yield self.engine.sleep(5.0)
            pod.cpu_s += 5.0 * threads * pod.node.share()
        pod.node.hog(-threads)

    def _crash(self, pod: Pod, end: float) -> Process:
        """It dies and starts again, over and over; the balancer notices after a while."""
        while self.engine.now < end:
            pod.is_up = False
            pod.epoch += 1
            yield self.engine.sleep(15.0)
            pod.is_listed = False
            yield self.engine.sleep(20.0)
            pod.is_up = pod.is_listed = True
            pod.born_s = pod.counted_from_s = self.engine.now
            pod.cpu_s = pod.sent = 0.0
            pod.workers = Slots(self.engine, pod.workers.capacity)
            pod.pools = {}
            yield self.engine.sleep(45.0 if self.engine.now < end else 0.0)

    # requests

    def _arrive(self) -> Process:
        key = mix(self._key, 5)
        edges = np.cumsum([share for _, _, share in self.shop.entries])
        for number, at in enumerate(self.shop.arrivals.tolist()):
            yield self.engine.sleep(at - self.engine.now)
            own = mix(key, number)
            service, operation, _ = self.shop.entries[min(int(np.searchsorted(edges, uniform(own, 0))), len(edges) - 1)]
            # Payloads are mostly alike, and a few are large.
            payload = min(uniform(own, 1) ** -0.4 / 1.32, 20.0)
            trace_id = f"{mix(own, 2):016x}{mix(own, 3):016x}"
            request = Request(number, trace_id, payload, uniform(own, 4) < self.shop.sampled, at)
            pod = self._pick(service, own)
            if pod:
                self.engine.spawn(self._serve(request, pod, operation, mix(own, 6), 0, (), SERVER))

    def _pick(self, service: str, key: int) -> Pod | None:
        pods = [pod for pod in self._of[service] if pod.is_listed]
        return pods[mix(key, 5) % len(pods)] if pods else None

    def _serve(self, request: Request, pod: Pod, index: int, key: int, parent: int, path: tuple, kind: int) -> Process:
        """Whether it is well, or None if the process dies in between."""
        operation = self.shop.services[pod.service].operations[index]
        epoch, workers = pod.epoch, pod.workers
        yield workers.acquire
        if pod.epoch != epoch:
            return None
        start = self.engine.now
        # The variation of work is moderate: what is long is long by the payload, by waiting, and by sharing.
        cpu = operation.cpu_s * request.payload**operation.by_payload * (0.6 + 0.4 * exponential(key, 1))
        age = start - pod.born_s
        if age < 600:
            cpu *= 1 + 1.5 * math.exp(-age / 60)  # nothing is compiled yet
        fault = self._active.get(pod.service)
        if fault and fault.kind == SLOW and self._is_struck(pod, fault):
            cpu *= fault.size
        is_well = not (
            fault and fault.kind == FAILING and uniform(key, 2) < 0.8 and not (yield from self._fails(fault))
        )
        if is_well:
            yield from self._compute(request, pod, cpu / 2)
            is_well = yield from self._call_all(request, pod, operation, key, path)
            inner = self.engine.now
            if is_well:
                yield from self._compute(request, pod, cpu / 2)
            if operation.has_internal_span and is_well:
                self._emit(request, mix(key, 7), key, (*path, -1), pod, f"{operation.name}.render", INTERNAL, inner,
                           False, ())  # fmt: skip
        if pod.epoch != epoch:
            return None
        workers.release()
        pod.sent += 800 + 3000 * request.payload
        words: tuple = (("rpc.method", operation.name),)
        if kind == SERVER and not path:
            code = "200" if is_well else "500"
            words = (("http.route", operation.name.split(" ")[1]), ("http.response.status_code", code))
        self._emit(request, key, parent, path, pod, operation.name, kind, start, not is_well, words)
        return is_well

    def _is_struck(self, pod: Pod, fault: Fault) -> bool:
        pods = self._of[pod.service]
        return fault.share >= 1 or len(pods) < 2 or pods.index(pod) < max(round(fault.share * len(pods)), 1)

    def _fails(self, fault: Fault) -> Process:
        """A failure at once, or after a long time of nothing; False."""
        yield self.engine.sleep(0.002 if fault.mode == "refuse" else 30.0)
        return False

    def _compute(self, request: Request, pod: Pod, cpu_s: float) -> Process:
        begin = self.engine.now
        yield pod.node.use(cpu_s)
        pod.cpu_s += cpu_s
        if request.is_sampled:
            self.work[request.number] += cpu_s
        # Nothing runs while garbage is collected: what met a pause ends so much later.
        first = bisect_left(pod.pauses, begin - pod.pause_s)
        met = 0.0
        for at in pod.pauses[first : bisect_left(pod.pauses, self.engine.now)]:
            met += at + pod.pause_s - max(at, begin)
        if met > 0:
            yield self.engine.sleep(met)

    def _call_all(self, request: Request, pod: Pod, operation: Operation, key: int, path: tuple) -> Process:
        calls = []
        for i, call in enumerate(operation.calls):
            own = mix(key, 10 + i)
            if uniform(own, 0) < call.probability:
                calls.append((call, self._call(request, pod, call, own, key, (*path, i))))
        if operation.is_parallel and len(calls) > 1:
            results = yield self.engine.all([process for _, process in calls])
            return all(done or call.is_optional for (call, _), done in zip(calls, results))
        for call, process in calls:
            if not (yield from process) and not call.is_optional:
                return False
        return True

    def _call(self, request: Request, pod: Pod, call: Call, key: int, parent: int, path: tuple) -> Process:
        """Whether it succeeds in the end, after as many attempts as it may take."""
        plan = self.shop.services[pod.service]
        if call.kind == "message":
            return (yield from self._send(request, pod, call, key, parent, path))
        attempts, timeout, backoff = call.attempts, call.timeout_s, call.backoff_s
        edge = f"{pod.service}>{call.target}"
        fault = self._active.get(pod.service)
        if fault and fault.kind == RETRY_STORM:
            # A client whose time limit was set too low: it gives up what would come, and asks again at once.
            attempts, timeout, backoff = 3, self._usual_s.get(edge, timeout) * (0.4 + fault.size / 8), 0.0
        for attempt in range(attempts):
            own = mix(key, 100 + attempt)
            span_id = own if plan.has_clients else parent
            begin = self.engine.now
            pool = pod.pools.get(call.target)
            if pool is None:
                pool = pod.pools[call.target] = Slots(self.engine, plan.connections)
            yield pool.acquire
            where = (*path, attempt)
            if call.kind == "service":
                process = self._remote(request, pod, call, own, span_id, where)
                name = self.shop.services[call.target].operations[call.operation].name
                words: tuple = (("server.address", call.target), ("rpc.system", "grpc"))
            else:
                store = self.shop.stores[call.target]
                process = self._ask(request, pod, store, own)
                name = f"{'GET' if call.kind == 'cache' else 'SELECT'} {pod.service}"
                words = (("server.address", call.target), ("db.system.name", store.system))
            is_well = yield self.engine.first(process, timeout, False)
            pool.release()
            took = self.engine.now - begin
            if is_well and self._usual_s.get(edge, 0.0) >= 0:
                self._usual_s[edge] = 0.98 * self._usual_s.get(edge, took) + 0.02 * took
            if plan.has_clients:
                self._emit(request, span_id, parent, where, pod, name, CLIENT, begin, not is_well, words)
            if is_well and call.kind == "cache" and uniform(own, 8) >= self._hit_share(call.target):
                behind = replace(call, kind="database", target=call.behind)
                return (yield from self._call(request, pod, behind, mix(own, 9), parent, (*where, "miss")))
            if is_well:
                return True
            if attempt + 1 < attempts:
                yield self.engine.sleep(backoff * 2**attempt * (0.5 + uniform(own, 3)))
        return False

    def _hit_share(self, cache: str) -> float:
        share = self.shop.stores[cache].hit_share
        if cache in self._cold:
            lost, half = self._cold[cache]
            share *= 1 - 0.5 ** ((self.engine.now - lost) / half)
        return share

    def _remote(self, request: Request, pod: Pod, call: Call, key: int, parent: int, path: tuple) -> Process:
        callee = self._pick(call.target, key)
        if callee is None:
            return False
        yield self.engine.sleep(self._network_s(pod.node, callee.node, mix(key, 1)))
        if not callee.is_up:
            return False
        is_well = yield from self._serve(request, callee, call.operation, mix(key, 2), parent, (*path, "s"), SERVER)
        yield self.engine.sleep(self._network_s(pod.node, callee.node, mix(key, 3)))
        return bool(is_well)

    def _network_s(self, one: Node, other: Node, key: int) -> float:
        base = 0.00008 if one is other else 0.0003 if one.zone == other.zone else 0.0012
        return base * (0.7 + 0.3 * exponential(key, 0))

    def _ask(self, request: Request, pod: Pod, store: Store, key: int) -> Process:
        fault = self._active.get(store.name)
        yield self.engine.sleep(0.0004)
        if fault and fault.kind == FAILING and uniform(key, 2) < 0.8:
            return (yield from self._fails(fault))
        servers = self._stores[store.name]
        yield servers.acquire
        yield self.engine.sleep(store.time_s * (0.3 + 0.7 * exponential(key, 1)))
        servers.release()
        if store.name in self._store_pods:
            of = self._store_pods[store.name]
            of.cpu_s += 0.3 * store.time_s
            of.sent += 2000 * request.payload
        pod.sent += 300
        return True

    def _send(self, request: Request, pod: Pod, call: Call, key: int, parent: int, path: tuple) -> Process:
        """Leave a message with the broker; it is taken up when a consumer gets to it."""
        begin = self.engine.now
        yield self.engine.sleep(0.001 + 0.001 * exponential(key, 1))
        has_clients = self.shop.services[pod.service].has_clients
        topic = (("messaging.system", "kafka"), ("messaging.destination.name", f"{call.target}-events"))
        if has_clients:
            self._emit(request, key, parent, path, pod, f"publish {call.target}-events", PRODUCER, begin, False, topic)
        consumer = self._pick(call.target, key)
        if consumer:
            own = key if has_clients else parent
            process = self._consume(request, consumer, call.operation, mix(key, 2), own, (*path, "m"))
            self.engine.spawn(process)
        return True

    def _consume(self, request: Request, pod: Pod, operation: int, key: int, parent: int, path: tuple) -> Process:
        # Messages are polled twice a second.
        yield self.engine.sleep(0.5 - self.engine.now % 0.5)
        yield from self._serve(request, pod, operation, key, parent, path, CONSUMER)

    def _emit(
        self, request: Request, span_id: int, parent: int, path: tuple, pod: Pod, name: str, kind: int, start: float,
        is_error: bool, attributes: tuple,
    ) -> None:  # fmt: skip
        if request.is_sampled:
            self.spans.append(
                Span(request.number, span_id, parent, path, pod, name, kind, start, self.engine.now, is_error,
                     attributes, pod.version)
            )  # fmt: skip

    # metrics

    def _scrape(self) -> Process:
        while self.engine.now < self.shop.seconds:
            for pod in self.pods:
                if pod.is_up:
                    self.samples.append((self.engine.now, pod, pod.cpu_s, pod.sent, pod.counted_from_s))
            yield self.engine.sleep(float(self.shop.scrape_s))


# ---- truth -----------------------------------------------------------------------------------


def truth(shop: Shop, run: Run, calm: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(traces.parquet, faults.parquet): the run held against the same without faults."""
    of, without = _by_trace(run.spans), _by_trace(calm.spans)
    rows = []
    for trace, spans in of.items():
        other = without.get(trace, {})
        at = float(shop.arrivals[trace])
        root = spans.get(()) or next(iter(spans.values()))
        shared = spans.keys() & other.keys()
        latency = max((_log_ratio(_length(spans[p]), _length(other[p]), SLACK_S) for p in shared), key=abs, default=0.0)
        work = _log_ratio(run.work[trace], calm.work[trace], 1e-4)
        is_structure = spans.keys() != other.keys()
        is_error = any(spans[p].is_error != other[p].is_error for p in shared)
        # Nothing differs but by a fault: by the last one that began. What waited because of it lasts longer than it.
        last = max(span.end_s for span in spans.values())
        fault = next((f for f in reversed(shop.faults) if f.start_s <= last), None)
        differs = is_structure or is_error or max(abs(latency), abs(work)) >= DIFFERENCE
        is_anomalous = bool(fault and differs)
        length, usual = _length(root), _length(other[()]) if () in other else math.nan
        rows.append(
            (_trace_id(shop, trace), is_anomalous, *((fault.fault_id, fault.target, fault.kind) if is_anomalous
              else (None, None, None)), _time(at), root.pod.service, root.name, len(spans), length * 1e3,
             is_structure, is_error, latency, work, length / usual - 1)
        )  # fmt: skip
    traces = pd.DataFrame(rows, columns=[
        "trace_id", "is_anomalous", "fault_id", "culprit_service_name", "anomaly_kind", "start_time",
        "root_service_name", "root_operation", "span_count", "duration_ms", "structure_changed", "error_changed",
        "latency_log_ratio", "work_log_ratio", "root_duration_change",
    ])  # fmt: skip
    counts = traces["fault_id"].value_counts()
    faults = pd.DataFrame(
        [(f.fault_id, f.target, f.kind, _time(f.start_s), _time(f.end_s), f.size, None, f.share, f.mode,
          int(counts.get(f.fault_id, 0))) for f in shop.faults],
        columns=["fault_id", "otel_service_name", "anomaly_kind", "start_time", "end_time", "severity", "operation",
                 "share_of_requests", "mode", "traces"],
    )  # fmt: skip
    for name in ("start_time", "end_time"):
        faults[name] = pd.to_datetime(faults[name], utc=True)
    return traces.sort_values("start_time", kind="stable", ignore_index=True), faults


def _by_trace(spans: Iterable[Span]) -> dict[int, dict[tuple, Span]]:
    found: dict[int, dict[tuple, Span]] = defaultdict(dict)
    for span in spans:
        found[span.trace][span.path] = span
    return found


def _length(span: Span) -> float:
    return span.end_s - span.start_s


def _log_ratio(value: float, usual: float, slack: float) -> float:
    return math.log((value + slack) / (usual + slack))


def _trace_id(shop: Shop, number: int) -> str:
    own = mix(mix(mix(shop.seed, 1), 5), number)
    return f"{mix(own, 2):016x}{mix(own, 3):016x}"


def _time(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(START_S * NS + round(seconds * NS), unit="ns", tz="UTC")


# ---- files -----------------------------------------------------------------------------------


def write(shop: Shop, run: Run, calm: Run, output: Path) -> None:
    """The world as files."""
    for name in ("traces", "metrics", "billing", "truth"):
        (output / name).mkdir(parents=True, exist_ok=True)
    _write_lines(output / "traces" / "spans.jsonl.gz", trace_requests(shop, run.spans))
    _write_lines(output / "metrics" / "metrics.jsonl.gz", metric_requests(shop, run.samples))
    _write_bill(shop, output / "billing" / "focus.csv")
    traces, faults = truth(shop, run, calm)
    traces.to_parquet(output / "truth" / "traces.parquet", index=False)
    faults.to_parquet(output / "truth" / "faults.parquet", index=False)
    world = {
        "seed": shop.seed, "hours": shop.seconds / HOUR_S, "services": len(shop.services), "traces": len(traces),
        "spans": len(run.spans), "requests": len(shop.arrivals), "sampled": shop.sampled,
        "anomalous_share": float(traces["is_anomalous"].mean()), "faults": len(faults),
        "deploys": [{"service": service, "time": at} for service, at in shop.releases],
        "surges": [{"start": begin, "end": end, "factor": factor} for begin, end, factor in shop.surges],
    }  # fmt: skip
    (output / "truth" / "world.json").write_text(json.dumps(world, indent=1) + "\n", encoding="utf-8")


def _write_lines(path: Path, requests: Iterable[dict]) -> None:
    # No time in the header: equal seeds give equal bytes.
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=5, mtime=0, filename="") as file:
        for request in requests:
            file.write(orjson.dumps(request) + b"\n")


def _text(key: str, value: str) -> dict:
    return {"key": key, "value": {"stringValue": value}}


def _resource(shop: Shop, pod: Pod, version: str = "") -> dict:
    attributes = [_text("service.name", pod.service)]
    attributes += [_text("service.namespace", shop.namespace)] if shop.namespace else []
    attributes += [_text("service.version", version)] if version else []
    attributes += [
        _text("k8s.pod.name", pod.name), _text("k8s.pod.uid", pod.uid), _text("k8s.node.name", pod.node.name),
        _text("host.id", pod.node.name),
    ]  # fmt: skip
    return {"attributes": attributes}


def _nanos(seconds: float) -> str:
    return str(START_S * NS + round(seconds * NS))


def trace_requests(shop: Shop, spans: Sequence[Span]) -> Iterator[dict]:
    """ExportTraceServiceRequests: one for each 10 seconds in which spans end."""
    batches: dict[int, dict[tuple[int, str], list[Span]]] = defaultdict(lambda: defaultdict(list))
    pods = {id(span.pod): span.pod for span in spans}
    for span in spans:
        batches[int(span.end_s // 10)][id(span.pod), span.version].append(span)
    for _, batch in sorted(batches.items()):
        yield {
            "resourceSpans": [
                {
                    "resource": _resource(shop, pods[pod], version),
                    "scopeSpans": [{"scope": {"name": "queueing"}, "spans": [_span(shop, span) for span in own]}],
                }
                for (pod, version), own in batch.items()
            ]
        }


def _span(shop: Shop, span: Span) -> dict:
    skew = span.pod.node.skew_s
    found = {
        "traceId": _trace_id(shop, span.trace),
        "spanId": f"{span.span_id:016x}",
        "name": span.name,
        "startTimeUnixNano": _nanos(span.start_s + skew),
        "endTimeUnixNano": _nanos(span.end_s + skew),
        "attributes": [_text(key, value) for key, value in span.attributes],
    }
    if span.parent_id:
        found["parentSpanId"] = f"{span.parent_id:016x}"
    if shop.has_kinds:
        found |= {"kind": span.kind, "status": {"code": 2} if span.is_error else {}}
    return found


def metric_requests(shop: Shop, samples: Sequence[tuple[float, Pod, float, float, float]]) -> Iterator[dict]:
    """ExportMetricsServiceRequests: one for each scrape.

    Memory is a level that drifts slowly, whatever is asked of the pod; it starts low with the process.
    """
    random = np.random.default_rng([shop.seed, 78])
    levels: dict[int, tuple[float, float, float]] = {}  # pod -> (base, drift, of the process from)
    by_time: dict[float, list] = defaultdict(list)
    for sample in samples:
        by_time[sample[0]].append(sample)
    keep = 0.97 ** (shop.scrape_s / 60)
    for now, own in sorted(by_time.items()):
        resources = []
        for _, pod, cpu_s, sent, since in own:
            base, drift, of = levels.get(id(pod), (random.uniform(2e8, 2e9), 0.0, since))
            drift = 0.0 if of != since else keep * drift + math.sqrt(1 - keep**2) * random.normal(0, 0.12)
            levels[id(pod)] = base, drift, since
            memory = base * math.exp(drift) * (1 - 0.5 * math.exp(-max(now - since, 0.0) / 900))
            idle = 0.01 * (now - since)
            resources.append(
                {
                    "resource": _resource(shop, pod),
                    "scopeMetrics": [{"scope": {"name": "kubelet"}, "metrics": [
                        _metric("k8s.pod.cpu.time", "s", now, since, "asDouble", round(cpu_s + max(idle, 0.0), 6)),
                        _metric("k8s.pod.memory.working_set", "By", now, None, "asInt", str(int(memory))),
                        _metric("k8s.pod.network.io", "By", now, since, "asInt", str(int(sent)),
                                [_text("direction", "transmit")]),
                    ]}],
                }
            )  # fmt: skip
        yield {"resourceMetrics": resources}


def _metric(
    name: str, unit: str, now: float, since: float | None, kind: str, value: float | str, attributes: Sequence = ()
) -> dict:
    point = {"timeUnixNano": _nanos(now), kind: value, "attributes": list(attributes)}
    if since is None:
        return {"name": name, "unit": unit, "gauge": {"dataPoints": [point]}}
    point["startTimeUnixNano"] = _nanos(since)
    return {
        "name": name,
        "unit": unit,
        "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": [point]},
    }


def _write_bill(shop: Shop, path: Path) -> None:
    """A whole machine a node and hour."""
    price = 0.096
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(
            ["ResourceId", "ChargePeriodStart", "ChargePeriodEnd", "BilledCost", "EffectiveCost", "ListUnitPrice",
             "PricingQuantity", "ConsumedQuantity", "ConsumedUnit", "BillingCurrency", "ChargeCategory", "ChargeClass",
             "ServiceCategory", "ServiceName", "SkuId", "Tags", "ServiceProviderName"]
        )  # fmt: skip
        for hour in range(math.ceil(shop.seconds / HOUR_S)):
            begin, end = (f"{_time((hour + i) * HOUR_S):%Y-%m-%dT%H:%M:%SZ}" for i in (0, 1))
            for name, _, _, _ in shop.nodes:
                out.writerow([name, begin, end, price, price, price, 1, 1, "Hours", "USD", "Usage", "", "Compute",
                              "Virtual Machines", "vm-2", "", "cloud"])  # fmt: skip


# ---- command line ----------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Make a world; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.queueing", description="A shop as queues.")
    add = parser.add_argument
    add("--output", type=Path, required=True, help="a directory that is empty or not there yet")
    add("--seed", type=int, required=True, help="each seed is another shop")
    add("--hours", type=float, default=6.0)
    add("--spans", type=int, default=100_000, help="about how many")
    add("--calm", action="store_true", help="without any fault")
    found = parser.parse_args(argv)
    if found.output.exists() and (not found.output.is_dir() or any(found.output.iterdir())):
        parser.error(f"--output {found.output} is not an empty directory")
    if not 0.1 <= found.hours <= 240 or found.spans < 1000:
        parser.error(f"--hours {found.hours:g} is outside of 0.1 to 240, or --spans {found.spans} is below 1000")
    shop = draw_shop(found.seed, found.hours, found.spans, found.calm)
    run = Run(shop, shop.faults)
    write(shop, run, Run(shop, ()) if shop.faults else run, found.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
