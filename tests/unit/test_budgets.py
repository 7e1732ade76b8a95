"""Budgets: what is spent, what the month will cost, and how sure that is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from jobs import toml
from jobs.budgets import Budget, Cost, load, shown, status
from jobs.errors import UsageError
from udfs.pure.forecast import LEVEL, MEAN, NONE, WEEKLY, forecast


def month(rng: np.random.Generator, kind: str, days: int) -> np.ndarray:
    """Costs of days: a week's pattern or none, noise of its own or that lasts, a trend."""
    pattern = 1 + (0.4 * np.sin(2 * np.pi * np.arange(days) / 7) if "weekly" in kind else 0)
    noise = rng.normal(0, 0.1, days)
    if "lasting" in kind:
        for day in range(1, days):
            noise[day] += 0.6 * noise[day - 1]
    return 100 * pattern * (1 + noise) * np.linspace(1, 1.2, days)


@pytest.mark.parametrize("kind", ["weekly", "lasting", "weekly lasting"])
def test_nine_of_ten_months_lie_between_the_bounds(kind: str) -> None:
    rng = np.random.default_rng(11)
    hits, tries = 0, 20
    for number in range(tries):
        days = month(rng, kind, 70)
        told = forecast(days[:58], 12, number)
        assert told.method == WEEKLY and told.low < told.middle < told.high
        hits += told.low <= days[58:].sum() <= told.high
    assert hits >= 14, f"{hits} of {tries}"


@pytest.mark.parametrize(("days", "method"), [(0, NONE), (2, MEAN), (6, MEAN), (10, LEVEL), (30, WEEKLY)])
def test_with_few_days_a_simpler_way_is_taken_and_named(days: int, method: str) -> None:
    told = forecast(month(np.random.default_rng(1), "weekly", days), 10)
    assert told.method == method
    assert (told.low is None) == (days < 3)
    if days >= 3:
        assert told.low < told.middle < told.high


def test_equal_days_and_nothing_left_are_sure() -> None:
    assert forecast([5.0] * 30, 4) == (20.0, 20.0, 20.0, MEAN)
    assert forecast([5.0, 6.0, 9.0], 0)[:3] == (0.0, 0.0, 0.0)


def test_a_part_of_a_day_costs_a_part_and_the_same_seed_says_the_same() -> None:
    days = month(np.random.default_rng(2), "weekly", 40)
    whole, part = forecast(days, 3), forecast(days, 2.5)
    assert forecast(days, 2.5) == part
    assert 0.7 * whole.middle < part.middle < 0.95 * whole.middle


def test_the_currency_s_size_changes_nothing() -> None:
    days = month(np.random.default_rng(3), "weekly", 40)
    small, large = forecast(days, 10), forecast(days * 1e6, 10)
    assert large.middle == pytest.approx(small.middle * 1e6, rel=1e-3)


# ---- a budget ---------------------------------------------------------------------------------

UNTIL = datetime(2026, 11, 16, tzinfo=UTC)
PAYMENTS = Budget("payments", ("pay*",), None, Decimal(300), "USD")


def cost(day: date, service: str = "pay", billed: str = "10", provisional: str = "0", currency: str = "USD") -> Cost:
    return Cost(day, service, currency, Decimal(billed), Decimal(provisional))


def half_a_month(**changes: str) -> list[Cost]:
    return [cost(date(2026, 11, 1) + timedelta(days=n), **changes) for n in range(15)]


def test_half_a_month_of_equal_days_will_be_a_whole_one() -> None:
    costs = [*half_a_month(), *half_a_month(service="other"), *half_a_month(currency="EUR")]
    row = status(PAYMENTS, costs, {"pay": Decimal(40), "other": Decimal(7)}, UNTIL)
    assert (row.month, row.billed_cost, row.provisional_cost) == (date(2026, 11, 1), 150, 0)
    assert (row.share_of_month, row.burn_rate) == (0.5, 1.0)
    assert row.forecast_low == row.forecast_cost == row.forecast_high == 300
    assert row.incidents_excess_cost == 40


def test_what_is_provisional_is_told_apart_and_to_the_last_decimal() -> None:
    costs = half_a_month(billed="0.000000000001", provisional="0.333333333333")
    row = status(PAYMENTS, costs, {}, UNTIL)
    assert (row.billed_cost, row.provisional_cost) == (Decimal("0.000000000015"), Decimal("4.999999999995"))


def test_the_month_before_teaches_and_is_not_spent() -> None:
    october = [cost(date(2026, 10, 1) + timedelta(days=n), billed="20") for n in range(31)]
    row = status(PAYMENTS, [*october, *half_a_month()], {}, UNTIL)
    assert row.billed_cost == 150
    assert row.forecast_low < row.forecast_cost < row.forecast_high


def test_a_month_that_is_over_and_one_without_cost() -> None:
    over = status(PAYMENTS, half_a_month(), {}, datetime(2026, 12, 1, tzinfo=UTC))
    assert (over.month, over.share_of_month, over.forecast_cost) == (date(2026, 11, 1), 1.0, 150)
    nothing = status(PAYMENTS, [], {}, UNTIL)
    assert (nothing.billed_cost, nothing.forecast_cost, nothing.forecast_method) == (0, None, NONE)
    assert status(Budget("free", ("*",), None, Decimal(0), "USD"), half_a_month(), {}, UNTIL).burn_rate is None


def test_the_table_says_what_incidents_explain() -> None:
    row = status(Budget("p", ("pay",), None, Decimal(200), "USD"), half_a_month(), {"pay": Decimal(40)}, UNTIL)
    assert "40.00 of the 100.00 above it are incidents'" in shown([row])


# ---- the file ---------------------------------------------------------------------------------

FILE = """
[[budgets]]
name = "payments"
services = ["pay*"]
month = "2026-11"
amount = "300"
currency = "USD"
"""


def test_a_file_of_budgets(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text(FILE)
    [budget] = load(path)
    assert (budget.month, budget.amount) == (date(2026, 11, 1), 300)
    path.write_text(FILE.replace("2026-11", "every"))
    assert load(path)[0].month is None


@pytest.mark.parametrize(("key", "table"), [("team", "teams"), ("cost_center", "cost_centers")])
def test_a_budget_may_be_of_a_team_or_a_cost_centre(tmp_path: Path, key: str, table: str) -> None:
    path = tmp_path / "b.toml"
    path.write_text(FILE.replace('services = ["pay*"]', f'{key} = "4711"') + f'[{table}]\n4711 = ["cart", "pay*"]\n')
    [budget] = load(path)
    assert budget.holds("cart") and budget.holds("payment") and not budget.holds("web")


def test_a_service_is_of_the_first_cost_centre_that_fits_as_in_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    rows = FILE.replace('services = ["pay*"]', 'cost_center = "shop"') + FILE.replace(
        'services = ["pay*"]', 'cost_center = "rest"'
    )
    path.write_text(rows + '[cost_centers]\nshop = ["cart", "pay*"]\nrest = ["*"]\n')
    centers = toml.cost_centers(path, "--set cost_centers")
    for budget, center in zip(load(path), ("shop", "rest"), strict=True):
        for service in ("cart", "payment", "web", "__idle__"):
            assert budget.holds(service) is (centers.of(service) == center)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"300"', "1.5", 'budgets[0].amount: 1.5 is no amount, as "12.50"'),
        ('"300"', '"-1"', "budgets[0].amount: '-1' is no amount"),
        ('"2026-11"', '"November"', "budgets[0].month: 'November' must be as 2026-11, or every"),
        ('["pay*"]', '"pay"', "budgets[0]: must be a list"),
        ("currency", "curency", "budgets[0]: must have amount, currency"),
        ("[[budgets]]", "[budgets]", "must hold [[budgets]], perhaps [teams]"),
        ('services = ["pay*"]', 'team = "nobody"', "budgets[0].team: 'nobody' is not in [teams]"),
        ('services = ["pay*"]', "", "one of services, team, cost_center"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "b.toml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(UsageError) as error:
        load(path)
    assert str(path) in str(error.value) and says in str(error.value)
