-- Who each charge goes to. The sum of allocated_cost is the sum of the accepted charges.
-- grain: one (window, resource, dimension, workload) a row; key: these four
create temporary table cost_allocations (
    window_start timestamp_ltz(3) not null,
    resource_id string not null,
    dimension string not null,
    otel_service_name string not null,
    usage double,
    total_usage double,
    share double,
    resource_cost decimal(28, 12),
    allocated_cost decimal(28, 12),
    billing_currency string,
    cost_status string,
    primary key (window_start, resource_id, dimension, otel_service_name) not enforced
) with (
    ${cost_allocations}
)
