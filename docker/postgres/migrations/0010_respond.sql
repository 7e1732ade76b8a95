-- What respond has told whom of which incident, and what it has still to send.

create table anomaly_cost.told (
    route text not null,
    thread text not null,
    incident_id text not null,
    otel_service_name text not null,
    billing_currency text not null,
    window_start timestamptz(3) not null,
    window_end timestamptz(3) not null,
    step integer not null,
    cost_status text not null,
    receivers text[] not null,
    is_over boolean not null,
    is_silenced boolean not null,
    gone_since timestamptz(3),
    told_at timestamptz(3) not null,
    primary key (route, thread)
);

create index told_open on anomaly_cost.told (is_over, otel_service_name);

comment on table anomaly_cost.told is 'What was told of each incident. A row is a route of the policy and an incident.';
comment on column anomaly_cost.told.route is 'Of the policy';
comment on column anomaly_cost.told.thread is 'The incident''s id when it was first told: by it receivers know it';
comment on column anomaly_cost.told.incident_id is 'Its id now: its first window may have changed';
comment on column anomaly_cost.told.otel_service_name is 'The culprit';
comment on column anomaly_cost.told.billing_currency is 'Of its money';
comment on column anomaly_cost.told.window_start is 'Start of its first window when it was last looked at';
comment on column anomaly_cost.told.window_end is 'End of its last window when it was last looked at';
comment on column anomaly_cost.told.step is 'How many steps of escalation were told';
comment on column anomaly_cost.told.cost_status is 'The status that was told last';
comment on column anomaly_cost.told.receivers is 'Who was told of it';
comment on column anomaly_cost.told.is_over is 'Whether its end was told';
comment on column anomaly_cost.told.is_silenced is 'Whether it was ended by what somebody said of it';
comment on column anomaly_cost.told.gone_since is 'Since when the table incidents lacks it; null while it is there';
comment on column anomaly_cost.told.told_at is 'When something was told of it last';

create table anomaly_cost.notifications (
    notification_id bigint generated always as identity primary key,
    receiver text not null,
    route text not null,
    thread text not null,
    event text not null,
    severity text not null,
    incident jsonb not null,
    created_at timestamptz(3) not null,
    due_at timestamptz(3) not null,
    attempts integer not null default 0,
    notification_state text not null default 'waiting' check (notification_state in ('waiting', 'sent', 'dead')),
    error text,
    sent_at timestamptz(3)
);

create index notifications_waiting on anomaly_cost.notifications (receiver, notification_id)
where notification_state = 'waiting';
create index notifications_thread on anomaly_cost.notifications (thread);

comment on table anomaly_cost.notifications is 'What is sent to whom: the queue of respond, and its past. A row is a message.';
comment on column anomaly_cost.notifications.notification_id is 'In the order in which they are sent to a receiver';
comment on column anomaly_cost.notifications.receiver is 'Of the policy';
comment on column anomaly_cost.notifications.route is 'Of the policy: by which it is sent';
comment on column anomaly_cost.notifications.thread is 'By what the receiver knows the incident';
comment on column anomaly_cost.notifications.event is 'opened, escalated, restated or resolved';
comment on column anomaly_cost.notifications.severity is 'critical, error, warning or info';
comment on column anomaly_cost.notifications.incident is 'The row of incidents that it tells of';
comment on column anomaly_cost.notifications.created_at is 'When that was decided';
comment on column anomaly_cost.notifications.due_at is 'When it is tried next';
comment on column anomaly_cost.notifications.attempts is 'How often it was tried';
comment on column anomaly_cost.notifications.notification_state is
    'waiting, sent (the receiver took it) or dead (the receiver refused it for good)';
comment on column anomaly_cost.notifications.error is 'What the last try that failed said';
comment on column anomaly_cost.notifications.sent_at is 'When the receiver took it';

create table anomaly_cost.respond (
    only_row boolean primary key default true check (only_row),
    began_at timestamptz(3) not null default now(),
    feedback_id bigint not null default 0
);

comment on table anomaly_cost.respond is 'How far respond has come; one row';
comment on column anomaly_cost.respond.only_row is 'Always true';
comment on column anomaly_cost.respond.began_at is 'When it looked first';
comment on column anomaly_cost.respond.feedback_id is 'The last row of feedback that was sent to the job';

create table anomaly_cost.not_told (
    incident_id text primary key
);

comment on table anomaly_cost.not_told is 'Incidents that had ended when respond looked first: they are told to nobody';
comment on column anomaly_cost.not_told.incident_id is 'Of incidents';

grant usage on schema anomaly_cost to anomaly_cost_reader;
grant select on anomaly_cost.told, anomaly_cost.notifications to anomaly_cost_reader;
