-- Every input record that could not be used, once, with a reason that a person can act on.
-- grain: one (stream, reason, payload) a row
create temporary table rejected_records (
    `stream` string,
    reason string,
    payload string,
    event_time timestamp_ltz(3),
    rejected_at timestamp_ltz(3)
) with (
    ${rejected_records}
)
