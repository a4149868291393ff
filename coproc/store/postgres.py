"""The store in Postgres.

Decides transactions: what is written together, and in which order locks are taken. The statements themselves are in
``graph``, ``blobs`` holds large values, and ``memory`` shows in few words what all of it must amount to.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from coproc.metrics import timed_operation
from coproc.program.types import Handle
from coproc.store import blobs, chain_graph, claims, ending, graph, sweep
from coproc.store.base import ComputationStatus, Failure, ResultEvent, State, Topic
from coproc.store.depot import Depot, digests_of
from coproc.store.finishing import LeaseLost, finish
from coproc.store.hearing import Hearing
from coproc.store.idle import PostgresForms
from coproc.store.overview import PostgresOverview
from coproc.store.retention import DROPPED
from coproc.store.rules import (
    CANCELLED,
    EXPIRED,
    merge_repeats,
    merge_uploads,
    redefined,
    unknown_key,
    unknown_transaction,
)
from coproc.store.submitting import submit
from coproc.store.taking import Taking
from coproc.store.tenants import find_tenant
from coproc.store.traces import recall
from coproc.store.wakeups import Listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import trio

    from coproc.store.base import GroupOutcome, KeyRecord, StoredCiphertext, Submission, WorkGroup
    from coproc.store.chains import BlockId, ChainBlock, ChainChange, Delegation, Fault
    from coproc.store.connection import TrioConnection
    from coproc.store.objects import ObjectLost, Place
    from coproc.store.pool import Pool
    from coproc.store.retention import Retention, Sweep
    from coproc.store.tenants import Tenant

T = TypeVar("T")


class PostgresStore(PostgresForms, PostgresOverview, Hearing, Taking):
    """``Store`` over a pool of connections to a migrated database."""

    def __init__(self, pool: Pool, depot: Depot | None = None) -> None:
        """Use a pool, and for large values a depot over the same one."""
        super().__init__()
        self.pool = pool
        self.depot = depot or Depot(pool)
        self._claimed_last: str | None = None
        """The tenant at which the last claim ended: the next one goes on from there."""
        self._listener = Listener(pool, graph.CHANNEL)

    @timed_operation
    async def put_key(self, record: KeyRecord, data: AsyncIterator[bytes]) -> bool:
        """Store a key; see ``Store.put_key``."""
        if await self.get_key(record.key_id) is not None:
            return False
        return await blobs.put_key(self.pool, self.depot, record, data)

    @timed_operation
    async def get_key(self, key_id: bytes) -> KeyRecord | None:
        """Look a key up."""
        async with self.pool.connection() as connection:
            return await blobs.get_key(connection, key_id)

    @timed_operation
    async def read_key(self, key_id: bytes) -> bytes:
        """Read the whole serialized key."""
        async with self.pool.connection() as connection:
            chunks = await blobs.read_key(connection, key_id)
        return await blobs.assemble_key(self.depot, key_id, chunks)

    @timed_operation
    async def put_ciphertexts(self, items: Sequence[StoredCiphertext]) -> int:
        """Store uploads; see ``Store.put_ciphertexts``."""
        uploads = merge_uploads(items)
        digests = await digests_of({handle: item.data for handle, item in uploads.items()})
        places = await self._deposit_new(uploads, digests)

        async def work(connection: TrioConnection) -> int:
            await _check_keys(connection, {item.key_id for item in uploads.values()})
            new = await blobs.put_ciphertexts(connection, uploads, digests, places)
            await graph.lock_graph(connection)
            cursor = await connection.execute(
                "select output from computations where output = any(%s) limit 1",
                [list(uploads)],
                binary=True,
            )
            if (row := await cursor.fetchone()) is not None:
                raise redefined(Handle(row[0]), "handle")
            if new:
                await graph.settle(connection, await graph.groups_around(connection, sorted(new)))
            return len(new)

        return await self._atomically(work) if uploads else 0

    async def _deposit_new(
        self, uploads: Mapping[Handle, StoredCiphertext], digests: Mapping[Handle, bytes]
    ) -> Mapping[Handle, Place]:
        """Bring to the object store what belongs there and is not stored yet."""
        large = [handle for handle, item in uploads.items() if self.depot.takes(item.data)]
        if not large:
            return {}
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                "select handle from ciphertexts where handle = any(%s)", [large], binary=True
            )
            known = {Handle(handle) for (handle,) in await cursor.fetchall()}
        return await self.depot.deposit(
            blobs.FOLDER, {handle: uploads[handle].data for handle in large if handle not in known}, digests
        )

    @timed_operation
    async def get_ciphertexts(self, handles: Sequence[Handle]) -> Mapping[Handle, StoredCiphertext]:
        """Read ciphertexts; see ``Store.get_ciphertexts``."""
        whole: dict[Handle, StoredCiphertext] = {}
        lost: dict[Handle, ObjectLost] = {}
        for _ in range(2):
            rest = [handle for handle in handles if handle not in whole]
            if not rest:
                break
            async with self.pool.connection() as connection:
                found = await blobs.get_ciphertexts(connection, rest)
            read, lost = await blobs.complete(self.depot, found)
            whole |= read
            if not lost:  # else their rows may have changed meanwhile, so that the objects went: once more
                break
        if lost:
            error = next(iter(lost.values()))
            error.handles = sorted(lost)
            error.within(handle=min(lost).hex())
            raise error
        return whole

    @timed_operation
    async def submit(self, submission: Submission) -> int:
        """Write a batch; see ``Store.submit``."""
        batch = merge_repeats(submission.computations)
        async with self._leasing() as taken:
            new, leased = await self._atomically(partial(submit, submission=submission, batch=batch, lease=taken.lease))
            # From the commit to here nothing is waited for: a caller who gives up does not leave a lease behind.
            taken.groups = await leased()
        return new

    @timed_operation
    async def cancel(self, transaction_id: bytes, tenant: str | None = None) -> int:
        """Cancel a transaction; see ``Store.cancel``."""

        async def work(connection: TrioConnection) -> int:
            cursor = await connection.execute(
                "select from transaction_outputs where transaction_id = %s limit 1", [transaction_id]
            )
            if await cursor.fetchone() is None:
                raise unknown_transaction(transaction_id)
            return await ending.cancel(connection, transaction_id, tenant, CANCELLED)

        return await self._atomically(work)

    @timed_operation
    async def expire(self) -> int:
        """Fail what is late; see ``Store.expire``."""
        return await self._atomically(lambda connection: ending.expire(connection, EXPIRED))

    @timed_operation
    async def get_status(self, handles: Sequence[Handle]) -> Mapping[Handle, ComputationStatus]:
        """Status by handle."""
        async with self.pool.connection() as connection:
            found = {status.handle: status for status in await _read_status(connection, handles)}
            rest = [handle for handle in handles if handle not in found]
            cursor = await connection.execute(
                "select handle, is_allowed from ciphertexts where handle = any(%s)",
                [rest],
                binary=True,
            )
            for raw, is_allowed in await cursor.fetchall():
                found[Handle(raw)] = ComputationStatus(Handle(raw), State.COMPLETED, is_allowed)
            for handle in await sweep.dropped(connection, [handle for handle in rest if handle not in found]):
                found[handle] = ComputationStatus(handle, State.FAILED, is_allowed=True, failure=DROPPED)
        return {handle: found[handle] for handle in handles if handle in found}

    @timed_operation
    async def get_transaction(self, transaction_id: bytes) -> Sequence[ComputationStatus]:
        """Status of a transaction's computations, in submission order."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                "select output from transaction_outputs where transaction_id = %s order by position",
                [transaction_id],
                binary=True,
            )
            outputs = [Handle(output) for (output,) in await cursor.fetchall()]
            found = {status.handle: status for status in await _read_status(connection, outputs)}
        return [found[output] for output in outputs]

    @timed_operation
    async def find_tenant(self, key_hash: bytes) -> Tenant | None:
        """Find a tenant; see ``Store.find_tenant``."""
        return await find_tenant(self.pool, key_hash)

    @timed_operation
    async def count_open(self, limit: int, tenant: str | None = None) -> int:
        """Count unfinished groups; see ``Store.count_open``."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                "select count(*) from (select from work_groups where state in (0, 1, 2)"
                " and (%s::text is null or coalesce(tenant, '') = %s) limit %s) as open",
                [tenant, tenant, limit],
            )
            row = await cursor.fetchone()
            return int(row[0]) if row else 0

    @timed_operation
    async def claim(self, worker: str, limit: int, lease_seconds: float) -> Sequence[WorkGroup]:
        """Lease groups; see ``Store.claim``."""
        read, self._claimed_last = await self._atomically(
            lambda connection: claims.lease(connection, worker, max(limit, 0), lease_seconds, self._claimed_last),
        )
        return await read()

    @timed_operation
    async def renew(self, worker: str, group_ids: Sequence[int], lease_seconds: float) -> frozenset[int]:
        """Extend leases; see ``Store.renew``."""

        async def work(connection: TrioConnection) -> frozenset[int]:
            held = await claims.lock_held(connection, worker, group_ids)
            await connection.execute(
                "update work_groups set lease_until = clock_timestamp() + make_interval(secs => %s)"
                " where group_id = any(%s)",
                [lease_seconds, held],
            )
            return frozenset(held)

        return await self._atomically(work)

    @timed_operation
    async def release(self, worker: str, group_ids: Sequence[int]) -> None:
        """Give groups back; see ``Store.release``."""

        async def work(connection: TrioConnection) -> None:
            await claims.give_back(connection, await claims.lock_held(connection, worker, group_ids))

        await self._atomically(work)

    @timed_operation
    async def release_stray(self, worker: str, held: Collection[int]) -> int:
        """Give back what ``worker`` does not know to hold; see ``Store.release_stray``."""

        async def work(connection: TrioConnection) -> int:
            stray = await claims.lock_stray(connection, worker, held)
            await claims.give_back(connection, stray)
            return len(stray)

        return await self._atomically(work)

    async def finish(self, worker: str, outcome: GroupOutcome) -> bool:
        """Store an outcome; see ``Store.finish``."""
        return outcome.group_id in await self.finish_all(worker, [outcome])

    @timed_operation
    async def finish_all(self, worker: str, outcomes: Sequence[GroupOutcome]) -> frozenset[int]:
        """Store outcomes; see ``Store.finish_all``."""
        left: dict[int, GroupOutcome] = {outcome.group_id: outcome for outcome in outcomes}
        results = {result.handle: result.data for outcome in outcomes for result in outcome.results}
        places = await self.depot.deposit(blobs.FOLDER, results)
        while left:
            try:
                held, announced = await self._atomically(partial(finish, worker=worker, outcomes=left, places=places))
            except LeaseLost as lost:
                left = {group_id: outcome for group_id, outcome in left.items() if group_id not in lost.group_ids}
            else:
                self._tell(
                    [
                        _event(number, transaction_id, output, _failure(rule, message, cause))
                        for number, transaction_id, output, rule, message, cause, _ in await announced.fetchall()
                    ]
                )
                return held
        return frozenset()

    @timed_operation
    async def results_after(
        self,
        sequence: int,
        limit: int,
        transaction_ids: Sequence[bytes] | None = None,
    ) -> Sequence[ResultEvent]:
        """Results with a greater sequence number, in order."""
        chosen = "" if transaction_ids is None else "and r.transaction_id = any(%(transactions)s)"
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                f"""
                select r.sequence, r.transaction_id, r.output, c.failure_rule, c.failure_message, c.failure_cause,
                       c.group_id
                from results r join computations c on c.output = r.output
                where r.sequence > %(sequence)s and r.output <> %(nobody)s {chosen} order by r.sequence limit %(limit)s
                """.encode(),  # noqa: S608 - constants
                {
                    "sequence": sequence,
                    "limit": max(limit, 0),
                    "transactions": list(transaction_ids or ()),
                    "nobody": graph.NOBODY,
                },
                binary=True,
            )
            rows = await cursor.fetchall()
            traces = await recall(connection, {row[-1] for row in rows})
            return [
                _event(number, transaction_id, output, _failure(*reason), traces.get(group_id))
                for number, transaction_id, output, *reason, group_id in rows
            ]

    @timed_operation
    async def last_sequence(self) -> int:
        """The newest sequence number."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute("select coalesce(max(sequence), 0) from results")
            row = await cursor.fetchone()
            return int(row[0]) if row else 0

    @timed_operation
    async def chain_tail(self, chain_id: int, limit: int) -> Sequence[BlockId]:
        """Read where a chain stands; see ``ChainStore.chain_tail``."""
        async with self.pool.connection() as connection:
            return await chain_graph.tail(connection, chain_id, limit)

    @timed_operation
    async def advance_chain(
        self, chain_id: int, key_id: bytes, orphaned: Sequence[bytes], blocks: Sequence[ChainBlock]
    ) -> ChainChange:
        """Write blocks and take others back; see ``ChainStore.advance_chain``."""

        async def work(connection: TrioConnection) -> ChainChange:
            await _check_keys(connection, {key_id})
            await graph.lock_graph(connection)
            return await chain_graph.advance(connection, chain_id, key_id, orphaned, blocks)

        return await self._atomically(work)

    @timed_operation
    async def chain_faults(self, chain_id: int, limit: int) -> Sequence[Fault]:
        """Read faults; see ``ChainStore.chain_faults``."""
        async with self.pool.connection() as connection:
            return await chain_graph.faults(connection, chain_id, limit)

    @timed_operation
    async def chain_delegation(
        self, chain_id: int, delegator: bytes, delegate: bytes, contract: bytes
    ) -> Delegation | None:
        """Read a delegation; see ``ChainStore.chain_delegation``."""
        async with self.pool.connection() as connection:
            return await chain_graph.delegation(connection, chain_id, delegator, delegate, contract)

    async def sweep(self, retention: Retention, limit: int) -> Sweep:
        """Take a step of a sweep; see ``SweptStore.sweep``."""
        return await self._atomically(lambda connection: sweep.sweep(connection, retention, limit))

    async def sweep_objects(self) -> tuple[int, bool]:
        """Delete objects; see ``SweptStore.sweep_objects``."""
        return await self.depot.sweep()

    def wakeups(self) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Topic]]:
        """Subscribe to wake-ups; all subscribers share one connection. See ``Store.wakeups``."""
        return self._listener.subscribe()


async def _check_keys(connection: TrioConnection, key_ids: set[bytes]) -> None:
    cursor = await connection.execute("select key_id from keys where key_id = any(%s)", [list(key_ids)], binary=True)
    for missing in key_ids - {bytes(key_id) for (key_id,) in await cursor.fetchall()}:
        raise unknown_key(missing)


async def _read_status(connection: TrioConnection, outputs: Sequence[Handle]) -> list[ComputationStatus]:
    """Status of computations, in one snapshot."""
    cursor = await connection.execute(
        """
        select c.output, w.state, stored.handle is not null, c.is_allowed,
               w.attempts, c.failure_rule, c.failure_message, c.failure_cause,
               case when w.state = 0 and c.failure_rule is null then array(
                   select distinct i.input
                   from computations m join computation_inputs i on i.output = m.output
                   where m.group_id = c.group_id and m.failure_rule is null
                     and not exists (select from ciphertexts x where x.handle = i.input)
                     and not exists (select from ciphertexts x where x.handle = m.output)
                     and not exists (select from computations p where p.output = i.input and p.group_id = c.group_id)
               ) end
        from computations c join work_groups w on w.group_id = c.group_id
        left join ciphertexts stored on stored.handle = c.output
        where c.output = any(%s)
        """,
        [list(outputs)],
        binary=True,
    )
    statuses: list[ComputationStatus] = []
    for output, group_state, is_stored, is_allowed, attempts, rule, message, cause, missing in await cursor.fetchall():
        failure = _failure(rule, message, cause)
        state = State.FAILED if failure else State.COMPLETED if is_stored else State(group_state)
        awaited = tuple(Handle(handle) for handle in missing or ()) if state is State.WAITING else ()
        statuses.append(ComputationStatus(Handle(output), state, is_allowed, attempts, failure, awaited))
    return statuses


def _event(
    sequence: int, transaction_id: bytes, output: bytes, failure: Failure | None, traceparent: str | None = None
) -> ResultEvent:
    state = State.FAILED if failure else State.COMPLETED
    return ResultEvent(sequence, transaction_id, Handle(output), state, failure, traceparent)


def _failure(rule: str | None, message: str | None, cause: bytes | None) -> Failure | None:
    if rule is None:
        return None
    return Failure(rule, message or "", None if cause is None else Handle(cause))
