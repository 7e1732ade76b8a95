-- assemble: what requests say of each trace, spans and logs side by side.
-- grain: one (requests that came together, trace) a row
create temporary view trace_fragments as
select f.trace_id, f.fragment
from (select collected_spans.collected.fragments as fs from collected_spans)
cross join unnest(fs) as f (trace_id, fragment)
union all
select f.trace_id, f.fragment
from (select collected_logs.collected.fragments as fs from collected_logs)
cross join unnest(fs) as f (trace_id, fragment)
