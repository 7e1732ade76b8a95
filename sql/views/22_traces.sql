-- assemble: a trace is the set of its fragments; a late span makes the trace anew by itself.
-- grain: one trace a row; key: trace_id; state: its fragments, until table.exec.state.ttl
-- A trace of logs alone has no start and is left out further down.
create temporary view traces as
select
    trace_id,
    assemble(trace_id, array_agg(fragment)) as trace
from trace_fragments
group by trace_id
