"""Finishing: the outcomes of a job's groups become results, in one transaction.

Decides the order of statements: bulk data before the graph lock, everything else under it and set-based, so that what
is done under the lock costs the same few statements for one group as for many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.program.types import Handle
from coproc.store import blobs, graph
from coproc.store.base import State
from coproc.store.claims import find_held
from coproc.store.rules import check_outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coproc.store.base import GroupOutcome
    from coproc.store.connection import TrioConnection
    from coproc.store.objects import Place


class LeaseLost(Exception):
    """Undoes a transaction in which leases turned out to be lost."""

    def __init__(self, group_ids: frozenset[int]) -> None:
        super().__init__(sorted(group_ids))
        self.group_ids = group_ids


async def finish(
    connection: TrioConnection, worker: str, outcomes: Mapping[int, GroupOutcome], places: Mapping[Handle, Place]
) -> frozenset[int]:
    """Store outcomes; returns the groups whose lease was still held.

    Raises:
        LeaseLost: some were when this began and are not any more; nothing of this may be kept.
        InvalidInput: some outcome does not fit its group.
    """
    cursor = await connection.execute(
        "select group_id, key_id, asked, array(select output from computations c where c.group_id = w.group_id)"
        " from work_groups w where group_id = any(%s) and state = %s and worker = %s",
        [list(outcomes), State.COMPUTING.value, worker],
        binary=True,
    )
    held: dict[int, GroupOutcome] = {}
    for group_id, key_id, asked, outputs in await cursor.fetchall():
        check_outcome(outcomes[group_id], key_id, {Handle(raw) for raw in outputs}, [Handle(raw) for raw in asked])
        held[group_id] = outcomes[group_id]
    if not held:
        return frozenset()
    results = {result.handle: result for outcome in held.values() for result in outcome.results}
    failures = {handle: failure for outcome in held.values() for handle, failure in outcome.failures.items()}
    # The bulk of the data goes over before the lock is taken. If a lease turns out to be lost, the transaction is
    # rolled back as a whole.
    add = blobs.add_ciphertexts if places else blobs.send_ciphertexts
    await add(connection, results.values(), places)
    await graph.lock_graph(connection)
    locked = await find_held(connection, worker, list(held))
    cursor = await connection.execute(
        "select c.output from computations c join work_groups w on w.group_id = c.group_id"
        " where c.output = any(%s) and w.group_id = any(%s)",
        [list(results), list(held)],
        binary=True,
    )
    if lost := held.keys() - {group_id for (group_id,) in await locked.fetchall()}:
        raise LeaseLost(frozenset(lost))
    if taken_back := results.keys() - {Handle(output) for (output,) in await cursor.fetchall()}:  # by their chain
        raise LeaseLost(
            frozenset(
                group_id
                for group_id, outcome in held.items()
                if any(result.handle in taken_back for result in outcome.results)
            )
        )
    stored = list(results)
    await connection.execute(
        "update ciphertexts x set is_allowed = c.is_allowed from computations c"
        " where c.output = x.handle and x.handle = any(%s) and x.is_allowed <> c.is_allowed",
        [stored],
    )
    failed = list(failures)
    if failed:
        await graph.record_failures(connection, failures)
        failed += await graph.spread(connection, failed)
    await connection.execute(
        "update work_groups set state = %s, worker = null, lease_until = null where group_id = any(%s)",
        [State.READY.value, list(held)],
    )
    around = await graph.groups_around(connection, [*stored, *failed])
    await graph.settle(connection, around | held.keys(), held)
    # Another group came to need more of it: a new task, not a failed attempt.
    await connection.execute(
        "update work_groups set attempts = 0 where group_id = any(%s) and state = %s",
        [list(held), State.READY.value],
    )
    await graph.announce(connection, [*stored, *failed])
    return frozenset(held)
