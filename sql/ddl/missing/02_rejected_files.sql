-- Files that can't be read, where none are read.
-- grain: none
create temporary view rejected_files as
select cast(null as string) as reject
from (values (1)) as missing (n)
where n = 0
