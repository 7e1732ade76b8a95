-- Every input record that could not be used, once, with a reason that a person can act on.
-- grain: one (stream, reason, payload) a row; key: these three
create temporary table ${output}rejected_records (
    `stream` string not null,
    reason string not null,
    payload string not null,
    event_time timestamp_ltz(3),
    rejected_at timestamp_ltz(3),
    primary key (`stream`, reason, payload) not enforced
) with (
    ${options}
)
