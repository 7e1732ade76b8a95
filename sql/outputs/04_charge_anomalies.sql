-- grain: one (window, resource, dimension, currency) a row
create temporary view charge_anomalies_rows as
select
    ${charge_anomalies}
from attributed, lateral table(charge_anomaly_rows(payload)) as sent (
    ${charge_anomalies_sent}
)
where kind = 'charge_anomalies'
