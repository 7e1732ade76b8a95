-- A time that changes once a minute: keyed functions are called by it, key by key. A timer that a worker sets just
-- before a checkpoint isn't in it: after a restart nobody would wake its key.
-- grain: one row in all; called_at in s of the engine's clock
create temporary view roll_call as
select max(unix_timestamp()) as called_at
from seconds
where mod(unix_timestamp(), 60) = 0
