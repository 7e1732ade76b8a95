-- grain: one (window, culprit, currency) a row
create temporary view ranked_anomalies_rows as
select
    anomaly_id,
    to_timestamp_ltz(window_start_ms, 3) as window_start,
    to_timestamp_ltz(window_end_ms, 3) as window_end,
    otel_service_name,
    `rank`,
    cost_weighted_score,
    anomaly_score,
    threshold,
    anomalous_traces,
    total_traces,
    cast(attributed_cost as decimal(28, 12)) as attributed_cost,
    cast(excess_cost as decimal(28, 12)) as excess_cost,
    cast(projected_monthly_cost as decimal(28, 12)) as projected_monthly_cost,
    billing_currency,
    cost_status,
    anomaly_kind,
    affected_services,
    exemplar_trace_ids,
    explanation,
    model_version,
    to_timestamp_ltz(updated_at_ms, 3) as updated_at
from ranked, lateral table(ranked_rows(payload)) as r (
    anomaly_id, window_start_ms, window_end_ms, otel_service_name, `rank`, cost_weighted_score,
    anomaly_score, threshold, anomalous_traces, total_traces, attributed_cost, excess_cost,
    projected_monthly_cost, billing_currency, cost_status, anomaly_kind, affected_services,
    exemplar_trace_ids, explanation, model_version, updated_at_ms
)
