-- collect: decode each request once; usage points go on by consumer and bucket.
-- grain: one request a row; of those that come together the first says all, the others nothing
create temporary view collected_metrics as
select collect_metrics(line) as collected
from otlp_metrics
