"""jobs.ask as a client starts it, on a real database: its figures are the tables', and it writes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from mcp import Client, StdioServerParameters
from mcp.server.mcpserver.exceptions import ToolError

from jobs.ask import Tables
from jobs.migrate import migrate
from tests.e2e.test_respond import OPENED_MS, row
from tests.services import ROOT, Database

pytestmark = pytest.mark.services

HOSTILE = "'; drop table public.incidents; -- \"\\ {x} %s $1 <script>"
ID, EURO, FALSE_ALARM = (
    f"2026-01-01T10:30:00Z/{name}" for name in ("payment/USD", "payment/EUR", f"{HOSTILE}/USD")
)  # fmt: skip
AMOUNT = Decimal("12.345678901234")

_FILL = """
    insert into cost_allocations (window_start, resource_id, dimension, otel_service_name, allocated_cost,
        billing_currency, cost_status)
    select at, 'i-1', dimension, service, 0.123456789012, currency,
        case when at < '2026-01-14' then 'billed' else 'provisional' end
    from generate_series('2025-12-20T00:00Z'::timestamptz, '2026-01-15T23:30Z', '30 min') as at,
        unnest(array['payment', %(hostile)s, '__idle__']) as service, unnest(array['cpu', 'memory']) as dimension,
        unnest(array['USD', 'EUR']) as currency;

    insert into unit_costs (window_start, otel_service_name, root_service_name, root_operation, requests, cost,
        billing_currency, cost_status)
    select at, service, 'web', 'GET /', 7, case when at < '2026-01-09' then 0.1 else 0.2 end, 'USD', 'billed'
    from generate_series('2025-12-20T00:00Z'::timestamptz, '2026-01-15T23:30Z', '30 min') as at,
        unnest(array['web', 'payment']) as service;

    insert into unit_costs_by_attribute (window_start, attribute_name, attribute_value, otel_service_name, requests,
        cost, billing_currency, cost_status)
    select window_start, 'tenant.id', 'acme', otel_service_name, requests, cost, 'USD', 'billed' from unit_costs;

    insert into budget_status (budget, month, billing_currency, amount, billed_cost, provisional_cost, share_of_month,
        forecast_cost, forecast_method, incidents_excess_cost, cost_until)
    values ('payment', '2026-01-01', 'USD', 10, 4.000000000001, 1, 0.5, 12.5, 'level', 2, '2026-01-16'),
        (%(hostile)s, '2025-12-01', 'USD', 10, 4, 1, 1, null, 'none', 0, '2026-01-01');
    insert into budgets values ('payment', '2026-03-01', 10, 'USD');
    insert into service_teams values ('pay*', 'payments');
"""


@pytest.fixture(scope="module")
def url(database: Database) -> Iterator[str]:
    """Four weeks of cost, and three incidents: one in two currencies, and one of a hostile name that is silenced."""
    with database.another("ask") as address:
        migrate(address)
        with psycopg.connect(address, autocommit=True, options="-c search_path=public") as connection:
            psycopg.ClientCursor(connection).execute(_FILL, {"hostile": HOSTILE})
            fill_incidents(connection)
            connection.execute("create role asker login in role anomaly_cost_reader")
        yield address.replace("//anomaly_cost@", "//asker@")
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("drop role asker")


def fill_incidents(connection: psycopg.Connection) -> None:
    """As the job sends them; payment's of two windows, explained."""
    hour_ms = 3_600_000
    begins_ms = OPENED_MS - 180_000
    incidents = [
        row(excess_cost=str(2 * AMOUNT), windows=2, window_end=begins_ms + hour_ms, anomalous_minutes=50,
            excess_cost_per_hour=str(2 * AMOUNT * 60 / 50), changes='[{"what": "version", "from": "1", "to": "2"}]'),
        row(incident_id=EURO, billing_currency="EUR", excess_cost="1", excess_cost_per_hour="9.5",
            billed_excess_cost=None),
        row(incident_id=FALSE_ALARM, otel_service_name=HOSTILE, evidence=HOSTILE, is_silenced=True,
            excess_cost="99", excess_cost_per_hour="99"),
    ]  # fmt: skip
    for incident in incidents:
        connection.execute(
            "insert into anomaly_cost.restated values ('incidents', %s, %s, %s)",
            [incident["window_start"], incident["incident_id"], json.dumps([incident])],
        )
    for number in range(2):
        start_ms = begins_ms + number * hour_ms // 2
        part = {"x_OtelServiceName": "payment", "UsageUnit": "vCPU-Seconds", "x_ExcessQuantity": 1.5}
        parts = [
            part | {"x_Dimension": "cpu", "x_PriceBasis": "capacity", "x_UnitRate": "8", "x_Cost": "12.000000000001"},
            part | {"x_Dimension": "io", "x_PriceBasis": "metered", "x_UnitRate": "0.1", "x_Cost": "0.345678901233"},
        ]
        ranked = {
            "anomaly_id": str(number), "window_start": start_ms, "otel_service_name": "payment", "rank": 1,
            "excess_cost": str(AMOUNT), "billing_currency": "USD", "cost_status": "billed",
            "anomaly_kind": "latency_spike", "explanation": json.dumps({"x_ExcessUsage": parts}),
        }  # fmt: skip
        connection.execute(
            "insert into anomaly_cost.restated values ('ranked', %s, '', %s)", [start_ms, json.dumps([ranked])]
        )
    connection.execute(
        "insert into trace_verdicts (trace_id, start_time, anomaly_score, culprit_service_name)"
        " values ('ab', %s, 60, 'payment'), ('cd', %s, 70, 'payment')",
        [datetime.fromtimestamp(OPENED_MS / 1000, UTC)] * 2,
    )


def ask(url: str, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """What a client gets that starts the server as docs/ask.md says."""

    async def answers() -> list[Any]:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "jobs.ask", "--tables", url], cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name.startswith(("PG", "PYTHON"))},
        )  # fmt: skip
        async with Client(server) as client:
            return [await client.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(answers())


def results(answer: Any) -> dict[str, list[dict[str, Any]]]:
    """Rows by what they are; the text of an answer says the same as its structure."""
    assert not answer.is_error, answer.content[0].text
    assert json.loads(answer.content[0].text) == answer.structured_content
    return {result["what"]: result["rows"] for result in answer.structured_content["results"]}


def one(url: str, name: str, **arguments: Any) -> dict[str, list[dict[str, Any]]]:
    [answer] = ask(url, (name, arguments))
    return results(answer)


def test_the_costliest_come_first_within_their_currency(url: str) -> None:
    every, of_all, euros, later = map(
        results,
        ask(
            url,
            ("top_incidents", {}),
            ("top_incidents", {"include_silenced": True, "order": "excess_cost", "limit": 2}),
            ("top_incidents", {"currency": "EUR", "service": "payment", "since": "2026-01-01", "until": "2026-01-01"}),
            ("top_incidents", {"since": "2026-01-02"}),
        ),
    )
    [rows] = every.values()
    assert [(of["place"], of["incident_id"], of["excess_cost"], of["team"]) for of in rows] == [
        (1, EURO, "1.000000000000", "payments"),
        (1, ID, "24.691357802468", "payments"),
    ]
    assert rows[1]["opened_at"] == "2026-01-01T10:33:00Z" and rows[1]["excess_cost_per_hour"] == "29.629629362962"
    assert [of["incident_id"] for of in of_all.popitem()[1]] == [EURO, FALSE_ALARM]
    assert [of["billing_currency"] for of in euros.popitem()[1]] == ["EUR"]
    assert later.popitem()[1] == []


def test_an_incident_s_money_is_explained_to_the_last_decimal(url: str) -> None:
    found = one(url, "explain_incident", incident_id=ID)
    [incident] = found["the incident"]
    assert incident["changes"] == [{"what": "version", "from": "1", "to": "2"}]
    windows, parts = found["its windows of half an hour"], found["the parts of its excess cost"]
    assert len(windows) == 2
    for rows in (windows, parts):
        assert sum(Decimal(of["excess_cost"]) for of in rows) == Decimal(incident["excess_cost"]) == 2 * AMOUNT
    assert [(of["dimension"], of["price_basis"], of["excess_quantity"], of["excess_cost"]) for of in parts] == [
        ("cpu", "capacity", "3.0", "24.000000000002"),
        ("io", "metered", "3.0", "0.691357802466"),
    ]
    assert [of["trace_id"] for of in found["the traces that show it best"]] == ["ab"]


def test_what_if_is_arithmetic_on_the_incident_s_row(url: str) -> None:
    long, short, unknown = ask(
        url,
        ("what_if", {"incident_id": ID, "hours": 2}),
        ("what_if", {"incident_id": EURO, "hours": 0.1}),
        ("what_if", {"incident_id": HOSTILE, "hours": 1}),
    )
    [both] = results(long)["both cases"]
    so_far, an_hour = 2 * AMOUNT, Decimal("29.629629362962")
    assert both["further_excess_cost"] == format(2 * an_hour, "f")
    assert both["excess_cost_if_it_goes_on"] == format(so_far + 2 * an_hour, "f")
    assert both["excess_cost_if_repaired_now"] == format(so_far, "f")
    [both] = results(short)["both cases"]
    assert (both["further_excess_cost"], both["further_billed_excess_cost"]) == ("0.950000000000", None)
    assert unknown.is_error and "take an incident_id from top_incidents" in unknown.content[0].text


def test_budgets_are_those_of_the_newest_month_that_was_computed(url: str) -> None:
    newest, before, planned = map(
        results,
        ask(url, ("budget", {}), ("budget", {"month": "2025-12", "budget": HOSTILE}), ("budget", {"month": "2026-03"})),
    )
    [now] = newest["budgets of the month"]
    assert (now["budget"], now["spent"], now["remaining"], now["verdict"]) == (
        "payment", "5.000000000001", "4.999999999999", "will be over",
    )  # fmt: skip
    assert [of["budget"] for of in before["budgets of the month"]] == [HOSTILE]
    assert [of["verdict"] for of in planned["budgets of the month"]] == ["not computed"]


def test_a_request_s_cost_is_told_with_that_of_the_days_before(url: str) -> None:
    by_kind, by_tenant = map(
        results,
        ask(url, ("unit_cost", {"service": "web"}), ("unit_cost", {"attribute": "tenant.id", "value": "acme"})),
    )
    [kind], [tenant] = by_kind["by kind of request"], by_tenant["by value of the attribute"]
    for of in (kind, tenant):
        assert (of["requests"], of["cost"]) == (7 * 48 * 7, format(7 * 48 * Decimal("0.4"), ".12f"))
        assert of["cost_per_request"] == format(Decimal("0.4") / 7, ".12f")
        assert of["cost_per_request_before"] == format(Decimal("0.2") / 7, ".12f")


@pytest.mark.parametrize("service", ["payment", HOSTILE])
def test_a_service_s_cost_sums_to_the_table_s(url: str, service: str) -> None:
    found = one(url, "cost_of_service", service=service, since="2026-01-01", until="2026-01-15")
    with psycopg.connect(url) as connection:
        expected = connection.execute(
            "select billing_currency, sum(allocated_cost),"
            " sum(allocated_cost) filter (where cost_status = 'provisional')"
            " from public.cost_allocations where otel_service_name = %s and window_start >= '2026-01-01'"
            " group by 1 order by 1",
            [service],
        ).fetchall()
    total = [(of["billing_currency"], of["cost"], of["provisional_cost"]) for of in found["in all"]]
    assert total == [(currency, str(cost), str(provisional)) for currency, cost, provisional in expected]
    for rows in (found["by day"], found["by dimension"]):
        for currency, cost, _ in expected:
            assert sum(Decimal(of["cost"]) for of in rows if of["billing_currency"] == currency) == cost
    excess = [(of["windows"], of["excess_cost"]) for of in found["anomalies whose culprit it is"]]
    assert excess == ([(2, "24.691357802468")] if service == "payment" else [])


CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("top_incidents", {}),
    ("explain_incident", {"incident_id": ID}),
    ("what_if", {"incident_id": ID, "hours": 0.5}),
    ("budget", {}),
    ("unit_cost", {}),
    ("unit_cost", {"attribute": "tenant.id"}),
    ("cost_of_service", {"service": "payment", "since": "2026-01-01", "until": "2026-01-07"}),
)


def test_every_figure_comes_from_the_query_beside_it(url: str) -> None:
    """Run again as it stands in the answer, each query gives the rows that the answer has."""
    with psycopg.connect(url) as connection:
        connection.read_only = True
        cursor = psycopg.RawCursor(connection, row_factory=psycopg.rows.dict_row)
        for answer in ask(url, *CALLS):
            for result in answer.structured_content["results"]:
                again = cursor.execute(result["sql"].encode(), result["parameters"]).fetchall()
                assert result["rows"] and result["rows"] == json.loads(json.dumps(again, default=plain))


def plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    assert isinstance(value, date)
    return value.isoformat()


def test_hostile_arguments_are_names_and_nothing_is_written(url: str, database: Database) -> None:
    owner = database.url.rpartition("/")[0] + "/ask"

    def state() -> list[tuple]:
        with psycopg.connect(owner) as connection:
            return connection.execute(
                "select relname, pg_relation_filenode(oid), (select count(*) from public.incidents),"
                " (select count(*) from public.cost_allocations) from pg_class"
                " where relnamespace in ('public'::regnamespace, 'anomaly_cost'::regnamespace) order by 1"
            ).fetchall()

    before = state()
    # As the owner of the tables, who may write: the server doesn't, whoever it is.
    hostile = ask(
        owner,
        ("top_incidents", {"service": HOSTILE, "currency": HOSTILE}),
        ("explain_incident", {"incident_id": FALSE_ALARM}),
        ("budget", {"budget": HOSTILE, "currency": HOSTILE}),
        ("unit_cost", {"service": HOSTILE, "operation": HOSTILE}),
        ("unit_cost", {"attribute": HOSTILE, "value": HOSTILE}),
        ("cost_of_service", {"service": "a\0b"}),
    )
    assert results(hostile[0]) == {"incidents, by place within their currency": []}
    assert results(hostile[1])["the incident"][0]["evidence"] == HOSTILE
    assert all(rows == [] for answer in hostile[2:5] for what, rows in results(answer).items() if "newest" not in what)
    assert hostile[5].is_error and "\n" not in hostile[5].content[0].text
    assert state() == before


@pytest.mark.parametrize(
    "statement",
    [
        "insert into public.service_teams (services, team) values ('a', 'b')",
        "delete from public.incidents",
        "create temporary table mine ()",
        "set transaction read write",
        "select nextval(pg_get_serial_sequence('public.feedback', 'feedback_id'))",
    ],
)
def test_its_transaction_can_t_write(url: str, database: Database, statement: str) -> None:
    tables = Tables(database.url.rpartition("/")[0] + "/ask")
    with pytest.raises(ToolError, match="read-only|before any query"), tables.reading() as reading:
        reading.ask("one", "select 1 as one")
        reading.ask("what writes", statement)


def test_a_query_that_takes_too_long_is_ended(url: str) -> None:
    with pytest.raises(ToolError, match="longer than 1 s"), Tables(url, 1).reading() as reading:
        reading.ask("nothing", "select pg_sleep(30)::text as nothing")
