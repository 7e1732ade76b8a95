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
