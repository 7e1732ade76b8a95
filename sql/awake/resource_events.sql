-- The events, and pulses in between; once a minute a call to each resource: see sql/ddl/pulse.
-- grain: one event a row, a pulse or a call
create temporary view resource_events_awake as
select * from resource_events
union all
select 'pulse ' || cast(n as string), 'pulse', '', '' from pulses
union all
select resource_id, 'call', '', ''
from (select distinct resource_id from resource_events)
cross join roll_call
