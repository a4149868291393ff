"""Submitting: a batch becomes groups that wait or are ready, in one transaction.

Decides the order of statements: under the graph lock, one message to the server looks at what a batch must fit, and
another writes what is new, and leases it at once if somebody wants that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.program.computation import Computation, Operation
from coproc.program.types import Handle
from coproc.store import graph, sweep
from coproc.store.base import WorkGroup
from coproc.store.claims import TAKEN, nothing
from coproc.store.operands import decode_operands
from coproc.store.rules import check_same_definition, connected_groups, redefined, unknown_key
from coproc.store.traces import remember

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from coproc.store.base import Submission
    from coproc.store.connection import TrioConnection
    from coproc.store.taking import Lease

_LOOK: Final = """
    select exists (select from keys where key_id = %(key)s),
           exists (select from computations where output = any(%(inputs)s)),
           exists (select from computation_inputs where input = any(%(handles)s)),
           array(select output from computations where output = any(%(handles)s)),
           array({taken})
"""
# Groups made by this transaction, each known by one of its outputs: those that lack an input stay as they were made,
# waiting.
_LEASE: Final = f"""
    with leased as (
        update work_groups w set {TAKEN}
        where w.group_id = any(array(select group_id from computations where output = any(%(made)s))) and (
            select true from computations c join computation_inputs i on i.output = c.output
            where c.group_id = w.group_id
              and not exists (select from ciphertexts x where x.handle = i.input)
              and not exists (select from computations p where p.output = i.input and p.group_id = c.group_id)
            limit 1
        ) is null
        returning group_id, coalesce((select t.weight from tenants t where t.name = w.tenant), 1) as weight,
            extract(epoch from clock_timestamp() - w.created_at)::double precision as waited
    )
    select c.output, leased.group_id, leased.weight, leased.waited
    from leased join computations c on c.group_id = leased.group_id where c.output = any(%(made)s)
    order by leased.group_id
"""  # noqa: S608 - constants


async def submit(
    connection: TrioConnection, submission: Submission, batch: Mapping[Handle, Computation], lease: Lease | None
) -> tuple[int, Callable[[], Awaitable[list[WorkGroup]]]]:
    """Write a batch, by output.

    Args:
        connection: in a transaction.
        submission: what the batch is of.
        batch: its computations.
        lease: under which new groups are wanted at once.

    Returns:
        How many computations are new; and what reads the groups that were leased, once the transaction has ended.

    Raises:
        NotFound: the key is unknown.
        InvalidInput: an output already names something else.
    """
    known, reads, is_read = await _check_definitions(connection, submission.key_id, batch)
    new = [computation for output, computation in batch.items() if output not in known]
    allowed = [output for output in known if batch[output].is_allowed]
    affected = await graph.allow(connection, allowed) if allowed else set[int]()
    groups = [(submission.transaction_id, group) for group in connected_groups(new)]
    asked = [(submission.transaction_id, output) for output in batch]
    await graph.add_groups(connection, submission.key_id, groups, asked, submission.tenant, submission.seconds)
    made = [group[0].output for _, group in groups]
    await remember(connection, made, submission.traceparent)
    failed: list[Handle] = []
    if new and (reads or is_read):
        inputs = {handle for computation in new for handle in computation.inputs}
        affected |= await graph.need(connection, inputs | {computation.output for computation in new})
        failed = await graph.spread(connection, sorted(inputs))
        affected |= await graph.groups_around(connection, failed) if failed else set[int]()
    leased: Callable[[], Awaitable[list[WorkGroup]]] = nothing
    if lease is not None and not (known or is_read or failed) and _can_be_taken(groups, lease):
        leased = await _lease(connection, submission, [group for _, group in groups], lease)
        made = []  # the others wait, as they were made
    await graph.settle(connection, affected, made=made)
    if known or failed:
        await graph.announce(connection, [*known, *failed])
    return len(new), leased


def _can_be_taken(groups: Sequence[tuple[bytes, Sequence[Computation]]], lease: Lease) -> bool:
    """Whether new groups are few, and somebody waits for each of them."""
    return len(groups) <= lease.limit and all(any(item.is_allowed for item in group) for _, group in groups)


async def _lease(
    connection: TrioConnection, submission: Submission, groups: Sequence[Sequence[Computation]], lease: Lease
) -> Callable[[], Awaitable[list[WorkGroup]]]:
    """Lease those groups of this transaction that are ready; returns what reads them."""
    made = {group[0].output: tuple(group) for group in groups}
    cursor = await connection.execute(
        _LEASE.encode(), {"worker": lease.worker, "seconds": lease.seconds, "made": list(made)}, binary=True
    )

    async def read() -> list[WorkGroup]:
        return [
            WorkGroup(
                group_id,
                submission.key_id,
                submission.transaction_id,
                made[Handle(output)],
                frozenset(computation.output for computation in made[Handle(output)] if computation.is_allowed),
                attempts=0,
                tenant=submission.tenant,
                weight=weight,
                traceparent=submission.traceparent,
                waited=max(0.0, waited),
            )
            for output, group_id, weight, waited in await cursor.fetchall()
        ]

    return read


async def _check_definitions(
    connection: TrioConnection,
    key_id: bytes,
    batch: Mapping[Handle, Computation],
) -> tuple[set[Handle], bool, bool]:
    """Take the graph lock and look, in one message to the server, whether a batch fits what is there.

    Returns:
        The outputs that are known with the same definition, whether the batch reads what other computations make, and
        whether others read what it makes.

    Raises:
        NotFound: the key is unknown.
        InvalidInput: an output already names something else.
    """
    await graph.lock_graph(connection)
    cursor = await connection.execute(
        _LOOK.format(taken=await sweep.select_taken(connection)).encode(),
        {
            "key": key_id,
            "inputs": list({handle for computation in batch.values() for handle in computation.inputs}),
            "handles": list(batch),
        },
        binary=True,
    )
    ((is_key_known, reads, is_read, outputs, taken),) = await cursor.fetchall()
    if not is_key_known:
        raise unknown_key(key_id)
    known = {Handle(output) for output in outputs}
    if known:
        await _check_same(connection, key_id, [batch[output] for output in known])
    if contradicting := {Handle(handle) for handle in taken} - known:
        raise redefined(min(contradicting))
    return known, reads, is_read


async def _check_same(connection: TrioConnection, key_id: bytes, known: Sequence[Computation]) -> None:
    """Check that computations whose outputs are known are what is known. Raises InvalidInput."""
    definitions = await connection.execute(
        "select c.output, c.operation, c.operands, w.key_id from computations c join work_groups w using (group_id)"
        " where c.output = any(%s)",
        [[computation.output for computation in known]],
        binary=True,
    )
    again = {computation.output: computation for computation in known}
    for output, operation, operands, known_key in await definitions.fetchall():
        handle = Handle(output)
        earlier = Computation(handle, Operation(operation), decode_operands(operands), is_allowed=False)
        check_same_definition(earlier, again[handle])
        if known_key != key_id:
            raise redefined(handle)
