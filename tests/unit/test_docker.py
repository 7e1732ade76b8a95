"""docker/, as far as it can be checked without an engine; docker/README.md names the checkers that go further."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from jobs.config import flatten, load_engine_settings
from jobs.resources import ROOT
from jobs.tables import SCHEMAS
from udfs.pure.resources import Resources
from udfs.pure.windows import WINDOW_MS

DOCKER = ROOT / "docker"
COMPOSE = [DOCKER / "compose.yaml", DOCKER / "compose.observability.yaml"]
DASHBOARDS = sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))
FILES = sorted(
    path
    for path in DOCKER.rglob("*")
    if path.is_file() and not {"__pycache__", "postgres", "connectors"} & set(path.relative_to(DOCKER).parts)
)

# docs/interface.md, section 1.
INPUT_TOPICS = {"otlp_spans", "otlp_metrics", "otlp_logs", "focus_charges", "incident_feedback"}

# The job's own metrics: the group anomaly_cost of an operator.
JOB_METRICS = {
    f"flink_taskmanager_job_task_operator_anomaly_cost_{name}"
    for name in (
        # counters
        "spans_in",
        "usage_points_in",
        "charges_in",
        "rejected",
        "late_traces",
        "late_charges",
        # gauges
        "bills_outstanding",
        "unallocated_micros",
        "minutes_open",
        "model_ms",
    )
}
# The engine's that are used: its names under its reporter's scopes.
ENGINE_METRICS = {
    "flink_jobmanager_job_lastCheckpointDuration",
    "flink_jobmanager_job_lastCheckpointFullSize",
    "flink_jobmanager_job_lastCheckpointSize",
    "flink_jobmanager_job_numberOfCompletedCheckpoints",
    "flink_jobmanager_job_numberOfFailedCheckpoints",
    "flink_jobmanager_job_numRestarts",
    "flink_jobmanager_job_runningTime",
    "flink_taskmanager_job_task_backPressuredTimeMsPerSecond",
    "flink_taskmanager_job_task_busyTimeMsPerSecond",
    "flink_taskmanager_job_task_operator_pendingRecords",
}


def _yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _versions() -> dict[str, str]:
    lines = (DOCKER / ".env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _services() -> dict[str, dict]:
    return {name: service for path in COMPOSE for name, service in _yaml(path)["services"].items()}


def _panels(dashboard: Path) -> list[dict]:
    return json.loads(dashboard.read_text(encoding="utf-8"))["panels"]


def _targets(kind: str) -> dict[str, dict]:
    """Targets of all dashboards' panels that have the key ``kind``, by dashboard and title."""
    return {
        f"{dashboard.stem}: {panel['title']} {target['refId']}": target
        for dashboard in DASHBOARDS
        for panel in _panels(dashboard)
        for target in panel["targets"]
        if kind in target
    }


def _alert_sql() -> dict[str, str]:
    """SQL of Grafana's alerts, by title."""
    rules = chain.from_iterable(
        group["rules"]
        for path in (DOCKER / "grafana" / "provisioning" / "alerting").glob("*.yaml")
        for group in _yaml(path)["groups"]
    )
    return {
        rule["title"]: query["model"]["rawSql"]
        for rule in rules
        for query in rule["data"]
        if "rawSql" in query["model"]
    }


def without_macros(sql: str, start: str = "2025-03-03T00:00:00Z", end: str = "2025-03-04T00:00:00Z") -> str:
    """``sql`` as Grafana sends it, for a time range and a currency."""
    for macro, text in {"$__timeFrom()": f"'{start}'", "$__timeTo()": f"'{end}'"}.items():
        sql = sql.replace(macro, text)
    sql = sql.replace("${currency:sqlstring}", "'USD'")
    assert "$" not in sql, f"a macro that this test doesn't know: {sql}"
    return sql


@pytest.fixture(scope="module")
def tables() -> duckdb.DuckDBPyConnection:
    """The tables of docs/interface.md, section 3: a row in those of money, none in the others."""
    rows = {
        "cost_allocations": [
            {"resource_id": "i-1", "dimension": "cpu", "otel_service_name": name,
             "allocated_cost": cost, "billing_currency": "USD", "cost_status": status, "cost_center": cost_center}
            for name, cost, status, cost_center in
            (("cart", 3, "billed", "4711"), ("__unallocated__", 1, "provisional", None))
        ],
        "unit_costs": [
            {"otel_service_name": name, "root_service_name": "web", "root_operation": "GET /", "requests": 10,
             "cost": cost, "billing_currency": "USD", "window_start": 1_740_960_000_000 + window * WINDOW_MS}
            for name, cost, window in (("web", 4, 0), ("cart", 2, 0), ("web", 1, 1))
        ],
        "incidents": [
            {"incident_id": name, "otel_service_name": name, "incident_state": state, "excess_cost": cost,
             "evidence": f"{name} fails", "billing_currency": "USD", "projected_monthly_cost": cost * cost,
             "excess_cost_per_hour": cost * 10,
             "anomaly_kind": "latency_spike", "opened_at": 1_740_960_000_000,
             "last_seen_at": 1_740_960_000_000, "closed_at": 1_740_970_000_000 if state == "closed" else None}
            for name, state, cost in (("cart", "closed", 9), ("web", "open", 3), ("checkout", "open", 4))
        ],
        "ranked_anomalies": [
            {"anomaly_id": f"a{rank}", "otel_service_name": name, "rank": rank, "excess_cost": 5 - rank,
             "billing_currency": "USD", "exemplar_trace_ids": [f"first of {name}", "second"]}
            for rank, name in ((2, "cart"), (1, "checkout"))
        ],
    }  # fmt: skip
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for name, schema in SCHEMAS.items():
        # 2025-03-03T00:00, where no other time is told.
        filled = [{"window_start": 1_740_960_000_000, **row} for row in rows.get(name, [])]
        connection.register(name, pa.Table.from_pylist(filled, schema))
    # Not the job's: its columns are the migration's.
    [(_, body)] = re.findall(
        r"create table public\.(budget_status) \((.+?)\n\)",
        (DOCKER / "postgres" / "migrations" / "0011_budget_status.sql").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    connection.execute(f"create table budget_status ({body})".replace("(3)", ""))
    return connection


def _metrics(expression: str) -> set[str]:
    return set(re.findall(r"\bflink_\w+", expression))


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix in (".yaml", ".yml")], ids=lambda p: p.name)
def test_yaml_parses(path: Path) -> None:
    assert all(list(yaml.safe_load_all(path.read_text(encoding="utf-8"))))


def test_every_image_is_pinned_in_one_place() -> None:
    versions = _versions()
    for name, service in _services().items():
        variable = re.fullmatch(r"\$\{(\w+_IMAGE)\}", service["image"])
        assert variable and variable[1] in versions, f"{name}: {service['image']} is not docker/.env's"
    for variable, image in versions.items():
        if variable.endswith("_IMAGE"):
            assert re.fullmatch(r"[\w./-]+:v?\d+[\w.-]*", image), f"{variable}={image}: no pinned version"
    used = set(re.findall(r"\$\{(\w+)\}", "".join(path.read_text(encoding="utf-8") for path in COMPOSE)))
    assert used == set(versions)


def test_the_dockerfile_takes_its_images_from_the_compose_file() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    arguments = set(re.findall(r"^ARG (\w+)$", dockerfile, re.M))
    assert arguments == set(_yaml(COMPOSE[0])["x-flink"]["build"]["args"])
    for image in re.findall(r"^FROM (\S+)", dockerfile, re.M):
        assert image.strip("${}") in arguments, f"FROM {image}: not an argument"


def test_what_the_dockerfile_copies_is_there_and_is_not_ignored() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for sources in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.M):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert any(source == a or source.startswith(f"{a}/") for a in allowed), f"{source} is in .dockerignore"


def test_the_engine_is_the_same_everywhere() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    engine = re.search(r"^apache-flink==(\S+)$", lock, re.M)[1]
    versions = _versions()
    assert versions["FLINK_IMAGE"].startswith(f"flink:{engine}-")
    python = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert f">={versions['PYTHON_VERSION'].rpartition('.')[0]}," in python
    manifest = (DOCKER / "kubernetes" / "flinkdeployment.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"flink-[\w-]+-(\d[\d.]*\d)\.jar", manifest)) == {engine}
    assert f"flinkVersion: v{'_'.join(engine.split('.')[:2])}\n" in manifest
    assert set(re.findall(r"image: (\S+)", manifest)) == {versions["ANOMALY_COST_IMAGE"]}
    # The installer of the image is that of the Makefile.
    assert f"uv=={versions['UV_IMAGE'].partition(':')[2]} " in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_services_wait_for_services_that_are_there_and_can_be_waited_for() -> None:
    services = _services()
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for the health of {other}, which has no check"
            if how["condition"] == "service_completed_successfully":
                assert services[other]["restart"] == "no", f"{name} waits for the end of {other}, which starts again"


def test_named_volumes_are_declared_and_mounted_files_are_there() -> None:
    declared = set(chain.from_iterable(_yaml(path)["volumes"] for path in COMPOSE))
    used = set()
    for service in _services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
            else:
                used.add(source)
    assert used == declared


def test_ports_are_published_on_loopback_alone() -> None:
    for name, service in _services().items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(DOCKER)))
def test_no_secrets_in_files(path: Path) -> None:
    """A password is a variable of the environment or a reference to a secret."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith(("#", "--")):
            continue
        if given := re.search(r"(?i)\b\w*(?:password|secret_access_key|token)\w*\s*[:=]\s*([^\s,}]+)", line):
            assert given[1].startswith(("$", "'", "…")), f"{path}: {line}"
        assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", line), f"{path}: {line}"


def test_secrets_of_the_manifest_are_references() -> None:
    text = (DOCKER / "kubernetes" / "flinkdeployment.yaml").read_text(encoding="utf-8")

    def variables(node: object) -> list[dict]:
        if isinstance(node, dict):
            return node.get("env", []) + [v for child in node.values() for v in variables(child)]
        return [v for child in node for v in variables(child)] if isinstance(node, list) else []

    found = [variable for document in yaml.safe_load_all(text) for variable in variables(document)]
    assert {"PGPASSWORD", "AWS_SECRET_ACCESS_KEY"} <= {variable["name"] for variable in found}
    for variable in found:
        assert variable["name"] == "ENABLE_BUILT_IN_PLUGINS" or "secretKeyRef" in variable["valueFrom"], variable


@pytest.mark.parametrize("name", ["config.yaml", "kubernetes.yaml"])
def test_the_collector_writes_the_topics_that_the_job_reads(name: str) -> None:
    config = _yaml(DOCKER / "collector" / name)
    kafka = config["exporters"]["kafka"]
    for signal, topic in (("traces", "otlp_spans"), ("metrics", "otlp_metrics"), ("logs", "otlp_logs")):
        assert kafka[signal] == {"topic": topic, "encoding": "otlp_proto"}
        assert "kafka" in config["service"]["pipelines"][signal]["exporters"]
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])
    broker = _services()["kafka"]["environment"]
    assert kafka["producer"]["max_message_bytes"] <= broker["KAFKA_MESSAGE_MAX_BYTES"]


def test_the_collector_of_a_node_has_its_configuration_and_what_that_asks_of_the_environment() -> None:
    folder = DOCKER / "collector"
    kit = _yaml(folder / "kustomization.yaml")
    manifests = list(yaml.safe_load_all((folder / "daemonset.yaml").read_text(encoding="utf-8")))
    pod = next(of for of in manifests if of["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    [container], [volume] = pod["containers"], pod["volumes"]
    assert kit["resources"] == ["daemonset.yaml"]
    [made] = kit["configMapGenerator"]
    assert made["name"] == volume["configMap"]["name"] and made["files"] == ["kubernetes.yaml"]
    assert container["args"] == [f"--config={container['volumeMounts'][0]['mountPath']}/kubernetes.yaml"]
    asked = set(re.findall(r"\$\{env:(\w+)\}|node_from_env_var: (\w+)", (folder / "kubernetes.yaml").read_text()))
    assert {name for pair in asked for name in pair if name} <= {variable["name"] for variable in container["env"]}
    version = re.search(r"^COLLECTOR_IMAGE=(\S+)$", (DOCKER / ".env").read_text(), re.M)
    assert version and container["image"] == version[1]


def test_the_collector_of_a_node_reads_the_labels_that_tell_its_pool() -> None:
    labels = _yaml(DOCKER / "collector" / "kubernetes.yaml")["processors"]["k8s_attributes"]["extract"]["labels"]
    told = {label["tag_name"] for label in labels if label["from"] == "node"}
    assert {name for name in Resources().attributes if name.startswith("k8s.node.label.")} <= told


def test_all_topics_are_made() -> None:
    script = _services()["topics"]["command"][-1]
    made = set(chain.from_iterable(names.split() for names in re.findall(r"for name in ([\w ]+); do", script)))
    assert made == INPUT_TOPICS | set(SCHEMAS)


def test_the_job_is_submitted_with_the_arguments_of_the_interface() -> None:
    wanted = ["--input", "kafka://", "--output", "postgresql://", "--output", "kafka://"]
    manifest = (DOCKER / "kubernetes" / "flinkdeployment.yaml").read_text(encoding="utf-8")
    job = next(yaml.safe_load_all(manifest))["spec"]["job"]
    for arguments in (_services()["job"]["command"][1:], job["args"][4:]):
        assert [re.sub(r"://.*", "://", argument) for argument in arguments] == wanted
    assert job["args"][:4] == ["-pyfs", "/opt/anomaly_cost", "-py", "/opt/anomaly_cost/jobs/anomaly_cost.py"]


def test_the_manifest_holds_the_settings_that_it_puts_itself_in_place_of() -> None:
    """The operator's settings replace the image's: flink-conf.yaml and the JVM's options must be among them."""
    manifest = (DOCKER / "kubernetes" / "flinkdeployment.yaml").read_text(encoding="utf-8")
    settings = next(yaml.safe_load_all(manifest))["spec"]["flinkConfiguration"]
    assert all(isinstance(value, str) for value in settings.values())
    assert load_engine_settings().items() <= settings.items()
    wheel = Path(find_spec("pyflink").origin).parent / "conf" / "config.yaml"
    assert settings["env.java.opts.all"].split() == flatten(_yaml(wheel))["env.java.opts.all"].split()


def test_the_image_keeps_what_the_engine_brings_under_the_settings_of_the_project(tmp_path: Path) -> None:
    conf = tmp_path / "config.yaml"
    conf.write_text("env: {java: {opts: {all: --add-opens=x}}}\nparallelism: {default: 1}\nrest.address: 0.0.0.0\n")
    subprocess.run(
        [sys.executable, DOCKER / "settings.py", conf], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    settings = _yaml(conf)
    assert (settings["env.java.opts.all"], settings["rest.address"]) == ("--add-opens=x", "0.0.0.0")
    assert load_engine_settings().items() <= settings.items()
    assert settings["python.executable"] == sys.executable


@pytest.mark.parametrize("newest", [None, "a b/chk-12"], ids=["afresh", "from the newest checkpoint"])
def test_the_job_is_submitted_once_and_from_its_newest_checkpoint(tmp_path: Path, newest: str | None) -> None:
    """Against a stand-in for the engine's client that writes down what it is called with."""
    script = (DOCKER / "submit.sh").read_text(encoding="utf-8")
    script = script.replace("/var/lib/flink/checkpoints", str(tmp_path / "c"))
    (tmp_path / "c").mkdir()
    for number, name in enumerate(filter(None, ["old/chk-99", newest, newest and "later/chk-1-unfinished"])):
        (tmp_path / "c" / name).mkdir(parents=True)
        if newest and "unfinished" not in name:
            (tmp_path / "c" / name / "_metadata").touch()
            os.utime(tmp_path / "c" / name / "_metadata", (number, number))
    client = tmp_path / "flink"
    client.write_text('#!/bin/sh\n[ "$1" = list ] && echo "$LISTED" || printf "%s\\n" "$@"\n')
    client.chmod(0o755)

    def submit(listed: str) -> list[str]:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LISTED": listed}
        command = ["sh", "-c", script, "submit", "--input", "kafka://k:9092"]
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.splitlines()

    assert submit("--- Running/Restarting Jobs ---") == ["submit: the job runs already"]
    code = "/opt/anomaly_cost"
    restored = ["-s", f"file://{tmp_path}/c/{newest}"] if newest else []
    assert submit("No running jobs.")[bool(newest):] == [
        *("run", "-d", "-m", "jobmanager:8081", *restored),
        *("-pyfs", code, "-py", f"{code}/jobs/anomaly_cost.py", "--input", "kafka://k:9092"),
    ]  # fmt: skip


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_hold_what_grafana_has_types_for(path: Path) -> None:
    """Read into the types of Grafana's own SDK, panels' and queries' options among them, and written again: a key that
    they don't know, or a value of another type, doesn't come back."""
    register_default_plugins()
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    assert list(_lost(dashboard, json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard))))) == []


def test_a_key_that_grafana_does_not_know_is_found() -> None:
    """The test above would pass on types that keep whatever they get."""
    register_default_plugins()
    dashboard = json.loads(DASHBOARDS[0].read_text(encoding="utf-8"))
    panel = dashboard["panels"][0]
    panel["options"]["colourMode"] = panel["gridPosition"] = "value"
    back = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    assert list(_lost(dashboard, back)) == [".panels[0].gridPosition", ".panels[0].options.colourMode"]


def _lost(told: object, back: object, path: str = "") -> Iterator[str]:
    """Paths of what ``told`` has and ``back`` hasn't, or otherwise."""
    if isinstance(told, dict) and isinstance(back, dict):
        for key in sorted(told):
            yield from _lost(told[key], back.get(key), f"{path}.{key}")
    elif isinstance(told, list) and isinstance(back, list) and len(told) == len(back):
        for number, (one, other) in enumerate(zip(told, back)):
            yield from _lost(one, other, f"{path}[{number}]")
    elif told != back:
        yield path


@pytest.mark.parametrize("name", _targets("rawSql"))
def test_sql_of_dashboards_runs(tables: duckdb.DuckDBPyConnection, name: str) -> None:
    target = _targets("rawSql")[name]
    columns = [column[0] for column in tables.execute(without_macros(target["rawSql"])).description]
    if target["format"] == "time_series":
        assert columns[0] == "time", f"{name}: Grafana takes the time from a column of that name"


@pytest.mark.parametrize("name", _alert_sql())
def test_sql_of_alerts_gives_one_number(tables: duckdb.DuckDBPyConnection, name: str) -> None:
    ((value,),) = tables.execute(without_macros(_alert_sql()[name])).fetchall()
    assert value == {"Bills overdue": 0, "Unallocated share": 0.25}[name]


def test_panels_say_what_the_tables_say(tables: duckdb.DuckDBPyConnection) -> None:
    def rows(title: str, dashboard: str = "anomaly_cost") -> list[tuple]:
        return tables.execute(without_macros(_targets("rawSql")[f"{dashboard}: {title} A"]["rawSql"])).fetchall()

    assert [row[1:3] for row in rows("Ranked anomalies, $currency")] == [(1, "checkout"), (2, "cart")]
    assert rows("Ranked anomalies, $currency")[0][-1] == "first of checkout"
    assert [row[:2] for row in rows("Incidents, $currency")] == [
        ("open", "checkout fails"), ("open", "web fails"), ("closed", "cart fails"),
    ]  # fmt: skip
    assert [(row[1], row[2]) for row in rows("Excess cost by culprit, $currency")] == [("cart", 3), ("checkout", 4)]
    assert rows("Excess cost, $currency") == [(7,)]
    assert rows("Open incidents") == [(2,)]
    assert rows("An hour of those open, $currency") == [(70,)]
    assert rows("Projected for a month, $currency") == [(106,)]
    assert rows("Cost, $currency", "finops") == [(4,)]
    assert rows("Unallocated share", "finops") == rows("Provisional share", "finops") == [(0.25,)]
    assert rows("Idle share", "finops") == [(0.0,)]
    assert [row[1:] for row in rows("Cost by cost centre, $currency", "finops")] == [("4711", 3), ("__none__", 1)]
    assert rows("Cost of no service, $currency", "finops") == [("__unallocated__", "i-1", "cpu", 1, 1)]
    # 4 + 2 for 10 requests that asked two workloads, 1 for another window's 10.
    assert rows("Cost of a request, $currency", "finops") == [("web", "GET /", 20, 0.35, 7)]
    assert [row[0] for row in rows("Bills outstanding, $currency", "finops")] == ["i-1"]


@pytest.mark.parametrize("name", _targets("rawSql"))
def test_panels_of_tables_honour_the_time_range_and_name_the_currency(name: str) -> None:
    sql = _targets("rawSql")[name]["rawSql"]
    assert re.search(r"\$__time(Filter|From|To)\b", sql), f"{name}: the same for any time range"
    is_money = "${currency" in sql and not re.search(r"\bas (\w+_share|idle)\b", sql)
    assert not is_money or "$currency" in name, f"{name}: money without a currency"


def test_panels_do_not_overlap_and_ask_a_source_that_is_provisioned() -> None:
    path = DOCKER / "grafana" / "provisioning" / "datasources" / "datasources.yaml"
    sources = {(source["uid"], source["type"]) for source in _yaml(path)["datasources"]}
    for dashboard in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in _panels(dashboard):
            for target in panel["targets"]:
                assert (target["datasource"]["uid"], target["datasource"]["type"]) in sources
            at = panel["gridPos"]
            cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
            assert not taken & cells and at["x"] + at["w"] <= 24, f"{dashboard.name}: {panel['title']}"
            taken |= cells


def test_metrics_of_alerts_and_dashboards_exist() -> None:
    rules = chain.from_iterable(g["rules"] for g in _yaml(DOCKER / "prometheus" / "rules" / "alerts.yml")["groups"])
    alerts = set(chain.from_iterable(_metrics(rule["expr"]) for rule in rules))
    panels = set(chain.from_iterable(_metrics(target["expr"]) for target in _targets("expr").values()))
    assert alerts <= panels, "what alerts should be seen"
    assert panels == JOB_METRICS | ENGINE_METRICS
    tested = _metrics((DOCKER / "prometheus" / "alerts_test.yml").read_text(encoding="utf-8"))
    assert tested <= alerts
