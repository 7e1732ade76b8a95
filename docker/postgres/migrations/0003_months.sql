-- The partitions: months ahead, late months, and the end of what is kept.

create function anomaly_cost.maintain(keep interval, ahead interval)
returns setof text
language plpgsql
set timezone = 'UTC'
set search_path = pg_catalog
as $$
-- For each table of public whose default partition lies in this schema: makes the months from now until
-- now + ahead, and those that rows of the default partition belong to, and moves these rows there.
--   keep: months, and rejected records, that are older than this are dropped; null = nothing is dropped.
-- Rows of times to come after now + ahead, or older than five years where keep is null, stay in the
-- default partition: a wrong clock makes no partitions.
-- Returns a line for each thing done. Raises invalid_parameter_value where keep is not above, or ahead below, zero.
declare
    oldest timestamptz := date_trunc('month', now() - coalesce(keep, interval '5 years'));
    latest timestamptz := date_trunc('month', now() + ahead);
    parent record;
    month timestamptz;
    months timestamptz[];
    ended text[];
    relation text;
    touched bigint;
begin
    if keep <= interval '0' then
        raise invalid_parameter_value using message = format('keep is %s, must be above 0', keep);
    end if;
    if ahead is null or ahead < interval '0' then
        raise invalid_parameter_value using message = format('ahead is %s, must be 0 or above', ahead);
    end if;

    for parent in
        select
            tables.oid,
            tables.relname as name,
            tables.oid::regclass as parent_table,
            partitioned.partdefid::regclass as default_table,
            columns.attname as time_column
        from pg_partitioned_table as partitioned
        join pg_class as tables on tables.oid = partitioned.partrelid
        join pg_class as defaults on defaults.oid = partitioned.partdefid
        join pg_attribute as columns
            on columns.attrelid = tables.oid and columns.attnum = partitioned.partattrs[0]
        where tables.relnamespace = 'public'::regnamespace
            and defaults.relnamespace = 'anomaly_cost'::regnamespace
        order by tables.relname
    loop
        loop
            -- Once to see whether there is anything to do, and once more under the lock.
            execute format(
                'select array(
                    select month from generate_series($1, $2, interval ''1 month'') as series (month)
                    union
                    select distinct date_trunc(''month'', %1$I) from %2$s
                    where %1$I >= $3 and %1$I < $2 + interval ''1 month''
                    order by month
                )', parent.time_column, parent.default_table
            ) into months using date_trunc('month', now()), latest, oldest;
            months := array(
                select wanted from unnest(months) as wanted
                where to_regclass(format('anomaly_cost.%I', parent.name || to_char(wanted, '"_"YYYY"_"MM'))) is null
                order by wanted
            );
            ended := array(
                select children.oid::regclass::text
                from pg_inherits
                join pg_class as children on children.oid = pg_inherits.inhrelid
                where pg_inherits.inhparent = parent.oid
                    and keep is not null
                    and substring(pg_get_expr(children.relpartbound, children.oid) from 'TO \(''([^'']+)''\)')::timestamptz
                        <= oldest
                order by children.relname
            );
            touched := 0;
            if keep is not null then
                execute format('select count(*) from %s where %I < $1', parent.default_table, parent.time_column)
                into touched using oldest;
            end if;
            exit when months = '{}' and ended = '{}' and touched = 0;
            exit when exists (
                select from pg_locks
                where pid = pg_backend_pid()
                    and pg_locks.relation = parent.oid
                    and mode = 'AccessExclusiveLock'
                    and granted
            );
            -- The table before its partitions, as every writer takes them: no deadlock.
            execute format('lock table %s in access exclusive mode', parent.parent_table);
        end loop;

        foreach month in array months loop
            relation := format('anomaly_cost.%I', parent.name || to_char(month, '"_"YYYY"_"MM'));
            execute format('create table %s (like %s including all)', relation, parent.parent_table);
            execute format(
                'with moved as (delete from %1$s where %2$I >= $1 and %2$I < $2 returning *)
                insert into %3$s select * from moved', parent.default_table, parent.time_column, relation
            ) using month, month + interval '1 month';
            get diagnostics touched = row_count;
            execute format(
                'alter table %s attach partition %s for values from (%L) to (%L)',
                parent.parent_table, relation, month, month + interval '1 month'
            );
            return next format('created %s, %s rows moved into it', relation, touched);
        end loop;

        foreach relation in array ended loop
            execute format('drop table %s', relation);
            return next format('dropped %s', relation);
        end loop;

        if keep is not null then
            execute format('delete from %s where %I < $1', parent.default_table, parent.time_column) using oldest;
            get diagnostics touched = row_count;
            if touched > 0 then
                return next format('deleted %s rows of %s', touched, parent.default_table);
            end if;
        end if;
    end loop;

    if keep is not null then
        delete from public.rejected_records where rejected_at < oldest;
        get diagnostics touched = row_count;
        if touched > 0 then
            return next format('deleted %s rows of rejected_records', touched);
        end if;
    end if;
end
$$;

comment on function anomaly_cost.maintain(interval, interval) is
    'Makes the months of the partitioned tables until now + ahead, moves rows out of the default partitions, drops what is older than keep (null = nothing)';

revoke execute on function anomaly_cost.maintain(interval, interval) from public;
