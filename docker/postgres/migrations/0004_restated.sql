-- What is restated as a whole: the job sends all rows of a window (of a resource and window, for costs) at once, and
-- they take the place of those that stood there, in one transaction. So a reader never sees half of a new ranking,
-- and a row that the job had sent before it was killed, and doesn't send again after it, goes with the next sending.

create table anomaly_cost.restated (
    kind text not null,
    time_ms bigint not null,
    event_key text not null,
    rows jsonb not null,
    primary key (kind, time_ms, event_key)
);

comment on table anomaly_cost.restated is
    'The way into the tables that are restated as a whole; always empty: a row written here replaces rows there';
comment on column anomaly_cost.restated.kind is 'ranked, allocations or charge_anomalies';
comment on column anomaly_cost.restated.time_ms is 'Start of the window, in ms since 1970 UTC';
comment on column anomaly_cost.restated.event_key is 'The resource; empty for ranked';
comment on column anomaly_cost.restated.rows is 'All rows of the table that the window (and resource) has now; times in ms';

create function anomaly_cost.restate() returns trigger
language plpgsql
set timezone = 'UTC'
as $$
declare
    restated_window timestamptz(3) := to_timestamp(new.time_ms / 1000.0);
begin
    case new.kind
    when 'ranked' then
        delete from public.ranked_anomalies where window_start = restated_window;
        insert into public.ranked_anomalies
        select
            anomaly_id, to_timestamp(window_start / 1000.0), to_timestamp(window_end / 1000.0), otel_service_name, rank,
            cost_weighted_score, anomaly_score, threshold, anomalous_traces, total_traces, attributed_cost, excess_cost,
            projected_monthly_cost, billing_currency, cost_status, anomaly_kind, affected_services,
            exemplar_trace_ids, explanation::jsonb, model_version, to_timestamp(updated_at / 1000.0)
        from jsonb_to_recordset(new.rows) as sent (
            anomaly_id text, window_start bigint, window_end bigint, otel_service_name text, rank bigint,
            cost_weighted_score double precision, anomaly_score double precision, threshold double precision,
            anomalous_traces bigint, total_traces bigint, attributed_cost numeric(28, 12), excess_cost numeric(28, 12),
            projected_monthly_cost numeric(28, 12), billing_currency text, cost_status text, anomaly_kind text,
            affected_services text[], exemplar_trace_ids text[], explanation text, model_version text,
            updated_at bigint
        );
    when 'allocations' then
        delete from public.cost_allocations
        where window_start = restated_window and resource_id = new.event_key;
        insert into public.cost_allocations
        select
            to_timestamp(window_start / 1000.0), resource_id, dimension, otel_service_name, usage, total_usage, share,
            resource_cost, allocated_cost, billing_currency, cost_status
        from jsonb_to_recordset(new.rows) as sent (
            window_start bigint, resource_id text, dimension text, otel_service_name text, usage double precision,
            total_usage double precision, share double precision, resource_cost numeric(28, 12),
            allocated_cost numeric(28, 12), billing_currency text, cost_status text
        );
    when 'charge_anomalies' then
        delete from public.charge_anomalies
        where window_start = restated_window and resource_id = new.event_key;
        insert into public.charge_anomalies
        select
            to_timestamp(window_start / 1000.0), resource_id, dimension, to_timestamp(window_end / 1000.0),
            billed_cost, expected_cost, anomaly_score, billing_currency
        from jsonb_to_recordset(new.rows) as sent (
            window_start bigint, resource_id text, dimension text, window_end bigint, billed_cost numeric(28, 12),
            expected_cost numeric(28, 12), anomaly_score double precision, billing_currency text
        );
    else
        raise invalid_parameter_value using message = format('restated: kind is %s', new.kind);
    end case;
    return null;
end
$$;

comment on function anomaly_cost.restate() is 'Puts the rows in the place of those of their window and resource';

create trigger restate before insert on anomaly_cost.restated
for each row execute function anomaly_cost.restate();

-- A trace has one row: a span that comes late may move its start, which is part of the key for the partitions' sake.
create function anomaly_cost.move_verdict() returns trigger
language plpgsql
as $$
begin
    delete from public.trace_verdicts
    where trace_id = new.trace_id
        and start_time <> new.start_time
        and start_time between new.start_time - interval '1 day' and new.start_time + interval '1 day';
    return new;
end
$$;

comment on function anomaly_cost.move_verdict() is 'Takes away the row that a trace had under another start';

create trigger move_verdict before insert on public.trace_verdicts
for each row execute function anomaly_cost.move_verdict();
