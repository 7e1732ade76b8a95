-- Irregularities in the bill itself, found without traces.
-- grain: one (window, resource, dimension, currency) a row; key: these four
create temporary table ${output}charge_anomalies (
    window_start timestamp_ltz(3) not null,
    resource_id string not null,
    dimension string not null,
    window_end timestamp_ltz(3),
    billed_cost decimal(28, 12),
    expected_cost decimal(28, 12),
    anomaly_score double,
    billing_currency string not null,
    primary key (window_start, resource_id, dimension, billing_currency) not enforced
) with (
    ${options}
)
