-- grain: one (window, resource, dimension, workload) a row
create temporary view cost_allocations_rows as
select
    to_timestamp_ltz(window_start_ms, 3) as window_start,
    resource_id,
    dimension,
    otel_service_name,
    usage,
    total_usage,
    share,
    cast(resource_cost as decimal(28, 12)) as resource_cost,
    cast(allocated_cost as decimal(28, 12)) as allocated_cost,
    billing_currency,
    cost_status
from attributed, lateral table(allocation_rows(payload)) as a (
    window_start_ms, resource_id, dimension, otel_service_name, usage, total_usage, share,
    resource_cost, allocated_cost, billing_currency, cost_status
)
where kind = 'allocations'
