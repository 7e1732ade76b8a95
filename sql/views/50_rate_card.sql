-- price: what a unit of each SKU costs, by the bills of all resources: for resources whose own bill is not there yet.
-- grain: one row in all
-- state: of each SKU and currency the newest offer of each of the last 240 hours that it was charged in
create temporary view rate_card as
with offers as (
    select
        sku,
        max(offer) as offer,
        count(distinct resource_id) as resources
    from collected_charges
    where offer is not null
    -- A ring of ten days; an offer begins with its time, so that the newest hour is the greatest.
    group by sku, mod(offered_ms / 3600000, 240)
)
select rate_card(array_agg(concat(cast(resources as string), ' ', offer))) as card
from offers
