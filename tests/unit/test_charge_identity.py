"""A charge stays one charge: in a later FOCUS version, with a new column, by every way in, however often it comes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.keyed_stage import Stage, by_kind
from udfs.attribute import ALLOCATIONS, Attribute
from udfs.collect import charge_row
from udfs.pure.focus import charge_key, collect_charge, collect_charges
from udfs.pure.focus_record import collect_charge_record
from udfs.pure.price import standing

OLD = {
    "AvailabilityZone": "eu-1a", "BilledCost": "1", "BillingAccountId": "a-1", "BillingAccountName": "Shop",
    "BillingCurrency": "USD", "BillingPeriodEnd": "2024-10-01T00:00:00Z", "BillingPeriodStart": "2024-09-01T00:00:00Z",
    "ChargeCategory": "Usage", "ChargeClass": "", "ChargeDescription": "$1.00 per vCPU hour",
    "ChargeFrequency": "Usage-Based", "ChargePeriodEnd": "2024-09-18T23:00:00Z",
    "ChargePeriodStart": "2024-09-18T22:00:00Z", "CommitmentDiscountId": "", "ConsumedQuantity": "1",
    "ConsumedUnit": "vCPU-Hours", "ContractedCost": "1", "EffectiveCost": "1", "InvoiceIssuerName": "AWS",
    "ListCost": "1", "ListUnitPrice": "1", "PricingCategory": "Standard", "PricingQuantity": "1",
    "PricingUnit": "vCPU-Hours", "ProviderName": "AWS", "PublisherName": "AWS", "RegionId": "eu-1",
    "RegionName": "Europe", "ResourceId": "i-1", "ResourceName": "node", "ResourceType": "VM",
    "ServiceCategory": "Compute", "ServiceName": "EC2", "SkuId": "SKU1", "SkuPriceId": "", "SubAccountId": "s-1",
    "SubAccountName": "shop", "Tags": '{"team": "shop"}',
}  # fmt: skip
# The same in FOCUS 1.4, as another exporter writes it: renamed and new columns, names and categories of its own.
NEW = {
    name: value for name, value in OLD.items() if name not in ("ProviderName", "PublisherName", "AvailabilityZone")
} | {
    "ServiceProviderName": "Amazon Web Services", "HostProviderName": "Amazon Web Services",
    "InvoiceIssuerName": "AWS EMEA",
    "InvoiceId": "I-7", "InvoiceDetailId": "I-7-1", "BillingAccountType": "Payer", "SubAccountType": "Linked",
    "SkuMeter": "Instance usage", "SkuPriceDetails": '{"CoreCount": 1}', "SkuPriceId": "SKU1",
    "ServiceSubcategory": "Virtual Machines", "CapacityReservationId": "cr-1", "CapacityReservationStatus": "Used",
    "PricingCurrency": "USD", "PricingCurrencyEffectiveCost": "1", "ConsumedUnit": "vCPU Hours",
    "RegionName": "Europe (Ireland)", "ResourceName": "node-a", "Tags": '{"team": "pay"}',
}  # fmt: skip


def write(folder: Path, name: str, rows: Sequence[dict]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def from_directory(folder: Path) -> list[dict]:
    """The charges of all its bills."""
    found = [each for path in sorted(folder.glob("*.csv")) for each in collect_charges(path)]
    assert all(kind == "charge" for kind, _ in found), found
    return [charge for _, charge in found]


def from_topic(rows: Iterable[dict]) -> list[dict]:
    """The charges of records that come a millisecond after each other."""
    found = [
        collect_charge_record(json.dumps(row, default=str).encode(), f"2024-09-19T00:00:00.{number:03}")
        for number, row in enumerate(rows)
    ]
    assert all(kind == "charge" for kind, _ in found), found
    return [charge for _, charge in found]


def total(charges: Iterable[dict]) -> Decimal:
    """What the job allocates of them all."""
    by_resource: dict[str, Stage] = {}
    for charge in charges:
        resource_id = charge["resource_id"]
        stage = by_resource.setdefault(resource_id, Stage(Attribute(None), resource_id))
        stage.feed("charge", charge_key(charge), charge)
    found = [rows for stage in by_resource.values() for rows in by_kind(stage.end(), ALLOCATIONS).values()]
    return sum((Decimal(row["allocated_cost"]) for rows in found for row in rows), Decimal())


@pytest.mark.parametrize("later", [NEW, OLD | {"x_Team": "shop"}, OLD | {"x_Team": "shop", "EffectiveCost": "1.00"}])
@pytest.mark.parametrize("charge_class", ["", "Correction"])
def test_a_later_snapshot_with_other_columns_does_not_double_the_bill(tmp_path, later, charge_class):
    snapshots = [row | {"ChargeClass": charge_class} for row in (OLD, later)]
    for day, row in enumerate(snapshots):
        write(tmp_path, f"2024-09-{19 + day}.csv", [row])
    assert total(from_directory(tmp_path)) == 1
    assert total(from_topic(snapshots)) == 1
    assert total(from_topic(snapshots * 2)) == 1


def test_a_restated_row_takes_the_place_of_the_one_before_in_a_later_version_too(tmp_path):
    write(tmp_path, "2024-09-19.csv", [OLD])
    write(tmp_path, "2024-09-20.csv", [NEW | {"EffectiveCost": "0.75", "PricingQuantity": "0.75"}])
    assert total(from_directory(tmp_path)) == Decimal("0.75")


@pytest.mark.parametrize(
    "other",
    [
        {"BillingAccountId": "a-2"}, {"SubAccountId": "s-2"}, {"BillingPeriodStart": "2024-10-01T00:00:00Z"},
        {"ChargePeriodStart": "2024-09-18T22:30:00Z"}, {"ChargePeriodEnd": "2024-09-18T22:30:00Z"},
        {"BillingCurrency": "EUR"}, {"ChargeCategory": "Purchase"}, {"ChargeDescription": "vCPU hour, reserved"},
        {"CommitmentDiscountId": "ri-1"}, {"CommitmentDiscountStatus": "Unused"}, {"PricingCategory": "Committed"},
        {"RegionId": "eu-2"}, {"ResourceId": "i-2"}, {"ServiceName": "EKS"}, {"SkuId": "SKU2"}, {"SkuPriceId": "P2"},
        {"ConsumedUnit": "GB-Hours"}, {"EffectiveCost": "-1"},
    ],
)  # fmt: skip
def test_what_a_charge_is_for_tells_it_from_others(tmp_path, other):
    """In a later delivery it takes no other charge's place."""
    assert collect_charge(OLD)["identity"] != collect_charge(OLD | other)["identity"]
    assert collect_charge(NEW)["identity"] == collect_charge(OLD)["identity"]


def test_without_an_account_the_provider_says_who_bills():
    old, new = ({k: v for k, v in row.items() if k != "BillingAccountId"} for row in (OLD, NEW))
    new |= {"ServiceProviderName": "AWS"}
    other = old | {"ProviderName": "Microsoft"}
    identities = [collect_charge(row)["identity"] for row in (old, new, other)]
    assert identities[0] == identities[1] != identities[2]


def test_different_lines_of_one_bill_add_up(tmp_path):
    """They are one charge by all that identifies it, and still two lines."""
    tiers = [OLD | {"x_Tier": tier, "EffectiveCost": cost} for tier, cost in (("1", "1"), ("2", "3"))]
    assert len({charge["identity"] for charge in map(collect_charge, tiers)}) == 1
    write(tmp_path, "a.csv", tiers)
    assert total(from_directory(tmp_path)) == 4
    write(tmp_path, "b.csv", [tiers[1] | {"EffectiveCost": "2"}, tiers[0]])
    assert total(from_directory(tmp_path)) == 3
    snapshot = [row | {"x_SnapshotTime": "2024-09-19T00:00:00Z"} for row in tiers]
    assert total(from_topic(snapshot * 2)) == 4


def test_two_identical_rows_are_two_charges_by_every_way_and_a_delivery_twice_is_one(tmp_path):
    snapshot = OLD | {"x_SnapshotTime": "2024-09-19T00:00:00Z"}
    write(tmp_path, "a.csv", [snapshot, snapshot])
    from_files = from_directory(tmp_path)
    assert total(from_files) == 2
    records = [snapshot, snapshot | {"x_CopyNumber": 2}]
    from_records = from_topic([*records, *reversed(records)])
    assert total(from_records) == 2
    # Not only as much: the same charges.
    assert {charge_key(charge): charge for charge in from_records} == {charge_key(c): c for c in from_files}
    write(tmp_path, "b.csv", [snapshot, snapshot])
    assert total(from_directory(tmp_path)) == 2
    # A record says nothing of a second row: it is the first one, once more.
    assert total(from_topic([snapshot, snapshot])) == 1


@pytest.mark.parametrize(
    ("text", "copy"), [("1", 1), (2, 2), ("002", 2), ("0", 1), ("-1", 1), ("x", 1), ("", 1), (1.5, 1)]
)
def test_a_copy_number_counts_from_one_and_what_is_none_is_left_out(text, copy):
    assert collect_charge(OLD | {"x_CopyNumber": text})["key"] == collect_charge(OLD, copy=copy)["key"]


def test_a_file_may_number_its_copies_itself(tmp_path):
    """As one does that was written from a topic's records."""
    write(tmp_path, "a.csv", [OLD | {"x_CopyNumber": number} for number in ("1", "2", "2")])
    assert total(from_directory(tmp_path)) == 2


LINES = st.fixed_dictionaries({
    "ResourceId": st.sampled_from(["i-1", "i-2", ""]),
    "SkuId": st.sampled_from(["SKU1", "SKU2"]),
    "EffectiveCost": st.sampled_from(["1", "2.5", "0.000000000001"]),
    "x_Tier": st.sampled_from(["1", "2"]),
    "ChargeClass": st.sampled_from(["", "", "Correction"]),
})  # fmt: skip


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    lines=st.lists(LINES, min_size=1, max_size=6),
    is_new=st.booleans(),
    draw=st.randoms(use_true_random=False),
)
def test_a_bill_is_what_its_last_snapshot_says_by_every_way_in(tmp_path_factory, lines, is_new, draw):
    """Snapshots of an open month, the later in another FOCUS version or not; its files twice, its records too."""
    folder = tmp_path_factory.mktemp("bill")
    records = []
    for day in (19, 20):
        base = NEW if is_new and day == 20 else OLD
        names = {"x_SnapshotTime": f"2024-09-{day}T00:00:00Z", **({"x_New": "n"} if day == 20 else {})}
        rows = [base | line | names for line in lines]
        if base is NEW:
            # What has no resource is told apart by its tags.
            tags = [{} if row["ResourceId"] else {"Tags": OLD["Tags"]} for row in rows]
            rows = [row | {"SkuPriceId": row["SkuId"]} | of for row, of in zip(rows, tags, strict=True)]
        write(folder, f"{day}.csv", rows)
        write(folder, f"{day}-again.csv", draw.sample(rows, len(rows)))
        seen: dict[str, int] = {}
        for row in rows:
            # A correction shows in every snapshot, with whatever columns that one has: x_Tier doesn't tell it apart.
            parts = {k: v for k, v in row.items() if not (row["ChargeClass"] and k.startswith("x_"))}
            seen[str(parts)] = copy = seen.get(str(parts), 0) + 1
            records.append(row | ({"x_CopyNumber": copy} if copy > 1 else {}))
    expected = sum(Decimal(line["EffectiveCost"]) for line in lines)
    assert total(from_directory(folder)) == expected
    records += draw.sample(records, draw.randint(0, len(records)))
    draw.shuffle(records)
    assert total(from_topic(records)) == expected


def test_what_is_withdrawn_was_never_delivered_whichever_comes_first():
    """A row of one snapshot, a copy of a row, a correction; and no other row of the same charge."""
    first, second = OLD | {"x_SnapshotTime": "2024-09-19T00:00:00Z"}, OLD | {"x_SnapshotTime": "2024-09-20T00:00:00Z"}
    gone = {"x_Withdrawn": "2024-09-21T00:00:00Z"}
    copies = [first, first | {"x_CopyNumber": 2}]
    fixes = [first | {"ChargeClass": "Correction", "EffectiveCost": cost} for cost in ("-1", "-2")]
    for records, expected in (
        ([first, first | gone], 0),
        ([first, second | {"EffectiveCost": "5"}, second | {"EffectiveCost": "5"} | gone], 1),
        ([*copies, copies[1] | gone], 1),
        ([first, *fixes, fixes[1] | gone], 0),
    ):
        for order in (records, records[::-1], [*records, *records]):
            charges = from_topic(order)
            assert total(charges) == expected
            assert not any(charge["is_restated"] for charge in standing(charges))


def test_what_takes_a_charge_back_offers_no_price():
    row = OLD | {"ListUnitPrice": "0.1", "ConsumedQuantity": "4"}
    assert charge_row(collect_charge(row))[3] is not None
    assert charge_row(collect_charge(row | {"x_Withdrawn": "2024-09-21T00:00:00Z"}))[3:6] == (None, None, None)


AZURE = "/subscriptions/S-1/resourceGroups/MC_prod/providers/Microsoft.Compute/virtualMachines/vm-1"


@pytest.mark.parametrize(
    "first, second",
    [
        (AZURE, AZURE.lower()),
        ("arn:aws:ec2:eu-1:1:instance/i-0abc", "i-0abc"),
        ("//compute.googleapis.com/projects/p/zones/z/instances/7", "projects/p/zones/z/instances/7"),
    ],
    ids=["Azure", "AWS", "Google"],
)
def test_a_resource_that_is_spelt_otherwise_in_a_later_snapshot_is_the_same(first, second, tmp_path):
    """What the first snapshot charged is not counted beside what the second one does."""
    write(tmp_path, "2024-09-19.csv", [OLD | {"ResourceId": first, "x_SnapshotTime": "2024-09-19T00:00:00Z"}])
    later = {"ResourceId": second, "x_SnapshotTime": "2024-09-20T00:00:00Z", "EffectiveCost": "2"}
    write(tmp_path, "2024-09-20.csv", [OLD | later])
    charges = from_directory(tmp_path)
    assert len({charge["identity"] for charge in charges}) == 1
    assert [Decimal(charge["cost"]) for charge in standing(charges)] == [2]
