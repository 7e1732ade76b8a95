"""respond: by what policy who is told what of an incident, and in which words."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import orjson
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.exceptions import CloudEventValidationError

from jobs.config import ROOT
from jobs.errors import UsageError
from jobs.respond.policy import KINDS, SEVERITIES, Policy, load
from jobs.respond.receivers import ALERT_LASTS, asks, post, request
from jobs.respond.watch import ESCALATED, GRACE, OPENED, RESOLVED, RESTATED, Message, Told, decide
from tests.receiver import pagerduty_error, servicenow_error, slack_error

NOW = datetime(2026, 1, 1, 10, 40, tzinfo=UTC)
EVENTS = (OPENED, ESCALATED, RESTATED, RESOLVED)
SECRETS = {
    "PD_KEY": "k" * 32,
    "HOOK_SECRET": "s3cret",
    "SN_USER": "ann",
    "SN_PASSWORD": "pw",
    "SLACK": "https://chat/T/B",
}

POLICY = """
[teams]
payments = ["payment", "shop/pay*"]

[receivers.pager]
kind = "pagerduty"
routing_key_env = "PD_KEY"

[receivers.hook]
kind = "webhook"
url = "http://127.0.0.1:9/hook"
secret_env = "HOOK_SECRET"

[receivers.boss]
kind = "slack"
url_env = "SLACK"

[receivers.alerts]
kind = "alertmanager"
url = "http://127.0.0.1:9093/"

[receivers.tickets]
kind = "servicenow"
url = "https://example.service-now.com"
user_env = "SN_USER"
password_env = "SN_PASSWORD"

[[routes]]
name = "costly"
receivers = ["pager", "hook"]
excess = { USD = "5" }
cooldown = "10 min"
escalate = [
    { excess = { USD = 50 }, severity = "error", receivers = ["boss"] },
    { excess = { USD = "200.50" }, severity = "critical" },
]
"""


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return loaded(tmp_path, POLICY)


def loaded(folder: Path, text: str, environment: dict[str, str] = SECRETS) -> Policy:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, environment)


def incident(**changes: Any) -> dict[str, Any]:
    opened = datetime(2026, 1, 1, 10, 33, tzinfo=UTC)
    return {
        "incident_id": "2026-01-01T10:30:00Z/payment/USD",
        "otel_service_name": "payment",
        "culprit_operation": "INSERT",
        "anomaly_kind": "latency_spike",
        "incident_state": "open",
        "opened_at": opened,
        "last_seen_at": opened + timedelta(minutes=5),
        "closed_at": None,
        "window_start": datetime(2026, 1, 1, 10, 30, tzinfo=UTC),
        "window_end": datetime(2026, 1, 1, 11, tzinfo=UTC),
        "anomalous_traces": 212,
        "affected_services": ["web"],
        "excess_cost": "12.400000000000",
        "billed_excess_cost": "0.000000000000",
        "excess_cost_per_hour": "148.8",
        "projected_monthly_cost": None,
        "billing_currency": "USD",
        "cost_status": "provisional",
        "evidence": "payment's INSERT takes 4.1× as long since 10:33 UTC; 212 traces; 12.40 USD above usual",
        "changes": [{"what": "version", "at": "2026-01-01T10:28:00Z", "from": "1.2", "to": "1.3"}],
        "exemplar_trace_ids": ["ab" * 16],
        "exemplar_urls": ["http://jaeger/trace/" + "ab" * 16],
        "feedback": None,
        "feedback_by": None,
        "is_silenced": False,
    } | changes


class Days:
    """A policy at work: what is told as time passes."""

    def __init__(self, policy: Policy, now: datetime = NOW) -> None:
        self.policy, self.now = policy, now
        self.told: dict[tuple[str, str], Told] = {}

    def look(self, *incidents: dict[str, Any], after: timedelta = timedelta()) -> list[tuple[str, str, str]]:
        """(receiver, event, severity) of what is told"""
        return [(m.receiver, m.event, m.severity) for m in self.messages(*incidents, after=after)]

    def messages(self, *incidents: dict[str, Any], after: timedelta = timedelta()) -> list[Message]:
        self.now += after
        ids = {of["incident_id"] for of in incidents}
        told = [
            of
            for of in self.told.values()
            if not of.is_over
            or of.incident_id in ids
            or any(i["window_start"] < of.window_end and i["window_end"] > of.window_start for i in incidents)
        ]
        decision = decide(self.policy, incidents, told, self.now)
        self.told |= {(of.route, of.thread): of for of in decision.told}
        return decision.messages


def both(event: str, severity: str, names: Sequence[str] = ("pager", "hook")) -> list[tuple[str, str, str]]:
    return [(name, event, severity) for name in names]


def closed(**changes: Any) -> dict[str, Any]:
    return incident(incident_state="closed", closed_at=datetime(2026, 1, 1, 11, 8, tzinfo=UTC), **changes)


ALL = ("pager", "hook", "boss")


def test_it_opens_once_escalates_once_a_step_is_restated_and_ends(policy: Policy) -> None:
    days = Days(policy)
    assert days.look(incident()) == both("opened", "warning")
    assert days.look(incident(), after=timedelta(hours=1)) == []
    assert days.look(incident(excess_cost="50")) == both("escalated", "error", ALL)
    assert days.look(incident(excess_cost="60"), after=timedelta(hours=1)) == []
    assert days.look(incident(excess_cost="60", cost_status="billed")) == both("restated", "error", ALL)
    assert days.look(incident(excess_cost="200.5", cost_status="billed")) == both("escalated", "critical", ALL)
    assert days.look(closed(excess_cost="1", cost_status="billed")) == both("resolved", "critical", ALL)
    assert days.look(closed(excess_cost="1", cost_status="billed"), after=timedelta(days=1)) == []


def test_two_steps_at_once_are_one_message(policy: Policy) -> None:
    assert Days(policy).look(incident(excess_cost="1000")) == both("opened", "critical", ALL)


def test_restatements_wait_for_the_cooldown_and_escalations_do_not(policy: Policy) -> None:
    days = Days(policy)
    days.look(incident())
    billed = {"cost_status": "billed"}
    assert days.look(incident(**billed), after=timedelta(minutes=9)) == []
    assert days.look(incident(excess_cost="55", **billed)) == both("escalated", "error", ALL)
    assert days.look(incident(excess_cost="55", cost_status="corrected"), after=timedelta(minutes=9)) == []
    later = days.look(incident(excess_cost="55", cost_status="corrected"), after=timedelta(minutes=1))
    assert later == both("restated", "error", ALL)


def test_a_bill_after_its_end_is_told_to_who_does_not_open_it_anew(policy: Policy) -> None:
    days = Days(policy)
    days.look(incident())
    days.look(closed())
    assert days.look(closed(cost_status="billed"), after=timedelta(hours=5)) == [("hook", "restated", "warning")]
    assert days.look(closed(cost_status="billed"), after=timedelta(hours=5)) == []


def test_what_opened_and_ended_while_nobody_looked_is_told_all_the_same(policy: Policy) -> None:
    assert Days(policy).look(closed()) == both("opened", "warning") + both("resolved", "warning")


def test_an_incident_that_is_seen_again_opens_again_under_its_name(policy: Policy) -> None:
    days = Days(policy)
    days.look(incident())
    days.look(closed())
    again = days.messages(incident(window_end=datetime(2026, 1, 1, 12, tzinfo=UTC)))
    assert {(m.event, m.thread) for m in again} == {("opened", incident()["incident_id"])}


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ({"excess_cost": "5.000000000000"}, True),
        ({"excess_cost": "4.999999999999"}, False),
        ({"excess_cost": None}, False),
        ({"billing_currency": "EUR"}, False),  # of which the route asks nothing
    ],
)
def test_less_than_the_least_money_is_told_to_nobody(policy: Policy, changes: dict, is_told: bool) -> None:
    assert bool(Days(policy).look(incident(**changes))) == is_told


@pytest.mark.parametrize(
    ("condition", "is_told"),
    [
        ('services = ["pay*"]', True),
        ('services = ["cart", "shop/*"]', False),
        ('teams = ["payments"]', True),
        ('kinds = ["retry_loop"]', False),
        ('statuses = ["billed", "corrected"]', False),
        ('billed_excess = { USD = "0.01" }', False),
        ('projected = { USD = "1" }', False),
    ],
)
def test_conditions(tmp_path: Path, condition: str, is_told: bool) -> None:
    policy = loaded(tmp_path, POLICY + condition)
    assert bool(Days(policy).look(incident())) == is_told


def test_a_route_of_a_budget_holds_while_that_will_not_last(tmp_path: Path) -> None:
    policy = loaded(tmp_path, POLICY + 'budgets = ["payments"]')
    for burning, is_told in ((set(), False), ({"others"}, False), ({"payments"}, True)):
        assert bool(decide(policy, [incident()], [], NOW, burning).messages) == is_told


def test_what_is_silenced_is_told_to_nobody_or_ended_and_told_when_it_no_longer_is(policy: Policy) -> None:
    assert Days(policy).look(incident(is_silenced=True)) == []
    days = Days(policy)
    days.look(incident())
    assert days.look(incident(is_silenced=True)) == both("resolved", "warning")
    assert days.look(incident(is_silenced=True)) == []
    assert days.look(incident()) == both("opened", "warning")


def test_quiet_hours_hold_what_is_not_urgent_and_tell_it_after_them(tmp_path: Path) -> None:
    quiet = 'quiet = { from = "22:00", to = "07:00", zone = "Europe/Berlin", below = "critical" }'
    policy = loaded(tmp_path, POLICY + quiet)
    days = Days(policy, datetime(2026, 1, 1, 21, 30, tzinfo=UTC))  # 22:30 in Berlin
    assert days.look(incident()) == []
    assert days.look(incident(), after=timedelta(hours=8)) == []
    assert days.look(incident(), after=timedelta(minutes=30)) == both("opened", "warning")
    night = Days(policy, datetime(2026, 1, 1, 21, 30, tzinfo=UTC))
    assert night.look(incident(excess_cost="500")) == both("opened", "critical", ALL)


# ---- identity ---------------------------------------------------------------------------------


EARLIER = {
    "incident_id": "2026-01-01T10:00:00Z/payment/USD",
    "window_start": datetime(2026, 1, 1, 10, tzinfo=UTC),
}


@pytest.mark.parametrize("between", [(), (incident(),), (incident(**EARLIER),), (incident(), incident(**EARLIER))])
def test_an_incident_that_gets_another_id_goes_on_under_the_one_that_was_told(policy: Policy, between: tuple) -> None:
    days = Days(policy)
    days.look(incident())
    assert days.look(*between) == []
    assert days.look(incident(**EARLIER), after=timedelta(seconds=20)) == []
    ended = days.messages(closed(**EARLIER))
    assert {(m.event, m.thread) for m in ended} == {("resolved", incident()["incident_id"])}
    assert days.look(closed(**EARLIER)) == []


def test_an_id_that_changes_after_the_end_is_nothing_new(policy: Policy) -> None:
    days = Days(policy)
    days.look(incident())
    days.look(closed())
    assert days.look(closed(**EARLIER)) == []
    [restated] = days.messages(closed(cost_status="billed", **EARLIER), after=timedelta(hours=5))
    assert (restated.event, restated.thread) == ("restated", incident()["incident_id"])


def test_what_the_table_has_no_more_is_withdrawn_after_a_moment(policy: Policy) -> None:
    days = Days(policy)
    days.look(incident())
    assert days.look() == []
    assert days.look(after=GRACE / 2) == []
    assert days.look(incident()) == []
    assert days.look() == []
    [message, _] = days.messages(after=GRACE)
    assert (message.event, message.incident["evidence"]) == (
        "resolved", "payment is well after all: what was told of it is withdrawn",
    )  # fmt: skip
    assert days.look(after=GRACE) == []


def test_other_culprits_and_currencies_are_other_incidents(policy: Policy) -> None:
    days = Days(policy)
    days.look(incident())
    other = incident(incident_id="2026-01-01T10:30:00Z/cart/USD", otel_service_name="cart")
    assert days.look(incident(), other) == both("opened", "warning")


def test_a_route_that_the_policy_lost_lets_go(policy: Policy) -> None:
    days = Days(policy)
    days.look(incident())
    days.policy = replace(policy, routes=(replace(policy.routes[0], name="other"),))
    assert days.look(incident()) == both("opened", "warning")
    assert days.look(closed()) == both("resolved", "warning")


# ---- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kind = "slack"', 'kind = "fax"', "receivers.boss.kind: 'fax' must be one of alertmanager"),
        ('"PD_KEY"', '"NO_KEY"', "receivers.pager.routing_key_env: NO_KEY is not set in the environment"),
        ('routing_key_env = "PD_KEY"', "", "receivers.pager.routing_key_env: is missing"),
        ('["pager", "hook"]', '["nobody"]', "routes[0].receivers: 'nobody' must be one of pager"),
        ('cooldown = "10 min"', 'cooldown = "soon"', "routes[0].cooldown: 'soon' must be as 30 s"),
        ('{ USD = "5" }', "{ USD = 5.1 }", 'routes[0].excess.USD: 5.1 is no amount, as "12.50"'),
        ('{ USD = "5" }', '{ USD = "NaN" }', "routes[0].excess.USD: 'NaN' is no amount"),
        ('severity = "error"', 'severity = "loud"', "routes[0].escalate[0].severity: 'loud' must be one of info"),
        ('{ USD = "5" }', '{ usd = "5" }', "routes[0].excess.usd: must be a currency's three capitals"),
        (
            "[[routes]]",
            '[[routes]]\nkinds = ["slow"]',
            "routes[0].kinds: 'slow' must be one of latency_spike, dependency",
        ),
        ("cooldown", "cooldwon", "routes[0].cooldwon: is not known, must be one of"),
        ('url = "http://127.0.0.1:9/hook"', 'url = "ftp://x"', "receivers.hook.url: must begin with http://"),
        ("[[routes]]", "[[rotes]]", "policy.rotes: is not known"),
        ("[receivers.pager]", "[receivers.pager", "Expected"),
    ],
)
def test_a_wrong_policy_names_the_file_and_the_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in POLICY
    with pytest.raises(UsageError) as error:
        loaded(tmp_path, POLICY.replace(old, new, 1))
    told = str(error.value)
    assert str(tmp_path / "policy.toml") in told and says in told and "\n" not in told


def test_the_policies_of_the_documentation_are_read(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "respond.md").read_text(encoding="utf-8")
    first, whole, actions = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    environment = {name: f"https://{name}" for name in re.findall(r'_env = "(\w+)"', text)}
    assert [route.name for route in loaded(tmp_path, first, environment).routes] == ["costly"]
    policy = loaded(tmp_path, whole + actions, environment)
    assert sorted(of.kind for of in policy.receivers.values()) == sorted(KINDS)
    assert [action.is_dry_run for action in policy.actions] == [True, True]


def test_secrets_are_never_shown(policy: Policy) -> None:
    assert not any(secret in repr(policy) for secret in ("k" * 32, "s3cret", "pw'"))


# ---- the words --------------------------------------------------------------------------------


def sent(policy: Policy, name: str, event: str = "opened", severity: str = "warning", **changes: Any) -> tuple:
    message = Message(name, "costly", "2026-01-01T10:30:00Z/payment/USD", event, severity, queued(**changes))
    wanted = request(policy.receivers[name], message, 7, NOW)
    return wanted, orjson.loads(wanted.body)


def queued(**changes: Any) -> dict[str, Any]:
    """As the queue has it: JSON."""
    return orjson.loads(orjson.dumps(incident(**changes)))


def test_pagerduty_gets_a_trigger_and_a_resolve_under_one_key(policy: Policy) -> None:
    wanted, opened = sent(policy, "pager", severity="error")
    assert wanted.url == "https://events.pagerduty.com/v2/enqueue"
    assert (opened["event_action"], opened["routing_key"]) == ("trigger", "k" * 32)
    assert opened["payload"]["severity"] == "error"
    assert opened["payload"]["summary"].startswith("payment's INSERT takes 4.1× as long")
    assert opened["payload"]["custom_details"]["excess_cost"] == "12.400000000000"
    assert opened["payload"]["custom_details"]["changes"] == ["version 1.2 to 1.3 at 2026-01-01T10:28:00Z"]
    assert opened["links"][0]["href"].startswith("http://jaeger/trace/")
    _, ended = sent(policy, "pager", "resolved")
    assert (ended["event_action"], ended["dedup_key"]) == ("resolve", opened["dedup_key"])
    assert "payload" not in ended


def test_an_alert_lasts_and_a_more_urgent_one_takes_its_place(policy: Policy) -> None:
    wanted, [alert] = sent(policy, "alerts")
    assert wanted.url == "http://127.0.0.1:9093/api/v2/alerts"
    assert alert["labels"]["severity"] == "warning"
    assert datetime.fromisoformat(alert["endsAt"]) == NOW + ALERT_LASTS
    assert alert["startsAt"] == "2026-01-01T10:33:00+00:00"
    assert all(isinstance(value, str) for value in alert["annotations"].values())
    _, alerts = sent(policy, "alerts", "escalated", "critical")
    lasts = {a["labels"]["severity"]: datetime.fromisoformat(a["endsAt"]) > NOW for a in alerts}
    assert lasts == {"info": False, "warning": False, "error": False, "critical": True}
    _, alerts = sent(policy, "alerts", "resolved", "critical")
    assert len(alerts) == 4 and all(datetime.fromisoformat(a["endsAt"]) == NOW for a in alerts)


def test_servicenow_gets_an_event_and_a_closing_one(policy: Policy) -> None:
    wanted, opened = sent(policy, "tickets", severity="critical")
    [record] = opened["records"]
    assert wanted.url.endswith("/api/global/em/jsonv2") and wanted.login == ("ann", "pw")
    assert (record["severity"], record["resolution_state"], record["node"]) == ("1", "New", "payment")
    [ended] = sent(policy, "tickets", "resolved")[1]["records"]
    assert (ended["severity"], ended["resolution_state"]) == ("0", "Closing")
    assert ended["message_key"] == record["message_key"]


# An incident whose texts are as long as they may be, and hostile.
LONG = {
    "otel_service_name": "s" * 300,
    "culprit_operation": "GET /" + "x" * 5_000,
    "evidence": "<!channel> & " * 500,
    "changes": orjson.dumps([
        {"what": "version", "from": f"{number}<b>", "to": "&" * 50, "at": "2026-01-01T10:28:00Z"}
        for number in range(200)
    ]).decode(),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "error"), [("pager", pagerduty_error), ("tickets", servicenow_error), ("boss", slack_error)]
)
def test_a_receiver_finds_nothing_wrong_in_what_it_gets(
    policy: Policy, name: str, error: Callable[[Any], str | None]
) -> None:
    for event, severity, of in product(EVENTS, SEVERITIES, ({}, LONG, {"changes": "[]", "exemplar_urls": []})):
        body = sent(policy, name, event, severity, **of)[1]
        assert error(body) is None, (event, severity, of)


def test_what_a_receiver_would_refuse_is_found(policy: Policy) -> None:
    """The test above would pass on one that takes all."""
    [record] = sent(policy, "tickets")[1]["records"]
    for wrong in ({"severity": "6"}, {"severity": 1}, {"node": "n" * 101}, {"resolution_state": "Open"}, {"cost": "1"},
                  {"time_of_event": "2026-01-01T10:30:00Z"}, {"additional_info": "[]"}, {"source": ""}):  # fmt: skip
        assert servicenow_error({"records": [record | wrong]}), wrong
    assert servicenow_error([record]) and servicenow_error({"records": []})
    for text in ("", "a <b>", "a & b", "<javascript:x|y>", "x" * 4_001):
        assert slack_error({"text": text}), text
    assert slack_error({"text": "a", "channel": "#b"}) and slack_error({"texts": "a"})


def test_a_hostile_name_mentions_nobody_in_a_chat(policy: Policy) -> None:
    wanted, body = sent(policy, "boss", evidence="<!channel> <http://evil|click> & more")
    assert wanted.url == "https://chat/T/B"
    assert "&lt;!channel&gt; &lt;http://evil|click&gt; &amp; more" in body["text"]
    assert body["text"].count("<") == 1  # the link to a trace


def test_a_webhook_is_signed_and_the_same_when_it_is_sent_again(policy: Policy) -> None:
    wanted, event = sent(policy, "hook", "restated")
    assert (event["specversion"], event["type"], event["id"]) == ("1.0", "anomaly_cost.incident.restated", "7")
    assert event["subject"] == "2026-01-01T10:30:00Z/payment/USD"
    signature = hmac.new(b"s3cret", wanted.body, hashlib.sha256).hexdigest()
    assert wanted.headers["X-Signature-256"] == f"sha256={signature}"
    assert sent(policy, "hook", "restated")[0] == wanted


def asked(policy: Policy, key: str) -> Any:
    """What a webhook is asked for by an action."""
    row = {"otel_service_name": "payment", "incident_id": "2026-01-01T10:30:00Z/payment/USD", "why": "it is dear",
           "figures": {"excess_cost": "12.4"}, "requested_at": NOW}  # fmt: skip
    return asks(policy.receivers["hook"], "limit", "limit=100", row, key)


def test_a_reader_of_cloudevents_reads_what_a_webhook_gets(policy: Policy) -> None:
    """The SDK that publishes the specification's rules for Python: it refuses what breaks them."""
    subject = "2026-01-01T10:30:00Z/payment/USD"
    wanted = [(sent(policy, "hook", of)[0], f"anomaly_cost.incident.{of}", "7") for of in EVENTS]
    wanted += [
        (asked(policy, f"7{of}"), f"anomaly_cost.action.{what}", f"7{of}")
        for of, what in (("", "do"), ("/undo", "undo"))
    ]
    for request_, kind, id_ in wanted:
        event = from_http_event(HTTPMessage(dict(request_.headers), request_.body))
        assert (event.get_type(), event.get_id(), event.get_subject()) == (kind, id_, subject)
        assert (event.get_specversion(), event.get_source()) == ("1.0", "/anomaly-cost/respond")
        assert event.get_time() == NOW and event.get_datacontenttype() == "application/json"
        assert event.get_data() == orjson.loads(request_.body)["data"]


@pytest.mark.parametrize("wrong", [{"source": ""}, {"id": None}, {"subject": ""}, {"an_extension": "x"}])
def test_a_reader_of_cloudevents_refuses_what_breaks_the_rules(policy: Policy, wrong: dict[str, Any]) -> None:
    request_, event = sent(policy, "hook")
    with pytest.raises(CloudEventValidationError):
        from_http_event(HTTPMessage(dict(request_.headers), orjson.dumps(event | wrong)))


class _Session:
    """Answers as it is told."""

    def __init__(self, status: int, text: str = "", **headers: str) -> None:
        self.status_code, self.text = status, text
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def post(self, url: str, **_: Any) -> _Session:
        return self


@pytest.mark.parametrize(
    ("session", "taken", "is_final", "retry_after_s"),
    [
        (_Session(202), True, False, None),
        (_Session(400, "invalid event"), False, True, None),
        (_Session(429, Retry_After="17"), False, False, 17.0),
        (_Session(503, Retry_After="Thu, 01 Jan 2026 10:41:00 GMT"), False, False, 60.0),
        (_Session(503, Retry_After="soon"), False, False, None),
        (_Session(302), False, True, None),
    ],
)
def test_answers(policy: Policy, session: _Session, taken: bool, is_final: bool, retry_after_s: float | None) -> None:
    wanted, _ = sent(policy, "hook")
    answer = post(policy.receivers["hook"], wanted, session, NOW)
    assert (answer.taken, answer.is_final, answer.retry_after_s) == (taken, is_final, retry_after_s)


def test_an_error_holds_no_secret(policy: Policy) -> None:
    wanted, _ = sent(policy, "boss")
    answer = post(policy.receivers["boss"], wanted, _Session(404, "no such hook https://chat/T/B"), NOW)
    assert answer.error == "slack answers 404 no such hook ***"
