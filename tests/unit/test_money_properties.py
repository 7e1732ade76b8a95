"""Money, whatever comes in: the same rows of any order, repetition, split and lateness, and not a unit lost."""

from __future__ import annotations

from collections import defaultdict
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.keyed_stage import Stage
from udfs.attribute import Attribute
from udfs.pure.attribute import IDLE_POLICIES, resource_rows
from udfs.pure.focus import charge_key, collect_charge
from udfs.pure.price import to_units
from udfs.pure.rates import Exchange, offer, rate_card
from udfs.pure.windows import HOUR_MS, WINDOW_MS

START_MS = 400_000 * HOUR_MS
PLACE = Decimal("1E-12")

KINDS = {
    "machine": {"ConsumedUnit": "Hours", "SkuPriceDetails": '{"CoreCount": 2, "MemorySize": "8 GiB"}'},
    "gpus": {"ConsumedUnit": "Hours", "SkuPriceDetails": '{"CoreCount": 3, "MemorySize": 7, "GpuCount": 1}'},
    "gpu": {"ConsumedUnit": "GPU-Hours"},
    "unsized": {"ConsumedUnit": "Hours"},
    "cpu": {"ConsumedUnit": "vCPU-Hours"},
    "io": {"ConsumedUnit": "Operations", "ServiceCategory": "Storage"},
    "support": {"ConsumedUnit": "Months"},
}
COSTS = st.decimals(-50, 50, places=11)


@st.composite
def bills(draw):
    """FOCUS rows of node-1, several snapshots of some of them, and what must be left of them by currency."""
    rows, left = [], defaultdict(Decimal)
    for number in range(draw(st.integers(0, 6))):
        about = {
            "ResourceId": "node-1", "SkuId": f"sku-{number}", "ServiceCategory": "Compute",
            "ChargeCategory": draw(st.sampled_from(["Usage", "Usage", "Credit"])),
            "BillingCurrency": draw(st.sampled_from(["USD", "EUR"])),
            "ConsumedQuantity": draw(st.sampled_from(["0.5", "1", "3"])),
            **KINDS[draw(st.sampled_from(list(KINDS)))],
        }  # fmt: skip
        first_ms = START_MS + draw(st.integers(0, 5)) * WINDOW_MS
        hours = draw(st.sampled_from([1, 1, 24]))
        about |= {"ChargePeriodStart": first_ms, "ChargePeriodEnd": first_ms + hours * HOUR_MS}
        is_negative = draw(st.booleans())
        costs = [abs(cost) for cost in draw(st.lists(COSTS, min_size=1, max_size=3))]
        if is_negative:  # nothing is no credit: it would be a row of its own
            costs = [-(cost or PLACE) for cost in costs]
        # Snapshots, each of one or two tiers, the last of which stands.
        tiers = draw(st.integers(1, 2))
        for day, cost in enumerate(costs):
            of_tier = {"x_SnapshotTime": f"2024-09-{10 + day}T00:00:00Z"}
            rows += [about | of_tier | {"EffectiveCost": cost * tier} for tier in range(1, tiers + 1)]
        left[about["BillingCurrency"]] += sum(costs[-1] * tier for tier in range(1, tiers + 1))
        if draw(st.booleans()):  # corrected after the close: a delta, or reversal and rebook
            deltas = draw(st.lists(COSTS.filter(bool), min_size=1, max_size=2, unique=True))
            rows += [about | {"ChargeClass": "Correction", "EffectiveCost": delta} for delta in deltas]
            left[about["BillingCurrency"]] += sum(deltas)
    return rows, dict(left)


USAGE = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(["cpu", "memory", "io", "gpu"]),
        st.sampled_from(["", "cart", "pay"]),
        st.one_of(st.just(0.0), st.floats(1e-3, 1e13)),
    ),
    max_size=12,
)


def consumers(usage):
    return [(service, {START_MS + window * WINDOW_MS: {dimension: used}}) for window, dimension, service, used in usage]


def charges_of(rows, exchange=None, delivery="bill"):
    return [collect_charge(row, delivery=delivery, exchange=exchange) for row in rows]


def allocated(rows_by_window):
    """Units by currency, of what is billed."""
    total = defaultdict(int)
    for rows in rows_by_window.values():
        for row in rows:
            if row["cost_status"] != "provisional":
                total[row["billing_currency"]] += to_units(row["allocated_cost"])
    return {currency: units for currency, units in total.items() if units}


@pytest.mark.parametrize("policy", IDLE_POLICIES)
@settings(derandomize=True, max_examples=60, deadline=None)
@given(bill=bills(), usage=USAGE)
def test_allocated_and_idle_and_unallocated_are_what_is_charged(policy, bill, usage):
    rows, left = bill
    found = resource_rows("node-1", consumers(usage), charges_of(rows), idle_policy=policy)
    assert allocated(found) == {currency: to_units(cost) for currency, cost in left.items() if cost}
    for of_window in found.values():
        parts, wholes = defaultdict(int), {}
        for row in of_window:
            key = row["dimension"], row["billing_currency"]
            parts[key] += to_units(row["allocated_cost"])
            wholes[key] = to_units(row["resource_cost"])
            if row["cost_status"] != "provisional":
                assert wholes[key] == sum(to_units(c["cost_in_window"]) for c in row["charges"])
            assert (row["idle_policy"], row["allocated_cost"].as_tuple().exponent) == (policy, -12)
        assert parts == wholes


@settings(derandomize=True, max_examples=60, deadline=None)
@given(bill=bills(), usage=USAGE, draw=st.randoms(use_true_random=False), policy=st.sampled_from(IDLE_POLICIES))
def test_order_repetition_split_and_lateness_do_not_show(bill, usage, draw, policy):
    """In a stream with a timer after any event, and in one that ends after all of them."""
    rows, _ = bill
    events = [
        ("usage", f"{window}/{number}", [service, "pod", {"windows": windows}])
        for number, (service, windows) in enumerate(consumers(usage))
        for window in windows
    ]
    for delivery in ("a", "b"):  # each row in both, or in one of them
        events += [
            ("charge", charge_key(charge), charge)
            for charge in charges_of(rows, delivery=delivery)
            if delivery == "a" or draw.random() < 0.5
        ]
    offers = [(1, found[2]) for _, _, c in events if _is_charge(c) and (found := offer(c))]
    events.append(("rates", "", rate_card(offers)))

    at_once = Stage(Attribute(None, None, (), policy), "node-1")
    for event in events:
        at_once.feed(*event)
    shuffled = events + [event for event in events if event[0] == "charge" and draw.random() < 0.3]
    draw.shuffle(shuffled)
    stream = Stage(Attribute(None, 10_000, (), policy), "node-1")
    for event in shuffled:
        stream.feed(*event)
        if draw.random() < 0.3:
            stream.fire()
    assert stream.end() == at_once.end()


def _is_charge(payload):
    return isinstance(payload, dict)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(bill=bills(), usage=USAGE, rate=st.decimals("0.001", 200, places=6))
def test_converted_is_what_the_charges_are_converted_to(bill, usage, rate):
    """Each charge at its rate, to the last place; what has no rate stays apart."""
    rows, left = bill
    exchange = Exchange("USD", (("EUR", 0, str(rate)),))
    charges = charges_of(rows, exchange)
    for charge, row in zip(charges, rows, strict=True):
        if row["BillingCurrency"] == "EUR":
            exact = (row["EffectiveCost"] * rate).quantize(PLACE, rounding=ROUND_HALF_EVEN)
            assert (Decimal(charge["cost"]), charge["currency"]) == (exact, "USD")
            assert Decimal(charge["converted"]["cost"]) == row["EffectiveCost"]
    found = allocated(resource_rows("node-1", consumers(usage), charges))
    assert set(found) <= {"USD"}
    bound = Decimal(len(rows)) * PLACE
    assert abs(Decimal(found.get("USD", 0)).scaleb(-12) - left.get("USD", 0) - left.get("EUR", 0) * rate) <= bound
    unrated = allocated(resource_rows("node-1", consumers(usage), charges_of(rows, Exchange("GBP", ()))))
    assert unrated == {currency: to_units(cost) for currency, cost in left.items() if cost}
