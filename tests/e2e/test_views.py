"""The views for BI tools on a year of rows: they sum to the tables, and read the days alone that are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from jobs.config import ROOT
from jobs.migrate import migrate, read_migrations
from tests.services import Database
from tests.year import fill
from udfs.pure.resources import SHARED_BY_ALL, UNMEASURED

pytestmark = pytest.mark.services

# A view, the table that it sums, and what of both is compared: amounts of the view, and of the table.
SUMS = {
    "anomaly_costs_by_day": (
        "ranked_anomalies",
        ("sum(excess_cost)", "sum(billed_excess_cost)", "sum(attributed_cost)", "sum(windows)",
         "sum(windows_without_price)", "sum(provisional_excess_cost)"),
        ("sum(excess_cost)", "sum(billed_excess_cost)", "sum(attributed_cost)", "count(*)",
         "count(*) filter (where excess_cost is null)",
         "coalesce(sum(excess_cost) filter (where cost_status = 'provisional'), 0)"),
    ),
    "costs_by_day": (
        "cost_allocations",
        ("sum(cost)", "sum(billed_cost + corrected_cost + provisional_cost)", "sum(provisional_cost)"),
        ("sum(allocated_cost)", "sum(allocated_cost)",
         "coalesce(sum(allocated_cost) filter (where cost_status = 'provisional'), 0)"),
    ),
    "unallocated_costs_by_day": (
        "cost_allocations",
        ("sum(cost)", "sum(windows)"),
        ("sum(allocated_cost) filter (where left(otel_service_name, 2) = '__')",
         "count(*) filter (where left(otel_service_name, 2) = '__')"),
    ),
    "shared_costs_by_day": (
        "cost_allocations", ("sum(cost)",), ("sum(allocated_cost) filter (where resource_id = 'nat-1')",),
    ),
    "restatements_by_day": (
        "cost_allocations",
        ("sum(corrected_cost)",),
        ("sum(allocated_cost) filter (where cost_status = 'corrected')",),
    ),
    "unit_costs_by_day": ("unit_costs", ("sum(cost)", "sum(requests)"), ("sum(cost)", "sum(requests) / 2")),
    "attribute_costs_by_day": (
        "unit_costs_by_attribute", ("sum(cost)", "sum(requests)"), ("sum(cost)", "sum(requests) / 2"),
    ),
}  # fmt: skip
VIEWS = [*SUMS, "incidents_now", "budget_months"]


@pytest.fixture(scope="module")
def url(database: Database) -> Iterator[str]:
    """A database with a year of rows in its months' partitions."""
    with database.another("year") as address:
        fill(address)
        yield address


@pytest.fixture
def year(url: str) -> Iterator[psycopg.Connection]:
    """To the year, in a zone that is not UTC; nothing is kept of what a test writes."""
    with psycopg.connect(url, options="-c search_path=public -c timezone=Pacific/Kiritimati") as connection:
        yield connection
        connection.rollback()


def days_ago(number: int) -> date:
    return (datetime.now(UTC) - timedelta(days=number)).date()


@pytest.mark.parametrize("view", SUMS)
@pytest.mark.parametrize("days", [None, (100, 94)], ids=["all", "a week"])
def test_a_view_sums_to_its_table_to_the_last_decimal(
    year: psycopg.Connection, view: str, days: tuple[int, int] | None
) -> None:
    table, of_view, of_table = SUMS[view]
    since, until = (date(2000, 1, 1), date(3000, 1, 1)) if days is None else map(days_ago, days)

    def ask(source: str, amounts: tuple[str, ...], day: str) -> list[tuple]:
        return year.execute(
            f"select billing_currency, {', '.join(amounts)} from {source} where {day} between %s and %s"
            " group by 1 order by 1",
            [since, until],
        ).fetchall()

    found = ask(view, of_view, "day")
    assert found and all(amount for _, *amounts in found for amount in amounts[:1])
    assert found == ask(table, of_table, "(window_start at time zone 'UTC')::date")


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan that read a table or an index."""
    if plan["Node Type"].endswith("Scan") and ("Relation Name" in plan or "Index Name" in plan):
        yield plan
    for child in plan.get("Plans", ()):
        yield from scans(child)


def rows_read(node: dict[str, Any]) -> int:
    each = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return round(each * node["Actual Loops"])


@pytest.mark.parametrize("view", VIEWS)
def test_a_week_of_a_year_reads_a_week(year: psycopg.Connection, view: str) -> None:
    """By the rows that the plan's scans read: those of the week, and one for the first and the last of each month."""
    column, since, until = "day", days_ago(100), days_ago(94)
    if view == "budget_months":
        until = days_ago(0).replace(day=1)
        column, since = "month", (until - timedelta(days=1)).replace(day=1)
    if view == "incidents_now":
        column, since = "opened_at", days_ago(7)
        until = days_ago(-1)
    query = f"select * from {view} where {column} between %s and %s"
    assert year.execute(query, [since, until]).fetchone()
    [[plan]] = year.execute(f"explain (analyze, timing off, format json) {query}", [since, until]).fetchone()
    nodes = list(scans(plan["Plan"]))
    whole = [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan" and node["Actual Loops"]]
    assert set(whole) <= {"service_teams"}, whole
    tables = [node for node in nodes if "Relation Name" in node and node["Relation Name"] != "service_teams"]
    total = {"incidents_now": "incidents", "budget_months": "budget_status"}.get(view) or SUMS[view][0]
    [(rows,)] = year.execute(f"select count(*) from {total}")
    # Of budgets two months, in both tables, and each row of the one is looked for in the other.
    share = 2 * 3 / 12 if view == "budget_months" else 7 / 365
    assert 0 < sum(map(rows_read, tables)) <= rows * share + 100
    # Of a table with months no other month's rows are looked at but for the newest and the oldest.
    if view not in ("budget_months", "incidents_now", "anomaly_costs_by_day"):
        months = {node["Relation Name"] for node in tables if rows_read(node) > 2}
        assert months == {f"{total}_{day:%Y_%m}" for day in (since, until)}


def test_a_service_of_a_week_reads_no_more(year: psycopg.Connection) -> None:
    query = (
        "select sum(cost) from costs_by_day where otel_service_name = 'web' and day >= %s and billing_currency = 'EUR'"
    )
    [[plan]] = year.execute(f"explain (analyze, timing off, format json) {query}", [days_ago(7)]).fetchone()
    [(rows,)] = year.execute("select count(*) from cost_allocations")
    assert sum(map(rows_read, scans(plan["Plan"]))) <= rows * 8 / 365 + 100


def test_days_are_utc_whatever_the_session_says(year: psycopg.Connection) -> None:
    instant = datetime(2001, 5, 6, 23, 30, tzinfo=UTC)
    year.execute(
        "insert into cost_allocations (window_start, resource_id, dimension, otel_service_name, allocated_cost,"
        " billing_currency, cost_status) values (%s, 'i-1', 'cpu', 'a', 1, 'USD', 'billed'),"
        " (%s, 'i-1', 'cpu', 'b', 1, 'USD', 'billed')",
        [instant, instant + timedelta(minutes=30)],
    )
    found = year.execute(
        "select day, otel_service_name from costs_by_day where day < '2002-01-01' order by 1"
    ).fetchall()
    assert found == [(date(2001, 5, 6), "a"), (date(2001, 5, 7), "b")]


def test_a_request_that_asks_several_workloads_is_counted_once(year: psycopg.Connection) -> None:
    [row] = year.execute(
        "select requests, cost_per_request = round(cost / 144, 12) from unit_costs_by_day"
        " where day = %s and root_operation = 'GET /' and billing_currency = 'USD'",
        [days_ago(50)],
    )
    assert row == (48 * 3, True)


def test_a_service_is_of_the_team_that_names_it_most_exactly(year: psycopg.Connection) -> None:
    year.execute("delete from service_teams")
    year.execute(
        "insert into service_teams values ('shop/*', 'shop'), ('shop/pay_*', 'payments'), ('50%', 'half'),"
        " ('a\\b', 'c')"
    )
    names = ["shop/cart", "shop/pay_in", "shop/pay-in", "500", "50%", "a\\b", "shop", "'; drop table budgets; --"]
    found = year.execute(
        "select array_agg(anomaly_cost.team_of(name)) from unnest(%s::text[]) as name", [names]
    ).fetchone()[0]
    assert found == ["shop", "payments", "shop", "__no_team__", "half", "c", "__no_team__", "__no_team__"]


def test_the_reasons_are_those_of_the_query_for_analysts(year: psycopg.Connection) -> None:
    """Both tell the reason from the resource's id; here of one id of each form that they know."""
    ids = [
        "arn:aws:eks:eu-west-1:1:cluster/a", "/s/managedClusters/a", "//container.googleapis.com/p/clusters/a",
        "ocid1.cluster.a", "arn:aws:elasticloadbalancing:eu:1:a", "/s/loadBalancers/a", "/s/applicationGateways/a",
        "p/forwardingRules/a", "ocid1.loadbalancer.a", "ocid1.networkloadbalancer.a", "nat-1", "eipalloc-1", "vpce-1",
        "tgw-1", "/s/natGateways/a", "/s/publicIPAddresses/a", "p/routers/a", "p/addresses/a", "ocid1.natgateway.a",
        "vol-1", "snap-1", "/s/disks/a", "/s/snapshots/a", "ocid1.volume.a", "ocid1.bootvolume.a", "else",
        "__no_resource__",
    ]  # fmt: skip
    year.execute("delete from cost_allocations")
    year.execute(
        "insert into cost_allocations (window_start, resource_id, dimension, otel_service_name, usage, allocated_cost,"
        " billing_currency, cost_status)"
        " select now(), id, dimension, service, usage, 0.000000000001, 'USD', 'billed' from unnest(%s::text[]) as id,"
        " (values ('cpu', '__unallocated__', null), ('io', '__unallocated__', 1.0), ('cpu', '__idle__', null),"
        " ('cpu', '__system__', 1.0), ('cpu', 'web', 1.0)) as of (dimension, service, usage)",
        [ids],
    )
    query = (ROOT / "sql" / "queries" / "unallocated_cost.sql").read_text("utf-8").replace(";\n", "")
    year.execute("set timezone = 'UTC'")
    columns = "resource_id, dimension, billing_currency, reason, windows, cost"
    expected = year.execute(f"select day, {columns} from ({query}) as of order by 1, 2, 3, 5").fetchall()
    found = year.execute(f"select day, {columns} from unallocated_costs_by_day order by 1, 2, 3, 5").fetchall()
    assert len({row[4] for row in found}) == 9 and found == expected


def test_budgets_say_how_they_stand(year: psycopg.Connection) -> None:
    year.execute("delete from budget_status; delete from budgets")
    year.execute(
        """
        insert into budget_status (budget, month, billing_currency, amount, billed_cost, provisional_cost,
            share_of_month, forecast_cost, forecast_method, incidents_excess_cost, cost_until)
        select name, '2026-01-01', 'USD', 10, billed, 1, 0.5, forecast, 'level', 0, '2026-01-15'
        from (values ('a', 9.5, 20), ('b', 5, 12), ('c', 5, 10), ('d', 5, null)) as of (name, billed, forecast)
        """
    )
    year.execute("insert into budgets values ('a', '2026-01-01', 10, 'USD'), ('a', '2026-01-01', 7, 'EUR')")
    found = year.execute(
        "select budget, billing_currency, amount, spent, remaining, verdict from budget_months order by 1, 2 desc"
    ).fetchall()
    assert found == [
        ("a", "USD", 10, Decimal("10.5"), Decimal("-0.5"), "over"),
        ("a", "EUR", 7, None, None, "not computed"),
        ("b", "USD", 10, 6, 4, "will be over"),
        ("c", "USD", 10, 6, 4, "within"),
        ("d", "USD", 10, 6, 4, "within"),
    ]


def test_incidents_now_are_the_open_ones(year: psycopg.Connection) -> None:
    [(found, links, teams)] = year.execute("select count(*), min(exemplar_url), min(team) from incidents_now")
    [(expected,)] = year.execute("select count(*) from incidents where incident_state = 'open'")
    assert (found, links, teams) == (expected, "http://jaeger/trace/ab", "front") and 0 < found < 200


def test_every_view_has_a_currency_and_a_comment_on_all_of_it(year: psycopg.Connection) -> None:
    columns: dict[str, dict[str, str | None]] = {}
    for view, column, comment in year.execute(
        """
        select pg_class.relname, attname, col_description(pg_class.oid, attnum)
        from pg_class join pg_attribute on attrelid = pg_class.oid and attnum > 0
        where relnamespace = 'public'::regnamespace and relkind = 'v'
            and obj_description(pg_class.oid, 'pg_class') like '%%A row is a%%'
        """
    ):
        columns.setdefault(view, {})[column] = comment
    assert set(columns) == set(VIEWS)
    assert all("billing_currency" in of_view for of_view in columns.values())
    assert [(view, name) for view, of_view in columns.items() for name, comment in of_view.items() if not comment] == []


def test_the_page_names_all_views_and_its_sql_runs(url: str, year: psycopg.Connection) -> None:
    page = (ROOT / "docs" / "bi.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| an?", page, re.M)) == set(VIEWS)
    blocks = re.findall(r"```sql\n(.+?)```", page, re.S)
    assert len(blocks) == 6
    for block in blocks:
        # The rows end with yesterday, which may be of another month than today.
        cursor = year.execute(block.replace("current_date", f"date '{days_ago(1)}'"))
        if block.startswith("create role"):
            year.commit()  # as long as the server, but for the end of this test
            with psycopg.connect(url.replace("//anomaly_cost@", "//bi@")) as reader:
                assert reader.execute("show timezone").fetchone() == ("UTC",)
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    reader.execute("create temporary table mine ()")
            year.execute("drop role bi")
            year.commit()
        if block.startswith("select"):
            assert cursor.fetchone(), block


def test_the_reader_selects_them_and_writes_nothing(url: str, year: psycopg.Connection) -> None:
    year.execute("create role bi_reader login in role anomaly_cost_reader")
    year.commit()
    try:
        with psycopg.connect(url.replace("//anomaly_cost@", "//bi_reader@"), autocommit=True) as reader:
            for view in VIEWS:
                assert reader.execute(f"select * from public.{view} limit 1").fetchone(), view
            for statement in (
                "update public.incidents_now set evidence = ''",
                "insert into public.service_teams values ('x', 'y')",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    reader.execute(statement)
    finally:
        year.execute("drop role bi_reader")
        year.commit()


def test_they_come_to_a_database_that_had_rows_before(database: Database, tmp_path: Any) -> None:
    """jobs.migrate on a database of the release before: its rows are in the views."""
    before = [migration for migration in read_migrations() if migration.name < "0016"]
    for migration in before:
        (tmp_path / f"{migration.name}.sql").write_text(migration.sql, "utf-8")
    with database.another("older") as address:
        migrate(address, tmp_path)
        with psycopg.connect(address) as connection:
            connection.execute(
                "insert into public.cost_allocations (window_start, resource_id, dimension, otel_service_name,"
                " allocated_cost, billing_currency, cost_status)"
                " values ('2026-01-05T10:00Z', 'i-1', 'cpu', 'web', 1.000000000001, 'USD', 'corrected')"
            )
        assert "0016_views" in migrate(address)
        with psycopg.connect(address) as connection:
            assert connection.execute("select day, team, cost from public.costs_by_day").fetchall() == [
                (date(2026, 1, 5), "__no_team__", Decimal("1.000000000001"))
            ]
            assert connection.execute("select windows from public.restatements_by_day").fetchall() == [(1,)]


def test_shared_cost_is_borne_by_own_cost_to_the_last_decimal(database: Database) -> None:
    def cost(resource_id: str, service: str, amount: str, currency: str = "USD", day: str = "2026-01-05") -> tuple:
        usage = None if service == "__unallocated__" else 1
        return f"{day}T10:00Z", resource_id, "other", service, usage, 1, Decimal(amount), currency, "billed"

    balancer = "arn:aws:elasticloadbalancing:eu-west-1:1:loadbalancer/app/a/b"
    costs = [
        *(cost("i-1", service, "0.5") for service in ("a", "b", "c")),
        cost("i-1", "__system__", "7"),
        cost("nat-1", "__unallocated__", "1"),
        cost("nat-2", "__unallocated__", "-2.000000000001", day="2026-01-06"),
        cost("i-1", "a", "3", day="2026-01-06"),
        cost("i-1", "b", "1", day="2026-01-06"),
        cost(balancer, "__unallocated__", "5", "EUR"),
        cost("vol-1", "__unallocated__", "9"),
        # Somebody is known to have used this one.
        cost("nat-3", "a", "0.25", "SEK"),
    ]
    with database.another("shared") as address:
        migrate(address)
        with psycopg.connect(address, options="-c search_path=public") as connection:
            connection.cursor().executemany(
                "insert into cost_allocations (window_start, resource_id, dimension, otel_service_name, usage,"
                " resource_cost, allocated_cost, billing_currency, cost_status)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                costs,
            )
            found = connection.execute(
                "select extract(day from day)::int, shared_kind, billing_currency, otel_service_name, cost, divided_by"
                " from shared_costs_by_day order by 1, 2, 3, 4"
            ).fetchall()
    own, nobody = "own cost of the day", "nobody to bear it"
    assert found == [
        (5, "NAT or egress", "USD", "a", Decimal("0.333333333334"), own),
        (5, "NAT or egress", "USD", "b", Decimal("0.333333333333"), own),
        (5, "NAT or egress", "USD", "c", Decimal("0.333333333333"), own),
        (5, "load balancer", "EUR", "__unallocated__", Decimal("5"), nobody),
        (6, "NAT or egress", "USD", "a", Decimal("-1.500000000001"), own),
        (6, "NAT or egress", "USD", "b", Decimal("-0.500000000000"), own),
    ]


def test_what_is_shared_is_told_by_the_forms_that_resources_has(year: psycopg.Connection) -> None:
    for kind, patterns in UNMEASURED.items():
        for pattern in patterns:
            [[found]] = year.execute("select anomaly_cost.shared_kind(%s)", [pattern.replace("%", "x")]).fetchall()
            assert found == (kind if kind in SHARED_BY_ALL else None), pattern
