-- Which cost goes to no service, and why?
-- Grain: one row per day, resource, dimension, currency and reason.
-- Tables: cost_allocations. Idle is what nobody used in the window, system what the cluster's own pods used, unmetered what no usage telemetry speaks
-- of, unknown workload the usage that no service.name could be tied to. What is unmetered and shared by all workloads is
-- named by its kind, which the form of its id tells: control plane, load balancer, NAT or egress, volume. share_of_day is
-- of all that the day costs in the currency.
-- Time zone of the session: UTC. Run on DuckDB 2.0 and PostgreSQL 15; on Flink SQL it is the view of this name in
-- sql/client/init.sql.
with days as (
    select cast(window_start as date) as day, billing_currency, sum(allocated_cost) as cost
    from cost_allocations
    group by cast(window_start as date), billing_currency
),
reasons as (
    select
        cast(window_start as date) as day,
        resource_id,
        dimension,
        billing_currency,
        case
            when otel_service_name = '__idle__' then 'idle'
            when otel_service_name = '__system__' then 'system'
            when resource_id = '__no_resource__' then 'no resource'
            when usage is null and (resource_id like 'arn:%:eks:%:cluster/%'
                or resource_id like '%/managedClusters/%'
                or resource_id like '//container.googleapis.com/%/clusters/%'
                or resource_id like 'ocid1.cluster.%') then 'control plane'
            when usage is null and (resource_id like 'arn:%:elasticloadbalancing:%'
                or resource_id like '%/loadBalancers/%'
                or resource_id like '%/applicationGateways/%'
                or resource_id like '%/forwardingRules/%'
                or resource_id like 'ocid1.loadbalancer.%'
                or resource_id like 'ocid1.networkloadbalancer.%') then 'load balancer'
            when usage is null and (resource_id like 'nat-%'
                or resource_id like 'eipalloc-%'
                or resource_id like 'vpce-%'
                or resource_id like 'tgw-%'
                or resource_id like '%/natGateways/%'
                or resource_id like '%/publicIPAddresses/%'
                or resource_id like '%/routers/%'
                or resource_id like '%/addresses/%'
                or resource_id like 'ocid1.natgateway.%') then 'NAT or egress'
            when usage is null and (resource_id like 'vol-%'
                or resource_id like 'snap-%'
                or resource_id like '%/disks/%'
                or resource_id like '%/snapshots/%'
                or resource_id like 'ocid1.volume.%'
                or resource_id like 'ocid1.bootvolume.%') then 'volume'
            when usage is null then 'unmetered'
            else 'unknown workload'
        end as reason,
        allocated_cost
    from cost_allocations
    where otel_service_name in ('__idle__', '__system__', '__unallocated__')
)
select
    reasons.day,
    reasons.resource_id,
    reasons.dimension,
    reasons.billing_currency,
    reasons.reason,
    count(*) as windows,
    sum(reasons.allocated_cost) as cost,
    cast(sum(reasons.allocated_cost) as double precision)
        / cast(nullif(max(days.cost), 0) as double precision) as share_of_day
from reasons
join days on days.day = reasons.day and days.billing_currency = reasons.billing_currency
group by reasons.day, reasons.resource_id, reasons.dimension, reasons.billing_currency, reasons.reason
order by reasons.day desc, reasons.billing_currency, sum(reasons.allocated_cost) desc,
    reasons.resource_id, reasons.dimension, reasons.reason;
