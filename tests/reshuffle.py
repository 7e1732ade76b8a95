"""The same records in other files: what a job must not notice."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path


def _lines(folder: Path) -> list[bytes]:
    lines: list[bytes] = []
    for path in sorted(folder.glob("*")):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            lines += stream.read().splitlines()
    return lines


def reshuffle(source: Path, target: Path, seed: int = 11, parts: int = 5) -> None:
    """Write the telemetry and bills of ``source`` anew: shuffled, in ``parts`` files of each stream that
    overlap in time, some of them compressed, every tenth telemetry request delivered twice, and every
    tenth row of the bill delivered in two files."""
    draw = random.Random(seed)
    for stream in ("traces", "metrics", "logs"):
        lines = _lines(source / stream)
        lines += lines[::10]
        draw.shuffle(lines)
        (target / stream).mkdir(parents=True)
        for part in range(parts):
            # Names that sort against the order of time.
            path = target / stream / f"{parts - part}.jsonl"
            body = b"\n".join(lines[part::parts]) + b"\n"
            if part % 2:
                path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(body, 1))
            else:
                path.write_bytes(body)
    rows: list[dict[str, str]] = []
    for path in sorted((source / "billing").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as stream:
            rows += csv.DictReader(stream)
    draw.shuffle(rows)
    (target / "billing").mkdir(parents=True)
    for part in range(2):
        with (target / f"billing/{part}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows[part::2])
            writer.writerows(rows[1 - part :: 20])
