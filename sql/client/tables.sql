-- The result tables in Flink's SQL client, from the topics that --output kafka://kafka:9092 writes.
--
--     sql-client.sh -i sql/client/tables.sql
--
-- Another broker, for each table that is asked:
--     alter table ranked_anomalies set ('properties.bootstrap.servers' = 'localhost:29092')
-- A query ends at the offsets that stand at its start. To follow the topic instead:
--     alter table ranked_anomalies reset ('scan.bounded.mode')
-- Columns, keys and formats are those of sql/sinks and jobs/sinks.py.

set 'sql-client.execution.result-mode' = 'tableau';
set 'table.local-time-zone' = 'UTC';
set 'table.display.max-column-width' = '100';

-- What each anomaly costs and which to deal with first.
-- grain: one (window, culprit, currency) a row; key: anomaly_id, made of these three
create table ranked_anomalies (
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
    'connector' = 'upsert-kafka',
    'topic' = 'ranked_anomalies',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- Whether a trace is anomalous, by how much, and whose fault it is.
-- grain: one trace a row; key: trace_id
create table trace_verdicts (
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
    'connector' = 'upsert-kafka',
    'topic' = 'trace_verdicts',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- Who each charge goes to. The sum of allocated_cost is the sum of the accepted charges.
-- grain: one (window, resource, dimension, workload, currency) a row; key: these five
-- A resource is billed in one currency as a rule; where it isn't, the currency keeps its rows apart.
create table cost_allocations (
    window_start timestamp_ltz(3) not null,
    resource_id string not null,
    dimension string not null,
    otel_service_name string not null,
    usage double,
    total_usage double,
    share double,
    resource_cost decimal(28, 12),
    allocated_cost decimal(28, 12),
    billing_currency string not null,
    cost_status string,
    primary key (window_start, resource_id, dimension, otel_service_name, billing_currency) not enforced
) with (
    'connector' = 'upsert-kafka',
    'topic' = 'cost_allocations',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- Irregularities in the bill itself, found without traces.
-- grain: one (window, resource, dimension, currency) a row; key: these four
create table charge_anomalies (
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
    'connector' = 'upsert-kafka',
    'topic' = 'charge_anomalies',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- Every input record that could not be used, once, with a reason that a person can act on.
-- grain: one (stream, reason, payload) a row; key: these three
create table rejected_records (
    `stream` string not null,
    reason string not null,
    payload string not null,
    event_time timestamp_ltz(3),
    rejected_at timestamp_ltz(3),
    primary key (`stream`, reason, payload) not enforced
) with (
    'connector' = 'upsert-kafka',
    'topic' = 'rejected_records',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);
