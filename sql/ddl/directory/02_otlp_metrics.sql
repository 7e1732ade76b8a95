-- Stream of metrics, as the run's folder of links to files holds them (jobs/telemetry.py).
-- grain: one OTLP ExportMetricsServiceRequest a row (JSON, one a line)
-- event time: inside the payload
create temporary table otlp_metrics (
    line bytes
) with (
    'connector' = 'filesystem',
    'path' = '${input}/metrics',
    'format' = 'raw'
)
