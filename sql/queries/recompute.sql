-- Does every ranked row follow from its explanation? Lists those that don't: none.
-- Grain: one row per ranked anomaly whose c_s or S differs. c_s is the sum of its elements, exactly; each element
-- is its share of the resource's cost, (1), to the last place; S follows from c_s and alpha, (2); excess is the sum
-- of what was used beyond the usual, at the price of one more unit, and billed that of it which is on the bill.
-- Tables: ranked_anomalies. Run on DuckDB 2.0 and PostgreSQL 15, not on Flink SQL.
with explained as (
    select anomaly_id, attributed_cost, excess_cost, billed_excess_cost, anomaly_score, cost_weighted_score,
        cast(explanation as json) as e
    from ranked_anomalies
),
elements as (
    select anomaly_id, (e -> 'Elements') -> cast(n as integer) as element from explained
    cross join lateral generate_series(0, cast(json_array_length(e -> 'Elements') as integer) - 1) as numbers(n)
),
costs as (
    select anomaly_id, count(*) as places, sum(cast(element ->> 'x_AllocatedCost' as decimal(28, 12))) as c_s,
        sum(cast(element ->> 'x_ResourceCost' as double precision)
            * cast(element ->> 'AllocatedRatio' as double precision)) as by_share
    from elements group by anomaly_id
),
parts as (
    select anomaly_id, (e -> 'x_ExcessUsage') -> cast(n as integer) as part from explained
    cross join lateral generate_series(0, cast(json_array_length(e -> 'x_ExcessUsage') as integer) - 1) as numbers(n)
),
used as (
    select anomaly_id, count(*) as uses, sum(cast(part ->> 'x_Cost' as decimal(28, 12))) as excess,
        sum(abs(cast(part ->> 'x_Cost' as double precision))) as size,
        sum(case when part ->> 'x_PriceBasis' in ('metered', 'pool') then cast(part ->> 'x_Cost' as decimal(28, 12)) end)
            as billed,
        sum(cast(part ->> 'x_ExcessQuantity' as double precision) * cast(part ->> 'x_UnitRate' as double precision))
            as by_rate
    from parts group by anomaly_id
),
recomputed as (
    select x.anomaly_id, x.attributed_cost, x.excess_cost, coalesce(excess, 0) as excess, x.billed_excess_cost,
        coalesce(billed, 0) as billed, coalesce(by_rate, 0) as by_rate, coalesce(uses, 0) as uses,
        coalesce(size, 0) as size, coalesce(c_s, 0) as c_s, coalesce(by_share, 0) as by_share,
        coalesce(places, 0) as places, x.anomaly_score, x.cost_weighted_score,
        sign(cast(coalesce(c_s, 0) as double precision)) * cast(e ->> 'x_MeanTraceScore' as double precision)
            * ln(1 + cast(e ->> 'x_AnomalousTraces' as double precision)) / ln(cast(2 as double precision))
            * ln(1 + abs(cast(coalesce(c_s, 0) as double precision))) as s
    from explained as x
    left join costs on costs.anomaly_id = x.anomaly_id
    left join used on used.anomaly_id = x.anomaly_id
)
select anomaly_id, attributed_cost, c_s, by_share, excess_cost, excess, billed_excess_cost, billed,
    cost_weighted_score, s
from recomputed
where c_s <> attributed_cost
    or excess <> excess_cost
    or billed <> billed_excess_cost
    or abs(by_rate - cast(excess as double precision)) > 1e-12 * (uses + size)
    or abs(by_share - cast(c_s as double precision)) > 1e-12 * (places + abs(cast(c_s as double precision)))
    or abs(s - cost_weighted_score) > 1e-9 * abs(cost_weighted_score) + 1e-15 * anomaly_score  -- of ln(1 + c_s)
order by anomaly_id;
