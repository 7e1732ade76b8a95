-- The evidence, and pulses in between; once a minute a call to each window: see sql/ddl/pulse.
-- grain: one piece of evidence a row, a pulse or a call
create temporary view window_evidence_awake as
select * from window_evidence
union all
select 'pulse', n, '', cast('' as bytes) from pulses
union all
select 'call', window_ms, '', cast('' as bytes)
from (select distinct window_ms from window_evidence)
cross join roll_call
