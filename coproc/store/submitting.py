"""Submitting: a batch becomes groups that wait or are ready, in one transaction.

Decides the order of statements: under the graph lock, one message to the server looks at what a batch must fit, and
another writes what is new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.program.computation import Computation, Operation
from coproc.program.types import Handle
from coproc.store import graph, sweep
from coproc.store.operands import decode_operands
from coproc.store.rules import check_same_definition, connected_groups, redefined, unknown_key
from coproc.store.traces import remember

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coproc.store.base import Submission
    from coproc.store.connection import TrioConnection

_LOOK: Final = """
    select exists (select from keys where key_id = %(key)s),
           exists (select from computations where output = any(%(inputs)s))
           or exists (select from computation_inputs where input = any(%(handles)s)),
           array(select output from computations where output = any(%(handles)s)),
           array({taken})
"""


async def submit(connection: TrioConnection, submission: Submission, batch: Mapping[Handle, Computation]) -> int:
    """Write a batch, by output; returns how many computations are new.

    Raises:
        NotFound: the key is unknown.
        InvalidInput: an output already names something else.
    """
    known, is_connected = await _check_definitions(connection, submission.key_id, batch)
    new = [computation for output, computation in batch.items() if output not in known]
    allowed = [output for output in known if batch[output].is_allowed]
    affected = await graph.allow(connection, allowed) if allowed else set[int]()
    groups = [(submission.transaction_id, group) for group in connected_groups(new)]
    asked = [(submission.transaction_id, output) for output in batch]
    await graph.add_groups(connection, submission.key_id, groups, asked, submission.tenant, submission.seconds)
    made = [group[0].output for _, group in groups]
    await remember(connection, made, submission.traceparent)
    failed: list[Handle] = []
    if new and is_connected:
        inputs = {handle for computation in new for handle in computation.inputs}
        affected |= await graph.need(connection, inputs | {computation.output for computation in new})
        failed = await graph.spread(connection, sorted(inputs))
        affected |= await graph.groups_around(connection, failed) if failed else set[int]()
    await graph.settle(connection, affected, made=made)
    if known or failed:
        await graph.announce(connection, [*known, *failed])
    return len(new)


async def _check_definitions(
    connection: TrioConnection,
    key_id: bytes,
    batch: Mapping[Handle, Computation],
) -> tuple[set[Handle], bool]:
    """Take the graph lock and look, in one message to the server, whether a batch fits what is there.

    Returns:
        The outputs that are known with the same definition, and whether the batch reads what other computations make,
        or the other way round.

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
    ((is_key_known, is_connected, outputs, taken),) = await cursor.fetchall()
    if not is_key_known:
        raise unknown_key(key_id)
    known = {Handle(output) for output in outputs}
    if known:
        await _check_same(connection, key_id, [batch[output] for output in known])
    if contradicting := {Handle(handle) for handle in taken} - known:
        raise redefined(min(contradicting))
    return known, is_connected


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
