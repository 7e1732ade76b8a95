"""export_focus: what is allocated goes back to finance as FOCUS has it, to the last decimal."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow.parquet as pq
import pytest

from jobs.export_focus import COST_CENTER_TAG, METHOD_ID, SERVICE_TAG, TYPES, Bill, export, main
from tests.unit.literal_tables import write
from udfs.pure.focus import collect_charges
from udfs.pure.price import apportion, cost_by_window, standing, to_decimal, to_units
from udfs.pure.windows import IDLE, NO_RESOURCE, UNALLOCATED

NOON = datetime(2024, 4, 30, 12, tzinfo=UTC)
HALF_HOUR = timedelta(minutes=30)
COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")

# What FOCUS 1.4 publishes of each column of CostAndUsage that is written: (type, allows nulls,
# feature level), "Content Constraints" of specification/datasets/cost_and_usage/columns/*.md in
# FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec.
M, C, R = "Mandatory", "Conditional", "Recommended"
RULES = {
    "AllocatedMethodDetails": ("JSON", True, R), "AllocatedMethodId": ("String", True, C),
    "AllocatedResourceId": ("String", True, C), "AllocatedResourceName": ("String", True, C),
    "AllocatedTags": ("JSON", True, C), "AvailabilityZone": ("String", True, R),
    "BilledCost": ("Decimal", False, M), "BillingAccountId": ("String", False, M),
    "BillingAccountName": ("String", True, M), "BillingAccountType": ("String", True, C),
    "BillingCurrency": ("Currency", False, M), "BillingPeriodEnd": ("Date/Time", False, M),
    "BillingPeriodStart": ("Date/Time", False, M), "CapacityReservationId": ("String", True, C),
    "CapacityReservationStatus": ("String", True, C), "ChargeCategory": ("String", False, M),
    "ChargeClass": ("String", True, M), "ChargeDescription": ("String", True, M),
    "ChargeFrequency": ("String", False, R), "ChargePeriodEnd": ("Date/Time", False, M),
    "ChargePeriodStart": ("Date/Time", False, M),
    "CommitmentDiscountCategory": ("String", True, C), "CommitmentDiscountId": ("String", True, C),
    "CommitmentDiscountName": ("String", True, C), "CommitmentDiscountStatus": ("String", True, C),
    "CommitmentDiscountType": ("String", True, C), "ConsumedQuantity": ("Decimal", True, C),
    "ConsumedUnit": ("String", True, C), "ContractedCost": ("Decimal", False, M),
    "ContractedUnitPrice": ("Decimal", True, C), "EffectiveCost": ("Decimal", False, M),
    "HostProviderName": ("String", False, M), "InvoiceDetailId": ("String", True, M),
    "InvoiceId": ("String", True, R), "InvoiceIssuerName": ("String", False, M),
    "ListCost": ("Decimal", False, M), "ListUnitPrice": ("Decimal", True, C),
    "PricingCategory": ("String", True, C), "PricingCurrency": ("String", True, C),
    "PricingQuantity": ("Decimal", True, M), "PricingUnit": ("String", True, M),
    "RegionId": ("String", True, C), "RegionName": ("String", True, C),
    "ResourceId": ("String", True, C), "ResourceName": ("String", True, C),
    "ResourceType": ("String", True, C), "ServiceCategory": ("String", False, M),
    "ServiceName": ("String", False, M), "ServiceProviderName": ("String", False, M),
    "ServiceSubcategory": ("String", False, R), "SkuId": ("String", True, C),
    "SkuMeter": ("String", True, C), "SkuPriceDetails": ("JSON", True, C),
    "SkuPriceId": ("String", True, C), "SubAccountId": ("String", True, C),
    "SubAccountName": ("String", True, C), "SubAccountType": ("String", True, C),
    "Tags": ("JSON", True, C),
}  # fmt: skip
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "CommitmentDiscountCategory": {"Spend", "Usage"},
    "CommitmentDiscountStatus": {"Used", "Unused"},
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {
        "AI and Machine Learning",
        "Analytics",
        "Business Applications",
        "Compute",
        "Databases",
        "Developer Tools",
        "Multicloud",
        "Identity",
        "Integration",
        "Internet of Things",
        "Management and Governance",
        "Media",
        "Migration",
        "Mobile",
        "Networking",
        "Security",
        "Storage",
        "Web",
        "Other",
    },
}


def check(row):
    """Every published rule on a row of CSV, its columns' and those between columns."""
    for column, (kind, is_nullable, _) in RULES.items():
        text = row[column]
        if text == "":
            assert is_nullable, f"{column} is null"
            continue
        assert text == text.strip() and text.upper() != "NULL", column
        if kind == "Decimal":
            assert Decimal(text).is_finite() and "E" not in text.upper() and "," not in text
        elif kind == "Date/Time":
            datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
        elif kind == "JSON":
            assert isinstance(json.loads(text), dict), column
        elif kind == "Currency":
            assert len(text) == 3 and text.isalpha() and text.isupper()
        assert text in ALLOWED.get(column, {text}), f"{column} {text}"
    assert row["BillingPeriodStart"] < row["BillingPeriodEnd"]
    assert row["ChargePeriodStart"] < row["ChargePeriodEnd"]
    is_split = row["AllocatedMethodId"] != ""
    assert is_split == (row["AllocatedMethodDetails"] != "")
    if not is_split:
        assert not row["AllocatedResourceId"] and not row["AllocatedTags"]
    assert (row["AllocatedResourceId"] == "") == (row["AllocatedResourceName"] == "")
    if is_split:
        for element in json.loads(row["AllocatedMethodDetails"])["Elements"]:
            assert 0 <= element["AllocatedRatio"] <= 1
            assert set(element) <= {"AllocatedRatio", "UsageUnit", "UsageQuantity"}
            assert "UsageUnit" in element or "UsageQuantity" not in element
    assert (row["PricingQuantity"] == "") == (row["PricingUnit"] == "")
    assert (row["ConsumedQuantity"] == "") == (row["ConsumedUnit"] == "")
    if not row["SkuPriceId"]:
        assert not row["PricingQuantity"] and not row["ConsumedQuantity"]
    if row["ChargeCategory"] != "Usage":
        assert not row["ConsumedQuantity"]
    if row["ChargeCategory"] == "Purchase":
        assert row["ChargeFrequency"] != "Usage-Based"
    if not row["ResourceId"]:
        assert not row["ResourceName"]


# ---- worlds -----------------------------------------------------------------------------------


def source_row(start=NOON, hours=1, **columns):
    end = start + timedelta(hours=hours)
    return {
        "BilledCost": "0.8", "BillingAccountId": "acc-1", "BillingAccountName": "Shop",
        "BillingCurrency": "USD", "BillingPeriodEnd": "2024-05-01T00:00:00Z",
        "BillingPeriodStart": "2024-04-01T00:00:00Z", "ChargeCategory": "Usage", "ChargeClass": "",
        "ChargeFrequency": "Usage-Based", "ChargePeriodEnd": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        "ChargePeriodStart": f"{start:%Y-%m-%dT%H:%M:%SZ}", "ConsumedQuantity": "4",
        "ConsumedUnit": "vCPU-Hours", "ContractedCost": "0.9", "ContractedUnitPrice": "0.225",
        "EffectiveCost": "0.6", "InvoiceIssuerName": "Amazon Web Services, Inc.",
        "ListCost": "1.0", "ListUnitPrice": "0.25", "PricingCategory": "Standard",
        "PricingQuantity": "4", "PricingUnit": "vCPU-Hours", "ProviderName": "AWS",
        "PublisherName": "AWS", "RegionId": "us-east-1", "ResourceId": "node-1",
        "ServiceCategory": "Compute", "ServiceName": "Amazon Elastic Compute Cloud",
        "ServiceSubcategory": "Containers", "SkuId": "SKU-1", "SkuPriceId": "SKU-1-P",
        "SubAccountId": "cluster", "Tags": '{"team": "web", "env": "prod"}', **columns,
    }  # fmt: skip


def write_bill(directory, rows):
    folder = directory / "billing"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bill.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return directory


def allocation(service, cost, usage=1.0, total=1.0, when=NOON, **columns):
    return {
        "window_start": when, "resource_id": "node-1", "dimension": "cpu",
        "otel_service_name": service, "usage": usage, "total_usage": total,
        "share": usage / total if total else 1.0, "resource_cost": cost, "allocated_cost": cost,
        "billing_currency": "USD", "cost_status": "billed", **columns,
    }  # fmt: skip


def allocate(directory, seed, cost_column="EffectiveCost"):
    """cost_allocations of a bill, by random usage."""
    draw = random.Random(seed)
    charges = [
        charge
        for path in sorted((directory / "billing").iterdir())
        for kind, charge in collect_charges(path, cost_column)
        if kind == "charge"
    ]
    groups: Counter = Counter()
    for charge in standing(charges):
        for window_ms, by_dimension in cost_by_window(charge).items():
            for dimension, units in by_dimension.items():
                groups[window_ms, charge["resource_id"], dimension, charge["currency"]] += units
    rows = []
    for (window_ms, resource_id, dimension, currency), units in sorted(groups.items()):
        usage = {name: draw.randrange(1, 9) for name in draw.sample(["cart", "pay", "ship"], 2)}
        kind = "workloads"
        if resource_id == NO_RESOURCE or dimension == "other":
            usage, kind = {UNALLOCATED: 1}, "unmetered"
        elif draw.random() < 0.1:
            usage, kind = {IDLE: 1}, "idle"
        total = sum(usage.values())
        for service, part in apportion(units, usage).items():
            used = {"workloads": float(usage[service]), "idle": 0.0, "unmetered": None}[kind]
            rows.append(
                {
                    "window_start": datetime.fromtimestamp(window_ms / 1000, UTC),
                    "resource_id": resource_id,
                    "dimension": dimension,
                    "otel_service_name": service,
                    "usage": used,
                    "total_usage": None if used is None else float(total if used else 0),
                    "share": usage[service] / total,
                    "resource_cost": to_decimal(units),
                    "allocated_cost": to_decimal(part),
                    "billing_currency": currency,
                    "cost_status": "billed",
                }
            )
    return rows


def exported(tmp_path, rows, bill=None, **options):
    """The rows of the CSV, each checked."""
    write(tmp_path / "tables", "cost_allocations", rows)
    source = None if bill is None else write_bill(tmp_path / "input", bill)
    export(str(tmp_path / "tables"), tmp_path / "out.csv", source, **options)
    with (tmp_path / "out.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    if options.get("version", "1.4") == "1.4":
        for row in found:
            check(row)
    return found


def of(rows, *columns):
    return [tuple(row[column] for column in columns) for row in rows]


# ---- promises ---------------------------------------------------------------------------------


def test_the_columns_are_those_of_focus_in_its_order_and_then_ours():
    focus = [name for name in TYPES if not name.startswith("x_")]
    assert list(TYPES) == focus + [name for name in TYPES if name.startswith("x_")]
    assert focus == sorted(RULES)


def test_the_resource_is_written_as_the_bill_has_it(tmp_path):
    arn = "arn:aws:ec2:us-east-1:123456789012:instance/i-0abc"
    [row] = exported(
        tmp_path,
        [allocation("cart", "0.3", resource_id="i-0abc")],
        [source_row(hours=0.5, EffectiveCost="0.3", ResourceId=arn)],
    )
    assert (row["ResourceId"], row["x_CostBasis"]) == (arn, "source")


def test_a_pool_that_only_a_tag_names_has_no_resource_id(tmp_path):
    pool = "goog-k8s-node-pool-name=my-project/us-central1/hello-cluster/default-pool"
    tags = '{"goog-k8s-cluster-name": "hello-cluster", "goog-k8s-node-pool-name": "default-pool"}'
    source = source_row(
        hours=0.5, EffectiveCost="0.3", ResourceId="", SubAccountId="my-project", RegionId="us-central1", Tags=tags
    )
    [row] = exported(tmp_path, [allocation("cart", "0.3", resource_id=pool)], [source])
    assert (row["ResourceId"], row["AllocatedResourceId"], row["x_CostBasis"]) == ("", "cart", "source")
    assert row["ChargeDescription"] == f"cpu of {pool}, allocated to cart by usage"


@pytest.mark.parametrize(
    ("resource_id", "why"),
    [
        ("arn:aws:eks:us-east-1:123456789012:cluster/my-cluster", "that all workloads share (control plane)"),
        ("nat-05dba92075d71c408", "that all workloads share (NAT or egress)"),
        ("vol-049df61146c4d7901", "tied to no workload"),
    ],
)
def test_what_all_workloads_share_says_so(tmp_path, resource_id, why):
    [row] = exported(tmp_path, [allocation("__unallocated__", "0.1", None, None, resource_id=resource_id)])
    assert why in row["ChargeDescription"]


def test_a_row_is_an_allocated_charge(tmp_path):
    rows = exported(
        tmp_path,
        [
            allocation("cart", "0.225", 3.0, 4.0),
            allocation("__unallocated__", "0.075", 1.0, 4.0),
            allocation("__idle__", "0.3", 0.0, 0.0, NOON + HALF_HOUR),
        ],
    )
    assert of(rows, "ResourceId", "AllocatedResourceId", "EffectiveCost", "AllocatedMethodId") == [
        ("node-1", "cart", "0.225000000000", METHOD_ID),
        ("node-1", "", "0.075000000000", METHOD_ID),
        ("node-1", "", "0.300000000000", METHOD_ID),
    ]
    cart = rows[0]
    assert json.loads(cart["AllocatedMethodDetails"]) == {
        "Elements": [{"AllocatedRatio": 0.75, "UsageUnit": "Core-Seconds", "UsageQuantity": 3.0}]
    }
    assert json.loads(cart["AllocatedTags"]) == {SERVICE_TAG: "cart"}
    assert (cart["ChargePeriodStart"], cart["ChargePeriodEnd"]) == ("2024-04-30T12:00:00Z", "2024-04-30T12:30:00Z")
    assert (cart["BillingPeriodStart"], cart["BillingPeriodEnd"]) == ("2024-04-01T00:00:00Z", "2024-05-01T00:00:00Z")
    assert of(rows, "x_OtelServiceName") == [("cart",), ("__unallocated__",), ("__idle__",)]


def test_a_cost_centre_is_told_in_a_column_and_among_the_tags(tmp_path):
    rows = exported(tmp_path, [allocation("cart", "0.2", cost_center="4711"), allocation("pay", "0.1")])
    assert of(rows, "x_CostCenter") == [("4711",), ("",)]
    assert json.loads(rows[0]["AllocatedTags"]) == {SERVICE_TAG: "cart", COST_CENTER_TAG: "4711"}
    assert json.loads(rows[1]["AllocatedTags"]) == {SERVICE_TAG: "pay"}


def test_without_the_bill_all_costs_are_the_allocated_one_and_it_is_said_so(tmp_path):
    [row] = exported(tmp_path, [allocation("cart", "0.3")])
    assert {row[column] for column in COSTS} == {"0.300000000000"}
    assert of([row], "x_CostBasis", "BillingAccountId", "ServiceName", "HostProviderName") == [
        ("allocation", "unknown", "unknown", "Not Applicable")
    ]
    assert (row["ServiceCategory"], row["ServiceSubcategory"]) == ("Compute", "Other (Compute)")
    assert row["SkuId"] == row["PricingQuantity"] == row["Tags"] == ""


def test_the_bill_gives_the_other_costs_in_the_same_proportions(tmp_path):
    rows = exported(
        tmp_path,
        [allocation("cart", "0.225"), allocation("pay", "0.075"), allocation("cart", "0.3", when=NOON + HALF_HOUR)],
        [source_row()],
    )
    assert of(rows, "EffectiveCost", "BilledCost", "ContractedCost", "ListCost") == [
        ("0.225000000000", "0.300000000000", "0.337500000000", "0.375000000000"),
        ("0.075000000000", "0.100000000000", "0.112500000000", "0.125000000000"),
        ("0.300000000000", "0.400000000000", "0.450000000000", "0.500000000000"),
    ]
    assert of(rows, "PricingQuantity", "ConsumedQuantity", "PricingUnit", "ListUnitPrice")[0] == (
        "1.500000000000",
        "1.500000000000",
        "vCPU-Hours",
        "0.250000000000000000",
    )
    assert of(
        rows[:1],
        "x_CostBasis",
        "BillingAccountId",
        "ServiceName",
        "SkuId",
        "SubAccountId",
        "RegionId",
        "ServiceProviderName",
        "HostProviderName",
        "InvoiceIssuerName",
    ) == [
        (
            "source",
            "acc-1",
            "Amazon Elastic Compute Cloud",
            "SKU-1",
            "cluster",
            "us-east-1",
            "AWS",
            "AWS",
            "Amazon Web Services, Inc.",
        )
    ]
    assert json.loads(rows[0]["Tags"]) == {"env": "prod", "team": "web"}


def test_where_source_rows_disagree_a_column_is_null_or_that_of_the_dearest(tmp_path):
    [row] = exported(
        tmp_path,
        [allocation("cart", "0.8")],
        [
            source_row(),
            source_row(
                EffectiveCost="1.0",
                SkuId="SKU-2",
                SkuPriceId="SKU-2-P",
                ServiceName="Amazon Fargate",
                Tags='{"team": "web", "env": "test"}',
                ChargeClass="Correction",
            ),
        ],
    )
    assert of(
        [row],
        "ServiceName",
        "SkuId",
        "SkuPriceId",
        "PricingQuantity",
        "ListUnitPrice",
        "RegionId",
        "ChargeClass",
        "Tags",
    ) == [("Amazon Fargate", "", "", "", "", "us-east-1", "", '{"team":"web"}')]
    assert row["BilledCost"] == "0.800000000000"


def test_allowed_values_are_spelt_as_focus_does_and_others_are_null(tmp_path):
    [row] = exported(
        tmp_path,
        [allocation("cart", "0.6")],
        [
            source_row(
                hours=0.5,
                ChargeFrequency="usage-based",
                ServiceCategory="compute",
                PricingCategory="Spot",
                ServiceSubcategory="",
            )
        ],
    )
    assert of([row], "ChargeFrequency", "ServiceCategory", "PricingCategory", "ServiceSubcategory") == [
        ("Usage-Based", "Compute", "", "Other (Compute)")
    ]


def test_a_covered_charge_is_split_by_share_where_its_allocated_cost_is_nothing(tmp_path):
    rows = exported(
        tmp_path,
        [allocation("cart", "0", 3.0, 4.0), allocation("pay", "0", 1.0, 4.0)],
        [source_row(hours=0.5, EffectiveCost="0")],
    )
    assert of(rows, "EffectiveCost", "BilledCost") == [
        ("0.000000000000", "0.600000000000"),
        ("0.000000000000", "0.200000000000"),
    ]


def test_a_cost_that_the_source_leaves_null_is_the_allocated_one(tmp_path):
    [row] = exported(tmp_path, [allocation("cart", "0.6")], [source_row(hours=0.5, ListCost="", ContractedCost="null")])
    assert of([row], "EffectiveCost", "BilledCost", "ListCost", "ContractedCost") == [
        ("0.600000000000", "0.800000000000", "0.600000000000", "0.600000000000")
    ]


def test_provisional_rows_are_left_out_unless_asked_for(tmp_path):
    rows = [allocation("cart", "0.3"), allocation("pay", "0.1", cost_status="provisional", when=NOON + HALF_HOUR)]
    assert of(exported(tmp_path, rows), "x_CostStatus") == [("billed",)]
    both = exported(tmp_path, rows, with_provisional=True)
    assert of(both, "x_CostStatus", "EffectiveCost") == [
        ("billed", "0.300000000000"),
        ("provisional", "0.100000000000"),
    ]


def test_another_allocated_column_is_left_as_it_was_allocated(tmp_path):
    [row] = exported(tmp_path, [allocation("cart", "0.8")], [source_row(hours=0.5)], cost_column="BilledCost")
    assert of([row], "BilledCost", "EffectiveCost", "x_CostBasis") == [("0.800000000000", "0.600000000000", "source")]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_cost_sums_to_the_source_rows_to_the_last_decimal(tmp_path, seed):
    draw = random.Random(seed)
    bill = []
    for i in range(80):
        start = NOON + timedelta(hours=draw.randrange(30))
        amounts = {name: f"{draw.uniform(-0.2, 1):.{draw.randrange(3, 13)}f}" for name in COSTS}
        kind = draw.choice(
            [
                {"ConsumedUnit": "vCPU-Hours"},
                {"ConsumedUnit": "Hours"},
                {"ConsumedUnit": "GB-Hours"},
                {"ConsumedUnit": "", "ResourceId": "", "ChargeCategory": "Tax", "SkuPriceId": ""},
                {"ConsumedUnit": "Requests", "ChargeCategory": "Credit"},
            ]
        )
        bill.append(
            source_row(
                start,
                draw.choice([1, 1, 1, 24]),
                **amounts
                | {
                    "ResourceId": f"node-{draw.randrange(3)}",
                    "BillingCurrency": draw.choice(["USD", "USD", "EUR"]),
                    "SkuId": f"SKU-{i}",
                }
                | kind,
            )
        )
    source = write_bill(tmp_path / "input", bill)
    rows = exported(tmp_path, allocate(source, seed), bill)
    for column in COSTS:
        charged, written = defaultdict(int), defaultdict(int)
        for row in bill:
            charged[row["BillingCurrency"]] += to_units(row[column])
        for row in rows:
            written[row["BillingCurrency"]] += to_units(row[column])
        assert written == charged, column
    assert {row["x_CostBasis"] for row in rows} == {"source"}
    assert {row["ChargeCategory"] for row in rows} >= {"Usage", "Tax"}


def test_ratios_of_one_charge_sum_to_one(tmp_path):
    rows = exported(tmp_path, allocate(write_bill(tmp_path / "input", [source_row()]), 4))
    ratios = defaultdict(float)
    for row in rows:
        [element] = json.loads(row["AllocatedMethodDetails"])["Elements"]
        ratios[row["ChargePeriodStart"]] += element["AllocatedRatio"]
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0))


def test_parquet_holds_what_the_csv_does(tmp_path):
    rows = exported(tmp_path, [allocation("cart", "0.6")], [source_row(hours=0.5)])
    export(str(tmp_path / "tables"), tmp_path / "out.parquet", tmp_path / "input")
    table = pq.read_table(tmp_path / "out.parquet")
    assert {field.name: field.type for field in table.schema} == TYPES
    [row] = table.to_pylist()
    assert row["BilledCost"] == Decimal(rows[0]["BilledCost"])
    assert row["ChargePeriodStart"] == NOON
    assert row["SkuPriceId"] == rows[0]["SkuPriceId"]
    assert row["InvoiceId"] is None


def test_version_1_3_has_the_names_that_1_4_took_out(tmp_path):
    [row] = exported(tmp_path, [allocation("cart", "0.6")], [source_row(hours=0.5)], version="1.3")
    assert (row["ProviderName"], row["PublisherName"]) == ("AWS", "AWS")
    assert "InvoiceDetailId" not in row
    assert "ProviderName" not in TYPES


# ---- command ----------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    write(tmp_path / "tables", "cost_allocations", [allocation("cart", "0.6")])
    write_bill(tmp_path / "input", [source_row(hours=0.5)])
    command = ["--tables", str(tmp_path / "tables"), "--output", str(tmp_path / "o.csv")]
    assert main([*command, "--input", str(tmp_path / "input")]) == 0
    assert capsys.readouterr().err == "export_focus: 1 rows, 0.600000000000 USD\n"


def test_a_bill_that_does_not_fit_is_not_taken_and_told(tmp_path, capsys):
    write(tmp_path / "tables", "cost_allocations", [allocation("cart", "0.5")])
    write_bill(tmp_path / "input", [source_row(hours=1)])
    command = ["--tables", str(tmp_path / "tables"), "--output", str(tmp_path / "o.csv")]
    assert main([*command, "--input", str(tmp_path / "input")]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "1 windows" in told[1] and "1 of it are not in them" in told[1]
    [row] = csv.DictReader((tmp_path / "o.csv").open(newline=""))
    assert (row["x_CostBasis"], row["BilledCost"]) == ("allocation", "0.500000000000")


def test_of_a_bill_the_current_deliveries_are_read_as_the_job_reads_them(tmp_path):
    """What the job doesn't read must not add to what it charged."""
    for execution, cost in (("2024-09-19T06:00:00.000Z-1", "1"), ("2024-09-20T06:00:00.000Z-2", "2")):
        data, metadata = (
            tmp_path / f"billing/{kind}/BILLING_PERIOD=2024-09/{execution}" for kind in ("data", "metadata")
        )
        write_bill(tmp_path, [source_row(EffectiveCost=cost, SkuId=f"SKU-{cost}")])
        data.mkdir(parents=True)
        metadata.mkdir(parents=True)
        (tmp_path / "billing/bill.csv").rename(data / "x-00001.csv")
        (metadata / "x-Manifest.json").write_text(
            json.dumps({"dataFiles": [f"s3://b/{data.relative_to(tmp_path)}/x-00001.csv"]})
        )
    charged = Bill(tmp_path, "EffectiveCost")._groups.values()
    assert sum(group.costs["EffectiveCost"] for group in charged) == 2 * 10**12


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        ([], 2, "--tables"),
        (["--tables", "nowhere", "--output", "o.csv"], 2, "no cost_allocations.parquet"),
        (["--tables", "tables", "--output", "o.txt"], 2, "must end in .csv or .parquet"),
        (["--tables", "tables", "--output", "nowhere/o.csv"], 2, "no directory nowhere"),
        (["--tables", "tables", "--output", "o.csv", "--input", "tables"], 2, "no bill in"),
        (["--tables", "tables", "--output", "o.csv", "--input", "broken"], 1, "not a FOCUS bill"),
        (["--tables", "torn", "--output", "o.csv"], 1, "cost_allocations.parquet"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, monkeypatch, capsys, arguments, status, part):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tables", "cost_allocations", [])
    (tmp_path / "broken/billing").mkdir(parents=True)
    (tmp_path / "broken/billing/bill.csv").write_text("a,b\n1,2\n")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/cost_allocations.parquet").write_bytes(b"PAR1 and no more")
    assert main(arguments) == status
    told = capsys.readouterr().err
    assert told.startswith("export_focus: ") and told.count("\n") == 1 and part in told
    assert not list(tmp_path.glob("*.csv")) and not list(tmp_path.glob(".o*"))
