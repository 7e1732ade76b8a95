-- collect: read each billing file once; a row is a charge or a reject, never both.
-- grain: one FOCUS row a row
-- key: charge_key (the row's content, its copy number among identical rows of its delivery, and its version)
-- sku, offered_ms and offer: what the charge tells of its SKU's rate, NULL where it tells nothing
create temporary view collected_charges as
select
    c.resource_id,
    c.charge_key,
    c.charge,
    c.sku,
    c.offered_ms,
    c.offer,
    c.reject
from ${charges} as c (resource_id, charge_key, charge, sku, offered_ms, offer, reject)
