-- What went wrong today, the dearest first?
-- Grain: one row per culprit, kind and currency, at most ten a currency, of the day of the latest window.
-- Tables: ranked_anomalies. excess_cost is NULL where none of its windows has one. trace_id is the most
-- anomalous trace of the culprit's worst window.
-- Time zone of the session: UTC. Run on DuckDB 2.0 and PostgreSQL 15; on Flink SQL it is the view of this name in
-- sql/client/init.sql.
with of_day as (
    select
        ranked_anomalies.*,
        row_number() over (
            partition by otel_service_name, anomaly_kind, billing_currency
            order by anomaly_score desc, window_start
        ) as from_worst
    from ranked_anomalies
    where cast(window_start as date) = (select cast(max(window_start) as date) from ranked_anomalies)
),
summed as (
    select
        cast(min(window_start) as date) as day,
        billing_currency,
        otel_service_name,
        anomaly_kind,
        count(*) as windows,
        sum(anomalous_traces) as anomalous_traces,
        sum(excess_cost) as excess_cost,
        sum(attributed_cost) as attributed_cost,
        max(cost_weighted_score) as cost_weighted_score,
        min(case when from_worst = 1 then exemplar_trace_ids[1] end) as trace_id,
        sum(case when cost_status = 'provisional' then 1 else 0 end) as provisional_windows
    from of_day
    group by billing_currency, otel_service_name, anomaly_kind
),
placed as (
    select
        day,
        billing_currency,
        row_number() over (
            partition by billing_currency
            order by excess_cost desc nulls last, cost_weighted_score desc, otel_service_name, anomaly_kind
        ) as place,
        otel_service_name,
        anomaly_kind,
        windows,
        anomalous_traces,
        excess_cost,
        attributed_cost,
        cost_weighted_score,
        trace_id,
        provisional_windows
    from summed
)
select *
from placed
where place <= 10
order by billing_currency, place;
