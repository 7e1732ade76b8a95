"""collect: requests that come together are fewer fragments, of the same spans, points, records, owners and rejects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import reduce
from types import SimpleNamespace
from typing import NamedTuple

import orjson
import pandas as pd
import pytest

from tests.literal import MINUTE_MS, NOON_MS, cpu_gauge, resource, span, span_request
from tests.unit.keyed_stage import Metrics
from udfs import collect
from udfs.pure import otlp
from udfs.pure.assemble import assemble
from udfs.pure.meter import meter
from udfs.pure.resources import NO_ALIASES

OWNERS = [resource("cart", "cart-1", "node-1"), resource("pay", "pay-1", "node-2")]
# The last is a message of Kafka's without a value.
UNUSABLE = [b"{ not json", b"\n", None]
TRACES, MINUTES = range(1, 11), range(10)


def log_request(owner: dict, *records: dict) -> dict:
    return {"resourceLogs": [{"resource": owner, "scopeLogs": [{"logRecords": records}]}]}


def log(trace: int) -> dict:
    return {"timeUnixNano": str(NOON_MS * 1_000_000 + trace), "traceId": f"{trace:032x}", "severityNumber": 17}


class Stream(NamedTuple):
    """A function of requests, requests of two services, and what is made of the fragments of a key."""

    function: object
    requests: list[dict]
    read: Callable[[str, list[bytes]], object]
    counted: dict[str, int]


STREAMS = {
    "spans": Stream(
        collect.collect_spans(NO_ALIASES)._func,
        [
            span_request((owner, [span(trace, number, number - 1 or None, NOON_MS + trace, 5)]))
            for trace in TRACES
            for number, owner in enumerate(OWNERS, 1)
        ],
        assemble,
        {"spans_in": 20},
    ),
    "metrics": Stream(
        collect.collect_metrics(NO_ALIASES)._func,
        [cpu_gauge(owner, [(NOON_MS + minute * MINUTE_MS, 0.1 * minute)]) for minute in MINUTES for owner in OWNERS],
        lambda consumer, parts: meter(int(consumer.split(otlp.SEPARATOR)[0]), parts),
        {"usage_points_in": 20},
    ),
    "logs": Stream(
        collect.collect_logs._func,
        [log_request(owner, log(trace), {"body": {}}) for trace in TRACES for owner in OWNERS],
        lambda _, parts: sorted(record for part in parts for record in orjson.loads(part)[1]),
        {},
    ),
}


@pytest.fixture(params=STREAMS)
def stream(request: pytest.FixtureRequest) -> Stream:
    return STREAMS[request.param]


def collected(stream: Stream, batches: list[list[bytes | None]]) -> tuple[dict, dict, set, Metrics, int]:
    """What is read of all fragments, the pods' owners, rejects, what was counted, and how many fragments there are."""
    metrics = Metrics()
    stream.function.open(SimpleNamespace(get_metrics_group=lambda: metrics))
    fragments, pods, rejects = defaultdict(list), defaultdict(list), set()
    for batch in batches:
        found = stream.function.eval(pd.Series(batch, dtype=object))
        assert len(found) == len(batch)
        for row in found.to_dict("records"):
            rejects.update(row["rejects"])
            for key, fragment in row["fragments"].items():
                fragments[key].append(fragment)
            for pod, claim in row.get("pods", {}).items():
                pods[pod].append(claim)
    owners = {pod: reduce(otlp.merge_owner, claims) for pod, claims in pods.items()}
    read = {key: stream.read(key, parts) for key, parts in fragments.items()}
    return read, owners, rejects, metrics, sum(map(len, fragments.values()))


def test_it_has_no_say_which_requests_come_together(stream: Stream) -> None:
    """... but in how many fragments go on; what can't be used spoils nothing beside it."""
    requests = [orjson.dumps(request) for request in stream.requests]
    requests[5:5] = UNUSABLE
    apart = collected(stream, [[request] for request in requests])
    for batches in ([requests], [requests[:7], requests[7:]], [requests[::-1]]):
        together = collected(stream, batches)
        assert together[:3] == apart[:3]
        assert together[3].counters.items() >= stream.counted.items()
        assert together[4] < apart[4]
    assert apart[0] and apart[2]


def test_together_they_are_no_longer_than_one_may_be(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the engine's holds what they say."""
    requests = [orjson.dumps(request) for request in stream.requests]
    apart = collected(stream, [[request] for request in requests])
    monkeypatch.setattr(otlp, "MAX_REQUEST_BYTES", max(map(len, requests)))
    assert collected(stream, [requests])[4] == apart[4]
    monkeypatch.setattr(otlp, "MAX_REQUEST_BYTES", 4 * max(map(len, requests)))
    rows = stream.function.eval(pd.Series(requests, dtype=object))
    assert 4 <= sum(map(bool, rows["fragments"])) <= len(requests) / 3
