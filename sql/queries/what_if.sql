-- How would the ranking stand under other prices, or if some kinds of anomaly weighed more?
-- Grain: one row per ranked anomaly; old_rank is the table's, new_rank that of the scenario.
-- Edit the three CTEs on top. prices: factor on the unit price of a dimension. severities: factor on alpha
-- of a kind, and on its excess cost where that alone is ranked by. scenario: ranked_by 'excess' (the job's
-- default), 'excess_score' (alpha * ln(1 + excess)), 'billed_excess' (what of the excess is on the bill) or
-- 'score' (S). A dimension or kind that isn't named stays as it is. With all factors 1 and the job's own order the two ranks are equal.
-- Tables: ranked_anomalies, of which the columns and the explanation alone are read.
-- Run on DuckDB 2.0 and PostgreSQL 15; on Flink SQL it is the view of this name in sql/client/init.sql.
with prices (dimension, factor) as (
    values ('cpu', 1.0), ('memory', 1.0), ('io', 1.0), ('network', 2.0)
),
severities (anomaly_kind, factor) as (
    values ('latency_spike', 1.0), ('retry_loop', 1.0), ('resource_overuse', 1.0), ('dependency_failure', 1.0)
),
scenario (ranked_by) as (
    values ('excess')
),
explained as (
    select anomaly_id, cast(explanation as json) as explanation
    from ranked_anomalies
),
costs as (
    select explained.anomaly_id, 'attributed' as what, element ->> 'x_Dimension' as dimension,
        cast(element ->> 'x_AllocatedCost' as decimal(28, 12)) as cost
    from explained
    cross join lateral generate_series(
        0, cast(json_array_length(explained.explanation -> 'Elements') as integer) - 1
    ) as numbers(n)
    cross join lateral (
        select (explained.explanation -> 'Elements') -> cast(numbers.n as integer) as element
    ) as elements
    union all
    select explained.anomaly_id,
        case when element ->> 'x_PriceBasis' in ('metered', 'pool') then 'billed excess' else 'excess' end as what,
        element ->> 'x_Dimension' as dimension,
        cast(element ->> 'x_Cost' as decimal(28, 12)) as cost
    from explained
    cross join lateral generate_series(
        0, cast(json_array_length(explained.explanation -> 'x_ExcessUsage') as integer) - 1
    ) as numbers(n)
    cross join lateral (
        select (explained.explanation -> 'x_ExcessUsage') -> cast(numbers.n as integer) as element
    ) as elements
),
repriced as (
    select
        costs.anomaly_id,
        sum(case when costs.what = 'attributed' then costs.cost * cast(coalesce(prices.factor, 1) as decimal(9, 6)) end)
            as attributed_cost,
        sum(case when costs.what <> 'attributed' then costs.cost * cast(coalesce(prices.factor, 1) as decimal(9, 6)) end)
            as excess_cost,
        sum(case when costs.what = 'billed excess' then costs.cost * cast(coalesce(prices.factor, 1) as decimal(9, 6)) end)
            as billed_excess_cost
    from costs
    left join prices on prices.dimension = costs.dimension
    group by costs.anomaly_id
),
judged as (
    select
        ranked.anomaly_id,
        ranked.window_start,
        ranked.otel_service_name,
        ranked.anomaly_kind,
        ranked.billing_currency,
        ranked.rank as old_rank,
        ranked.attributed_cost as old_attributed_cost,
        ranked.excess_cost as old_excess_cost,
        cast(coalesce(repriced.attributed_cost, 0) as decimal(28, 12)) as new_attributed_cost,
        cast(case when ranked.excess_cost is not null then coalesce(repriced.excess_cost, 0) end as decimal(28, 12))
            as new_excess_cost,
        coalesce(repriced.billed_excess_cost, 0) as new_billed_excess_cost,
        ranked.anomaly_score * cast(coalesce(severities.factor, 1) as double precision) as new_anomaly_score,
        cast(coalesce(severities.factor, 1) as double precision) as severity
    from ranked_anomalies as ranked
    left join repriced on repriced.anomaly_id = ranked.anomaly_id
    left join severities on severities.anomaly_kind = ranked.anomaly_kind
),
scored as (
    select
        judged.*,
        new_anomaly_score * sign(cast(new_attributed_cost as double precision))
            * ln(1 + abs(cast(new_attributed_cost as double precision))) as new_score,
        case scenario.ranked_by
            when 'excess' then severity * cast(coalesce(new_excess_cost, 0) as double precision)
            when 'billed_excess' then severity * cast(new_billed_excess_cost as double precision)
            when 'excess_score' then new_anomaly_score * sign(cast(coalesce(new_excess_cost, 0) as double precision))
                * ln(1 + abs(cast(coalesce(new_excess_cost, 0) as double precision)))
            else 0
        end as merit
    from judged
    cross join scenario
),
reranked as (
    select
        window_start,
        billing_currency,
        otel_service_name,
        anomaly_kind,
        old_rank,
        row_number() over (
            partition by window_start, billing_currency
            order by merit desc, new_score desc, new_attributed_cost desc, new_anomaly_score desc, otel_service_name
        ) as new_rank,
        old_attributed_cost,
        new_attributed_cost,
        old_excess_cost,
        new_excess_cost,
        new_score
    from scored
)
select *
from reranked
order by window_start, billing_currency, new_rank;
