-- meter: usage of one consumer in one bucket, from its points there and just beyond its bounds.
-- grain: one (bucket, consumer) a row; key: consumer (bucket, pod uid, pod name, workload, resource in one string)
-- state: the bucket's points, until table.exec.state.ttl
create temporary view consumer_usage as
select
    consumer,
    cast(split_index(consumer, u&'\001F', 0) as bigint) as bucket_ms,
    split_index(consumer, u&'\001F', 1) as pod_uid,
    split_index(consumer, u&'\001F', 2) as pod_name,
    nullif(split_index(consumer, u&'\001F', 3), '') as otel_service_name,
    nullif(split_index(consumer, u&'\001F', 4), '') as resource_id,
    meter(consumer, array_agg(fragment)) as metered
from (
    select f.consumer, f.fragment
    from (select collected_metrics.collected.fragments as fs from collected_metrics)
    cross join unnest(fs) as f (consumer, fragment)
)
group by consumer
