"""A real OpenTelemetry Collector on loopback, built by Go once, which takes some minutes; and what it asks on a node: a
kubelet and EC2's metadata, as far as it asks them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.services import ROOT, _free_ports, _HttpServer

CONFIGS = ROOT / "docker" / "collector"

# docker/.env's and daemonset.yaml's, of which the image has all components.
VERSION = "0.149.0"
_CORE, _CONTRIB = "go.opentelemetry.io/collector", "github.com/open-telemetry/opentelemetry-collector-contrib"
_COMPONENTS = {
    "receivers": (f"{_CORE}/receiver/otlpreceiver", f"{_CONTRIB}/receiver/kubeletstatsreceiver"),
    "processors": (
        f"{_CORE}/processor/batchprocessor",
        f"{_CORE}/processor/memorylimiterprocessor",
        f"{_CONTRIB}/processor/k8sattributesprocessor",
        f"{_CONTRIB}/processor/resourcedetectionprocessor",
    ),
    "exporters": (f"{_CORE}/exporter/otlpexporter", f"{_CONTRIB}/exporter/kafkaexporter"),
    "extensions": (f"{_CONTRIB}/extension/healthcheckextension",),
}
_BUILD_S = 1_800


def program() -> Path:
    """The Collector, built where it isn't yet.

    Raises:
        RuntimeError: there is no Go, or it can't be built.
    """
    path = ROOT / "build" / "collector" / VERSION / "collector"
    if path.exists():
        return path
    if not shutil.which("go"):
        raise RuntimeError("no Go, which builds the Collector: install it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        manifest = {
            "dist": {"name": path.name, "output_path": f"{name}/built"},
            **{of: [{"gomod": f"{module} v{VERSION}"} for module in modules] for of, modules in _COMPONENTS.items()},
        }
        Path(name, "builder.yaml").write_text(yaml.safe_dump(manifest))
        builder = [f"{_CORE}/cmd/builder@v{VERSION}", f"--config={name}/builder.yaml"]
        done = subprocess.run(["go", "run", *builder], cwd=name, capture_output=True, text=True, timeout=_BUILD_S)
        if done.returncode:
            raise RuntimeError(f"the Collector can't be built: {done.stderr[-2000:]}")
        Path(name, "built", path.name).rename(path)
    return path


class Collector(_HttpServer):
    """A running one. OTLP by HTTP at ``otlp_url``."""

    READY = ""

    def __init__(self, folder: Path, config: Path, environment: Mapping[str, str], settings: Mapping[str, str]) -> None:
        """settings: what another machine than a node has in place of the configuration's, by its path there."""
        super().__init__(folder)
        otlp, grpc = _free_ports(2)
        self.otlp_url, self._config, self._environment = f"http://127.0.0.1:{otlp}", config, environment
        self._settings = {
            "receivers::otlp::protocols::http::endpoint": f"127.0.0.1:{otlp}",
            "receivers::otlp::protocols::grpc::endpoint": f"127.0.0.1:{grpc}",
            "extensions::health_check::endpoint": f"127.0.0.1:{self.port}",
            "service::telemetry::metrics::level": "none",
            **settings,
        }

    def _command(self) -> Sequence[str]:
        return [
            "env", *(f"{name}={value}" for name, value in self._environment.items()),
            str(program()), f"--config={self._config}",
            *(f"--config=yaml:{path}: {json.dumps(value)}" for path, value in self._settings.items()),
        ]  # fmt: skip


def validated(config: Path) -> str:
    """What the Collector finds wrong in a configuration; "" if nothing."""
    command = [str(program()), "validate", f"--config={config}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stderr if done.returncode else ""


class Answers:
    """An HTTP server that answers a path with what its function makes, as JSON or as text; 404 for all others."""

    def __init__(self, answers: Mapping[str, Callable[[], Any]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                make = answers.get(self.path)
                if make is None:
                    self.send_error(404)
                    return
                made = make()
                body = (made if isinstance(made, str) else json.dumps(made)).encode()
                self.send_response(200)
                # For so long EC2's token holds.
                self.send_header("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


def kubelet(node: str, pods: Mapping[str, tuple[str, str, float]]) -> Answers:
    """The figures of a node's kubelet (k8s.io/kubelet/pkg/apis/stats/v1alpha1).

    pods: uid -> (namespace, name, cores that it uses, from the first look on).
    """
    began = time.time()

    def summary() -> dict[str, Any]:
        now = time.time()
        at, since = (datetime.fromtimestamp(of, UTC).isoformat().replace("+00:00", "Z") for of in (now, began))

        def used(cores: float) -> dict[str, Any]:
            return {
                "startTime": since,
                "cpu": {
                    "time": at,
                    "usageNanoCores": int(cores * 1e9),
                    "usageCoreNanoSeconds": int((now - began) * cores * 1e9),
                },
                "memory": {"time": at, "usageBytes": 2 << 27, "workingSetBytes": 1 << 27, "rssBytes": 1 << 26},
            }

        return {
            "node": {"nodeName": node, "startTime": since},
            "pods": [
                {
                    "podRef": {"name": name, "namespace": namespace, "uid": uid},
                    "containers": [{"name": "app", **used(cores)}],
                    "network": {
                        "time": at,
                        "name": "eth0",
                        "interfaces": [
                            {"name": "eth0", "rxBytes": int(1e3 * (now - began)), "txBytes": int(2e3 * (now - began)),
                             "rxErrors": 0, "txErrors": 0}
                        ],
                    },
                    **used(cores),
                }
                for uid, (namespace, name, cores) in pods.items()
            ],
        }  # fmt: skip

    return Answers({"/stats/summary": summary, "/stats/summary/": summary})


def ec2_metadata(instance: str, account: str, region: str) -> Answers:
    """The metadata of a machine of EC2, version 2."""
    identity = {
        "accountId": account, "architecture": "x86_64", "availabilityZone": f"{region}a", "imageId": "ami-0",
        "instanceId": instance, "instanceType": "m5.xlarge", "privateIp": "10.0.0.7", "region": region,
        "version": "2017-09-30",
    }  # fmt: skip
    return Answers({
        "/latest/api/token": lambda: "token",
        "/latest/dynamic/instance-identity/document": lambda: identity,
        "/latest/meta-data/instance-id": lambda: instance,
        "/latest/meta-data/hostname": lambda: "ip-10-0-0-7.ec2.internal",
    })  # fmt: skip
