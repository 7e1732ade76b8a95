"""What changed at a service: another version, other pods; and how a span's resource comes to tell it."""

from __future__ import annotations

import pickle

import numpy as np
import orjson

from udfs.pure import assemble
from udfs.pure.assemble import SEPARATOR
from udfs.pure.baseline import Vocabulary
from udfs.pure.frame import Frame
from udfs.pure.otlp import collect_spans
from udfs.pure.pods import CHANGES_MINUTES, Pods
from udfs.pure.windows import MINUTE_MS

START_MS = 1_767_225_600_000


class Days:
    """Minutes of a service's pods, named with their versions."""

    def __init__(self) -> None:
        self.pods, self.services, self.minute = Pods(), Vocabulary(), 0

    def run(self, minutes: int, **versions: str) -> list:
        for _ in range(minutes):
            self.minute += 1
            now_ms = START_MS + self.minute * MINUTE_MS
            names = [f"pay{SEPARATOR}{pod}" for pod in versions]
            self.services.see(["pay"], now_ms)
            self.pods.enter(now_ms, names, [""] * len(names), self.services, list(versions.values()))
        return self.changes()

    def uses(self, minutes: int, *names: str) -> None:
        """Minutes of usage alone."""
        for _ in range(minutes):
            self.minute += 1
            self.pods.hear(START_MS + self.minute * MINUTE_MS, [f"pay{SEPARATOR}{name}" for name in names])

    def is_renewed(self, **spans: int) -> bool:
        """By so many spans of each pod in this minute."""
        now_ms = START_MS + self.minute * MINUTE_MS
        pod = np.repeat([self.pods.names.get(f"pay{SEPARATOR}{name}") for name in spans], list(spans.values()))
        return bool(self.pods.renewed(now_ms, pod, np.zeros(len(pod), int), np.array([START_MS]))[0])

    def changes(self) -> list:
        """(what, minutes ago, from, to)"""
        now_ms = START_MS + self.minute * MINUTE_MS
        found = self.pods.changes(now_ms).get("pay", [])
        return [(what, (now_ms - at_ms) // MINUTE_MS, before, after) for what, at_ms, before, after in found]


def test_nothing_changed_is_nothing_told() -> None:
    days = Days()
    assert days.run(200, a="1.2", b="1.2") == []


def test_a_release_is_told_once_with_both_versions_though_pods_come_one_by_one() -> None:
    days = Days()
    days.run(90, a="1.2", b="1.2")
    days.run(3, a="1.2", b="1.2", c="1.3")
    days.run(4, b="1.2", c="1.3", d="1.3")
    assert days.changes() == [("version", 6, "1.2", "1.3"), ("pods", 6, 2, 4)]
    days.run(CHANGES_MINUTES, c="1.3", d="1.3")
    assert days.changes() == []


def test_a_release_is_known_by_another_version_at_once_and_by_pods_that_fall_silent() -> None:
    days = Days()
    days.run(40, a="1.2", b="1.2")
    days.run(1, a="1.2", b="1.2", c="1.3")
    assert days.is_renewed(a=5, c=5)
    assert not days.is_renewed(a=9, c=1)  # a few requests to try it
    days.run(40, a="1.2", c="1.3")
    assert not days.is_renewed(a=5, c=5)  # it has become one of two
    days.run(1, a="1.2", c="1.3", d="1.3")
    assert not days.is_renewed(a=5, d=5)  # more of the same

    days = Days()
    days.run(90, a="", b="")
    days.run(2, a="", c="")
    assert not days.is_renewed(a=5, c=5)
    days.run(2, a="", c="")
    assert days.is_renewed(a=5, c=5)


def test_a_roll_back_is_a_change_too_and_so_is_a_version_under_the_same_pod() -> None:
    days = Days()
    days.run(90, a="1.2")
    days.run(2, a="1.3")
    assert days.changes() == [("version", 1, "1.2", "1.3")]
    days.run(70, a="1.3")
    assert days.run(1, a="1.2") == [("version", 0, "1.3", "1.2")]


def test_pods_that_tell_no_version_are_counted() -> None:
    days = Days()
    days.run(90, a="", b="")
    assert days.run(5, a="", b="", c="", d="") == [("pods", 4, 2, 4)]


def test_a_service_that_is_seen_first_has_not_changed() -> None:
    assert Days().run(5, a="1.2", b="1.3") == []


def test_what_was_kept_by_an_earlier_release_goes_on() -> None:
    days = Days()
    days.run(90, a="")
    state = {name: value for name, value in days.pods.__dict__.items() if name not in ("_version", "_changes")}
    days.pods = Pods.__new__(Pods)
    days.pods.__setstate__(state)
    days.pods = pickle.loads(pickle.dumps(days.pods))
    assert days.run(2, a="1.2", b="1.2") == [("pods", 1, 1, 2)]


def test_what_is_forgotten_is_forgotten_whole() -> None:
    days = Days()
    days.run(90, a="1.2")
    days.run(2, b="1.3")
    days.pods.forget(START_MS + 91 * MINUTE_MS, days.pods.service[:0])
    assert [name[-1] for name in days.pods.names.names] == ["b"]
    assert days.run(1, b="1.4", c="1.4") == [
        ("version", 2, "1.2", "1.3"), ("pods", 2, 1, 2), ("version", 0, "1.3", "1.4"),
    ]  # fmt: skip


def test_a_resource_s_version_comes_to_the_frame() -> None:
    span = {
        "traceId": "ab" * 16, "spanId": "cd" * 8, "name": "GET /", "kind": 2,
        "startTimeUnixNano": str(START_MS * 10**6), "endTimeUnixNano": str(START_MS * 10**6 + 5_000_000),
    }  # fmt: skip

    def request(span_id: str, **attributes: str) -> bytes:
        pairs = [{"key": key.replace("_", "."), "value": {"stringValue": value}} for key, value in attributes.items()]
        spans = [{"spans": [span | {"spanId": span_id * 8}]}]
        return orjson.dumps({"resourceSpans": [{"resource": {"attributes": pairs}, "scopeSpans": spans}]})

    requests = (
        request("01", service_name="pay", service_version="1.3", k8s_pod_uid="p"),
        request("02", service_name="pay", k8s_pod_uid="q"),
    )
    [parts] = [[fragment for line in requests for fragment in collect_spans(line)[0].values()]]
    packed = {assemble.assemble("ab" * 16, order)[1] for order in (parts, parts[::-1])}
    assert len(packed) == 1
    frame = Frame([assemble.unpack(packed.pop())])
    assert dict(zip(frame.pods, frame.versions, strict=True)) == {f"pay{SEPARATOR}p": "1.3", f"pay{SEPARATOR}q": ""}


def test_usage_tells_of_pods_while_nobody_is_asked() -> None:
    days = Days()
    days.run(90, a="", b="")
    days.uses(40, "a", "b", "of nobody that traces named")
    days.run(4, c="")
    assert days.is_renewed(c=5)  # who was there until a moment ago is gone

    days = Days()
    days.run(90, a="", b="")
    for _ in range(4):
        days.uses(1, "a", "b")
        days.run(1, c="")
    assert not days.is_renewed(c=5)  # who wasn't asked is not gone
