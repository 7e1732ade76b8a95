-- What a tenant, customer or feature costs. Restated a window at a time, as unit_costs is.

create table public.unit_costs_by_attribute (
    window_start timestamptz(3) not null,
    window_end timestamptz(3),
    attribute_name text not null,
    attribute_value text not null,
    otel_service_name text not null,
    requests bigint,
    cost numeric(28, 12),
    cost_per_request numeric(28, 12),
    billing_currency text not null,
    cost_status text,
    primary key (window_start, attribute_name, attribute_value, otel_service_name, billing_currency)
) partition by range (window_start);

create table anomaly_cost.unit_costs_by_attribute_default partition of public.unit_costs_by_attribute default;

create index unit_costs_by_attribute_value on public.unit_costs_by_attribute (attribute_name, attribute_value, window_start);

comment on table public.unit_costs_by_attribute is
    'What a tenant, customer or feature costs; for each attribute the sum of cost is that of cost_allocations. A row is a window, workload, attribute, value and currency.';
comment on column public.unit_costs_by_attribute.window_start is
    'Start of the half hour, inclusive';
comment on column public.unit_costs_by_attribute.window_end is
    'End of the half hour, exclusive';
comment on column public.unit_costs_by_attribute.attribute_name is
    'One of unit_costs.attributes; choose one before you add up';
comment on column public.unit_costs_by_attribute.attribute_value is
    'Its value in the root span, else the greatest in the trace; __none__ where it has none, __other__ beyond the 200 that most requests have, __untraced__ and what is no workload as in unit_costs';
comment on column public.unit_costs_by_attribute.otel_service_name is
    'The workload that cost it; __idle__, __system__ and __unallocated__ as in cost_allocations';
comment on column public.unit_costs_by_attribute.requests is
    'Such requests in the window, those that samplers left out among them; null where there is none';
comment on column public.unit_costs_by_attribute.cost is
    'What of the workload''s cost in the window they caused, in billing_currency';
comment on column public.unit_costs_by_attribute.cost_per_request is
    'cost / requests, rounded half to even; null where there is none';
comment on column public.unit_costs_by_attribute.billing_currency is
    'Currency of every amount of the row, ISO 4217';
comment on column public.unit_costs_by_attribute.cost_status is
    'provisional (before the bill), billed, or corrected (by a later bill)';

grant select on public.unit_costs_by_attribute to anomaly_cost_reader;

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
