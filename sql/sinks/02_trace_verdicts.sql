-- Whether a trace is anomalous, by how much, and whose fault it is.
-- grain: one trace a row; key: trace_id
create temporary table ${output}trace_verdicts (
    trace_id string not null,
    start_time timestamp_ltz(3),
    root_service_name string,
    root_operation string,
    span_count bigint,
    anomaly_score double,
    threshold double,
    is_anomalous boolean,
    culprit_service_name string,
    culprit_operation string,
    anomaly_kind string,
    model_version string,
    verdict_state string,
    primary key (trace_id) not enforced
) with (
    ${options}
)
