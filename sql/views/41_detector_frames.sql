-- detect: what the detector reads, a row for each minute of traces, each bucket of usage, and what is said.
-- grain: one (kind, time_ms) a row; key: both
create temporary view detector_frames as
select
    'traces' as kind,
    minute_ms as time_ms,
    frame
from trace_frames
union all
select
    'usage' as kind,
    bucket_ms as time_ms,
    listagg(metered, u&'\000A') as frame
from usage_owned
group by bucket_ms
union all
select 'feedback' as kind, cast(0 as bigint) as time_ms, cast(said as string) as frame
from collected_feedback
where said is not null
