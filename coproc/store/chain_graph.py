"""The statements by which blocks of chains enter the graph, and leave it.

Decides the SQL; ``memory_chain`` shows in few words what it must amount to. ``advance`` runs inside a transaction that
holds the graph lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.program.computation import Computation, Operation
from coproc.program.types import Handle
from coproc.store import graph
from coproc.store.base import State
from coproc.store.chains import BlockId, ChainChange, Delegation, Fault, accept, check_extends
from coproc.store.operands import decode_operands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.store.chains import Accepted, ChainBlock
    from coproc.store.connection import TrioConnection

_UNLINK: Final = """
    with gone as (
        delete from chain_origins where chain_id = %s and block_hash = any(%s)
        returning block_hash, transaction_id, output
    ), pairs as (
        select distinct g.transaction_id, g.output from gone g
        where not exists (
            select from chain_origins o
            where o.output = g.output and o.transaction_id = g.transaction_id
              and not exists (
                  select from gone x where x.block_hash = o.block_hash and x.output = o.output
                    and x.transaction_id = o.transaction_id
              )
        )
    )
    delete from transaction_outputs t using pairs p
    where t.transaction_id = p.transaction_id and t.output = p.output
    returning t.transaction_id, t.output
"""
_DOOMED: Final = """
    with recursive mine (output) as (select distinct unnest(%s::bytea[])), kept (output) as (
        select m.output from mine m
        where exists (select from transaction_outputs t where t.output = m.output)
           or exists (
               select from computation_inputs i
               where i.input = m.output and not exists (select from mine x where x.output = i.output)
           )
      union
        select i.input from kept join computation_inputs i on i.output = kept.output
        where i.input in (select output from mine)
    )
    select c.output, c.group_id from mine join computations c on c.output = mine.output
    where mine.output not in (select output from kept)
"""
_FORGET: Final = """
    with pairs as (
        select r.sequence, r.sequence = (select max(sequence) from results) as is_last
        from unnest(%s::bytea[], %s::bytea[]) as p (transaction_id, output)
        join results r on r.transaction_id = p.transaction_id and r.output = p.output
    ), gone as (
        delete from results r using pairs where r.sequence = pairs.sequence and not pairs.is_last
    )
    update results r set transaction_id = int8send(r.sequence), output = %s
    from pairs where r.sequence = pairs.sequence and pairs.is_last
"""
_NEEDLESS: Final = """
    update computations p set is_needed = false
    where p.output = any(%s) and p.is_needed and not exists (
        select from computation_inputs i join computations c on c.output = i.output
        where i.input = p.output and c.group_id <> p.group_id
    )
    returning p.group_id
"""
_LOWER: Final = """
    update computations c set is_allowed = false
    where c.output = any(%s) and c.is_allowed
      and not exists (select from chain_allows a where a.handle = c.output)
      and not exists (
          select from transaction_outputs t where t.output = c.output and not exists (
              select from chain_origins o where o.output = t.output and o.transaction_id = t.transaction_id
          )
      )
    returning c.output, c.group_id
"""


async def tail(connection: TrioConnection, chain_id: int, limit: int) -> list[BlockId]:
    """Read the newest blocks, oldest first."""
    cursor = await connection.execute(
        "select number, hash from chain_blocks where chain_id = %s order by number desc limit %s",
        [chain_id, limit],
        binary=True,
    )
    return [BlockId(number, block_hash) for number, block_hash in reversed(await cursor.fetchall())]


async def faults(connection: TrioConnection, chain_id: int, limit: int) -> list[Fault]:
    """Read the newest faults, newest first."""
    cursor = await connection.execute(
        "select log_index, transaction_id, handle, rule, message from chain_faults"
        " where chain_id = %s order by fault_id desc limit %s",
        [chain_id, limit],
        binary=True,
    )
    return [Fault(*row) for row in await cursor.fetchall()]


async def delegation(
    connection: TrioConnection, chain_id: int, delegator: bytes, delegate: bytes, contract: bytes
) -> Delegation | None:
    """Read the newest word on a delegation."""
    cursor = await connection.execute(
        "select log_index, delegator, delegate, contract, counter, old_expiry, new_expiry from chain_delegations"
        " where chain_id = %s and delegator = %s and delegate = %s and contract = %s order by counter desc limit 1",
        [chain_id, delegator, delegate, contract],
        binary=True,
    )
    row = await cursor.fetchone()
    return None if row is None else Delegation(*row[:4], *(int(number) for number in row[4:]))


async def advance(
    connection: TrioConnection,
    chain_id: int,
    key_id: bytes,
    orphaned: Sequence[bytes],
    blocks: Sequence[ChainBlock],
) -> ChainChange:
    """Write blocks, then take orphaned ones back; see ``ChainStore.advance_chain``."""
    cursor = await connection.execute(
        "delete from chain_blocks where chain_id = %s and hash = any(%s)", [chain_id, list(orphaned)]
    )
    missing = len(orphaned) - await connection.changed_rows(cursor)
    tip = await tail(connection, chain_id, 1)
    check_extends(tip[0] if tip else None, blocks, missing)
    await connection.execute(
        "insert into chain_blocks (chain_id, number, hash, parent)"
        " select %s, * from unnest(%s::bigint[], %s::bytea[], %s::bytea[])",
        [
            chain_id,
            [block.number for block in blocks],
            [block.hash for block in blocks],
            [block.parent for block in blocks],
        ],
    )
    accepted = await _bring(connection, chain_id, key_id, blocks)
    retracted = await _retract(connection, chain_id, orphaned) if orphaned else 0
    return ChainChange(len(accepted.new), retracted, len(accepted.faults))


async def _bring(connection: TrioConnection, chain_id: int, key_id: bytes, blocks: Sequence[ChainBlock]) -> Accepted:
    allows = [(block.hash, handle) for block in blocks for handle in block.allowed]
    outputs = [item.computation.output for block in blocks for item in block.computations]
    await _record(connection, chain_id, blocks, allows)
    known = await _known(connection, key_id, outputs)
    cursor = await connection.execute(
        "select distinct handle from chain_allows where handle = any(%s)", [outputs], binary=True
    )
    accepted = accept(blocks, known, {Handle(handle) for (handle,) in await cursor.fetchall()})
    await _record_faults(connection, chain_id, accepted)
    affected = await graph.allow(connection, [handle for _, handle in allows]) if allows else set[int]()
    if accepted.links:
        affected |= await _add(connection, chain_id, key_id, accepted)
    linked = [output for _, _, output in accepted.links]
    failed: list[Handle] = []
    if accepted.new:
        inputs = {handle for _, computation in accepted.new for handle in computation.inputs}
        new = {computation.output for _, computation in accepted.new}
        await graph.record_failures(connection, accepted.failures)
        affected |= await graph.need(connection, inputs | new)
        failed = await graph.spread(connection, sorted(inputs | set(accepted.failures)))
        affected |= await graph.groups_around(connection, failed) if failed else set[int]()
    await graph.settle(connection, affected)
    told = list(dict.fromkeys([*linked, *failed, *(handle for _, handle in allows)]))
    if told:
        await graph.announce(connection, told)
    return accepted


async def _known(
    connection: TrioConnection, key_id: bytes, outputs: Sequence[Handle]
) -> dict[Handle, Computation | None]:
    """Read the definitions of outputs; None for those that name something else."""
    cursor = await connection.execute(
        "select c.output, c.operation, c.operands, w.key_id from computations c join work_groups w using (group_id)"
        " where c.output = any(%s)",
        [outputs],
        binary=True,
    )
    known: dict[Handle, Computation | None] = {}
    for output, operation, operands, its_key in await cursor.fetchall():
        handle = Handle(output)
        known[handle] = None
        if its_key == key_id:
            known[handle] = Computation(handle, Operation(operation), decode_operands(operands), is_allowed=False)
    cursor = await connection.execute(
        "select handle from ciphertexts where handle = any(%s)",
        [[output for output in outputs if output not in known]],
        binary=True,
    )
    return known | {Handle(handle): None for (handle,) in await cursor.fetchall()}


async def _add(connection: TrioConnection, chain_id: int, key_id: bytes, accepted: Accepted) -> set[int]:
    """Insert new computations and all links; returns the new groups."""
    cursor = await connection.execute(
        "select u.handle from unnest(%s::bytea[]) as u (handle)"
        " where not exists (select from ciphertexts x where x.handle = u.handle)"
        " and not exists (select from computations c where c.output = u.handle)",
        [list(accepted.inputs)],
        binary=True,
    )
    groups = accepted.groups({Handle(handle) for (handle,) in await cursor.fetchall()})
    cursor = await graph.add_groups(
        connection, key_id, groups, [(transaction_id, output) for _, transaction_id, output in accepted.links]
    )
    group_ids = {group_id for (group_id,) in await cursor.fetchall()}
    columns = [list(column) for column in zip(*accepted.links, strict=True)]
    await connection.execute(
        "insert into chain_origins (chain_id, block_hash, transaction_id, output)"
        " select %s, * from unnest(%s::bytea[], %s::bytea[], %s::bytea[]) on conflict do nothing",
        [chain_id, *columns],
    )
    return group_ids


async def _record(
    connection: TrioConnection, chain_id: int, blocks: Sequence[ChainBlock], allows: Sequence[tuple[bytes, Handle]]
) -> None:
    if allows:
        await connection.execute(
            "insert into chain_allows (chain_id, block_hash, handle)"
            " select %s, * from unnest(%s::bytea[], %s::bytea[]) on conflict do nothing",
            [chain_id, [block_hash for block_hash, _ in allows], [handle for _, handle in allows]],
        )
    delegations = [
        (
            block.hash,
            said.log_index,
            said.delegator,
            said.delegate,
            said.contract,
            said.counter,
            said.old_expiry,
            said.new_expiry,
        )
        for block in blocks
        for said in block.delegations
    ]
    if delegations:
        await connection.execute(
            "insert into chain_delegations select %s, * from unnest(%s::bytea[], %s::bigint[], %s::bytea[],"
            " %s::bytea[], %s::bytea[], %s::numeric[], %s::numeric[], %s::numeric[])",
            [chain_id, *map(list, zip(*delegations, strict=True))],
        )


async def _record_faults(connection: TrioConnection, chain_id: int, accepted: Accepted) -> None:
    if not accepted.faults:
        return
    await connection.execute(
        "insert into chain_faults (chain_id, block_hash, log_index, transaction_id, handle, rule, message)"
        " select %s, * from unnest(%s::bytea[], %s::bigint[], %s::bytea[], %s::bytea[], %s::text[], %s::text[])",
        [
            chain_id,
            [block_hash for block_hash, _ in accepted.faults],
            [fault.log_index for _, fault in accepted.faults],
            [fault.transaction_id for _, fault in accepted.faults],
            [fault.handle for _, fault in accepted.faults],
            [fault.rule for _, fault in accepted.faults],
            [fault.message.replace("\0", "") for _, fault in accepted.faults],
        ],
    )


async def _retract(connection: TrioConnection, chain_id: int, orphaned: Sequence[bytes]) -> int:
    """Take back what orphaned blocks alone brought; returns how many computations that were."""
    hashes = list(orphaned)
    cursor = await connection.execute(_UNLINK, [chain_id, hashes], binary=True)
    pairs = [(transaction_id, Handle(output)) for transaction_id, output in await cursor.fetchall()]
    await _forget_results(connection, pairs)
    cursor = await connection.execute(_DOOMED, [[output for _, output in pairs]], binary=True)
    doomed = {Handle(output): group_id for output, group_id in await cursor.fetchall()}
    affected = await _delete(connection, doomed) if doomed else set[int]()
    cursor = await connection.execute(
        "delete from chain_allows where chain_id = %s and block_hash = any(%s) returning handle",
        [chain_id, hashes],
        binary=True,
    )
    affected |= await _lower(connection, [Handle(handle) for (handle,) in await cursor.fetchall()])
    await connection.execute(
        "delete from chain_delegations where chain_id = %s and block_hash = any(%s)", [chain_id, hashes]
    )
    await connection.execute(
        "delete from chain_faults where chain_id = %s and block_hash = any(%s)", [chain_id, hashes]
    )
    await graph.settle(connection, affected)
    return len(doomed)


async def _forget_results(connection: TrioConnection, pairs: Sequence[tuple[bytes, Handle]]) -> None:
    """Take results back. The last one leaves its number behind, for nobody, so that it is not given out twice."""
    if not pairs:
        return
    cursor = await connection.execute("select from computations where output = %s", [graph.NOBODY])
    if await cursor.fetchone() is None:
        await connection.execute(
            "with g as ("
            " insert into work_groups (key_id, transaction_id, state)"
            " select key_id, %s, %s from computations c join work_groups w using (group_id) where c.output = %s"
            " returning group_id"
            ") insert into computations (output, group_id, position, operation, operands, is_allowed, failure_rule)"
            " select %s, group_id, 0, %s, '', false, 'RETRACTED' from g",
            [graph.NOBODY, State.COMPLETED.value, pairs[0][1], graph.NOBODY, Operation.TRIVIAL_ENCRYPT.value],
        )
    await connection.execute(
        _FORGET, [[transaction_id for transaction_id, _ in pairs], [output for _, output in pairs], graph.NOBODY]
    )


async def _delete(connection: TrioConnection, doomed: dict[Handle, int]) -> set[int]:
    """Delete computations, and take their groups back from whoever computes them; returns the groups that changed."""
    outputs, groups = list(doomed), sorted(set(doomed.values()))
    cursor = await connection.execute(
        "delete from computation_inputs where output = any(%s) returning input", [outputs], binary=True
    )
    inputs = {Handle(source) for (source,) in await cursor.fetchall()}
    await connection.execute("select from work_groups where group_id = any(%s) order by group_id for update", [groups])
    await graph.end_leases(connection, groups)
    await connection.execute("delete from ciphertexts where handle = any(%s)", [outputs])
    await connection.execute("delete from computations where output = any(%s)", [outputs])
    await connection.execute(
        "delete from work_groups w where w.group_id = any(%s)"
        " and not exists (select from computations c where c.group_id = w.group_id)",
        [groups],
    )
    cursor = await connection.execute(_NEEDLESS, [sorted(inputs)])
    return set(groups) | {group_id for (group_id,) in await cursor.fetchall()}


async def _lower(connection: TrioConnection, handles: Sequence[Handle]) -> set[int]:
    """Allow no more what nobody allows any more; returns the groups that changed."""
    if not handles:
        return set()
    cursor = await connection.execute(_LOWER, [list(handles)], binary=True)
    lowered = {Handle(output): group_id for output, group_id in await cursor.fetchall()}
    if lowered:
        outputs = list(lowered)
        await connection.execute("update ciphertexts set is_allowed = false where handle = any(%s)", [outputs])
        cursor = await connection.execute(
            "select transaction_id, output from transaction_outputs where output = any(%s)", [outputs], binary=True
        )
        await _forget_results(connection, [(name, Handle(output)) for name, output in await cursor.fetchall()])
    return set(lowered.values())
