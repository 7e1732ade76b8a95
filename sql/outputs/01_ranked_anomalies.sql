-- grain: one (window, culprit, currency) a row
create temporary view ranked_anomalies_rows as
select
    ${ranked_anomalies}
from ranked, lateral table(ranked_rows(payload)) as sent (
    ${ranked_anomalies_sent}
)
where kind = 'ranked'
