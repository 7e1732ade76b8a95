-- Where the input has no end: what pulses are made of. The connector sends a second's rows all at once.
-- grain: 8 a second, of 32 keys
create temporary table beats (
    n bigint not null,
    beat_at as proctime()
) with (
    'connector' = 'datagen',
    'rows-per-second' = '8',
    'fields.n.min' = '0',
    'fields.n.max' = '31'
)
