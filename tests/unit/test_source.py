"""What of a directory is read: the engine takes the files that ``find`` tells, and no others."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from jobs import source
from tests.literal import NOON_MS, charge, write_bill

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
    found = source.find(root, "EffectiveCost")
    # The engine visits all folders, and leaves hidden files out by itself.
    visited = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith((".", "_"))]
    for stream, topic in (("traces", "otlp_spans"), ("metrics", "otlp_metrics"), ("logs", "otlp_logs")):
        read = [path for path in visited if re.fullmatch(environment.patterns[topic], str(path))]
        assert sorted(read) == found[stream]
        assert {str(path.relative_to(root)) for path in read} == {name for name, of in FILES.items() if of == stream}
