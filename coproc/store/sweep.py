"""Deletion by age in Postgres: the statements of one step of a sweep.

Decides the SQL of the policy in ``retention``; ``memory_retention`` shows in few words what it must amount to.
Candidates are found without the graph lock and looked at again under it, so that writers wait for the deletion alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coproc.program.types import Handle
from coproc.store import graph
from coproc.store.retention import DROPPED, Sweep
from coproc.store.tables import NEWEST, has_table

if TYPE_CHECKING:
    from collections.abc import Collection

    from coproc.store.connection import TrioConnection
    from coproc.store.retention import Retention

NAME: Final = "retention"
_BEGIN: Final = """
    select after_time, after_handle from sweeps
    where name = %s and (after_handle <> '' or ended_at <= clock_timestamp() - make_interval(secs => %s))
    for update skip locked
"""
_PAGE: Final = """
    select handle, created_at from ciphertexts
    where (created_at, handle) > (%s, %s) and created_at <= clock_timestamp() - make_interval(secs => %s)
    order by created_at, handle limit %s
"""
_RECENT: Final = """
    exists (
        select from chain_origins o join chain_blocks b on b.chain_id = o.chain_id and b.hash = o.block_hash
        where o.output = {0} and b.number > (
            select max(t.number) from chain_blocks t where t.chain_id = b.chain_id
        ) - %(reorg_depth)s
    )
"""
_MAY_GO: Final = f"""
    from ciphertexts x left join computations c on c.output = x.handle
    where x.handle = any(%(handles)s)
      and clock_timestamp() >= greatest(x.created_at, (
          select max(w.created_at) from computation_inputs i
          join computations r on r.output = i.output join work_groups w on w.group_id = r.group_id
          where i.input = x.handle
      )) + make_interval(secs => case
          when not x.is_allowed then %(intermediates)s::double precision
          when c.output is null then %(uploads)s::double precision
          else %(results)s::double precision end)
      and not exists (
          select from computation_inputs i
          join computations r on r.output = i.output join work_groups w on w.group_id = r.group_id
          where i.input = x.handle and w.state in (0, 1, 2)
      )
      and not exists (select from chain_allows a where a.handle = x.handle)
      and not {_RECENT.format("x.handle")}
      and not exists (select from computation_inputs i where i.input = x.handle and {_RECENT.format("i.output")})
"""  # noqa: S608 - constants
_FIND: Final = f"select x.handle, coalesce(x.size, octet_length(x.data)), c.output is not null, x.is_allowed {_MAY_GO}"
_LOCK_FOUND: Final = f"select x.handle {_MAY_GO} for update of x skip locked"
_REMEMBER: Final = """
    insert into originals (handle, key_id, digest)
    select x.handle, x.key_id, coalesce(x.digest, sha256(x.data)) from ciphertexts x
    where x.handle = any(%s) on conflict do nothing
"""


async def sweep(connection: TrioConnection, retention: Retention, limit: int) -> Sweep:
    """Look at the next ``limit`` ciphertexts and delete those that may go; runs inside a transaction."""
    shortest = retention.shortest
    if shortest is None or not await has_table(connection, NEWEST):
        return Sweep()
    page = await next_page(connection, NAME, retention.every, shortest, limit)
    if page is None:
        return Sweep()
    sizes = await _delete(connection, retention, page.handles)
    return Sweep(len(page.handles), len(sizes), sum(sizes), page.more)


@dataclass(frozen=True, slots=True)
class Page:
    """The ciphertexts that a step looks at."""

    handles: list[bytes]
    more: bool


async def next_page(connection: TrioConnection, name: str, every: float, age: float, limit: int) -> Page | None:
    """Move a sweep on by up to ``limit`` ciphertexts of at least that age, oldest first.

    Returns:
        None where another process has it in hand, or none is due.
    """
    cursor = await connection.execute(_BEGIN, [name, every])
    if (position := await cursor.fetchone()) is None:
        return None
    cursor = await connection.execute(_PAGE, [*position, age, limit], binary=True)
    page = await cursor.fetchall()
    more = len(page) == limit
    if more:
        await connection.execute(
            "update sweeps set after_time = %s, after_handle = %s where name = %s", [page[-1][1], page[-1][0], name]
        )
    else:
        await connection.execute(
            "update sweeps set after_time = 'epoch', after_handle = '', ended_at = clock_timestamp() where name = %s",
            [name],
        )
    return Page([row[0] for row in page], more)


async def _delete(connection: TrioConnection, retention: Retention, handles: list[bytes]) -> list[int]:
    """Delete those that may go; returns their sizes in bytes."""
    values: dict[str, object] = {
        "intermediates": retention.intermediates,
        "uploads": retention.uploads,
        "results": retention.results,
        "reorg_depth": retention.reorg_depth,
    }
    cursor = await connection.execute(_FIND.encode(), values | {"handles": handles}, binary=True)
    found = {Handle(row[0]): row[1:] for row in await cursor.fetchall()}
    if not found:
        return []
    uploads = [handle for handle, (_, is_computed, _) in found.items() if not is_computed]
    await connection.execute(_REMEMBER, [uploads])
    await graph.lock_graph(connection)
    cursor = await connection.execute(_LOCK_FOUND.encode(), values | {"handles": list(found)}, binary=True)
    gone = [Handle(row[0]) for row in await cursor.fetchall()]
    await connection.execute("delete from ciphertexts where handle = any(%s)", [gone])
    await connection.execute(
        "update originals set dropped_at = clock_timestamp() where handle = any(%s)",
        [[handle for handle in gone if handle in uploads]],
    )
    computed = [handle for handle in gone if found[handle][1]]
    await _forget(
        connection,
        intermediates=[handle for handle in computed if not found[handle][2]],
        results=[handle for handle in computed if found[handle][2]],
    )
    return [found[handle][0] for handle in gone]


async def _forget(connection: TrioConnection, intermediates: list[Handle], results: list[Handle]) -> None:
    """Write down what became of computed values: nobody needs them, or they can be had no more."""
    if intermediates:
        await connection.execute("update computations set is_needed = false where output = any(%s)", [intermediates])
    if results:
        await graph.record_failures(connection, dict.fromkeys(results, DROPPED))
        failed = await graph.spread(connection, results)
        await graph.settle(connection, await graph.groups_around(connection, [*results, *failed]))


async def select_taken(connection: TrioConnection) -> str:
    """Statement for those of ``handles`` under which something is stored, or once was that could be uploaded again."""
    statement = "select handle from ciphertexts where handle = any(%(handles)s)"
    if await has_table(connection, NEWEST):
        statement += " union all select handle from originals where handle = any(%(handles)s)"
    return statement


async def dropped(connection: TrioConnection, handles: Collection[Handle]) -> set[Handle]:
    """Find uploads that were deleted."""
    if not handles or not await has_table(connection, NEWEST):
        return set()
    cursor = await connection.execute(
        "select handle from originals where handle = any(%s) and dropped_at is not null", [list(handles)], binary=True
    )
    return {Handle(handle) for (handle,) in await cursor.fetchall()}
