-- grain: one (window, resource, dimension) a row
create temporary view charge_anomalies_rows as
select
    to_timestamp_ltz(window_start_ms, 3) as window_start,
    resource_id,
    dimension,
    to_timestamp_ltz(window_end_ms, 3) as window_end,
    cast(billed_cost as decimal(28, 12)) as billed_cost,
    cast(expected_cost as decimal(28, 12)) as expected_cost,
    anomaly_score,
    billing_currency
from attributed, lateral table(charge_anomaly_rows(payload)) as c (
    window_start_ms, resource_id, dimension, window_end_ms, billed_cost, expected_cost,
    anomaly_score, billing_currency
)
where kind = 'charge_anomalies'
