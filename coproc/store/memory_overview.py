"""The memory twin of what operators may look at.

Decides nothing of its own; it keeps no times and estimates nothing.
"""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING

import trio

from coproc.store.base import State
from coproc.store.memory_forms import FormsMemoryStore
from coproc.store.overview import (
    LOOK_BACK,
    MAX_NODES,
    RECENT_GROUPS,
    FailedResult,
    GraphNode,
    QueueEntry,
    TransactionGraph,
    WorkerEntry,
    gather,
    node_state,
    operation_name,
    outside,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.program.types import Handle
    from coproc.store.overview import RecentTransaction


class ViewedMemoryStore(FormsMemoryStore):
    """``ViewedStore`` in dictionaries."""

    guards = ()
    connections = None

    async def check(self) -> None:
        """Nothing can be away."""
        await trio.lowlevel.checkpoint()

    async def queue(self) -> Sequence[QueueEntry]:
        """Open groups by tenant and state."""
        await trio.lowlevel.checkpoint()
        is_open = (State.WAITING, State.READY, State.COMPUTING)
        keys = sorted((group.tenant or "", group.state) for group in self._groups.values() if group.state in is_open)
        return [
            QueueEntry(tenant or None, state, len(list(same)), None, None) for (tenant, state), same in groupby(keys)
        ]

    async def workers(self) -> Sequence[WorkerEntry]:
        """Processes that hold work; see ``OverviewStore.workers``."""
        await trio.lowlevel.checkpoint()
        held = [group for group in self._groups.values() if group.state is State.COMPUTING and group.worker is not None]
        now = trio.current_time()
        leases: dict[str, list[float]] = {}
        for group in held:
            leases.setdefault(group.worker or "", []).append(group.lease_ends - now)
        return [WorkerEntry(worker, len(left), None, max(left)) for worker, left in sorted(leases.items())]

    async def recent_failures(self, limit: int) -> Sequence[FailedResult]:
        """Failed results; see ``OverviewStore.recent_failures``."""
        await trio.lowlevel.checkpoint()
        failed = (
            FailedResult(event.transaction_id, event.handle, self._operation(event.handle), event.failure, None)
            for event in reversed(self._events[-LOOK_BACK:])
            if event.failure is not None and event.transaction_id
        )
        return list(islice(failed, limit))

    async def recent_transactions(self, limit: int) -> Sequence[RecentTransaction]:
        """Transactions; see ``OverviewStore.recent_transactions``."""
        await trio.lowlevel.checkpoint()
        newest = islice(reversed(self._groups.values()), RECENT_GROUPS)
        return gather(
            (
                group.transaction_id,
                group.tenant,
                group.state,
                len(group.outputs),
                sum(self._entries[output].failure is not None for output in group.outputs),
                None,
            )
            for group in newest
        )[:limit]

    async def transaction_graph(self, transaction_id: bytes) -> TransactionGraph | None:
        """One transaction; see ``OverviewStore.transaction_graph``."""
        await trio.lowlevel.checkpoint()
        outputs = self._transactions.get(transaction_id)
        if not outputs:
            return None
        nodes = tuple(self._node(output) for output in islice(outputs, MAX_NODES))
        reads = {handle: handle in self._ciphertexts for handle in outside(nodes)}
        return TransactionGraph(transaction_id, len(outputs), nodes, reads)

    def _operation(self, handle: Handle) -> str:
        return operation_name(self._entries[handle].computation.operation)

    def _node(self, output: Handle) -> GraphNode:
        entry = self._entries[output]
        group, computation = entry.group, entry.computation
        return GraphNode(
            output,
            self._operation(output),
            tuple(dict.fromkeys(computation.inputs)),
            node_state(group.state, entry.failure, is_stored=output in self._ciphertexts),
            computation.is_allowed,
            group.group_id,
            group.attempts,
            group.worker,
            entry.failure,
        )
