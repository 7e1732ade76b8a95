-- A row now and then that says nothing, for every worker: what a timer has brought about is handed on with the next row.
-- grain: one a key of the last 1.2 seconds and tenth of a second
create temporary view pulses as
select n
from table(hop(table beats, descriptor(beat_at), interval '0.1' second, interval '1.2' second))
group by window_start, window_end, n
