-- A row now and then that says nothing, for every worker, where the input has no end.
-- grain: 16 a second, of 32 keys
create temporary table pulses (
    n bigint not null
) with (
    'connector' = 'datagen',
    'rows-per-second' = '16',
    'fields.n.min' = '0',
    'fields.n.max' = '31'
)
