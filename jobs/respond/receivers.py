"""Receivers: a message as the request that each kind of them takes, and whether it was taken.

Sources of the schemas: Alertmanager's API v2 (POST /api/v2/alerts), PagerDuty's Events API v2, ServiceNow's event
management (em_event by the JSON web service), Slack's incoming webhooks, CloudEvents 1.0 in structured mode.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
import requests

from jobs.respond.policy import SEVERITIES, Receiver
from jobs.respond.watch import ESCALATED, OPENED, RESOLVED, RESTATED, Message

# How long a receiver may take to answer.
TIMEOUT_S = 10

# An alert that nobody says again ends by itself after this; it is said again far more often.
ALERT_LASTS = timedelta(hours=4)

# PagerDuty and ServiceNow cut what is longer.
_SUMMARY_CHARS = 1024
# ServiceNow, "Event field format for event collection": of source, node, type and resource.
_SERVICENOW_CHARS = 100
# Slack makes several messages of what is longer.
_SLACK_CHARS = 4_000

_JSON = {"Content-Type": "application/json"}


class Request(NamedTuple):
    """What is posted."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    login: tuple[str, str] | None = None


class Answer(NamedTuple):
    """Whether a receiver took it; error: why not; is_final: it never will; retry_after_s: when it wants to be asked."""

    taken: bool
    error: str = ""
    is_final: bool = False
    retry_after_s: float | None = None


def request(receiver: Receiver, message: Message, number: int, now: datetime) -> Request:
    """The request that tells a receiver a message. number: of the message, the same when it is tried again."""
    return _KINDS[receiver.kind](receiver, message, number, now)


def post(receiver: Receiver, wanted: Request, session: requests.Session, now: datetime) -> Answer:
    """Send it. What an error says never holds a secret: neither the URL nor the headers."""
    try:
        response = session.post(
            wanted.url, data=wanted.body, headers=dict(wanted.headers), auth=wanted.login, timeout=TIMEOUT_S,
            allow_redirects=False,
        )  # fmt: skip
    except requests.RequestException as error:
        return Answer(False, f"{receiver.kind} does not answer ({type(error).__name__})")
    if response.status_code < 300:
        return Answer(True)
    told = " ".join(response.text.split())[:200]
    reason = f"{receiver.kind} answers {response.status_code} {told}".strip()
    for secret in (receiver.url, *receiver.secrets.values()):
        reason = reason.replace(secret, "***")
    retry = response.status_code in (408, 425, 429) or response.status_code >= 500
    return Answer(False, reason, not retry, _retry_after(response.headers.get("Retry-After"), now) if retry else None)


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds, of seconds or an HTTP date."""
    if not value:
        return None
    if value.isdecimal():
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - now).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


# ---- what is said -----------------------------------------------------------------------------

_WORDS = {OPENED: "", ESCALATED: "Costs more: ", RESTATED: "Restated: ", RESOLVED: "Over: "}


def summary(message: Message) -> str:
    """One sentence."""
    return f"{_WORDS[message.event]}{message.incident['evidence']}"


def details(message: Message) -> dict[str, Any]:
    """The figures, money as text."""
    names = (
        "incident_id", "otel_service_name", "culprit_operation", "anomaly_kind", "incident_state", "opened_at",
        "last_seen_at", "closed_at", "anomalous_traces", "affected_services", "excess_cost", "billed_excess_cost",
        "excess_cost_per_hour", "projected_monthly_cost", "billing_currency", "cost_status", "feedback", "feedback_by",
        "exemplar_trace_ids",
    )  # fmt: skip
    found = {name: message.incident[name] for name in names if message.incident.get(name) not in (None, [])}
    changes = _changes(message.incident)
    return found | ({"changes": changes} if changes else {})


def _changes(incident: Mapping[str, Any]) -> list[str]:
    """What changed just before, in words."""
    written = incident.get("changes") or []
    changes = orjson.loads(written) if isinstance(written, str) else written
    return [f"{change['what']} {change['from']} to {change['to']} at {change['at']}" for change in changes]


def _links(message: Message) -> list[str]:
    return list(message.incident.get("exemplar_urls") or [])


def _opened_at(message: Message, now: datetime) -> str:
    return str(message.incident.get("opened_at") or now.isoformat())


# ---- the kinds --------------------------------------------------------------------------------


def _alertmanager(receiver: Receiver, message: Message, number: int, now: datetime) -> Request:
    """Labels are an alert's identity, and Alertmanager routes by them: an incident that becomes more urgent is another
    alert, and those of other severities end. An end of what never was is told to nobody."""
    incident = message.incident
    labels = {
        "alertname": "AnomalyCost",
        "incident_id": message.thread,
        "service": incident["otel_service_name"],
        "currency": incident["billing_currency"],
        "route": message.route,
    }
    annotations = {"summary": summary(message), **{name: _plain(value) for name, value in details(message).items()}}
    generator = {"generatorURL": _links(message)[0]} if _links(message) else {}
    is_open = message.event != RESOLVED
    ends_others = message.event in (RESOLVED, ESCALATED)
    alerts = [
        {
            "labels": labels | {"severity": severity},
            "annotations": annotations,
            "startsAt": _opened_at(message, now),
            "endsAt": (now + ALERT_LASTS if is_open and severity == message.severity else now).isoformat(),
            **generator,
        }
        for severity in SEVERITIES
        if ends_others or severity == message.severity
    ]
    return Request(f"{receiver.url}/api/v2/alerts", _JSON, orjson.dumps(alerts))


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pagerduty(receiver: Receiver, message: Message, number: int, now: datetime) -> Request:
    """A trigger of a known dedup_key adds to the incident that is open; an acknowledgement would stop its paging."""
    event: dict[str, Any] = {
        "routing_key": receiver.secrets["routing_key"],
        "dedup_key": message.thread[:255],
        "event_action": "resolve" if message.event == RESOLVED else "trigger",
    }
    if message.event != RESOLVED:
        event["payload"] = {
            "summary": summary(message)[:_SUMMARY_CHARS],
            "source": message.incident["otel_service_name"],
            "severity": message.severity,
            "timestamp": _opened_at(message, now),
            "component": message.incident.get("culprit_operation") or "",
            "class": message.incident.get("anomaly_kind") or "",
            "custom_details": details(message),
        }
        event["client"] = "anomaly-cost"
        event["links"] = [{"href": url, "text": "An exemplary trace"} for url in _links(message)]
    return Request(receiver.url, _JSON, orjson.dumps(event))


# From 1, critical, to 4, warning; 5 is OK and 0 clears.
_SERVICENOW = {"critical": 1, "error": 2, "warning": 4, "info": 5}


def _servicenow(receiver: Receiver, message: Message, number: int, now: datetime) -> Request:
    record = {
        "source": "anomaly-cost",
        "event_class": "anomaly-cost",
        "message_key": message.thread,
        "node": message.incident["otel_service_name"][:_SERVICENOW_CHARS],
        "type": message.incident.get("anomaly_kind") or "",
        "resource": (message.incident.get("culprit_operation") or "")[:_SERVICENOW_CHARS],
        "severity": "0" if message.event == RESOLVED else str(_SERVICENOW[message.severity]),
        "resolution_state": "Closing" if message.event == RESOLVED else "New",
        "time_of_event": now.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "description": summary(message)[:_SUMMARY_CHARS],
        "additional_info": orjson.dumps(details(message)).decode(),
    }
    login = receiver.secrets["user"], receiver.secrets["password"]
    body = orjson.dumps({"records": [record]})
    return Request(f"{receiver.url}/api/global/em/jsonv2", _JSON, body, login)


def _slack(receiver: Receiver, message: Message, number: int, now: datetime) -> Request:
    links = "".join(
        f"\n<{quote(url, safe=':/?#[]@!$&()*+,;=%')}|trace {place}>" for place, url in enumerate(_links(message), 1)
    )
    text = f"*{message.severity}* {_escaped(summary(message)[:_SUMMARY_CHARS])}{links}"
    for change in map(_escaped, _changes(message.incident)):
        if len(text) + 1 + len(change) <= _SLACK_CHARS:
            text += f"\n{change}"
    return Request(receiver.url, _JSON, orjson.dumps({"text": text}))


def _escaped(text: str) -> str:
    """Slack's three characters: a hostile name mentions nobody and links nowhere."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _webhook(receiver: Receiver, message: Message, number: int, now: datetime) -> Request:
    data = {
        "summary": summary(message),
        "severity": message.severity,
        "route": message.route,
        "incident": dict(message.incident),
    }
    return _event(receiver, f"incident.{message.event}", message.thread, str(number), data, now)


def asks(receiver: Receiver, action: str, value: str, row: Mapping[str, Any], key: str) -> Request:
    """The request that asks a webhook for a value: a rate limit, a feature flag. key: the same when it is asked again.

    row: of anomaly_cost.actions.
    """
    data = {"action": action, "value": value, "service": row["otel_service_name"], "why": row["why"],
            "figures": row["figures"]}  # fmt: skip
    what = "undo" if key.endswith("/undo") else "do"
    return _event(receiver, f"action.{what}", row["incident_id"], key, data, row["requested_at"])


def _event(receiver: Receiver, kind: str, subject: str, id_: str, data: Mapping[str, Any], now: datetime) -> Request:
    """A CloudEvent. The signature is of the body, in hex, by HMAC-SHA256. The id is the same when it is sent again."""
    event = {
        "specversion": "1.0",
        "id": id_,
        "source": "/anomaly-cost/respond",
        "type": f"anomaly_cost.{kind}",
        "subject": subject,
        "time": now.isoformat(),
        "datacontenttype": "application/json",
        "data": data,
    }
    body = orjson.dumps(event)
    signature = hmac.new(receiver.secrets["secret"].encode(), body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/cloudevents+json", "X-Signature-256": f"sha256={signature}"}
    return Request(receiver.url, headers, body)


_KINDS: dict[str, Callable[[Receiver, Message, int, datetime], Request]] = {
    "alertmanager": _alertmanager,
    "pagerduty": _pagerduty,
    "servicenow": _servicenow,
    "slack": _slack,
    "webhook": _webhook,
}
