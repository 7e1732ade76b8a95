-- What people and programs say of incidents, as the run's folder of links to files holds it; there may be none.
-- grain: one thing said a row, a JSON object
create temporary table incident_feedback (
    line bytes
) with (
    'connector' = 'filesystem',
    'path' = '${input}/feedback',
    'format' = 'raw'
)
