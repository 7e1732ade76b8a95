-- price, attribute: all that concerns one billed resource: who used it and what was charged for it.
-- grain: one (resource_id, kind, event_key) a row; key: all three
create temporary view resource_events as
select
    resource_id,
    'usage' as kind,
    consumer as event_key,
    metered as payload
from usage_owned
union all
select
    resource_id,
    'charge' as kind,
    charge_key as event_key,
    charge as payload
from collected_charges
where charge is not null
