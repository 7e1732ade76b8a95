-- The tables of results: keys as in sql/sinks, types as Flink's, times in UTC, money as billed.
-- What grows with traffic is partitioned by month; the partitions lie in the schema anomaly_cost, out of sight.

create table public.ranked_anomalies (
    anomaly_id text primary key,
    window_start timestamptz(3),
    window_end timestamptz(3),
    otel_service_name text,
    rank bigint,
    cost_weighted_score double precision,
    anomaly_score double precision,
    threshold double precision,
    anomalous_traces bigint,
    total_traces bigint,
    attributed_cost numeric(28, 12),
    excess_cost numeric(28, 12),
    projected_monthly_cost numeric(28, 12),
    billing_currency text,
    cost_status text,
    anomaly_kind text,
    affected_services text[],
    exemplar_trace_ids text[],
    explanation jsonb,
    model_version text,
    updated_at timestamptz(3)
);

create index ranked_anomalies_window on public.ranked_anomalies (window_start, rank);
create index ranked_anomalies_service on public.ranked_anomalies (otel_service_name, window_start);
create index ranked_anomalies_kind on public.ranked_anomalies (anomaly_kind, window_start);

comment on table public.ranked_anomalies is
    'What each anomaly costs and which to deal with first. A row is a window, culprit and currency.';
comment on column public.ranked_anomalies.anomaly_id is 'Made of window, culprit and currency; the same in every run';
comment on column public.ranked_anomalies.window_start is 'Start of the half hour, inclusive; a trace belongs to the window in which its first span starts';
comment on column public.ranked_anomalies.window_end is 'End of the half hour, exclusive';
comment on column public.ranked_anomalies.otel_service_name is 'The culprit: the workload (service.name) at fault';
comment on column public.ranked_anomalies.rank is 'Within the window and currency; 1 = deal with this first';
comment on column public.ranked_anomalies.cost_weighted_score is 'S = anomaly_score * log(1 + attributed_cost), natural logarithm';
comment on column public.ranked_anomalies.anomaly_score is 'Alpha: mean score of its anomalous traces * log2(1 + their number)';
comment on column public.ranked_anomalies.threshold is 'Theta: what its anomalous traces had to exceed, on average';
comment on column public.ranked_anomalies.anomalous_traces is 'Anomalous traces of the window with this culprit';
comment on column public.ranked_anomalies.total_traces is 'Traces of the window that the service has part in';
comment on column public.ranked_anomalies.attributed_cost is 'c_s: what the service cost in the window, in billing_currency';
comment on column public.ranked_anomalies.excess_cost is 'Cost above what would have been without the anomaly, negative where it cost less; null where no price is known';
comment on column public.ranked_anomalies.projected_monthly_cost is 'excess_cost of 30 days in which it comes as often as it did; null where that is unknown';
comment on column public.ranked_anomalies.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.ranked_anomalies.cost_status is 'provisional (before the bill), billed, or corrected (restated by a later bill)';
comment on column public.ranked_anomalies.anomaly_kind is 'What kind of fault it looks like';
comment on column public.ranked_anomalies.affected_services is 'Other workloads in its anomalous traces, the most frequent first';
comment on column public.ranked_anomalies.exemplar_trace_ids is 'Its traces of the highest score; trace_id of trace_verdicts';
comment on column public.ranked_anomalies.explanation is 'Every factor from which attributed_cost and cost_weighted_score can be recomputed; JSON in the shape of FOCUS AllocatedMethodDetails';
comment on column public.ranked_anomalies.model_version is 'The detector that judged';
comment on column public.ranked_anomalies.updated_at is 'Event time: end of the window, or of the latest charge period that the row rests on';

create table public.trace_verdicts (
    trace_id text not null,
    start_time timestamptz(3) not null,
    root_service_name text,
    root_operation text,
    span_count bigint,
    anomaly_score double precision,
    threshold double precision,
    is_anomalous boolean,
    culprit_service_name text,
    culprit_operation text,
    anomaly_kind text,
    model_version text,
    verdict_state text,
    -- start_time stands in it for the partitions' sake; a trace has one row.
    primary key (trace_id, start_time)
) partition by range (start_time);

create table anomaly_cost.trace_verdicts_default partition of public.trace_verdicts default;

create index trace_verdicts_start on public.trace_verdicts (start_time);
create index trace_verdicts_culprit on public.trace_verdicts (culprit_service_name, start_time) where is_anomalous;
create index trace_verdicts_kind on public.trace_verdicts (anomaly_kind, start_time) where is_anomalous;

comment on table public.trace_verdicts is
    'Whether a trace is anomalous, by how much, and whose fault it is. A row is a trace; partitioned by month.';
comment on column public.trace_verdicts.trace_id is 'OpenTelemetry trace id, 32 hex digits in lower case';
comment on column public.trace_verdicts.start_time is 'Start of its first span';
comment on column public.trace_verdicts.root_service_name is 'Workload (service.name) of its root span';
comment on column public.trace_verdicts.root_operation is 'Name of its root span';
comment on column public.trace_verdicts.span_count is 'Spans that arrived, each counted once';
comment on column public.trace_verdicts.anomaly_score is 'How far the trace is off; to be compared with threshold';
comment on column public.trace_verdicts.threshold is 'Theta: the score from which on a trace counts as anomalous';
comment on column public.trace_verdicts.is_anomalous is 'The verdict';
comment on column public.trace_verdicts.culprit_service_name is 'Workload whose fault it is; null where the trace is not anomalous';
comment on column public.trace_verdicts.culprit_operation is 'Span name at fault; null where the trace is not anomalous';
comment on column public.trace_verdicts.anomaly_kind is 'What kind of fault it looks like; null where the trace is not anomalous';
comment on column public.trace_verdicts.model_version is 'The detector that judged';
comment on column public.trace_verdicts.verdict_state is 'warming (the detector had seen too little to judge) or ready';

create table public.cost_allocations (
    window_start timestamptz(3) not null,
    resource_id text not null,
    dimension text not null,
    otel_service_name text not null,
    usage double precision,
    total_usage double precision,
    share double precision,
    resource_cost numeric(28, 12),
    allocated_cost numeric(28, 12),
    billing_currency text not null,
    cost_status text,
    primary key (window_start, resource_id, dimension, otel_service_name, billing_currency)
) partition by range (window_start);

create table anomaly_cost.cost_allocations_default partition of public.cost_allocations default;

create index cost_allocations_service on public.cost_allocations (otel_service_name, window_start);
create index cost_allocations_resource on public.cost_allocations (resource_id, window_start);
create index cost_allocations_provisional on public.cost_allocations (window_start) where cost_status = 'provisional';

comment on table public.cost_allocations is
    'Who each charge goes to; the sum of allocated_cost is the sum of the accepted charges. A row is a window, resource, dimension, workload and currency; partitioned by month.';
comment on column public.cost_allocations.window_start is 'Start of the half hour, inclusive';
comment on column public.cost_allocations.resource_id is 'FOCUS ResourceId; __no_resource__ for charges without one';
comment on column public.cost_allocations.dimension is 'What of the resource is charged: cpu, memory, io, network';
comment on column public.cost_allocations.otel_service_name is 'The workload (service.name); __idle__ for what nobody used, __unallocated__ for what can be tied to none';
comment on column public.cost_allocations.usage is 'Its usage in the window: core-seconds, byte-seconds, operations or bytes; null where none was measured';
comment on column public.cost_allocations.total_usage is 'Usage of the resource by all workloads in the window; null where it was not measured';
comment on column public.cost_allocations.share is 'The part of resource_cost that it bears, 0 to 1';
comment on column public.cost_allocations.resource_cost is 'What the resource and dimension cost in the window, in billing_currency';
comment on column public.cost_allocations.allocated_cost is 'share of resource_cost, the last decimal by largest remainder';
comment on column public.cost_allocations.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.cost_allocations.cost_status is 'provisional (before the bill), billed, or corrected (restated by a later bill)';

create table public.charge_anomalies (
    window_start timestamptz(3) not null,
    resource_id text not null,
    dimension text not null,
    window_end timestamptz(3),
    billed_cost numeric(28, 12),
    expected_cost numeric(28, 12),
    anomaly_score double precision,
    billing_currency text not null,
    primary key (window_start, resource_id, dimension, billing_currency)
);

create index charge_anomalies_resource on public.charge_anomalies (resource_id, window_start);

comment on table public.charge_anomalies is
    'Irregularities in the bill itself, found without traces. A row is a window, resource, dimension and currency.';
comment on column public.charge_anomalies.window_start is 'Start of the half hour, inclusive';
comment on column public.charge_anomalies.resource_id is 'FOCUS ResourceId';
comment on column public.charge_anomalies.dimension is 'What of the resource is charged: cpu, memory, io, network';
comment on column public.charge_anomalies.window_end is 'End of the half hour, exclusive';
comment on column public.charge_anomalies.billed_cost is 'What was billed for the window, in billing_currency';
comment on column public.charge_anomalies.expected_cost is 'What the days before let expect, in billing_currency';
comment on column public.charge_anomalies.anomaly_score is 'How far billed_cost is from expected_cost, as a robust z-score';
comment on column public.charge_anomalies.billing_currency is 'Currency of every amount of the row, ISO 4217';

create table public.rejected_records (
    record_id text primary key,
    stream text,
    reason text,
    payload text,
    event_time timestamptz(3),
    rejected_at timestamptz(3)
);

create index rejected_records_time on public.rejected_records (rejected_at);
create index rejected_records_stream on public.rejected_records (stream, rejected_at);

comment on table public.rejected_records is
    'Every input record that could not be used, once. A row is a stream, reason and payload.';
comment on column public.rejected_records.record_id is 'Hash of stream, reason and payload';
comment on column public.rejected_records.stream is 'The input it came by: otlp_spans, otlp_metrics, otlp_logs, focus_charges';
comment on column public.rejected_records.reason is 'Why it could not be used, and what to do';
comment on column public.rejected_records.payload is 'The record as it came; base64 of its start where it is no text';
comment on column public.rejected_records.event_time is 'The time that it tells of itself; null where it tells none';
comment on column public.rejected_records.rejected_at is 'When the job rejected it';

create table public.budgets (
    otel_service_name text not null,
    month date not null check (extract(day from month) = 1),
    amount numeric(28, 12) not null check (amount >= 0),
    billing_currency text not null,
    primary key (otel_service_name, month, billing_currency)
);

comment on table public.budgets is
    'What each service may cost; the user fills it, the job only leaves it alone. A row is a service, month and currency.';
comment on column public.budgets.otel_service_name is 'The workload (service.name)';
comment on column public.budgets.month is 'First day of the month, UTC';
comment on column public.budgets.amount is 'For the whole month, in billing_currency';
comment on column public.budgets.billing_currency is 'ISO 4217';
