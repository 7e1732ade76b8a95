"""How budgets stand: spent so far, what the month will cost, and what of it incidents are.

    python -m jobs.budgets --tables postgresql://USER@HOST/DATABASE [--file budgets.toml] [--every 1h]

Budgets are those of the file, and the rows of the table budgets. The answer is printed and written to budget_status.

    [[budgets]]
    name = "payments"
    services = ["payment", "shop/pay*"]     # globs; ["*"] is everything, idle and unallocated cost too
    month = "2026-11"                       # or "every"
    amount = "1200"
    currency = "USD"

    [teams]                                 # in place of services: team = "checkout", or cost_center = "4711"
    checkout = ["shop/cart", "shop/pay*"]
    [cost_centers]                          # the same that the job is told by --set cost_centers=FILE
    4711 = ["shop/*"]
"""

from __future__ import annotations

import argparse
import calendar
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from jobs import toml
from jobs.arguments import Parser
from jobs.errors import JobError, UsageError, ended
from jobs.migrate import migrate
from jobs.postgres import FORM
from jobs.postgres import connection as connect
from udfs.pure.attribute import PROVISIONAL
from udfs.pure.forecast import forecast

EVERY = "every"
# Days before the month that a forecast learns from.
_PAST = timedelta(days=70)
_KEYS = {"name", "month", "amount", "currency"}
# What says which services a budget is of, exactly one of them; but for the first a table of the file tells their globs.
_OF = {"services": "", "team": "teams", "cost_center": "cost_centers"}


@dataclass(frozen=True)
class Budget:
    """What some services may cost together in a month.

    Attributes:
        name: unique within month and currency.
        services: globs of otel_service_name.
        month: its first day; None = every month.
        amount: in ``currency``.
        but: globs of services that are another's: those of the cost centres before it, as the first that fits counts.
    """

    name: str
    services: tuple[str, ...]
    month: date | None
    amount: Decimal
    currency: str
    but: tuple[str, ...] = ()

    def holds(self, service: str) -> bool:
        """Whether a service's cost is of it."""
        return _fits(service, self.services) and not _fits(service, self.but)


def _fits(service: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(service, glob) for glob in globs)


class Cost(NamedTuple):
    """What a service cost on a day, UTC, in a currency."""

    day: date
    service: str
    currency: str
    billed: Decimal
    provisional: Decimal


class Status(NamedTuple):
    """A row of budget_status."""

    budget: str
    month: date
    billing_currency: str
    amount: Decimal
    billed_cost: Decimal
    provisional_cost: Decimal
    share_of_month: float
    burn_rate: float | None
    forecast_low: Decimal | None
    forecast_cost: Decimal | None
    forecast_high: Decimal | None
    forecast_method: str
    incidents_excess_cost: Decimal
    cost_until: datetime


def load(path: Path) -> list[Budget]:
    """The budgets of a file.

    Raises:
        UsageError: it can't be read, or says something that can't be; the file and the key are named.
    """
    content = toml.read(path, "--file")
    rows = content.pop("budgets", None)
    if content.keys() - {*_OF.values()} or not isinstance(rows, list) or not rows:
        raise UsageError(f"--file {path}: must hold [[budgets]], perhaps [teams] and [cost_centers], and nothing else")
    return [_budget(row, content, f"--file {path}: budgets[{number}]") for number, row in enumerate(rows)]


def _services(row: dict[str, Any], tables: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Globs of what a budget is of, and of what is another's."""
    [key] = _OF.keys() & row.keys()
    found, table = row[key], _OF[key]
    if table:
        known = tables.get(table, {})
        if not isinstance(known, dict) or row[key] not in known:
            raise UsageError(f"{where}.{key}: {row[key]!r} is not in [{table}]")
        found, where = known[row[key]], f"{where}.{key}, [{table}]"
        if key == "cost_center":
            before = takewhile(lambda center: center != row[key], known)
            return toml.globs(found, where), tuple(glob for of in before for glob in toml.globs(known[of], where))
    return toml.globs(found, where), ()


def _budget(row: Any, tables: Mapping[str, Any], where: str) -> Budget:
    of = row.keys() & _OF.keys() if isinstance(row, dict) else set()
    if len(of) != 1 or row.keys() - of != _KEYS:
        keys = f"{', '.join(sorted(_KEYS))}, one of {', '.join(_OF)}"
        raise UsageError(f"{where}: must have {keys}, and nothing else")
    services, but = _services(row, tables, where)
    amount = toml.amount(row["amount"], f"{where}.amount", at_least=0)
    try:
        month = None if row["month"] == EVERY else date.fromisoformat(f"{row['month']}-01")
    except ValueError:
        raise UsageError(f"{where}.month: {row['month']!r} must be as 2026-11, or {EVERY}") from None
    return Budget(str(row["name"]), services, month, amount, str(row["currency"]), but)


def status(budget: Budget, costs: Iterable[Cost], excess: Mapping[str, Decimal], until: datetime) -> Status:
    """How a budget stands in the month of ``until``, the end of the newest window.

    costs: of all services, of this month and the weeks before. excess: that of this month's incidents by service, in
    the budget's currency.
    """
    # A window that ends with the month is of that month.
    last = until - timedelta(microseconds=1)
    month = date(last.year, last.month, 1)
    days = calendar.monthrange(month.year, month.month)[1]
    begins = datetime(month.year, month.month, 1, tzinfo=UTC)
    share = (until - begins) / timedelta(days=days)
    today = until.date()
    billed = provisional = Decimal()
    by_day: dict[date, Decimal] = defaultdict(Decimal)
    for cost in costs:
        if cost.currency != budget.currency or not budget.holds(cost.service):
            continue
        by_day[cost.day] += cost.billed + cost.provisional
        if cost.day >= month:
            billed += cost.billed
            provisional += cost.provisional
    spent = billed + provisional
    first = min(by_day, default=today)
    # Days on which nothing was spent count, too; the day that goes on is no whole day.
    whole = [float(by_day[first + timedelta(days=n)]) for n in range((today - first).days)]
    rest = forecast(whole, days * (1 - share))

    def total(of: float | None) -> Decimal | None:
        return None if of is None else spent + Decimal(repr(of)).quantize(Decimal("1e-12"))

    return Status(
        budget=budget.name,
        month=month,
        billing_currency=budget.currency,
        amount=budget.amount,
        billed_cost=billed,
        provisional_cost=provisional,
        share_of_month=share,
        burn_rate=float(spent / budget.amount) / share if budget.amount and share else None,
        forecast_low=total(rest.low),
        forecast_cost=total(rest.middle),
        forecast_high=total(rest.high),
        forecast_method=rest.method,
        incidents_excess_cost=sum((of for name, of in excess.items() if budget.holds(name)), Decimal()),
        cost_until=until,
    )


# ---- the database -----------------------------------------------------------------------------


def compute(connection: psycopg.Connection, budgets: Iterable[Budget]) -> list[Status]:
    """How the budgets of the newest window's month stand, those of the table among them; writes budget_status."""
    row = connection.execute("select max(window_start) + interval '30 min' from public.cost_allocations").fetchone()
    until = row[0] if row else None
    if until is None:
        return []
    last = until - timedelta(microseconds=1)
    month = date(last.year, last.month, 1)
    of_table = [
        Budget(service, (service,), month, amount, currency)
        for service, amount, currency in connection.execute(
            "select otel_service_name, amount, billing_currency from public.budgets where month = %s", [month]
        )
    ]
    chosen = [budget for budget in budgets if budget.month in (None, month)] + of_table
    costs = [
        Cost(*cost)
        for cost in connection.execute(
            """
            select (window_start at time zone 'UTC')::date, otel_service_name, billing_currency,
                coalesce(sum(allocated_cost) filter (where cost_status <> %(provisional)s), 0),
                coalesce(sum(allocated_cost) filter (where cost_status = %(provisional)s), 0)
            from public.cost_allocations
            where window_start >= %(since)s
            group by 1, 2, 3
            """,
            {"provisional": PROVISIONAL, "since": datetime(month.year, month.month, 1, tzinfo=UTC) - _PAST},
        )
    ]
    excess: dict[str, dict[str, Decimal]] = defaultdict(dict)
    for service, currency, amount in connection.execute(
        "select otel_service_name, billing_currency, sum(excess_cost) from public.ranked_anomalies"
        " where window_start >= %s and excess_cost is not null group by 1, 2",
        [datetime(month.year, month.month, 1, tzinfo=UTC)],
    ):
        excess[currency][service] = amount
    found = [status(budget, costs, excess[budget.currency], until) for budget in chosen]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("delete from public.budget_status where month = %s", [month])
        cursor.executemany(
            f"insert into public.budget_status ({', '.join(Status._fields)})"
            f" values ({', '.join(['%s'] * len(Status._fields))}) on conflict do nothing",
            found,
        )
    return found


def shown(rows: Iterable[Status]) -> str:
    """A plain table."""
    lines = [f"{'budget':24} {'spent':>12} {'of':>12} {'':4} {'burns':>6} {'forecast':>12}  nine of ten between"]
    for row in rows:
        spent = row.billed_cost + row.provisional_cost
        between = "" if row.forecast_low is None else f"{row.forecast_low:,.2f} and {row.forecast_high:,.2f}"
        lines.append(
            f"{row.budget[:24]:24} {spent:12,.2f} {row.amount:12,.2f} {row.billing_currency:4}"
            f" {'' if row.burn_rate is None else f'{row.burn_rate:.2f}':>6}"
            f" {'' if row.forecast_cost is None else f'{row.forecast_cost:,.2f}':>12}  {between}"
            f"{_explained(row)}"
        )
    return "\n".join(lines)


def _explained(row: Status) -> str:
    """What of the money above the budget the incidents of the month are."""
    if row.forecast_cost is None or row.forecast_cost <= row.amount or row.incidents_excess_cost <= 0:
        return ""
    above = row.forecast_cost - row.amount
    return f"; {row.incidents_excess_cost:,.2f} of the {above:,.2f} above it are incidents'"


def _seconds(text: str) -> int:
    units = {"min": 60, "h": 3_600}
    for unit, seconds in units.items():
        if text.endswith(unit) and text.removesuffix(unit).isdecimal():
            return int(text.removesuffix(unit)) * seconds
    raise argparse.ArgumentTypeError(f"{text!r} must be as 15min or 1h")


def main(argv: list[str], prog: str = "python -m jobs.budgets") -> int:
    """Exit status: 0; 2 for wrong use, 1 for what failed, each with one line."""
    parser = Parser(prog=prog, description="How budgets stand, and what the month will cost.")
    parser.add_argument("--tables", required=True, metavar="URL", help=f"{FORM}; the password comes from PGPASSWORD")
    parser.add_argument("--file", type=Path, help="TOML with [[budgets]]; those of the table budgets count anyway")
    parser.add_argument("--every", type=_seconds, help="go on, and compute again after so long, as 1h")
    try:
        arguments = parser.parse_args(argv)
        budgets = load(arguments.file) if arguments.file else []
        migrate(arguments.tables)
        while True:
            with connect(arguments.tables, "anomaly_cost budgets") as connection:
                rows = compute(connection, budgets)
            print(shown(rows) if rows else "budgets: none for the newest month, or no cost yet", flush=True)
            if not arguments.every:
                return 0
            time.sleep(arguments.every)
    except (UsageError, JobError, psycopg.Error) as error:
        return ended("budgets", error)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
