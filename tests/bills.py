"""Deliveries of a bill as the providers' documentation has them, made from the FOCUS sample."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT.parent / "shared/data/focus-sample/billing/focus_sample.csv"
# What the sample's rows cost, in USD.
SAMPLE_COST = "14.97651418586"

Rows = list[dict[str, str]]
# Writes a file: path, content, and when.
Write = Callable[[str, bytes, datetime], None]

BEGIN = datetime(2024, 10, 1, 6, tzinfo=UTC)


def sample() -> Rows:
    """Rows of the sample."""
    with SAMPLE.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def correction(row: Mapping[str, str], cost: str) -> dict[str, str]:
    """What is added to a row's cost after its month was closed."""
    costs = dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), cost)
    return {**row, **costs, "ChargeClass": "Correction"}


def snapshots(rows: Sequence[dict[str, str]], hours: int = 48) -> Iterator[tuple[str, Rows]]:
    """(what it is, the whole month) of each delivery: hourly ones of an open month that grows and whose costs change,
    one that shrank, one of the month when it was closed, and one with corrections.
    """
    rows = [row | {"BillingPeriodStart": "2024-09-01T00:00:00Z"} for row in rows]
    for hour in range(1, hours + 1):
        yield f"hour {hour}", _restated(rows[: len(rows) * hour // hours], hour)
    yield "shrunken", _restated(rows[: len(rows) // 3], hours)
    yield "closed", rows
    yield "corrected", [*rows, *(correction(row, "-0.000000000007") for row in rows[::10])]
    yield "corrected less", [*rows, *(correction(row, "-0.000000000007") for row in rows[::30])]
    yield "corrected again", [*rows, *(correction(row, "-0.000000000007") for row in rows[::10])]


def _restated(rows: Sequence[dict[str, str]], hour: int) -> Rows:
    """Every seventh row costs something else than an hour before."""
    return [
        row | {"EffectiveCost": str(Decimal(row["EffectiveCost"]) + hour)} if (number + hour) % 7 == 0 else row
        for number, row in enumerate(rows)
    ]


def recency(complete_until: datetime, first: datetime = datetime(2024, 9, 1, tzinfo=UTC)) -> dict[str, object]:
    """FOCUS Recency of a month from ``first`` on: its hours before a time are complete, the others aren't."""
    hours = [first + timedelta(hours=hour) for hour in range(24 * 31)]
    return {
        "DatasetInstanceId": "1234-abcde-12345-abcde-12345",
        "TimeSectors": [
            {
                "TimeSectorStart": f"{hour:%Y-%m-%dT%H:00:00Z}",
                "TimeSectorEnd": f"{hour + timedelta(hours=1):%Y-%m-%dT%H:00:00Z}",
                "TimeSectorComplete": hour < complete_until,
                "TimeSectorLastUpdated": f"{complete_until:%Y-%m-%dT%H:00:00Z}",
            }
            for hour in hours
        ],
    }


def text_of(rows: Sequence[Mapping[str, str]], header: Sequence[str]) -> bytes:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


class Export:
    """Writes deliveries of one month, in parts, as one layout has them."""

    def __init__(self, layout: str, write: Write, header: Sequence[str]) -> None:
        self._layout, self._write, self._header = layout, write, header
        self._count = 0

    def deliver(self, rows: Rows, parts: int = 2, hour: int | None = None) -> None:
        """One more delivery, an hour after the one before, or at an hour."""
        self._count = self._count + 1 if hour is None else hour
        at = BEGIN + timedelta(hours=self._count)
        # The name of a later one sorts before.
        token = f"{9999 - self._count:08d}"
        texts = [text_of(rows[number::parts], self._header) for number in range(parts)]
        getattr(self, f"_{self._layout}")(texts, at, token)

    def say(self, name: str, content: object) -> None:
        """Metadata beside the bill, as of the last delivery; all exports of a layout have one folder for it."""
        root = "exports/focus/" if self._layout.startswith("aws") else ""
        at = BEGIN + timedelta(hours=self._count)
        self._write(f"{root}metadata/{name}.json", json.dumps(content).encode(), at)

    def _aws(self, texts: list[bytes], at: datetime, execution: str) -> None:
        data, metadata = (f"exports/focus/{kind}/BILLING_PERIOD=2024-09/{execution}" for kind in ("data", "metadata"))
        names = [f"focus-{number:05}.csv" for number in range(1, len(texts) + 1)]
        for name, text in zip(names, texts, strict=True):
            self._write(f"{data}{name}", text, at)
        listed = {"dataFiles": [f"s3://bucket/some/{data}{name}" for name in names]}
        self._write(f"{metadata}focus-Manifest.json", json.dumps(listed).encode(), at)

    def _aws_overwrite(self, texts: list[bytes], at: datetime, token: str) -> None:
        self._aws(texts, at, "")

    def _aws_create_new(self, texts: list[bytes], at: datetime, token: str) -> None:
        self._aws(texts, at, f"{at:%Y-%m-%dT%H:%M:%S}.000Z-{token}/")

    def _azure(self, texts: list[bytes], at: datetime, token: str) -> None:
        run = f"{token}-1111-2222-3333-444444444444"
        folder = f"costs/daily/20240901-20240930/{at:%Y%m%d%H%M}/{run}"
        names = [f"part_{number}_0001.csv" for number in range(len(texts))]
        for name, text in zip(names, texts, strict=True):
            self._write(f"{folder}/{name}", text, at)
        manifest = {
            "manifestVersion": "2024-04-01",
            "exportConfig": {"exportName": "daily", "type": "FocusCost"},
            "deliveryConfig": {"partitionData": True, "dataOverwriteBehavior": "CreateNewReport"},
            "runInfo": {"submittedTime": f"{at:%Y-%m-%dT%H:%M:%S}.0361072Z", "runId": run},
            "blobs": [{"blobName": f"container/{folder}/{name}"} for name in names],
        }
        self._write(f"{folder}/manifest.json", json.dumps(manifest).encode(), at)

    def _google(self, texts: list[bytes], at: datetime, token: str) -> None:
        for number, text in enumerate(texts):
            self._write(f"focus/{at:%Y%m%dT%H%M}/bill-{number:012}.csv", text, at)

    def _file(self, texts: list[bytes], at: datetime, token: str) -> None:
        head, _, _ = texts[0].partition(b"\r\n")
        rows = b"".join(text.removeprefix(head + b"\r\n") for text in texts)
        self._write("2024-09.csv", head + b"\r\n" + rows, at)


LAYOUTS = ("aws_overwrite", "aws_create_new", "azure", "google", "file")
