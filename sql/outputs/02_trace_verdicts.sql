-- grain: one trace a row
create temporary view trace_verdicts_rows as
select
    ${trace_verdicts}
from verdicts, lateral table(verdict_rows(payload)) as sent (
    ${trace_verdicts_sent}
)
where kind = 'verdicts'
