-- What is restated as a whole names its own columns: a new column of the job's tables is an "alter table" and its
-- comment, and no list here. See udfs/pure/contract.py.

create or replace function anomaly_cost.restate() returns trigger
language plpgsql
set timezone = 'UTC'
as $$
-- The rows name their columns; what the table has no column for is left out. Times come in ms since 1970, JSON as its
-- text, arrays as JSON, and all else as PostgreSQL reads it.
declare
    target regclass := case new.kind
        when 'ranked' then 'public.ranked_anomalies'
        when 'allocations' then 'public.cost_allocations'
        when 'charge_anomalies' then 'public.charge_anomalies'
    end;
    names text;
    expressions text;
begin
    if target is null then
        raise invalid_parameter_value using message = format('restated: kind is %s', new.kind);
    end if;

    execute format(
        'delete from %s where window_start = $1 %s', target,
        case when new.kind <> 'ranked' then 'and resource_id = $2' end
    ) using to_timestamp(new.time_ms / 1000.0), new.event_key;

    select
        string_agg(quote_ident(columns.attname), ', '),
        string_agg(
            case
                when columns.atttypid = 'timestamptz'::regtype
                    then format('to_timestamp((sent ->> %L)::bigint / 1000.0)', sent.name)
                when columns.atttypid = 'text[]'::regtype
                    then format(
                        'case when sent -> %1$L <> ''null'' then array(select jsonb_array_elements_text(sent -> %1$L)) end',
                        sent.name
                    )
                else format('(sent ->> %L)::%s', sent.name, columns.atttypid::regtype)
            end,
            ', '
        )
    into names, expressions
    from jsonb_object_keys(new.rows -> 0) as sent (name)
    join pg_attribute as columns
        on columns.attrelid = target and columns.attname = sent.name and not columns.attisdropped;

    if names is not null then
        execute format(
            'insert into %s (%s) select %s from jsonb_array_elements($1) as sent', target, names, expressions
        ) using new.rows;
    end if;
    return null;
end
$$;

-- Comments that say more, or say it more plainly.
comment on column public.ranked_anomalies.cost_weighted_score is
    'S = sign(c_s) * anomaly_score * ln(1 + |c_s|), c_s = attributed_cost';
comment on column public.ranked_anomalies.threshold is
    'Theta: the mean of the thresholds that its anomalous traces exceeded';
comment on column public.ranked_anomalies.total_traces is
    'Traces of the window that the culprit took part in';
comment on column public.ranked_anomalies.attributed_cost is
    'c_s: what the culprit cost in the window, in billing_currency';
comment on column public.ranked_anomalies.excess_cost is
    'Cost above what it would have been without the anomaly, negative where it cost less; null where no price is known';
comment on column public.ranked_anomalies.projected_monthly_cost is
    'excess_cost of 30 days in which the anomaly recurs as often as it did; null where that is unknown';
comment on column public.ranked_anomalies.cost_status is
    'provisional (before the bill), billed, or corrected (by a later bill)';
comment on column public.ranked_anomalies.explanation is
    'Every factor from which attributed_cost and cost_weighted_score can be recomputed; in the shape of FOCUS AllocatedMethodDetails, plus usage and charges';
comment on column public.trace_verdicts.anomaly_score is
    'How far the trace is off; compare it with threshold';
comment on column public.trace_verdicts.culprit_service_name is
    'Workload at fault; null where the trace is not anomalous';
comment on column public.trace_verdicts.culprit_operation is
    'Name of the span at fault; null where the trace is not anomalous';
comment on column public.cost_allocations.dimension is
    'What of the resource is charged, for example cpu; other where the charge is for none of them';
comment on column public.cost_allocations.otel_service_name is
    'The workload (service.name); __idle__ for what nobody used, __system__ for what the cluster itself used, __unallocated__ for what belongs to no known workload';
comment on column public.cost_allocations.usage is
    'Its usage in the window, in the dimension''s unit (core-seconds of cpu); null where none was measured';
comment on column public.cost_allocations.cost_status is
    'provisional (before the bill), billed, or corrected (by a later bill)';
comment on column public.charge_anomalies.dimension is
    'What of the resource is charged, for example cpu; other where the charge is for none of them';
comment on column public.charge_anomalies.expected_cost is
    'The cost that earlier days lead one to expect, in billing_currency';
comment on column public.rejected_records.stream is
    'The input it came by: otlp_spans, otlp_metrics, otlp_logs or focus_charges';
comment on column public.rejected_records.event_time is
    'The record''s own time; null where it has none';
comment on table public.rejected_records is
    'Every input record that could not be used, once, with a reason that a person can act on. A row is a stream, reason and payload.';
