-- grain: one (window, resource, dimension, workload, currency) a row
create temporary view cost_allocations_rows as
select
    ${cost_allocations}
from attributed, lateral table(allocation_rows(payload)) as sent (
    ${cost_allocations_sent}
)
where kind = 'allocations'
