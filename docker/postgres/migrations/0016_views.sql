-- Views for readers with a BI tool. Days are UTC. Currency is a column of each, and no amount is summed over currencies.
-- A view by day goes through the days of its table and asks the table for the windows of each, so that a condition on
-- the day reads the rows of these days alone, by the index on window_start, and in partitioned tables their month alone.

create table public.service_teams (
    services text primary key,
    team text not null,
    services_like text not null generated always as
        (replace(replace(replace(replace(services, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')) stored
);

comment on table public.service_teams is
    'Which team has which services; the user fills it, the job only leaves it alone. A row is a name or pattern of services.';
comment on column public.service_teams.services is
    'A workload (service.name), or a pattern of names with * for any text; of several that fit a name the longest counts';
comment on column public.service_teams.team is 'The team that has them';
comment on column public.service_teams.services_like is 'The same as a pattern of LIKE; made from services';

create function anomaly_cost.team_of(service text) returns text
language sql
stable
parallel safe
return coalesce(
    (
        select service_teams.team
        from public.service_teams
        where team_of.service like service_teams.services_like
        order by length(service_teams.services) desc, service_teams.services
        limit 1
    ),
    '__no_team__'
);

comment on function anomaly_cost.team_of(text) is 'The team of a service by service_teams; __no_team__ where none fits';

create function anomaly_cost.days(first_time timestamptz, last_time timestamptz)
returns table (day date, starts_at timestamptz, ends_at timestamptz)
language sql
immutable
parallel safe
begin atomic
    select dates.day, dates.day::timestamp at time zone 'UTC', (dates.day + 1)::timestamp at time zone 'UTC'
    from (
        select (first_time at time zone 'UTC')::date + number as day
        from generate_series(
            0, (last_time at time zone 'UTC')::date - (first_time at time zone 'UTC')::date
        ) as numbers (number)
    ) as dates;
end;

comment on function anomaly_cost.days(timestamptz, timestamptz) is
    'The days, UTC, from that of first_time to that of last_time; starts_at is inclusive, ends_at exclusive';

-- ---- incidents and anomalies ----------------------------------------------------------------

create view public.incidents_now as
select
    incident_id,
    otel_service_name,
    anomaly_cost.team_of(otel_service_name) as team,
    anomaly_kind,
    culprit_operation,
    evidence,
    opened_at,
    last_seen_at,
    anomalous_minutes,
    anomalous_traces,
    excess_cost,
    billed_excess_cost,
    excess_cost_per_hour,
    projected_monthly_cost,
    billing_currency,
    cost_status,
    exemplar_trace_ids[1] as exemplar_trace_id,
    exemplar_urls[1] as exemplar_url,
    feedback,
    is_silenced,
    updated_at
from public.incidents
where incident_state = 'open';

comment on view public.incidents_now is
    'Incidents that go on. A row is an incident, in one currency; order by excess_cost_per_hour, within a currency.';
comment on column public.incidents_now.incident_id is 'Of incidents; made of its first window, culprit and currency';
comment on column public.incidents_now.otel_service_name is 'The culprit: the workload (service.name) at fault';
comment on column public.incidents_now.team is 'That has the culprit, by service_teams; __no_team__ where none fits';
comment on column public.incidents_now.anomaly_kind is 'What kind of fault most of its traces look like';
comment on column public.incidents_now.culprit_operation is 'Name of the span at fault in most of its traces';
comment on column public.incidents_now.evidence is
    'What happened, since when, how often and at what cost, in one sentence';
comment on column public.incidents_now.opened_at is 'Start of its first anomalous minute, UTC';
comment on column public.incidents_now.last_seen_at is 'End of its last anomalous minute, UTC';
comment on column public.incidents_now.anomalous_minutes is 'Minutes in which it was seen';
comment on column public.incidents_now.anomalous_traces is 'Anomalous traces that blame the culprit';
comment on column public.incidents_now.excess_cost is
    'What it has cost so far above the usual, in billing_currency; null where no price is known';
comment on column public.incidents_now.billed_excess_cost is
    'What of excess_cost changes the bill: 0 on a machine that was paid for anyway';
comment on column public.incidents_now.excess_cost_per_hour is 'excess_cost of an hour in which it is seen';
comment on column public.incidents_now.projected_monthly_cost is
    'excess_cost of 30 days in which it recurs as often as it did; null where that is unknown';
comment on column public.incidents_now.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.incidents_now.cost_status is
    'Of its least settled window: provisional (before the bill), corrected or billed';
comment on column public.incidents_now.exemplar_trace_id is 'Its trace of the highest score';
comment on column public.incidents_now.exemplar_url is 'The same as a link; null where trace.url is not set';
comment on column public.incidents_now.feedback is
    'The latest that somebody said of it: expected, planned, false_alarm or fixed; null where nobody did';
comment on column public.incidents_now.is_silenced is
    'Whether that says to tell nobody of it; leave these out to see what needs somebody';
comment on column public.incidents_now.updated_at is 'Event time, UTC: until when its figures go';

create view public.anomaly_costs_by_day as
select
    days.day,
    anomaly_cost.team_of(of_day.otel_service_name) as team,
    of_day.*
from (
    select min(window_start) as first_window, max(window_start) as last_window from public.ranked_anomalies
) as bounds
cross join lateral anomaly_cost.days(bounds.first_window, bounds.last_window) as days
cross join lateral (
    select
        otel_service_name,
        anomaly_kind,
        billing_currency,
        count(*) as windows,
        sum(anomalous_traces) as anomalous_traces,
        sum(excess_cost) as excess_cost,
        sum(billed_excess_cost) as billed_excess_cost,
        coalesce(sum(excess_cost) filter (where cost_status = 'provisional'), 0) as provisional_excess_cost,
        coalesce(sum(excess_cost) filter (where cost_status = 'corrected'), 0) as corrected_excess_cost,
        count(*) filter (where excess_cost is null) as windows_without_price,
        sum(attributed_cost) as attributed_cost
    from public.ranked_anomalies
    where window_start >= days.starts_at and window_start < days.ends_at
    group by otel_service_name, anomaly_kind, billing_currency
) as of_day;

comment on view public.anomaly_costs_by_day is
    'What anomalies cost; sums to ranked_anomalies. A row is a day, culprit, kind of fault and currency.';
comment on column public.anomaly_costs_by_day.day is 'The day, UTC, in which the windows start';
comment on column public.anomaly_costs_by_day.team is
    'That has the culprit, by service_teams; __no_team__ where none fits';
comment on column public.anomaly_costs_by_day.otel_service_name is 'The culprit: the workload (service.name) at fault';
comment on column public.anomaly_costs_by_day.anomaly_kind is 'What kind of fault it looks like';
comment on column public.anomaly_costs_by_day.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.anomaly_costs_by_day.windows is 'Half hours of the day in which it was seen';
comment on column public.anomaly_costs_by_day.anomalous_traces is 'Anomalous traces that blame the culprit';
comment on column public.anomaly_costs_by_day.excess_cost is
    'What they cost above the usual, in billing_currency, negative where less was used; null where no price is known';
comment on column public.anomaly_costs_by_day.billed_excess_cost is
    'What of excess_cost changed the bill: 0 on a machine that was paid for anyway';
comment on column public.anomaly_costs_by_day.provisional_excess_cost is
    'What of excess_cost rests on prices before the bill';
comment on column public.anomaly_costs_by_day.corrected_excess_cost is
    'What of excess_cost rests on a bill that was corrected later';
comment on column public.anomaly_costs_by_day.windows_without_price is
    'Half hours of which no price is known: excess_cost lacks them';
comment on column public.anomaly_costs_by_day.attributed_cost is
    'All that the culprit cost in these half hours, usual cost with it';

-- ---- cost -------------------------------------------------------------------------------------

create view public.costs_by_day as
select
    days.day,
    anomaly_cost.team_of(of_day.otel_service_name) as team,
    of_day.*
from (
    select min(window_start) as first_window, max(window_start) as last_window from public.cost_allocations
) as bounds
cross join lateral anomaly_cost.days(bounds.first_window, bounds.last_window) as days
cross join lateral (
    select
        otel_service_name,
        billing_currency,
        sum(allocated_cost) as cost,
        coalesce(sum(allocated_cost) filter (where cost_status = 'billed'), 0) as billed_cost,
        coalesce(sum(allocated_cost) filter (where cost_status = 'corrected'), 0) as corrected_cost,
        coalesce(sum(allocated_cost) filter (where cost_status = 'provisional'), 0) as provisional_cost
    from public.cost_allocations
    where window_start >= days.starts_at and window_start < days.ends_at
    group by otel_service_name, billing_currency
) as of_day;

comment on view public.costs_by_day is
    'What services cost, and how much of it is provisional; sums to cost_allocations. A row is a day, service and currency.';
comment on column public.costs_by_day.day is 'The day, UTC, in which the windows start';
comment on column public.costs_by_day.team is 'That has the service, by service_teams; __no_team__ where none fits';
comment on column public.costs_by_day.otel_service_name is
    'The workload (service.name); __idle__ for what nobody used, __system__ for what the cluster itself used, __unallocated__ for what belongs to no known workload';
comment on column public.costs_by_day.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.costs_by_day.cost is
    'All of it, in billing_currency: billed_cost + corrected_cost + provisional_cost';
comment on column public.costs_by_day.billed_cost is 'What the bill says, unchanged since it came';
comment on column public.costs_by_day.corrected_cost is 'What the bill says where a later bill corrected it';
comment on column public.costs_by_day.provisional_cost is 'What there is no bill for yet, at the last known prices';

create view public.unallocated_costs_by_day as
select
    days.day,
    of_day.*
from (
    select min(window_start) as first_window, max(window_start) as last_window from public.cost_allocations
) as bounds
cross join lateral anomaly_cost.days(bounds.first_window, bounds.last_window) as days
cross join lateral (
    select
        resource_id,
        dimension,
        -- As in sql/queries/unallocated_cost.sql.
        case
            when otel_service_name = '__idle__' then 'idle'
            when otel_service_name = '__system__' then 'system'
            when resource_id = '__no_resource__' then 'no resource'
            when usage is null and (resource_id like 'arn:%:eks:%:cluster/%'
                or resource_id like '%/managedClusters/%'
                or resource_id like '//container.googleapis.com/%/clusters/%' or resource_id like 'ocid1.cluster.%') then 'control plane'
            when usage is null and (resource_id like 'arn:%:elasticloadbalancing:%'
                or resource_id like '%/loadBalancers/%' or resource_id like '%/applicationGateways/%'
                or resource_id like '%/forwardingRules/%' or resource_id like 'ocid1.loadbalancer.%'
                or resource_id like 'ocid1.networkloadbalancer.%') then 'load balancer'
            when usage is null and (resource_id like 'nat-%' or resource_id like 'eipalloc-%'
                or resource_id like 'vpce-%' or resource_id like 'tgw-%' or resource_id like '%/natGateways/%'
                or resource_id like '%/publicIPAddresses/%' or resource_id like '%/routers/%'
                or resource_id like '%/addresses/%' or resource_id like 'ocid1.natgateway.%') then 'NAT or egress'
            when usage is null and (resource_id like 'vol-%' or resource_id like 'snap-%'
                or resource_id like '%/disks/%' or resource_id like '%/snapshots/%'
                or resource_id like 'ocid1.volume.%' or resource_id like 'ocid1.bootvolume.%') then 'volume'
            when usage is null then 'unmetered'
            else 'unknown workload'
        end as reason,
        billing_currency,
        count(*) as windows,
        sum(allocated_cost) as cost
    from public.cost_allocations
    where window_start >= days.starts_at and window_start < days.ends_at
        and otel_service_name in ('__idle__', '__system__', '__unallocated__')
    group by 1, 2, 3, 4
) as of_day;

comment on view public.unallocated_costs_by_day is
    'Which cost goes to no service, and why. A row is a day, resource, dimension, reason and currency.';
comment on column public.unallocated_costs_by_day.day is 'The day, UTC, in which the windows start';
comment on column public.unallocated_costs_by_day.resource_id is
    'FOCUS ResourceId; __no_resource__ for charges without one';
comment on column public.unallocated_costs_by_day.dimension is
    'What of the resource is charged, for example cpu; other where the charge is for none of them';
comment on column public.unallocated_costs_by_day.reason is
    'idle (nobody used it), system (the cluster''s own pods did), no resource (tax, credits and the like), unknown workload (used by what no service.name is known of), or what no usage telemetry speaks of: control plane, load balancer, NAT or egress, volume, else unmetered';
comment on column public.unallocated_costs_by_day.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.unallocated_costs_by_day.windows is 'Its rows of cost_allocations';
comment on column public.unallocated_costs_by_day.cost is 'What it cost, provisional cost with it, in billing_currency';

create view public.restatements_by_day as
select
    days.day,
    anomaly_cost.team_of(of_day.otel_service_name) as team,
    of_day.*
from (
    select min(window_start) as first_window, max(window_start) as last_window from public.cost_allocations
) as bounds
cross join lateral anomaly_cost.days(bounds.first_window, bounds.last_window) as days
cross join lateral (
    select
        otel_service_name,
        resource_id,
        billing_currency,
        count(distinct window_start) as windows,
        sum(allocated_cost) as corrected_cost
    from public.cost_allocations
    where window_start >= days.starts_at and window_start < days.ends_at and cost_status = 'corrected'
    group by otel_service_name, resource_id, billing_currency
) as of_day;

comment on view public.restatements_by_day is
    'Which cost a later bill changed after a bill had told it. A row is a day, service, resource and currency.';
comment on column public.restatements_by_day.day is
    'The day, UTC, that the cost is of, not the day on which the later bill came';
comment on column public.restatements_by_day.team is
    'That has the service, by service_teams; __no_team__ where none fits';
comment on column public.restatements_by_day.otel_service_name is
    'The workload (service.name); __idle__, __system__ and __unallocated__ as in cost_allocations';
comment on column public.restatements_by_day.resource_id is 'FOCUS ResourceId; __no_resource__ for charges without one';
comment on column public.restatements_by_day.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.restatements_by_day.windows is 'Half hours of the day that were restated';
comment on column public.restatements_by_day.corrected_cost is
    'What they cost now, in billing_currency; what they cost before is not kept';

-- ---- budgets ------------------------------------------------------------------------------------

create index budgets_month on public.budgets (month);
create index budget_status_month on public.budget_status (month);

create view public.budget_months as
select
    month,
    budget,
    billing_currency,
    amount,
    billed_cost + provisional_cost as spent,
    billed_cost,
    provisional_cost,
    amount - billed_cost - provisional_cost as remaining,
    case
        when billed_cost + provisional_cost > amount then 'over'
        when forecast_cost > amount then 'will be over'
        else 'within'
    end as verdict,
    share_of_month,
    burn_rate,
    forecast_low,
    forecast_cost,
    forecast_high,
    forecast_method,
    forecast_cost - amount as forecast_over_budget,
    incidents_excess_cost,
    cost_until,
    updated_at
from public.budget_status
union all
select
    month, otel_service_name, billing_currency, amount, null, null, null, null, 'not computed', null, null, null, null,
    null, null, null, null, null, null
from public.budgets
-- Row by row, by the key: a join would read budget_status whole.
where 0 = (
    select count(*)
    from public.budget_status as computed
    where computed.month = budgets.month
        and computed.budget = budgets.otel_service_name
        and computed.billing_currency = budgets.billing_currency
);

comment on view public.budget_months is
    'How budgets stand, as jobs.budgets computed it last. A row is a budget, month and currency.';
comment on column public.budget_months.month is 'First day of the month, UTC';
comment on column public.budget_months.budget is 'Its name: of the file, or the service of a row of budgets';
comment on column public.budget_months.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.budget_months.amount is 'What the month may cost';
comment on column public.budget_months.spent is 'What it cost until cost_until: billed_cost + provisional_cost';
comment on column public.budget_months.billed_cost is 'What of spent the bill says';
comment on column public.budget_months.provisional_cost is 'What of spent there is no bill for yet, at the last known prices';
comment on column public.budget_months.remaining is 'amount - spent; negative where it is overspent';
comment on column public.budget_months.verdict is
    'over (more is spent than the month may cost), will be over (more is forecast), within, or not computed (run jobs.budgets)';
comment on column public.budget_months.share_of_month is 'How much of the month is over at cost_until, 0 to 1';
comment on column public.budget_months.burn_rate is
    'Share of the budget that is spent / share of the month that is over; above 1 it will not last; null of a budget of 0';
comment on column public.budget_months.forecast_low is
    'Of ten months nine will cost at least so much and at most forecast_high';
comment on column public.budget_months.forecast_cost is 'What the whole month will cost, the median';
comment on column public.budget_months.forecast_high is 'See forecast_low';
comment on column public.budget_months.forecast_method is
    'weekly (exponential smoothing with a week''s pattern), level (without one), mean (of the days) or none (too few days)';
comment on column public.budget_months.forecast_over_budget is 'forecast_cost - amount; negative where money will be left';
comment on column public.budget_months.incidents_excess_cost is
    'What of the month''s cost the excess of incidents is';
comment on column public.budget_months.cost_until is 'End of the newest window of cost_allocations, UTC';
comment on column public.budget_months.updated_at is 'When it was computed, UTC';

-- ---- unit costs ---------------------------------------------------------------------------------

create view public.unit_costs_by_day as
select
    days.day,
    anomaly_cost.team_of(of_day.root_service_name) as team,
    of_day.*,
    round(of_day.cost / nullif(of_day.requests, 0), 12) as cost_per_request
from (
    select min(window_start) as first_window, max(window_start) as last_window from public.unit_costs
) as bounds
cross join lateral anomaly_cost.days(bounds.first_window, bounds.last_window) as days
cross join lateral (
    select
        root_service_name,
        root_operation,
        billing_currency,
        sum(requests) as requests,
        sum(cost) as cost,
        coalesce(sum(provisional_cost), 0) as provisional_cost
    from (
        -- Each workload that a kind of request asked has a row, with the same requests in it.
        select
            root_service_name,
            root_operation,
            billing_currency,
            max(requests) as requests,
            sum(cost) as cost,
            sum(cost) filter (where cost_status = 'provisional') as provisional_cost
        from public.unit_costs
        where window_start >= days.starts_at and window_start < days.ends_at
        group by window_start, root_service_name, root_operation, billing_currency
    ) as of_window
    group by root_service_name, root_operation, billing_currency
) as of_day;

comment on view public.unit_costs_by_day is
    'What a request costs, over all workloads that it asks; sums to unit_costs. A row is a day, kind of request and currency.';
comment on column public.unit_costs_by_day.day is 'The day, UTC, in which the windows start';
comment on column public.unit_costs_by_day.team is
    'That has root_service_name, by service_teams; __no_team__ where none fits';
comment on column public.unit_costs_by_day.root_service_name is
    'Workload (service.name) that the requests came to first; __untraced__ for what no trace of the window asked for; __idle__, __system__ and __unallocated__ as in cost_allocations';
comment on column public.unit_costs_by_day.root_operation is
    'Their operation there: the name of the root span; empty where there is none';
comment on column public.unit_costs_by_day.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.unit_costs_by_day.requests is
    'Such requests, each counted once, those that samplers left out among them; null where there is none';
comment on column public.unit_costs_by_day.cost is 'What they cost together, in billing_currency';
comment on column public.unit_costs_by_day.provisional_cost is
    'What of cost there is no bill for yet, at the last known prices';
comment on column public.unit_costs_by_day.cost_per_request is
    'cost / requests, rounded to 12 places; over several days divide the sums, don''t average this';

create view public.attribute_costs_by_day as
select
    days.day,
    of_day.*,
    round(of_day.cost / nullif(of_day.requests, 0), 12) as cost_per_request
from (
    select min(window_start) as first_window, max(window_start) as last_window from public.unit_costs_by_attribute
) as bounds
cross join lateral anomaly_cost.days(bounds.first_window, bounds.last_window) as days
cross join lateral (
    select
        attribute_name,
        attribute_value,
        billing_currency,
        sum(requests) as requests,
        sum(cost) as cost,
        coalesce(sum(provisional_cost), 0) as provisional_cost
    from (
        select
            attribute_name,
            attribute_value,
            billing_currency,
            max(requests) as requests,
            sum(cost) as cost,
            sum(cost) filter (where cost_status = 'provisional') as provisional_cost
        from public.unit_costs_by_attribute
        where window_start >= days.starts_at and window_start < days.ends_at
        group by window_start, attribute_name, attribute_value, billing_currency
    ) as of_window
    group by attribute_name, attribute_value, billing_currency
) as of_day;

comment on view public.attribute_costs_by_day is
    'What a tenant, customer or feature costs; for each attribute sums to unit_costs_by_attribute. A row is a day, attribute, value and currency.';
comment on column public.attribute_costs_by_day.day is 'The day, UTC, in which the windows start';
comment on column public.attribute_costs_by_day.attribute_name is
    'One of unit_costs.attributes; choose one before you add up';
comment on column public.attribute_costs_by_day.attribute_value is
    'Its value in the root span; __none__ where it has none, __other__ beyond the 200 that most requests have, __untraced__, __idle__, __system__ and __unallocated__ as in unit_costs';
comment on column public.attribute_costs_by_day.billing_currency is 'Currency of every amount of the row, ISO 4217';
comment on column public.attribute_costs_by_day.requests is
    'Such requests, each counted once, those that samplers left out among them; null where there is none';
comment on column public.attribute_costs_by_day.cost is 'What they cost together, in billing_currency';
comment on column public.attribute_costs_by_day.provisional_cost is
    'What of cost there is no bill for yet, at the last known prices';
comment on column public.attribute_costs_by_day.cost_per_request is
    'cost / requests, rounded to 12 places; over several days divide the sums, don''t average this';

grant select on
    public.service_teams,
    public.incidents_now,
    public.anomaly_costs_by_day,
    public.costs_by_day,
    public.unallocated_costs_by_day,
    public.restatements_by_day,
    public.budget_months,
    public.unit_costs_by_day,
    public.attribute_costs_by_day
to anomaly_cost_reader;
