"""A database with a year of rows in every table that a view reads."""

from __future__ import annotations

import psycopg

from jobs.migrate import maintain, migrate

# A year of half hours until now; digits to the last place, and statuses as bills leave them.
_HALF_HOURS = """
    generate_series(
        date_trunc('day', now(), 'UTC') - interval '365 days', date_trunc('day', now(), 'UTC') - interval '30 min',
        interval '30 min'
    ) as at
"""
_STATUS = """
    case when at >= now() - interval '3 days' then 'provisional'
        when extract(dow from at at time zone 'UTC') = 2 then 'corrected' else 'billed' end
"""
_CENTS = "0.000000000001 * (1 + (extract(epoch from at)::bigint * 7919 + length(service) * 104729) % 999999999989)"
_FILL = f"""
    insert into cost_allocations (window_start, resource_id, dimension, otel_service_name, usage, resource_cost,
        allocated_cost, billing_currency, cost_status)
    select at, case when service <> '__unallocated__' then 'i-1'
            when extract(hour from at at time zone 'UTC') < 6 then 'nat-1' else 'vol-1' end, 'cpu', service,
        case service when '__unallocated__' then null else 1 end, 1, {_CENTS}, currency, {_STATUS}
    from {_HALF_HOURS}, unnest(array['web', 'cart', '__idle__', '__unallocated__']) as service,
        unnest(array['USD', 'EUR']) as currency;

    insert into unit_costs (window_start, otel_service_name, root_service_name, root_operation, requests, cost,
        billing_currency, cost_status)
    select at, service, 'web', operation, 3, {_CENTS}, currency, {_STATUS}
    from {_HALF_HOURS}, unnest(array['web', 'cart']) as service, unnest(array['GET /', 'GET /cart']) as operation,
        unnest(array['USD', 'EUR']) as currency;

    insert into unit_costs_by_attribute (window_start, attribute_name, attribute_value, otel_service_name, requests,
        cost, billing_currency, cost_status)
    select at, 'tenant.id', tenant, service, 3, {_CENTS}, 'USD', {_STATUS}
    from {_HALF_HOURS}, unnest(array['web', 'cart']) as service, unnest(array['acme', '__none__']) as tenant;

    insert into ranked_anomalies (anomaly_id, window_start, otel_service_name, rank, anomalous_traces, attributed_cost,
        excess_cost, billed_excess_cost, billing_currency, cost_status, anomaly_kind)
    select at || service || currency, at, service, 1, 2, {_CENTS},
        case when extract(hour from at at time zone 'UTC') <> 5 then -{_CENTS} end, {_CENTS}, currency, {_STATUS},
        'latency_spike'
    from {_HALF_HOURS}, unnest(array['web', 'cart']) as service, unnest(array['USD', 'EUR']) as currency;

    insert into incidents (incident_id, otel_service_name, incident_state, opened_at, last_seen_at, excess_cost,
        billing_currency, exemplar_urls)
    select at || 'web', 'web', case when at >= now() - interval '2 days' then 'open' else 'closed' end, at,
        at + interval '10 min', {_CENTS}, 'USD', array['http://jaeger/trace/ab']
    from {_HALF_HOURS}, unnest(array['web']) as service;

    insert into budget_status (budget, month, billing_currency, amount, billed_cost, provisional_cost, share_of_month,
        forecast_method, incidents_excess_cost, cost_until)
    select 'team-' || number, month, 'USD', 10, 9, 0.5, 1, 'none', 0, month
    from generate_series(1, 500) as number, generate_series(0, 11) as ago,
        lateral (select date_trunc('month', now(), 'UTC') at time zone 'UTC' - ago * interval '1 month') as months (at),
        lateral (select at::date) as of (month);
    insert into budgets select budget, month, amount, billing_currency from budget_status;

    insert into service_teams values ('web', 'front'), ('*', 'everybody');
"""


def fill(url: str) -> None:
    """Make the tables of an empty database, and a year of rows in their months' partitions."""
    migrate(url)
    with psycopg.connect(url, autocommit=True, options="-c search_path=public") as connection:
        connection.execute(_FILL)
    maintain(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze")
