-- grain: one (window, workload, attribute, value, currency) a row
create temporary view unit_costs_by_attribute_rows as
select
    ${unit_costs_by_attribute}
from ranked, lateral table(unit_cost_by_attribute_rows(payload)) as sent (
    ${unit_costs_by_attribute_sent}
)
where kind = 'unit_costs_by_attribute'
