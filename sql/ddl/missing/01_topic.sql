-- A stream whose topic is missing, where the input has an end.
-- grain: none; the columns of a topic's table
create temporary view ${topic} as
select
    cast(null as bytes) as line,
    cast(null as timestamp_ltz(3)) as delivered
from (values (1)) as missing (n)
where n = 0
