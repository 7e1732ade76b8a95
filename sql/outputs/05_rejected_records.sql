-- grain: one (stream, reason, payload) a row
create temporary view rejected_records_rows as
select
    ${rejected_records}
from (select *, ${rejected_at_ms} as rejected_at_ms from rejects)
