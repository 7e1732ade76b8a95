-- collect: read each billing file once; a row is a charge or a reject, never both.
-- grain: one FOCUS row a row
-- key: charge_key (the row's content and its ordinal among identical rows of its file)
create temporary view collected_charges as
select
    c.resource_id,
    c.charge_key,
    c.charge,
    c.reject
from charge_files, lateral table(collect_charges(path, '${cost_column}')) as c (resource_id, charge_key, charge, reject)
