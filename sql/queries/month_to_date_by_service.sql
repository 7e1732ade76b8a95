-- Where will each service stand at the end of the month, against its budget?
-- Grain: one row per service and currency, for the month of the latest window.
-- Tables: cost_allocations; budgets (otel_service_name, month date, amount, billing_currency), the user's.
-- Cost includes provisional rows, and __idle__, __system__ and __unallocated__ as services of these names. Days are
-- completed that lie whole between the first window and the latest. The rest of the month costs what the
-- completed days (at most 28) cost in the mean; from 14 of them on, those of the same weekday. Without any,
-- the month goes on as it began. projected_over_budget is negative where money is left.
-- Time zone of the session: UTC. Run on DuckDB 2.0 and PostgreSQL 15, not on Flink SQL (no isodow there).
with bounds as (
    select
        max(window_start) + interval '30' minute as as_of,
        cast(date_trunc('month', max(window_start)) as date) as month_start,
        cast(date_trunc('month', max(window_start)) + interval '1' month as date) as month_end,
        cast(min(window_start) + interval '23' hour + interval '30' minute as date) as first_day,
        cast(max(window_start) + interval '30' minute as date) as last_day
    from cost_allocations
),
numbers as (
    select tens.n * 8 + ones.n as n
    from (values (0), (1), (2), (3)) as tens(n)
    cross join (values (0), (1), (2), (3), (4), (5), (6), (7)) as ones(n)
),
completed as (  -- the days that the projection rests on
    select cast(bounds.last_day - (numbers.n + 1) * interval '1' day as date) as day
    from bounds
    cross join numbers
    where numbers.n < 28 and bounds.last_day - (numbers.n + 1) * interval '1' day >= bounds.first_day
),
calendar as (  -- what is left of the month, in days
    select
        extract(isodow from bounds.month_start + numbers.n * interval '1' day) as weekday,
        case
            when cast(bounds.month_start + numbers.n * interval '1' day as date) = bounds.last_day
            then 1 - extract(epoch from bounds.as_of - cast(bounds.last_day as timestamp with time zone)) / 86400.0
            else 1
        end as days
    from bounds
    cross join numbers
    where bounds.month_start + numbers.n * interval '1' day >= bounds.last_day
        and bounds.month_start + numbers.n * interval '1' day < bounds.month_end
),
daily as (
    select
        otel_service_name,
        billing_currency,
        cast(window_start as date) as day,
        sum(allocated_cost) as cost
    from cost_allocations
    group by otel_service_name, billing_currency, cast(window_start as date)
),
month_budgets as (
    select budgets.otel_service_name, budgets.billing_currency, sum(budgets.amount) as amount
    from budgets
    cross join bounds
    where budgets.month >= bounds.month_start and budgets.month < bounds.month_end
    group by budgets.otel_service_name, budgets.billing_currency
),
services as (
    select otel_service_name, billing_currency from daily
    union
    select otel_service_name, billing_currency from month_budgets
),
to_date as (
    select
        services.otel_service_name,
        services.billing_currency,
        coalesce(sum(daily.cost), 0) as cost
    from services
    cross join bounds
    left join daily
        on daily.otel_service_name = services.otel_service_name
        and daily.billing_currency = services.billing_currency
        and daily.day >= bounds.month_start
    group by services.otel_service_name, services.billing_currency
),
weekdays as (  -- of each service, the mean of its completed days, in all and by weekday
    select
        services.otel_service_name,
        services.billing_currency,
        extract(isodow from completed.day) as weekday,
        sum(coalesce(daily.cost, 0)) / count(*) as mean_cost
    from services
    cross join completed
    left join daily
        on daily.otel_service_name = services.otel_service_name
        and daily.billing_currency = services.billing_currency
        and daily.day = completed.day
    group by services.otel_service_name, services.billing_currency, extract(isodow from completed.day)
),
means as (
    select
        services.otel_service_name,
        services.billing_currency,
        sum(coalesce(daily.cost, 0)) / count(*) as mean_cost
    from services
    cross join completed
    left join daily
        on daily.otel_service_name = services.otel_service_name
        and daily.billing_currency = services.billing_currency
        and daily.day = completed.day
    group by services.otel_service_name, services.billing_currency
),
basis as (
    select
        count(*) as completed_days,
        case
            when count(*) >= 14 then 'mean of each weekday'
            when count(*) > 0 then 'mean of completed days'
            else 'share of the month'
        end as projected_by
    from completed
),
remaining as (
    select
        services.otel_service_name,
        services.billing_currency,
        sum(
            case when basis.completed_days >= 14 then weekdays.mean_cost else means.mean_cost end * calendar.days
        ) as cost
    from services
    cross join calendar
    cross join basis
    left join weekdays
        on weekdays.otel_service_name = services.otel_service_name
        and weekdays.billing_currency = services.billing_currency
        and weekdays.weekday = calendar.weekday
    left join means
        on means.otel_service_name = services.otel_service_name
        and means.billing_currency = services.billing_currency
    group by services.otel_service_name, services.billing_currency
),
elapsed as (
    select
        as_of,
        month_start,
        extract(epoch from as_of - cast(month_start as timestamp with time zone))
            / extract(epoch from cast(month_end as timestamp with time zone)
                - cast(month_start as timestamp with time zone)) as share
    from bounds
),
projected as (
    select
        elapsed.month_start as month,
        elapsed.as_of,
        to_date.otel_service_name,
        to_date.billing_currency,
        to_date.cost as cost_to_date,
        cast(elapsed.share as double precision) as share_of_month_elapsed,
        basis.completed_days,
        basis.projected_by,
        cast(case
            when elapsed.share >= 1 then to_date.cost
            when basis.completed_days = 0 then to_date.cost / elapsed.share
            else to_date.cost + remaining.cost
        end as decimal(28, 12)) as projected_cost,
        month_budgets.amount as budget
    from to_date
    cross join elapsed
    cross join basis
    left join remaining
        on remaining.otel_service_name = to_date.otel_service_name
        and remaining.billing_currency = to_date.billing_currency
    left join month_budgets
        on month_budgets.otel_service_name = to_date.otel_service_name
        and month_budgets.billing_currency = to_date.billing_currency
)
select
    month,
    as_of,
    otel_service_name,
    billing_currency,
    cost_to_date,
    share_of_month_elapsed,
    completed_days,
    projected_by,
    projected_cost,
    budget,
    projected_cost - budget as projected_over_budget,
    case when projected_cost > budget then 'over' when projected_cost <= budget then 'under' end as verdict
from projected
order by billing_currency, projected_cost - budget desc nulls last, projected_cost desc, otel_service_name;
