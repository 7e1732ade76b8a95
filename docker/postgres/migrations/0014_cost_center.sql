-- Whose budget a cost is of, beside each cost; and what the status says by now.

alter table public.ranked_anomalies add column cost_center text;
alter table public.cost_allocations add column cost_center text;
alter table public.unit_costs add column cost_center text;
alter table public.incidents add column cost_center text;
alter table public.unit_costs_by_attribute add column cost_center text;

comment on column public.ranked_anomalies.cost_status is
    'provisional (before the bill, or before the provider says that the time is complete), billed, or corrected (by a later bill)';
comment on column public.ranked_anomalies.cost_center is
    'Cost centre of the workload''s cost: as the setting cost_centers maps its name, else as its telemetry says (service.instance.cost_center.id), else as the bill''s tags do; null where none is known, or several are';
comment on column public.cost_allocations.cost_status is
    'provisional (before the bill, or before the provider says that the time is complete), billed, or corrected (by a later bill)';
comment on column public.cost_allocations.cost_center is
    'Cost centre of the workload''s cost: as the setting cost_centers maps its name, else as its telemetry says (service.instance.cost_center.id), else as the bill''s tags do; null where none is known, or several are';
comment on column public.unit_costs.cost_status is
    'provisional (before the bill, or before the provider says that the time is complete), billed, or corrected (by a later bill)';
comment on column public.unit_costs.cost_center is
    'Cost centre of the workload''s cost: as the setting cost_centers maps its name, else as its telemetry says (service.instance.cost_center.id), else as the bill''s tags do; null where none is known, or several are';
comment on column public.incidents.cost_center is
    'Cost centre of the workload''s cost: as the setting cost_centers maps its name, else as its telemetry says (service.instance.cost_center.id), else as the bill''s tags do; null where none is known, or several are';
comment on column public.unit_costs_by_attribute.cost_status is
    'provisional (before the bill, or before the provider says that the time is complete), billed, or corrected (by a later bill)';
comment on column public.unit_costs_by_attribute.cost_center is
    'Cost centre of the workload''s cost: as the setting cost_centers maps its name, else as its telemetry says (service.instance.cost_center.id), else as the bill''s tags do; null where none is known, or several are';
