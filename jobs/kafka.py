"""Kafka as the input: what its source tables are told, and whether it is there, asked before the engine starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from jobs.errors import JobError, UsageError

TOPICS = ("otlp_spans", "otlp_metrics", "otlp_logs", "focus_charges")

# Read side by side. A partition that brings nothing for a while is waited for no more.
_TELEMETRY = TOPICS[:3]
_SIDE_BY_SIDE = {
    "scan.watermark.alignment.group": "telemetry",
    "scan.watermark.alignment.max-drift": "10 s",
    "scan.watermark.alignment.update-interval": "500 ms",
    "scan.watermark.idle-timeout": "5 s",
}

EARLIEST, LATEST, GROUP = "earliest", "latest", "group"
_ASK_MS = 10_000

# Environment variable -> property of the client. The user's name and password become a login of SASL.
SECRETS = {
    "KAFKA_SSL_TRUSTSTORE_PASSWORD": "ssl.truststore.password",
    "KAFKA_SSL_KEYSTORE_PASSWORD": "ssl.keystore.password",
    "KAFKA_SSL_KEY_PASSWORD": "ssl.key.password",
}
# The connector brings a client of its own, under its own name.
_SHADED = "org.apache.flink.kafka.shaded.org.apache.kafka.common.security"
_LOGIN = {
    "PLAIN": f"{_SHADED}.plain.PlainLoginModule",
    "SCRAM-SHA-256": f"{_SHADED}.scram.ScramLoginModule",
    "SCRAM-SHA-512": f"{_SHADED}.scram.ScramLoginModule",
}


@dataclass(frozen=True)
class KafkaInput:
    """Topics to read.

    Attributes:
        servers: HOST:PORT[,HOST:PORT].
        start: earliest, latest, group (the group's committed offsets, else the earliest), or an ISO time.
        group: consumer group; offsets are kept in checkpoints and committed to it for others to see.
        properties: of the client; those from the environment are not shown.
        bounded: stop at the offsets that stand at the start.
    """

    servers: str
    start: str = EARLIEST
    group: str = "anomaly_cost"
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    bounded: bool = False

    def options(self, topic: str) -> dict[str, str]:
        """Connector options of the source table of ``topic``."""
        return {
            "connector": "kafka",
            "topic": topic,
            "properties.bootstrap.servers": self.servers,
            "properties.group.id": self.group,
            **{f"properties.{key}": value for key, value in self.properties.items()},
            **start_options(self.start),
            **(
                {"scan.bounded.mode": "latest-offset"} if self.bounded else _SIDE_BY_SIDE if topic in _TELEMETRY else {}
            ),
            "format": "raw",
        }


def start_options(start: str) -> dict[str, str]:
    """Where reading begins, in the connector's words.

    Raises:
        UsageError: it is none of the words, nor a time.
    """
    words = {
        EARLIEST: {"scan.startup.mode": "earliest-offset"},
        LATEST: {"scan.startup.mode": "latest-offset"},
        GROUP: {"scan.startup.mode": "group-offsets", "properties.auto.offset.reset": "earliest"},
    }
    if start in words:
        return words[start]
    try:
        moment = datetime.fromisoformat(start)
    except ValueError:
        raise UsageError(
            f"--set kafka.start={start}: must be {EARLIEST}, {LATEST}, {GROUP} or a time as 2025-03-03T00:00Z"
        ) from None
    if moment.tzinfo is None:
        raise UsageError(f"--set kafka.start={start}: say the time zone, as in {start}Z")
    return {
        "scan.startup.mode": "timestamp",
        "scan.startup.timestamp-millis": str(int(moment.timestamp() * 1000)),
    }


def client_properties(settings: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Properties of the client: ``settings`` by the client's own names, and the secrets of the environment.

    Raises:
        UsageError: a secret stands among the settings, or a login has no known mechanism.
    """
    for key in settings:
        if "password" in key or "jaas" in key or "secret" in key:
            raise UsageError(f"--set kafka.{key}: a secret; give it in the environment ({', '.join(SECRETS)}, "
                             "KAFKA_USERNAME and KAFKA_PASSWORD)")  # fmt: skip
    properties = dict(settings)
    properties |= {name: environment[variable] for variable, name in SECRETS.items() if variable in environment}
    if "KAFKA_USERNAME" in environment:
        mechanism = properties.setdefault("sasl.mechanism", "PLAIN")
        if mechanism not in _LOGIN:
            raise UsageError(f"--set kafka.sasl.mechanism={mechanism}: must be one of {', '.join(_LOGIN)}")
        user, password = (
            environment.get(name, "").replace("\\", "\\\\").replace('"', '\\"')
            for name in ("KAFKA_USERNAME", "KAFKA_PASSWORD")
        )
        properties["sasl.jaas.config"] = f'{_LOGIN[mechanism]} required username="{user}" password="{password}";'
        properties.setdefault("security.protocol", "SASL_SSL")
    return properties


def check(source: KafkaInput) -> None:
    """Ask for the topics, unless the way to the broker is secured: then the engine's client is the one to ask.

    Raises:
        JobError: the broker isn't there, or a topic is missing.
    """
    if source.properties.get("security.protocol", "PLAINTEXT") != "PLAINTEXT":
        return
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    try:
        consumer = KafkaConsumer(
            bootstrap_servers=source.servers.split(","), request_timeout_ms=_ASK_MS, bootstrap_timeout_ms=_ASK_MS
        )
    except (KafkaError, OSError, ValueError) as error:
        raise JobError(f"kafka://{source.servers}: no broker answers ({type(error).__name__})") from None
    try:
        missing = [topic for topic in TOPICS if topic not in consumer.topics()]
    finally:
        consumer.close()
    if missing:
        raise JobError(f"kafka://{source.servers}: no topic {', '.join(missing)}; create it, it may stay empty")
