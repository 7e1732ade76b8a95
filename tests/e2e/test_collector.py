"""The Collector of a Kubernetes node: a real one on a real API server, a broker, the job; the bill names machines."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.request import Request, urlopen

import pyarrow.parquet as pq
import pytest
import yaml
from kafka import KafkaConsumer

from tests.collector import CONFIGS, Collector, ec2_metadata, kubelet, validated
from tests.kube import RealApi, kubeconfig, real_api
from tests.literal import charge
from tests.services import Broker, kafka_broker
from tests.streamed import Producer, create_topics, run, send_charges
from udfs.pure.windows import HOUR_MS

pytestmark = [pytest.mark.services, pytest.mark.long_only]

INSTANCE, ACCOUNT, REGION = "i-0abcdef1234567890", "111122223333", "eu-west-1"
NODE = "ip-10-0-0-7.eu-west-1.compute.internal"
TRACES, LOOKS = 5, 8
PATIENCE_S = 120
ENVIRONMENT = {
    "NODE_NAME": NODE,
    "NODE_IP": "127.0.0.1",
    "OTEL_RESOURCE_ATTRIBUTES": "k8s.cluster.name=shop",
    "KAFKA_BROKERS": "127.0.0.1:9",
}


def test_the_collector_finds_nothing_wrong_in_the_configuration_without_a_cluster() -> None:
    assert validated(CONFIGS / "config.yaml") == ""


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with kafka_broker() as running:
        create_topics(running)
        yield running


@pytest.fixture(scope="module")
def api() -> Iterator[RealApi]:
    """With the kit applied, and a node that runs a pod of the deployment ``shop/cart``."""
    with real_api() as server:
        server.apply(yaml.safe_load_all((CONFIGS / "daemonset.yaml").read_text()))
        server.deploy("shop", "cart", replicas=1, is_new=True)
        deployment = json.loads(server.ask("GET", "/apis/apps/v1/namespaces/shop/deployments/cart"))
        labels = {"app": "cart"}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "none"}]}}
        [replicas] = server.apply([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "cart-5c7f", "namespace": "shop", "ownerReferences": [_owner(deployment)]},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
        }])  # fmt: skip
        _node, pod = server.apply([
            {
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": NODE, "labels": {"eks.amazonaws.com/nodegroup": "blue"}},
                "spec": {"providerID": f"aws:///{REGION}a/{INSTANCE}"},
            },
            {
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": "cart-5c7f-x2k", "namespace": "shop", "labels": labels | {"cost-center": "4711"},
                    "ownerReferences": [_owner(replicas)],
                },
                "spec": template["spec"] | {"nodeName": NODE},
            },
        ])  # fmt: skip
        # What a kubelet would say of it; its spans come from this address.
        pod["status"] = {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
        server.ask("PUT", "/api/v1/namespaces/shop/pods/cart-5c7f-x2k/status", pod)
        server.pod_uid = pod["metadata"]["uid"]
        yield server


def _owner(of: dict) -> dict:
    return {"controller": True, "apiVersion": "apps/v1", "kind": of.get("kind", "Deployment"), **{
        key: of["metadata"][key] for key in ("name", "uid")
    }}  # fmt: skip


def _await(messages: Mapping[str, int], broker: Broker) -> None:
    """Until the topics have so many messages."""
    until = time.monotonic() + PATIENCE_S
    with closing(
        KafkaConsumer(*messages, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    ) as consumer:
        found: Counter[str] = Counter()
        while any(found[topic] < count for topic, count in messages.items()):
            assert time.monotonic() < until, found
            for partition, records in consumer.poll(1_000).items():
                found[partition.topic] += len(records)


def _trace(number: int, start_ns: int) -> dict:
    span = {
        "traceId": f"{number:032x}", "spanId": f"{number:016x}", "name": "GET /cart", "kind": 2,
        "startTimeUnixNano": str(start_ns), "endTimeUnixNano": str(start_ns + 5_000_000),
    }  # fmt: skip
    # What an SDK in a container takes for the host.
    resource = {"service.name": "cart", "host.id": "4d0f5a", "host.name": "cart-5c7f-x2k"}
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in resource.items()]
    return {"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [{"spans": [span]}]}]}


def test_what_runs_on_a_node_bears_what_the_bill_says_of_the_machine(
    api: RealApi, broker: Broker, tmp_path: Path
) -> None:
    figures = kubelet(NODE, {api.pod_uid: ("shop", "cart-5c7f-x2k", 0.5)})
    metadata = ec2_metadata(INSTANCE, ACCOUNT, REGION)
    config = kubeconfig(tmp_path, api.url, api.token("observability", "anomaly-cost-collector"))
    environment = ENVIRONMENT | {
        "KAFKA_BROKERS": broker.bootstrap,
        "KUBECONFIG": str(config),
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{metadata.address}",
    }
    settings = {
        "receivers::kubeletstats::endpoint": figures.address,
        "receivers::kubeletstats::auth_type": "none",
        "receivers::kubeletstats::collection_interval": "1s",
        "processors::k8s_attributes::auth_type": "kubeConfig",
        "processors::resourcedetection::detectors": ["env", "ec2"],
    }
    collector = Collector(tmp_path, CONFIGS / "kubernetes.yaml", environment, settings)
    began_ms = time.time_ns() // 1_000_000
    try:
        collector.start()
        for number in range(1, TRACES + 1):
            body = json.dumps(_trace(number, time.time_ns())).encode()
            request = Request(f"{collector.otlp_url}/v1/traces", body, {"Content-Type": "application/json"})
            assert urlopen(request, timeout=10).status == 200
        # Spans, and enough of the kubelet's figures to tell what is used.
        _await({"otlp_spans": 1, "otlp_metrics": LOOKS}, broker)
    finally:
        collector.stop()
        figures.stop()
        metadata.stop()
    machine = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{INSTANCE}"
    hours = [began_ms - began_ms % HOUR_MS + number * HOUR_MS for number in range(2)]
    to = Producer(broker)
    send_charges(to, [charge(machine, hour, hour + HOUR_MS, "0.214", unit="Hours") for hour in hours])
    to.close()
    done = run("--input", broker.url, "--output", str(tmp_path / "tables"), "--bounded", "--set", "detector=usual")
    assert done.returncode == 0, done.stderr

    allocated = pq.read_table(tmp_path / "tables" / "cost_allocations.parquet").to_pylist()
    assert {row["resource_id"] for row in allocated} == {INSTANCE}
    cart = [row for row in allocated if row["otel_service_name"] == "cart"]
    assert {row["dimension"] for row in cart} == {"cpu", "memory"}, allocated
    assert {row["cost_center"] for row in cart} == {"4711"}
    verdicts = pq.read_table(tmp_path / "tables" / "trace_verdicts.parquet").to_pylist()
    assert {row["trace_id"] for row in verdicts} == {f"{number:032x}" for number in range(1, TRACES + 1)}
    rejected = pq.read_table(tmp_path / "tables" / "rejected_records.parquet").to_pylist()
    assert not rejected
