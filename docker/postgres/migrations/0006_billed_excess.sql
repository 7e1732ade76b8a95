-- Two prices of an anomaly: what its use is worth, and what of that changed the bill.

alter table public.ranked_anomalies add column billed_excess_cost numeric(28, 12);

comment on column public.ranked_anomalies.excess_cost is
    'What the use beyond the usual is worth at the price of one more unit (on a machine: of its capacity), negative where less was used; null where no price is known';
comment on column public.ranked_anomalies.billed_excess_cost is
    'What of excess_cost changed the bill: all of it where use is charged, 0 on a machine that was paid for anyway, at most what machines cost that were added';
