-- collect: read what people and programs say of incidents.
-- grain: one thing said a row, or a reject
create temporary view collected_feedback as
select f.said_key, f.said, f.reject
from incident_feedback, lateral table(collect_feedback(line)) as f (said_key, said, reject)
