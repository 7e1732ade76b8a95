-- Stream of spans, as the run's folder of links to files holds them (jobs/telemetry.py).
-- grain: one OTLP ExportTraceServiceRequest a row (JSON, one a line; .gz is read as it is)
-- event time: inside the payload, so no watermark here; order of files and lines means nothing
create temporary table otlp_spans (
    line bytes
) with (
    'connector' = 'filesystem',
    'path' = '${input}/traces',
    'format' = 'raw'
)
