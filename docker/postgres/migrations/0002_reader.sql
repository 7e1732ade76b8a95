-- The role that BI tools read with: grant anomaly_cost_reader to their logins. It belongs to the whole server.

do $$
begin
    if not exists (select from pg_roles where rolname = 'anomaly_cost_reader') then
        create role anomaly_cost_reader nologin;
    end if;
exception
    -- Another database of the server was quicker.
    when duplicate_object or unique_violation then null;
end
$$;

grant usage on schema public to anomaly_cost_reader;
grant select on
    public.ranked_anomalies,
    public.trace_verdicts,
    public.cost_allocations,
    public.charge_anomalies,
    public.rejected_records,
    public.budgets
to anomaly_cost_reader;

-- Later tables of the user who runs this.
alter default privileges in schema public grant select on tables to anomaly_cost_reader;
