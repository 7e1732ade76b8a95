-- The frames, and pulses in between: see sql/ddl/pulse.
-- grain: one frame a row, or a pulse
create temporary view detector_frames_awake as
select * from detector_frames
union all
select 'pulse', n, '' from pulses
