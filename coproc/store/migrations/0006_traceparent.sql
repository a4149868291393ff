-- The span that asked first for a group, as W3C writes it: a trace goes on after a restart and in other processes.
create table group_traces (
    group_id bigint primary key references work_groups on delete cascade,
    traceparent text not null
);
