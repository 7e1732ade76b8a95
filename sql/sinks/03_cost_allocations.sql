-- Who each charge goes to. The sum of allocated_cost is the sum of the accepted charges.
-- grain: one (window, resource, dimension, workload, currency) a row; key: these five
-- A resource is billed in one currency as a rule; where it isn't, the currency keeps its rows apart.
create temporary table ${output}cost_allocations (
    window_start timestamp_ltz(3) not null,
    resource_id string not null,
    dimension string not null,
    otel_service_name string not null,
    usage double,
    total_usage double,
    share double,
    resource_cost decimal(28, 12),
    allocated_cost decimal(28, 12),
    billing_currency string not null,
    cost_status string,
    primary key (window_start, resource_id, dimension, otel_service_name, billing_currency) not enforced
) with (
    ${options}
)
