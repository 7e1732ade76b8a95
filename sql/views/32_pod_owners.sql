-- meter: who a pod belongs to, as all its telemetry says together; two workloads that both claim a pod leave it unknown.
-- grain: one pod name or uid a row; key: pod; state: the distinct claims
create temporary view pod_owners as
with claims as (
    select distinct p.pod, p.claim
    from (select collected_spans.collected.pods as ps from collected_spans)
    cross join unnest(ps) as p (pod, claim)
    union
    select distinct p.pod, p.claim
    from (select collected_metrics.collected.pods as ps from collected_metrics)
    cross join unnest(ps) as p (pod, claim)
)
select
    pod,
    pod_owner(array_agg(claim)) as owner
from claims
group by pod
