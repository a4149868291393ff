"""Claiming: which groups a worker gets, and the lease it holds them under.

Decides the SQL; ``memory`` shows what it must amount to. Its cost depends on what is claimed and on a bounded number of
tenants, never on how much is waiting, under lease or done: every part of the statement goes by an index that holds
nothing else than what it looks for (a test counts the pages). It takes no graph lock: rows that another claim holds are
skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.program.types import Handle
from coproc.store.base import Failure, State, Topic, WorkGroup
from coproc.store.graph import notify
from coproc.store.operands import read_computation
from coproc.store.traces import recall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from coproc.program.computation import Computation
    from coproc.store.connection import TrioConnection

TENANTS_AT_ONCE: Final = 64
"""The most tenants that one claim looks at; the next claim goes on where it ended."""

_LIVE: Final = "c.failure_rule is null and not exists (select from ciphertexts stored where stored.handle = c.output)"
# What a silent worker held comes first. Then tenants take turns: the oldest group of each, then the second of each.
# Tenants with work are found by hopping from one to the next over the index, from where the last claim ended, so
# that a long queue of one costs nothing. No more rows are locked than are claimed, but for one a tenant: what is
# locked, others skip. Committing does not wait for the disk: a claim that the server forgets when it crashes leaves
# work that is ready.
CLAIM: Final = f"""
    with recursive expired as materialized (
        select group_id, key_id, transaction_id, attempts, tenant, created_at from work_groups
        where state = {State.COMPUTING:d} and lease_until <= now()
        order by lease_until, group_id limit %(limit)s for update skip locked
    ), wanted (groups) as materialized (
        select %(limit)s - count(*) from expired
    ), hop (tenant, wrapped, number) as (
        select coalesce(later.tenant, first.tenant), later.tenant is null, 1
        from (select (
            select coalesce(tenant, '') from work_groups where state = {State.READY:d}
            and coalesce(tenant, '') > %(after)s::text order by coalesce(tenant, '') limit 1
        )) as later (tenant), (select (
            select coalesce(tenant, '') from work_groups where state = {State.READY:d}
            order by coalesce(tenant, '') limit 1
        )) as first (tenant)
      union all
        select coalesce(next.tenant, case when not hop.wrapped then (
            select coalesce(tenant, '') from work_groups where state = {State.READY:d}
            order by coalesce(tenant, '') limit 1
        ) end), hop.wrapped or next.tenant is null, hop.number + 1
        from hop, lateral (select (
            select coalesce(w.tenant, '') from work_groups w where w.state = {State.READY:d}
            and coalesce(w.tenant, '') > hop.tenant order by coalesce(w.tenant, '') limit 1
        )) as next (tenant)
        where hop.tenant is not null and hop.number < least(%(tenants)s, (select groups from wanted))
          and not (hop.wrapped and coalesce(hop.tenant >= %(after)s::text, false))
    ), turns (tenant, number) as materialized (
        select tenant, min(number) from hop where tenant is not null group by tenant
    ), ready as materialized (
        select g.*, turns.number from turns, lateral (
            select w.group_id, w.key_id, w.transaction_id, w.attempts, w.tenant, w.created_at from work_groups w
            where coalesce(w.tenant, '') = turns.tenant and w.state = {State.READY:d}
            order by w.group_id
            limit (select ceil(groups::numeric / (select count(*) from turns)) from wanted)
            for update skip locked
        ) as g
    )
    select c.group_id, c.key_id, c.transaction_id, c.attempts, c.tenant,
           coalesce((select t.weight from tenants t where t.name = c.tenant), 1),
           extract(epoch from clock_timestamp() - c.created_at)::double precision,
           (select tenant from turns order by number desc limit 1),
           (select set_config('synchronous_commit', 'off', true))
    from (
        select group_id, key_id, transaction_id, attempts, tenant, created_at, 0 as turn from expired
      union all
        select group_id, key_id, transaction_id, attempts, tenant, created_at,
               row_number() over (partition by number order by group_id) as turn
        from ready
    ) as c
    order by c.turn, c.group_id limit %(limit)s
"""  # noqa: S608 - constants
# One moment for all of them: what was claimed together is taken over together. And one snapshot: what is asked of a
# worker is what it reads.
TAKEN: Final = f"""
    state = {State.COMPUTING:d}, worker = %(worker)s, attempts = attempts + 1,
    lease_until = statement_timestamp() + make_interval(secs => %(seconds)s),
    asked = array(
        select c.output from computations c
        where c.group_id = w.group_id and (c.is_allowed or c.is_needed) and {_LIVE}
    )
"""  # noqa: S608 - constants
_LEASE: Final = f"""
    with leased as (
        update work_groups w set {TAKEN}
        where group_id = any(%(groups)s)
        returning group_id
    )
    select c.group_id, c.output, c.operation, c.operands, c.is_allowed, c.is_needed
    from leased join computations c on c.group_id = leased.group_id
    where {_LIVE} order by c.group_id, c.position
"""  # noqa: S608 - constants
# The state is no parameter, so that an index serves which holds only what is under lease.
STRAY: Final = f"""
    select group_id from work_groups where state = {State.COMPUTING:d} and worker = %s and group_id <> all(%s::bigint[])
    order by group_id for update
"""  # noqa: S608 - constants


async def lease(
    connection: TrioConnection, worker: str, limit: int, seconds: float, after: str | None
) -> tuple[Callable[[], Awaitable[list[WorkGroup]]], str | None]:
    """Claim groups inside a transaction.

    Args:
        connection: in a transaction.
        worker: who claims.
        limit: how many groups at most.
        seconds: how long the lease lasts.
        after: the tenant at which the claim before ended; None at first.

    Returns:
        What reads the groups, once the transaction has ended; and the tenant at which this claim ended.
    """
    values = {"limit": limit, "after": after, "tenants": TENANTS_AT_ONCE}
    cursor = await connection.execute(CLAIM.encode(), values, binary=True)
    claimed = await cursor.fetchall()
    if not claimed:
        return nothing, after
    group_ids = [row[0] for row in claimed]
    members = await connection.execute(
        _LEASE.encode(), {"worker": worker, "seconds": seconds, "groups": group_ids}, binary=True
    )
    traces = await recall(connection, group_ids)

    async def read() -> list[WorkGroup]:
        computations: dict[int, list[Computation]] = {group_id: [] for group_id in group_ids}
        unreadable: dict[int, dict[Handle, Failure]] = {group_id: {} for group_id in group_ids}
        wanted: dict[int, set[Handle]] = {group_id: set() for group_id in group_ids}
        for group_id, output, operation, operands, is_allowed, is_needed in await members.fetchall():
            handle = Handle(output)
            computation = read_computation(handle, operation, operands, is_allowed=is_allowed)
            if isinstance(computation, Failure):
                unreadable[group_id][handle] = computation
            else:
                computations[group_id].append(computation)
            if is_allowed or is_needed:
                wanted[group_id].add(handle)
        return [
            WorkGroup(
                group_id,
                key_id,
                transaction_id,
                tuple(computations[group_id]),
                frozenset(wanted[group_id]),
                attempts,
                tenant,
                weight,
                unreadable[group_id],
                traces.get(group_id),
                max(0.0, waited),
            )
            for group_id, key_id, transaction_id, attempts, tenant, weight, waited, *_ in claimed
        ]

    return read, claimed[0][-2] or after


async def nothing() -> list[WorkGroup]:
    """Read the groups of a lease that took none."""
    return []


async def lock_held(connection: TrioConnection, worker: str, group_ids: Sequence[int]) -> list[int]:
    """Lock those groups, in order, that ``worker`` holds a lease of; returns them."""
    cursor = await connection.execute(
        "select group_id from work_groups where group_id = any(%s::bigint[]) and state = %s and worker = %s"
        " order by group_id for update",
        [list(group_ids), State.COMPUTING.value, worker],
    )
    return [group_id for (group_id,) in await cursor.fetchall()]


async def lock_stray(connection: TrioConnection, worker: str, held: Collection[int]) -> list[int]:
    """Lock those groups, in order, that ``worker`` has a lease of without knowing; returns them."""
    cursor = await connection.execute(STRAY.encode(), [worker, list(held)])
    return [group_id for (group_id,) in await cursor.fetchall()]


async def give_back(connection: TrioConnection, group_ids: Sequence[int]) -> None:
    """Make groups READY that the caller has locked, the attempt not counted, and wake workers."""
    if group_ids:
        await connection.execute(
            "update work_groups set state = %s, worker = null, lease_until = null, attempts = attempts - 1"
            " where group_id = any(%s)",
            [State.READY.value, list(group_ids)],
        )
        await notify(connection, Topic.WORK)
