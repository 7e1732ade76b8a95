-- Stream of logs: OTLP ExportLogsServiceRequest, from Kafka.
-- grain: one request a row, protobuf or JSON, told apart by its bytes
-- event time: inside the payload; sent: when Kafka got it, never later than now. Partitions of all three streams are
-- read side by side by it, so that a backlog's traces and usage come together (see KafkaInput.options)
create temporary table otlp_logs (
    line bytes,
    sent timestamp_ltz(3) metadata from 'timestamp' virtual,
    watermark for sent as case when sent > current_timestamp then current_timestamp else sent end
) with (
    ${options}
)
