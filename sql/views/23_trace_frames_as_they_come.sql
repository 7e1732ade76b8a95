-- assemble, of an input without end: each trace is a row, so that one that changes doesn't move all of its minute.
-- grain: one trace a row; minute_ms is that of its first span
create temporary view trace_frames as
select
    traces.trace.minute_ms as minute_ms,
    traces.trace.packed as frame
from traces
where traces.trace.minute_ms is not null
