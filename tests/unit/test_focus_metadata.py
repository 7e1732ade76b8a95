"""What FOCUS metadata beside a bill says of what is complete, and of how one delivery follows another."""

from __future__ import annotations

import json

import pytest

from tests.unit.test_deliveries import AWS, FIRST, MONTH, SECOND, found, uri
from udfs.pure.bills import place
from udfs.pure.deliveries import Delivery
from udfs.pure.focus import COMPLETE_COLUMN, collect_charge
from udfs.pure.focus_record import collect_charge_record

PERIODS = "BillingPeriodStart,BillingPeriodEnd,BillingPeriodStatus,InvoiceIssuerName,BillingPeriodLastUpdated\n"


def sector(start: str, end: str, is_complete: object) -> dict[str, object]:
    day = "2026-11-03T"
    return {
        "TimeSectorStart": f"{day}{start}:00:00Z",
        "TimeSectorEnd": f"{day}{end}:00:00Z",
        "TimeSectorComplete": is_complete,
    }


SECTORS = [sector("00", "01", True), sector("01", "02", True), sector("02", "03", False)]


def period(status: str, issuer: str = "Issuer", updated: str = "2026-11-04T00:00:00Z") -> str:
    return f"2026-11-01T00:00:00Z,2026-12-01T00:00:00Z,{status},{issuer},{updated}\n"


def row(start: str, end: str, **cells: str) -> dict[str, object]:
    return {
        "ChargePeriodStart": f"2026-11-{start}:00:00Z",
        "ChargePeriodEnd": f"2026-11-{end}:00:00Z",
        "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "InvoiceIssuerName": "Issuer",
        "BilledCost": "1",
        "BillingCurrency": "USD",
        **cells,
    }


def delivery(contents: dict[str, object], path: str = "a.csv") -> Delivery:
    """Of one file, with what lies beside it."""
    deliveries, lines = found({path: 0}, contents)
    assert lines == []
    return deliveries[path]


def is_incomplete(of: Delivery, cells: dict[str, object]) -> bool:
    [marked] = of.completeness.marked([cells])
    return collect_charge(marked).get("is_incomplete", False)


@pytest.mark.parametrize(
    ("charge", "expected"),
    [
        (row("03T00", "03T01"), False),
        (row("03T02", "03T03"), True),
        (row("03T00", "03T02"), False),  # over both that are complete
        (row("03T00", "03T03"), True),  # complete once its last hour is
        (row("03T00", "04T00"), True),
        (row("03T05", "03T06"), False),  # nothing is said of it
        (row("03T02", "03T03", ChargeClass="Correction"), False),  # of what was complete
    ],
)
@pytest.mark.parametrize(
    "document",
    [
        {"DatasetInstanceId": "1-a", "TimeSectors": SECTORS},
        [{"DatasetInstanceId": "1-a", "TimeSectors": SECTORS}],
        {"Recency": [{"DatasetInstanceId": "1-a", "TimeSectors": SECTORS[::-1]}]},
    ],
)
def test_a_charge_is_complete_once_its_time_sectors_are(document, charge, expected):
    assert is_incomplete(delivery({"metadata/recency/recency-1-a.json": document}), charge) is expected


def test_times_may_be_written_as_in_the_examples_of_the_specification():
    """With a small z, and hours of one digit."""
    [one] = [{name: value if value is False else value.replace("T0", "T").replace("Z", "z")
              for name, value in sector("02", "03", False).items()}]  # fmt: skip
    assert one["TimeSectorStart"] == "2026-11-03T2:00:00z"
    of = delivery({"metadata/recency-1.json": {"TimeSectors": [one]}})
    assert is_incomplete(of, row("03T02", "03T03")) and not is_incomplete(of, row("03T01", "03T02"))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([period("Open")], True),
        ([period("Closed")], False),
        ([period("Open", "Another"), period("Closed")], False),
        ([period("Open", "Another")], False),  # nothing is said of this issuer's
        ([period("Closed", updated="2026-12-02T00:00:00Z"), period("Open", updated="2026-12-01T00:00:00Z")], False),
        ([period("Closed", updated="2026-12-02T00:00:00Z"), period("Open", updated="2026-12-03T00:00:00Z")], True),
    ],
)
@pytest.mark.parametrize("path", ["billing_period.csv", "BillingPeriod/x.csv", "focus-billing-periods/d/x-00001.csv"])
def test_a_charge_is_complete_once_its_billing_period_is_closed(path, rows, expected):
    of = delivery({path: (PERIODS + "".join(rows)).encode()})
    assert is_incomplete(of, row("05T00", "05T01")) is expected
    assert not is_incomplete(of, row("05T00", "05T01", BillingPeriodStart="2026-10-01T00:00:00Z"))


def test_a_time_is_complete_where_either_says_so():
    recency = {"metadata/recency-1.json": {"TimeSectors": SECTORS}}
    hours = [row("03T00", "03T01"), row("03T02", "03T03"), row("03T05", "03T06")]
    for status, expected in (("Open", [False, True, True]), ("Closed", [False, False, False])):
        of = delivery(recency | {"billing_period.csv": (PERIODS + period(status)).encode()})
        assert [is_incomplete(of, hour) for hour in hours] == expected


def test_recency_is_of_what_lies_beside_it_and_of_its_own_dataset_instance():
    whole = {"TimeSectors": [sector("00", "03", False)]}
    files = {"a/1-a/x.csv": 0, "a/2-b/x.csv": 0, "c/x.csv": 0}
    deliveries, _ = found(files, {"a/metadata/recency.json": {"DatasetInstanceId": "2-b", **whole}})
    assert {path for path, of in deliveries.items() if of.completeness} == {"a/2-b/x.csv"}
    deliveries, _ = found(files, {"a/metadata/recency.json": {"DatasetInstanceId": "3-c", **whole}})
    assert {path for path, of in deliveries.items() if of.completeness} == {"a/1-a/x.csv", "a/2-b/x.csv"}
    deliveries, _ = found(files, {"a/metadata/recency.json": {"FocusDatasetId": "InvoiceDetail", **whole}})
    assert not any(of.completeness for of in deliveries.values())


def test_a_month_is_another_delivery_only_where_what_is_said_of_its_time_changes():
    data, manifest = f"{AWS}/data/{MONTH}/x-00001.csv", f"{AWS}/metadata/{MONTH}/x-Manifest.json"
    december = {
        "TimeSectorStart": "2026-12-01T00:00:00Z",
        "TimeSectorEnd": "2026-12-01T01:00:00Z",
        "TimeSectorComplete": False,
    }

    def signature(*sectors: dict) -> str:
        recency = {f"{AWS}/metadata/recency/recency-1.json": {"TimeSectors": sectors}} if sectors else {}
        return found({data: 0}, {manifest: {"dataFiles": [uri(data)]}} | recency)[0][f"{AWS}/{MONTH}"].signature

    assert signature() == signature(december)
    # And yet all that is said counts: a name may be wrong.
    said = {f"{AWS}/metadata/recency/recency-1.json": {"TimeSectors": [december]}}
    of = found({data: 0}, {manifest: {"dataFiles": [uri(data)]}} | said)[0][f"{AWS}/{MONTH}"]
    late = {"ChargePeriodStart": "2026-12-01T00:00:00Z", "ChargePeriodEnd": "2026-12-01T01:00:00Z"}
    assert is_incomplete(of, row("03T00", "03T01") | late)
    assert signature(SECTORS[0]) == signature(SECTORS[0], december) != signature()
    assert signature(*SECTORS) == signature(*SECTORS[::-1]) != signature(*SECTORS[:2])


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("metadata/recency-1.json", b"{", "not JSON, so that nothing is known of what is complete by it"),
        ("metadata/recency-1.json", {"TimeSectors": [{"TimeSectorComplete": "yes"}]}, "a time sector without"),
        ("metadata/recency-1.json", {"TimeSectors": [sector("00", "99", True)]}, "TimeSectorEnd '2026-11-03T99"),
        ("billing_period.csv", (PERIODS + period("Shut")).encode(), "BillingPeriodStatus 'shut' is neither"),
    ],
)
def test_metadata_that_cannot_be_read_is_named_and_says_nothing(path, content, reason):
    deliveries, [line] = found({"a.csv": 0}, {path: content})
    assert line.startswith(f"{path}: skipped, {reason}")
    assert list(deliveries) == ["a.csv"] and not deliveries["a.csv"].completeness


def test_other_metadata_says_nothing():
    schema = {"SchemaId": "1", "ColumnDefinition": [{"ColumnName": "BilledCost", "DataType": "Decimal"}]}
    assert not delivery({"metadata/schemas/schema-1.json": schema}).completeness


def test_a_bill_in_a_folder_named_as_billing_periods_is_a_bill():
    bill = b"ChargePeriodStart,ChargePeriodEnd,BilledCost,BillingCurrency\n"
    deliveries, lines = found({}, {"billing_period/2026-11.csv": bill})
    assert list(deliveries) == ["billing_period/2026-11.csv"] and lines == []


def test_billing_periods_that_are_delivered_by_manifest_are_no_bill():
    root = "exports/billing_period"
    data, manifest = f"{root}/data/{MONTH}/x-00001.csv", f"{root}/metadata/{MONTH}/x-Manifest.json"
    contents = {manifest: {"dataFiles": [uri(data)]}, data: (PERIODS + period("Open")).encode()}
    deliveries, lines = found({"a.csv": 0}, contents)
    assert list(deliveries) == ["a.csv"] and lines == []
    assert is_incomplete(deliveries["a.csv"], row("05T00", "05T01"))


# ---- Append ---------------------------------------------------------------------------------

APPEND = {"DatasetInstanceId": "9", "DeliveryHandling": "Append"}


@pytest.mark.parametrize("handling", ["Append", "Overwrite"])
def test_under_append_all_whole_executions_stand_as_one_delivery(handling):
    old, new, third = (f"{AWS}/data/{MONTH}/{execution}/f-00001.csv.gz" for execution in (FIRST, SECOND, SECOND + "c"))
    manifests = {
        f"{AWS}/metadata/{MONTH}/{execution}/f-Manifest.json": {"dataFiles": [uri(path)]}
        for execution, path in ((FIRST, old), (SECOND, new), (SECOND + "c", third))
    }
    said = {f"{AWS}/metadata/dataset_instance.json": APPEND | {"DeliveryHandling": handling}}
    deliveries, lines = found({old: 0, new: 1}, manifests | said)
    [of] = deliveries.values()
    assert of.is_snapshot and of.files == ((old, new) if handling == "Append" else (new,))
    assert any("its delivery is not complete" in line for line in lines)
    assert any("takes its place" in line for line in lines) is (handling == "Overwrite")


def test_under_append_the_files_of_a_folder_are_one_delivery():
    said = {"a/metadata/delivery.json": APPEND}
    deliveries, _ = found({"a/2.csv": 1, "a/1.csv": 2, "a/b/3.csv": 0, "c/4.csv": 0}, said)
    assert {scope: (of.files, of.is_snapshot) for scope, of in deliveries.items()} == {
        "a/*": (("a/2.csv", "a/1.csv"), True),
        "a/b/*": (("a/b/3.csv",), True),
        "c/4.csv": (("c/4.csv",), False),
    }


def test_under_append_what_an_extraction_leaves_stands():
    shards = {f"focus/2026110{day}T0600/{number:012}.csv": day for day in (3, 4) for number in (0, 1)}
    [of] = found(shards, {"focus/metadata/delivery.json": APPEND})[0].values()
    assert of.files == tuple(shards)


def test_a_folder_of_an_appended_bill_counts_each_row_of_each_file(tmp_path):
    """Also the same one twice: it is no deduplication that FOCUS asks for."""
    header = "ChargePeriodStart,ChargePeriodEnd,BilledCost,BillingCurrency\n"
    for name, cost in (("1", "5"), ("2", "-1"), ("3", "-1")):
        (tmp_path / f"{name}.csv").write_text(f"{header}2026-11-03T00:00:00Z,2026-11-03T01:00:00Z,{cost},USD\n")
    where = place(str(tmp_path))

    def keys() -> set[str]:
        return {
            value["key"] for of in where.deliveries()[0] for _, _, value in where.collect(of, "BilledCost")
        }  # fmt: skip

    assert len(keys()) == 2
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/delivery.json").write_text(json.dumps(APPEND))
    assert len(keys()) == 3


# ---- on the topic ---------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "expected"), [(False, True), ("false", True), ("FALSE", True), (True, False)])
def test_a_record_may_say_itself_that_its_time_is_not_complete(value, expected):
    record = json.dumps(row("03T00", "03T01") | {COMPLETE_COLUMN: value}).encode()
    kind, charge = collect_charge_record(record, "")
    assert (kind, charge.get("is_incomplete", False)) == ("charge", expected)
