"""The replicas of workloads in a Kubernetes cluster, by the scale subresource of the apps API."""

from __future__ import annotations

from typing import Any, Protocol

from jobs.errors import one_line


class Cluster(Protocol):
    """Where workloads run."""

    def replicas(self, namespace: str, workload: str) -> int:
        """How many a workload (kind/name) is to have.

        Raises:
            ClusterError: it can't be told.
        """

    def scale(self, namespace: str, workload: str, replicas: int, is_dry_run: bool) -> None:
        """Set it; in a dry run the API checks all and changes nothing.

        Raises:
            ClusterError: it was refused, or nobody answers.
        """


class ClusterError(Exception):
    """The API refused or did not answer; one line."""


# Kind of a workload -> its part in the names of the client's methods.
_KINDS = {"deployment": "deployment", "statefulset": "stateful_set", "replicaset": "replica_set"}
_TIMEOUT_S = 10


class KubernetesCluster:
    """The cluster that this runs in, else that of the kubeconfig (KUBECONFIG). It needs `get` and `patch` of
    deployments/scale and the like, and nothing else."""

    def __init__(self) -> None:
        """Raises:
        ClusterError: neither is there."""
        from kubernetes import client, config

        try:
            config.load_config()
        except (config.ConfigException, OSError) as error:
            raise ClusterError(f"no Kubernetes cluster: {one_line(error)}") from None
        self._apps = client.AppsV1Api()

    def replicas(self, namespace: str, workload: str) -> int:
        """As Cluster.replicas."""
        return self._ask("read", namespace, workload).spec.replicas or 0

    def scale(self, namespace: str, workload: str, replicas: int, is_dry_run: bool) -> None:
        """As Cluster.scale."""
        dry_run = {"dry_run": "All"} if is_dry_run else {}
        self._ask(
            "patch", namespace, workload, {"spec": {"replicas": replicas}}, field_manager="anomaly-cost", **dry_run
        )

    def _ask(self, verb: str, namespace: str, workload: str, *body: object, **settings: object) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        kind, _, name = workload.partition("/")
        method = getattr(self._apps, f"{verb}_namespaced_{_KINDS[kind]}_scale")
        try:
            return method(name, namespace, *body, _request_timeout=_TIMEOUT_S, **settings)
        except ApiException as error:
            raise ClusterError(f"{verb} {workload} in {namespace}: {error.status} {error.reason}") from None
        except (HTTPError, OSError) as error:
            raise ClusterError(f"{verb} {workload} in {namespace}: no answer ({type(error).__name__})") from None
