-- Stream of logs, as the run's folder of links to files holds them (jobs/telemetry.py); a user may have none.
-- grain: one OTLP ExportLogsServiceRequest a row (JSON, one a line)
-- event time: inside the payload
create temporary table otlp_logs (
    line bytes
) with (
    'connector' = 'filesystem',
    'path' = '${input}/logs',
    'format' = 'raw'
)
