"""attribute: a charge restates its windows for as long as a month can be corrected, in whatever order charges come."""

from __future__ import annotations

import json
import pickle
import random
from collections import defaultdict
from decimal import Decimal

import pytest

from tests.bills import SAMPLE_COST, sample
from tests.unit.keyed_stage import Stage, by_kind
from tests.unit.test_attribute import HOUR, delivered, feed_charge, feed_usage, pass_to
from udfs.attribute import Attribute
from udfs.pure.attribute import Known, Progress
from udfs.pure.focus import charge_key
from udfs.pure.focus_record import collect_charge_record
from udfs.pure.horizon import Horizon
from udfs.pure.windows import HOUR_MS, WINDOW_MS

DAY_MS = 24 * HOUR_MS
WAIT_MS = 72 * HOUR_MS
# What says when and why a row was sent, and may differ where a charge came late.
MONEY = (
    "otel_service_name",
    "dimension",
    "usage",
    "share",
    "resource_cost",
    "allocated_cost",
    "cost_center",
    "cost_status",
)
# What one more unit costs, by a price of use: it is of all that was used in the charge's period.
PRICE = ("dimension", "marginal_rate", "marginal_basis")


def in_a_stream(corrections_ms: int = 60 * DAY_MS, wait_ms: int = WAIT_MS) -> Stage:
    return Stage(Attribute(wait_ms, 10_000, corrections_ms=corrections_ms), "node-1")


def money(it: Stage, columns: tuple[str, ...] = MONEY) -> dict[int, list[tuple]]:
    """The rows that stand, by window."""
    return {
        window_ms: [tuple(str(row[name]) for name in columns) for row in rows]
        for window_ms, rows in sorted(by_kind(it.rows, "allocations").items())
        if rows
    }


@pytest.mark.parametrize("seed", [None, 1])
def test_the_focus_sample_in_any_order_is_charged_whole(seed):
    charges = [collect_charge_record(json.dumps(row).encode(), "2024-10-09T00:00:00")[1] for row in sample()]
    by_resource = defaultdict(list)
    for number, charge in enumerate(charges):
        by_resource[charge["resource_id"]].append((number, charge))
    total, rejects = Decimal(0), []
    for of_resource in by_resource.values():
        if seed is not None:
            random.Random(seed).shuffle(of_resource)
        it, whole = in_a_stream(), Stage(Attribute(), "node-1")
        for number, charge in of_resource:
            # The sample has no copy numbers: its identical rows are told apart by their place.
            charge = charge | {"key": f"{number:04}", "identity": f"{number:04}"}
            for each in (it, whole):
                each.feed("charge", charge_key(charge), charge)
            it.fire()
        whole.end()
        assert money(it) == money(whole)
        total += sum(
            Decimal(row["allocated_cost"]) for rows in by_kind(it.rows, "allocations").values() for row in rows
        )
        rejects += by_kind(it.rows, "late_charges").values()
    assert (total, rejects) == (Decimal(SAMPLE_COST), [])


def events(seed: int) -> list[tuple[int, str, str, dict]]:
    """(when, kind, key, payload) of ten days: usage; bills hours to days late, restated, withdrawn and corrected."""
    draw = random.Random(seed)
    found = []
    for hour in range(240):
        start_ms = HOUR + hour * HOUR_MS
        for service in ("cart", "ads", ""):
            used = {start_ms + half: {"cpu": draw.uniform(0, 9), "io": draw.uniform(0, 9)} for half in (0, WINDOW_MS)}
            centers = ["cc-1" if hour % 4 else "cc-2"] if service == "cart" else []
            found.append((hour, "usage", f"{start_ms}\x1f{service}", [service, service, {"windows": used}, *centers]))
        tags = {"user:CostCenter": "cc-3"} if hour % 2 else {}
        charge = delivered(str(draw.randint(1, 9)), "1 a", hour=hour, key=f"{hour}", identity=f"{hour}", tags=tags)
        later = charge | {"version": "1 b", "key": f"{hour} b", "cost": str(draw.randint(1, 9))}
        came = hour + draw.choice([1, 3, 30, 100, 200])
        # A charge for two hours of operations reaches into the next one's.
        io = {"parts": [["io", "1"]], "consumed_unit": "Operations", "consumed_quantity": "7", "tags": tags}
        of_io = delivered("0.4", "1 a", hour=hour, hours=2, key=f"{hour} io", identity=f"{hour} io", **io)
        if hour < 239:
            found.append((draw.choice([hour + 3, came]), "charge", charge_key(of_io), of_io))
        found.append((came, "charge", charge_key(charge), charge))
        if hour % 3 == 0:
            found.append((came + draw.choice([-1, 2, 90, 150]), "charge", charge_key(later), later))
        if hour % 5 == 0:
            gone = charge | {"withdrawn": True}
            found.append((came + draw.choice([-1, 2, 90, 150]), "charge", charge_key(gone), gone))
        if hour % 7 == 0:
            fix = charge | {"charge_class": "Correction", "version": "", "key": f"{hour} fix", "cost": "-0.3"}
            found.append((came + draw.choice([2, 90, 150]), "charge", charge_key(fix), fix))
    day = delivered("2.4", "1 a", hour=24, hours=96, key="days", identity="days")
    found.append((190, "charge", charge_key(day), day))
    return sorted(found, key=lambda event: event[0])


def streamed_and_whole(seed: int) -> tuple[Stage, Stage]:
    """What a stream has sent of the events, and a bounded run, at their end."""
    it, whole = in_a_stream(), Stage(Attribute(), "node-1")
    last = 0
    for when, kind, key, payload in events(seed):
        if when // 5 != last:
            it.fire()
            last = when // 5
        for each in (it, whole):
            each.feed(kind, key, payload)
    it.fire()
    whole.end()
    return it, whole


@pytest.mark.parametrize("seed", range(2))
def test_the_tables_are_those_of_a_bounded_run(seed):
    it, whole = streamed_and_whole(seed)
    assert not by_kind(it.rows, "late_charges")
    # Windows whose charge was withdrawn before another came are priced by what was known when they settled.
    found, expected = money(it), money(whole)
    assert found.keys() == expected.keys()
    billed = {window_ms for window_ms, rows in expected.items() if all(row[-1] != "provisional" for row in rows)}
    assert len(billed) > 400
    assert {window_ms: found[window_ms] for window_ms in billed} == {ms: expected[ms] for ms in billed}
    assert all(row[-1] == "provisional" for ms in expected.keys() - billed for row in found[ms] if row[1] == "cpu")
    of_use, expected_of_use = (
        {(ms, row) for ms in billed for row in money(each, PRICE)[ms] if row[0] == "io"} for each in (it, whole)
    )
    assert of_use == expected_of_use
    assert len({rate for _, (_, rate, basis) in of_use if basis == "metered"}) > 200
    of_services = {(row[0], row[-2]) for rows in found.values() for row in rows}
    assert of_services == {
        ("cart", "cc-1"), ("cart", "cc-2"), ("ads", "cc-3"), ("ads", "None"), ("__unallocated__", "cc-3"),
        ("__unallocated__", "None"),
    }  # fmt: skip


def test_a_late_charge_restates_its_windows_and_what_compares_with_its_price_and_no_others():
    it = in_a_stream(wait_ms=6 * HOUR_MS)
    for hour in range(48):
        for half in (0, WINDOW_MS):
            feed_usage(it, HOUR + hour * HOUR_MS + half, 10.0)
        feed_charge(it, delivered("0.8", "1 a", hour=hour, key=f"{hour}", identity=f"{hour}"))
        if hour % 6 == 5:
            it.fire()
    feed_charge(it, delivered("1.6", "1 b", hour=30, key="30 b", identity="30"))
    sent = by_kind(it.fire(), "allocations")
    own = [HOUR + 30 * HOUR_MS + half for half in (0, WINDOW_MS)]
    assert sorted(sent) == [*own, *(own[1] + n * WINDOW_MS for n in (1, 2, 3))]
    for window_ms in own:
        [row] = sent[window_ms]
        assert (row["otel_service_name"], Decimal(row["allocated_cost"]), row["cost_status"], row["usage"]) == (
            "cart", Decimal("0.8"), "corrected", 10.0
        )  # fmt: skip
    # Once more, and taken back: without a charge each window costs what it did by the price of then.
    feed_charge(it, delivered("1.6", "1 b", hour=30, key="30 b", identity="30"))
    assert by_kind(it.fire(), "allocations") == sent
    for version, key in (("1 a", "30"), ("1 b", "30 b")):
        gone = delivered("1.6", version, hour=30, key=key, identity="30") | {"withdrawn": True}
        it.feed("charge", charge_key(gone), gone)
    sent = by_kind(it.fire(), "allocations")
    assert {row["cost_status"] for window_ms in own for row in sent[window_ms]} == {"provisional"}


def test_windows_without_usage_lose_their_rows_with_their_charge():
    it = in_a_stream()
    charge = delivered("0.8", "1 a", key="k", identity="i")
    feed_charge(it, charge)
    pass_to(it, HOUR + 10 * DAY_MS)
    it.fire()
    gone = charge | {"withdrawn": True}
    it.feed("charge", charge_key(gone), gone)
    assert by_kind(it.fire(), "allocations") == {HOUR: [], HOUR + WINDOW_MS: []}
    # It came again by mistake.
    feed_charge(it, charge)
    assert by_kind(it.fire(), "allocations") == {HOUR: [], HOUR + WINDOW_MS: []}


def test_what_is_kept_for_corrections_is_bounded_and_then_a_charge_is_late():
    it = in_a_stream(corrections_ms=5 * DAY_MS, wait_ms=6 * HOUR_MS)
    sizes = []
    for hour in range(24 * 12):
        for half in (0, WINDOW_MS):
            feed_usage(it, HOUR + hour * HOUR_MS + half, 10.0)
        feed_charge(it, delivered("0.8", "1 a", hour=hour, key=f"{hour}", identity=f"{hour}"))
        it.fire()
        sizes.append(it.size())
    # Let go once a day.
    for name, most in (("settled", 48 * 6), ("old_charges", 24 * 6 + 1), ("usage", 30), ("charge", 30)):
        assert max(size[name] for size in sizes) <= most, name
    late = delivered("0.6", "1 b", hour=1, key="late", identity="1")
    feed_charge(it, late)
    [told] = by_kind(it.rows, "late_charges").values()
    assert "came after 120 h" in told["reason"] and "set billing.corrections to" in told["reason"]
    feed_charge(it, delivered("0.6", "1 b", hour=24 * 8, key="in time", identity="8"))
    assert len(by_kind(it.fire(), "allocations")) == 5 and len(by_kind(it.rows, "late_charges")) == 1


def test_windows_that_an_earlier_release_closed_are_not_restated():
    """It kept nothing of them."""
    progress = Progress(Horizon(HOUR + 10 * DAY_MS), HOUR + 7 * DAY_MS, Known())
    state = progress.__getstate__() | {"state_version": 1}
    state.pop("kept_ms")
    older = Progress.__new__(Progress)
    older.__setstate__(state)
    assert older.kept_ms == HOUR + 7 * DAY_MS
    assert pickle.loads(pickle.dumps(progress)).kept_ms == 0


def test_a_settled_window_takes_little():
    """Of ten services on a node: its usage, and an hour's charge of a whole machine."""
    it = in_a_stream(wait_ms=2 * HOUR_MS)
    for hour in range(20):
        windows = {HOUR + hour * HOUR_MS + half: {} for half in (0, WINDOW_MS)}
        for service in range(10):
            used = {ms: {"cpu": 1234.56789 + service, "memory": 123456789.123 * service} for ms in windows}
            it.feed("usage", f"{hour}\x1f{service}", [f"service-{service}", f"pod-{service}", {"windows": used}])
        feed_charge(it, delivered("0.8", "1 a", hour=hour, key=f"{hour}", identity=f"{hour}"))
        it.fire()
    for name, most in (("settled", 700), ("old_charges", 500)):
        sizes = [len(value) for value in it._states["map", name].values()]
        assert sizes and max(sizes) <= most, (name, max(sizes))
