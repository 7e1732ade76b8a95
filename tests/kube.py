"""API servers of Kubernetes on loopback for tests: one that only knows scales, and the real one.

The real one is built by Go from k8s.io/kubernetes, once, which takes some minutes; etcd is Debian's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import yaml

from tests.services import ROOT, _folder, _free_ports, _run, _Server, debian_binary

TOKEN = "only-for-tests"
KUBERNETES, STAGING = "v1.34.1", "v0.34.1"
_BUILD_S = 1_800

_SCALE = re.compile(r"/apis/apps/v1/namespaces/([^/]+)/(deployment|statefulset|replicaset)s/([^/]+)/scale")


def kubeconfig(folder: Path, url: str, token: str = TOKEN) -> Path:
    """A file that leads to ``url``, whose certificate nobody knows."""
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        })
    )  # fmt: skip
    return path


class FakeApi:
    """Knows the scales of some workloads and what was asked; refuses what the published API would refuse.

    https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/deployment-v1/ (patch partially update scale)
    """

    def __init__(self, **replicas: int) -> None:
        """replicas: of namespace__deployment__name."""
        self.scales = {tuple(name.split("__")): count for name, count in replicas.items()}
        self.asked: list[tuple[str, int, bool]] = []  # (workload, replicas, dry run)
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                key = self._key()
                if key:
                    self._answer(key, api.scales[key])

            def do_PATCH(self) -> None:
                key, query = self._key(), parse_qs(urlsplit(self.path).query)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not key:
                    return
                replicas = body.get("spec", {}).get("replicas")
                merges = self.headers["Content-Type"] in (
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                )
                dry_run = query.pop("dryRun", [])
                known = set(query) <= {"fieldManager", "force", "pretty", "fieldValidation"}
                if not merges or not known or type(replicas) is not int or replicas < 0 or dry_run not in ([], ["All"]):
                    self.send_error(422)
                    return
                api.asked.append(("/".join(key), replicas, bool(dry_run)))
                if not dry_run:
                    api.scales[key] = replicas
                self._answer(key, replicas)

            def _key(self) -> tuple[str, ...] | None:
                found = _SCALE.fullmatch(urlsplit(self.path).path)
                key = found.groups() if found else ()
                if self.headers["Authorization"] != f"Bearer {TOKEN}" or key not in api.scales:
                    self.send_error(404 if key not in api.scales else 401)
                    return None
                return key

            def _answer(self, key: tuple[str, ...], replicas: int) -> None:
                body = json.dumps({
                    "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": key[2], "namespace": key[0]},
                    "spec": {"replicas": replicas}, "status": {"replicas": replicas},
                }).encode()  # fmt: skip
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def replicas(self, namespace: str, name: str) -> int:
        """Of a deployment."""
        return self.scales[namespace, "deployment", name]

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


def kube_apiserver() -> Path:
    """The program, built where it isn't yet.

    Raises:
        RuntimeError: there is no Go, or it can't be built.
    """
    folder = ROOT / "build" / "kubernetes" / KUBERNETES
    program = folder / "kube-apiserver"
    if program.exists():
        return program
    if not shutil.which("go"):
        raise RuntimeError("no Go, which builds kube-apiserver: install it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        source = Path(name)
        environment = os.environ | {"GOFLAGS": "-mod=mod"}

        def go(*arguments: str) -> str:
            done = subprocess.run(
                ["go", *arguments], cwd=source, env=environment, capture_output=True, text=True, timeout=_BUILD_S
            )
            if done.returncode:
                raise RuntimeError(f"go {arguments[0]}: {done.stderr[-2000:]}")
            return done.stdout

        module = f"module kube\n\ngo 1.24\n\nrequire k8s.io/kubernetes {KUBERNETES}\n"
        (source / "go.mod").write_text(module)
        lies = json.loads(go("mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}"))["Dir"]
        # What lies beside it in its own tree is published apart.
        staged = re.findall(r"(k8s\.io/[\w.-]+)\s+v0\.0\.0$", (Path(lies) / "go.mod").read_text(), re.MULTILINE)
        (source / "go.mod").write_text(module + "".join(f"replace {of} => {of} {STAGING}\n" for of in set(staged)))
        (source / "main.go").write_text(
            'package main\n\nimport (\n\t"os"\n\n\t"k8s.io/component-base/cli"\n'
            '\t"k8s.io/kubernetes/cmd/kube-apiserver/app"\n)\n\n'
            "func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }\n"
        )
        go("mod", "tidy", "-e")
        go("build", "-ldflags", "-s -w", "-o", "kube-apiserver", ".")
        folder.mkdir(exist_ok=True)
        (source / "kube-apiserver").rename(program)
    return program


class _Etcd(_Server):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port, self._peer_port = _free_ports(2)
        self.url = f"http://127.0.0.1:{self._port}"

    def _command(self) -> Sequence[str]:
        return [
            str(debian_binary("etcd-server", "etcd")), f"--data-dir={self.folder}/data",
            f"--listen-client-urls={self.url}", f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{self._peer_port}",
            f"--initial-cluster=default=http://127.0.0.1:{self._peer_port}", "--unsafe-no-fsync",
        ]  # fmt: skip

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/health", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False


class RealApi(_Server):
    """kube-apiserver without nodes: it keeps what is to be, and nobody makes it so."""

    def __init__(self, folder: Path, etcd: str) -> None:
        super().__init__(folder)
        (self._port,) = _free_ports(1)
        self.url, self._etcd = f"https://127.0.0.1:{self._port}", etcd
        _run(["openssl", "genrsa", "-out", str(folder / "key.pem"), "2048"])
        (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")

    def _command(self) -> Sequence[str]:
        return [
            str(kube_apiserver()), f"--etcd-servers={self._etcd}", f"--secure-port={self._port}",
            "--bind-address=127.0.0.1", f"--cert-dir={self.folder}/certificates",
            f"--token-auth-file={self.folder}/tokens.csv", "--authorization-mode=RBAC",
            "--service-account-issuer=https://localhost", f"--service-account-key-file={self.folder}/key.pem",
            f"--service-account-signing-key-file={self.folder}/key.pem", "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
        ]  # fmt: skip

    def _is_ready(self) -> bool:
        try:
            return self.ask("GET", "/readyz").strip() == "ok"
        except OSError:
            return False

    def ask(self, method: str, path: str, body: object = None) -> str:
        """What it answers to the administrator."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with urlopen(Request(self.url + path, data, headers, method=method), timeout=10, context=context) as response:
            return response.read().decode()

    def deploy(self, namespace: str, name: str, replicas: int, is_new: bool) -> None:
        """Make a deployment, and first its namespace where that is new."""
        if is_new:
            self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        labels = {"app": name}
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "registry.example/none"}]},
            },
        }
        self.ask(
            "POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", {"metadata": {"name": name}, "spec": spec}
        )

    def apply(self, objects: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Make what manifests hold; as the server has it."""
        made = []
        for each in objects:
            group, _, version = each["apiVersion"].rpartition("/")
            namespace = each["metadata"].get("namespace")
            path = f"/apis/{group}/{version}" if group else f"/api/{version}"
            path += f"/namespaces/{namespace}" if namespace else ""
            made.append(json.loads(self.ask("POST", f"{path}/{each['kind'].lower()}s?fieldValidation=Strict", each)))
        return made

    def token(self, namespace: str, account: str) -> str:
        """Of a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return json.loads(self.ask("POST", path, asked))["status"]["token"]

    def replicas(self, namespace: str, name: str) -> int:
        """Of a deployment."""
        return json.loads(self.ask("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"))["spec"][
            "replicas"
        ]


@contextmanager
def real_api() -> Iterator[RealApi]:
    """A running one without workloads."""
    with _folder("etcd") as etcd_folder, _folder("kubernetes") as folder:
        etcd = _Etcd(etcd_folder)
        try:
            etcd.start()
            server = RealApi(folder, etcd.url)
            try:
                server.start()
                yield server
            finally:
                server.stop()
        finally:
            etcd.stop()
