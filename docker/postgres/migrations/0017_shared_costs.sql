-- What all workloads share, divided among them by a rule, for readers who want a service's full cost. No money moves by
-- it: cost_allocations and the views of 0016 leave it with __unallocated__.

create function anomaly_cost.shared_kind(resource_id text) returns text
language sql
immutable
parallel safe
-- As in udfs/pure/resources.py.
return case
    when resource_id like 'arn:%:eks:%:cluster/%' or resource_id like '%/managedClusters/%'
        or resource_id like '//container.googleapis.com/%/clusters/%' or resource_id like 'ocid1.cluster.%' then 'control plane'
    when resource_id like 'arn:%:elasticloadbalancing:%' or resource_id like '%/loadBalancers/%'
        or resource_id like '%/applicationGateways/%' or resource_id like '%/forwardingRules/%'
        or resource_id like 'ocid1.loadbalancer.%' or resource_id like 'ocid1.networkloadbalancer.%' then 'load balancer'
    when resource_id like 'nat-%' or resource_id like 'eipalloc-%' or resource_id like 'vpce-%' or resource_id like 'tgw-%'
        or resource_id like '%/natGateways/%' or resource_id like '%/publicIPAddresses/%' or resource_id like '%/routers/%'
        or resource_id like '%/addresses/%' or resource_id like 'ocid1.natgateway.%' then 'NAT or egress'
end;

comment on function anomaly_cost.shared_kind(text) is
    'What a resource is that all workloads share, by the form of its id: control plane, load balancer, NAT or egress; null for all others';

create view public.shared_costs_by_day as
select
    days.day,
    anomaly_cost.team_of(of_day.otel_service_name) as team,
    of_day.*
from (
    select min(window_start) as first_window, max(window_start) as last_window from public.cost_allocations
) as bounds
cross join lateral anomaly_cost.days(bounds.first_window, bounds.last_window) as days
cross join lateral (
    with costs as (
        select otel_service_name, resource_id, usage is null as is_unmeasured, billing_currency, sum(allocated_cost) as cost
        from public.cost_allocations
        where window_start >= days.starts_at and window_start < days.ends_at
        group by 1, 2, 3, 4
    ),
    shared as (
        select anomaly_cost.shared_kind(resource_id) as shared_kind, billing_currency, sum(cost) as cost
        from costs
        where otel_service_name = '__unallocated__' and is_unmeasured and anomaly_cost.shared_kind(resource_id) is not null
        group by 1, 2
    ),
    own as (
        select otel_service_name, billing_currency, sum(cost) as cost
        from costs
        where left(otel_service_name, 2) <> '__'
        group by 1, 2
        having sum(cost) > 0
    ),
    parts as (
        select
            coalesce(own.otel_service_name, '__unallocated__') as otel_service_name,
            shared.shared_kind,
            shared.billing_currency,
            own.cost as own_cost,
            shared.cost as shared_cost,
            trunc(shared.cost * own.cost / sum(own.cost) over of_kind, 12) as part,
            row_number() over (of_kind order by own.cost desc, own.otel_service_name) as place
        from shared
        left join own on own.billing_currency = shared.billing_currency
        window of_kind as (partition by shared.shared_kind, shared.billing_currency)
    )
    select
        otel_service_name,
        shared_kind,
        billing_currency,
        own_cost,
        -- What is left of the last decimals is the greatest part's.
        case place
            when 1 then shared_cost - coalesce(sum(part) filter (where place > 1) over (partition by shared_kind, billing_currency), 0)
            else part
        end as cost,
        case when own_cost is null then 'nobody to bear it' else 'own cost of the day' end as divided_by
    from parts
) as of_day;

comment on view public.shared_costs_by_day is
    'What all workloads share (control plane, load balancers, NAT and egress), divided among them by what each cost by itself that day; on top of costs_by_day, where it is __unallocated__''s. A row is a day, service, kind of shared cost and currency.';
comment on column public.shared_costs_by_day.day is 'The day, UTC, in which the windows start';
comment on column public.shared_costs_by_day.team is 'That has the service, by service_teams; __no_team__ where none fits';
comment on column public.shared_costs_by_day.otel_service_name is
    'The workload (service.name) that bears it; __unallocated__ where none cost anything that day';
comment on column public.shared_costs_by_day.shared_kind is
    'control plane, load balancer, or NAT or egress; the form of the resource''s id tells';
comment on column public.shared_costs_by_day.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.shared_costs_by_day.own_cost is 'What the workload cost by itself that day, by which it bears';
comment on column public.shared_costs_by_day.cost is
    'What it bears of the shared cost; sums to that of unallocated_costs_by_day of this kind, to the last decimal';
comment on column public.shared_costs_by_day.divided_by is
    'The rule: own cost of the day, over all clusters of the bill; or nobody to bear it';

grant select on public.shared_costs_by_day to anomaly_cost_reader;
