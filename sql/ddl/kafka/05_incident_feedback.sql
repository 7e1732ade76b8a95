-- Stream of what people and programs say of incidents, from Kafka.
-- grain: one thing said a row, a JSON object
create temporary table incident_feedback (
    line bytes
) with (
    ${options}
)
