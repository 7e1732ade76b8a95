-- collect: decode each request once; usage points go on by consumer and bucket.
-- grain: one request a row
create temporary view collected_metrics as
select collect_metrics(line) as collected
from otlp_metrics
