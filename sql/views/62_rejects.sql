-- collect, meter, detect, attribute: every record that could not be used, once, however often it was delivered; with
-- what came when its window waited no more, and what is further ahead of the others than clocks may differ.
-- grain: one (`stream`, reason, payload) a row; state: one entry for each of them
create temporary view rejects as
with delivered as (
    select r.reject
    from (select collected_spans.collected.rejects as rs from collected_spans)
    cross join unnest(rs) as r (reject)
    union all
    select r.reject
    from (select collected_metrics.collected.rejects as rs from collected_metrics)
    cross join unnest(rs) as r (reject)
    union all
    select r.reject
    from (select collected_logs.collected.rejects as rs from collected_logs)
    cross join unnest(rs) as r (reject)
    union all
    select reject
    from rejected_files
    union all
    select reject
    from collected_charges
    where reject is not null
    union all
    select reject
    from collected_feedback
    where reject is not null
    union all
    select cast(payload as string) as reject
    from attributed
    where kind in ('late_charges', 'late_usage')
    union all
    -- What is ahead of the others; 'null' takes it back, once others follow.
    select cast(payload as string) as reject
    from attributed
    where kind in ('ahead_charges', 'ahead_usage') and cast(payload as string) <> 'null'
    union all
    select cast(payload as string) as reject
    from incidents
    where kind = 'ahead_traces' and cast(payload as string) <> 'null'
)
select
    `stream`,
    reason,
    payload,
    min(event_time_ms) as event_time_ms,
    min(reason_code) as reason_code
from (
    select `stream`, reason, payload, event_time_ms, reason_code
    from delivered, lateral table(reject_columns(reject)) as c (`stream`, reason, payload, event_time_ms, reason_code)
    union all
    select
        'otlp_metrics' as `stream`,
        'usage of a pod whose billed resource is unknown: send cloud.resource_id, host.id or k8s.node.name with it' as reason,
        json_object('pod' value pod, 'otel_service_name' value otel_service_name) as payload,
        bucket_ms as event_time_ms,
        'no_resource' as reason_code
    from usage_owned
    where resource_id = ''
)
group by `stream`, reason, payload
