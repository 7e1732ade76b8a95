-- Which windows still wait for their bill, since when, and which were corrected?
-- Grain: one row per window, resource, currency and status (provisional or corrected), the oldest first.
-- Tables: cost_allocations. age_hours is from the window's end to that of the latest window, in event time:
-- how long a bill that comes now would have taken.
-- Run on DuckDB 2.0 and PostgreSQL 15; on Flink SQL it is the view of this name in sql/client/init.sql.
with latest as (
    select max(window_start) as last_window
    from cost_allocations
)
select
    allocations.cost_status,
    allocations.window_start,
    allocations.resource_id,
    allocations.billing_currency,
    extract(epoch from max(latest.last_window) - allocations.window_start) / 3600.0 as age_hours,
    count(distinct allocations.dimension) as dimensions,
    sum(allocations.allocated_cost) as cost
from cost_allocations as allocations
cross join latest
where allocations.cost_status in ('provisional', 'corrected')
group by
    allocations.cost_status, allocations.window_start, allocations.resource_id, allocations.billing_currency
order by
    allocations.cost_status desc, allocations.window_start, allocations.resource_id, allocations.billing_currency;
