"""What is to be told of incidents, by what they are now and what was told of them before. Pure: no clock, no server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from jobs.respond.policy import Incident, Policy, Route

OPENED, ESCALATED, RESTATED, RESOLVED = "opened", "escalated", "restated", "resolved"

# The table may lack an incident for a moment, while it gets another id.
GRACE = timedelta(seconds=30)


@dataclass(frozen=True)
class Told:
    """What was told of an incident by a route: a row of anomaly_cost.told."""

    route: str
    thread: str
    incident_id: str
    otel_service_name: str
    billing_currency: str
    window_start: datetime
    window_end: datetime
    step: int
    cost_status: str
    receivers: tuple[str, ...]
    is_over: bool
    is_silenced: bool
    gone_since: datetime | None
    told_at: datetime


class Message(NamedTuple):
    """What is sent to a receiver."""

    receiver: str
    route: str
    thread: str
    event: str
    severity: str
    incident: Incident


class Decision(NamedTuple):
    """What of ``told`` changes, and what is sent."""

    told: list[Told]
    messages: list[Message]


def decide(
    policy: Policy,
    incidents: Iterable[Incident],
    told: Iterable[Told],
    now: datetime,
    burning: Set[str] = frozenset(),
) -> Decision:
    """What is to be told now.

    incidents: rows of the table, all that are there or changed of late. told: all that isn't over, and what was told of
    these incidents, or of others in their windows. Both are by route and thread. burning: names of the budgets that
    will not last.
    """
    by_id = {incident["incident_id"]: incident for incident in incidents}
    decision = Decision([], [])
    routes = {route.name: route for route in policy.routes}
    # What was told goes on under another id where the table has it under one.
    known: dict[tuple[str, str], Told] = {}
    for before in told:
        here = before
        if before.incident_id not in by_id:
            successor = next((i for _, i in sorted(by_id.items()) if goes_on(vars(before), i)), None)
            if successor is not None:
                here = replace(before, incident_id=successor["incident_id"])
        known[here.route, here.incident_id] = here
        route = routes.get(here.route)
        incident = by_id.get(here.incident_id)
        if route is None:  # the policy has it no more: nobody waits for its end
            _add(decision, before, replace(here, is_over=True), [])
        elif incident is None:
            _add(decision, before, *_gone(route, here, now))
        else:
            _add(decision, before, *_go_on(policy, route, here, incident, now, burning))
    for incident in by_id.values():
        for route in policy.routes:
            if (route.name, incident["incident_id"]) in known or _is_told_of(known.values(), route, incident):
                continue
            opened = _open(policy, route, incident, incident["incident_id"], now, burning)
            if opened:
                _add(decision, None, *opened)
    return decision


def _add(decision: Decision, before: Told | None, after: Told, messages: list[Message]) -> None:
    if after != before:
        decision.told.append(after)
    decision.messages.extend(messages)


def goes_on(before: Mapping[str, Any], incident: Incident) -> bool:
    """Whether an incident of another id is the one that was told or acted on before: its windows overlap."""
    return (
        incident["otel_service_name"] == before["otel_service_name"]
        and incident["billing_currency"] == before["billing_currency"]
        and incident["window_start"] < before["window_end"]
        and incident["window_end"] > before["window_start"]
    )


def _is_told_of(told: Iterable[Told], route: Route, incident: Incident) -> bool:
    """Whether it was told under an id that the table still has: it is about to go."""
    return any(of.route == route.name and not of.is_over and goes_on(vars(of), incident) for of in told)


def _open(
    policy: Policy, route: Route, incident: Incident, thread: str, now: datetime, burning: Set[str]
) -> tuple[Told, list[Message]] | None:
    """Tell of it first, if the route does."""
    team = policy.team_of(incident["otel_service_name"])
    if incident["is_silenced"] or not route.matches(incident, team, burning):
        return None
    step = route.steps_of(incident)
    severity = route.severity_at(step)
    if route.quiet and route.quiet.holds(severity, now):
        return None
    receivers = route.receivers_at(step)
    is_over = incident["closed_at"] is not None
    told = Told(
        route=route.name,
        thread=thread,
        incident_id=incident["incident_id"],
        otel_service_name=incident["otel_service_name"],
        billing_currency=incident["billing_currency"],
        window_start=incident["window_start"],
        window_end=incident["window_end"],
        step=step,
        cost_status=incident["cost_status"],
        receivers=receivers,
        is_over=is_over,
        is_silenced=False,
        gone_since=None,
        told_at=now,
    )
    events = (OPENED, RESOLVED) if is_over else (OPENED,)
    return told, [
        Message(name, route.name, thread, event, severity, incident) for event in events for name in receivers
    ]


def _go_on(
    policy: Policy, route: Route, told: Told, incident: Incident, now: datetime, burning: Set[str]
) -> tuple[Told, list[Message]]:
    """What is new of an incident that was told."""
    told = replace(told, window_start=incident["window_start"], window_end=incident["window_end"], gone_since=None)
    if told.is_over:
        if not incident["is_silenced"] and incident["closed_at"] is None:  # it was seen again, or is no longer silenced
            return _open(policy, route, incident, told.thread, now, burning) or (told, [])
        return _restate_after_end(policy, route, told, incident, now)
    severity = route.severity_at(max(told.step, route.steps_of(incident)))
    if incident["is_silenced"] or incident["closed_at"] is not None:
        ended = replace(told, is_over=True, is_silenced=bool(incident["is_silenced"]), told_at=now,
                        cost_status=incident["cost_status"])  # fmt: skip
        return ended, _to(told.receivers, route, told, RESOLVED, severity, incident)
    if route.quiet and route.quiet.holds(severity, now):
        return told, []
    step = route.steps_of(incident)
    if step > told.step:
        receivers = route.receivers_at(step)
        escalated = replace(told, step=step, cost_status=incident["cost_status"], receivers=receivers, told_at=now)
        return escalated, _to(receivers, route, told, ESCALATED, severity, incident)
    is_due = now >= told.told_at + timedelta(seconds=route.cooldown_s)
    if route.restated and incident["cost_status"] != told.cost_status and is_due:
        restated = replace(told, cost_status=incident["cost_status"], told_at=now)
        return restated, _to(told.receivers, route, told, RESTATED, severity, incident)
    return told, []


def _restate_after_end(
    policy: Policy, route: Route, told: Told, incident: Incident, now: datetime
) -> tuple[Told, list[Message]]:
    """The bill comes hours after the incident's end: told to who doesn't take it for another incident."""
    if not route.restated or told.is_silenced or incident["cost_status"] == told.cost_status:
        return told, []
    restated = replace(told, cost_status=incident["cost_status"], told_at=now)
    takers = [name for name in told.receivers if name in policy.receivers and policy.receivers[name].after_end]
    return restated, _to(takers, route, told, RESTATED, route.severity_at(told.step), incident)


def _gone(route: Route, told: Told, now: datetime) -> tuple[Told, list[Message]]:
    """The table has it no more."""
    if told.is_over:
        return told, []
    if told.gone_since is None:
        return replace(told, gone_since=now), []
    if now < told.gone_since + GRACE:
        return told, []
    withdrawn: dict[str, Any] = {
        "incident_id": told.incident_id,
        "otel_service_name": told.otel_service_name,
        "billing_currency": told.billing_currency,
        "evidence": f"{told.otel_service_name} is well after all: what was told of it is withdrawn",
    }
    ended = replace(told, is_over=True, told_at=now)
    return ended, _to(told.receivers, route, told, RESOLVED, route.severity_at(told.step), withdrawn)


def _to(
    receivers: Iterable[str], route: Route, told: Told, event: str, severity: str, incident: Mapping[str, Any]
) -> list[Message]:
    return [Message(name, route.name, told.thread, event, severity, incident) for name in receivers]
