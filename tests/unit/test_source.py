"""What of a directory is read: the files that the engine gets, as far as they are whole, and what is told of others."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import pytest

from jobs import billing, source, telemetry
from jobs.errors import JobError, UsageError
from tests.literal import NOON_MS, charge, write_bill
from udfs.pure import bills
from udfs.pure.price import standing, to_decimal, to_units

REQUESTS = [json.dumps({"resourceSpans": [{"n": n, "of": "x" * n}]}).encode() for n in range(400)]
LINES = b"\n".join(REQUESTS) + b"\n"


class _Environment:
    """Takes what the source tables are told."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.views: dict[str, list] = {}

    def execute_sql(self, statement: str) -> None:
        topic = re.search(r"create temporary table (\w+)", statement)[1]
        path = re.search(r"'path' = 'file://(.*)'", statement)[1].replace("''", "'")
        self.folders[topic] = Path(path)

    def from_elements(self, rows: list, schema: object) -> list:
        return [value for (value,) in rows]

    def create_temporary_view(self, name: str, table: list) -> None:
        self.views[name] = table


def _created(root: Path, scratch: Path) -> _Environment:
    environment = _Environment()
    source.create(environment, root, "EffectiveCost", scratch)
    return environment


def _read(folder: Path) -> list[bytes]:
    """The lines that the engine reads: of each file that isn't hidden, unpacked if its name says so."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith((".", "_")):
            found += (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).splitlines()
    return found


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _look(tmp_path: Path, content: bytes, name: str = "a.jsonl.gz") -> tuple[list[bytes], list[tuple[str, str]]]:
    """What the engine gets of a file of traces, and (code, reason) of what is rejected."""
    _write(tmp_path / "in/traces" / name, content)
    files = telemetry.link(tmp_path / "in", tmp_path / "links")
    rejects = [json.loads(text) for text in files.rejects]
    assert all((one["stream"], one["payload"]) == ("otlp_spans", f"traces/{name}") for one in rejects)
    read = _read(tmp_path / "links/traces")
    assert bool(read) == bool(files.links["traces"])
    return read, [(one["code"], one["reason"]) for one in rejects]


def test_the_engine_reads_telemetry_at_any_depth_under_any_usual_name(tmp_path: Path) -> None:
    root = tmp_path / "O'Brien (a+b) $x"
    read = {
        "traces/a.json": "otlp_spans",
        "traces/b.json.gz": "otlp_spans",
        "traces/traces-2025-03-03T12-00-00.000.jsonl": "otlp_spans",
        "traces/year=2025/month=03/day=03/hour=12/minute=00/a b.jsonl.gz": "otlp_spans",
        "traces/traces/a.jsonl": "otlp_spans",
        "metrics/a.jsonl": "otlp_metrics",
        "logs/a.jsonl": "otlp_logs",
    }
    # Above or beside its folder, or still being written.
    others = ["backup/traces/a.jsonl", "traces/.a.jsonl", "traces/_tmp/a.jsonl", "a.jsonl"]
    for name in [*read, *others]:
        line = json.dumps({"resourceSpans": [], "name": name}).encode()
        _write(root / name, gzip.compress(line) if name.endswith(".gz") else line)
    write_bill(root / "billing/a.csv", [charge("node-1", NOON_MS, NOON_MS + 1, "1")])
    environment = _created(root, tmp_path / "my scratch")
    found = {json.loads(line)["name"]: topic for topic, at in environment.folders.items() for line in _read(at)}
    assert found == read
    [delivery] = environment.views["bill_deliveries"]
    assert "a.csv" in delivery and environment.views["rejected_files"] == []


def test_a_gzip_that_is_cut_short_gives_its_whole_lines_and_a_reject(tmp_path: Path) -> None:
    whole = gzip.compress(LINES)
    read, rejects = _look(tmp_path, whole[: len(whole) // 2])
    assert 50 < len(read) < len(REQUESTS) and read == REQUESTS[: len(read)]
    assert rejects == [("file_broken", f"broken (cut short), its first {len(read)} requests are read")]


def test_a_gzip_that_lost_its_check_alone_gives_all_its_lines(tmp_path: Path) -> None:
    read, rejects = _look(tmp_path, gzip.compress(LINES.rstrip())[:-8])
    assert read == REQUESTS and [code for code, _ in rejects] == ["file_broken"]


def test_a_damaged_gzip_gives_what_comes_before_the_damage(tmp_path: Path) -> None:
    members = [gzip.compress(line + b"\n") for line in REQUESTS]
    damaged = b"".join(members[:200]) + b"\xff" * 40 + b"".join(members[200:])
    read, rejects = _look(tmp_path, damaged)
    assert read == REQUESTS[:200]
    assert rejects[0][0] == "file_broken" and "header" in rejects[0][1]


def test_a_gzip_of_many_members_and_of_zeros_at_its_end_is_whole(tmp_path: Path) -> None:
    assert _look(tmp_path, b"".join(gzip.compress(line + b"\n") for line in REQUESTS) + bytes(512)) == (REQUESTS, [])


@pytest.mark.parametrize(
    ("name", "content", "code", "reason"),
    [
        ("a.jsonl.gz", b"", "file_broken", "of no bytes"),
        ("a.jsonl.gz", gzip.compress(b"")[:6], "file_broken", "cut short"),
        ("a.json.gz", gzip.compress(json.dumps([{"x": 1}] * 99, indent=1).encode())[:40], "file_broken", "0 requests"),
        ("a.json", b"\x28\xb5\x2f\xfd\x00\x01", "file_broken", "zstd, not JSON: unpack it first"),
        ("a.json", b'{\n  "resourceSpans": [\n', "file_broken", "neither a request a line nor one JSON document"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd", "file_skipped", "its name must end in .json, .jsonl"),
        ("README.md", b"# Traces", "file_skipped", "its name must end in .json, .jsonl"),
    ],
    ids=["no bytes", "cut short", "document cut short", "zstd", "neither", "name of zstd", "another name"],
)
def test_what_cannot_be_read_is_a_reject_that_names_the_file(
    tmp_path: Path, name: str, content: bytes, code: str, reason: str, capsys: pytest.CaptureFixture
) -> None:
    read, [(found, told)] = _look(tmp_path, content, name)
    assert read == [] and found == code and reason in told
    line, summary = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "in/traces" / name) in line and reason in line
    assert "1 files were skipped or are broken" in summary


def test_a_link_to_nothing_and_one_that_leads_back_are_survived(tmp_path: Path) -> None:
    _write(tmp_path / "in/traces/a.jsonl", REQUESTS[0])
    (tmp_path / "in/traces/gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in/traces/again").symlink_to(tmp_path / "in/traces")
    os.mkfifo(tmp_path / "in/traces/pipe.jsonl")
    files = telemetry.link(tmp_path / "in", tmp_path / "links")
    assert _read(tmp_path / "links/traces") == [REQUESTS[0]]
    told = {json.loads(text)["payload"]: json.loads(text)["reason"] for text in files.rejects}
    assert told == {
        "traces/gone.jsonl": "cannot be read (a link to nothing)",
        "traces/pipe.jsonl": "cannot be read (not a file)",
    }


def test_compression_is_told_by_the_bytes(tmp_path: Path) -> None:
    _write(tmp_path / "in/traces/a.jsonl", gzip.compress(REQUESTS[0]))
    assert _look(tmp_path, REQUESTS[1], "b.jsonl.gz") == ([REQUESTS[0], REQUESTS[1]], [])


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
@pytest.mark.parametrize("indent", [2, None])
@pytest.mark.parametrize("is_array", [True, False])
def test_one_json_document_is_read_as_its_requests(tmp_path: Path, name: str, indent: int, is_array: bool) -> None:
    requests = [json.loads(line) for line in REQUESTS[:3]] if is_array else json.loads(REQUESTS[0])
    text = b"\xef\xbb\xbf" + json.dumps(requests, indent=indent).encode()
    read, rejects = _look(tmp_path, gzip.compress(text) if name.endswith(".gz") else text, name)
    found = [json.loads(line.removeprefix(b"\xef\xbb\xbf")) for line in read]
    assert (found, rejects) == (requests if is_array else [requests], [])


def test_lines_of_which_the_first_is_broken_are_read_one_by_one(tmp_path: Path) -> None:
    text = b'{"resourceSp\n' + LINES
    assert _look(tmp_path, text, "a.json") == (text.splitlines(), [])


def test_a_line_that_is_broken_is_a_record_even_where_it_is_alone(tmp_path: Path) -> None:
    """... so that its reject is the same in whatever file it stands."""
    assert _look(tmp_path, b"{ not json", "a.json") == ([b"{ not json"], [])


def test_a_document_longer_than_is_read_at_once_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_DOCUMENT_MAX_BYTES", 2 << 20)
    text = json.dumps({"resourceSpans": ["x" * (3 << 20)]}, indent=1).encode()
    read, [(code, reason)] = _look(tmp_path, text, "a.json")
    assert (read, code) == ([], "file_broken") and "one JSON document of more than 2 MiB" in reason


def test_many_files_are_counted_and_not_all_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(50):
        _write(tmp_path / f"in/traces/{number}.txt", b"")
    assert len(telemetry.link(tmp_path / "in", tmp_path / "links").rejects) == 50
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 21 and "50 files" in told[-1]


def test_a_directory_of_broken_telemetry_alone_is_an_input_and_one_of_other_files_is_none(tmp_path: Path) -> None:
    _write(tmp_path / "broken/traces/a.jsonl.gz", b"")
    environment = _created(tmp_path / "broken", tmp_path / "scratch")
    assert len(environment.views["rejected_files"]) == 1
    _write(tmp_path / "other/traces/a.txt", b"{}")
    with pytest.raises(
        UsageError, match=r"nothing to read, it must hold some of traces/\*\.jsonl, .*, billing/\*\.csv"
    ):
        _created(tmp_path / "other", tmp_path / "scratch")


def test_a_reader_gets_the_requests_of_whatever_the_engine_reads(tmp_path: Path) -> None:
    """... as the report does."""
    whole = gzip.compress(LINES)
    document = json.dumps([json.loads(line) for line in REQUESTS], indent=1).encode()
    contents = {"a.json.gz": gzip.compress(document), "b.jsonl": LINES, "c.txt": LINES, "d.json": b"{\n  no"}
    paths = {name: _write(tmp_path / name, content) for name, content in contents.items()}
    found = {name: [json.loads(line) for line in telemetry.lines(path)] for name, path in paths.items()}
    requests = [json.loads(line) for line in REQUESTS]
    assert found == {"a.json.gz": requests, "b.jsonl": requests, "c.txt": [], "d.json": []}
    cut = list(telemetry.lines(_write(tmp_path / "e.jsonl.gz", whole[: len(whole) // 2])))
    assert 50 < len(cut) < len(REQUESTS)


def charged(where: Path) -> str:
    """The sum of the bill as the job reads it."""
    deliveries = billing.find(where, "EffectiveCost").deliveries
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
    # What may come to be read is no reject.
    [text] = billing.find(tmp_path, "EffectiveCost").rejects
    rejected = json.loads(text)
    assert (rejected["stream"], rejected["code"]) == ("focus_charges", "file_skipped")
    assert rejected["payload"] == f"{tmp_path.name}/x/bill.xlsx"
    capsys.readouterr()
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
    assert billing.find(tmp_path / "nowhere", "EffectiveCost") == ([], [])
