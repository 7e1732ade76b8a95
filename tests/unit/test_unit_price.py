"""attribute: a unit price that changed from one charge period to the next, and what only looks like one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.unit.keyed_stage import Stage, by_kind
from tests.unit.test_attribute import HOUR, all_rows, delivered, feed_charge, feed_usage
from tests.unit.test_corrections import DAY_MS, in_a_stream, money, streamed_and_whole
from udfs.pure.attribute import Consumer, Resource
from udfs.pure.price import utc
from udfs.pure.windows import HOUR_MS, NO_RESOURCE, WINDOW_MS


def hourly(*costs: str, **columns: Any) -> list[dict[str, Any]]:
    """A charge of each hour from HOUR on, two units of a SKU."""
    return [delivered(cost, hour=hour, charge_category="Usage", **columns) for hour, cost in enumerate(costs)]


def told(charges: list[dict[str, Any]], **more: Any) -> dict[float, list[tuple]]:
    """(hours, from, to) of prices that changed, by the hours after HOUR of the windows that tell of them."""
    windows = {HOUR + n * WINDOW_MS: {"cpu": 5.0 + n} for n in range(-4, 12)}
    rows = all_rows(windows, *charges, **more)
    found = {(ms - HOUR) / HOUR_MS: changes_of(of_window) for ms, of_window in rows.items()}
    return {hours: changes for hours, changes in found.items() if changes}


def changes_of(rows: list[dict[str, Any]]) -> list[tuple]:
    return [
        ((at_ms(change["at"]) - HOUR) / HOUR_MS, change["from"], change["to"])
        for charge in rows[0]["charges"]
        if (change := charge.get("price_change"))
    ]


def at_ms(text: str) -> int:
    return next(ms for ms in range(HOUR - 4 * HOUR_MS, HOUR + 300 * HOUR_MS, WINDOW_MS // 2) if utc(ms) == text)


def test_a_price_that_rose_is_told_for_an_hour() -> None:
    change = [(2.0, "0.4", "0.5")]
    assert told(hourly("0.8", "0.8", "1", "1", "1")) == {2.0: change, 2.5: change, 3.0: change}


def test_of_a_daily_bill_it_is_told_in_the_hour_after_midnight_alone() -> None:
    days = [
        delivered("24", hour=-24, hours=24, charge_category="Usage"),
        delivered("48", hour=0, hours=24, charge_category="Usage"),
    ]
    assert told(days) == dict.fromkeys((0.0, 0.5, 1.0), [(0.0, "12", "24")])


def test_it_names_the_currency_and_unit_of_the_bill() -> None:
    charges = hourly("0.8", "1")
    for charge in charges:
        charge |= {"pricing_quantity": "4", "pricing_unit": "Hours", "currency": "EUR"}
        charge["converted"] = {"from": "USD", "rate": "2", "cost": charge["cost"]}
        charge["cost"] = str(2 * float(charge["cost"]))
    [row] = all_rows({HOUR + HOUR_MS: {"cpu": 1.0}}, *charges)[HOUR + HOUR_MS]
    assert row["charges"][0]["price_change"] == {
        "at": utc(HOUR + HOUR_MS), "from": "0.2", "to": "0.25", "currency": "USD", "unit": "Hours",
    }  # fmt: skip


@pytest.mark.parametrize(
    "charges",
    [
        hourly("0.8", "0.8", "0.8"),
        # More of it, at the same price.
        [*hourly("0.8"), *hourly("0.8", "1.6", consumed_quantity="4")[1:]],
        # By less than a hundredth.
        hourly("0.8", "0.807"),
        # 0.0123 a unit, in cents and in hundredths of a unit.
        [*hourly("0.02", consumed_quantity="1.29"), *hourly("", "0.01", consumed_quantity="1.01")[1:]],
        # A correction of an hour, and a credit for it.
        [*hourly("0.8", "0.8"), delivered("0.4", hour=1, charge_class="Correction")],
        [*hourly("0.8", "0.8"), delivered("-0.4", hour=1, charge_category="Credit")],
        # More of it than one tier has: at two prices for an hour, and then at the lesser one.
        [
            *hourly("0.8", "0.8", "0.6")[::2],
            *(delivered(cost, hour=1, consumed_quantity="1", identity=cost) for cost in ("0.4", "0.3")),
        ],
        # What is not known before, or is another thing, or of another currency.
        hourly("0.8"),
        [*hourly("0.8"), *hourly("", "1", sku_id="SKU-2")[1:]],
        [*hourly("0.8"), *hourly("", "1", consumed_unit="GiB-Hours")[1:]],
        [*hourly("0.8"), *hourly("", "1", currency="EUR")[1:]],
        [hourly("0.8", "1", "1")[0], hourly("0.8", "1", "1")[2]],
        # What has no quantity has no price, and what has no SKU is not known again.
        hourly("0.8", "1", consumed_quantity=None),
        hourly("0.8", "1", consumed_quantity="0"),
        hourly("0.8", "1", sku_id=None),
        hourly("0.8", "1", resource_id=NO_RESOURCE),
    ],
)  # fmt: skip
def test_what_is_no_change_of_a_price(charges: list[dict[str, Any]]) -> None:
    assert told(charges) == {}


def test_equal_quantities_at_other_costs_are_other_prices_however_coarse_the_bill_is() -> None:
    assert told(hourly("0.1", "0.2", consumed_quantity="1"))[1.0] == [(1.0, "0.1", "0.2")]
    coarse = [*hourly("0.1", consumed_quantity="1"), *hourly("", "0.9", consumed_quantity="3")[1:]]
    assert told(coarse)[1.0] == [(1.0, "0.1", "0.3")]


def test_machines_of_one_price_are_charged_at_that_price() -> None:
    twice = [
        charge | {"key": f"{charge['key']}/{n}", "identity": f"{charge['identity']}/{n}"}
        for n, count in enumerate((3, 2))
        for charge in hourly("0.8", "1", "1")[:count]
    ]
    assert told(twice)[1.0] == [(1.0, "0.4", "0.5")] * 2


def test_a_later_snapshot_takes_back_what_an_earlier_one_told() -> None:
    charges = hourly("0.8", "1")
    again = delivered("0.8", "0 b", hour=1, charge_category="Usage")
    assert told(charges) and not told([*charges, again])


def test_the_order_of_charges_does_not_matter() -> None:
    charges = hourly(*(f"0.{8 + n // 3}" for n in range(6)), "2", "0.1")
    expected = told(charges)
    for seed in range(5):
        random.Random(seed).shuffle(charges)
        assert told(charges) == expected


def test_what_is_forgotten_is_still_compared_with() -> None:
    charges = hourly("0.8", "1", "1", "1")
    usage = [Consumer("cart", {HOUR + n * WINDOW_MS: {"cpu": 1.0} for n in range(8)})]
    whole = Resource(usage, charges).rows("node-1")
    for closed_ms in range(HOUR, HOUR + 4 * HOUR_MS, WINDOW_MS):
        known = Resource(usage, charges).known_before(closed_ms)
        assert len(known.prices) <= 2
        held = [charge for charge in charges if charge["end_ms"] > closed_ms]
        rows = Resource(usage, held, known).rows("node-1")
        for window_ms in (ms for ms in rows if ms >= closed_ms):
            assert changes_of(rows[window_ms]) == changes_of(whole[window_ms])


def prices_told(it: Stage) -> dict[int, list[tuple]]:
    return {ms: changes_of(rows) for ms, rows in by_kind(it.rows, "allocations").items() if rows}


@pytest.mark.parametrize("seed", range(2))
def test_a_stream_tells_what_a_bounded_run_tells_however_late_the_bill(seed: int) -> None:
    it, whole = streamed_and_whole(seed)
    found, expected = prices_told(it), prices_told(whole)
    billed = [ms for ms, rows in money(whole).items() if all(row[-1] != "provisional" for row in rows)]
    assert {ms: found[ms] for ms in billed} == {ms: expected[ms] for ms in billed}
    assert sum(bool(expected[ms]) for ms in billed) > 100


def test_a_late_charge_restates_the_windows_that_compare_with_it() -> None:
    it = in_a_stream(wait_ms=6 * HOUR_MS)
    for hour in range(48):
        for half in (0, WINDOW_MS):
            feed_usage(it, HOUR + hour * HOUR_MS + half, 10.0)
        if hour != 40:
            feed_charge(it, delivered("0.8", "1 a", hour=hour, key=f"{hour}", identity=f"{hour}"))
        it.fire()
    # The last that closed: what comes after it has not, but for its first half.
    feed_charge(it, delivered("1.6", "1 b", hour=40, key="40", identity="40"))
    it.fire()
    found = {(ms - HOUR) / HOUR_MS: changes for ms, changes in prices_told(it).items() if changes}
    rose, fell = [(40.0, "0.4", "0.8")], [(41.0, "0.8", "0.4")]
    assert found == {40.0: rose, 40.5: rose, 41.0: fell, 41.5: fell, 42.0: fell}


def test_what_is_kept_of_prices_is_bounded() -> None:
    it = in_a_stream(corrections_ms=5 * DAY_MS, wait_ms=6 * HOUR_MS)
    for hour in range(24 * 8):
        feed_usage(it, HOUR + hour * HOUR_MS, 10.0)
        feed_charge(it, delivered(f"0.{1 + hour % 9}", "1 a", hour=hour, key=f"{hour}", identity=f"{hour}"))
        it.fire()
        known = it._function._known()
        assert len(known.prices) <= 2
    assert len(known.prices) > 0
