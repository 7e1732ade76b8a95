-- What does each service cost today, against the same hours of the day before?
-- Grain: one row per service and currency. The day is that of the latest window; the day before counts as
-- far as the day has come, so that a day half over is compared with half a day.
-- Tables: cost_allocations, provisional rows included; provisional_cost says how much of the day that is.
-- change is NULL where the service cost nothing the day before.
-- Time zone of the session: UTC. Run on DuckDB 2.0 and PostgreSQL 15; on Flink SQL it is the view of this name in
-- sql/client/init.sql.
with bounds as (
    select max(window_start) as last_window, cast(max(window_start) as date) as day
    from cost_allocations
),
summed as (
    select
        bounds.day,
        allocations.otel_service_name,
        allocations.billing_currency,
        sum(case when cast(allocations.window_start as date) = bounds.day then allocated_cost else 0 end) as cost,
        sum(case when cast(allocations.window_start as date) < bounds.day then allocated_cost else 0 end)
            as cost_the_day_before,
        sum(case
            when cast(allocations.window_start as date) = bounds.day and cost_status = 'provisional'
            then allocated_cost else 0
        end) as provisional_cost
    from cost_allocations as allocations
    cross join bounds
    where cast(allocations.window_start as date) = bounds.day
        or (
            cast(allocations.window_start as date) < bounds.day
            and cast(allocations.window_start + interval '1' day as date) = bounds.day
            and allocations.window_start + interval '1' day <= bounds.last_window
        )
    group by bounds.day, allocations.otel_service_name, allocations.billing_currency
)
select
    day,
    otel_service_name,
    billing_currency,
    cost,
    cost_the_day_before,
    cost - cost_the_day_before as difference,
    cast(cost - cost_the_day_before as double precision)
        / cast(nullif(abs(cost_the_day_before), 0) as double precision) as change,
    provisional_cost
from summed
order by billing_currency, abs(cost - cost_the_day_before) desc, otel_service_name;
