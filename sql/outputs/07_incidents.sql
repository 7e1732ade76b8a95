-- grain: one (culprit, currency, run of windows) a row
create temporary view incidents_rows as
select
    ${incidents}
from followed, lateral table(incident_rows(payload)) as sent (
    ${incidents_sent}
)
where kind = 'incidents'
