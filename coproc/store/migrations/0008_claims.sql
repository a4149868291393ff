-- Claims find what is ready by tenant and age, and what silent workers hold by the end of its lease, whatever else is open.
create index work_groups_ready on work_groups ((coalesce(tenant, '')), group_id) where state = 1;
create index work_groups_leased on work_groups (lease_until, group_id) where state = 2;
-- Rows change state several times and then never again. Dead entries at the head of the queue cost every claim, so that
-- they are cleared away early, however long the history is.
alter table work_groups set (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, vacuum_index_cleanup = on
);
