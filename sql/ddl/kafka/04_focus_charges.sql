-- Stream of charges, from Kafka.
-- grain: one FOCUS row a row, a JSON object; delivered: when, which tells a snapshot from the one before it
create temporary table focus_charges (
    line bytes,
    delivered timestamp_ltz(3) metadata from 'timestamp' virtual
) with (
    ${options}
)
