-- price, attribute: all that concerns one billed resource: who used it, what was charged for it, and the rate card.
-- grain: one (resource_id, kind, event_key) a row; key: all three
create temporary view resource_events as
select
    resource_id,
    'usage' as kind,
    consumer as event_key,
    metered as payload
from usage_owned
where resource_id <> ''
union all
select
    resource_id,
    'charge' as kind,
    charge_key as event_key,
    charge as payload
from collected_charges
where charge is not null
union all
select
    used.resource_id,
    'rates' as kind,
    '' as event_key,
    rate_card.card as payload
from (select distinct resource_id from usage_owned where resource_id <> '') as used
cross join rate_card
