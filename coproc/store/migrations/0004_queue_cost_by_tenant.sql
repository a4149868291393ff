-- The same figures with whose work it is, in a new last column: releases before this one do not notice.
create or replace view queue_cost as
with blocks (type, blocks) as (
    values (0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 64), (7, 80), (8, 128), (9, 256), (10, 512),
           (11, 1024), (20, 4), (24, 8), (25, 16), (26, 32), (27, 64), (28, 80), (29, 128)
), weights (operation, per_block, per_block_squared) as (
    values (0, 3.0, 0.0), (1, 3.0, 0.0), (20, 3.0, 0.0), (28, 3.0, 0.0), (18, 3.0, 0.0), (19, 3.0, 0.0),
           (29, 3.0, 0.0), (2, 4.0, 1.5), (3, 8.0, 12.0), (4, 8.0, 12.0), (30, 8.0, 12.0), (8, 2.0, 0.0),
           (9, 2.0, 0.0), (10, 2.0, 0.0), (11, 2.0, 0.0), (12, 1.5, 0.0), (13, 1.5, 0.0), (14, 1.5, 0.0),
           (15, 1.5, 0.0), (16, 1.5, 0.0), (17, 1.5, 0.0), (24, 0.0, 0.0)
), sizes as (
    select w.group_id, w.key_id, w.state, w.created_at, w.tenant, c.operation, i.inputs,
           greatest((select b.blocks from blocks b where b.type = get_byte(c.output, 30)), i.blocks)::numeric as blocks
    from work_groups w
    join computations c on c.group_id = w.group_id and c.failure_rule is null
    left join lateral (
        select count(*) as inputs, max(b.blocks) as blocks
        from computation_inputs x join blocks b on b.type = get_byte(x.input, 30)
        where x.output = c.output
    ) i on true
    where w.state in (1, 2)
)
select s.group_id, s.key_id, s.state, s.created_at,
       greatest(1, round(sum(
           greatest(1, s.inputs - 1)
           * (coalesce(v.per_block, 1.0) * s.blocks + coalesce(v.per_block_squared, 0.0) * s.blocks * s.blocks)
       )::double precision))::bigint as bootstraps,
       s.tenant
from sizes s left join weights v on v.operation = s.operation
group by s.group_id, s.key_id, s.state, s.created_at, s.tenant;
comment on view queue_cost is 'Groups that are ready (state 1) or computed (2), with their estimated bootstraps.';
