"""The set-based statements that move computations and groups from state to state.

Decides the SQL; what it must amount to is shown by ``memory``. Every function runs inside a transaction that holds
the graph lock: writers of the graph take turns, so that nothing that arrives is overlooked by something
that starts to wait for it, and sequence numbers appear in order. Bulk data is written before the lock is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.program.types import Handle
from coproc.store.base import State, Topic
from coproc.store.operands import encode_operands
from coproc.store.rules import INPUT_FAILED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from psycopg import AsyncCursor
    from psycopg.rows import TupleRow

    from coproc.program.computation import Computation
    from coproc.store.base import Failure
    from coproc.store.connection import TrioConnection

LOCK: Final = 0x636F_7072_6F63_0002
"""Key of the advisory lock ("coproc", 2)."""
CHANNEL: Final = "coproc_wakeups"
NOBODY: Final = b"\0"
"""Output of the computation that results point to which were taken back."""

_LIVE: Final = (
    "{0}.failure_rule is null and not exists (select from ciphertexts stored where stored.handle = {0}.output)"
)
# Scalar subqueries, not "exists": those the planner may turn into a hash of the whole table.
_SETTLE: Final = f"""
    with chosen as materialized (
        select %(groups)s::bigint[] || array(
            select distinct group_id from computations where output = any(%(made)s)
        ) as groups
    ), due as (
        select g.group_id, case
            when (
                select true from computations c
                where c.group_id = g.group_id and (c.is_allowed or c.is_needed) and {_LIVE.format("c")} limit 1
            ) is null then case when (
                select true from computations c where c.group_id = g.group_id and c.failure_rule is null limit 1
            ) then {State.COMPLETED:d} else {State.FAILED:d} end
            when (
                select true from computations c join computation_inputs i on i.output = c.output
                where c.group_id = g.group_id and {_LIVE.format("c")}
                  and not exists (select from ciphertexts x where x.handle = i.input)
                  and not exists (select from computations p where p.output = i.input and p.group_id = c.group_id)
                limit 1
            ) then {State.WAITING:d}
            else {State.READY:d} end as state
        from work_groups g
        where group_id = any((select groups from chosen)::bigint[])
          and (state <> {State.COMPUTING:d} or group_id = any(%(done)s)) offset 0
    ), settled as (
        update work_groups w set state = due.state, worker = null, lease_until = null,
            attempts = case when due.state = {State.READY:d} and w.group_id = any(%(done)s) then 0 else attempts end
        from due where due.group_id = w.group_id
        returning due.state
    )
    select pg_notify('{CHANNEL}', '{Topic.WORK:d}')
    where exists (select from settled where state = {State.READY:d})
"""  # noqa: S608 - constants
_SPREAD: Final = f"""
    with recursive failing (output, cause, message) as (
        select i.output, coalesce(f.failure_cause, f.output),
            case when f.failure_rule = '{INPUT_FAILED}' then f.failure_message
            else 'an input failed: ' || encode(coalesce(f.failure_cause, f.output), 'hex')
                || ': ' || f.failure_rule || ': ' || f.failure_message end
        from computations f
        join computation_inputs i on i.input = f.output
        join computations c on c.output = i.output
        where f.output = any(%s) and f.failure_rule is not null and {_LIVE.format("c")}
      union
        select i.output, failing.cause, failing.message
        from failing
        join computation_inputs i on i.input = failing.output
        join computations c on c.output = i.output
        where {_LIVE.format("c")}
    ), one as (
        select distinct on (output) output, cause, message from failing order by output, cause, message
    )
    update computations set
        failure_rule = '{INPUT_FAILED}', failure_message = one.message, failure_cause = one.cause
    from one where one.output = computations.output
    returning computations.output
"""  # noqa: S608 - constants
_ANNOUNCE: Final = f"""
    with announced as (
        insert into results (sequence, transaction_id, output)
        select (select coalesce(max(sequence), 0) from results) + row_number() over (order by t.position),
               t.transaction_id, t.output
        from transaction_outputs t
        join computations c on c.output = t.output
        left join ciphertexts x on x.handle = c.output
        where t.output = any(%s) and c.is_allowed and (c.failure_rule is not null or x.handle is not null)
          and not exists (select from results r where r.transaction_id = t.transaction_id and r.output = t.output)
        returning sequence, transaction_id, output
    )
    select a.sequence, a.transaction_id, a.output, c.failure_rule, c.failure_message, c.failure_cause,
           (select pg_notify('{CHANNEL}', '{Topic.RESULTS:d}'))
    from announced a join computations c on c.output = a.output order by a.sequence
"""  # noqa: S608 - constants
_END_LEASES: Final = f"""
    with ended as (
        update work_groups set state = {State.READY:d}, worker = null, lease_until = null, attempts = attempts - 1
        where group_id = any(%s) and state = {State.COMPUTING:d}
        returning group_id
    )
    select pg_notify('{CHANNEL}', '{Topic.ENDED:d}') where exists (select from ended)
"""  # noqa: S608 - constants
_NEED: Final = """
    update computations p set is_needed = true
    where p.output = any(%s) and not p.is_needed and exists (
        select from computation_inputs i join computations c on c.output = i.output
        where i.input = p.output and c.group_id <> p.group_id
    )
    returning p.group_id
"""
# What is asked of a group again may need values that were not kept: those of other groups, and what these need in turn.
_REVIVE: Final = f"""
    with recursive lost (output, group_id) as (
        select q.output, q.group_id from computations c
        join computation_inputs i on i.output = c.output join computations q on q.output = i.input
        where c.group_id = any(%s) and {_LIVE.format("c")}
          and q.group_id <> c.group_id and not q.is_needed and not q.is_allowed and {_LIVE.format("q")}
      union
        select q.output, q.group_id from lost join computations c on c.group_id = lost.group_id
        join computation_inputs i on i.output = c.output join computations q on q.output = i.input
        where {_LIVE.format("c")}
          and q.group_id <> c.group_id and not q.is_needed and not q.is_allowed and {_LIVE.format("q")}
    )
    update computations p set is_needed = true from lost where p.output = lost.output returning p.group_id
"""  # noqa: S608 - constants
# Numbers are drawn under the graph lock, so that they are in order of arrival.
_ADD_GROUPS: Final = """
    with numbered as materialized (
        select array(select nextval('work_groups_group_id_seq') from generate_series(1, %(count)s)) as numbers
    ), added as (
        insert into work_groups (group_id, key_id, transaction_id, state, tenant, deadline) overriding system value
        select numbers[u.place], %(key)s, u.transaction_id, %(state)s, %(tenant)s,
               clock_timestamp() + make_interval(secs => %(seconds)s::double precision)
        from numbered, unnest(%(transactions)s::bytea[]) with ordinality as u (transaction_id, place)
    ), members as (
        insert into computations (output, group_id, position, operation, operands, is_allowed)
        select output, numbers[place], position, operation, operands, is_allowed
        from numbered, unnest(
            %(outputs)s::bytea[], %(places)s::integer[], %(positions)s::integer[], %(operations)s::smallint[],
            %(operands)s::bytea[], %(allowed)s::boolean[]
        ) as m (output, place, position, operation, operands, is_allowed)
    ), edges as (
        insert into computation_inputs (input, output)
        select * from unnest(%(sources)s::bytea[], %(targets)s::bytea[])
    ), askers as (
        insert into transaction_outputs (transaction_id, output)
        select transaction_id, output
        from unnest(%(askers)s::bytea[], %(asked)s::bytea[]) with ordinality as u (transaction_id, output, place)
        order by place on conflict do nothing
    )
    select unnest(numbers) from numbered
"""
_GROUPS_AROUND: Final = """
    select group_id from computations where output = any(%(handles)s)
    union
    select c.group_id from computation_inputs i join computations c on c.output = i.output
    where i.input = any(%(handles)s)
"""


async def lock_graph(connection: TrioConnection) -> None:
    """Take the graph lock until the transaction ends."""
    await connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])


async def notify(connection: TrioConnection, topic: Topic) -> None:
    """Wake subscribers when the transaction commits."""
    await connection.execute("select pg_notify(%s, %s)", [CHANNEL, str(int(topic))])


async def settle(
    connection: TrioConnection,
    group_ids: Iterable[int],
    done: Collection[int] = (),
    made: Collection[Handle] = (),
) -> None:
    """Work out the state of groups that nobody computes, and wake workers if there is new work.

    Args:
        connection: holds the graph lock.
        group_ids: those to look at.
        done: groups that this transaction has locked, and whose lease ends with it. If there is new work in them,
            another group came to need more of them: that is a new task and no failed attempt.
        made: outputs of groups that this transaction has made.
    """
    ordered = sorted({*group_ids, *done})
    if not ordered and not made:
        return
    if not set(ordered).issubset(done):
        # Locked in order first: claims and renewals do so too, and nobody waits in a circle.
        await connection.execute(
            "select from work_groups where group_id = any(%s) order by group_id for update",
            [ordered],
        )
    await connection.execute(_SETTLE.encode(), {"groups": ordered, "done": list(done), "made": list(made)})


async def end_leases(connection: TrioConnection, group_ids: Iterable[int]) -> None:
    """Take groups, which are locked, back from whoever computes them, and tell workers."""
    await connection.execute(_END_LEASES.encode(), [sorted(group_ids)])


async def spread(connection: TrioConnection, failed: Sequence[Handle]) -> list[Handle]:
    """Fail every live computation that depends on ``failed`` ones; returns those, without the given ones."""
    if not failed:
        return []
    cursor = await connection.execute(_SPREAD.encode(), [list(failed)], binary=True)
    return [Handle(output) for (output,) in await cursor.fetchall()]


async def announce(connection: TrioConnection, outputs: Sequence[Handle]) -> AsyncCursor[TupleRow]:
    """Number the results that transactions have not yet heard of, and wake their readers.

    Returns:
        A row each: sequence number, transaction, output, and why it failed (rule, message, cause), if it did.
    """
    return await connection.execute(_ANNOUNCE.encode(), [list(outputs)], binary=True)


async def groups_around(connection: TrioConnection, handles: Sequence[Handle]) -> set[int]:
    """Groups that produce or read any of ``handles``."""
    cursor = await connection.execute(_GROUPS_AROUND, {"handles": list(handles)})
    return {group_id for (group_id,) in await cursor.fetchall()}


async def need(connection: TrioConnection, handles: Iterable[Handle]) -> set[int]:
    """Mark those of ``handles`` that one group makes and another reads; returns the groups that have to make more."""
    cursor = await connection.execute(_NEED, [sorted(set(handles))])
    return await _revive(connection, {group_id for (group_id,) in await cursor.fetchall()})


async def _revive(connection: TrioConnection, group_ids: set[int]) -> set[int]:
    """Ask for what groups read and was not kept; returns them with the groups that have to make more."""
    if not group_ids:
        return group_ids
    cursor = await connection.execute(_REVIVE.encode(), [sorted(group_ids)])
    return group_ids | {group_id for (group_id,) in await cursor.fetchall()}


async def allow(connection: TrioConnection, outputs: Sequence[Handle]) -> set[int]:
    """Raise ``is_allowed`` of known computations; returns the groups of those that were not."""
    cursor = await connection.execute(
        "update computations set is_allowed = true where output = any(%s) and not is_allowed returning group_id",
        [list(outputs)],
    )
    changed = {group_id for (group_id,) in await cursor.fetchall()}
    if changed:
        await connection.execute(
            "update ciphertexts set is_allowed = true where handle = any(%s) and not is_allowed",
            [list(outputs)],
        )
    return await _revive(connection, changed)


async def record_failures(connection: TrioConnection, failures: Mapping[Handle, Failure]) -> None:
    """Fail the live ones of some computations, each for its own reason."""
    columns = (
        list(failures),
        [failure.rule for failure in failures.values()],
        [failure.message.replace("\0", "") for failure in failures.values()],
        [failure.cause for failure in failures.values()],
    )
    await connection.execute(
        f"""
        update computations c set failure_rule = f.rule, failure_message = f.message, failure_cause = f.cause
        from unnest(%s::bytea[], %s::text[], %s::text[], %s::bytea[]) as f (output, rule, message, cause)
        where c.output = f.output and {_LIVE.format("c")}
        """.encode(),  # noqa: S608 - constants
        columns,
    )


async def add_groups(
    connection: TrioConnection,
    key_id: bytes,
    groups: Sequence[tuple[bytes, Sequence[Computation]]],
    asked: Sequence[tuple[bytes, Handle]],
    tenant: str | None = None,
    seconds: float | None = None,
) -> AsyncCursor[TupleRow]:
    """Insert new groups with their computations, and who asks for what; states are still to be settled.

    Args:
        connection: holds the graph lock.
        key_id: of all groups.
        groups: the transaction that brings each, and its computations.
        asked: transactions and what they ask for, new or not.
        tenant: who asks for them.
        seconds: until their deadline.

    Returns:
        Their numbers, a row each, in order.
    """
    members = [
        (place, *pair) for place, (_, computations) in enumerate(groups, start=1) for pair in enumerate(computations)
    ]
    edges = [(handle, computation.output) for _, _, computation in members for handle in set(computation.inputs)]
    return await connection.execute(
        _ADD_GROUPS,
        {
            "count": len(groups),
            "key": key_id,
            "state": State.WAITING.value,
            "tenant": tenant,
            "seconds": seconds,
            "transactions": [transaction_id for transaction_id, _ in groups],
            "outputs": [computation.output for _, _, computation in members],
            "places": [place for place, _, _ in members],
            "positions": [position for _, position, _ in members],
            "operations": [computation.operation.value for _, _, computation in members],
            "operands": [encode_operands(computation.operands) for _, _, computation in members],
            "allowed": [computation.is_allowed for _, _, computation in members],
            "sources": [source for source, _ in edges],
            "targets": [output for _, output in edges],
            "askers": [transaction_id for transaction_id, _ in asked],
            "asked": [output for _, output in asked],
        },
    )
