"""Topics that are missing: the job warns, and runs without them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.literal import MINUTE_MS, NOON_MS, resource, span, span_request
from tests.services import Broker, Database, kafka_broker
from tests.streamed import UNHURRIED, Producer, empty, end, ended, start, stored, wait

pytestmark = pytest.mark.services

TRACES = 20
WARNING = "no topic otlp_metrics, otlp_logs, focus_charges: running without"


@pytest.fixture
def spans_alone() -> Iterator[Broker]:
    with kafka_broker() as running:
        running.create_topic("otlp_spans", 2)
        to = Producer(running)
        for number in range(1, TRACES + 1):
            traced = span(number, number, None, NOON_MS + number * MINUTE_MS, 20)
            to.send("otlp_spans", json.dumps(span_request((resource("cart"), [traced]))).encode())
        to.flush()
        to.close()
        yield running


def test_spans_alone_are_judged_with_an_end_and_without(
    job, spans_alone: Broker, database: Database, capfd: pytest.CaptureFixture
) -> None:
    tables = job(spans_alone.url, "detector=usual")
    assert WARNING in capfd.readouterr().err
    assert len(tables["trace_verdicts"]) == TRACES

    empty(database)
    process = start("--input", spans_alone.url, "--output", database.url, "--set", "detector=usual",
                    "--set", "idle.after=5 s", *UNHURRIED)  # fmt: skip
    try:
        wait("verdicts", lambda: len(stored(database)["trace_verdicts"]) >= TRACES, ended(process))
    finally:
        end(process)
