"""What the terminal table and the HTML report show, out of the tables of docs/interface.md, section 3.

Times are UTC milliseconds since the epoch, money is ``Decimal`` in the currency beside it.
Currencies are never added to each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.report.reader import TABLES, open_reader
from udfs.pure.rank import BILLED_EXCESS, EXCESS, EXCESS_SCORE, ORDERS, SCORE
from udfs.pure.windows import IDLE, UNALLOCATED, WINDOW_MS

# What the rows of a currency are ordered by, as rank._merit has it for one window.
_MERIT = {
    EXCESS: "coalesce(ranked_anomalies.excess_cost, 0)",
    BILLED_EXCESS: "coalesce(ranked_anomalies.billed_excess_cost, 0)",
    EXCESS_SCORE: "sign(coalesce(ranked_anomalies.excess_cost, 0)) * ranked_anomalies.anomaly_score"
    " * ln(1 + abs(cast(coalesce(ranked_anomalies.excess_cost, 0) as double precision)))",
    SCORE: "ranked_anomalies.cost_weighted_score",
}

# What tells that a row is of the time asked for.
_SINCE = {
    "ranked_anomalies": "window_start >= $since",
    "incidents": "last_seen_at >= $since",
    "trace_verdicts": "start_time >= $since",
    "cost_allocations": "window_start >= $since",
    "charge_anomalies": "window_start >= $since",
    "rejected_records": "coalesce(event_time, rejected_at) >= $since",
}

# An incident owns the windows of its culprit and currency between its first and its last.
_OWNS = (
    "ranked_anomalies.otel_service_name = incidents.otel_service_name"
    " and ranked_anomalies.billing_currency = incidents.billing_currency"
    " and ranked_anomalies.window_start >= incidents.window_start"
    " and ranked_anomalies.window_start < incidents.window_end"
)


def _ms(time: str) -> str:
    """A time as milliseconds since the epoch."""
    return f"cast(extract(epoch from {time}) * 1000 as bigint)"


def _bin(time: str) -> str:
    """The bin of ``$step_ms`` that a time is in, as the milliseconds of its start."""
    return f"cast(floor({_ms(time)} / $step_ms) * $step_ms as bigint)"


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
class Excess:
    """What the incidents of one currency cost; those that somebody silenced (``is_silenced``) count apart.

    ``provisional`` is the part of ``excess`` for whose windows no bill has come yet, ``on_the_bill`` the part that
    changed the bill. ``monthly`` is what they cost in a month if they go on to come as often: of incidents of one
    culprit and kind the latest tells it for all. ``per_hour`` is what an hour of those that are open costs. None: not
    known of any.
    """

    currency: str
    incidents: int
    open: int
    silenced: int
    excess: Decimal | None
    provisional: Decimal
    on_the_bill: Decimal | None
    monthly: Decimal | None
    per_hour: Decimal | None
    silenced_excess: Decimal | None


@dataclass(frozen=True)
class Summary:
    """One run in figures.

    ``windows`` are those that hold cost or a ranked anomaly; ``start_ms`` and ``end_ms`` bound them
    and are None where there is none. ``stray`` are ranked rows of no incident: of a release that followed none.
    ``rejected`` is (stream, reason, records), most records first.
    """

    traces: int
    anomalous_traces: int
    warming_traces: int
    spans: int
    ranked: int
    stray: int
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
    """The tables of one run, opened for reading."""

    def __init__(self, tables: Path | str, since: datetime | None = None) -> None:
        """Open ``tables``, a directory or a ``postgresql://`` URL.

        since: rows before it are left out (windows and traces that start before it, incidents that were last seen
        before it); None: all count.

        Raises:
            JobError: a table is missing or cannot be read.
            UsageError: the URL is none that jobs.postgres reads.
        """
        self._reader = open_reader(tables)
        self._since = since
        self._names = {
            name: name if since is None else f"(select * from {name} where {_SINCE[name]}) as {name}" for name in TABLES
        }

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def _rows(self, query: str, **parameters: object) -> Iterator[dict[str, Any]]:
        """``query`` names tables in braces, parameters as ``$name``."""
        return self._reader.rows(query.format(**self._names), parameters | {"since": self._since})

    def summary(self) -> Summary:
        """The headline figures of the run."""
        (traces,) = self._rows(
            """
            select
                count(*) as traces,
                count(*) filter (where is_anomalous) as anomalous_traces,
                count(*) filter (where verdict_state = 'warming') as warming_traces,
                cast(coalesce(sum(span_count), 0) as bigint) as spans
            from {trace_verdicts}
            """
        )
        (counts,) = self._rows(
            f"""
            with windows as (
                select window_start from {{cost_allocations}}
                union
                select window_start from {{ranked_anomalies}}
            )
            select
                (select count(*) from {{ranked_anomalies}}) as ranked,
                (select count(*) from {{ranked_anomalies}} where not exists (select 1 from incidents where {_OWNS}))
                    as stray,
                (select count(*) from {{ranked_anomalies}} where cost_status = 'provisional')
                    as provisional_ranked,
                (select count(*) from {{charge_anomalies}}) as charge_anomalies,
                count(*) as windows,
                {_ms("min(window_start)")} as start_ms,
                {_ms("max(window_start)")} + {WINDOW_MS} as end_ms
            from windows
            """
        )
        money = self._rows(
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
                from {cost_allocations}
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
            order by count(*) desc, billing_currency collate "C"
            """,
            idle=IDLE,
            unallocated=UNALLOCATED,
        )
        rejected = self._rows(
            """
            select stream, reason, count(*) as records
            from {rejected_records}
            group by stream, reason
            order by records desc, stream collate "C", reason collate "C"
            """
        )
        return Summary(
            **traces,
            **counts,
            money=tuple(Money(**row) for row in money),
            rejected=tuple((row["stream"], row["reason"], row["records"]) for row in rejected),
        )

    def excess(self) -> list[Excess]:
        """What incidents cost, by currency: the one with the most incidents first."""
        rows = self._rows(
            f"""
            with numbered as (
                select
                    incidents.*,
                    row_number() over (
                        partition by otel_service_name, anomaly_kind, billing_currency
                        order by opened_at desc, incident_id collate "C"
                    ) as of_its_like
                from {{incidents}}
                where is_silenced is not true
            ),
            provisional as (
                select ranked_anomalies.billing_currency, sum(ranked_anomalies.excess_cost) as cost
                from {{incidents}}
                join ranked_anomalies on {_OWNS}
                where ranked_anomalies.cost_status = 'provisional' and is_silenced is not true
                group by ranked_anomalies.billing_currency
            ),
            silenced as (
                select billing_currency, count(*) as incidents, sum(excess_cost) as cost
                from {{incidents}}
                where is_silenced
                group by billing_currency
            ),
            telling as (
                select
                    billing_currency,
                    count(*) as incidents,
                    count(*) filter (where incident_state = 'open') as open,
                    sum(excess_cost) as excess,
                    sum(billed_excess_cost) as on_the_bill,
                    sum(projected_monthly_cost) filter (where of_its_like = 1) as monthly,
                    sum(excess_cost_per_hour) filter (where incident_state = 'open') as per_hour
                from numbered
                group by billing_currency
            ),
            currencies as (
                select billing_currency from telling union select billing_currency from silenced
            )
            select
                currencies.billing_currency as currency,
                coalesce(telling.incidents, 0) as incidents,
                coalesce(telling.open, 0) as open,
                coalesce(silenced.incidents, 0) as silenced,
                telling.excess,
                coalesce(provisional.cost, 0) as provisional,
                telling.on_the_bill,
                telling.monthly,
                telling.per_hour,
                silenced.cost as silenced_excess
            from currencies
            left join telling on telling.billing_currency = currencies.billing_currency
            left join provisional on provisional.billing_currency = currencies.billing_currency
            left join silenced on silenced.billing_currency = currencies.billing_currency
            order by
                coalesce(telling.incidents, 0) + coalesce(silenced.incidents, 0) desc,
                currencies.billing_currency collate "C"
            """
        )
        return [Excess(**row) for row in rows]

    @cached_property
    def ranked_by(self) -> str:
        """The run's ``rank.by``, one of rank.ORDERS, as its explanations tell it; the default where none does."""
        rows = self._rows(
            "select cast(explanation as text) as explanation from ranked_anomalies"
            " where explanation is not null order by window_start desc limit 1"
        )
        try:
            order = next((json.loads(row["explanation"])["x_RankedBy"] for row in rows), EXCESS)
        except (ValueError, TypeError, KeyError):
            order = EXCESS
        return order if order in ORDERS else EXCESS

    def ranked(self, limit: int) -> list[dict[str, Any]]:
        """The ``limit`` highest rows of ranked_anomalies of each currency over the whole run, by ``ranked_by``.

        ``window_start_ms`` stands for window_start; ``place`` is the row's place in the run among those of its
        currency (from 1), ``rank`` its place in its window. Amounts of different currencies are never compared: the
        currency with the most rows comes first.
        """
        return list(
            self._rows(
                f"""
                with placed as (
                    select
                        row_number() over (
                            partition by billing_currency
                            order by
                                {_MERIT[self.ranked_by]} desc,
                                cost_weighted_score desc,
                                attributed_cost desc,
                                anomaly_score desc,
                                window_start,
                                otel_service_name collate "C"
                        ) as place,
                        count(*) over (partition by billing_currency) as of_currency,
                        {_ms("window_start")} as window_start_ms,
                        otel_service_name,
                        rank,
                        cost_weighted_score,
                        anomalous_traces,
                        total_traces,
                        attributed_cost,
                        excess_cost,
                        billed_excess_cost,
                        billing_currency,
                        cost_status,
                        anomaly_kind
                    from {{ranked_anomalies}}
                )
                select * from placed
                where place <= $most
                order by of_currency desc, billing_currency collate "C", place
                """,
                most=limit,
            )
        )

    def incidents(self, limit: int) -> list[dict[str, Any]]:
        """The ``limit`` first incidents of each currency, by ``ranked_by``, those that somebody silenced last.

        An incident's excess is that of its windows, its score the greatest of theirs. The columns are the table's, with
        ``opened_ms`` and so on for its times; ``place`` is among those of its currency (from 1), ``of_currency``
        their number. The currency with the most incidents comes first.
        """
        order = self.ranked_by
        together = "sum" if order in (EXCESS, BILLED_EXCESS) else "max"
        return list(
            self._rows(
                f"""
                with merits as (
                    select incidents.incident_id, {together}({_MERIT[order]}) as merit
                    from {{incidents}}
                    join ranked_anomalies on {_OWNS}
                    group by incidents.incident_id
                ),
                placed as (
                    select
                        row_number() over (
                            partition by billing_currency
                            order by
                                coalesce(is_silenced, false),
                                merits.merit desc nulls last,
                                excess_cost desc nulls last,
                                attributed_cost desc nulls last,
                                opened_at,
                                incidents.incident_id collate "C"
                        ) as place,
                        count(*) over (partition by billing_currency) as of_currency,
                        incidents.incident_id,
                        otel_service_name,
                        culprit_operation,
                        anomaly_kind,
                        incident_state,
                        {_ms("opened_at")} as opened_ms,
                        {_ms("last_seen_at")} as last_seen_ms,
                        windows,
                        anomalous_minutes,
                        anomalous_traces,
                        total_traces,
                        affected_services,
                        attributed_cost,
                        excess_cost,
                        billed_excess_cost,
                        excess_cost_per_hour,
                        projected_monthly_cost,
                        billing_currency,
                        cost_status,
                        evidence,
                        cast(changes as text) as changes,
                        exemplar_trace_ids,
                        exemplar_urls,
                        feedback,
                        feedback_by,
                        feedback_note,
                        coalesce(is_silenced, false) as is_silenced,
                        model_version
                    from {{incidents}}
                    left join merits on merits.incident_id = incidents.incident_id
                )
                select * from placed
                where place <= $most
                order by of_currency desc, billing_currency collate "C", place
                """,
                most=limit,
            )
        )

    def windows_of(self, incident_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows of ranked_anomalies that incidents own, by incident and time, each with its ``incident_id``.

        ``merit`` is what ``ranked_by`` orders by; those from before ``since`` are among them.
        """
        return self._rows(
            f"""
            select
                incidents.incident_id,
                {_MERIT[self.ranked_by]} as merit,
                {_ms("ranked_anomalies.window_start")} as window_start_ms,
                ranked_anomalies.otel_service_name,
                rank,
                cost_weighted_score,
                anomaly_score,
                threshold,
                ranked_anomalies.anomalous_traces,
                ranked_anomalies.total_traces,
                ranked_anomalies.attributed_cost,
                ranked_anomalies.excess_cost,
                ranked_anomalies.billed_excess_cost,
                ranked_anomalies.billing_currency,
                ranked_anomalies.cost_status,
                cast(explanation as text) as explanation
            from incidents
            join ranked_anomalies on {_OWNS}
            where incidents.incident_id = any($incident_ids)
            order by incidents.incident_id collate "C", ranked_anomalies.window_start
            """,
            incident_ids=list(incident_ids),
        )

    def costs_over_time(self, currency: str, step_ms: int) -> list[dict[str, Any]]:
        """Cost in ``currency`` per bin of ``step_ms`` and service, as bin_ms, service and cost."""
        return list(
            self._rows(
                f"""
                select
                    {_bin("window_start")} as bin_ms,
                    otel_service_name,
                    sum(allocated_cost) as cost
                from {{cost_allocations}}
                where billing_currency = $currency
                group by 1, 2
                order by 1, otel_service_name collate "C"
                """,
                currency=currency,
                step_ms=step_ms,
            )
        )

    def excess_over_time(self, currency: str, step_ms: int) -> dict[int, Decimal]:
        """Excess cost in ``currency`` per bin of ``step_ms``."""
        rows = self._rows(
            f"""
            select
                {_bin("window_start")} as bin_ms,
                sum(excess_cost) as excess
            from {{ranked_anomalies}}
            where billing_currency = $currency and excess_cost is not null
            group by 1
            """,
            currency=currency,
            step_ms=step_ms,
        )
        return {row["bin_ms"]: row["excess"] for row in rows}

    def verdicts(self, trace_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The verdicts on traces by their ids, as far as there are any."""
        rows = self._rows(
            """
            select
                trace_id,
                span_count,
                anomaly_score,
                threshold,
                culprit_service_name,
                culprit_operation
            from trace_verdicts
            where trace_id = any($trace_ids)
            """,
            trace_ids=list(trace_ids),
        )
        return {row["trace_id"]: row for row in rows}
