-- What each anomaly costs and which to deal with first.
-- grain: one (window, culprit, currency) a row; key: anomaly_id, made of these three
create temporary table ${output}ranked_anomalies (
    anomaly_id string not null,
    window_start timestamp_ltz(3),
    window_end timestamp_ltz(3),
    otel_service_name string,
    `rank` bigint,
    cost_weighted_score double,
    anomaly_score double,
    threshold double,
    anomalous_traces bigint,
    total_traces bigint,
    attributed_cost decimal(28, 12),
    excess_cost decimal(28, 12),
    projected_monthly_cost decimal(28, 12),
    billing_currency string,
    cost_status string,
    anomaly_kind string,
    affected_services array<string>,
    exemplar_trace_ids array<string>,
    explanation string,
    model_version string,
    updated_at timestamp_ltz(3),
    primary key (anomaly_id) not enforced
) with (
    ${options}
)
