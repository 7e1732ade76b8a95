"""Which files of a bill are current, by the layouts that the providers document."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import pytest

from udfs.pure.deliveries import Delivery, Object, current, is_manifest, told

DAY_MS = 86_400_000
NOON_MS = int(datetime(2026, 11, 3, 12, tzinfo=UTC).timestamp()) * 1000
AWS = "exports/focus"
MONTH = "BILLING_PERIOD=2026-11"
FIRST, SECOND = "2026-11-03T12:00:00.000Z-11aa", "2026-11-04T12:00:00.000Z-00bb"
RUN, LATER_RUN = "11111111-2222-3333-4444-555555555555", "00000000-2222-3333-4444-555555555555"


def found(
    files: dict[str, int], manifests: dict[str, object] | None = None, is_live: bool = False
) -> tuple[dict[str, Delivery], list[str]]:
    """Deliveries by scope, and what is said of the rest. files: path -> days after NOON; manifests are written last."""
    listing = [Object(path, 10, NOON_MS + int(days * DAY_MS)) for path, days in files.items()]
    texts = {}
    for path, content in (manifests or {}).items():
        assert is_manifest(path)
        texts[path] = content if isinstance(content, bytes) else json.dumps(content).encode()
        if path not in files:
            listing.append(Object(path, 10, NOON_MS + 9 * DAY_MS))
    deliveries, skipped = current(listing, texts, is_live)
    random.Random(7).shuffle(listing)
    assert current(listing, texts, is_live) == (deliveries, skipped)
    return {delivery.scope: delivery for delivery in deliveries}, list(told(skipped))


def uri(path: str) -> str:
    return f"s3://a-bucket/with/prefix/{path}"


def azure(kind: str = "FocusCost", submitted: str | None = None, names: tuple[str, ...] = ("part_0_0001.csv",)) -> dict:
    owner = "/providers/Microsoft.Billing/billingAccounts/1234567"
    return {
        "manifestVersion": "2024-04-01",
        "blobCount": len(names),
        "exportConfig": {
            "exportName": "daily",
            "resourceId": f"{owner}/providers/Microsoft.CostManagement/exports/daily",
            "type": kind,
            "timeFrame": "MonthToDate",
        },
        "deliveryConfig": {"partitionData": True, "dataOverwriteBehavior": "CreateNewReport"},
        "runInfo": {"submittedTime": submitted, "startDate": "2026-11-01T00:00:00", "endDate": "2026-11-04T00:00:00"},
        "blobs": [{"blobName": f"x/daily/20261101-20261130/202611030600/{RUN}/{name}"} for name in names],
    }


# ---- AWS ------------------------------------------------------------------------------------


def test_an_overwritten_month_is_the_files_that_its_manifest_lists():
    data = [f"{AWS}/data/{MONTH}/focus-0000{n}.snappy.parquet" for n in (1, 2, 3)]
    manifest = f"{AWS}/metadata/{MONTH}/focus-Manifest.json"
    deliveries, lines = found(dict.fromkeys(data, 0), {manifest: {"dataFiles": [uri(path) for path in data[:2]]}})
    [delivery] = deliveries.values()
    assert (delivery.files, delivery.is_snapshot) == (tuple(data[:2]), True)
    assert delivery.time_ms == NOON_MS + 9 * DAY_MS
    assert lines == [f"{data[2]}: skipped, a later delivery of its scope takes its place"]


@pytest.mark.parametrize("form", [str, lambda path: {"s3Uri": path}, lambda path: {"key": path.split("/", 3)[3]}])
def test_of_create_new_the_latest_execution_stands(form):
    old, new = f"{AWS}/data/{MONTH}/{FIRST}/f-00001.csv.gz", f"{AWS}/data/{MONTH}/{SECOND}/f-00001.csv.gz"
    manifests = {
        f"{AWS}/metadata/{MONTH}/{execution}/f-Manifest.json": {"dataFiles": [form(uri(path))]}
        for execution, path in ((FIRST, old), (SECOND, new))
    }
    # A copy may have any times.
    deliveries, lines = found({old: 5, new: 0}, manifests)
    [delivery] = deliveries.values()
    assert (delivery.files, delivery.time_ms) == ((new,), NOON_MS + DAY_MS)
    assert lines == [f"{old}: skipped, a later delivery of its scope takes its place"]


def test_an_execution_that_is_not_complete_leaves_the_one_before_it():
    old, new = f"{AWS}/data/{MONTH}/{FIRST}/f-00001.csv.gz", f"{AWS}/data/{MONTH}/{SECOND}/f-00001.csv.gz"
    manifest = {f"{AWS}/metadata/{MONTH}/{FIRST}/f-Manifest.json": {"dataFiles": [uri(old)]}}
    assert found({old: 0, new: 1}, manifest)[0][f"{AWS}/{MONTH}"].files == (old,)
    # With its manifest, but a file short.
    more = f"{AWS}/metadata/{MONTH}/{SECOND}/f-Manifest.json"
    listed = {more: {"dataFiles": [uri(new), uri(new.replace("-00001", "-00002"))]}}
    deliveries, lines = found({old: 0, new: 1}, manifest | listed)
    assert deliveries[f"{AWS}/{MONTH}"].files == (old,)
    assert f"{more}: skipped, its delivery is not complete: {new.replace('-00001', '-00002')} is not there yet" in lines


def test_a_month_without_its_manifest_is_not_taken():
    path = f"{AWS}/data/{MONTH}/focus-00001.csv.gz"
    deliveries, [line] = found({path: 0})
    assert deliveries == {}
    assert line == f"{path}: skipped, its manifest {AWS}/metadata/{MONTH}/*-Manifest.json is not there (yet)"


def test_a_month_that_is_being_overwritten_waits_for_its_manifest():
    path, manifest = f"data/{MONTH}/focus-00001.csv.gz", f"metadata/{MONTH}/focus-Manifest.json"
    listed = {manifest: {"dataFiles": [uri(path)]}}
    assert found({path: 2, manifest: 1}, listed)[0]  # a copy: its times say nothing
    deliveries, [line] = found({path: 2, manifest: 1}, listed, is_live=True)
    assert deliveries == {} and line.endswith(f"{path} is newer: it is being written again")
    assert found({path: 2, manifest: 2}, listed, is_live=True)[0]


def test_months_and_exports_are_scopes_of_their_own():
    files, manifests = {}, {}
    for export in ("a", "b"):
        for month in ("2026-10", "2026-11"):
            path = f"{export}/data/BILLING_PERIOD={month}/f-00001.csv.gz"
            files[path] = 0
            manifests[f"{export}/metadata/BILLING_PERIOD={month}/f-Manifest.json"] = {"dataFiles": [uri(path)]}
    assert {delivery.files for delivery in found(files, manifests)[0].values()} == {(path,) for path in files}


def test_a_month_of_which_nothing_is_left_is_a_delivery_of_no_files():
    deliveries, _ = found({}, {f"metadata/{MONTH}/f-Manifest.json": {"dataFiles": []}})
    assert [delivery.files for delivery in deliveries.values()] == [()]


def test_a_manifest_that_lists_nothing_known_takes_what_lies_beside_it():
    path = f"{AWS}/data/{MONTH}/{FIRST}/f-00001.csv.gz"
    deliveries, _ = found({path: 0}, {f"{AWS}/metadata/{MONTH}/{FIRST}/f-Manifest.json": {"exportArn": "arn"}})
    assert deliveries[f"{AWS}/{MONTH}"].files == (path,)


def test_a_folder_of_a_month_alone_promises_no_manifest():
    path = f"{MONTH}/focus-00001.csv.gz"
    assert found({path: 0})[0][path].files == (path,)


# ---- Azure ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["x/daily/20261101-20261130/{time}/{guid}", "x/20261101-20261130/daily/{time}/{guid}", "{guid}"]
)
def test_of_a_months_runs_the_one_that_was_submitted_last_stands(form):
    old, new = (
        form.format(time=time, guid=guid) for time, guid in (("202611030600", RUN), ("202611040600", LATER_RUN))
    )
    manifests = {
        f"{old}/manifest.json": azure(submitted="2026-11-03T06:00:00.0361072Z"),
        f"{new}/manifest.json": azure(submitted="2026-11-04T06:00:00.0361072Z"),
    }
    files = {f"{old}/part_0_0001.csv": 3, f"{new}/part_0_0001.csv": 2}
    deliveries, lines = found(files, manifests)
    [delivery] = deliveries.values()
    assert delivery.files == (f"{new}/part_0_0001.csv",)
    assert delivery.time_ms == NOON_MS + DAY_MS - 6 * 3_600_000
    assert lines == [f"{old}/part_0_0001.csv: skipped, a later delivery of its scope takes its place"]


def test_another_export_of_the_same_month_and_account_takes_its_place():
    daily, closed = azure(submitted="2026-11-30T06:00:00Z"), azure(submitted="2026-12-05T06:00:00Z")
    closed["exportConfig"] |= {"exportName": "monthly", "resourceId": closed["exportConfig"]["resourceId"][:-5] + "m"}
    manifests = {
        f"daily/20261101-20261130/{RUN}/manifest.json": daily,
        f"monthly/20261101-20261130/{LATER_RUN}/manifest.json": closed,
    }
    files = {path.replace("manifest.json", "part_0_0001.csv"): 0 for path in manifests}
    [delivery] = found(files, manifests)[0].values()
    assert delivery.files == (f"monthly/20261101-20261130/{LATER_RUN}/part_0_0001.csv",)


def test_a_run_without_its_manifest_is_not_taken_nor_is_another_kind_of_export():
    run = f"daily/20261101-20261130/202611030600/{RUN}/part_0_0001.csv"
    other = f"prices/20261101-20261130/202611030600/{RUN}/part_0_0001.csv"
    manifest = other.replace("part_0_0001.csv", "manifest.json")
    deliveries, lines = found({run: 0, other: 0}, {manifest: azure(kind="PriceSheet")})
    assert deliveries == {}
    assert lines == [
        f"{other}: skipped, an export of PriceSheet, not of FocusCost",
        f"{run}: skipped, its manifest.json is not there (yet)",
    ]


def test_of_exports_without_partitions_the_newest_file_stands():
    old, new = (f"x/daily/20261101-20261130/daily_{guid}.csv" for guid in (RUN, LATER_RUN))
    deliveries, _ = found({old: 0, new: 1})
    assert [delivery.files for delivery in deliveries.values()] == [(new,)]


# ---- Google ---------------------------------------------------------------------------------


def test_an_extraction_is_the_files_of_a_prefix_less_what_an_earlier_one_left():
    shards = [f"focus/bill-{number:012}.csv.gz" for number in range(4)]
    deliveries, lines = found({path: 1 for path in shards[:3]} | {shards[3]: 0})
    [delivery] = deliveries.values()
    assert delivery.files == tuple(shards[:3])
    assert lines == [f"{shards[3]}: skipped, a later delivery of its scope takes its place"]


@pytest.mark.parametrize("form", ["focus/{}/{:012}.parquet", "focus/bill-{}-{:012}.parquet"])
def test_of_extractions_by_time_the_newest_stands(form):
    old, new = (
        {form.format(time, number): days for number in range(2)}
        for time, days in (("20261103T0600", 5), ("20261104T0600", 1))
    )
    [delivery] = found(old | new)[0].values()
    assert delivery.files == tuple(new)


def test_a_day_in_a_prefix_is_what_the_files_are_about():
    """An extraction of each day's charges: none of them takes another's place."""
    days = [f"focus/2026-11-0{day}/{0:012}.parquet" for day in (1, 2, 3)]
    assert len(found(dict.fromkeys(days, 0))[0]) == 3


# ---- none of these --------------------------------------------------------------------------


def test_a_file_alone_is_a_delivery_whatever_its_folder():
    files = {"a.csv": 0, "b/c/d.parquet": 1, "b/c/e.snappy.parquet": 2, "f.csv.gz": 3, "bill-202611011200.csv": 4}
    deliveries, lines = found(files)
    assert {scope: delivery.files for scope, delivery in deliveries.items()} == {path: (path,) for path in files}
    assert lines == []


def test_what_is_no_bill_is_named_and_what_lies_beside_one_is_not():
    files = dict.fromkeys(("a.xlsx", "b/notes.json", "_SUCCESS", ".a.csv", "_tmp/a.csv", "metadata/recency-1.json"), 0)
    assert found(files)[1] == [
        "a.xlsx: skipped, not a bill by its name (.csv, .csv.gz, .parquet)",
        "b/notes.json: skipped, not a bill by its name (.csv, .csv.gz, .parquet)",
    ]
    many = {f"{number}.xlsx": 0 for number in range(7)}
    assert found(many)[1] == ["0.xlsx and 6 more: skipped, not a bill by its name (.csv, .csv.gz, .parquet)"]


def test_a_manifest_that_is_no_json_is_named():
    path, manifest = f"data/{MONTH}/f-00001.csv.gz", f"metadata/{MONTH}/f-Manifest.json"
    deliveries, lines = found({path: 0}, {manifest: b"{"})
    assert deliveries == {} and any(line.startswith(f"{manifest}: skipped, not JSON") for line in lines)


def test_a_signature_tells_a_delivery_that_was_written_again():
    path = "a.csv"
    before, after, same = (found({path: days})[0][path].signature for days in (0, 1, 0))
    assert before == same != after
