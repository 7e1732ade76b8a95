-- assemble, of an input that ends: all traces of a minute as one row, so that the detector is called once a minute.
-- grain: one minute of event time (of the traces' first spans) a row; key: minute_ms
create temporary view trace_frames as
select
    minute_ms,
    listagg(packed, u&'\000A') as frame
from (
    select
        traces.trace.minute_ms as minute_ms,
        traces.trace.packed as packed
    from traces
)
where minute_ms is not null
group by minute_ms
