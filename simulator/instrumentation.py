"""How services are instrumented: what they emit of what happens, and in which form.

A silent service is seen as third parties are: its callers' client spans name it. One that emits
server spans only hands its context on, so that what it calls has the server span for a parent.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from simulator.keyed import mix
from simulator.noise import Noise
from simulator.requests import CLIENT, SERVER
from simulator.topology import DB, Service, Site, Topology

# Attributes by which a client span names the callee.
PEER_KEYS = ("peer.service", "server.address")

_NS_PER_US, _NS_PER_MS = 1_000, 1_000_000

# What internal spans are named; the part of the server span that they take, at its beginning where
# they stand beside the calls, nearly all of it where they hold them.
_INNER_NAMES = ("handle", "render", "validate", "serialize", "authorize", "map", "load")
_INNER_PART = (0.05, 0.4)
_HOLDING_PART = (0.01, 0.99)

# What tells the fates of a span apart, all drawn from its id.
_LOST_SALT, _ORPHAN_SALT = 0x105, 0x0A9
_IDS = 1 << 64


class Style(NamedTuple):
    """How a service's spans look."""

    emits_servers: bool
    emits_clients: bool
    has_kinds: bool
    has_statuses: bool
    tick_ns: int  # its clock counts in these
    peer_key: str
    has_links: bool  # the span of a message consumed links to that of its publication,
    has_parents: bool  # and has it for a parent


class Inner(NamedTuple):
    """The internal span of an operation, below its server span."""

    name: str
    begin: float  # as shares of the server span's duration
    end: float
    holds_calls: bool  # is the parent of the operation's calls


class Instrumentation:
    """What is emitted, and how, of each service, operation and span."""

    def __init__(self, noise: Noise, topology: Topology, peer_key: str) -> None:
        """peer_key: what services name their callees by, where they agree on it."""
        self._noise = noise
        self.styles = self._styles(topology, peer_key)  # by service
        self.inner = {
            operation: self._inner_span(service.name, number)
            for service in topology.services
            for number, operation in enumerate(service.operations)
            if noise.is_among(noise.internal, "internal", service.name, number)
        }
        self._emits = [
            [self._is_emitted(site, role) for site in endpoint.sites for role in (SERVER, CLIENT)]
            for endpoint in topology.endpoints
        ]
        self._lost_below = int(noise.lost * _IDS)
        self._orphaned_below = int(noise.orphaned * _IDS)

    def style(self, site: Site, role: int) -> Style:
        """That of the service that records a span."""
        recorder = site if role == SERVER or site.transport == DB or not site.parent else site.parent
        return self.styles[recorder.service_index]

    def emits(self, endpoint: int, site: Site, role: int) -> bool:
        """Whether a service emits such spans."""
        return self._emits[endpoint][2 * site.index + role]

    def loses(self, own_id: str) -> bool:
        """Whether a span gets lost on its way; those below it name it all the same."""
        return self._lost_below > 0 and mix(int(own_id, 16) ^ _LOST_SALT) < self._lost_below

    def orphans(self, own_id: str) -> bool:
        """Whether the id of a span's parent is broken."""
        return self._orphaned_below > 0 and mix(int(own_id, 16) ^ _ORPHAN_SALT) < self._orphaned_below

    def _is_emitted(self, site: Site, role: int) -> bool:
        if role == CLIENT and not site.parent:
            return False  # the root has no caller
        style = self.style(site, role)
        return style.emits_servers if role == SERVER else style.emits_clients

    def _styles(self, topology: Topology, peer_key: str) -> list[Style]:
        noise = self._noise
        callers: dict[str, set[str]] = defaultdict(set)
        for service in topology.services:
            for operation in service.operations:
                for step in operation.steps:
                    callers[step.target.service.name].add(service.name)
        nameless: set[str] = set()  # services whose callees nobody names: they can't be silent
        styles = []
        for service in topology.services:  # callers come before what they call
            name = service.name
            is_silent = (
                service.tier > 0
                and noise.is_among(noise.silent, "silent", name)
                and nameless.isdisjoint(callers[name] - {name})
            )
            emits_clients = not (is_silent or noise.is_among(noise.server_only, "server-only", name))
            if not emits_clients:
                nameless.add(name)
            styles.append(self._style(service, not is_silent, emits_clients, peer_key))
        return styles

    def _style(self, service: Service, emits_servers: bool, emits_clients: bool, peer_key: str) -> Style:
        noise, name = self._noise, service.name
        is_coarse = noise.is_among(noise.millisecond_clocks, "millisecond clock", name)
        is_rounded = noise.is_among(noise.microsecond_clocks, "microsecond clock", name)
        if noise.mixed_peers:
            peer_key = PEER_KEYS[noise.is_among(0.5, "peer key", name)]
        has_links = noise.is_among(noise.linked, "linked", name)
        return Style(
            emits_servers=emits_servers,
            emits_clients=emits_clients,
            has_kinds=not noise.is_among(noise.kindless, "kindless", name),
            has_statuses=not noise.is_among(noise.statusless, "statusless", name),
            tick_ns=_NS_PER_MS if is_coarse else _NS_PER_US if is_rounded else 1,
            peer_key=peer_key,
            has_links=has_links,
            has_parents=not has_links or noise.is_among(0.5, "linked parent", name),
        )

    def _inner_span(self, *operation: int | str) -> Inner:
        noise = self._noise
        name = _INNER_NAMES[int(noise.uniform(0, len(_INNER_NAMES), "inner name", *operation))]
        if noise.is_among(0.5, "inner holds calls", *operation):
            return Inner(name, *_HOLDING_PART, True)
        return Inner(name, 0.0, noise.uniform(*_INNER_PART, "inner part", *operation), False)
