-- The result tables in Flink's SQL client, from the topics that --output kafka://kafka:9092 writes, and what analysts
-- ask of them, as views.
--
--     sql-client.sh -i sql/client/init.sql
--     select * from top_anomalies_of_the_day where place <= 3;
--
-- Another broker, for each table that is asked:
--     alter table ranked_anomalies set ('properties.bootstrap.servers' = 'localhost:29092')
-- A query ends at the offsets that stand at its start. To follow the topic instead:
--     alter table ranked_anomalies reset ('scan.bounded.mode')
-- Columns and keys are written by "python -m jobs.contract"; formats are those of jobs/sinks.py. The views say the same
-- as the queries of their names in sql/queries, but for the order of their rows: add "order by ... limit n". Days are
-- UTC.

set 'sql-client.execution.result-mode' = 'tableau';
set 'table.local-time-zone' = 'UTC';
set 'table.display.max-column-width' = '100';

-- What each anomaly costs and which to deal with first.
-- grain: one (window, culprit, currency) a row; key: anomaly_id, made of these three
create table ranked_anomalies (
    `anomaly_id` string not null,
    `window_start` timestamp_ltz(3),
    `window_end` timestamp_ltz(3),
    `otel_service_name` string,
    `rank` bigint,
    `cost_weighted_score` double,
    `anomaly_score` double,
    `threshold` double,
    `anomalous_traces` bigint,
    `total_traces` bigint,
    `attributed_cost` decimal(28, 12),
    `excess_cost` decimal(28, 12),
    `projected_monthly_cost` decimal(28, 12),
    `billed_excess_cost` decimal(28, 12),
    `billing_currency` string,
    `cost_status` string,
    `cost_center` string,
    `anomaly_kind` string,
    `affected_services` array<string>,
    `exemplar_trace_ids` array<string>,
    `explanation` string,
    `model_version` string,
    `updated_at` timestamp_ltz(3),
    primary key (`anomaly_id`) not enforced
) with (
    'connector' = 'upsert-kafka',
    'topic' = 'ranked_anomalies',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- Whether a trace is anomalous, by how much, and whose fault it is.
-- grain: one trace a row; key: trace_id
create table trace_verdicts (
    `trace_id` string not null,
    `start_time` timestamp_ltz(3),
    `root_service_name` string,
    `root_operation` string,
    `span_count` bigint,
    `anomaly_score` double,
    `threshold` double,
    `is_anomalous` boolean,
    `culprit_service_name` string,
    `culprit_operation` string,
    `anomaly_kind` string,
    `model_version` string,
    `verdict_state` string,
    primary key (`trace_id`) not enforced
) with (
    'connector' = 'upsert-kafka',
    'topic' = 'trace_verdicts',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- Who each charge goes to. The sum of allocated_cost is the sum of the accepted charges.
-- grain: one (window, resource, dimension, workload, currency) a row; key: these five
-- A resource is billed in one currency as a rule; where it isn't, the currency keeps its rows apart.
create table cost_allocations (
    `window_start` timestamp_ltz(3) not null,
    `resource_id` string not null,
    `dimension` string not null,
    `otel_service_name` string not null,
    `usage` double,
    `total_usage` double,
    `share` double,
    `resource_cost` decimal(28, 12),
    `allocated_cost` decimal(28, 12),
    `billing_currency` string not null,
    `cost_status` string,
    `cost_center` string,
    primary key (`window_start`, `resource_id`, `dimension`, `otel_service_name`, `billing_currency`) not enforced
) with (
    'connector' = 'upsert-kafka',
    'topic' = 'cost_allocations',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- Irregularities in the bill itself, found without traces.
-- grain: one (window, resource, dimension, currency) a row; key: these four
create table charge_anomalies (
    `window_start` timestamp_ltz(3) not null,
    `resource_id` string not null,
    `dimension` string not null,
    `window_end` timestamp_ltz(3),
    `billed_cost` decimal(28, 12),
    `expected_cost` decimal(28, 12),
    `anomaly_score` double,
    `billing_currency` string not null,
    primary key (`window_start`, `resource_id`, `dimension`, `billing_currency`) not enforced
) with (
    'connector' = 'upsert-kafka',
    'topic' = 'charge_anomalies',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- Every input record that could not be used, once, with a reason that a person can act on.
-- grain: one (stream, reason, payload) a row; key: these three
create table rejected_records (
    `stream` string not null,
    `reason` string not null,
    `payload` string not null,
    `event_time` timestamp_ltz(3),
    `rejected_at` timestamp_ltz(3),
    `reason_code` string,
    primary key (`stream`, `reason`, `payload`) not enforced
) with (
    'connector' = 'upsert-kafka',
    'topic' = 'rejected_records',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- What a request costs; the sum of cost is the sum of cost_allocations.
-- grain: one (window, workload, kind of request, currency) a row; key: these
create table unit_costs (
    `window_start` timestamp_ltz(3) not null,
    `window_end` timestamp_ltz(3),
    `otel_service_name` string not null,
    `root_service_name` string not null,
    `root_operation` string not null,
    `requests` bigint,
    `cost` decimal(28, 12),
    `cost_per_request` decimal(28, 12),
    `billing_currency` string not null,
    `cost_status` string,
    `cost_center` string,
    primary key (`window_start`, `otel_service_name`, `root_service_name`, `root_operation`, `billing_currency`) not enforced
) with (
    'connector' = 'upsert-kafka',
    'topic' = 'unit_costs',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- What goes on: windows of one culprit that follow each other.
-- grain: one (culprit, currency, run of windows) a row; key: incident_id, which is made of the first window and these
create table incidents (
    `incident_id` string not null,
    `otel_service_name` string,
    `culprit_operation` string,
    `anomaly_kind` string,
    `incident_state` string,
    `opened_at` timestamp_ltz(3),
    `last_seen_at` timestamp_ltz(3),
    `closed_at` timestamp_ltz(3),
    `windows` bigint,
    `window_start` timestamp_ltz(3),
    `window_end` timestamp_ltz(3),
    `anomalous_minutes` bigint,
    `anomalous_traces` bigint,
    `total_traces` bigint,
    `peak_anomaly_score` double,
    `affected_services` array<string>,
    `attributed_cost` decimal(28, 12),
    `excess_cost` decimal(28, 12),
    `billed_excess_cost` decimal(28, 12),
    `excess_cost_per_hour` decimal(28, 12),
    `projected_monthly_cost` decimal(28, 12),
    `billing_currency` string,
    `cost_status` string,
    `cost_center` string,
    `evidence` string,
    `changes` string,
    `exemplar_trace_ids` array<string>,
    `exemplar_urls` array<string>,
    `feedback` string,
    `feedback_by` string,
    `feedback_note` string,
    `is_silenced` boolean,
    `model_version` string,
    `updated_at` timestamp_ltz(3),
    primary key (`incident_id`) not enforced
) with (
    'connector' = 'upsert-kafka',
    'topic' = 'incidents',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- What a tenant, customer or feature costs; for each attribute the sum of cost is that of cost_allocations.
-- grain: one (window, workload, attribute, value, currency) a row; key: these
create table unit_costs_by_attribute (
    `window_start` timestamp_ltz(3) not null,
    `window_end` timestamp_ltz(3),
    `attribute_name` string not null,
    `attribute_value` string not null,
    `otel_service_name` string not null,
    `requests` bigint,
    `cost` decimal(28, 12),
    `cost_per_request` decimal(28, 12),
    `billing_currency` string not null,
    `cost_status` string,
    `cost_center` string,
    primary key (`window_start`, `attribute_name`, `attribute_value`, `otel_service_name`, `billing_currency`) not enforced
) with (
    'connector' = 'upsert-kafka',
    'topic' = 'unit_costs_by_attribute',
    'properties.bootstrap.servers' = 'kafka:9092',
    'scan.bounded.mode' = 'latest-offset',
    'key.format' = 'json',
    'key.json.timestamp-format.standard' = 'ISO-8601',
    'value.format' = 'json',
    'value.json.timestamp-format.standard' = 'ISO-8601'
);

-- What went wrong today, the dearest first?
-- grain: one culprit, kind and currency a row, at most ten a currency, of the day of the latest window
-- trace_id: the most anomalous trace of the culprit's worst window
create temporary view top_anomalies_of_the_day as
with of_day as (
    select *
    from ranked_anomalies
    where cast(window_start as date) = (select cast(max(window_start) as date) from ranked_anomalies)
),
worst as (
    select otel_service_name, anomaly_kind, billing_currency, exemplar_trace_ids[1] as trace_id
    from (
        select
            otel_service_name, anomaly_kind, billing_currency, exemplar_trace_ids,
            row_number() over (
                partition by otel_service_name, anomaly_kind, billing_currency
                order by anomaly_score desc, window_start
            ) as from_worst
        from of_day
    )
    where from_worst = 1
),
summed as (
    select
        cast(min(window_start) as date) as `day`,
        billing_currency,
        otel_service_name,
        anomaly_kind,
        count(*) as windows,
        sum(anomalous_traces) as anomalous_traces,
        sum(excess_cost) as excess_cost,
        sum(attributed_cost) as attributed_cost,
        max(cost_weighted_score) as cost_weighted_score,
        sum(case when cost_status = 'provisional' then 1 else 0 end) as provisional_windows
    from of_day
    group by billing_currency, otel_service_name, anomaly_kind
)
select
    `day`, billing_currency, place, otel_service_name, anomaly_kind, windows, anomalous_traces, excess_cost,
    attributed_cost, cost_weighted_score, trace_id, provisional_windows
from (
    select
        summed.*,
        worst.trace_id,
        row_number() over (
            partition by summed.billing_currency
            order by excess_cost desc nulls last, cost_weighted_score desc, summed.otel_service_name,
                summed.anomaly_kind
        ) as place
    from summed
    join worst
        on worst.otel_service_name = summed.otel_service_name
        and worst.anomaly_kind = summed.anomaly_kind
        and worst.billing_currency = summed.billing_currency
)
where place <= 10;

-- What does each service cost today, against the same hours of the day before?
-- grain: one service and currency a row; change is NULL where it cost nothing the day before
create temporary view cost_by_service_against_the_day_before as
with bounds as (
    select max(window_start) as last_window, cast(max(window_start) as date) as `day`
    from cost_allocations
),
summed as (
    select
        bounds.`day`,
        otel_service_name,
        billing_currency,
        sum(case when cast(window_start as date) = bounds.`day` then allocated_cost else 0 end) as cost,
        sum(case when cast(window_start as date) < bounds.`day` then allocated_cost else 0 end)
            as cost_the_day_before,
        sum(case
            when cast(window_start as date) = bounds.`day` and cost_status = 'provisional' then allocated_cost
            else 0
        end) as provisional_cost
    from cost_allocations
    cross join bounds
    where cast(window_start as date) = bounds.`day`
        or (
            cast(window_start as date) < bounds.`day`
            and cast(window_start + interval '1' day as date) = bounds.`day`
            and window_start + interval '1' day <= bounds.last_window
        )
    group by bounds.`day`, otel_service_name, billing_currency
)
select
    `day`,
    otel_service_name,
    billing_currency,
    cost,
    cost_the_day_before,
    cost - cost_the_day_before as difference,
    cast(cost - cost_the_day_before as double) / cast(nullif(abs(cost_the_day_before), 0) as double) as change,
    provisional_cost
from summed;

-- Which cost goes to no service, and why?
-- grain: one day, resource, dimension, currency and reason a row; share_of_day: of all that the day costs
create temporary view unallocated_cost as
with days as (
    select cast(window_start as date) as `day`, billing_currency, sum(allocated_cost) as cost
    from cost_allocations
    group by cast(window_start as date), billing_currency
),
reasons as (
    select
        cast(window_start as date) as `day`,
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
    reasons.`day`,
    reasons.resource_id,
    reasons.dimension,
    reasons.billing_currency,
    reasons.reason,
    count(*) as windows,
    sum(reasons.allocated_cost) as cost,
    cast(sum(reasons.allocated_cost) as double) / cast(nullif(max(days.cost), 0) as double) as share_of_day
from reasons
join days on days.`day` = reasons.`day` and days.billing_currency = reasons.billing_currency
group by reasons.`day`, reasons.resource_id, reasons.dimension, reasons.billing_currency, reasons.reason;

-- Which windows still wait for their bill, since when, and which were corrected?
-- grain: one window, resource, currency and status a row; age_hours: to the latest window, in event time
create temporary view late_bills as
select
    cost_status,
    window_start,
    resource_id,
    billing_currency,
    cast(timestampdiff(second, window_start, max(last_window)) as double) / 3600 as age_hours,
    count(distinct dimension) as dimensions,
    sum(allocated_cost) as cost
from cost_allocations
cross join (select max(window_start) as last_window from cost_allocations)
where cost_status in ('provisional', 'corrected')
group by cost_status, window_start, resource_id, billing_currency;

-- The scenario of what_if: edit, and source this file again. prices: factor on the unit price of a dimension;
-- severities: factor on alpha of a kind, and on its excess cost. What isn't named stays as it is.
create temporary view what_if_prices as
select * from (values ('cpu', 1.0), ('memory', 1.0), ('io', 1.0), ('network', 2.0)) as t (dimension, factor);

create temporary view what_if_severities as
select * from (values ('latency_spike', 1.0), ('retry_loop', 1.0), ('resource_overuse', 1.0), ('dependency_failure', 1.0))
    as t (anomaly_kind, factor);

-- How would the ranking stand under other prices, or if some kinds of anomaly weighed more? By excess cost, the job's
-- own order.
-- grain: one ranked anomaly a row
create temporary view what_if as
with elements as (
    select
        anomaly_id,
        json_query(explanation, 'lax $.Elements[*]' returning array<string> with conditional array wrapper)
            as allocated,
        json_query(explanation, 'lax $.x_ExcessUsage[*]' returning array<string> with conditional array wrapper)
            as excess
    from ranked_anomalies
),
costs as (
    select
        anomaly_id,
        'attributed' as what,
        json_value(part, '$.x_Dimension') as dimension,
        cast(json_value(part, '$.x_AllocatedCost') as decimal(28, 12)) as cost
    from elements cross join unnest(allocated) as t (part)
    union all
    select
        anomaly_id,
        'excess' as what,
        json_value(part, '$.x_Dimension') as dimension,
        cast(json_value(part, '$.x_Cost') as decimal(28, 12)) as cost
    from elements cross join unnest(excess) as t (part)
),
repriced as (
    select
        costs.anomaly_id,
        sum(case when what = 'attributed' then cost * cast(coalesce(factor, 1) as decimal(9, 6)) end)
            as attributed_cost,
        sum(case when what = 'excess' then cost * cast(coalesce(factor, 1) as decimal(9, 6)) end) as excess_cost
    from costs
    left join what_if_prices on what_if_prices.dimension = costs.dimension
    group by costs.anomaly_id
),
judged as (
    select
        ranked.window_start,
        ranked.otel_service_name,
        ranked.anomaly_kind,
        ranked.billing_currency,
        ranked.`rank` as old_rank,
        ranked.attributed_cost as old_attributed_cost,
        ranked.excess_cost as old_excess_cost,
        cast(coalesce(repriced.attributed_cost, 0) as decimal(28, 12)) as new_attributed_cost,
        cast(case when ranked.excess_cost is not null then coalesce(repriced.excess_cost, 0) end as decimal(28, 12))
            as new_excess_cost,
        ranked.anomaly_score * cast(coalesce(factor, 1) as double) as new_anomaly_score,
        cast(coalesce(factor, 1) as double) as severity
    from ranked_anomalies as ranked
    left join repriced on repriced.anomaly_id = ranked.anomaly_id
    left join what_if_severities on what_if_severities.anomaly_kind = ranked.anomaly_kind
),
scored as (
    select
        judged.*,
        new_anomaly_score * sign(cast(new_attributed_cost as double)) * ln(1 + abs(cast(new_attributed_cost as double)))
            as new_score,
        severity * cast(coalesce(new_excess_cost, 0) as double) as merit
    from judged
)
select
    window_start, billing_currency, otel_service_name, anomaly_kind, old_rank, new_rank, old_attributed_cost,
    new_attributed_cost, old_excess_cost, new_excess_cost, new_score
from (
    select
        scored.*,
        row_number() over (
            partition by window_start, billing_currency
            order by merit desc, new_score desc, new_attributed_cost desc, new_anomaly_score desc, otel_service_name
        ) as new_rank
    from scored
)
where new_rank <= 1000;
