"""What of a directory is read: the engine takes the files that ``find`` tells, and no others."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from jobs import billing, source
from jobs.errors import JobError
from tests.literal import NOON_MS, charge, write_bill
from udfs.pure import bills
from udfs.pure.price import standing, to_decimal, to_units

FILES = {
    "traces/a.jsonl": "traces",
    "traces/b.jsonl.gz": "traces",
    "metrics/a.jsonl": "metrics",
    "logs/a.jsonl": "logs",
    # What is no input: below, above or beside its folder, of another kind, still being written.
    "backup/traces/a.jsonl": None,
    "traces/old/a.jsonl": None,
    "traces/traces/a.jsonl": None,
    "traces/a.json": None,
    "traces/.a.jsonl": None,
    "traces/_a.jsonl": None,
    "a.jsonl": None,
}


class _Environment:
    """Takes what the source tables are told."""

    def __init__(self) -> None:
        self.patterns: dict[str, str] = {}

    def execute_sql(self, statement: str) -> None:
        topic = re.search(r"create temporary table (\w+)", statement)[1]
        self.patterns[topic] = re.search(r"'source.path.regex-pattern' = '(.*)'", statement)[1].replace("''", "'")

    def from_elements(self, rows: list, schema: object) -> None:
        """The bills."""

    def create_temporary_view(self, name: str, table: None) -> None:
        """The bills."""


def test_the_engine_reads_the_files_that_are_found(tmp_path: Path) -> None:
    root = tmp_path / "O'Brien (a+b) $x"
    for name in FILES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"{}") if path.suffix == ".gz" else b"{}")
    write_bill(root / "billing/a.csv", [charge("node-1", NOON_MS, NOON_MS + 1, "1")])
    environment = _Environment()
    source.create(environment, root, "EffectiveCost")
    found = source.find(root)
    # The engine visits all folders, and leaves hidden files out by itself.
    visited = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith((".", "_"))]
    for stream, topic in (("traces", "otlp_spans"), ("metrics", "otlp_metrics"), ("logs", "otlp_logs")):
        read = [path for path in visited if re.fullmatch(environment.patterns[topic], str(path))]
        assert sorted(read) == found[stream]
        assert {str(path.relative_to(root)) for path in read} == {name for name, of in FILES.items() if of == stream}


def charged(where: Path) -> str:
    """The sum of the bill as the job reads it."""
    deliveries = billing.find(where, "EffectiveCost")
    charges = [value for text in deliveries for _, _, value in bills.collect(text, "EffectiveCost")]
    return f"{to_decimal(sum(to_units(each['cost']) for each in standing(charges))).normalize():f}"


def deliver(export: Path, execution: str, costs: dict[str, str], parts: int = 1) -> None:
    """A month of a bill as AWS Data Exports delivers it, under an execution or ("") overwritten."""
    data, metadata = (export / kind / "BILLING_PERIOD=2025-03" / execution for kind in ("data", "metadata"))
    rows = [charge(node, NOON_MS, NOON_MS + 3_600_000, cost) for node, cost in costs.items()]
    names = [f"x-{number:05}.csv" for number in range(1, parts + 1)]
    for number, name in enumerate(names):
        write_bill(data / name, rows[number::parts])
    metadata.mkdir(parents=True, exist_ok=True)
    uris = [
        f"s3://bucket/exports/x/data/BILLING_PERIOD=2025-03/{execution and execution + '/'}{name}" for name in names
    ]
    (metadata / "x-Manifest.json").write_text(json.dumps({"dataFiles": uris}))


@pytest.mark.parametrize("executions", [("", ""), ("2025-03-04T06:00:00.000Z-1", "2025-03-05T06:00:00.000Z-0")])
def test_a_delivery_that_shrank_is_counted_once(tmp_path: Path, executions: tuple[str, str]) -> None:
    """What it leaves out is gone: rows, and a file that lies there still."""
    deliver(tmp_path / "x", executions[0], {"node-1": "1", "node-2": "2", "node-3": "4"}, parts=2)
    assert charged(tmp_path) == "7"
    deliver(tmp_path / "x", executions[1], {"node-1": "8"})
    assert charged(tmp_path) == "8"


def test_identical_rows_in_two_parts_of_a_delivery_are_two_charges(tmp_path: Path) -> None:
    row = charge("node-1", NOON_MS, NOON_MS + 3_600_000, "1")
    deliver(tmp_path / "x", "", {"node-1": "1", "node-2": "1"}, parts=2)
    for path in (tmp_path / "x/data/BILLING_PERIOD=2025-03").glob("*.csv"):
        write_bill(path, [row])
    assert charged(tmp_path) == "2"


def test_what_of_a_bill_is_not_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    deliver(tmp_path / "x", "", {"node-1": "1"})
    write_bill(tmp_path / "by-hand/last.csv", [charge("node-9", NOON_MS, NOON_MS + 3_600_000, "32")])
    (tmp_path / "x/bill.xlsx").write_bytes(b"PK")
    (tmp_path / "x/metadata/BILLING_PERIOD=2025-03/x-Manifest.json").unlink()
    assert charged(tmp_path) == "32"
    assert capsys.readouterr().err.splitlines() == [
        f"anomaly_cost: {tmp_path}/x/data/BILLING_PERIOD=2025-03/x-00001.csv: skipped, its manifest"
        " x/metadata/BILLING_PERIOD=2025-03/*-Manifest.json is not there (yet)",
        f"anomaly_cost: {tmp_path}/x/bill.xlsx: skipped, not a bill by its name (.csv, .csv.gz, .parquet)",
    ]


def test_a_bill_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a/b/c.csv"
    path.parent.mkdir(parents=True)
    path.write_text("Colour\nred\n")
    with pytest.raises(JobError, match=rf"^{re.escape(str(path))}: not a FOCUS bill"):
        billing.find(tmp_path, "EffectiveCost")
    with pytest.raises(JobError, match="^ftp://x: ftp:// is not known"):
        billing.find("ftp://x", "EffectiveCost")
    assert billing.find(tmp_path / "nowhere", "EffectiveCost") == []
