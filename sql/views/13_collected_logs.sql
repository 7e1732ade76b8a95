-- collect: decode each request once; log records go on by trace.
-- grain: one request a row; of those that come together the first says all, the others nothing
create temporary view collected_logs as
select collect_logs(line) as collected
from otlp_logs
