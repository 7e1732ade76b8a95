"""A world before it runs: built from its config, sized by a sample of its own requests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from faker import Faker

from simulator import faults as fault_plan
from simulator import placement, topology, workload
from simulator.config import MINUTES_PER_DAY, Config
from simulator.faults import Fault, Visits
from simulator.keyed import key_of
from simulator.noise import Noise
from simulator.requests import CLIENT, SERVER, Conditions, Draws, Request
from simulator.topology import DB
from simulator.usage import CPU, DIMENSIONS, IO, MEMORY, TRANSMIT

# Requests without faults that tell how a world behaves before it runs; their ids lie beyond all.
_SAMPLE_REQUESTS = 1500
_SAMPLE_FIRST_ID = 1 << 60

# Traces are head-sampled: one recorded request stands for many, so that a shop with 50,000 traces a
# day keeps some machines busy. How many follows from what the work of an average service is to be:
# cores, bytes, operations and bytes sent a second.
_MEAN_CORES = 1.0
_MEAN_MEMORY = 1.5e9
_MEAN_IO_A_SECOND = 50.0
_MEAN_BYTES_A_SECOND = 100_000.0
# Spread of the level of memory over services, where they have one.
_LEVEL_SPREAD = 0.4


@dataclass
class World:
    """All that is fixed before the first request arrives."""

    config: Config
    noise: Noise
    namespace: str
    topology: topology.Topology
    workload: workload.Workload
    placement: placement.Placement
    draws: list[Draws]  # by endpoint
    faults: list[Fault]
    spans_a_trace: float  # mean over the sample


def build(config: Config, noise: Noise | None = None) -> World:
    """Draw a world: a function of the config; noise: in place of what the config asks for."""
    noise = noise or Noise.of(config)
    shop = topology.build(config, noise)
    faker = Faker("en_US")
    faker.seed_instance(key_of(config.seed, "shop"))
    namespace = faker.domain_word().lower()
    asked = workload.build(config, shop, noise)
    where = placement.build(config, shop, namespace, noise, asked.load)
    draws = [Draws(config.seed, endpoint, noise.payload_spread) for endpoint in shop.endpoints]
    world = World(config, noise, namespace, shop, asked, where, draws, [], 0.0)
    visits = _explore(world)
    world.faults = fault_plan.plan(config, shop, asked.rate, visits)
    return world


def _explore(world: World) -> list[Visits]:
    """Run the sample: scale the operations' appetite, and tell where requests go."""
    ids = np.arange(_SAMPLE_REQUESTS, dtype=np.uint64) + np.uint64(_SAMPLE_FIRST_ID)
    shares = (np.arange(_SAMPLE_REQUESTS) + 0.5) / _SAMPLE_REQUESTS
    endpoints = np.searchsorted(world.workload.endpoint_edges, shares)
    conditions = Conditions(
        world.placement.pods,
        [service.replicas for service in world.topology.services],
        [1.0] * world.topology.slot_count,
    )
    sums = np.zeros(DIMENSIONS)
    visits, spans = [], 0
    for endpoint in world.topology.endpoints:
        draws = world.draws[endpoint.index]
        keys, rows, _ = draws.batch(ids[endpoints == endpoint.index])
        for key, row in zip(keys, rows):
            request = Request(endpoint, draws, key, row, 0.0, conditions, {})
            sums += np.sum([use[2:] for use in request.uses], axis=0)
            spans += len(request.spans)
            visits.append(_visits(endpoint.index, request))
    world.spans_a_trace = spans / _SAMPLE_REQUESTS
    _scale(world, sums / _SAMPLE_REQUESTS)
    return visits


def _visits(endpoint: int, request: Request) -> Visits:
    spans = request.spans
    return Visits(
        endpoint=endpoint,
        slots=Counter(span.slot for span in spans if span.role == SERVER),
        calls=frozenset(
            (span.slot, span.site.service_index) for span in spans if span.role == CLIENT and span.site.transport != DB
        ),
        queries=frozenset(span.slot for span in spans if span.site.transport == DB),
    )


def _scale(world: World, mean: np.ndarray) -> None:
    """Bring the mean work of a request to what keeps an average service as busy as it should be."""
    services = len(world.topology.services)
    seconds = MINUTES_PER_DAY * 60 / world.config.requests_per_day
    cpu = _MEAN_CORES * services * seconds * 1e6 / mean[CPU]
    memory = _MEAN_MEMORY * (1 - world.noise.level_share) * services * seconds * 1e3 / mean[MEMORY]
    io = _MEAN_IO_A_SECOND * services * seconds / mean[IO]
    network = _MEAN_BYTES_A_SECOND * services * seconds / mean[TRANSMIT]
    for service in world.topology.services:
        spread = world.noise.spread(_LEVEL_SPREAD, "level", service.name)
        service.level_memory = world.noise.level_share * _MEAN_MEMORY / service.replicas * spread
        for operation in service.operations:
            operation.cpu_us *= cpu
            operation.memory_bytes *= memory
            operation.io_operations *= io
            operation.request_bytes *= network
            operation.response_bytes *= network
