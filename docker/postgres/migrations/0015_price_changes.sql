-- Among the changes before an incident there are prices, too.

comment on column public.incidents.changes is
    'What changed at the culprit in the hour before: [{what: version, pods or the price of what it uses, at (ISO 8601), from, to}]';
