-- Stream of spans, as a directory holds them.
-- grain: one OTLP ExportTraceServiceRequest a row (JSON, one a line; .gz is read as it is)
-- event time: inside the payload, so no watermark here; order of files and lines means nothing
create temporary table otlp_spans (
    line bytes
) with (
    'connector' = 'filesystem',
    'path' = '${input}',
    'source.path.regex-pattern' = '${root}/traces/[^/]+[.]jsonl([.]gz)?',
    'format' = 'raw'
)
