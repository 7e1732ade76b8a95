"""PostgreSQL's tables: made once, read by BI, upserted into over months, and not kept for ever."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from jobs.errors import JobError, UsageError
from jobs.migrate import MIGRATIONS, main, maintain, migrate, read_migrations
from tests.services import Database
from udfs.pure.contract import TABLES, Type

pytestmark = pytest.mark.services

NAMES = [migration.name for migration in read_migrations()]
PARTITIONED = ["cost_allocations", "trace_verdicts", "unit_costs", "unit_costs_by_attribute"]


@pytest.fixture
def url(database: Database) -> Iterator[str]:
    """An empty database."""
    with database.another("empty") as url:
        yield url


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection]:
    """To the migrated database; each statement is committed.

    Its user has the name of the schema with the partitions, which would else come before public.
    """
    migrate(url)
    with psycopg.connect(url, autocommit=True, options="-c search_path=public") as connection:
        yield connection


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A copy of the migrations, to be changed."""
    return shutil.copytree(MIGRATIONS, tmp_path / "migrations")


def month(ago: int, day: int = 15) -> datetime:
    """A time in the month that is ``ago`` months before this one."""
    now = datetime.now(UTC)
    years, months = divmod(now.year * 12 + now.month - 1 - ago, 12)
    return datetime(years, months + 1, day, tzinfo=UTC)


def partition(table: str, ago: int) -> str:
    return f"anomaly_cost.{table}_{month(ago):%Y_%m}"


def partitions(connection: psycopg.Connection, table: str) -> list[str]:
    """Of ``table``, but for the default one."""
    rows = connection.execute(
        "select inhrelid::regclass::text from pg_inherits where inhparent = %s::regclass order by 1", [table]
    )
    return [name for (name,) in rows if not name.endswith("_default")]


def upsert(connection: psycopg.Connection, table: str, key: list[str], row: dict[str, str]) -> None:
    """As the engine's connector does it, with text of no type for every column."""
    names = ", ".join(f'"{column}"' for column in row)
    updates = ", ".join(f'"{column}" = excluded."{column}"' for column in row)
    connection.execute(
        f"insert into {table} ({names}) values ({', '.join(['%s'] * len(row))})"
        f" on conflict ({', '.join(key)}) do update set {updates}",
        list(row.values()),
    )


def verdict(trace_id: str, start_time: datetime, score: float = 1.0) -> dict[str, str]:
    return {
        "trace_id": trace_id,
        "start_time": f"{start_time:%Y-%m-%dT%H:%M:%S.000Z}",
        "anomaly_score": str(score),
        "is_anomalous": "true",
    }


def write_verdicts(connection: psycopg.Connection, *verdicts: dict[str, str]) -> None:
    for row in verdicts:
        upsert(connection, "trace_verdicts", ["trace_id", "start_time"], row)


def test_migrations_are_applied_once(url: str) -> None:
    assert migrate(url) == NAMES
    assert migrate(url) == []


def test_two_at_once_wait_for_each_other(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(migrate, [url] * 4)) == [[], [], [], NAMES]


def test_the_command_says_what_it_did(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([url, "--keep", "13 months"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(NAMES)] == [f"applied {name}" for name in NAMES]
    assert f"created {partition('trace_verdicts', 0)}, 0 rows moved into it" in lines
    assert main([url, "--keep", "13 months"]) == 0
    assert capsys.readouterr().out == ""


def test_a_changed_migration_is_refused_before_anything_is_applied(url: str, migrations: Path) -> None:
    migrate(url, migrations)
    with (migrations / f"{NAMES[0]}.sql").open("a", encoding="utf-8") as file:
        file.write("-- a word more\n")
    (migrations / "9999_later.sql").write_text("create table later ()", "utf-8")
    with pytest.raises(JobError, match=f"{NAMES[0]}.sql was changed") as told:
        migrate(url, migrations)
    assert "\n" not in str(told.value)
    with psycopg.connect(url) as connection:
        assert connection.execute("select to_regclass('later')").fetchone() == (None,)


def test_a_database_of_a_later_version_is_refused(url: str, migrations: Path) -> None:
    (migrations / "9999_later.sql").write_text("create table later ()", "utf-8")
    assert migrate(url, migrations) == [*NAMES, "9999_later"]
    with pytest.raises(JobError, match="9999_later"):
        migrate(url)


def test_a_migration_that_fails_leaves_nothing(url: str, migrations: Path) -> None:
    (migrations / "9999_wrong.sql").write_text("create table half (); select 1 / 0", "utf-8")
    with pytest.raises(JobError, match="9999_wrong.sql: division by zero") as told:
        migrate(url, migrations)
    assert "\n" not in str(told.value)
    with psycopg.connect(url) as connection:
        assert connection.execute("select to_regclass('half')").fetchone() == (None,)
    (migrations / "9999_wrong.sql").write_text("create table half ()", "utf-8")
    assert migrate(url, migrations) == ["9999_wrong"]


@pytest.mark.parametrize(
    "wrong, status, words",
    [
        ("postgresql://someone:secret@127.0.0.1:1/x", 2, "PGPASSWORD"),
        ("postgresql://127.0.0.1:1/x", 2, "postgresql://USER@HOST[:PORT]/DATABASE"),
        ("kafka://127.0.0.1:1", 2, "postgresql://USER@HOST[:PORT]/DATABASE"),
        ("postgresql://someone@127.0.0.1:1/x", 1, "Connection refused"),
    ],
)
def test_what_is_wrong_with_the_url_is_told_in_one_line(
    wrong: str, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([wrong]) == status
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and words in told and "secret" not in told


@pytest.mark.parametrize("interval", ["0 days", "-1 month", "soon"])
def test_a_wrong_interval_drops_nothing(url: str, interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([url, "--keep", interval]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# As format_type shows them.
_TYPES = {Type.TIME: "timestamp(3) with time zone", Type.MONEY: "numeric(28,12)"}


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_those_of_the_contract(connection: psycopg.Connection, table: str) -> None:
    rows = connection.execute(
        """
        select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = %s::regclass and attnum > 0 order by attnum
        """,
        [table],
    )
    found = {name: kind for name, kind in rows if name != "record_id"}
    assert found == {column.name: _TYPES.get(column.type, column.type.postgres) for column in TABLES[table].columns}


def test_every_table_and_column_has_a_comment(url: str, connection: psycopg.Connection) -> None:
    maintain(url)
    bare = connection.execute(
        """
        select tables.oid::regclass::text, attname
        from pg_class as tables
        join pg_attribute on attrelid = tables.oid and attnum > 0 and not attisdropped
        where relnamespace in ('public'::regnamespace, 'anomaly_cost'::regnamespace)
            and relkind in ('r', 'p', 'v')
            and not relispartition
            and (col_description(tables.oid, attnum) is null or obj_description(tables.oid, 'pg_class') is null)
        """
    ).fetchall()
    assert bare == []
    assert connection.execute("select col_description('trace_verdicts'::regclass, 1)").fetchone()[0]


def test_the_reader_reads_and_does_nothing_else(url: str, connection: psycopg.Connection) -> None:
    maintain(url)
    write_verdicts(connection, verdict("a", month(0)))
    connection.execute("create table made_later as select 1 as number")
    connection.execute("create role analyst login in role anomaly_cost_reader")
    try:
        reader_url = url.replace("//anomaly_cost@", "//analyst@")
        with psycopg.connect(reader_url, autocommit=True) as reader:
            for table in [*TABLES, "budgets", "made_later"]:
                reader.execute(f"select * from {table}")
            assert reader.execute("select trace_id from trace_verdicts").fetchall() == [("a",)]
            for statement in (
                "insert into budgets values ('checkout', '2024-04-01', 1, 'USD')",
                "update trace_verdicts set trace_id = 'b'",
                "delete from rejected_records",
                "truncate ranked_anomalies",
                "drop table budgets",
                "create table mine ()",
                "select anomaly_cost.maintain('1 month', '1 month')",
                f"select * from {partition('trace_verdicts', 0)}",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    reader.execute(statement)
    finally:
        connection.execute("drop role analyst")  # it would be there as long as the server


def test_text_of_no_type_becomes_what_the_column_is(connection: psycopg.Connection) -> None:
    row = {
        "anomaly_id": "2024-04-01T00:00:00Z/checkout/USD",
        "window_start": "2024-04-01T00:00:00.000Z",
        "rank": "1",
        "anomaly_score": "0.1",
        "attributed_cost": "1.000000000001",
        "affected_services": '{"plain","a \\"quoted\\", one","back\\\\slash"}',
        "exemplar_trace_ids": "{}",
        "explanation": '{"x_Cost": "1.10", "Elements": [1e2]}',
    }
    upsert(connection, "ranked_anomalies", ["anomaly_id"], row | {"rank": "2"})
    upsert(connection, "ranked_anomalies", ["anomaly_id"], row)
    found = connection.execute(f"select {', '.join(row)} from ranked_anomalies").fetchall()
    assert found == [
        (
            "2024-04-01T00:00:00Z/checkout/USD",
            datetime(2024, 4, 1, tzinfo=UTC),
            1,
            0.1,
            Decimal("1.000000000001"),
            ["plain", 'a "quoted", one', "back\\slash"],
            [],
            {"x_Cost": "1.10", "Elements": [100]},
        )
    ]


def restate(connection: psycopg.Connection, kind: str, window: datetime, event_key: str, rows: list[dict]) -> None:
    """As the job sends a window: an upsert."""
    window_ms = int(window.timestamp() * 1000)
    named = [
        {"window_start": window_ms, "window_end": window_ms + 1_800_000, "updated_at": window_ms, **row} for row in rows
    ]
    connection.execute(
        "insert into anomaly_cost.restated (kind, time_ms, event_key, rows) values (%s, %s, %s, %s)"
        " on conflict (kind, time_ms, event_key) do update set rows = excluded.rows",
        [kind, window_ms, event_key, json.dumps(named)],
    )


def test_a_window_is_restated_as_a_whole(connection: psycopg.Connection) -> None:
    """What isn't sent again is gone; other windows and resources stay; digits, arrays and NULL arrive as sent."""
    first, second = month(0, 3), month(0, 4)
    row = {"otel_service_name": "cart", "billing_currency": "USD", "dimension": "cpu", "cost_status": "billed"}
    ranked = {
        "anomaly_id": "a", "rank": 1, "cost_weighted_score": 0.1, "excess_cost": None,
        "attributed_cost": "0.123456789012",
        "affected_services": ['q"uo\\te, {x}', "é"], "explanation": '{"x": 1.50}', **row,
    }  # fmt: skip
    restate(connection, "ranked", first, "", [ranked, ranked | {"anomaly_id": "b"}])
    restate(connection, "ranked", second, "", [ranked | {"anomaly_id": "c"}])
    restate(connection, "ranked", first, "", [ranked | {"rank": 2}])
    found = connection.execute(
        "select anomaly_id, rank, window_start, cost_weighted_score, attributed_cost, excess_cost, affected_services,"
        " explanation ->> 'x' from ranked_anomalies order by anomaly_id"
    ).fetchall()
    same = (0.1, Decimal("0.123456789012"), None, ['q"uo\\te, {x}', "é"], "1.50")
    assert found == [("a", 2, first, *same), ("c", 1, second, *same)]

    unit = {"root_service_name": "front", "root_operation": "GET /", "requests": 3, "cost": "0.9", **row}
    for window, requests in ((first, (unit, unit | {"root_operation": "GET /x"})), (second, (unit,)), (first, (unit,))):
        restate(connection, "unit_costs", window, "", list(requests))
    assert connection.execute(
        "select window_start, root_operation, requests, cost from unit_costs order by 1"
    ).fetchall() == [(first, "GET /", 3, Decimal("0.9")), (second, "GET /", 3, Decimal("0.9"))]

    for kind, table, cost in (
        ("allocations", "cost_allocations", "allocated_cost"),
        ("charge_anomalies",) * 2 + ("billed_cost",),
    ):
        for resource in ("node-1", "node-2"):
            restate(connection, kind, first, resource, [{"resource_id": resource, cost: "1", **row}])
        restate(connection, kind, first, "node-1", [])
        assert connection.execute(f"select resource_id from {table}").fetchall() == [("node-2",)]
    assert connection.execute("select count(*) from anomaly_cost.restated").fetchone() == (0,)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        restate(connection, "budgets", first, "", [])


def test_a_column_more_needs_no_more_than_its_column(connection: psycopg.Connection) -> None:
    connection.execute("alter table ranked_anomalies add column team text, add column noted_at timestamptz(3),"
                       " add column links text[], add column is_open boolean not null default true")  # fmt: skip
    window = month(0, 3)
    sent = {"anomaly_id": "a", "team": "cart's", "noted_at": int(window.timestamp() * 1000), "links": None}
    restate(connection, "ranked", window, "", [sent, {"unknown": 1, **sent, "anomaly_id": "b", "links": ["x"]}])
    assert connection.execute(
        "select anomaly_id, team, noted_at, links, is_open from ranked_anomalies order by 1"
    ).fetchall() == [("a", "cart's", window, None, True), ("b", "cart's", window, ["x"], True)]


def test_a_trace_has_one_row_when_its_start_moves(connection: psycopg.Connection) -> None:
    start = month(1, 1)
    for moved in (start, start - timedelta(seconds=30), start - timedelta(seconds=30)):
        connection.execute(
            "insert into trace_verdicts (trace_id, start_time) values ('t', %s), ('other', %s)"
            " on conflict (trace_id, start_time) do nothing",
            [moved, start],
        )
    assert connection.execute("select trace_id, start_time from trace_verdicts order by 1").fetchall() == [
        ("other", start), ("t", start - timedelta(seconds=30)),
    ]  # fmt: skip


def test_months_are_made_ahead_once(url: str, connection: psycopg.Connection) -> None:
    made = maintain(url, ahead="3 months")
    for table in PARTITIONED:
        assert partitions(connection, table) == sorted(partition(table, -ahead) for ahead in range(4))
    assert len(made) == 4 * len(PARTITIONED)
    assert maintain(url, ahead="3 months") == []
    assert len(maintain(url, ahead="4 months")) == len(PARTITIONED)


def test_late_months_leave_the_default_partition(url: str, connection: psycopg.Connection) -> None:
    late = [verdict("first instant", month(3, day=1)), verdict("late", month(3)), verdict("month before", month(4))]
    strange = [verdict("1970", datetime(1970, 1, 1, tzinfo=UTC)), verdict("2262", datetime(2262, 1, 1, tzinfo=UTC))]
    write_verdicts(connection, *late, *strange)
    assert f"created {partition('trace_verdicts', 3)}, 2 rows moved into it" in maintain(url)
    places = dict(connection.execute("select trace_id, tableoid::regclass::text from trace_verdicts").fetchall())
    assert places == {
        "first instant": partition("trace_verdicts", 3),
        "late": partition("trace_verdicts", 3),
        "month before": partition("trace_verdicts", 4),
        "1970": "anomaly_cost.trace_verdicts_default",
        "2262": "anomaly_cost.trace_verdicts_default",
    }
    assert partitions(connection, "cost_allocations") == sorted(partition("cost_allocations", -n) for n in range(3))


def test_upserts_hold_before_and_after_a_row_has_moved(url: str, connection: psycopg.Connection) -> None:
    times = [month(2), month(0)]
    for score in (1.0, 2.0):
        write_verdicts(connection, *(verdict("a", time, score) for time in times))
    maintain(url)
    for score in (3.0, 4.0):
        write_verdicts(connection, *(verdict("a", time, score) for time in times))
    rows = connection.execute(
        "select start_time, anomaly_score, tableoid::regclass::text from trace_verdicts order by start_time"
    )
    assert rows.fetchall() == [
        (times[0], 4.0, partition("trace_verdicts", 2)),
        (times[1], 4.0, partition("trace_verdicts", 0)),
    ]


def test_only_what_is_older_than_keep_is_dropped(url: str, connection: psycopg.Connection) -> None:
    write_verdicts(connection, *(verdict(str(ago), month(ago, day=1)) for ago in (0, 13, 14, 30)))
    # In its partition is dropped as in the default one.
    maintain(url)
    write_verdicts(connection, verdict("default", month(40)))
    for record, ago in (("kept", 13), ("old", 14)):
        upsert(connection, "rejected_records", ["record_id"], {"record_id": record, "rejected_at": str(month(ago))})

    lines = maintain(url, keep="13 months")

    # A month goes when all of it is too old: the 13th before this one isn't yet.
    assert lines == [
        f"dropped {partition('trace_verdicts', 30)}",
        f"dropped {partition('trace_verdicts', 14)}",
        "deleted 1 rows of anomaly_cost.trace_verdicts_default",
        "deleted 1 rows of rejected_records",
    ]
    assert connection.execute("select trace_id from trace_verdicts order by 1").fetchall() == [("0",), ("13",)]
    assert connection.execute("select record_id from rejected_records").fetchall() == [("kept",)]
    assert maintain(url, keep="13 months") == []


def test_a_writer_is_not_disturbed(url: str, connection: psycopg.Connection) -> None:
    """Months are made and dropped while another session upserts into all of them, many in a transaction."""
    written = [verdict(str(number), month(number % 12)) for number in range(600)]

    def write() -> None:
        with psycopg.connect(url) as writer:
            for start in range(0, len(written), 50):
                write_verdicts(writer, *written[start : start + 50])
                writer.commit()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            maintain(url)
            maintain(url, keep="24 months")
        writing.result()
    maintain(url)
    assert connection.execute("select count(*), count(distinct trace_id) from trace_verdicts").fetchone() == (600, 600)
    assert connection.execute("select count(*) from anomaly_cost.trace_verdicts_default").fetchone() == (0,)
    assert len(partitions(connection, "trace_verdicts")) == 14


def test_a_budget_is_of_a_whole_month(connection: psycopg.Connection) -> None:
    connection.execute("insert into budgets values ('checkout', '2024-04-01', 100, 'USD')")
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("insert into budgets values ('checkout', '2024-04-15', 100, 'USD')")


@pytest.mark.parametrize("password", ["PGPASSWORD", "the URL"])
def test_a_password_comes_from_the_environment(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    with pytest.raises(JobError if password == "PGPASSWORD" else UsageError) as told:
        migrate(f"postgresql://someone{':secret' if password == 'the URL' else ''}@127.0.0.1:1/x")
    assert "secret" not in str(told.value)
