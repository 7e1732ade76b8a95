-- collect: decode each request once; spans go on by trace, what can't be used goes to rejected_records.
-- grain: one request a row; of those that come together the first says all, the others nothing
-- fragments: trace_id -> that trace's spans; pods: pod -> its workload and billed resource
create temporary view collected_spans as
select collect_spans(line) as collected
from otlp_spans
