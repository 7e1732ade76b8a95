"""What the terminal table and the HTML report show, out of the tables of docs/interface.md, section 3.

Times are UTC milliseconds since the epoch, money is ``Decimal`` in the currency beside it.
Currencies are never added to each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb

from jobs.errors import JobError
from udfs.pure import contract
from udfs.pure.rank import BILLED_EXCESS, EXCESS, EXCESS_SCORE, ORDERS, SCORE
from udfs.pure.windows import IDLE, UNALLOCATED

TABLES = (
    "ranked_anomalies",
    "trace_verdicts",
    "cost_allocations",
    "charge_anomalies",
    "rejected_records",
)

# What the rows of a currency are ordered by, as rank._merit has it for one window.
_MERIT = {
    EXCESS: "coalesce(excess_cost, 0)",
    BILLED_EXCESS: "coalesce(billed_excess_cost, 0)",
    EXCESS_SCORE: "sign(coalesce(excess_cost, 0)) * anomaly_score * ln(1 + abs(coalesce(excess_cost, 0)::double))",
    SCORE: "cost_weighted_score",
}


@dataclass(frozen=True)
class Money:
    """The bill of a run in one currency; charged = allocated + idle + unallocated.

    ``provisional`` is the part of ``charged`` for which no bill has come yet.
    """

    currency: str
    charged: Decimal
    allocated: Decimal
    idle: Decimal
    unallocated: Decimal
    provisional: Decimal

    @property
    def leak(self) -> Decimal:
        """What was charged and is in no share: 0, or the run is wrong."""
        return self.charged - self.allocated - self.idle - self.unallocated


@dataclass(frozen=True)
class Summary:
    """One run in figures.

    ``windows`` are those that hold cost or a ranked anomaly; ``start_ms`` and ``end_ms`` bound them
    and are None where there is none. ``rejected`` is (stream, reason, records), most records first.
    """

    traces: int
    anomalous_traces: int
    warming_traces: int
    spans: int
    ranked: int
    provisional_ranked: int
    charge_anomalies: int
    windows: int
    start_ms: int | None
    end_ms: int | None
    money: tuple[Money, ...]
    rejected: tuple[tuple[str, str, int], ...]

    @property
    def anomalous_share(self) -> float:
        """Share of traces that are anomalous, 0 when there is no trace."""
        return self.anomalous_traces / self.traces if self.traces else 0.0


class Tables:
    """The output directory of one run, opened for reading."""

    def __init__(self, directory: Path) -> None:
        """Open every table of ``directory``.

        Raises:
            JobError: a table is missing or is not Parquet.
        """
        self._connection = duckdb.connect()
        for table in TABLES:
            path = directory / f"{table}.parquet"
            if not path.is_file():
                raise JobError(f"{path}: no such table, run python -m jobs.anomaly_cost first")
            try:
                found = self._connection.from_parquet(str(path))
                # An earlier release's tables lack what came later.
                missing = [f"null as {name}" for name in contract.TABLES[table].names if name not in found.columns]
                found.project(", ".join(["*", *missing])).create_view(table)
            except duckdb.Error as error:
                raise JobError(f"{path}: cannot be read as Parquet, {str(error).splitlines()[0]}") from error

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rows(self, query: str, parameters: Mapping[str, object] | None = None) -> list[dict]:
        """The rows of ``query``, in its order, as dicts by column."""
        return self._connection.sql(query, params=parameters or {}).to_arrow_table().to_pylist()

    def summary(self) -> Summary:
        """The headline figures of the run."""
        traces = self.rows(
            """
            select
                count(*) as traces,
                count(*) filter (where is_anomalous) as anomalous_traces,
                count(*) filter (where verdict_state = 'warming') as warming_traces,
                coalesce(sum(span_count), 0)::bigint as spans
            from trace_verdicts
            """
        )[0]
        counts = self.rows(
            """
            with windows as (
                select window_start from cost_allocations
                union
                select window_start from ranked_anomalies
            )
            select
                (select count(*) from ranked_anomalies) as ranked,
                (select count(*) from ranked_anomalies where cost_status = 'provisional')
                    as provisional_ranked,
                (select count(*) from charge_anomalies) as charge_anomalies,
                count(*) as windows,
                epoch_ms(min(window_start)) as start_ms,
                epoch_ms(max(window_start) + interval 30 minute) as end_ms
            from windows
            """
        )[0]
        money = self.rows(
            """
            with resources as (
                select
                    billing_currency,
                    max(resource_cost) as charged,
                    sum(allocated_cost)
                        filter (where otel_service_name not in ($idle, $unallocated)) as allocated,
                    sum(allocated_cost) filter (where otel_service_name = $idle) as idle,
                    sum(allocated_cost)
                        filter (where otel_service_name = $unallocated) as unallocated,
                    bool_or(cost_status = 'provisional') as is_provisional
                from cost_allocations
                group by window_start, resource_id, dimension, billing_currency
            )
            select
                billing_currency as currency,
                sum(charged) as charged,
                coalesce(sum(allocated), 0) as allocated,
                coalesce(sum(idle), 0) as idle,
                coalesce(sum(unallocated), 0) as unallocated,
                coalesce(sum(charged) filter (where is_provisional), 0) as provisional
            from resources
            group by billing_currency
            order by count(*) desc, billing_currency
            """,
            {"idle": IDLE, "unallocated": UNALLOCATED},
        )
        rejected = self.rows(
            """
            select stream, reason, count(*) as records
            from rejected_records
            group by stream, reason
            order by records desc, stream, reason
            """
        )
        return Summary(
            **traces,
            **counts,
            money=tuple(Money(**row) for row in money),
            rejected=tuple((row["stream"], row["reason"], row["records"]) for row in rejected),
        )

    def ranked_by(self) -> str:
        """The run's ``rank.by``, one of rank.ORDERS, as its explanations tell it; the default where none does."""
        rows = self.rows("select explanation from ranked_anomalies where explanation is not null limit 1")
        try:
            order = json.loads(rows[0]["explanation"])["x_RankedBy"] if rows else EXCESS
        except (ValueError, TypeError, KeyError):
            order = EXCESS
        return order if order in ORDERS else EXCESS

    def ranked(self, limit: int) -> list[dict]:
        """The ``limit`` highest rows of ranked_anomalies of each currency over the whole run, by ``ranked_by``.

        The columns are the table's, with ``window_start_ms`` for window_start; ``place`` is the
        row's place in the run among those of its currency (from 1), ``rank`` its place in its window,
        ``of_currency`` the number of rows in its currency. Amounts of different currencies are
        never compared: the currency with the most rows comes first.
        """
        return self.rows(
            f"""
            select
                row_number() over by_merit as place,
                count(*) over (partition by billing_currency) as of_currency,
                anomaly_id,
                epoch_ms(window_start) as window_start_ms,
                otel_service_name,
                rank,
                cost_weighted_score,
                anomaly_score,
                threshold,
                anomalous_traces,
                total_traces,
                attributed_cost,
                excess_cost,
                billed_excess_cost,
                projected_monthly_cost,
                billing_currency,
                cost_status,
                anomaly_kind,
                affected_services,
                exemplar_trace_ids,
                explanation,
                model_version
            from ranked_anomalies
            window by_merit as (
                partition by billing_currency
                order by
                    {_MERIT[self.ranked_by()]} desc,
                    cost_weighted_score desc,
                    attributed_cost desc,
                    anomaly_score desc,
                    window_start,
                    otel_service_name
            )
            qualify place <= $limit
            order by of_currency desc, billing_currency, place
            """,
            {"limit": limit},
        )

    def costs_over_time(self, currency: str, step_ms: int) -> list[dict]:
        """Cost in ``currency`` per bin of ``step_ms`` and service, as bin_ms, service and cost."""
        return self.rows(
            """
            select
                epoch_ms(window_start) // $step_ms * $step_ms as bin_ms,
                otel_service_name,
                sum(allocated_cost) as cost
            from cost_allocations
            where billing_currency = $currency
            group by bin_ms, otel_service_name
            order by bin_ms, otel_service_name
            """,
            {"currency": currency, "step_ms": step_ms},
        )

    def scores_over_time(self, currency: str, step_ms: int) -> dict[int, float]:
        """Highest S per bin of ``step_ms`` in ``currency``."""
        rows = self.rows(
            """
            select
                epoch_ms(window_start) // $step_ms * $step_ms as bin_ms,
                max(cost_weighted_score) as score
            from ranked_anomalies
            where billing_currency = $currency
            group by bin_ms
            """,
            {"currency": currency, "step_ms": step_ms},
        )
        return {row["bin_ms"]: row["score"] for row in rows}

    def verdict(self, trace_id: str) -> dict | None:
        """The verdict on one trace, None where there is none."""
        rows = self.rows(
            """
            select
                trace_id,
                epoch_ms(start_time) as start_ms,
                span_count,
                anomaly_score,
                threshold,
                culprit_service_name,
                culprit_operation,
                anomaly_kind
            from trace_verdicts
            where trace_id = $trace_id
            """,
            {"trace_id": trace_id},
        )
        return rows[0] if rows else None
