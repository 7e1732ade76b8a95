-- meter: usage with its owner: as the metric says, else as the pod's other telemetry says (uid before name).
-- grain: one (bucket, consumer) a row; key: consumer
-- resource_id and otel_service_name are '' where nobody knows them
create temporary view usage_owned as
select
    u.consumer,
    u.bucket_ms,
    coalesce(u.resource_id, by_uid.owner.resource_id, by_name.owner.resource_id, '') as resource_id,
    own(
        coalesce(u.otel_service_name, by_uid.owner.otel_service_name, by_name.owner.otel_service_name, ''),
        coalesce(nullif(u.pod_uid, ''), u.pod_name),
        u.metered
    ) as metered
from consumer_usage as u
left join pod_owners as by_uid on u.pod_uid = by_uid.pod
left join pod_owners as by_name on u.pod_name = by_name.pod
