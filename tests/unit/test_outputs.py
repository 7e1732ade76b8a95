"""Where the tables go: an output is found by its URL's scheme, and has every table with the contract's columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import config, sinks
from jobs.errors import UsageError
from jobs.sinks import Directory, Kafka, Postgres, open_output
from udfs.pure.contract import TABLES

CHANGES = Path("/scratch/changes")
PROPERTIES = {"security.protocol": "SSL"}


class Statements(list[str]):
    """In place of the engine: the statements that it was given."""

    def execute_sql(self, statement: str) -> None:
        self.append(statement)


def created(output: sinks.Output) -> dict[str, list[tuple[str, str]]]:
    """Sink table -> its columns and their types."""
    given = Statements()
    output.create(given, "output0_")
    found = {}
    for statement in given:
        name, body = re.match(r"create temporary table (\w+) \(\n(.+)\n\) with", statement, re.DOTALL).groups()
        found[name] = re.findall(r"^    `(\w+)` (.+),$", body, re.MULTILINE)
    return found


@pytest.mark.parametrize(
    ("url", "output"),
    [
        (Path("/tables"), Directory(CHANGES)),
        ("/tables", Directory(CHANGES)),
        ("file:///tables", Directory(CHANGES)),
        ("kafka://one:9092,two:9092", Kafka("one:9092,two:9092", PROPERTIES)),
        ("kafka://one:9092/", Kafka("one:9092", PROPERTIES)),
        ("postgresql://me@host/tables", Postgres("postgresql://me@host/tables")),
    ],
)
def test_the_scheme_tells_the_output(url: Path | str, output: sinks.Output) -> None:
    assert open_output(url, CHANGES, PROPERTIES) == output


def test_a_scheme_that_nobody_registered_is_wrong_use() -> None:
    with pytest.raises(UsageError, match=r"s3://bucket: s3:// is not known, .* file://, kafka://, postgresql://$"):
        open_output("s3://bucket", CHANGES, {})


def test_servers_that_cannot_be_told_from_the_url_are_wrong_use() -> None:
    with pytest.raises(UsageError, match=r"kafka://one: must be kafka://HOST:PORT"):
        open_output("kafka://one", CHANGES, {})


def test_a_new_output_takes_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere:
        def reach(self) -> None:
            pass

        def create(self, t_env: object, output: str) -> None:
            pass

        def inserts(self, output: str) -> Iterator[str]:
            return iter(())

    monkeypatch.setitem(sinks.OUTPUTS, "nowhere", lambda url, changes, properties: Nowhere())
    (url,) = config.load(["--input", "kafka://one:9092", "--output", "nowhere://", "--set", "detector=usual"]).outputs
    assert isinstance(open_output(url, CHANGES, {}), Nowhere)


@pytest.mark.parametrize("output", [Directory(CHANGES), Kafka("one:9092", PROPERTIES)], ids=["directory", "kafka"])
def test_every_table_has_a_sink_and_is_written_to_it(output: sinks.Output) -> None:
    expected = {
        f"output0_{name}": [(column.name, column.type.engine) for column in table.columns]
        for name, table in TABLES.items()
    }
    assert created(output) == expected
    inserts = [re.sub("select .* from", "select * from", statement) for statement in output.inserts("output0_")]
    assert inserts == [f"insert into output0_{n} select * from {n}_rows" for n in TABLES]


def test_a_topic_gets_no_payload_that_a_broker_refuses() -> None:
    """... which is in the key, too, in up to six bytes a character: 1 MB is what brokers take."""
    inserts = dict(zip(TABLES, Kafka("one:9092", PROPERTIES).inserts("output0_"), strict=True))
    insert = inserts["rejected_records"]
    columns = re.sub(r"case .* end", "payload", insert)
    names = ", ".join("payload" if name == "payload" else f"`{name}`" for name in TABLES["rejected_records"].names)
    assert columns == f"insert into output0_rejected_records select {names} from rejected_records_rows"
    (sent,) = re.findall(r"substring\(payload from 1 for (\d+)\)", insert)
    assert f"char_length(payload) <= {sent} then payload" in insert and "md5(payload)" in insert
    assert 2 * 6 * int(sent) <= 1_000_000


def test_postgresql_is_sent_each_table_once() -> None:
    output = Postgres("postgresql://me@host/tables")
    found = created(output)
    assert found.keys() == {"output0_restated", "output0_trace_verdicts", "output0_rejected_records"}
    for name in ("trace_verdicts", "rejected_records"):
        columns = [column for column, _ in found[f"output0_{name}"] if column != "record_id"]
        assert tuple(columns) == TABLES[name].names
    inserts = list(output.inserts("output0_"))
    assert len(inserts) == len(TABLES)
    for name in ("trace_verdicts", "rejected_records"):
        [insert] = [insert for insert in inserts if f"into output0_{name} " in insert]
        selected = re.search(r"select (.+) from", insert)[1]
        # As many values as columns: a comma within brackets parts no values.
        values = re.sub(r"\([^()]*\)", "", selected).split(", ")
        assert len(values) == len(found[f"output0_{name}"])


def test_the_rows_of_each_table_have_its_columns_in_order() -> None:
    given = Statements()
    sinks.create_rows(given, rejected_at_ms=5)
    assert len(given) == len(TABLES)
    for table, statement in zip(TABLES.values(), given, strict=True):
        assert f"view {table.name}_rows as" in statement
        selected = statement.split("select\n", 1)[1].split("\nfrom ")[0].split(",\n")
        names = [re.fullmatch(r"\s*(?:.* as )?`(\w+)`", expression)[1] for expression in selected]
        assert tuple(names) == table.names


@pytest.mark.parametrize("url", ["kafka://one", "postgresql://host/tables", "postgresql://me:secret@host/tables"])
def test_a_url_that_its_output_cannot_use_is_wrong_use(url: str) -> None:
    with pytest.raises(UsageError):
        open_output(url, CHANGES, {})


def test_the_command_leaves_urls_to_the_outputs(tmp_path: Path) -> None:
    """So that a new output has one place; those that no output takes are refused where outputs are opened."""
    arguments = ["--input", str(tmp_path), "--set", "detector=usual", "--output", "nowhere://there"]
    assert config.load(arguments).outputs == ("nowhere://there",)
