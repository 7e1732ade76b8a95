"""What of a bill met telemetry and what of the telemetry met a bill, and which of the rest may be one thing.

For ``jobs.doctor``: without the engine, by the functions that the job calls, over an input directory.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import orjson

from udfs.pure.meter import meter
from udfs.pure.otlp import SEPARATOR, collect_metrics, collect_spans, merge_owner
from udfs.pure.price import cost_by_window, standing
from udfs.pure.resources import ORDER, TRUST, Alias, Resources, canonical, named
from udfs.pure.windows import NO_RESOURCE

# How alike two names must be to be shown side by side, as difflib measures it.
ALIKE = 0.75
# A shorter name begins many others by chance.
SHORTEST_PREFIX = 6
SIMILAR = "a similar name"


# ---- the two sides --------------------------------------------------------------------------


@dataclass
class Telemetry:
    """What telemetry says of each resource, by canonical id; "" = of pods that name none.

    usage: {resource_id: {dimension: amount in its unit}}. pods: who used it. names: {resource_id: {attribute: values}}
    as they were sent by whatever was tied to it. ids: {resource_id: {one of ORDER: canonical ids}}, of the same.
    """

    usage: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    pods: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    names: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    ids: dict[str, dict[str, set[str]]] = field(default_factory=dict)


class _Recording(Resources):
    """Remembers what was sent for each resource."""

    def __init__(self, aliases: Iterable[Alias], trust: Iterable[str]) -> None:
        super().__init__(aliases, trust)
        self.names: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.ids: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def billed_as(self, sent: Mapping[str, str]) -> str:
        resource_id = super().billed_as(sent)
        for attribute in TRUST:
            if sent.get(attribute):
                self.names[resource_id][attribute].add(sent[attribute])
        for attribute in ORDER:
            if found := named(sent, attribute):
                self.ids[resource_id][attribute].add(found)
        return resource_id


def read_telemetry(
    metrics: Iterable[bytes], traces: Iterable[bytes], aliases: Iterable[Alias] = (), trust: Iterable[str] = ()
) -> Telemetry:
    """The usage in requests of telemetry, tied to resources as the job does: by the metric's own attributes, else by
    those of the pod's other telemetry."""
    resources = _Recording(aliases, trust)
    fragments: dict[str, list[bytes]] = defaultdict(list)
    claims: dict[str, list[bytes]] = defaultdict(list)
    for line in metrics:
        found, pods, _ = collect_metrics(line, resources=resources)
        for consumer, fragment in found.items():
            fragments[consumer].append(fragment)
        _add(claims, pods)
    for line in traces:
        _add(claims, collect_spans(line, resources=resources)[1])
    telemetry = Telemetry(names=resources.names, ids=resources.ids)
    for consumer, parts in fragments.items():
        bucket, uid, name, _, resource_id, *_ = consumer.split(SEPARATOR)
        resource_id = resource_id or _claimed(claims[uid]) or _claimed(claims[name])
        for used in meter(int(bucket), parts)["windows"].values():
            for dimension, amount in used.items():
                telemetry.usage[resource_id][dimension] += amount
                telemetry.pods[resource_id].add(uid or name)
    return telemetry


def _add(claims: dict[str, list[bytes]], pods: Mapping[str, bytes]) -> None:
    for pod, claim in pods.items():
        if claim not in claims[pod]:
            claims[pod].append(claim)


def _claimed(claims: list[bytes]) -> str:
    """The resource that all claims agree on, else ""."""
    return (orjson.loads(reduce(merge_owner, claims))[1] or "") if claims else ""


@dataclass
class Billed:
    """What a bill says of each resource, by canonical id.

    costs: {(resource_id, dimension, currency): units of 1e-12}. spellings: the ids as the bill has them. tags: the
    resource's tags, by name. services: FOCUS ServiceName.
    """

    costs: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))
    spellings: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    tags: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    services: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    charges: int = 0


def read_bill(charges: Iterable[Mapping[str, Any]]) -> Billed:
    """The charges that stand, of all that were delivered (price.standing)."""
    billed = Billed()
    for charge in standing(charges):
        resource_id = charge["resource_id"]
        billed.charges += 1
        billed.spellings[resource_id].add(charge.get("billed_resource_id", resource_id))
        for name, value in charge["tags"].items():
            if value:
                billed.tags[resource_id][name].add(value)
        if charge["focus_service_name"]:
            billed.services[resource_id].add(charge["focus_service_name"])
        for by_dimension in cost_by_window(charge).values():
            for dimension, units in by_dimension.items():
                billed.costs[resource_id, dimension, charge["currency"]] += units
    return billed


# ---- what met -------------------------------------------------------------------------------

# Where a charge of a resource and dimension stands.
MET = "met telemetry"
OTHER_DIMENSION = "of a resource that met, for what no metric of it measures"
UNMET = "of a resource that no telemetry names"
WITHOUT_RESOURCE = "of no resource"
FATES = (MET, OTHER_DIMENSION, UNMET, WITHOUT_RESOURCE)


def fate(resource_id: str, dimension: str, telemetry: Telemetry) -> str:
    """One of FATES. Only what met is allocated to workloads (or to ``__idle__`` while nobody used it)."""
    if resource_id == NO_RESOURCE:
        return WITHOUT_RESOURCE
    if resource_id not in telemetry.usage:
        return UNMET
    return MET if dimension in telemetry.usage[resource_id] else OTHER_DIMENSION


def unmet_bill(billed: Billed, telemetry: Telemetry) -> list[tuple[str, str, int]]:
    """(resource_id, currency, units) of each that no telemetry names, the dearest of a currency first."""
    costs: dict[tuple[str, str], int] = defaultdict(int)
    for (resource_id, dimension, currency), units in billed.costs.items():
        if fate(resource_id, dimension, telemetry) == UNMET:
            costs[resource_id, currency] += units
    rows = [(resource_id, currency, units) for (resource_id, currency), units in costs.items()]
    return sorted(rows, key=lambda row: (row[1], -row[2], row[0]))


def unmet_telemetry(billed: Billed, telemetry: Telemetry) -> list[str]:
    """Resources that were used and that no charge names, the most used first, by the first dimension that differs."""
    dimensions = sorted({dimension for used in telemetry.usage.values() for dimension in used})

    def order(resource_id: str) -> tuple:
        used = telemetry.usage[resource_id]
        return *(-used.get(dimension, 0.0) for dimension in dimensions), resource_id

    return sorted(telemetry.usage.keys() - billed.spellings.keys(), key=order)


# ---- the order of trust ------------------------------------------------------------------------


class Trust(NamedTuple):
    """What one of ORDER tells: of how many resources that were used, how many of these the bill has by it, and the
    cost of what it has, by currency."""

    attribute: str
    sent: int
    billed: int
    costs: dict[str, int]


def trusts(billed: Billed, telemetry: Telemetry) -> list[Trust]:
    """Of each of ORDER that is sent."""
    costs: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for (resource_id, _, currency), units in billed.costs.items():
        costs[resource_id][currency] += units
    found = []
    for attribute in ORDER:
        told = [ids for used in telemetry.usage if (ids := telemetry.ids.get(used, {}).get(attribute))]
        sums: dict[str, int] = defaultdict(int)
        for resource_id in sorted(set().union(*told) & costs.keys()):
            for currency, units in costs[resource_id].items():
                sums[currency] += units
        if told:
            found.append(Trust(attribute, len(told), sum(bool(ids & costs.keys()) for ids in told), dict(sums)))
    return found


def better_first(billed: Billed, telemetry: Telemetry) -> str | None:
    """One of ORDER by which more of the resources that were used would meet the bill, if it were trusted before the
    others; None if there is none."""
    named_by_bill = billed.spellings.keys()

    def met(attribute: str) -> int:
        return sum(bool(telemetry.ids.get(used, {}).get(attribute, {used}) & named_by_bill) for used in telemetry.usage)

    best = max(ORDER, key=met)  # of equal ones the first
    return best if met(best) > len(telemetry.usage.keys() & named_by_bill) else None


# ---- the likeliest matches ------------------------------------------------------------------


class Match(NamedTuple):
    """Two ids that may name one thing, why, and the alias that would tie them (None: it needs an eye first)."""

    billed_id: str
    observed_id: str
    reason: str
    alias: Alias | None


def token(text: str) -> str:
    """The last part of an id, in lower case: the name or number without its place."""
    return re.split(r"[/:]", text.rstrip("/"))[-1].lower()


class Matcher:
    """Finds, for a resource of one side that met nothing, the likeliest of those of the other side that met nothing."""

    def __init__(self, billed: Billed, telemetry: Telemetry) -> None:
        self._billed_ids = sorted({resource_id for resource_id, _, _ in unmet_bill(billed, telemetry)})
        self._observed = {
            resource_id: [
                (attribute, value)
                for attribute in TRUST
                for value in sorted(telemetry.names.get(resource_id, {}).get(attribute, ()))
            ]
            for resource_id in unmet_telemetry(billed, telemetry)
            if resource_id
        }
        self._tags = billed.tags

    def of_observed(self, observed_id: str) -> Match | None:
        """The likeliest billed resource of one that telemetry names."""
        if found := _best(self._matches([observed_id], self._billed_ids)):
            return found
        alike = _alike(observed_id, self._billed_ids)
        return Match(alike, observed_id, SIMILAR, None) if alike else None

    def of_billed(self, billed_id: str) -> Match | None:
        """The likeliest of telemetry's resources of a billed one."""
        if found := _best(self._matches(self._observed, [billed_id])):
            return found
        alike = _alike(billed_id, self._observed)
        return Match(billed_id, alike, SIMILAR, None) if alike else None

    def _matches(self, observed_ids: Iterable[str], billed_ids: Iterable[str]) -> Iterator[tuple[int, Match]]:
        """(how sure, the least first; match) of all pairs that have a name in common."""
        billed_ids = list(billed_ids)
        for observed_id in observed_ids:
            for attribute, value in self._observed.get(observed_id, ()):
                name = token(value)
                for billed_id in billed_ids:
                    sure, reason, pattern = self._common(billed_id, attribute, value, name)
                    if reason:
                        alias = Alias(billed_id, pattern or value, attribute)
                        yield sure, Match(billed_id, observed_id, reason, alias)

    def _common(self, billed_id: str, attribute: str, value: str, name: str) -> tuple[int, str, str]:
        """(how sure, why, the alias's pattern or "" for the value itself) that a value names a billed resource."""
        billed_name = token(billed_id)
        if canonical(value) == billed_id:
            return 0, f"its {attribute}", ""
        if name == billed_name:
            return 1, f"the same name as its {attribute}", ""
        for tag, values in self._tags.get(billed_id, {}).items():
            if name in map(token, values):
                return 2, f"the bill's tag {tag} has its {attribute}", ""
        if len(billed_name) >= SHORTEST_PREFIX and name.startswith(billed_name):
            start = value.lower().rindex(billed_name) + len(billed_name)
            return 3, f"its {attribute} begins so", value[:start] + "*"
        return 9, "", ""


def _alike(one: str, others: Collection[str]) -> str | None:
    """The one of the others whose name is spelt most alike."""
    by_token = {token(other): other for other in sorted(others)}
    close = difflib.get_close_matches(token(one), by_token, n=1, cutoff=ALIKE)
    return by_token[close[0]] if close else None


def _best(matches: Iterable[tuple[int, Match]]) -> Match | None:
    found = min(matches, key=lambda entry: (entry[0], entry[1][:2]), default=None)
    return found[1] if found else None
