"""The shop: services, their operations, who calls whom, and the requests that run through them.

A seed draws everything: which services exist, their operations, latencies and appetite, the call
graph (acyclic: a service only calls those that come later in a random order that respects its
tier), and the endpoints with their conditional branches. An endpoint's calls are flattened to
*sites*: a site is one place in the call tree, so that (site, attempt) names a span's path.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from simulator.config import Config
from simulator.noise import Noise, Shape

ROOT, HTTP, QUEUE, DB = "root", "http", "queue", "db"

# (name, noun of its routes, tier, databases it may have, fed by a queue)
_CATALOGUE = (
    ("users", "users", 1, ("postgresql", "mysql"), False),
    ("catalogue", "products", 1, ("mongodb", "postgresql"), False),
    ("search", "queries", 1, ("elasticsearch",), False),
    ("cart", "carts", 1, ("redis", "mongodb"), False),
    ("orders", "orders", 1, ("postgresql", "mysql"), False),
    ("payment", "payments", 2, ("postgresql",), False),
    ("inventory", "stock", 2, ("mysql", "postgresql"), False),
    ("shipping", "shipments", 2, ("postgresql",), False),
    ("analytics", "events", 3, ("mongodb",), True),
    ("notification", "messages", 3, ("redis",), True),
    ("recommendation", "recommendations", 1, ("redis",), False),
    ("pricing", "prices", 2, ("redis", "postgresql"), False),
    ("fraud", "assessments", 3, ("mongodb",), False),
    ("reviews", "reviews", 1, ("mongodb",), False),
    ("promotions", "vouchers", 2, ("mysql",), False),
    ("tax", "rates", 3, ("redis",), False),
    ("currency", "conversions", 3, (), False),
    ("sessions", "sessions", 2, ("redis",), False),
    ("media", "images", 2, (), False),
    ("invoicing", "invoices", 3, ("postgresql",), True),
    ("loyalty", "points", 2, ("mysql",), False),
    ("wishlist", "wishlists", 1, ("mongodb",), False),
    ("geolocation", "places", 3, ("redis",), False),
    ("warehouse", "picks", 3, ("mysql",), True),
    ("returns", "returns", 1, ("postgresql",), False),
    ("consent", "consents", 2, ("redis",), False),
    ("translations", "texts", 3, ("redis",), False),
    ("subscriptions", "subscriptions", 1, ("postgresql",), False),
    ("sellers", "sellers", 2, ("mysql",), False),
    ("ledger", "entries", 3, ("postgresql",), False),
    ("audit", "records", 3, ("mongodb",), True),
    ("feeds", "feeds", 3, ("mongodb",), True),
)
_QUALIFIERS = ("index", "cache", "archive", "sync", "rules", "reports")
_ENTRIES = ("gateway", "storefront", "mobile-gateway", "partner-gateway")
_LANGUAGES = ("java", "go", "python", "nodejs", "dotnet")
_ROUTES = (
    ("GET", "/{noun}/{{id}}"),
    ("GET", "/{noun}"),
    ("POST", "/{noun}"),
    ("PUT", "/{noun}/{{id}}"),
    ("POST", "/{noun}/{{id}}/check"),
    ("GET", "/{noun}/{{id}}/summary"),
)
_TOPICS = ("{noun}.created", "{noun}.updated", "{noun}.requested")
_STATEMENTS = {
    "postgresql": ("SELECT", "INSERT", "UPDATE"),
    "mysql": ("SELECT", "INSERT", "UPDATE"),
    "mongodb": ("find", "insert", "aggregate"),
    "redis": ("GET", "SET", "HGETALL"),
    "elasticsearch": ("search", "index"),
}

# One entry service up to this many services, one more for each further multiple.
_SERVICES_PER_ENTRY = 60

# Spans of an endpoint before its last call is added; the mean over worlds is then 8 to 15 a trace.
_ENDPOINT_SPANS = (7.0, 13.0)
# A backing operation with more spans below it would leave its endpoint no room for anything else.
_OPERATION_SPANS_MAX = 7.0

# About three requests in a thousand fail by themselves; a request is some six calls.
_ERROR_RATE_PER_CALL = 0.0004
# A client asks again although nothing failed (stale answer, hedged request).
ASK_AGAIN_RATE = 0.0004

# Clients give up after this many times what a call usually takes.
_TIMEOUT_FACTOR = (6.0, 15.0)
_TIMEOUT_MIN_MS = 250.0


@dataclass(eq=False)
class Service:
    """A workload, ``service.name``."""

    index: int
    name: str
    noun: str
    tier: int  # 0 = entry; calls go to services that stand later in the order
    database: str | None
    is_consumer: bool  # fed by a queue
    replicas: int
    first_slot: int  # its pods are the slots first_slot .. first_slot + replicas - 1
    language: str
    peak_utilisation: float  # at the usual daily peak: what makes latency grow with load
    idle_cpu: float  # cores a pod uses when nothing is to do
    idle_memory: float  # bytes
    level_memory: float = 0.0  # mean bytes of a pod's level, beside those
    operations: list[Operation] = field(default_factory=list)
    queries: dict[str, Operation] = field(default_factory=dict)  # by statement

    @property
    def slots(self) -> range:
        return range(self.first_slot, self.first_slot + self.replicas)


@dataclass(eq=False)
class Operation:
    """A route or topic of a service, or a statement against its database; costs are per call."""

    service: Service
    method: str
    name: str  # route, topic, or statement
    own_ms: float  # median time of its own, without that of its calls
    sigma: float  # of log own time
    cpu_us: float = 0.0
    memory_bytes: float = 0.0  # held while it runs, and for a while after
    level_share: float = 0.0  # of those: what pods hold in fact whether it is called or not
    io_operations: float = 0.0
    request_bytes: float = 0.0
    response_bytes: float = 0.0
    error_rate: float = 0.0
    is_parallel: bool = False  # its calls start together
    shape: Shape = Shape()  # of its own time
    payload: float = 0.0  # exponent of the request's size in its time and work
    refusal_rate: float = 0.0  # of answers that blame the client
    again_rate: float = ASK_AGAIN_RATE
    steps: list[Step] = field(default_factory=list)
    spans: float = 1.0  # expected, itself and below
    nominal_ms: float = 0.0  # expected duration with everything below it


@dataclass(eq=False)
class Step:
    """A call in an operation's body."""

    transport: str
    target: Operation
    probability: float
    is_critical: bool  # its failure fails the caller
    attempts: int  # the client's own policy when a call fails
    timeout_ms: float
    network_ms: float  # median one-way delay
    shape: Shape = Shape()  # of that delay


class Site:
    """A step at one place of an endpoint's call tree; flat, as the inner loop reads it."""

    __slots__ = (
        "index",
        "parent",
        "step",
        "transport",
        "operation",
        "service",
        "service_index",
        "first_slot",
        "probability",
        "is_critical",
        "attempts",
        "timeout_ms",
        "network_ms",
        "own_ms",
        "error_rate",
        "refusal_rate",
        "again_rate",
        "is_parallel",
        "children",
    )

    def __init__(self, index: int, parent: Site | None, step: Step) -> None:
        operation = step.target
        self.index = index
        self.parent = parent
        self.step = step
        self.transport = step.transport
        self.operation = operation
        self.service = operation.service
        self.service_index = operation.service.index
        self.first_slot = operation.service.first_slot
        self.probability = step.probability
        self.is_critical = step.is_critical
        self.attempts = step.attempts
        self.timeout_ms = step.timeout_ms
        self.network_ms = step.network_ms
        self.own_ms = operation.own_ms
        self.error_rate = operation.error_rate
        self.refusal_rate = operation.refusal_rate
        self.again_rate = operation.again_rate
        self.is_parallel = operation.is_parallel
        self.children: list[Site] = []


@dataclass(eq=False)
class Endpoint:
    """What users ask for: a route of an entry service and the tree of calls below it."""

    index: int
    operation: Operation
    weight: float  # share of the requests
    sites: list[Site]  # in depth-first order; sites[0] is the root

    @property
    def root(self) -> Site:
        return self.sites[0]


@dataclass(eq=False)
class Topology:
    """All services and endpoints of a world."""

    services: list[Service]
    endpoints: list[Endpoint]

    @property
    def slot_count(self) -> int:
        return sum(service.replicas for service in self.services)


def build(config: Config, noise: Noise) -> Topology:
    """The topology of a world: a function of (seed, services, noise) alone."""
    rng = random.Random(f"topology/{config.seed}/{config.services}")
    services = _services(config.services, rng)
    entries = [service for service in services if service.tier == 0]
    order = [service for service in services if service.tier > 0]
    covered: set[int] = set()
    for position in reversed(range(len(order))):
        _add_operations(order[position], order[position + 1 :], covered, noise, rng)
    endpoints = _endpoints(entries, order, covered, noise, rng)
    return Topology(services, endpoints)


def _names(count: int, rng: random.Random) -> Iterator[tuple]:
    base = list(_CATALOGUE)
    # Small worlds are made of what every shop has.
    core, rest = base[:12], base[12:]
    rng.shuffle(rest)
    if count < len(core):
        rng.shuffle(core)
    yield from core + rest
    variants = [
        (f"{name}-{qualifier}", f"{qualifier}-{noun}", min(tier + 1, 3), databases, is_consumer)
        for name, noun, tier, databases, is_consumer in base
        for qualifier in _QUALIFIERS
    ]
    rng.shuffle(variants)
    yield from variants


def _services(count: int, rng: random.Random) -> list[Service]:
    entry_count = 1 + count // _SERVICES_PER_ENTRY
    names = _names(count - entry_count, rng)
    drawn = [(name, "", 0, (), False) for name in _ENTRIES[:entry_count]]
    drawn += [next(names) for _ in range(count - entry_count)]
    # The order in which calls may go: by tier, mixed a little, consumers of queues last.
    drawn.sort(key=lambda row: (row[2] > 0, row[4], row[2] + rng.uniform(0, 1.4)))
    services = []
    first_slot = 0
    for index, (name, noun, tier, databases, is_consumer) in enumerate(drawn):
        replicas = rng.choice((2, 3, 4)) if tier == 0 else rng.choice((1, 2, 2, 3, 3, 4))
        services.append(
            Service(
                index=index,
                name=name,
                noun=noun,
                tier=tier,
                database=rng.choice(databases) if databases and rng.random() < 0.85 else None,
                is_consumer=is_consumer,
                replicas=replicas,
                first_slot=first_slot,
                language=rng.choice(_LANGUAGES),
                peak_utilisation=rng.uniform(0.3, 0.7),
                idle_cpu=rng.uniform(0.01, 0.05),
                idle_memory=rng.uniform(0.12e9, 0.35e9),
            )
        )
        first_slot += replicas
    return services


def _operation(service: Service, method: str, name: str, noise: Noise, rng: random.Random) -> Operation:
    who = service.name, len(service.operations)
    own_ms = min(rng.lognormvariate(1.8, 0.8), 60.0) * _pace(noise, *who)
    is_refusing = noise.is_among(noise.refusing, "refusing", *who) and not service.is_consumer
    is_polled = noise.is_among(noise.polled, "polled", *who)
    return Operation(
        service=service,
        method=method,
        name=name,
        own_ms=own_ms,
        sigma=rng.uniform(0.15, 0.35) * _sigma(noise, *who),
        # Work goes with time, but loosely: some operations wait, some compute.
        cpu_us=1000.0 * own_ms * rng.lognormvariate(-0.7, 0.6),
        memory_bytes=rng.lognormvariate(1.0, 0.7) * 1e6,
        level_share=noise.level_share,
        io_operations=rng.lognormvariate(1.0, 0.7),
        request_bytes=rng.lognormvariate(6.5, 0.5),
        response_bytes=rng.lognormvariate(8.0, 0.9),
        error_rate=_ERROR_RATE_PER_CALL * rng.lognormvariate(0, 0.5) * noise.error_factor(*who),
        is_parallel=rng.random() < 0.3,
        shape=noise.shape_of_work(*who),
        payload=noise.is_among(noise.payload_bound, "payload-bound", *who) * noise.uniform(0.2, 1, "payload", *who),
        refusal_rate=is_refusing * noise.log_uniform(0.002, 0.05, "refusals", *who),
        again_rate=ASK_AGAIN_RATE + is_polled * noise.log_uniform(0.01, 0.25, "polls", *who),
    )


def _pace(noise: Noise, *who: int | str) -> float:
    """Factor of the noise on the own time of an operation or statement."""
    return noise.pace * noise.spread(noise.pace_spread, "pace", *who)


def _sigma(noise: Noise, *who: int | str) -> float:
    """Factor of the noise on the sigma of that time."""
    return noise.sigma * noise.spread(noise.sigma_spread, "sigma", *who)


def _add_operations(
    service: Service, later: list[Service], covered: set[int], noise: Noise, rng: random.Random
) -> None:
    """Give ``service`` its operations; their calls go to those of ``later`` services."""
    patterns = [("publish", topic) for topic in _TOPICS] if service.is_consumer else list(_ROUTES)
    for method, pattern in rng.sample(patterns, rng.choice((1, 2, 2, 3))):
        operation = _operation(service, method, pattern.format(noun=service.noun), noise, rng)
        if service.database:
            for statement in rng.sample(_STATEMENTS[service.database], rng.choice((1, 1, 2))):
                operation.steps.append(_database_step(operation, statement, noise, rng))
        _settle(operation)
        if later:
            for _ in range(rng.choice(((0, 1, 2), (0, 1, 1), (0, 0, 1))[service.tier - 1])):
                _add_call(operation, later, covered, _OPERATION_SPANS_MAX, noise, rng)
        service.operations.append(operation)


def _database_step(caller: Operation, statement: str, noise: Noise, rng: random.Random) -> Step:
    service = caller.service
    if statement not in service.queries:
        who = service.name, statement
        own_ms = min(rng.lognormvariate(1.0, 0.7), 30.0) * _pace(noise, *who)
        service.queries[statement] = Operation(
            service=service,
            method=statement,
            name=f"{statement} {service.noun}",
            own_ms=own_ms,
            sigma=rng.uniform(0.2, 0.4) * _sigma(noise, *who),
            error_rate=_ERROR_RATE_PER_CALL * 0.3 * noise.error_factor(*who),
            shape=noise.shape_of_work(*who),
            nominal_ms=own_ms,
        )
    caller.io_operations *= 1.5
    # A look-aside cache answers the rest.
    probability = rng.choice((1.0, 1.0, rng.uniform(0.3, 0.9)))
    return Step(DB, service.queries[statement], probability, True, 1, 0.0, 0.0)


def _add_call(
    caller: Operation, later: list[Service], covered: set[int], spans_max: float, noise: Noise, rng: random.Random
) -> bool:
    """Add a call to an operation of a ``later`` service, one that nobody calls yet if there is one.

    returns: False where none fits below ``spans_max``.
    """
    called = {id(step.target) for step in caller.steps}
    fitting = [
        operation
        for service in later
        for operation in service.operations
        if id(operation) not in called and caller.spans + operation.spans + 1 <= spans_max
    ]
    if not fitting:
        return False
    weights = [1.0 if id(operation) in covered else 4.0 for operation in fitting]
    target = rng.choices(fitting, weights)[0]
    covered.add(id(target))
    is_queue = target.service.is_consumer
    timeout_ms = max(_TIMEOUT_MIN_MS, target.nominal_ms * rng.uniform(*_TIMEOUT_FACTOR))
    caller.steps.append(
        Step(
            transport=QUEUE if is_queue else HTTP,
            target=target,
            probability=rng.choice((1.0, 1.0, 1.0, rng.uniform(0.25, 0.95))),
            is_critical=not is_queue and rng.random() < 0.7,
            attempts=1 if is_queue else rng.choices((1, 2, 3), (65, 30, 5))[0],
            timeout_ms=round(timeout_ms, -1),
            network_ms=(
                rng.uniform(20, 80) * noise.queue_pace * noise.spread(noise.queue_spread, "queue", target.name)
                if is_queue
                else rng.uniform(0.2, 0.8) * noise.network_pace
            ),
            shape=noise.shape_of_network(target.service.name),
        )
    )
    _settle(caller)
    return True


def _settle(operation: Operation) -> None:
    """Bring the expected spans and duration of an operation up to date with its steps."""
    operation.spans = 1.0 + sum(
        step.probability * (1.0 if step.transport == DB else 1.0 + step.target.spans) for step in operation.steps
    )
    waits = [
        step.probability * (step.target.nominal_ms + 2 * step.network_ms)
        for step in operation.steps
        if step.transport != QUEUE
    ]
    # In parallel the caller waits for the slowest, and databases are asked one after the other.
    below = max(waits, default=0.0) if operation.is_parallel else sum(waits)
    operation.nominal_ms = operation.own_ms + below


def _endpoints(
    entries: list[Service], order: list[Service], covered: set[int], noise: Noise, rng: random.Random
) -> list[Endpoint]:
    """Endpoints until every operation is reached by one of them."""
    count_min = max(4, round(0.6 * (len(entries) + len(order))))
    operations = [operation for service in order for operation in service.operations]
    roots: list[Operation] = []
    taken: set[str] = set()
    while len(roots) < count_min or any(id(operation) not in covered for operation in operations):
        entry = entries[len(roots) % len(entries)]
        root = _operation(entry, "GET", "", noise, rng)
        spans_max = rng.uniform(*_ENDPOINT_SPANS)
        while root.spans < spans_max:
            # What is not called yet comes first, however many spans it brings.
            missing = [
                service for service in order if any(id(operation) not in covered for operation in service.operations)
            ]
            near = [service for service in order if service.tier == 1] or order
            if not _add_call(root, missing or near, covered, spans_max + 5, noise, rng):
                if not _add_call(root, order, covered, spans_max + 5, noise, rng):
                    break
        first = next((step.target for step in root.steps if step.transport == HTTP), root.steps[0].target)
        root.method = first.method if first.method in ("GET", "POST", "PUT") else "POST"
        path = first.name if first.name.startswith("/") else f"/{first.service.noun}"
        version = 1
        while f"{root.method} /api/v{version}{path}" in taken:
            version += 1
        root.name = f"/api/v{version}{path}"
        taken.add(f"{root.method} {root.name}")
        entry.operations.append(root)
        roots.append(root)
    weights = [max(noise.endpoint_floor, 1 / rank**noise.endpoint_skew) for rank in range(1, len(roots) + 1)]
    rng.shuffle(weights)
    whole = sum(weights)
    return [
        Endpoint(index, root, weight / whole, _flatten(root))
        for index, (root, weight) in enumerate(zip(roots, weights))
    ]


def _flatten(root: Operation) -> list[Site]:
    """The call tree below ``root`` as sites, depth first."""
    sites: list[Site] = []

    def visit(step: Step, parent: Site | None) -> Site:
        site = Site(len(sites), parent, step)
        sites.append(site)
        site.children = [visit(below, site) for below in step.target.steps]
        return site

    visit(Step(ROOT, root, 1.0, True, 1, 0.0, 0.0), None)
    return sites
