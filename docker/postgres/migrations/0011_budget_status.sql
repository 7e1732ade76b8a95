-- How budgets stand: written by jobs.budgets, read by Grafana, the exporter and respond.

create table public.budget_status (
    budget text not null,
    month date not null,
    billing_currency text not null,
    amount numeric(28, 12) not null,
    billed_cost numeric(28, 12) not null,
    provisional_cost numeric(28, 12) not null,
    share_of_month double precision not null,
    burn_rate double precision,
    forecast_low numeric(28, 12),
    forecast_cost numeric(28, 12),
    forecast_high numeric(28, 12),
    forecast_method text not null,
    incidents_excess_cost numeric(28, 12) not null,
    cost_until timestamptz(3) not null,
    updated_at timestamptz(3) not null default now(),
    primary key (budget, month, billing_currency)
);

comment on table public.budget_status is
    'How much of each budget is spent, and what the month will cost. A row is a budget, month and currency.';
comment on column public.budget_status.budget is 'Its name: of the file, or the service of a row of budgets';
comment on column public.budget_status.month is 'First day of the month, UTC';
comment on column public.budget_status.billing_currency is 'Of all amounts of the row, ISO 4217';
comment on column public.budget_status.amount is 'What the month may cost';
comment on column public.budget_status.billed_cost is 'What it cost until cost_until, as far as bills say so';
comment on column public.budget_status.provisional_cost is 'What it cost beyond that by the last known prices';
comment on column public.budget_status.share_of_month is 'How much of the month is over at cost_until, 0 to 1';
comment on column public.budget_status.burn_rate is
    'Share of the budget that is spent / share of the month that is over; above 1 it will not last; null of a budget of 0';
comment on column public.budget_status.forecast_low is 'Of ten months nine will cost at least so much and at most forecast_high';
comment on column public.budget_status.forecast_cost is 'What the whole month will cost, the median';
comment on column public.budget_status.forecast_high is 'See forecast_low';
comment on column public.budget_status.forecast_method is
    'weekly (exponential smoothing with a week''s pattern), level (without one), mean (of the days) or none (too few days)';
comment on column public.budget_status.incidents_excess_cost is 'What of the month''s cost the excess of incidents is';
comment on column public.budget_status.cost_until is 'End of the newest window of cost_allocations';
comment on column public.budget_status.updated_at is 'When it was computed';

grant select on public.budget_status to anomaly_cost_reader;
