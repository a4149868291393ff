"""Computations that end before they are done: cancelled by their caller, or past their deadline.

Decides the SQL; ``memory`` shows what it must amount to. What ends early fails, with its dependants; a worker that
computes it loses its lease, hears of it, and stops at its next level. Runs inside a transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.program.types import Handle
from coproc.store import graph
from coproc.store.tables import has_table

if TYPE_CHECKING:
    from coproc.store.base import Failure
    from coproc.store.connection import TrioConnection

EXPIRED_AT_ONCE: Final = 1000

_LIVE: Final = "c.failure_rule is null and not exists (select from ciphertexts stored where stored.handle = c.output)"
_CANCEL: Final = f"""
    with recursive mine as (
        select t.output from transaction_outputs t
        join computations c on c.output = t.output join work_groups w on w.group_id = c.group_id
        where t.transaction_id = %(transaction)s and (%(tenant)s::text is null or w.tenant = %(tenant)s)
    ), kept (output) as (
        select m.output from mine m
        where exists (
            select from transaction_outputs t where t.output = m.output and t.transaction_id <> %(transaction)s
        ) or exists (
            select from computation_inputs i
            where i.input = m.output and not exists (select from mine x where x.output = i.output)
        ) {{0}}
      union
        select i.input from kept join computation_inputs i on i.output = kept.output
        where i.input in (select output from mine)
    )
    update computations c set failure_rule = %(rule)s, failure_message = %(message)s, failure_cause = null
    from mine where c.output = mine.output and mine.output not in (select output from kept) and {_LIVE}
    returning c.output, c.group_id
"""  # noqa: S608 - constants
_OF_A_CHAIN: Final = "or exists (select from chain_origins o where o.output = m.output)"
_EXPIRE: Final = f"""
    update computations c set failure_rule = %(rule)s, failure_message = %(message)s, failure_cause = null
    from work_groups w
    where c.group_id = w.group_id and w.group_id = any(%(groups)s) and {_LIVE}
    returning c.output, c.group_id
"""  # noqa: S608 - constants


async def cancel(connection: TrioConnection, transaction_id: bytes, tenant: str | None, failure: Failure) -> int:
    """Fail what only this transaction asks for; returns how many computations that were."""
    await graph.lock_graph(connection)
    values = {"transaction": transaction_id, "tenant": tenant, "rule": failure.rule, "message": failure.message}
    # A schema from before chains were followed has no such table.
    statement = _CANCEL.replace("{0}", _OF_A_CHAIN if await has_table(connection, "chain_origins") else "")
    cursor = await connection.execute(statement.encode(), values, binary=True)
    return await _end(connection, await cursor.fetchall())


async def expire(connection: TrioConnection, failure: Failure) -> int:
    """Fail what its deadline has passed; returns how many computations that were."""
    due = (
        b"select group_id from work_groups where deadline <= clock_timestamp() and state in (0, 1, 2)"
        b" order by deadline limit %s"
    )
    cursor = await connection.execute(due, [EXPIRED_AT_ONCE])
    if not (await cursor.fetchall()):
        return 0
    await graph.lock_graph(connection)
    cursor = await connection.execute(due, [EXPIRED_AT_ONCE])
    groups = [group_id for (group_id,) in await cursor.fetchall()]
    values = {"groups": groups, "rule": failure.rule, "message": failure.message}
    cursor = await connection.execute(_EXPIRE.encode(), values, binary=True)
    ended = await _end(connection, await cursor.fetchall())
    await connection.execute("update work_groups set deadline = null where group_id = any(%s)", [groups])
    return ended


async def _end(connection: TrioConnection, ended: list[tuple[bytes, int]]) -> int:
    """Pass failures on, take groups back from their workers, and tell everybody."""
    if not ended:
        return 0
    outputs = [Handle(output) for output, _ in ended]
    failed = [*outputs, *await graph.spread(connection, outputs)]
    affected = sorted({group_id for _, group_id in ended} | await graph.groups_around(connection, failed))
    await connection.execute(
        "select from work_groups where group_id = any(%s) order by group_id for update", [affected]
    )
    await graph.end_leases(connection, {group_id for _, group_id in ended})
    await graph.settle(connection, affected)
    await graph.announce(connection, failed)
    return len(outputs)
