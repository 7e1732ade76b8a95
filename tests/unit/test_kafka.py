"""What the engine's Kafka tables are told: where to begin, who is there, and what is read side by side."""

from __future__ import annotations

import pytest

from jobs.errors import UsageError
from jobs.kafka import TOPICS, KafkaInput, client_properties

TELEMETRY = {"otlp_spans", "otlp_metrics", "otlp_logs"}
GROUP = "scan.watermark.alignment.group"


def options(topic: str, **of: object) -> dict[str, str]:
    return KafkaInput("h:9092", **of).options(topic)


def test_telemetry_without_end_is_read_side_by_side_and_bills_are_not_waited_for() -> None:
    assert {topic for topic in TOPICS if GROUP in options(topic)} == TELEMETRY
    assert all("scan.watermark.idle-timeout" in options(topic) for topic in TELEMETRY)
    assert not any(GROUP in options(topic, bounded=True) for topic in TOPICS)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("earliest", {"scan.startup.mode": "earliest-offset"}),
        ("latest", {"scan.startup.mode": "latest-offset"}),
        ("group", {"scan.startup.mode": "group-offsets", "properties.auto.offset.reset": "earliest"}),
        (
            "2025-03-03T01:00:00+01:00",
            {"scan.startup.mode": "timestamp", "scan.startup.timestamp-millis": "1740960000000"},
        ),
    ],
)
def test_reading_begins_where_it_is_told_to(start: str, expected: dict[str, str]) -> None:
    assert expected.items() <= options("otlp_spans", start=start).items()


@pytest.mark.parametrize(("start", "why"), [("yesterday", "must be"), ("2025-03-03T01:00", "time zone")])
def test_a_start_that_says_nothing_is_told(start: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        options("otlp_spans", start=start)


def test_secrets_come_from_the_environment_and_are_shown_nowhere() -> None:
    environment = {"KAFKA_USERNAME": "job", "KAFKA_PASSWORD": 'a"b\\c', "KAFKA_SSL_TRUSTSTORE_PASSWORD": "xyz"}
    found = client_properties({"ssl.truststore.location": "/t"}, environment)
    assert found["sasl.jaas.config"].endswith('required username="job" password="a\\"b\\\\c";')
    assert (found["security.protocol"], found["sasl.mechanism"]) == ("SASL_SSL", "PLAIN")
    assert found["ssl.truststore.password"] == "xyz"
    assert "xyz" not in repr(KafkaInput("h:9092", properties=found))
    for settings in ({"ssl.key.password": "x"}, {"sasl.jaas.config": "x"}, {"sasl.mechanism": "GSSAPI"}):
        with pytest.raises(UsageError):
            client_properties(settings, environment)
