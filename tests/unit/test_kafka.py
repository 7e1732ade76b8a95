"""What the engine's Kafka tables are told: where to begin, who is there, and what is read side by side."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from pathlib import Path

import certifi
import pytest
from kafka.errors import KafkaConnectionError, KafkaTimeoutError

from jobs import source
from jobs.errors import JobError, UsageError
from jobs.kafka import (
    TOPICS,
    Extent,
    KafkaInput,
    check,
    client_properties,
    client_settings,
    producer,
    python_settings,
)

TELEMETRY = {"otlp_spans", "otlp_metrics", "otlp_logs"}
GROUP = "scan.watermark.alignment.group"


def options(topic: str, **of: object) -> dict[str, str]:
    return KafkaInput("h:9092", **of).options(topic)


def test_telemetry_without_end_is_read_side_by_side_and_bills_are_not_waited_for() -> None:
    assert {topic for topic in TOPICS if GROUP in options(topic)} == TELEMETRY
    assert all("scan.watermark.idle-timeout" in options(topic) for topic in TELEMETRY)
    extents = dict.fromkeys(TOPICS, Extent({0: 1}))
    assert not any(GROUP in options(topic, bounded=True, extents=extents) for topic in TOPICS)


def test_what_ends_is_read_to_offsets_that_are_known() -> None:
    """A start that another run of the group could move is known, too."""
    extents = {"otlp_spans": Extent({1: 40, 0: 3}), "otlp_logs": Extent({0: 7}, {0: 5})}
    spans = options("otlp_spans", bounded=True, extents=extents)
    assert (spans["scan.bounded.mode"], spans["scan.startup.mode"]) == ("specific-offsets", "earliest-offset")
    assert spans["scan.bounded.specific-offsets"] == "partition:0,offset:3;partition:1,offset:40"
    logs = options("otlp_logs", start="group", bounded=True, extents=extents)
    assert logs["scan.startup.specific-offsets"] == "partition:0,offset:5"
    assert (logs["scan.startup.mode"], logs["scan.bounded.specific-offsets"]) == (
        "specific-offsets",
        "partition:0,offset:7",
    )


class _Client:
    """Of a broker that has ``topics``, or doesn't tell them."""

    topics_: Collection[str] | Exception = ()
    closed = 0

    def __init__(self, **settings: object) -> None:
        pass

    def topics(self) -> Collection[str]:
        if isinstance(self.topics_, Exception):
            raise self.topics_
        return self.topics_

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[_Client]:
    fresh = type("Client", (_Client,), {})
    monkeypatch.setattr("kafka.KafkaConsumer", fresh)
    return fresh


def test_a_broker_that_tells_no_topics_is_told_in_one_line(client: type[_Client]) -> None:
    client.topics_ = KafkaTimeoutError("no metadata\nin time")
    with pytest.raises(JobError) as caught:
        check(KafkaInput("h:9092"))
    assert str(caught.value) == "kafka://h:9092: no broker answers (KafkaTimeoutError)"
    assert client.closed == 1


@pytest.mark.parametrize("bounded", [True, False])
def test_a_missing_topic_is_a_warning(client: type[_Client], bounded: bool, capsys: pytest.CaptureFixture) -> None:
    """... but for the spans, without which there is nothing to do."""
    client.topics_ = {"otlp_spans", "focus_charges"}
    check(KafkaInput("h:9092", bounded=bounded))
    (line,) = capsys.readouterr().err.splitlines()
    assert "no topic otlp_metrics, otlp_logs" in line and ("until it is there" in line) != bounded
    client.topics_ = TOPICS
    check(KafkaInput("h:9092", bounded=bounded))
    assert capsys.readouterr().err == ""
    client.topics_ = set(TOPICS) - {"otlp_spans"}
    with pytest.raises(JobError, match="no topic otlp_spans; create it"):
        check(KafkaInput("h:9092", bounded=bounded))


def test_a_missing_topic_is_waited_for_and_by_what_ends_left_out() -> None:
    assert [topic for topic in TOPICS if "topic-pattern" in options(topic)] == list(TOPICS[1:])
    made: list[str] = []

    class Environment:
        execute_sql = made.append

    ends = KafkaInput("h:9092", bounded=True, extents={"otlp_spans": Extent({0: 1})})
    source.create(Environment(), ends, "EffectiveCost", None)
    spans, *others = made
    assert "'topic' = 'otlp_spans'" in spans
    assert len(others) == len(TOPICS) - 1 + len(["rejected_files"]) and not any(
        "connector" in statement for statement in others
    )


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


@pytest.mark.parametrize(("start", "why"), [("yesterday", "must be"), ("2025-03-03T01:00", "time and its zone")])
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


# ---- the same login for clients in Python ------------------------------------------------------

LOGIN = {"KAFKA_USERNAME": "job", "KAFKA_PASSWORD": 'a"b\\c'}


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """One of the public ones, as PEM."""
    end = "-----END CERTIFICATE-----\n"
    path = tmp_path / "ca.pem"
    path.write_text(Path(certifi.where()).read_text(encoding="ascii").partition(end)[0] + end, encoding="ascii")
    return path


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_client_in_python_logs_in_as_the_engine_s_does(mechanism: str) -> None:
    settings = client_settings([f"kafka.sasl.mechanism={mechanism}", "kafka.security.protocol=SASL_PLAINTEXT"])
    assert python_settings(settings, LOGIN) == {
        "sasl_mechanism": mechanism, "security_protocol": "SASL_PLAINTEXT",
        "sasl_plain_username": "job", "sasl_plain_password": 'a"b\\c',
    }  # fmt: skip
    engine_s = client_properties(settings, LOGIN)
    assert (engine_s["sasl.mechanism"], engine_s["security.protocol"]) == (mechanism, "SASL_PLAINTEXT")


def test_without_settings_a_client_is_as_it_is() -> None:
    assert python_settings({}, {}) == {}


def test_settings_of_a_client_in_python_have_its_types() -> None:
    pairs = ["kafka.linger.ms=20", "kafka.acks=all", "kafka.client.id=7", "kafka.enable.idempotence=false"]
    assert python_settings(client_settings(pairs), {}) == {
        "linger_ms": 20, "acks": "all", "client_id": "7", "enable_idempotence": False,
    }  # fmt: skip


def test_tls_trusts_what_the_store_holds_and_nobody_else(certificates: Path) -> None:
    settings = {"ssl.truststore.location": str(certificates), "ssl.truststore.type": "PEM"}
    found = python_settings(settings, LOGIN)
    context = found.pop("ssl_context")
    assert found.keys() == {"sasl_mechanism", "security_protocol", "sasl_plain_username", "sasl_plain_password"}
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED
    # Without a store the system's count.
    assert python_settings({"security.protocol": "SSL"}, {})["ssl_context"].check_hostname
    # Where nothing is secured no store is read.
    assert python_settings(settings | {"ssl.truststore.location": "/nowhere"}, {}) == {}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"fetch.max.bytes": "1"}, "--set kafka.fetch.max.bytes: not known"),
        ({"key.serializer": "x"}, "--set kafka.key.serializer: not known"),
        ({"ssl.key.password": "x"}, "a secret"),
        ({"sasl.mechanism": "GSSAPI"}, "must be one of PLAIN"),
        ({"ssl.truststore.location": "/nowhere", "ssl.truststore.type": "PEM"}, "/nowhere"),
        ({"ssl.truststore.location": __file__, "ssl.truststore.type": "PEM"}, "holds no certificate"),
        ({"ssl.keystore.location": "/k", "ssl.keystore.type": "JKS"}, "must be PEM"),
        ({"ssl.keystore.location": "/nowhere", "ssl.keystore.type": "pem"}, "/nowhere"),
    ],
)
def test_what_a_client_in_python_cannot_do_is_told_in_one_line(settings: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        python_settings(settings, LOGIN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pair", ["cost.column=x", "kafka.=x", "kafka.acks", "kafka.acks="])
def test_other_settings_are_none_of_the_client(pair: str) -> None:
    with pytest.raises(UsageError, match=r"must be kafka\.KEY=VALUE"):
        client_settings([pair])


def test_a_producer_has_what_the_command_asks_for_unless_settings_say_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, object]] = []
    monkeypatch.setattr("kafka.KafkaProducer", lambda **settings: given.append(settings))
    producer("kafka://h:1,i:2/", {"acks": 1}, acks="all", linger_ms=20)
    assert given == [{"bootstrap_servers": ["h:1", "i:2"], "acks": 1, "linger_ms": 20}]

    def nobody(**settings: object) -> None:
        raise KafkaConnectionError

    monkeypatch.setattr("kafka.KafkaProducer", nobody)
    with pytest.raises(JobError, match=r"^kafka://h:1: no broker answers \(KafkaConnectionError"):
        producer("kafka://h:1", {})
