-- grain: one (stream, reason, payload) a row
create temporary view rejected_records_rows as
select
    `stream`,
    reason,
    payload,
    to_timestamp_ltz(event_time_ms, 3) as event_time,
    to_timestamp_ltz(${rejected_at_ms}, 3) as rejected_at
from rejects
