"""Actions: tried, allowed, done, undone and bounded, on scales of an API server; make test-long has the real one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from jobs.errors import UsageError
from jobs.migrate import migrate
from jobs.postgres import connection as connect
from jobs.respond.__main__ import Respond
from jobs.respond.actions import target_of, wanted
from jobs.respond.kubernetes import ClusterError, KubernetesCluster
from jobs.respond.policy import Policy, load
from tests.e2e.test_respond import CLOSED, put, row
from tests.kube import FakeApi, RealApi, kubeconfig, real_api
from tests.lengths import LENGTHS
from tests.receiver import Receiver
from tests.services import Database

pytestmark = [pytest.mark.services, pytest.mark.long]

BILLED = {
    "cost_status": "billed",
    "otel_service_name": "shop/payment",
    "incident_id": "2026-01-01T10:30:00Z/shop/payment/USD",
}
NOW = datetime(2026, 1, 1, 10, 40, tzinfo=UTC)

SCALE = """
[[actions]]
name = "throttle"
kind = "scale"
services = ["shop/*"]
excess = { USD = "10" }
workload = "deployment/{service}"
replicas = "-2"
min_replicas = 1
most_per_hour = 2
"""


@pytest.fixture(scope="module", params=LENGTHS.api_servers)
def server(request: pytest.FixtureRequest) -> Iterator[FakeApi | RealApi]:
    if request.param == "fake":
        fake = FakeApi(shop__deployment__payment=3, shop__deployment__cart=3, shop__deployment__web=3)
        yield fake
        fake.stop()
    else:
        with real_api() as real:
            for number, name in enumerate(("payment", "cart", "web")):
                real.deploy("shop", name, 3, is_new=number == 0)
            yield real


@pytest.fixture
def cluster(server: FakeApi | RealApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApi | RealApi:
    """The API server, with three replicas of everything, where KUBECONFIG leads."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, server.url)))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", os.environ["KUBECONFIG"])
    for name in ("payment", "cart", "web"):
        KubernetesCluster().scale("shop", f"deployment/{name}", 3, is_dry_run=False)
    return server


@pytest.fixture
def database(database: Database) -> Database:
    migrate(database.url)
    with psycopg.connect(database.dsn) as connection:
        connection.execute(
            "truncate public.incidents, anomaly_cost.told, anomaly_cost.notifications, anomaly_cost.respond,"
            " anomaly_cost.not_told, anomaly_cost.actions restart identity"
        )
    return database


@pytest.fixture
def hook() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


class At:
    """A policy at work, and what time it is."""

    def __init__(self, database: Database, policy: Policy, cluster: Callable = KubernetesCluster) -> None:
        self.now, self.said = NOW, []
        self._database = database
        self._connection = connect(database.url, "test")
        self.respond = Respond(self._connection, policy, lambda: self.now, tell=self.said.append, cluster=cluster)

    def look(self, *rows: dict[str, Any], after: timedelta = timedelta(minutes=1)) -> list[dict[str, Any]]:
        """The rows of actions after a look at these incidents."""
        put(self._database, *rows)
        self.now += after
        self.respond.look()
        with psycopg.connect(self._database.dsn, row_factory=dict_row) as connection:
            return connection.execute("select * from anomaly_cost.actions order by action_id").fetchall()


@pytest.fixture
def policy(tmp_path: Path, hook: Receiver) -> Callable[..., Policy]:
    def make(actions: str = SCALE) -> Policy:
        path = tmp_path / "policy.toml"
        path.write_text(
            f'[receivers.hook]\nkind = "webhook"\nurl = "{hook.url}"\nsecret_env = "S"\n'
            f'[[routes]]\nname = "none"\nreceivers = ["hook"]\nservices = ["nobody"]\n{actions}'
        )
        return load(path, {"S": "secret"})

    return make


def test_by_default_it_is_only_tried_and_the_trial_undone(
    database: Database, cluster: FakeApi | RealApi, policy: Callable
) -> None:
    at = At(database, policy())
    [done] = at.look(row(**BILLED))
    assert (done["action_state"], done["is_dry_run"], done["target"]) == ("done", True, "shop/deployment/payment")
    assert (done["from_value"], done["to_value"]) == ("3", "1")
    assert done["figures"]["excess_cost"] == "12.400000000000" and done["figures"]["cost_status"] == "billed"
    assert done["policy"]["replicas"] == "-2" and done["why"].startswith("payment's INSERT")
    assert done["undo"] == "kubectl scale --namespace shop deployment/payment --replicas=<from_value>"
    assert cluster.replicas("shop", "payment") == 3
    assert at.look(row(**BILLED)) == [done]
    [undone] = at.look(row(**BILLED, **CLOSED))
    assert undone["action_state"] == "undone" and undone["undone_at"] is not None
    assert cluster.replicas("shop", "payment") == 3
    if isinstance(cluster, FakeApi):
        assert cluster.asked[-2:] == [("shop/deployment/payment", 1, True), ("shop/deployment/payment", 3, True)]


def test_a_throttle_is_done_and_undone(database: Database, cluster: FakeApi | RealApi, policy: Callable) -> None:
    at = At(database, policy(SCALE + "dry_run = false\n"))
    at.look(row(**BILLED))
    assert cluster.replicas("shop", "payment") == 1
    [undone] = at.look(row(**BILLED, **CLOSED))
    assert (undone["action_state"], cluster.replicas("shop", "payment")) == ("undone", 3)
    assert any("throttle on shop/deployment/payment because payment's INSERT" in line for line in at.said)


def test_what_somebody_set_since_is_left(database: Database, cluster: FakeApi | RealApi, policy: Callable) -> None:
    at = At(database, policy(SCALE + "dry_run = false\n"))
    at.look(row(**BILLED))
    KubernetesCluster().scale("shop", "deployment/payment", 7, is_dry_run=False)
    [left] = at.look(row(**BILLED, **CLOSED))
    assert (left["action_state"], left["note"]) == ("left", "somebody set it to 7 since")
    assert cluster.replicas("shop", "payment") == 7


def test_money_that_no_bill_confirms_does_nothing_unless_the_policy_says_so(
    database: Database, cluster: FakeApi | RealApi, policy: Callable
) -> None:
    provisional = BILLED | {"cost_status": "provisional"}
    assert At(database, policy()).look(row(**provisional)) == []
    [done] = At(database, policy(SCALE + 'statuses = ["provisional"]\n')).look(row(**provisional))
    assert done["action_state"] == "done"


def test_dear_ones_wait_until_a_person_allows_them(
    database: Database, cluster: FakeApi | RealApi, policy: Callable
) -> None:
    at = At(database, policy(SCALE + 'dry_run = false\napprove_above = { USD = "12" }\n'))
    [waits] = at.look(row(**BILLED))
    assert waits["action_state"] == "waiting"
    assert at.look(row(**BILLED))[0]["action_state"] == "waiting"
    assert cluster.replicas("shop", "payment") == 3
    with psycopg.connect(database.dsn) as connection:
        connection.execute("update anomaly_cost.actions set approved_by = 'ann'")
    [done] = at.look(row(**BILLED))
    assert (done["action_state"], done["approved_by"], cluster.replicas("shop", "payment")) == ("done", "ann", 1)


def test_what_waits_for_leave_ends_with_its_incident(
    database: Database, cluster: FakeApi | RealApi, policy: Callable
) -> None:
    at = At(database, policy(SCALE + 'dry_run = false\napprove_above = { USD = "12" }\n'))
    at.look(row(**BILLED))
    [expired] = at.look(row(**BILLED, **CLOSED))
    assert expired["action_state"] == "expired"


def test_so_many_are_begun_within_an_hour(database: Database, cluster: FakeApi | RealApi, policy: Callable) -> None:
    at = At(database, policy())
    of = [
        row(**BILLED | {"otel_service_name": f"shop/{name}", "incident_id": f"2026-01-01T10:30:00Z/shop/{name}/USD"})
        for name in ("cart", "payment", "web")
    ]
    assert [done["target"] for done in at.look(*of)] == ["shop/deployment/cart", "shop/deployment/payment"]
    assert len(at.look(after=timedelta(minutes=30))) == 2
    assert len(at.look(after=timedelta(minutes=31))) == 3


def test_a_server_that_is_away_is_asked_again_and_a_kill_repeats_the_same(
    database: Database, cluster: FakeApi | RealApi, policy: Callable
) -> None:
    class Away:
        """Reads, and refuses to change."""

        def replicas(self, namespace: str, workload: str) -> int:
            return 3

        def scale(self, *_: object) -> None:
            raise ClusterError("no answer")

    policy_ = policy(SCALE + "dry_run = false\n")
    at = At(database, policy_, Away)
    [doing] = at.look(row(**BILLED))
    assert (doing["action_state"], doing["to_value"], doing["note"]) == ("doing", "1", "no answer")
    at.look()
    assert sum("no answer" in line for line in at.said) == 1
    KubernetesCluster().scale("shop", "deployment/payment", 2, is_dry_run=False)
    [done] = At(database, policy_).look()
    assert (done["action_state"], done["note"], cluster.replicas("shop", "payment")) == ("done", None, 1)


def test_a_flag_is_asked_for_by_webhook_and_taken_back(database: Database, hook: Receiver, policy: Callable) -> None:
    action = """
[[actions]]
name = "flag"
kind = "webhook"
receiver = "hook"
value = "limit=100"
undo_value = "limit=none"
dry_run = false
"""
    at = At(database, policy(action))
    hook.status = 503
    [doing] = at.look(row(**BILLED))
    assert (doing["action_state"], hook.bodies) == ("doing", [])
    hook.status = 200
    at.look()
    [undone] = at.look(row(**BILLED, **CLOSED))
    assert undone["action_state"] == "undone"
    assert [(body["type"], body["id"], body["data"]["value"]) for body in hook.bodies] == [
        ("anomaly_cost.action.do", "1/do", "limit=100"), ("anomaly_cost.action.undo", "1/undo", "limit=none"),
    ]  # fmt: skip


# ---- the policy -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "current", "expected"),
    [("-2", 3, 1), ("-2", 2, 1), ("+2", 3, 5), ("+9", 3, 6), ("4", 3, 4), ("0", 3, 1)],
)
def test_replicas_stay_within_their_bounds(policy: Callable, replicas: str, current: int, expected: int) -> None:
    [action] = policy(SCALE.replace('"-2"', f'"{replicas}"') + "max_replicas = 6\n").actions
    assert wanted(action, current) == expected


def test_a_hostile_name_is_no_workload(policy: Callable) -> None:
    [action] = policy().actions
    assert str(target_of(action, "shop/payment")) == "shop/deployment/payment"
    for name in ("shop/../kube-system", "shop/a b", "shop/", "SHOP/x", "shop/" + "x" * 300):
        assert target_of(action, name) is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('services = ["shop/*"]', "", "actions[0].services: is missing, say which services may be scaled"),
        ('"-2"', '"many"', "actions[0].replicas: 'many' must be as +2, -1 or 3"),
        ("deployment/", "pod/", "actions[0].workload: 'pod/{service}' must be as deployment/{service}"),
        ("min_replicas = 1", "min_replicas = 200", "actions[0].min_replicas: 200 is above max_replicas 100"),
        ('kind = "scale"', 'kind = "delete"', "actions[0].kind: 'delete' must be one of scale, webhook"),
        ("most_per_hour = 2", "most_per_hour = -1", "actions[0].most_per_hour: -1 must be a whole number"),
    ],
)
def test_a_wrong_action_names_the_key(policy: Callable, old: str, new: str, says: str) -> None:
    with pytest.raises(UsageError, match="policy.toml") as error:
        policy(SCALE.replace(old, new, 1))
    assert says in str(error.value)


def test_money_that_nobody_knows_needs_a_person(policy: Callable) -> None:
    [action] = policy(SCALE + 'approve_above = { USD = "100" }\n').actions
    of = {"billing_currency": "USD"}
    assert action.needs_approval(of | {"excess_cost": None})
    assert action.needs_approval(of | {"excess_cost": Decimal(100)})
    assert not action.needs_approval(of | {"excess_cost": Decimal("99.99")})
