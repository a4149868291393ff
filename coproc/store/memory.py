"""The memory twin: the whole of ``Store`` in dictionaries, for tests and for trying things out.

Decides nothing of its own: it shows the semantics of ``base.Store`` in the fewest words, and the same tests hold it
and Postgres to them. Nothing survives the process. Leases run on Trio's clock, so a mock clock can expire them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING

import trio

from coproc.store.base import ComputationStatus, ResultEvent, State, Topic, WorkGroup
from coproc.store.hearing import Hearing
from coproc.store.memory_records import Entry, Group
from coproc.store.memory_wakeups import MemoryWakeups
from coproc.store.retention import DROPPED
from coproc.store.rules import (
    CANCELLED,
    EXPIRED,
    check_outcome,
    check_same_definition,
    connected_groups,
    inherited,
    merge_repeats,
    merge_uploads,
    redefined,
    unknown_key,
    unknown_transaction,
    verified,
)
from coproc.store.taking import Taking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence

    from coproc.program.computation import Computation
    from coproc.program.types import Handle
    from coproc.store.base import Failure, GroupOutcome, KeyRecord, StoredCiphertext, Submission
    from coproc.store.taking import Lease, Taken
    from coproc.store.tenants import Tenant


class MemoryStore(MemoryWakeups, Hearing, Taking):
    """``Store`` in dictionaries. Single-threaded: no method yields to Trio between reading and writing."""

    def __init__(self) -> None:
        super().__init__()
        self.tenants: dict[bytes, Tenant] = {}
        """By the SHA-256 of their API keys."""
        self._keys: dict[bytes, tuple[KeyRecord, bytes]] = {}
        self._ciphertexts: dict[Handle, StoredCiphertext] = {}
        self._stored_at: dict[Handle, float] = {}
        self._uploaded: dict[Handle, tuple[bytes, bytes]] = {}
        """Key and bytes of all that ever was."""
        self._entries: dict[Handle, Entry] = {}
        self._groups: dict[int, Group] = {}
        self._consumers: defaultdict[Handle, list[Handle]] = defaultdict(list)
        self._transactions: defaultdict[bytes, dict[Handle, None]] = defaultdict(dict)
        self._linked: defaultdict[Handle, dict[bytes, None]] = defaultdict(dict)
        self._events: list[ResultEvent] = []
        self._told: set[tuple[bytes, Handle]] = set()

    async def put_key(self, record: KeyRecord, data: AsyncIterator[bytes]) -> bool:
        """Store a key; see ``Store.put_key``."""
        await trio.lowlevel.checkpoint()
        if record.key_id in self._keys:
            return False
        whole = b"".join([chunk async for chunk in verified(record, data)])
        if record.key_id in self._keys:  # another upload was faster
            return False
        self._keys[record.key_id] = (replace(record, created_at=datetime.now(UTC)), whole)
        return True

    async def get_key(self, key_id: bytes) -> KeyRecord | None:
        """Look a key up."""
        await trio.lowlevel.checkpoint()
        found = self._keys.get(key_id)
        return found[0] if found else None

    async def read_key(self, key_id: bytes) -> bytes:
        """Read the whole serialized key."""
        await trio.lowlevel.checkpoint()
        self._check_key(key_id)
        return self._keys[key_id][1]

    async def put_ciphertexts(self, items: Sequence[StoredCiphertext]) -> int:
        """Store uploads; see ``Store.put_ciphertexts``."""
        await trio.lowlevel.checkpoint()
        uploads = merge_uploads(items)
        for handle, item in uploads.items():
            self._check_key(item.key_id)
            is_same = self._uploaded.get(handle, (item.key_id, item.data)) == (item.key_id, item.data)
            if handle in self._entries or not is_same:
                raise redefined(handle, "handle")
        fresh = {handle: item for handle, item in uploads.items() if handle not in self._ciphertexts}
        self._uploaded |= {handle: (item.key_id, item.data) for handle, item in fresh.items()}
        self._ciphertexts.update(fresh)
        self._stored_at |= dict.fromkeys(uploads, trio.current_time())
        self._settle(self._readers(fresh))
        return len(fresh)

    async def get_ciphertexts(self, handles: Sequence[Handle]) -> Mapping[Handle, StoredCiphertext]:
        """Read ciphertexts."""
        await trio.lowlevel.checkpoint()
        return {handle: self._ciphertexts[handle] for handle in handles if handle in self._ciphertexts}

    async def submit(self, submission: Submission) -> int:
        """Write a batch; see ``Store.submit``."""
        async with self._leasing() as taken:
            await trio.lowlevel.checkpoint()
            return self._submit(submission, taken)

    def _submit(self, submission: Submission, taken: Taken) -> int:
        self._check_key(submission.key_id)
        batch = merge_repeats(submission.computations)
        for output, computation in batch.items():
            if (entry := self._entries.get(output)) is not None:
                check_same_definition(entry.computation, computation)
                if entry.group.key_id != submission.key_id:
                    raise redefined(output)
            elif output in self._uploaded:
                raise redefined(output)
        new = [computation for output, computation in batch.items() if output not in self._entries]
        affected = self._allow(computation.output for computation in batch.values() if computation.is_allowed)
        is_known = len(new) < len(batch) or any(output in self._consumers for output in batch)
        made = [self._add_group(submission, members) for members in connected_groups(new)]
        affected |= {group.group_id: group for group in made}
        for output in batch:
            self._transactions[submission.transaction_id][output] = None
            self._linked[output][submission.transaction_id] = None
        affected |= self._need({handle for computation in new for handle in computation.inputs}, new)
        if not is_known:
            taken.groups = self._lease_new(made, taken.lease)
        self._settle(affected)
        self._announce(batch)
        return len(new)

    def _lease_new(self, groups: Sequence[Group], lease: Lease | None) -> list[WorkGroup]:
        """Lease new groups that are ready, before workers are woken for them."""
        failed = any(self._entries[output].failure for group in groups for output in group.outputs)
        if lease is None or failed or len(groups) > lease.limit or not all(map(self._pending, groups)):
            return []
        ready = [group for group in groups if not self._missing(group)]
        return [self._lease(group, lease.worker, lease.seconds) for group in ready]

    async def cancel(self, transaction_id: bytes, tenant: str | None = None) -> int:
        """Cancel a transaction; see ``Store.cancel``."""
        await trio.lowlevel.checkpoint()
        if transaction_id not in self._transactions:
            raise unknown_transaction(transaction_id)
        mine = {
            output
            for output in self._transactions[transaction_id]
            if tenant is None or self._entries[output].group.tenant == tenant
        }
        kept = [
            output
            for output in mine
            if len(self._linked[output]) > 1
            or any(reader not in mine for reader in self._consumers.get(output, ()))
            or self._is_of_a_chain(output)
        ]
        for output in kept:  # grows while it is walked
            kept += [source for source in self._entries[output].computation.inputs if source in mine - set(kept)]
        return self._end([output for output in mine - set(kept) if self._is_live(output)], CANCELLED)

    async def expire(self) -> int:
        """Fail what is late; see ``Store.expire``."""
        await trio.lowlevel.checkpoint()
        late = [group for group in self._groups.values() if group.deadline <= trio.current_time()]
        for group in late:
            group.deadline = math.inf
        return self._end([output for group in late for output in self._live(group)], EXPIRED)

    def _end(self, outputs: Sequence[Handle], failure: Failure) -> int:
        """Fail outputs, pass it on, and take their groups back from whoever computes them."""
        groups = {group.group_id: group for output in outputs for group in [self._entries[output].group]}
        for output in outputs:
            self._entries[output].failure = failure
        failed = self._spread(outputs)
        for group in groups.values():
            if group.state is State.COMPUTING:
                group.state, group.worker, group.attempts = State.READY, None, group.attempts - 1
                self._wake(Topic.ENDED)
        self._settle(groups | self._readers(failed))
        self._announce(failed)
        return len(outputs)

    async def get_status(self, handles: Sequence[Handle]) -> Mapping[Handle, ComputationStatus]:
        """Status by handle."""
        await trio.lowlevel.checkpoint()
        return {
            handle: self._status(handle) for handle in handles if handle in self._entries or handle in self._uploaded
        }

    async def get_transaction(self, transaction_id: bytes) -> Sequence[ComputationStatus]:
        """Status of a transaction's computations, in submission order."""
        await trio.lowlevel.checkpoint()
        return [self._status(handle) for handle in self._transactions.get(transaction_id, ())]

    async def find_tenant(self, key_hash: bytes) -> Tenant | None:
        """Find a tenant; see ``Store.find_tenant``."""
        await trio.lowlevel.checkpoint()
        return self.tenants.get(key_hash)

    async def count_open(self, limit: int, tenant: str | None = None) -> int:
        """Count unfinished groups; see ``Store.count_open``."""
        await trio.lowlevel.checkpoint()
        open_states = (State.WAITING, State.READY, State.COMPUTING)
        return sum(
            1
            for _ in islice(
                (g for g in self._groups.values() if g.state in open_states and tenant in (None, g.tenant)), limit
            )
        )

    async def claim(self, worker: str, limit: int, lease_seconds: float) -> Sequence[WorkGroup]:
        """Lease groups; see ``Store.claim``."""
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        computing = (group for group in self._groups.values() if group.state is State.COMPUTING)
        silent = sorted((group.lease_ends, group.group_id, group) for group in computing if group.lease_ends <= now)
        ready = (group for group in self._groups.values() if group.state is State.READY)
        chosen = list(islice(chain((group for *_, group in silent), ready), max(limit, 0)))
        return [self._lease(group, worker, lease_seconds) for group in chosen]

    def _lease(self, group: Group, worker: str, seconds: float) -> WorkGroup:
        now = trio.current_time()
        group.state, group.worker, group.lease_ends = State.COMPUTING, worker, now + seconds
        group.asked = frozenset(self._pending(group))
        group.attempts += 1
        return WorkGroup(
            group.group_id,
            group.key_id,
            group.transaction_id,
            tuple(self._entries[output].computation for output in self._live(group)),
            group.asked,
            group.attempts - 1,
            group.tenant,
            traceparent=group.traceparent,
            waited=now - group.since,
        )

    async def renew(self, worker: str, group_ids: Sequence[int], lease_seconds: float) -> frozenset[int]:
        """Extend leases; see ``Store.renew``."""
        await trio.lowlevel.checkpoint()
        held = self._held(worker, group_ids)
        for group in held:
            group.lease_ends = trio.current_time() + lease_seconds
        return frozenset(group.group_id for group in held)

    async def release(self, worker: str, group_ids: Sequence[int]) -> None:
        """Give groups back; see ``Store.release``."""
        await trio.lowlevel.checkpoint()
        self._give_back(self._held(worker, group_ids))

    async def release_stray(self, worker: str, held: Collection[int]) -> int:
        """Give back what ``worker`` does not know to hold; see ``Store.release_stray``."""
        await trio.lowlevel.checkpoint()
        stray = self._held(worker, [group_id for group_id in self._groups if group_id not in held])
        self._give_back(stray)
        return len(stray)

    def _give_back(self, groups: Sequence[Group]) -> None:
        for group in groups:
            group.state, group.worker, group.attempts = State.READY, None, group.attempts - 1
        if groups:
            self._wake(Topic.WORK)

    async def finish(self, worker: str, outcome: GroupOutcome) -> bool:
        """Store an outcome; see ``Store.finish``."""
        return outcome.group_id in await self.finish_all(worker, [outcome])

    async def finish_all(self, worker: str, outcomes: Sequence[GroupOutcome]) -> frozenset[int]:
        """Store outcomes; see ``Store.finish_all``."""
        await trio.lowlevel.checkpoint()
        held = {group.group_id: group for group in self._held(worker, [outcome.group_id for outcome in outcomes])}
        for outcome in outcomes:
            if (group := held.get(outcome.group_id)) is not None:
                check_outcome(outcome, group.key_id, group.outputs, group.asked)
        before = len(self._events)
        for outcome in outcomes:
            if (group := held.get(outcome.group_id)) is not None:
                self._finish(group, outcome)
        self._tell(self._events[before:])
        return frozenset(held)

    def _finish(self, group: Group, outcome: GroupOutcome) -> None:
        for result in outcome.results:
            is_allowed = self._entries[result.handle].computation.is_allowed
            self._ciphertexts.setdefault(result.handle, replace(result, is_allowed=is_allowed))
            self._stored_at[result.handle] = trio.current_time()
        for handle, failure in outcome.failures.items():
            if self._is_live(handle):
                self._entries[handle].failure = failure
        failed = self._spread(outcome.failures)
        group.state, group.worker = State.READY, None
        stored = [result.handle for result in outcome.results]
        affected = {group.group_id: group} | self._readers(stored) | self._readers(failed)
        self._settle(affected)
        if group.state is State.READY:  # another group came to need more of it: a new task, not a failed attempt
            group.attempts = 0
        self._announce([*stored, *failed])

    async def results_after(
        self,
        sequence: int,
        limit: int,
        transaction_ids: Sequence[bytes] | None = None,
    ) -> Sequence[ResultEvent]:
        """Results with a greater sequence number, in order."""
        await trio.lowlevel.checkpoint()
        later = [event for event in self._events[max(sequence, 0) :] if event.transaction_id]  # the rest was taken back
        if transaction_ids is not None:
            wanted = set(transaction_ids)
            later = [event for event in later if event.transaction_id in wanted]
        return later[: max(limit, 0)]

    async def last_sequence(self) -> int:
        """The newest sequence number."""
        await trio.lowlevel.checkpoint()
        return len(self._events)

    def _check_key(self, key_id: bytes) -> None:
        if key_id not in self._keys:
            raise unknown_key(key_id)

    def _held(self, worker: str, group_ids: Sequence[int]) -> list[Group]:
        groups = (self._groups.get(group_id) for group_id in dict.fromkeys(group_ids))
        return [group for group in groups if group and group.state is State.COMPUTING and group.worker == worker]

    def _is_live(self, output: Handle) -> bool:
        """Whether a computation has neither a stored result nor a failure."""
        return output not in self._ciphertexts and self._entries[output].failure is None

    def _is_of_a_chain(self, output: Handle) -> bool:  # noqa: ARG002 - this store follows none
        """Whether a chain asks for an output: callers cannot cancel that."""
        return False

    def _live(self, group: Group) -> list[Handle]:
        return [output for output in group.outputs if self._is_live(output)]

    def _pending(self, group: Group) -> list[Handle]:
        """Outputs still to be materialised."""
        entries = self._entries
        return [out for out in self._live(group) if entries[out].computation.is_allowed or entries[out].is_needed]

    def _missing(self, group: Group) -> tuple[Handle, ...]:
        """External inputs of live computations that nothing stored, in order of use."""
        inputs = (handle for output in self._live(group) for handle in self._entries[output].computation.inputs)
        produced = frozenset(group.outputs)
        return tuple(
            dict.fromkeys(handle for handle in inputs if handle not in produced and handle not in self._ciphertexts),
        )

    def _readers(self, handles: Iterable[Handle]) -> dict[int, Group]:
        """Groups that read any of ``handles``, and the groups that produce them."""
        outputs = [output for handle in handles for output in (handle, *self._consumers.get(handle, ()))]
        groups = (self._entries[output].group for output in outputs if output in self._entries)
        return {group.group_id: group for group in groups}

    def _add_group(self, submission: Submission, members: tuple[Computation, ...]) -> Group:
        outputs = tuple(computation.output for computation in members)
        group = Group(len(self._groups) + 1, submission.key_id, submission.transaction_id, outputs)
        group.tenant = submission.tenant
        group.traceparent = submission.traceparent
        if submission.seconds is not None:
            group.deadline = trio.current_time() + submission.seconds
        self._groups[group.group_id] = group
        for computation in members:
            self._entries[computation.output] = Entry(computation, group)
            for handle in dict.fromkeys(computation.inputs):
                self._consumers[handle].append(computation.output)
        return group

    def _allow(self, outputs: Iterable[Handle]) -> dict[int, Group]:
        """Raise ``is_allowed`` of known computations; returns their groups."""
        affected: dict[int, Group] = {}
        for output in outputs:
            entry = self._entries.get(output)
            if entry is None or entry.computation.is_allowed:
                continue
            entry.computation = replace(entry.computation, is_allowed=True)
            affected[entry.group.group_id] = entry.group
            if output in self._ciphertexts:
                self._ciphertexts[output] = replace(self._ciphertexts[output], is_allowed=True)
        return affected | self._revive(affected)

    def _need(self, inputs: Iterable[Handle], new: Sequence[Computation]) -> dict[int, Group]:
        """Mark outputs that cross from one group to another, and fail what reads a failed one; returns the groups."""
        affected: dict[int, Group] = {}
        crossing = {handle for handle in inputs if handle in self._entries}
        crossing |= {computation.output for computation in new if computation.output in self._consumers}
        for handle in crossing:
            entry = self._entries[handle]
            readers = (self._entries[consumer].group for consumer in self._consumers[handle])
            if not entry.is_needed and any(reader is not entry.group for reader in readers):
                entry.is_needed = True
                affected[entry.group.group_id] = entry.group
        affected |= self._revive(affected)
        return affected | self._readers(self._spread(handle for handle in crossing if self._entries[handle].failure))

    def _revive(self, groups: Mapping[int, Group]) -> dict[int, Group]:
        """Ask for what groups read and was not kept, and for what that needs in turn; returns who makes it."""
        revived: dict[int, Group] = {}
        asking = list(groups.values())
        for group in asking:  # grows while it is walked
            for handle in self._missing(group):
                entry = self._entries.get(handle)
                if entry is None or entry.is_needed or entry.computation.is_allowed or not self._is_live(handle):
                    continue
                entry.is_needed = True
                revived[entry.group.group_id] = entry.group
                asking.append(entry.group)
        return revived

    def _spread(self, failed: Iterable[Handle]) -> list[Handle]:
        """Fail every live computation that depends on ``failed`` ones; returns all of them, the given ones first."""
        reached = list(failed)
        for handle in reached:  # grows while it is walked
            failure = self._entries[handle].failure
            for consumer in self._consumers.get(handle, ()) if failure else ():
                if failure and self._is_live(consumer):
                    self._entries[consumer].failure = inherited(handle, failure)
                    reached.append(consumer)
        return reached

    def _settle(self, groups: Mapping[int, Group]) -> None:
        """Work out the state of groups that nobody computes, and wake workers if there is new work."""
        has_work = False
        for group in groups.values():
            if group.state is State.COMPUTING:
                continue
            if not self._pending(group):
                failed = all(self._entries[output].failure for output in group.outputs)
                group.state = State.FAILED if failed else State.COMPLETED
            elif self._missing(group):
                group.state = State.WAITING
            else:
                group.state = State.READY
                has_work = True
        if has_work:
            self._wake(Topic.WORK)

    def _announce(self, outputs: Iterable[Handle]) -> None:
        """Append an event for each transaction that has not yet heard of an allowed output that is there or failed."""
        before = len(self._events)
        for output in outputs:
            entry = self._entries[output]
            if not entry.computation.is_allowed or self._is_live(output):
                continue
            state = State.FAILED if entry.failure else State.COMPLETED
            for transaction_id in self._linked[output]:
                if (transaction_id, output) not in self._told:
                    self._told.add((transaction_id, output))
                    sequence = len(self._events) + 1
                    self._events.append(
                        ResultEvent(sequence, transaction_id, output, state, entry.failure, entry.group.traceparent)
                    )
        if len(self._events) > before:
            self._wake(Topic.RESULTS)

    def _status(self, handle: Handle) -> ComputationStatus:
        entry = self._entries.get(handle)
        if entry is None:
            if handle not in self._ciphertexts:
                return ComputationStatus(handle, State.FAILED, is_allowed=True, failure=DROPPED)
            return ComputationStatus(handle, State.COMPLETED, self._ciphertexts[handle].is_allowed)
        group = entry.group
        state = group.state
        if entry.failure:
            state = State.FAILED
        elif handle in self._ciphertexts:
            state = State.COMPLETED
        missing = self._missing(group) if state is State.WAITING else ()
        return ComputationStatus(handle, state, entry.computation.is_allowed, group.attempts, entry.failure, missing)
