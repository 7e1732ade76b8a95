-- Stream of logs, as a directory holds them; a user may have none.
-- grain: one OTLP ExportLogsServiceRequest a row (JSON, one a line)
-- event time: inside the payload
create temporary table otlp_logs (
    line bytes
) with (
    'connector' = 'filesystem',
    'path' = '${input}',
    'source.path.regex-pattern' = '${root}/logs/[^/]+[.]jsonl([.]gz)?',
    'format' = 'raw'
)
