-- rank: all that concerns one window: who misbehaved in it, what requests asked for, and who cost what. What people say
-- of incidents goes through it to follow.
-- grain: one (kind, window_ms, event_key) a row; key: all three
create temporary view window_evidence as
select kind, time_ms as window_ms, event_key, payload
from incidents
where kind in ('incidents', 'requests')
union all
select kind, time_ms as window_ms, event_key, payload
from attributed
where kind = 'allocations'
union all
select 'feedback' as kind, cast(0 as bigint) as window_ms, said_key as event_key, said as payload
from collected_feedback
where said is not null
