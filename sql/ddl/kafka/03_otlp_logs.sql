-- Stream of logs: OTLP ExportLogsServiceRequest, from Kafka.
-- grain: one request a row, protobuf or JSON, told apart by its bytes
-- event time: inside the payload, so no watermark here; an idle partition holds nothing back
create temporary table otlp_logs (
    line bytes
) with (
    ${otlp_logs}
)
