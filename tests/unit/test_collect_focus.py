"""collect, money: what is used of a bill, to the last digit, and what is rejected."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from udfs.pure.focus import (
    UnreadableBill,
    charge_key,
    collect_charge,
    collect_charges,
    read_charges,
)
from udfs.pure.rates import Exchange
from udfs.pure.reject import RejectedRecord

HOUR_MS = 3_600_000
START_MS = 1_726_696_800_000  # 2024-09-18 22:00 UTC

ROW = {
    "BilledCost": "0.34",
    "BillingCurrency": "USD",
    "ChargeCategory": "Usage",
    "ChargeClass": "NULL",
    "ChargeDescription": "",
    "ChargePeriodEnd": "2024-09-18T23:00:00Z",
    "ChargePeriodStart": "2024-09-18T22:00:00Z",
    "ConsumedQuantity": "1.000",
    "ConsumedUnit": "Hours",
    "EffectiveCost": "0.30",
    "ListUnitPrice": "3.4E-1",
    "PricingQuantity": "1",
    "PricingUnit": "Hours",
    "ProviderName": "AWS",
    "ResourceId": "i-1",
    "ServiceCategory": "Compute",
    "ServiceName": "Amazon Elastic Compute Cloud",
    "SkuId": "SKU1",
    "Tags": '{"team": "shop"}',
}


def row(**changes: object) -> dict:
    return {key: value for key, value in (ROW | changes).items() if value is not ...}


def write_csv(path: Path, rows: list[dict], encoding: str = "utf-8") -> Path:
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def charges_of(path: Path, cost_column: str = "EffectiveCost") -> list[dict]:
    collected = list(collect_charges(path, cost_column))
    assert [kind for kind, _ in collected] == ["charge"] * len(collected)
    return [charge for _, charge in collected]


def test_a_charge_carries_every_field_of_the_contract():
    charge = collect_charge(row())
    assert len(charge.pop("key")) == len(charge.pop("identity")) == 32
    assert charge == {
        "version": "0 ",
        "resource_id": "i-1",
        "parts": [["cpu", "0.650981280504"], ["memory", "0.349018719496"]],
        "per": "hour",
        "start_ms": START_MS,
        "end_ms": START_MS + HOUR_MS,
        "cost": "0.3",
        "currency": "USD",
        "converted": None,
        "machine": None,
        "is_licence": False,
        "is_provisioned": False,
        "sku_id": "SKU1",
        "focus_service_name": "Amazon Elastic Compute Cloud",
        "provider_name": "AWS",
        "list_unit_price": "0.34",
        "pricing_quantity": "1",
        "pricing_unit": "Hours",
        "consumed_quantity": "1",
        "consumed_unit": "Hours",
        "charge_category": "Usage",
        "charge_class": None,
        "tags": {"team": "shop"},
    }
    orjson.dumps(charge)


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"EffectiveCost": "8E-7"}, "cost", "0.0000008"),
        ({"EffectiveCost": "-1.50"}, "cost", "-1.5"),
        ({"EffectiveCost": "-0.00"}, "cost", "0"),
        ({"EffectiveCost": "0E+400"}, "cost", "0"),
        ({"EffectiveCost": Decimal("12.00000000001")}, "cost", "12.00000000001"),
        ({"EffectiveCost": 0.1}, "cost", "0.1"),
        ({"EffectiveCost": 1e-7}, "cost", "0.0000001"),
        ({"EffectiveCost": 3}, "cost", "3"),
        ({"EffectiveCost": "0.0000000000005"}, "cost", "0"),
        ({"EffectiveCost": "0.0000000000015"}, "cost", "0.000000000002"),
        (
            {"EffectiveCost": "9999999999999999.999999999999"},
            "cost",
            "9999999999999999.999999999999",
        ),
        ({"EffectiveCost": "NULL"}, "cost", "0.34"),
        ({"EffectiveCost": " null "}, "cost", "0.34"),
        ({"EffectiveCost": ""}, "cost", "0.34"),
        ({"EffectiveCost": None}, "cost", "0.34"),
        ({"EffectiveCost": ...}, "cost", "0.34"),
        ({"ChargePeriodStart": "2024-09-18 22:00:00"}, "start_ms", START_MS),
        ({"ChargePeriodStart": "2024-09-18 22:00:00 UTC"}, "start_ms", START_MS),
        ({"ChargePeriodStart": "2024-09-19T00:00:00+02:00"}, "start_ms", START_MS),
        ({"ChargePeriodStart": "2024-09-18T22:00Z"}, "start_ms", START_MS),
        ({"ChargePeriodStart": "2024-09-18T22:00:00.250Z"}, "start_ms", START_MS + 250),
        ({"ChargePeriodStart": "2024-09-18"}, "start_ms", START_MS - 22 * HOUR_MS),
        ({"ChargePeriodStart": date(2024, 9, 18)}, "start_ms", START_MS - 22 * HOUR_MS),
        ({"ChargePeriodStart": datetime(2024, 9, 18, 22)}, "start_ms", START_MS),
        (
            {"ChargePeriodStart": datetime(2024, 9, 18, 20, tzinfo=timezone(timedelta(hours=-2)))},
            "start_ms",
            START_MS,
        ),
        ({"ChargePeriodStart": START_MS}, "start_ms", START_MS),
        ({"BillingCurrency": "eur"}, "currency", "EUR"),
        ({"ResourceId": "NULL"}, "resource_id", "__no_resource__"),
        ({"ResourceId": ...}, "resource_id", "__no_resource__"),
        ({"ResourceId": ""}, "parts", [["other", "1"]]),
        (
            {"ProviderName": ..., "ServiceProviderName": "Google Cloud"},
            "provider_name",
            "Google Cloud",
        ),
        ({"ServiceProviderName": "NULL"}, "provider_name", "AWS"),
        ({"ChargeClass": "Correction"}, "charge_class", "Correction"),
        ({"ChargeCategory": ...}, "charge_category", None),
        ({"SkuId": 12345}, "sku_id", "12345"),
        ({"ListUnitPrice": "free"}, "list_unit_price", None),
        ({"ListUnitPrice": "1E+99999"}, "list_unit_price", None),
        ({"ConsumedQuantity": "0E-15"}, "consumed_quantity", "0"),
        ({"Tags": "NULL"}, "tags", {}),
        ({"Tags": "{not json"}, "tags", {}),
        ({"Tags": {"a": "b"}}, "tags", {"a": "b"}),
        ({"Tags": [("a", "b"), ("c", None)]}, "tags", {"a": "b", "c": None}),
        ({"Tags": [{"key": "a", "value": True}]}, "tags", {"a": "true"}),
        ({"Tags": {"n": 2**70}}, "tags", {"n": str(2**70)}),
    ],
)
def test_cells_are_read_as_providers_write_them(changes, field, expected):
    assert collect_charge(row(**changes))[field] == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"EffectiveCost": "", "BilledCost": "NULL"},
            "neither EffectiveCost nor BilledCost has a value",
        ),
        ({"EffectiveCost": "NaN"}, "EffectiveCost 'NaN' is not a finite number"),
        ({"EffectiveCost": float("inf")}, "EffectiveCost 'inf' is not a finite number"),
        ({"EffectiveCost": Decimal("NaN")}, "EffectiveCost Decimal('NaN') is not a finite number"),
        ({"EffectiveCost": "1,234.50"}, "EffectiveCost '1,234.50' is not a finite number"),
        ({"EffectiveCost": True}, "EffectiveCost True is not a finite number"),
        (
            {"EffectiveCost": "1E16"},
            "EffectiveCost '1E+16' has more than 16 digits before the point",
        ),
        ({"EffectiveCost": "9999999999999999.9999999999995"}, "more than 16 digits"),
        ({"EffectiveCost": "-1E+999999"}, "more than 16 digits"),
        ({"ChargePeriodStart": ""}, "ChargePeriodStart is missing"),
        ({"ChargePeriodEnd": ...}, "ChargePeriodEnd is missing"),
        ({"ChargePeriodEnd": "yesterday"}, "ChargePeriodEnd 'yesterday' is not a time"),
        ({"ChargePeriodStart": 1.5}, "ChargePeriodStart 1.5 is not a time"),
        ({"ChargePeriodStart": "0001-01-01T00:00:00Z"}, "is outside of 2000 to 2100"),
        ({"ChargePeriodEnd": "2024-09-18T22:00:00Z"}, "is not after ChargePeriodStart"),
        ({"ChargePeriodEnd": "2026-01-01"}, "a charge period of 469 days is longer than 400"),
        ({"BillingCurrency": "NULL"}, "BillingCurrency is missing"),
        ({"BillingCurrency": "US Dollar"}, "BillingCurrency 'US Dollar' is not a code"),
    ],
)
def test_a_row_without_period_cost_or_currency_is_rejected_with_the_value(changes, reason):
    with pytest.raises(RejectedRecord) as caught:
        collect_charge(row(**changes))
    assert reason in caught.value.reason
    known = None if "ChargePeriodStart" in changes else START_MS
    assert caught.value.event_time_ms == known


@pytest.mark.parametrize(
    ("unit", "category", "expected"),
    [
        *((unit, "Compute", "cpu") for unit in (
            "vCPU-Hours", "vCPU Hours", "vCPU-Hour", "CPU-Hours", "Core-Hours", "core hours",
            "vCore Hours", "OCPU Per Hour", "vCPU-Seconds", "1 vCPU Hour")),
        ("vCPU-Hours", "Databases", "cpu"),
        *((unit, "Compute", "memory") for unit in (
            "GB-Hours", "GiB-Hours", "MB-Hours", "GB Hours", "Gigabyte Per Hour", "gibibyte hour",
            "Lambda-GB-Seconds", "1 GiB Hour", "byte-seconds")),
        ("GB-Hours", "Storage", "other"),
        *((unit, "Storage", "io") for unit in (
            "Operations", "Requests", "API Requests", "IOs", "IO", "I/Os", "10K Requests",
            "1,000,000 Operations", "Put Requests")),
        *((unit, "Networking", "network") for unit in ("GB", "GiB", "Bytes", "TB", "1 GB")),
        ("GB", "Compute", "other"),
        *((unit, "Compute", "machine") for unit in (
            "Hours", "Hrs", "1 Hour", "Hour", "Instance-Hours")),
        ("Hours", "Networking", "other"),
        *((unit, "Compute", "gpu") for unit in ("GPU-Hours", "Nvidia T4 GPU Hours", "GPU Hrs")),
        *((unit, "Compute", "other") for unit in (
            "Seconds", "Months", "Units", "GB-Months", "LCU-Hours", "IOPS-Months",
            "GiB/Second-Months", "Units/Hour", "Scenarios", "NULL", "")),
    ],
)  # fmt: skip
def test_the_consumed_unit_decides_the_dimension(unit, category, expected):
    changes = {"ConsumedUnit": unit, "PricingUnit": "", "ServiceCategory": category}
    charge = collect_charge(row(**changes))
    dimensions = [dimension for dimension, _ in charge["parts"]]
    assert dimensions == (["cpu", "memory"] if expected == "machine" else [expected])
    assert charge["per"] == ("hour" if expected in ("machine", "other") else "unit")


def test_a_machine_with_gpus_is_split_by_their_list_price_too():
    machine = collect_charge(row(SkuPriceDetails='{"CoreCount": 8, "MemorySize": "64 GiB", "GpuCount": 2}'))
    parts = {dimension: Decimal(weight) for dimension, weight in machine["parts"]}
    assert list(parts) == ["cpu", "memory", "gpu"] and sum(parts.values()) == 1
    # By 8 * 0.031611 + 64 * 0.004237 + 2 * 0.95 USD an hour.
    assert parts["gpu"] == Decimal("0.783810275010")
    assert machine["machine"] == {"cpu": "8", "memory": str(64 * 2**30), "gpu": "2"}
    for none in ('"GpuCount": 0', '"GpuCount": "many"', '"GpuCount": null'):
        without = collect_charge(row(SkuPriceDetails=f'{{"CoreCount": 8, "MemorySize": 64, {none}}}'))
        assert [dimension for dimension, _ in without["parts"]] == ["cpu", "memory"]


def test_a_gpu_that_is_attached_to_a_machine_is_paid_for_by_the_hour():
    attached = collect_charge(row(SkuMeter="Nvidia Tesla T4 GPU attached to Spot VMs", SkuPriceDetails=...))
    assert attached["parts"] == [["gpu", "1"]] and attached["is_provisioned"] is True
    assert collect_charge(row(ConsumedUnit="GPU-Hours"))["is_provisioned"] is False


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ConsumedUnit": "NULL", "PricingUnit": "vCPU-Hours"}, "cpu"),
        (
            {"ConsumedUnit": "GB", "ChargeDescription": "$0.085 per GB - data transfer out"},
            "network",
        ),
        ({"ConsumedUnit": "GB", "SkuMeter": "Internet Egress"}, "network"),
        ({"ConsumedUnit": "GB", "SkuMeter": "EUN1-AWS-Out-Bytes"}, "network"),
        ({"ConsumedUnit": "GB", "ChargeDescription": "$0.50 per GB custom log data"}, "other"),
        ({"ConsumedUnit": "hour", "ChargeDescription": "N2 Instance Core running in Iowa"}, "cpu"),
    ],
)
def test_meter_and_pricing_unit_help_where_the_consumed_unit_leaves_it_open(changes, expected):
    assert collect_charge(row(**changes))["parts"] == [[expected, "1"]]


@pytest.mark.parametrize(
    ("details", "cpu_weight"),
    [
        # 8 * 0.031611 / (8 * 0.031611 + 16 * 0.004237)
        ('{"CoreCount": 8, "MemorySize": 16}', "0.788599226643"),
        ({"corecount": "8", "MemorySize": Decimal("16.0")}, "0.788599226643"),
        ([("CoreCount", "2"), ("MemorySize", "16")], "0.482559115820"),
        ('{"CoreCount": 8, "MemorySize": "16 GiB"}', "0.788599226643"),
        ('{"CoreCount": 8}', "0.650981280504"),
        ('{"CoreCount": 0, "MemorySize": 16}', "0.650981280504"),
        ('{"CoreCount": "many", "MemorySize": 16}', "0.650981280504"),
        ("NULL", "0.650981280504"),
    ],
)
def test_a_whole_machine_is_split_by_list_prices_of_its_size(details, cpu_weight):
    (cpu, of_cpu), (memory, of_memory) = collect_charge(row(SkuPriceDetails=details))["parts"]
    assert (cpu, memory) == ("cpu", "memory")
    assert Decimal(of_cpu) == Decimal(cpu_weight)
    assert Decimal(of_cpu) + Decimal(of_memory) == 1


def test_a_machine_is_as_large_as_its_sku_says():
    machine = row(SkuPriceDetails='{"CoreCount": 8, "MemorySize": "16 GiB"}')
    assert collect_charge(machine)["machine"] == {"cpu": "8", "memory": str(16 * 2**30)}
    assert collect_charge(machine | {"ConsumedUnit": "vCPU-Hours"})["machine"] is None
    # Azure tells vCPUs alone: what its cores can give is known, what its memory can isn't.
    assert collect_charge(row(SkuPriceDetails='{"CoreCount": 8}'))["machine"] == {"cpu": "8"}
    assert collect_charge(row(SkuPriceDetails='{"MemorySize": 16}'))["machine"] is None
    licence = machine | {"ChargeDescription": "Windows Server licence, per hour"}
    assert collect_charge(licence)["is_licence"]


def test_another_cost_column_is_used_on_request():
    assert collect_charge(row(ListCost="9.5"), "ListCost")["cost"] == "9.5"
    assert collect_charge(row(ListCost=""), "ListCost")["cost"] == "0.34"
    assert collect_charge(row(), "BilledCost")["cost"] == "0.34"
    with pytest.raises(ValueError, match="EffectiveCost, BilledCost, ContractedCost, ListCost"):
        next(read_charges(Path("bill.csv"), "EfectiveCost"))


def test_column_names_may_differ_in_case_and_blanks():
    shouting = {f"\ufeff {name.upper()} ": value for name, value in row().items()}
    assert collect_charge(shouting) == collect_charge(row())


# ---- identity -------------------------------------------------------------------------------


def test_the_key_is_of_the_content_not_of_its_writing():
    key = collect_charge(row())["key"]
    written_otherwise = row(
        EffectiveCost=Decimal("0.300"), BilledCost=0.34, ConsumedQuantity=1, ListUnitPrice="0.34",
        ChargePeriodStart=datetime(2024, 9, 18, 22), ChargePeriodEnd="2024-09-18 23:00:00",
        ChargeClass=None, Tags=[("team", "shop")], AvailabilityZone="NULL",
    )  # fmt: skip
    assert collect_charge(dict(reversed(written_otherwise.items())))["key"] == key
    for changed in ({"EffectiveCost": "0.31"}, {"SkuId": "SKU2"}, {"Tags": "{}"}, {"New": "x"}):
        assert collect_charge(row(**changed))["key"] != key
    assert collect_charge(row(), copy=2)["key"] != key


def test_identical_rows_of_a_file_all_count_and_a_file_sent_twice_counts_once(tmp_path):
    rows = [row(), row(SkuId="SKU2"), row(), row()]
    once = [charge["key"] for charge in charges_of(write_csv(tmp_path / "a.csv", rows))]
    again = [charge["key"] for charge in charges_of(write_csv(tmp_path / "b.csv", rows[::-1]))]
    assert len(set(once)) == 4
    assert set(once) == set(again)


@pytest.mark.parametrize(
    ("changes", "is_another"),
    [
        ({"EffectiveCost": "0.31", "BilledCost": "9", "ListUnitPrice": "0.5"}, False),
        ({"ConsumedQuantity": "2", "PricingQuantity": "2", "InvoiceId": "I-1"}, False),
        ({"EffectiveCost": "0"}, False),
        ({"x_SnapshotTime": "2024-09-19T05:00:00Z"}, False),
        ({"Tags": '{"team": "pay"}'}, False),  # they are the resource's
        ({"ResourceId": "", "Tags": '{"team": "pay"}'}, True),
        ({"ChargeDescription": "$0.34 per hour"}, True),
        ({"EffectiveCost": "-0.30"}, True),  # what is given back takes no charge's place
        ({"SkuId": "SKU2"}, True),
        ({"ChargePeriodEnd": "2024-09-19T00:00:00Z"}, True),
        ({"x_Cluster": "a"}, False),
    ],
)
def test_what_a_row_is_about_is_all_that_a_later_snapshot_leaves_alone(changes, is_another):
    charge, again = collect_charge(row()), collect_charge(row(**changes))
    if changes.get("ResourceId") == "":
        charge = collect_charge(row(ResourceId=""))
    assert (charge["identity"] != again["identity"]) is is_another


def test_a_price_in_the_description_is_no_other_row():
    dear, cheap = (collect_charge(row(ChargeDescription=f"${p} per Hour")) for p in ("0.34", "1"))
    assert dear["identity"] == cheap["identity"] and dear["key"] != cheap["key"]


def test_the_export_time_is_the_version_and_stands_above_any_delivery():
    def version(delivery="", **columns):
        return collect_charge(row(**columns), delivery=delivery)["version"]

    told = version(x_SnapshotTime="2024-09-19T05:00:00+02:00", x_ExportTime="2024-09-20")
    assert told == "1 2024-09-19T03:00:00Z"
    assert version(x_SnapshotTime="", X_EXPORTTIME="2024-09-20") == "1 2024-09-20T00:00:00Z"
    assert version(x_LastUpdated=date(2024, 9, 21)) == "1 2024-09-21T00:00:00Z"
    assert version("bill-02", x_SnapshotTime="soon") == "0 bill-02" < told
    assert version("bill-02", ChargeClass="Correction", x_SnapshotTime="2024-09-19") == ""


def test_a_row_in_two_snapshots_has_two_keys_and_one_content():
    first, second = (collect_charge(row(x_SnapshotTime=f"2024-09-{day}T00:00:00Z")) for day in (19, 20))
    assert first["key"] == second["key"]
    assert charge_key(first) != charge_key(second)
    correction = collect_charge(row(ChargeClass="Correction"), delivery="a")
    again = collect_charge(row(ChargeClass="Correction"), delivery="b")
    assert charge_key(correction) == charge_key(again) == correction["key"]


def test_snapshots_in_one_file_number_their_copies_apart(tmp_path):
    days = ["2024-09-19", "2024-09-20", "2024-09-20"]
    both = charges_of(write_csv(tmp_path / "a.csv", [row(x_SnapshotTime=day) for day in days]))
    alone = charges_of(write_csv(tmp_path / "b.csv", [row(x_SnapshotTime=days[1])] * 2))
    assert {charge_key(charge) for charge in alone} == {charge_key(charge) for charge in both[1:]}


def test_the_parts_of_an_export_are_one_delivery(tmp_path):
    names = ("bill-00001.csv", "bill-00002.csv", "bill_part_1_0001.csv", "bill-2024-09.csv")
    versions = [charges_of(write_csv(tmp_path / name, [row()]))[0]["version"] for name in names]
    assert versions == ["0 bill", "0 bill", "0 bill", "0 bill-2024-09"]


def test_a_charge_is_converted_at_the_rate_of_its_start():
    exchange = Exchange("EUR", (("USD", START_MS - 1, "0.9"), ("USD", START_MS + 1, "0.5")))
    charge = collect_charge(row(EffectiveCost="0.333333333333"), exchange=exchange)
    assert (charge["cost"], charge["currency"]) == ("0.3", "EUR")
    assert charge["converted"] == {"from": "USD", "rate": "0.9", "cost": "0.333333333333"}
    assert charge["key"] == collect_charge(row(EffectiveCost="0.333333333333"))["key"]
    with pytest.raises(RejectedRecord, match="more than 16 digits before the point in EUR"):
        huge = Exchange("EUR", (("USD", 0, "99999"),))
        collect_charge(row(EffectiveCost="999999999999999"), exchange=huge)


# ---- files ----------------------------------------------------------------------------------


def test_csv_gzip_and_parquet_give_the_same_charges(tmp_path):
    rows = [row(), row(EffectiveCost="NULL", SkuId="ü"), row(ResourceId="", Tags="")]
    expected = charges_of(write_csv(tmp_path / "a.csv", rows))
    with_mark = write_csv(tmp_path / "b.csv", rows, encoding="utf-8-sig")
    zipped = tmp_path / "c.csv.gz"
    zipped.write_bytes(gzip.compress(with_mark.read_bytes()))

    moment, money = pa.timestamp("us", "UTC"), pa.decimal128(28, 12)
    typed = pa.table({
        name: pa.array([cell(name, r[name]) for r in rows], kind)
        for name in rows[0]
        for cell, kind in [
            (typed_cell, moment if "Period" in name else money if name.endswith("Cost")
             else pa.map_(pa.string(), pa.string()) if name == "Tags" else pa.string())
        ]
    })  # fmt: skip
    pq.write_table(typed, tmp_path / "d.parquet")
    for path in (with_mark, zipped, tmp_path / "d.parquet"):
        version = f"0 {path.name[0]}"
        assert charges_of(path) == [charge | {"version": version} for charge in expected]


def typed_cell(name: str, text: str) -> object:
    """A cell of a CSV file as Parquet holds it."""
    if text in ("", "NULL"):
        return None
    if "Period" in name:
        return datetime.fromisoformat(text)
    if name == "Tags":
        return list(json.loads(text).items())
    return Decimal(text) if name.endswith("Cost") else text


def test_a_bad_row_is_rejected_and_the_rest_of_the_file_used(tmp_path):
    bill = write_csv(tmp_path / "bill.csv", [row(), row(EffectiveCost="n/a"), row()])
    lines = bill.read_text().splitlines()
    bill.write_text("\n".join([*lines[:2], "short,row", "", lines[2], lines[3] + ",extra"]) + "\n")
    collected = list(collect_charges(bill))
    assert [kind for kind, _ in collected] == ["charge", "reject", "reject", "reject"]
    short, bad_cost, long = (orjson.loads(record) for _, record in collected[1:])
    assert {r["stream"] for r in (short, bad_cost, long)} == {"focus_charges"}
    assert "a row of 2 cells under a header of 19" in short["reason"]
    assert orjson.loads(short["payload"]) == {"cells": ["short", "row"]}
    assert bad_cost["reason"] == "EffectiveCost 'n/a' is not a finite number"
    assert bad_cost["event_time_ms"] == START_MS
    assert orjson.loads(bad_cost["payload"])["ResourceId"] == "i-1"
    assert "ChargeClass" not in orjson.loads(bad_cost["payload"])
    assert "a row of 20 cells" in long["reason"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bill.csv", b"", "no column ChargePeriodStart, ChargePeriodEnd, BillingCurrency"),
        (
            "bill.csv",
            b"a,b\n1,2\n",
            "no column ChargePeriodStart, ChargePeriodEnd, BillingCurrency",
        ),
        (
            "bill.csv",
            b"ChargePeriodStart,ChargePeriodEnd,BillingCurrency,ListCost\n",
            "no column EffectiveCost or BilledCost",
        ),
        ("bill.csv", b"Charge\xff\xfe", "can't be read as FOCUS rows: 'utf-8' codec"),
        ("bill.csv.gz", b"not gzip", "can't be read as FOCUS rows: Not a gzipped file"),
        (
            "bill.csv.gz",
            gzip.compress(",".join(ROW).encode() + b"\n" * 9999)[:-9],
            "can't be read as FOCUS rows",
        ),
        ("bill.parquet", b"PAR1 nothing", "can't be read as FOCUS rows"),
        ("bill.xlsx", b"", "not a bill by its name: .csv, .csv.gz or .parquet"),
        ("absent.csv", None, "No such file"),
    ],
)
def test_an_unreadable_file_is_one_line_that_names_it(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableBill) as caught:
        list(read_charges(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- any cells ------------------------------------------------------------------------------

CELLS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.text(st.characters(), max_size=12)
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.binary(max_size=3)
    | st.sampled_from(["1E-999999", "99e999999", "0e999999", "9" * 99, "GB", "{}", "[1]", "NULL"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*ROW, "SkuPriceDetails", "x_new"]), CELLS, max_size=4))
@example({"Tags": "[" * 1000 + "]" * 1000, "SkuPriceDetails": "{" * 300})
@example({"ListUnitPrice": "99e999999", "PricingQuantity": "1e-999999"})
@example({"EffectiveCost": "99e999999", "BilledCost": Decimal("-sNaN")})
@settings(derandomize=True, max_examples=400, deadline=None)
def test_any_cell_makes_a_charge_or_a_reject(changes):
    try:
        charge = collect_charge(ROW | changes)
    except RejectedRecord as error:
        assert error.reason and len(error.reason) < 300
        return
    assert Decimal(charge["cost"]).as_tuple().exponent >= -12
    assert sum(Decimal(weight) for _, weight in charge["parts"]) == 1
    assert charge["start_ms"] < charge["end_ms"]


# ---- real data ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bill", "rows", "total"),
    [
        ("focus-sample/billing/focus_sample.csv", 1000, "14.97651418586"),
        ("train-ticket/billing/focus.csv", 72, "27.808"),
        ("online-boutique/billing/focus.csv", 40, "15.680"),
    ],
)
def test_real_bills_are_used_to_the_last_digit(bill, rows, total):
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / bill
    if not path.is_file():
        pytest.skip(f"no real bill at {path}: what it would show is not tested here")
    charges = charges_of(path)
    assert len({charge["key"] for charge in charges}) == rows
    assert sum(Decimal(charge["cost"]) for charge in charges) == Decimal(total)
