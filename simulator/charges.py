"""The bill: hourly FOCUS rows from usage, and what of it each fault is the cause of.

*Metered* nodes are billed by the unit: vCPU-hours, GB-hours, operations, GB sent; quantity is the
usage of the pods on the node. *Pools* are billed by the machine hour: every five minutes the pool
has as many machines as its pods' cpu or memory need, at least one.

Excess cost of a fault: the bill, less the bill of the same world without that fault, all others
staying. Usage is counted in integers and a request's work is known with and without each fault, so
the other bill is computed, not estimated. It counts for the window of 30 minutes in which the
usage arises, not half and half for the windows of the hour: a row says nothing of when in the hour
its units were used, the simulator knows. And it counts for the culprit, whichever pods' usage
makes the difference: a retry loop costs most at the service that is called again and again, and
repairing the caller is what saves it. A fault that keeps requests from their work saves money; its
excess is negative.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal

from simulator.config import MINUTE_MS, MINUTES_PER_HOUR, Config
from simulator.placement import METERED, Billed, Placement, Pod
from simulator.usage import CPU, IO, MEMORY, TRANSMIT, MinuteDelta, MinuteUsage

WINDOW_MINUTES = 30
# Pools are sized anew this often; machines are billed by the second.
BLOCK_MINUTES = 5
_BLOCKS_PER_HOUR = MINUTES_PER_HOUR // BLOCK_MINUTES

# The autoscaler keeps pods below these shares, in percent, of what the machines have.
_CPU_TARGET = 65
_MEMORY_TARGET = 75

_EXACT = Context(prec=60)
_PLACES = Decimal(1).scaleb(-12)

# Support plans and tax have no resource, and nothing that a fault could change.
_SUPPORT_A_DAY = (Decimal("0.50"), Decimal("0.97"), Decimal("1.61"))
_TAX_RATE = Decimal("0.19")

# Some contracts change while we look.
_PRICE_CHANGE_CHANCE = 0.4
_PRICE_CHANGES = (Decimal("0.93"), Decimal("1.04"), Decimal("1.08"), Decimal("1.12"))

# FOCUS 1.0 columns, with those of 1.2 that hold a commitment, capacity or pricing currency.
COLUMNS = (
    "AvailabilityZone,BilledCost,BillingAccountId,BillingAccountName,BillingAccountType,"
    "BillingCurrency,BillingPeriodEnd,BillingPeriodStart,CapacityReservationId,"
    "CapacityReservationStatus,ChargeCategory,ChargeClass,ChargeDescription,ChargeFrequency,"
    "ChargePeriodEnd,ChargePeriodStart,CommitmentDiscountCategory,CommitmentDiscountId,"
    "CommitmentDiscountName,CommitmentDiscountQuantity,CommitmentDiscountStatus,"
    "CommitmentDiscountType,CommitmentDiscountUnit,ConsumedQuantity,ConsumedUnit,ContractedCost,"
    "ContractedUnitPrice,EffectiveCost,InvoiceId,InvoiceIssuerName,ListCost,ListUnitPrice,"
    "PricingCategory,PricingCurrency,PricingCurrencyContractedUnitPrice,"
    "PricingCurrencyEffectiveCost,PricingCurrencyListUnitPrice,PricingQuantity,PricingUnit,"
    "ProviderName,PublisherName,RegionId,RegionName,ResourceId,ResourceName,ResourceType,"
    "ServiceCategory,ServiceName,ServiceSubcategory,SkuId,SkuMeter,SkuPriceDetails,SkuPriceId,"
    "SubAccountId,SubAccountName,SubAccountType,Tags"
).split(",")


@dataclass(frozen=True)
class Meter:
    """A unit that is billed: usage of ``dimension``, ``per_unit`` of it to the unit."""

    dimension: int
    sku: str
    price: Decimal  # USD a unit
    unit: str
    per_unit: int
    category: str
    service_name: str
    subcategory: str


@dataclass(frozen=True)
class Machine:
    """A machine type, billed by the hour."""

    sku: str
    vcpus: int
    memory_gb: int
    price: Decimal  # USD an hour


@dataclass(frozen=True)
class Tariff:
    """Public on-demand list prices of one provider, USD."""

    provider_name: str
    issuer: str
    region_name: str
    compute: str
    meters: tuple[Meter, ...]
    machines: tuple[Machine, ...]


_CPU_HOUR = 3_600_000_000  # core-microseconds
_GB_HOUR = 10**9 * 3_600_000  # byte-milliseconds; GB as providers bill it, 10^9 bytes
_GB = 10**9


def _meters(
    names: Sequence[str],
    cpu: str,
    memory: str,
    million_io: str,
    gb_out: str,
    compute: str,
    storage: str,
) -> tuple[Meter, ...]:
    per_operation = Decimal(million_io).scaleb(-6)
    return (
        Meter(CPU, names[0], Decimal(cpu), "vCPU-Hours", _CPU_HOUR, "Compute", compute, "Containers"),
        Meter(MEMORY, names[1], Decimal(memory), "GB-Hours", _GB_HOUR, "Compute", compute, "Containers"),
        Meter(IO, names[2], per_operation, "Operations", 1, "Storage", storage, "Block Storage"),
        Meter(TRANSMIT, names[3], Decimal(gb_out), "GB", _GB, "Networking", compute, "Data Transfer"),
    )


# List prices as published in 2024/25. AWS us-east-1: Fargate, EBS magnetic volumes' I/O, data
# transfer out, EC2 (aws.amazon.com/{fargate,ebs,ec2}/pricing). Google Cloud us-central1: GKE
# Autopilot pods, Cloud Storage class B operations, premium tier egress, Compute Engine
# (cloud.google.com/{kubernetes-engine,storage,vpc,compute}/pricing). Azure East US: Container
# Instances, Standard SSD transactions, internet egress, virtual machines
# (azure.microsoft.com/pricing/details/{container-instances,managed-disks,bandwidth}).
TARIFFS = {
    "aws": Tariff(
        "AWS",
        "Amazon Web Services, Inc.",
        "US East (N. Virginia)",
        "Amazon Elastic Compute Cloud",
        _meters(
            ("Fargate-vCPU-Hours:perCPU", "Fargate-GB-Hours", "EBS:VolumeIOUsage", "DataTransfer-Out-Bytes"),
            "0.04048",
            "0.004445",
            "0.05",
            "0.09",
            "Amazon Elastic Container Service",
            "Amazon Elastic Block Store",
        ),
        (
            Machine("BoxUsage:m5.large", 2, 8, Decimal("0.096")),
            Machine("BoxUsage:c5.large", 2, 4, Decimal("0.085")),
            Machine("BoxUsage:c5.xlarge", 4, 8, Decimal("0.17")),
        ),
    ),
    "gcp": Tariff(
        "Google Cloud",
        "Google LLC",
        "Iowa",
        "Compute Engine",
        _meters(
            (
                "Autopilot Pod mCPU Requests",
                "Autopilot Pod Memory Requests",
                "Class B Operations",
                "Network Internet Egress",
            ),
            "0.0445",
            "0.0049225",
            "0.4",
            "0.12",
            "Kubernetes Engine",
            "Cloud Storage",
        ),
        (
            Machine("e2-standard-2", 2, 8, Decimal("0.06701142")),
            Machine("n2-standard-2", 2, 8, Decimal("0.097118")),
            Machine("n2-highcpu-4", 4, 4, Decimal("0.143368")),
        ),
    ),
    "azure": Tariff(
        "Microsoft",
        "Microsoft Corporation",
        "East US",
        "Virtual Machines",
        _meters(
            ("Standard vCPU Duration", "Standard Memory Duration", "E Disk Operations", "Standard Data Transfer Out"),
            "0.0405",
            "0.00445",
            "0.2",
            "0.087",
            "Container Instances",
            "Storage",
        ),
        (
            Machine("Standard_D2s_v5", 2, 8, Decimal("0.096")),
            Machine("Standard_F2s_v2", 2, 4, Decimal("0.0846")),
            Machine("Standard_F4s_v2", 4, 8, Decimal("0.169")),
        ),
    ),
}


class Ledger:
    """Takes the usage of each minute, gives the rows of each hour and the faults' excess costs."""

    def __init__(self, config: Config, placement: Placement, namespace: str) -> None:
        rng = random.Random(f"charges/{config.seed}")
        self._config = config
        self._placement = placement
        self._tariff = TARIFFS[placement.provider]
        self._currency = "USD"
        self._account_name = namespace
        self._zone = placement.region + {"aws": "a", "gcp": "-b", "azure": "-1"}[placement.provider]
        self._support = rng.choice(_SUPPORT_A_DAY)
        self.provider_column = rng.choice(("ProviderName", "ServiceProviderName"))
        self._price_changes = []  # (hour from which it holds, factor)
        hours = -(-config.minutes // MINUTES_PER_HOUR)
        if rng.random() < _PRICE_CHANGE_CHANCE and hours > 1:
            self._price_changes.append((rng.randrange(1, hours), rng.choice(_PRICE_CHANGES)))
        # Of the hour that is open, usage by (billed, meter), and [cpu, memory] by (billed, block):
        self._metered: dict[tuple[int, int], int] = defaultdict(int)
        self._pools: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        # What faults add: by (fault number, window, meter), and by (fault number, billed, block).
        self._added: dict[tuple[int, int, int], int] = defaultdict(int)
        self._pool_added: dict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0, 0])
        # {(fault number, window's first minute): USD}
        self.excess: dict[tuple[int, int], Decimal] = defaultdict(Decimal)

    @property
    def columns(self) -> list[str]:
        """Header of the bill: FOCUS 1.0's name of the provider's column, or 1.4's."""
        return [self.provider_column if name == "ProviderName" else name for name in COLUMNS]

    def add(self, minute: int, pods: Sequence[Pod], usage: MinuteUsage, deltas: MinuteDelta) -> None:
        """Count one minute's usage by pod, and what of it each fault adds."""
        block = minute // BLOCK_MINUTES
        for pod in pods:
            billed = pod.node.billed
            if billed.kind == METERED:
                for number, meter in enumerate(self._tariff.meters):
                    self._metered[billed.index, number] += usage[meter.dimension][pod.slot]
            else:
                demand = self._pools[billed.index, block]
                demand[0] += usage[CPU][pod.slot]
                demand[1] += usage[MEMORY][pod.slot]
        window = minute - minute % WINDOW_MINUTES
        for (fault, slot), delta in deltas.items():
            billed = pods[slot].node.billed
            if billed.kind == METERED:
                for number, meter in enumerate(self._tariff.meters):
                    self._added[fault, window, number] += delta[meter.dimension]
            else:
                added = self._pool_added[fault, billed.index, block]
                added[0] += delta[CPU]
                added[1] += delta[MEMORY]

    def close_hour(self, hour: int) -> list[dict[str, str]]:
        """Rows of one hour; the hour's excess costs are added to ``excess``."""
        factor = self._price_factor(hour)
        rows = []
        for (index, number), used in sorted(self._metered.items()):
            meter = self._tariff.meters[number]
            rows.append(self._metered_row(hour, self._placement.billed[index], meter, used, factor))
        machine_blocks: dict[int, int] = defaultdict(int)
        for (index, _), demand in self._pools.items():
            machine_blocks[index] += self._machines(index, *demand)
        for index, blocks in sorted(machine_blocks.items()):
            rows.append(self._machine_row(hour, self._placement.billed[index], blocks, factor))
        self._blame(factor)
        self._metered.clear()
        self._pools.clear()
        return rows

    def _blame(self, factor: Decimal) -> None:
        """Excess costs of the hour by fault and window."""
        for (fault, window, number), added in self._added.items():
            meter = self._tariff.meters[number]
            quantity = _EXACT.divide(Decimal(added), Decimal(meter.per_unit))
            self.excess[fault, window] += _EXACT.multiply(quantity, meter.price * factor)
        for (fault, index, block), (added_cpu, added_memory) in self._pool_added.items():
            cpu, memory = self._pools[index, block]
            more = self._machines(index, cpu, memory) - self._machines(index, cpu - added_cpu, memory - added_memory)
            minute = block * BLOCK_MINUTES
            window = minute - minute % WINDOW_MINUTES
            cost = self._machine(index).price * factor * more
            self.excess[fault, window] += _EXACT.divide(cost, Decimal(_BLOCKS_PER_HOUR))
        self._added.clear()
        self._pool_added.clear()

    def _machine(self, index: int) -> Machine:
        billed = self._placement.billed[index]
        return self._tariff.machines[billed.machine_type % len(self._tariff.machines)]

    def _machines(self, index: int, cpu_us: int, memory_byte_ms: int) -> int:
        """Machines of a pool in a block: what its cpu and its memory need, at least one."""
        machine = self._machine(index)
        cpu = machine.vcpus * BLOCK_MINUTES * MINUTE_MS * 1000 * _CPU_TARGET
        memory = machine.memory_gb * _GB * BLOCK_MINUTES * MINUTE_MS * _MEMORY_TARGET
        return max(1, -(-cpu_us * 100 // cpu), -(-memory_byte_ms * 100 // memory))

    def _price_factor(self, hour: int) -> Decimal:
        factor = Decimal(1)
        for first, change in self._price_changes:
            if hour >= first:
                factor *= change
        return factor

    # ---- rows -------------------------------------------------------------------------------

    def _metered_row(self, hour: int, billed: Billed, meter: Meter, used: int, factor: Decimal) -> dict[str, str]:
        quantity = _round(_EXACT.divide(Decimal(used), Decimal(meter.per_unit)))
        row = self._row(hour, quantity, meter.price * factor, meter.unit)
        return (
            row
            | self._resource(billed, "node")
            | {
                "ChargeDescription": f"${_text(meter.price * factor)} per {meter.unit} {meter.sku}",
                "ServiceCategory": meter.category,
                "ServiceName": meter.service_name,
                "ServiceSubcategory": meter.subcategory,
                "SkuId": meter.sku,
                "SkuMeter": meter.sku,
                "SkuPriceId": f"{meter.sku}.OnDemand",
            }
        )

    def _machine_row(self, hour: int, billed: Billed, blocks: int, factor: Decimal) -> dict[str, str]:
        machine = self._machine(billed.index)
        quantity = _round(_EXACT.divide(Decimal(blocks), Decimal(_BLOCKS_PER_HOUR)))
        row = self._row(hour, quantity, machine.price * factor, "Hours")
        return (
            row
            | self._resource(billed, "node pool")
            | {
                "ChargeDescription": f"${_text(machine.price * factor)} per On Demand Linux {machine.sku} Hour",
                "ServiceCategory": "Compute",
                "ServiceName": self._tariff.compute,
                "ServiceSubcategory": "Virtual Machines",
                "SkuId": machine.sku,
                "SkuMeter": machine.sku,
                "SkuPriceDetails": f'{{"CoreCount": {machine.vcpus}, "MemorySize": "{machine.memory_gb} GiB"}}',
                "SkuPriceId": f"{machine.sku}.OnDemand",
            }
        )

    def daily_rows(self, day: int) -> Iterator[dict[str, str]]:
        """What is charged by the day without a resource: support, and tax on it."""
        hour = day * 24
        end = _iso(self._time(hour + 24))
        support = self._row(hour, Decimal(1), self._support, "Days") | {
            "ChargeDescription": "Developer support plan",
            "ChargeFrequency": "Recurring",
            "ChargePeriodEnd": end,
            "ServiceCategory": "Other",
            "ServiceName": "Support",
            "ServiceSubcategory": "Other (Other)",
            "SkuId": "support-developer",
        }
        yield support
        tax = _text(_round(self._support * _TAX_RATE))
        yield (
            support
            | dict.fromkeys(
                (
                    "ListUnitPrice",
                    "ContractedUnitPrice",
                    "PricingQuantity",
                    "PricingUnit",
                    "SkuId",
                    "ConsumedQuantity",
                    "ConsumedUnit",
                    "PricingCategory",
                ),
                "",
            )
            | dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), tax)
            | {
                "ChargeCategory": "Tax",
                "ChargeDescription": "Sales tax",
            }
        )

    def _time(self, hour: int) -> datetime:
        return self._config.start + timedelta(hours=hour)

    def _resource(self, billed: Billed, kind: str) -> dict[str, str]:
        return {
            "AvailabilityZone": self._zone,
            "ResourceId": billed.resource_id,
            "ResourceName": billed.name,
            "ResourceType": kind,
            "Tags": f'{{"cluster": "{self._placement.cluster}"}}',
        }

    def _row(self, hour: int, quantity: Decimal, price: Decimal, unit: str) -> dict[str, str]:
        """Columns that all rows of an hour have."""
        start = self._time(hour)
        month = start.replace(day=1, hour=0)
        next_month = (month + timedelta(days=31)).replace(day=1)
        cost = _text(_round(_EXACT.multiply(quantity, price)))
        tariff = self._tariff
        return dict.fromkeys(self.columns, "") | {
            "BilledCost": cost,
            "BillingAccountId": self._placement.account,
            "BillingAccountName": self._account_name,
            "BillingCurrency": self._currency,
            "BillingPeriodEnd": _iso(next_month),
            "BillingPeriodStart": _iso(month),
            "ChargeCategory": "Usage",
            "ChargeFrequency": "Usage-Based",
            "ChargePeriodEnd": _iso(start + timedelta(hours=1)),
            "ChargePeriodStart": _iso(start),
            "ConsumedQuantity": _text(quantity),
            "ConsumedUnit": unit,
            "ContractedCost": cost,
            "ContractedUnitPrice": _text(price),
            "EffectiveCost": cost,
            "InvoiceIssuerName": tariff.issuer,
            "ListCost": cost,
            "ListUnitPrice": _text(price),
            "PricingCategory": "Standard",
            "PricingCurrency": self._currency,
            "PricingQuantity": _text(quantity),
            "PricingUnit": unit,
            self.provider_column: tariff.provider_name,
            "PublisherName": tariff.issuer,
            "RegionId": self._placement.region,
            "RegionName": tariff.region_name,
            "SubAccountId": self._placement.cluster,
            "SubAccountName": self._placement.cluster,
        }


def _round(value: Decimal) -> Decimal:
    return value.quantize(_PLACES, context=_EXACT)


def _text(value: Decimal) -> str:
    """Plain notation without trailing zeros."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
