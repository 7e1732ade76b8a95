"""An HTTP receiver on loopback for tests: it takes what is posted, or refuses, goes away and comes back."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """Takes JSON by POST. ``taken``: (path, headers, body) of what was taken, in order.

    Attributes:
        check: says what is wrong with a body, None = nothing; what is wrong is answered by 400.
        status: what is answered where nothing is wrong.
        answers: whether it does; if not, it takes what is posted and hangs up.
    """

    def __init__(self, check: Callable[[Any], str | None] = lambda body: None) -> None:
        self.check, self.status, self.answers = check, 202, True
        self.taken: list[tuple[str, dict[str, str], Any]] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bodies(self) -> list[Any]:
        """Of what was taken."""
        with self._lock:
            return [body for _, _, body in self.taken]

    def start(self) -> None:
        """Listen, on the port of the last time."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                wrong = receiver.check(body)
                status = 400 if wrong else receiver.status
                if status < 300:
                    with receiver._lock:
                        receiver.taken.append((self.path, dict(self.headers), body))
                if not receiver.answers:
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write((wrong or "").encode())

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Go away: who connects is refused."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wait_for(self, condition: Callable[[list[Any]], object], patience_s: float = 120) -> None:
        """Until what was taken is as wanted."""
        until = time.monotonic() + patience_s
        while not condition(self.bodies):
            assert time.monotonic() < until, f"after {patience_s} s there is {self.bodies}"
            time.sleep(0.05)


# Events API v2, "Send an Event": https://developer.pagerduty.com/docs/events-api-v2-overview
_ACTIONS = ("trigger", "acknowledge", "resolve")
_SEVERITIES = ("critical", "error", "warning", "info")


def pagerduty_error(event: Any) -> str | None:
    """What PagerDuty would refuse an event for."""
    if len(event.get("routing_key", "")) != 32:
        return "routing_key must have 32 characters"
    if event.get("event_action") not in _ACTIONS:
        return "event_action must be trigger, acknowledge or resolve"
    if not 0 < len(event.get("dedup_key", "")) <= 255:
        return "dedup_key must have 1 to 255 characters"
    if event["event_action"] == "trigger":
        payload = event.get("payload", {})
        if not 0 < len(payload.get("summary", "")) <= 1024:
            return "payload.summary must have 1 to 1024 characters"
        if not payload.get("source"):
            return "payload.source is missing"
        if payload.get("severity") not in _SEVERITIES:
            return "payload.severity is none of the four"
        if not isinstance(payload.get("custom_details", {}), dict):
            return "payload.custom_details must be an object"
        if any(set(link) - {"href", "text"} or not link.get("href") for link in event.get("links", [])):
            return "links must have a href and may have a text"
    return None


# "Event field format for event collection", and the web service's fields, in ServiceNow's product documentation.
_EVENT_FIELDS = {
    "source": 100, "event_class": 100, "node": 100, "type": 100, "resource": 100, "message_key": 1024, "severity": 1,
    "resolution_state": 10, "time_of_event": 19, "description": 4000, "additional_info": 1 << 16,
}  # fmt: skip


def servicenow_error(body: Any) -> str | None:
    """What ServiceNow's event management would refuse events for, or cut."""
    if not isinstance(body, dict) or set(body) != {"records"} or not body["records"]:
        return "records must be a list of events, and all that is there"
    for event in body["records"]:
        if unknown := set(event) - set(_EVENT_FIELDS):
            return f"em_event has no field {sorted(unknown)[0]}"
        for name, text in event.items():
            if not isinstance(text, str) or len(text) > _EVENT_FIELDS[name]:
                return f"{name} must be text of at most {_EVENT_FIELDS[name]} characters"
        if not (event.get("source") and event.get("message_key") and (event.get("node") or event.get("event_class"))):
            return "source, message_key, and node or event_class must be told"
        if event.get("severity") not in tuple("012345"):
            return "severity must be 0 to 5"
        if event.get("resolution_state") not in ("New", "Closing"):
            return "resolution_state must be New or Closing"
        try:
            datetime.strptime(event["time_of_event"], "%Y-%m-%d %H:%M:%S")
        except (KeyError, ValueError):
            return "time_of_event must be like 2026-01-01 10:30:00"
        if not isinstance(json.loads(event.get("additional_info", "{}")), dict):
            return "additional_info must be a JSON object as text"
    return None


def slack_error(body: Any) -> str | None:
    """What Slack would refuse a message of an incoming webhook for, split or cut: "Truncating really long messages",
    "Formatting text for app surfaces"."""
    text = body.get("text")
    if set(body) != {"text"} or not isinstance(text, str) or not text.strip():
        return "text is missing"
    if len(text) > 4_000:
        return "text has over 4,000 characters"
    if re.search("[<>]", re.sub(r"<https?://[^<>|\s]+\|[^<>|]+>", "", text)):
        return "a < or > outside of a link is not escaped"
    if re.search(r"&(?!amp;|lt;|gt;)", re.sub(r"<[^>]*>", "", text)):
        return "an & outside of a link is not escaped"
    return None
