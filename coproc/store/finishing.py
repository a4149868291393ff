"""Finishing: the outcomes of a job's groups become results, in one transaction.

Decides the order of statements: bulk data before the graph lock, everything else under it and set-based, so that what
is done under the lock costs the same few statements for one group as for many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.program.types import Handle
from coproc.store import blobs, graph
from coproc.store.base import State
from coproc.store.rules import check_outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncCursor
    from psycopg.rows import TupleRow

    from coproc.store.base import GroupOutcome
    from coproc.store.connection import TrioConnection
    from coproc.store.objects import Place

_LOCK_HELD: Final = """
    select w.group_id, w.key_id, w.asked,
           array(select c.output from computations c where c.group_id = w.group_id order by c.output),
           array(select c.is_allowed from computations c where c.group_id = w.group_id order by c.output),
           array(
               select distinct c.group_id from computation_inputs i join computations c on c.output = i.output
               where i.input = any(%(handles)s)
           )
    from work_groups w
    where group_id = any(%(groups)s) and state = %(state)s and worker = %(worker)s order by group_id for update
"""


class LeaseLost(Exception):
    """Undoes a transaction in which leases turned out to be lost."""

    def __init__(self, group_ids: frozenset[int]) -> None:
        super().__init__(sorted(group_ids))
        self.group_ids = group_ids


async def finish(
    connection: TrioConnection, worker: str, outcomes: Mapping[int, GroupOutcome], places: Mapping[Handle, Place]
) -> tuple[frozenset[int], AsyncCursor[TupleRow]]:
    """Store outcomes.

    Returns:
        Their groups, and what ``announce`` returns.

    Raises:
        LeaseLost: some lease is not held any more; nothing of this may be kept.
        InvalidInput: some outcome does not fit its group.
    """
    results = {result.handle: result for outcome in outcomes.values() for result in outcome.results}
    failures = {handle: failure for outcome in outcomes.values() for handle, failure in outcome.failures.items()}
    # The bulk of the data goes over before the lock is taken, and all of this in one message, if it is not much: if
    # something turns out to be wrong, the transaction is rolled back as a whole.
    add = blobs.add_ciphertexts if places else blobs.send_ciphertexts
    await add(connection, results.values(), places)
    await graph.lock_graph(connection)
    locked = await connection.execute(
        _LOCK_HELD,
        {
            "handles": [*results, *failures],
            "groups": list(outcomes),
            "state": State.COMPUTING.value,
            "worker": worker,
        },
        binary=True,
    )
    held: set[int] = set()
    around: set[int] = set()
    allowed: dict[Handle, bool] = {}
    for group_id, key_id, asked, outputs, are_allowed, readers in await locked.fetchall():
        members = dict(zip(map(Handle, outputs), are_allowed, strict=True))
        check_outcome(outcomes[group_id], key_id, members, [Handle(raw) for raw in asked])
        allowed |= members
        held.add(group_id)
        around |= set(readers)
    if lost := outcomes.keys() - held:
        raise LeaseLost(frozenset(lost))
    if changed := [handle for handle, result in results.items() if result.is_allowed != allowed[handle]]:
        await connection.execute(
            "update ciphertexts x set is_allowed = c.is_allowed from computations c"
            " where c.output = x.handle and x.handle = any(%s) and x.is_allowed <> c.is_allowed",
            [changed],
        )
    failed = list(failures)
    if failed:
        await graph.record_failures(connection, failures)
        dependants = await graph.spread(connection, failed)
        around |= await graph.groups_around(connection, dependants)
        failed += dependants
    await graph.settle(connection, around, done=held)
    return frozenset(held), await graph.announce(connection, [*results, *failed])
