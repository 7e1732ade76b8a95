-- Why a record was rejected, for programs; and payloads that are whole.

alter table public.rejected_records add column reason_code text;

comment on column public.rejected_records.reason_code is
    'Why, for programs: unreadable, too_long, invalid, not_used, no_resource, ahead, late, file_skipped or file_broken';
comment on column public.rejected_records.payload is
    'The record, whole, in base64 where it is no text; of one that is too long its start; of a file its name';
