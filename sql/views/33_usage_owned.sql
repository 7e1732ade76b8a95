-- meter: usage with its owner: as the metric says, else as the pod's other telemetry says (uid before name).
-- grain: one (bucket, consumer) a row; key: consumer
-- resource_id and otel_service_name are '' where nobody knows them; a pod of the cluster's own namespaces that
-- nobody claims is the system's
create temporary view usage_owned as
select
    consumer,
    bucket_ms,
    resource_id,
    otel_service_name,
    pod,
    own(otel_service_name, pod, metered, cost_center) as metered
from (
    select
        u.consumer,
        u.bucket_ms,
        u.metered,
        coalesce(nullif(u.pod_uid, ''), u.pod_name) as pod,
        coalesce(u.resource_id, by_uid.owner.resource_id, by_name.owner.resource_id, '') as resource_id,
        coalesce(
            u.otel_service_name,
            by_uid.owner.otel_service_name,
            by_name.owner.otel_service_name,
            case when split_index(u.pod_name, '/', 0) in (${system_namespaces}) then '__system__' end,
            ''
        ) as otel_service_name,
        coalesce(by_uid.owner.cost_center, by_name.owner.cost_center, '') as cost_center
    from consumer_usage as u
    left join pod_owners as by_uid on u.pod_uid = by_uid.pod
    left join pod_owners as by_name on u.pod_name = by_name.pod
)
