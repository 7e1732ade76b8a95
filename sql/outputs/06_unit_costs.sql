-- grain: one (window, workload, kind of request, currency) a row
create temporary view unit_costs_rows as
select
    ${unit_costs}
from ranked, lateral table(unit_cost_rows(payload)) as sent (
    ${unit_costs_sent}
)
where kind = 'unit_costs'
