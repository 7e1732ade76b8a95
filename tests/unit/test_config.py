"""The command line: what it asks for, and the one line for what it can't mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import config
from jobs.errors import UsageError


def test_engine_settings_are_flink_conf_overlaid_by_set(tmp_path: Path) -> None:
    loaded = config.load(
        ["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--set", "parallelism.default=1"]
    )
    assert loaded.engine["parallelism.default"] == "1"
    assert loaded.engine["execution.runtime-mode"] == "STREAMING"
    assert loaded.engine["table.exec.mini-batch.enabled"] == "true"
    assert loaded.cost_column == "EffectiveCost"


def test_cost_column_is_a_setting(tmp_path: Path) -> None:
    argv = ["--input", str(tmp_path), "--output", str(tmp_path), "--set", "cost.column=BilledCost"]
    assert config.load(argv).cost_column == "BilledCost"


def test_aliases_are_read_once_with_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "aliases.csv").write_text("billed_id,observed_id\npool,node-*\n")
    argv = ["--input", str(tmp_path), "--output", str(tmp_path)]
    loaded = config.load([*argv, "--set", f"resources.aliases={tmp_path / 'aliases.csv'}"])
    assert loaded.resources.billed_as({"k8s.node.name": "node-1"}) == "pool"
    assert config.load(argv).resources.billed_as({"k8s.node.name": "node-1"}) == "node-1"
    sent = {"host.id": "i-0abc", "k8s.node.name": "node-1"}
    trusting = config.load([*argv, "--set", "resources.trust=k8s.node.name"]).resources
    assert (trusting.billed_as(sent), config.load(argv).resources.billed_as(sent)) == ("node-1", "i-0abc")


def test_cost_centres_are_those_of_the_file_of_budgets(tmp_path: Path) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text('[[budgets]]\nname = "x"\n[cost_centers]\n4711 = ["shop/*"]\nrest = ["*"]\n')
    argv = ["--input", str(tmp_path), "--output", str(tmp_path)]
    found = config.load([*argv, "--set", f"cost_centers={path}"]).money.cost_centers
    assert (found.of("shop/cart"), found.of("__idle__")) == ("4711", "rest")
    assert config.load(argv).money.cost_centers.of("shop/cart") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[cost_centers]\n4711 = 'shop'\n", "cost_centers.4711: must be a list of names"),
        ("[teams]\na = ['*']\n", "must hold [cost_centers]"),
        ("[cost_centers\n", "Expected"),
    ],
)
def test_a_wrong_file_of_cost_centres_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        config.load(["--input", str(tmp_path), "--output", str(tmp_path), "--set", f"cost_centers={path}"])
    assert str(error.value).startswith(f"--set cost_centers {path}: ") and told in str(error.value)


@pytest.mark.parametrize(("told", "ms"), [("250 ms", 250), ("2s", 2_000), ("3 min", 180_000)])
def test_a_duration_has_its_unit(told: str, ms: int) -> None:
    argv = ["--input", "kafka://h:9092", "--output", "kafka://h:9092", "--set", f"emit.every={told}"]
    assert config.load(argv).pace.emit_every_ms == ms


def test_where_the_input_has_no_end_rows_wait_less_unless_set_otherwise(tmp_path: Path) -> None:
    waits = "table.exec.mini-batch.allow-latency", "python.fn-execution.bundle.time"
    argv = ["--input", "kafka://h:9092", "--output", "kafka://h:9092"]
    assert [config.load(argv).engine[name] for name in waits] == list(config.AT_ONCE.values())
    assert config.load([*argv, "--bounded"]).engine[waits[0]] == "5 s"
    assert config.load([*argv, "--set", f"{waits[0]}=2 s"]).engine[waits[0]] == "2 s"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "--input"),
        (["--input", "{dir}"], "--output"),
        (["--input", "{dir}/none", "--output", "{dir}"], "no such directory"),
        (["--input", "{dir}", "--output", "{dir}", "--frobnicate"], "--frobnicate"),
        (["--input", "{dir}", "--output", "{dir}", "--set", "parallelism.default"], "KEY=VALUE"),
        (["--input", "{dir}", "--output", "{dir}", "--set", "colour=red"], "no such setting"),
        (["--input", "{dir}", "--output", "{dir}", "--set", "cost.column=Price"], "EffectiveCost"),
        (["--input", "{dir}", "--output", "{dir}", "--set", "system.namespaces=kube system"], "must be names"),
        (["--input", "{dir}", "--output", "{dir}", "--set", "resources.aliases={dir}/none.csv"], "none.csv"),
        (["--input", "{dir}", "--output", "{dir}", "--set", "resources.trust=host.ip"], "'host.ip' must be one of"),
        (["--input", "{dir}", "--output", "{dir}", "--set", "parallelism.default=two"], "whole number"),
        (["--input", "{dir}", "--output", "{dir}", "--set", "parallelism.default=0"], "whole number"),
        (["--input", "kafka://h:9092", "--output", "{dir}"], "kafka://"),
        (["--input", "{dir}", "--output", "{dir}/file"], "is a file"),
    ],
)
def test_wrong_use_is_told_in_one_line(tmp_path: Path, argv: list[str], told: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        config.load([word.format(dir=tmp_path) for word in argv])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_rule_is_the_detector_without_its_model_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--set"]
    assert config.load([*argv, "detector=usual"]).models is None
    assert capsys.readouterr().err == ""
    assert config.load([*argv, "detector=rule"]).models is None
    assert capsys.readouterr().err == "--set detector=rule is usual by now: the detector without its model\n"
    with pytest.raises(UsageError, match="must be one of masked, usual"):
        config.load([*argv, "detector=other"])
