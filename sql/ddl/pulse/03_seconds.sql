-- A second.
-- grain: one a second
create temporary table seconds (
    n bigint not null
) with (
    'connector' = 'datagen',
    'rows-per-second' = '1'
)
