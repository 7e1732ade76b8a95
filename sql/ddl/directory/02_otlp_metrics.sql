-- Stream of metrics, as a directory holds them.
-- grain: one OTLP ExportMetricsServiceRequest a row (JSON, one a line)
-- event time: inside the payload
create temporary table otlp_metrics (
    line bytes
) with (
    'connector' = 'filesystem',
    'path' = '${input}',
    'source.path.regex-pattern' = '${root}/metrics/[^/]+[.]jsonl([.]gz)?',
    'format' = 'raw'
)
