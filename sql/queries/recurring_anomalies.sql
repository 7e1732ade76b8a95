-- Which anomalies come again, and what do they cost if they go on?
-- Grain: one row per culprit, kind and currency.
-- Tables: ranked_anomalies, cost_allocations (for the time that was observed).
-- An occurrence is a run of windows without a gap. excess_to_date is signed and sums what is known,
-- windows_without_excess counts the others. excess_per_30_days is its share of the observed time
-- times 30 days, projected_monthly_cost what the job said last.
-- Run on DuckDB 2.0 and PostgreSQL 15, not on Flink SQL (day and rank are reserved words there).
with observed as (
    select extract(epoch from max(window_start) - min(window_start)) / 86400.0 + 1 / 48.0 as days
    from (
        select window_start from cost_allocations
        union all
        select window_start from ranked_anomalies
    ) as windows
),
marked as (
    select
        window_start,
        window_end,
        otel_service_name,
        anomaly_kind,
        billing_currency,
        attributed_cost,
        excess_cost,
        projected_monthly_cost,
        lag(window_end) over (
            partition by otel_service_name, anomaly_kind, billing_currency order by window_start
        ) as last_end,
        row_number() over (
            partition by otel_service_name, anomaly_kind, billing_currency order by window_start desc
        ) as from_last
    from ranked_anomalies
)
select
    marked.otel_service_name,
    marked.anomaly_kind,
    marked.billing_currency,
    sum(case when marked.last_end = marked.window_start then 0 else 1 end) as occurrences,
    count(*) as windows,
    count(distinct cast(marked.window_start as date)) as days,
    min(marked.window_start) as first_window,
    max(marked.window_start) as last_window,
    sum(marked.attributed_cost) as attributed_to_date,
    sum(marked.excess_cost) as excess_to_date,
    count(*) - count(marked.excess_cost) as windows_without_excess,
    cast(sum(marked.excess_cost) * 30 / max(observed.days) as decimal(28, 12)) as excess_per_30_days,
    max(case when marked.from_last = 1 then marked.projected_monthly_cost end) as projected_monthly_cost
from marked
cross join observed
group by marked.otel_service_name, marked.anomaly_kind, marked.billing_currency
order by
    marked.billing_currency,
    sum(marked.excess_cost) desc nulls last,
    sum(marked.attributed_cost) desc,
    marked.otel_service_name,
    marked.anomaly_kind;
