"""A run told by a file: it says what arguments say, they go before it, and what is wrong is named by file and key."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import config, pipeline, submission
from jobs.errors import UsageError
from jobs.pipeline import EXAMPLE

KAFKA = 'input = "kafka://h:9092"\noutput = "kafka://h:9092"\n'
HERE = 'input = "world"\noutput = "tables"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a world, which isn't the current one."""
    (tmp_path / "there/world").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "there"


def write(folder: Path, text: str) -> str:
    (folder / "pipeline.toml").write_text(text, encoding="utf-8")
    return "there/pipeline.toml"


def load(folder: Path, text: str, *arguments: str) -> config.Config:
    return config.load(["--pipeline", write(folder, text), *arguments])


def test_a_file_says_what_arguments_say(folder: Path) -> None:
    (folder / "aliases.csv").write_text("billed_id,observed_id\npool,node-*\n")
    told = load(
        folder,
        """
        input = "world"
        output = ["tables", "postgresql://user@host/database"]
        state = "state"
        [settings]
        "rank.by" = "score"
        "unit_costs.attributes" = ["tenant.id", "feature"]
        "resources.aliases" = "aliases.csv"
        billing.from = "bills"
        parallelism.default = 2
        pipeline.object-reuse = true
        """,
    )
    arguments = ["--input", folder / "world", "--output", folder / "tables", "--state", folder / "state"]
    settings = {
        "rank.by": "score",
        "unit_costs.attributes": "tenant.id,feature",
        "resources.aliases": folder / "aliases.csv",
        "billing.from": folder / "bills",
        "parallelism.default": 2,
        "pipeline.object-reuse": "true",
    }
    arguments += ["--output", "postgresql://user@host/database"]
    for key, value in settings.items():
        arguments += ["--set", f"{key}={value}"]
    expected = config.load(list(map(str, arguments)))
    assert told.resources.billed_as({"k8s.node.name": "node-1"}) == "pool"
    # Resources know no equality; what differs is who is named.
    assert replace(told, resources=expected.resources, output_told=expected.output_told) == expected


def test_arguments_go_before_the_file(folder: Path, tmp_path: Path) -> None:
    text = HERE + '[settings]\n"rank.by" = "score"\n"incident.quiet" = "1 h"\nparallelism.default = 2\n'
    told = load(folder, text, "--output", "mine", "--set", "rank.by=excess", "--set", "parallelism.default=3")
    assert told.outputs == (tmp_path / "mine",) and told.input == folder / "world"
    assert (told.rank_by, told.incident_quiet_ms, told.engine["parallelism.default"]) == ("excess", 3_600_000, "3")
    assert load(folder, KAFKA + "bounded = true").bounded
    assert not load(folder, KAFKA + "bounded = true", "--no-bounded").bounded
    # What is wrong is named by who said it.
    with pytest.raises(UsageError, match=r"^--set rank.by=x: "):
        load(folder, text, "--set", "rank.by=x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("colour = 1", "colour: no such key"),
        ("settings = 1", "settings: must be a table"),
        ('input = "world"', "output: missing"),
        ("bounded = true", "input and there/pipeline.toml: output: missing"),
        ("input = 1", "input: must be text"),
        ('input = "none"\noutput = "tables"', "input /.*/there/none: no such directory"),
        ('input = "s3://bucket"\noutput = "tables"', "input s3://bucket: s3:// is not known"),
        ('input = "kafka://h"\noutput = "kafka://h:9092"', "input: kafka://h: must be"),
        ('input = "kafka://h:9092"\noutput = "tables"', "output /.*/there/tables: a directory gets its tables"),
        ('input = "world"\noutput = ["tables", 1]', "output: must be text"),
        ('input = "world"\noutput = ["a", "b"]', "output: one directory"),
        (HERE + "bounded = 1", "bounded: must be true or false"),
        (HERE + 'state = ""', "state: must be text, and not empty"),
        (HERE + "[settings]\ncolour = 1", "settings.colour: no such setting"),
        (HERE + '[settings]\nrank.by = "x"', "settings.rank.by=x: must be one of excess"),
        (HERE + '[settings]\nrank.by = "score"\n"rank.by" = "score"', "settings.rank.by: is there twice"),
        (HERE + "[settings]\nrank.by = 2026-01-01", "settings.rank.by: must be text, a number"),
        (HERE + "[settings]\nbilling.wait = 72", "settings.billing.wait=72: must be as 500 ms"),
        (HERE + "[settings]\nparallelism.default = 0", "settings.parallelism.default=0: must be a whole"),
        (HERE + '[settings]\nprices = "none.csv"', "settings.prices: .*/there/none.csv"),
        (HERE + '[settings]\ncurrency.target = "EUR"', "settings.currency.target: give both"),
        (KAFKA + '[settings]\nkafka.start = "soon"', "settings.kafka.start=soon: must be"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_key_in_one_line(folder: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(folder, text)
    found = str(caught.value)
    # Of two settings that belong together the one that isn't there is named as an argument.
    assert re.search(f"^(--set currency.rates and )?there/pipeline.toml: {told}", found) and "\n" not in found, found


@pytest.mark.parametrize("url", ["s3://bucket/tables", "kafka://h", "postgresql://host/database"])
def test_an_output_that_no_one_can_open_is_named_likewise(folder: Path, url: str) -> None:
    with pytest.raises(UsageError, match=f"^there/pipeline.toml: output: .*{url}"):
        submission._reached(load(folder, f'input = "world"\noutput = "{url}"'), folder)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('output = "postgresql://user:hush@host/database"', "output"),
        ('output = ["postgresql://user@host/database?password=hush"]', "output"),
        ('[settings]\n"kafka.sasl.password" = "hush"', "settings.kafka.sasl.password"),
        ('[settings]\n"billing.from" = "s3://key:hush@bucket/bill"', "settings.billing.from"),
    ],
)
def test_a_secret_is_refused_and_not_shown(folder: Path, text: str, key: str) -> None:
    with pytest.raises(UsageError, match=f"^there/pipeline.toml: {re.escape(key)}: .*in the environment") as caught:
        load(
            folder, text if key == "output" else KAFKA + text, "--input", "kafka://h:9092", "--output", "kafka://h:9092"
        )
    assert "hush" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="^--pipeline none.toml: no such file"):
        config.load(["--pipeline", "none.toml"])
    with pytest.raises(UsageError, match="^--pipeline there/pipeline.toml: .*line 1"):
        load(folder, "input world\n")


def test_the_example_is_read_and_shows_every_setting_with_its_default(folder: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert load(folder, text).outputs == (folder / "tables",)
    # A line of it that is commented out is a key, or a sentence.
    whole = re.sub(r'^# (?="[\w.]+" = |bounded = |state = )', "", text, flags=re.M)
    assert set(tomllib.loads(whole)) == set(pipeline.KEYS)
    shown = tomllib.loads(whole)["settings"]
    assert config.JOB_SETTINGS.keys() <= shown.keys()
    for key, default in config.JOB_SETTINGS.items():
        if default and key != "detector.models":
            assert (",".join(shown[key]) if isinstance(shown[key], list) else shown[key]) == default, key
    write(folder, whole)
    told = pipeline.read(folder / "pipeline.toml")
    config._settings(told.settings)
