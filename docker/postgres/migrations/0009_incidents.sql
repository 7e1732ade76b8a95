-- What goes on: windows of one culprit that follow each other, as one incident; and what people say of it.

create table public.incidents (
    incident_id text primary key,
    otel_service_name text,
    culprit_operation text,
    anomaly_kind text,
    incident_state text,
    opened_at timestamptz(3),
    last_seen_at timestamptz(3),
    closed_at timestamptz(3),
    windows bigint,
    window_start timestamptz(3),
    window_end timestamptz(3),
    anomalous_minutes bigint,
    anomalous_traces bigint,
    total_traces bigint,
    peak_anomaly_score double precision,
    affected_services text[],
    attributed_cost numeric(28, 12),
    excess_cost numeric(28, 12),
    billed_excess_cost numeric(28, 12),
    excess_cost_per_hour numeric(28, 12),
    projected_monthly_cost numeric(28, 12),
    billing_currency text,
    cost_status text,
    evidence text,
    changes jsonb,
    exemplar_trace_ids text[],
    exemplar_urls text[],
    feedback text,
    feedback_by text,
    feedback_note text,
    is_silenced boolean,
    model_version text,
    updated_at timestamptz(3)
);

create index incidents_opened on public.incidents (opened_at);
create index incidents_open on public.incidents (incident_state, last_seen_at);
create index incidents_service on public.incidents (otel_service_name, opened_at);

comment on table public.incidents is
    'What goes on, or went on: windows of one culprit that follow each other, as one thing to deal with. A row is a culprit, currency and run of windows.';
comment on column public.incidents.incident_id is
    'Made of its first window, culprit and currency; the same in every run';
comment on column public.incidents.otel_service_name is
    'The culprit: the workload (service.name) at fault';
comment on column public.incidents.culprit_operation is
    'Name of the span at fault in most of its traces';
comment on column public.incidents.anomaly_kind is
    'What kind of fault most of its traces look like';
comment on column public.incidents.incident_state is
    'open, or closed: quiet for as long as incident.quiet';
comment on column public.incidents.opened_at is
    'Start of its first anomalous minute';
comment on column public.incidents.last_seen_at is
    'End of its last anomalous minute';
comment on column public.incidents.closed_at is
    'When it had been quiet for as long as incident.quiet; null while it is open';
comment on column public.incidents.windows is
    'Its rows of ranked_anomalies';
comment on column public.incidents.window_start is
    'Start of its first window, inclusive';
comment on column public.incidents.window_end is
    'End of its last window, exclusive';
comment on column public.incidents.anomalous_minutes is
    'Minutes in which it was seen';
comment on column public.incidents.anomalous_traces is
    'Sum of its windows''';
comment on column public.incidents.total_traces is
    'Traces of its windows that the culprit took part in';
comment on column public.incidents.peak_anomaly_score is
    'Greatest anomaly_score of its windows';
comment on column public.incidents.affected_services is
    'Other workloads in its anomalous traces, the most frequent first';
comment on column public.incidents.attributed_cost is
    'What the culprit cost in its windows, in billing_currency';
comment on column public.incidents.excess_cost is
    'Sum of its windows''; null where no price is known in any of them';
comment on column public.incidents.billed_excess_cost is
    'Sum of its windows''; null where no price is known in any of them';
comment on column public.incidents.excess_cost_per_hour is
    'excess_cost / anomalous_minutes * 60';
comment on column public.incidents.projected_monthly_cost is
    'excess_cost of 30 days in which the anomaly recurs as often as it did; null where that is unknown';
comment on column public.incidents.billing_currency is
    'Currency of every amount of the row, ISO 4217';
comment on column public.incidents.cost_status is
    'Of its least settled window: provisional, corrected or billed';
comment on column public.incidents.evidence is
    'What happened, since when, how often and at what cost, in one sentence';
comment on column public.incidents.changes is
    'What changed at the culprit in the hour before: [{what: version or pods, at (ISO 8601), from, to}]';
comment on column public.incidents.exemplar_trace_ids is
    'Its traces of the highest score; trace_id of trace_verdicts';
comment on column public.incidents.exemplar_urls is
    'The same as links, by the setting trace.url; empty where there is none';
comment on column public.incidents.feedback is
    'The latest that somebody said of it: expected, planned, false_alarm or fixed; null where nobody did';
comment on column public.incidents.feedback_by is
    'Who said so';
comment on column public.incidents.feedback_note is
    'In what words';
comment on column public.incidents.is_silenced is
    'Whether that says to tell nobody of it: expected, planned or false_alarm';
comment on column public.incidents.model_version is
    'The detector that judged';
comment on column public.incidents.updated_at is
    'Event time: the latest of its windows'' updated_at';

grant select on public.incidents to anomaly_cost_reader;

-- What people and programs say of incidents: each row is one thing said, and the latest that fits an incident counts.
create table public.feedback (
    feedback_id bigint generated always as identity primary key,
    incident_id text,
    otel_service_name text,
    anomaly_kind text,
    verdict text not null check (verdict in ('expected', 'planned', 'false_alarm', 'fixed')),
    valid_from timestamptz(3),
    valid_until timestamptz(3),
    author text not null,
    note text,
    given_at timestamptz(3) not null default now(),
    check (incident_id is not null or otel_service_name is not null)
);

create index feedback_given on public.feedback (given_at);

comment on table public.feedback is
    'What people and programs say of incidents; insert rows here, never change them. A row is one thing said.';
comment on column public.feedback.feedback_id is 'In the order in which they came';
comment on column public.feedback.incident_id is 'Of which incident; null = of all that the other columns fit';
comment on column public.feedback.otel_service_name is 'Of which culprit; null = any';
comment on column public.feedback.anomaly_kind is 'Of which kind; null = any';
comment on column public.feedback.verdict is
    'expected (it may go on), planned (a maintenance), false_alarm (nothing was wrong) or fixed';
comment on column public.feedback.valid_from is 'It is of incidents that were seen after this; null = any';
comment on column public.feedback.valid_until is 'It is of incidents that opened before this; null = any';
comment on column public.feedback.author is 'Who said it';
comment on column public.feedback.note is 'In what words';
comment on column public.feedback.given_at is 'When it was said';

grant select on public.feedback to anomaly_cost_reader;

-- The role of those that may say something of incidents.
do $$
begin
    if not exists (select from pg_roles where rolname = 'anomaly_cost_responder') then
        create role anomaly_cost_responder nologin;
    end if;
exception
    when duplicate_object or unique_violation then null;
end
$$;

grant usage on schema public to anomaly_cost_responder;
grant select, insert on public.feedback to anomaly_cost_responder;

comment on column public.rejected_records.stream is
    'The input it came by: otlp_spans, otlp_metrics, otlp_logs, focus_charges or incident_feedback';
comment on column anomaly_cost.restated.kind is 'ranked, unit_costs, unit_costs_by_attribute, incidents, allocations or charge_anomalies';
comment on column anomaly_cost.restated.event_key is
    'The resource, or the incident; empty for ranked and unit costs';

create or replace function anomaly_cost.restate() returns trigger
language plpgsql
set timezone = 'UTC'
as $$
-- The rows name their columns; what the table has no column for is left out. Times come in ms since 1970, JSON as its
-- text, arrays as JSON, and all else as PostgreSQL reads it. Who listens to anomaly_cost_incidents is told which
-- incident changed.
declare
    target regclass := case new.kind
        when 'ranked' then 'public.ranked_anomalies'
        when 'unit_costs' then 'public.unit_costs'
        when 'unit_costs_by_attribute' then 'public.unit_costs_by_attribute'
        when 'incidents' then 'public.incidents'
        when 'allocations' then 'public.cost_allocations'
        when 'charge_anomalies' then 'public.charge_anomalies'
    end;
    names text;
    expressions text;
begin
    if target is null then
        raise invalid_parameter_value using message = format('restated: kind is %s', new.kind);
    end if;

    execute format('delete from %s where %s', target, case
        when new.kind = 'incidents' then 'incident_id = $2'
        when new.kind in ('ranked', 'unit_costs', 'unit_costs_by_attribute') then 'window_start = $1'
        else 'window_start = $1 and resource_id = $2'
    end) using to_timestamp(new.time_ms / 1000.0), new.event_key;

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
    if new.kind = 'incidents' then
        perform pg_notify('anomaly_cost_incidents', new.event_key);
    end if;
    return null;
end
$$;
