-- grain: one trace a row
create temporary view trace_verdicts_rows as
select
    trace_id,
    to_timestamp_ltz(start_time_ms, 3) as start_time,
    root_service_name,
    root_operation,
    span_count,
    anomaly_score,
    threshold,
    is_anomalous,
    culprit_service_name,
    culprit_operation,
    anomaly_kind,
    model_version,
    verdict_state
from verdicts, lateral table(verdict_rows(payload)) as v (
    trace_id, start_time_ms, root_service_name, root_operation, span_count, anomaly_score,
    threshold, is_anomalous, culprit_service_name, culprit_operation, anomaly_kind, model_version,
    verdict_state
)
where kind = 'verdicts'
