-- What respond did, would do or waits to be allowed to do, and how it is undone.

create table anomaly_cost.actions (
    action_id bigint generated always as identity primary key,
    action text not null,
    incident_id text not null,
    otel_service_name text not null,
    billing_currency text not null,
    window_start timestamptz(3) not null,
    window_end timestamptz(3) not null,
    action_state text not null check (
        action_state in ('waiting', 'approved', 'doing', 'done', 'nothing', 'undone', 'left', 'expired')
    ),
    is_dry_run boolean not null,
    target text not null,
    from_value text,
    to_value text,
    why text not null,
    figures jsonb not null,
    policy jsonb not null,
    undo text not null,
    requested_at timestamptz(3) not null,
    approved_by text,
    done_at timestamptz(3),
    undone_at timestamptz(3),
    note text,
    unique (action, incident_id)
);

create index actions_time on anomaly_cost.actions (action, requested_at);

comment on table anomaly_cost.actions is 'What was done about incidents, by which policy. A row is an action and incident.';
comment on column anomaly_cost.actions.action_id is 'In the order in which they were asked for';
comment on column anomaly_cost.actions.action is 'Of the policy';
comment on column anomaly_cost.actions.incident_id is 'Because of which incident';
comment on column anomaly_cost.actions.otel_service_name is 'The culprit';
comment on column anomaly_cost.actions.billing_currency is 'Of its money';
comment on column anomaly_cost.actions.window_start is 'Start of its first window when it was last looked at';
comment on column anomaly_cost.actions.window_end is 'End of its last window when it was last looked at';
comment on column anomaly_cost.actions.action_state is
    'waiting (for approved_by), approved, doing, done, nothing (all was as it should be), undone, left (somebody else changed it since), or expired (the incident ended before)';
comment on column anomaly_cost.actions.is_dry_run is 'Whether nothing was changed: the API was asked to try';
comment on column anomaly_cost.actions.target is 'What is changed';
comment on column anomaly_cost.actions.from_value is 'What it was before';
comment on column anomaly_cost.actions.to_value is 'What it is set to';
comment on column anomaly_cost.actions.why is 'The incident''s sentence when it was asked for';
comment on column anomaly_cost.actions.figures is 'The incident''s money and status then';
comment on column anomaly_cost.actions.policy is 'The action as the policy had it';
comment on column anomaly_cost.actions.undo is 'How to undo it by hand';
comment on column anomaly_cost.actions.requested_at is 'When it was asked for';
comment on column anomaly_cost.actions.approved_by is 'Who allowed it: set this where action_state is waiting';
comment on column anomaly_cost.actions.done_at is 'When it was done';
comment on column anomaly_cost.actions.undone_at is 'When it was undone';
comment on column anomaly_cost.actions.note is 'What went wrong, or otherwise than expected';

grant select on anomaly_cost.actions to anomaly_cost_reader;
grant usage on schema anomaly_cost to anomaly_cost_responder;
grant select, update (approved_by) on anomaly_cost.actions to anomaly_cost_responder;
