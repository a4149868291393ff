"""The memory twin of what chains bring.

Decides nothing of its own: it shows the semantics of ``chains.ChainStore`` in the fewest words.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from coproc.store.base import State, Submission, Topic
from coproc.store.chains import BlockId, ChainChange, accept, check_extends
from coproc.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coproc.program.computation import Computation
    from coproc.program.types import Handle
    from coproc.store.chains import Accepted, ChainBlock, Delegation, Fault


class ChainMemoryStore(MemoryStore):
    """``ChainStore`` in dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self._chains: defaultdict[int, list[ChainBlock]] = defaultdict(list)
        self._origins: defaultdict[tuple[bytes, Handle], set[bytes]] = defaultdict(set)
        """Blocks by transaction and output."""
        self._allows: defaultdict[Handle, set[bytes]] = defaultdict(set)
        self._faults: dict[int, list[tuple[bytes, Fault]]] = defaultdict(list)

    async def chain_tail(self, chain_id: int, limit: int) -> Sequence[BlockId]:
        """Read where a chain stands; see ``ChainStore.chain_tail``."""
        await trio.lowlevel.checkpoint()
        return [BlockId(block.number, block.hash) for block in self._chains[chain_id][-limit:]]

    async def chain_faults(self, chain_id: int, limit: int) -> Sequence[Fault]:
        """Read faults; see ``ChainStore.chain_faults``."""
        await trio.lowlevel.checkpoint()
        return [fault for _, fault in reversed(self._faults[chain_id])][:limit]

    async def chain_delegation(
        self, chain_id: int, delegator: bytes, delegate: bytes, contract: bytes
    ) -> Delegation | None:
        """Read a delegation; see ``ChainStore.chain_delegation``."""
        await trio.lowlevel.checkpoint()
        said = [
            item
            for block in self._chains[chain_id]
            for item in block.delegations
            if (item.delegator, item.delegate, item.contract) == (delegator, delegate, contract)
        ]
        return max(said, key=lambda item: item.counter, default=None)

    async def advance_chain(
        self, chain_id: int, key_id: bytes, orphaned: Sequence[bytes], blocks: Sequence[ChainBlock]
    ) -> ChainChange:
        """Write blocks and take others back; see ``ChainStore.advance_chain``."""
        await trio.lowlevel.checkpoint()
        self._check_key(key_id)
        kept = [block for block in self._chains[chain_id] if block.hash not in orphaned]
        gone = [block for block in self._chains[chain_id] if block.hash in orphaned]
        tip = BlockId(kept[-1].number, kept[-1].hash) if kept else None
        check_extends(tip, blocks, len(orphaned) - len(gone))
        self._chains[chain_id] = [*kept, *blocks]
        accepted = self._bring(key_id, blocks)
        retracted = self._retract(gone)
        self._faults[chain_id] = [item for item in self._faults[chain_id] if item[0] not in orphaned]
        self._faults[chain_id] += accepted.faults
        return ChainChange(len(accepted.new), retracted, len(accepted.faults))

    def _bring(self, key_id: bytes, blocks: Sequence[ChainBlock]) -> Accepted:
        allowed = [handle for block in blocks for handle in block.allowed]
        for block in blocks:
            for handle in block.allowed:
                self._allows[handle].add(block.hash)
        known: dict[Handle, Computation | None] = {
            item.computation.output: None
            for block in blocks
            for item in block.computations
            if item.computation.output in self._ciphertexts or item.computation.output in self._entries
        }
        for handle in known:
            entry = self._entries.get(handle)
            known[handle] = entry.computation if entry is not None and entry.group.key_id == key_id else None
        accepted = accept(blocks, known, {handle for handle, by in self._allows.items() if by})
        affected = self._allow(allowed)
        missing = {
            handle for handle in accepted.inputs if handle not in self._entries and handle not in self._ciphertexts
        }
        for transaction_id, members in accepted.groups(missing):
            group = self._add_group(Submission(key_id, transaction_id, members), members)
            affected[group.group_id] = group
        for block_hash, transaction_id, output in accepted.links:
            self._transactions[transaction_id][output] = None
            self._linked[output][transaction_id] = None
            self._origins[transaction_id, output].add(block_hash)
        for output, failure in accepted.failures.items():
            self._entries[output].failure = failure
        new = [computation for _, computation in accepted.new]
        affected |= self._need({handle for computation in new for handle in computation.inputs}, new)
        failed = self._spread(accepted.failures)
        self._settle(affected | self._readers(failed))
        told = [*(output for _, _, output in accepted.links), *failed, *allowed]
        self._announce(handle for handle in told if handle in self._entries)
        return accepted

    def _retract(self, gone: Sequence[ChainBlock]) -> int:
        hashes = {block.hash for block in gone}
        unlinked = [pair for pair, by in self._origins.items() if by & hashes and not by - hashes]
        for by in self._origins.values():
            by.difference_update(hashes)
        for transaction_id, output in unlinked:
            del self._origins[transaction_id, output]
            self._transactions[transaction_id].pop(output, None)
            self._linked[output].pop(transaction_id, None)
        self._forget_results(unlinked)
        mine = {output for _, output in unlinked if output in self._entries and not self._linked[output]}
        kept = [output for output in mine if any(reader not in mine for reader in self._consumers.get(output, ()))]
        for output in kept:  # grows while it is walked
            kept += [source for source in self._entries[output].computation.inputs if source in mine - set(kept)]
        doomed = mine - set(kept)
        affected = self._readers(doomed)
        inputs = {handle for output in doomed for handle in self._entries[output].computation.inputs}
        for output in doomed:
            self._delete(output)
        for handle in inputs:
            if (entry := self._entries.get(handle)) is not None:
                readers = (self._entries[reader].group for reader in self._consumers[handle])
                entry.is_needed = any(group is not entry.group for group in readers)
                affected[entry.group.group_id] = entry.group
        for by in self._allows.values():
            by.difference_update(hashes)
        for handle in {handle for block in gone for handle in block.allowed}:
            self._lower(handle)
            if handle in self._entries:
                affected[self._entries[handle].group.group_id] = self._entries[handle].group
        self._settle(affected)
        return len(doomed)

    def _is_of_a_chain(self, output: Handle) -> bool:
        return any((transaction_id, output) in self._origins for transaction_id in self._linked[output])

    def _delete(self, output: Handle) -> None:
        entry = self._entries.pop(output)
        group = entry.group
        self._ciphertexts.pop(output, None)
        for handle in dict.fromkeys(entry.computation.inputs):
            self._consumers[handle].remove(output)
        group.outputs = tuple(other for other in group.outputs if other != output)
        if group.state is State.COMPUTING:
            group.state, group.worker, group.attempts = State.READY, None, group.attempts - 1
            self._wake(Topic.ENDED)

    def _lower(self, handle: Handle) -> None:
        entry = self._entries.get(handle)
        if entry is None or self._allows[handle]:
            return
        if any(not self._origins.get((transaction_id, handle)) for transaction_id in self._linked[handle]):
            return  # a caller asked for it, too
        entry.computation = replace(entry.computation, is_allowed=False)
        if handle in self._ciphertexts:
            self._ciphertexts[handle] = replace(self._ciphertexts[handle], is_allowed=False)
        self._forget_results([(transaction_id, handle) for transaction_id in self._linked[handle]])

    def _forget_results(self, pairs: Iterable[tuple[bytes, Handle]]) -> None:
        forgotten = set(pairs)
        self._told -= forgotten
        self._events = [
            replace(event, transaction_id=b"") if (event.transaction_id, event.handle) in forgotten else event
            for event in self._events
        ]
