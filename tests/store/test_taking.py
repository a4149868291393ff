"""Work that is leased while it is submitted: the same as a claim would give, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio

from coproc.errors import InvalidInput, RecoverableError
from coproc.store.base import State, Submission, Topic
from coproc.store.connection import TrioConnection
from coproc.store.faults import DatabaseUnavailable
from coproc.store.graph import lock_graph
from coproc.store.open import open_store
from coproc.store.postgres import PostgresStore
from coproc.store.taking import Lease
from coproc.store.tenants import Tenant, put_tenant
from tests.store.builders import KEY, TRANSACTION, add, batch, ciphertext, done, handle, with_inputs, work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.program.computation import Computation
    from coproc.store.base import Store, WorkGroup

LEASE = Lease("eager", limit=2, seconds=60.0)


@dataclass
class Eager:
    """Takes everything."""

    lease: Lease | None = LEASE
    answers: list[Sequence[WorkGroup] | None] = field(default_factory=list["Sequence[WorkGroup] | None"])
    offers: int = 0
    is_there: bool = True

    @property
    def groups(self) -> list[WorkGroup]:
        return [group for answer in self.answers for group in answer or ()]

    def offer(self) -> Lease | None:
        self.offers += self.lease is not None
        return self.lease

    def take(self, groups: Sequence[WorkGroup] | None) -> bool:
        self.answers.append(groups)
        return self.is_there


async def test_what_is_taken_is_what_a_claim_would_give(store: Store) -> None:
    left, right = await with_inputs(store, 2)
    inner = add(left, right, is_allowed=False)
    outer, other = add(inner.output, right), add(left, left)
    submission = Submission(KEY, TRANSACTION, (inner, outer, other), tenant="somebody", seconds=60.0)
    eager = Eager()
    with store.taking(eager):
        assert await store.submit(submission) == 3
    assert (eager.offers, len(eager.answers)) == (1, 1)
    assert {group.wanted for group in eager.groups} == {frozenset({outer.output}), frozenset({other.output})}
    assert {group.attempts for group in eager.groups} == {0}
    assert await store.claim("another", 10, 60) == []
    assert {status.state for status in await store.get_transaction(TRANSACTION)} == {State.COMPUTING}
    await store.release("eager", [group.group_id for group in eager.groups])
    claimed = await store.claim("eager", 10, 60)
    assert sorted(claimed, key=repr) == sorted(eager.groups, key=repr)
    assert await store.finish_all("eager", [done(group) for group in eager.groups]) == {
        group.group_id for group in eager.groups
    }
    assert {event.handle for event in await store.results_after(0, 10)} == {outer.output, other.output}


async def test_a_lease_that_is_taken_ends_like_any_other(store: Store) -> None:
    left, right = await with_inputs(store, 2)
    eager = Eager(replace(LEASE, seconds=0.01))
    with store.taking(eager):
        await store.submit(batch(add(left, right)))
    (group,) = eager.groups
    await trio.sleep(0.02)
    (again,) = await store.claim("another", 10, 60)
    assert (again.group_id, again.attempts) == (group.group_id, 1)
    assert not await store.finish("eager", done(group))


async def test_a_result_that_is_stored_is_as_good_as_an_upload(store: Store) -> None:
    left, right = await with_inputs(store, 2)
    first = add(left, right)
    await store.submit(batch(first))
    await work(store)
    eager = Eager()
    with store.taking(eager):
        second = add(first.output, right)
        await store.submit(batch(second, transaction=b"2" * 32))
        third = add(second.output, right)
        await store.submit(batch(third, transaction=b"3" * 32))
    (group,) = eager.groups
    assert group.computations == (second,)
    assert await store.finish("eager", done(group))
    (follows,) = await store.claim("worker", 10, 60)
    assert follows.computations == (third,)


async def test_nothing_is_taken_that_has_more_to_it(store: Store) -> None:
    left, right = await with_inputs(store, 2)
    missing, promised = handle(), handle()
    first, failed = add(left, right), add(right, right)
    await store.submit(batch(first, failed))
    for group in await store.claim("worker", 10, 60):
        await store.finish("worker", done(group, failures=group.wanted & {failed.output}))
    await store.submit(batch(add(promised, left)))
    eager = Eager()
    refused = {
        "it waits for an input": batch(add(missing, left)),
        "it repeats what was there": batch(first, add(left, right)),
        "others wait for it": batch(add(left, right, output=promised)),
        "it reads what has failed": batch(add(failed.output, left)),
        "these are too many": batch(*(add(left, right) for _ in range(3))),
        "nobody waits for it": batch(add(left, right, is_allowed=False)),
    }
    with store.taking(eager):
        for number, submission in enumerate(refused.values()):
            await store.submit(replace(submission, transaction_id=bytes([number]) * 32))
    assert {reason: list(answer or ()) for reason, answer in zip(refused, eager.answers, strict=True)} == {
        reason: [] for reason in refused
    }
    assert await work(store) == 6, "all but what waits and what failed"
    assert await store.put_ciphertexts([ciphertext(missing)]) == 1
    assert await work(store) == 1


async def test_whoever_offered_hears_of_a_submission_that_fails(store: Store) -> None:
    """One that is refused has stored nothing; of others that cannot be known."""
    left, right = await with_inputs(store, 2)
    eager = Eager()
    with store.taking(eager):
        with pytest.raises(InvalidInput):
            await store.submit(batch(add(left, right, output=left)))
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.submit(batch(add(left, right)))
    assert eager.answers == [(), None]


async def test_what_nobody_is_there_to_take_is_given_back(store: Store) -> None:
    left, right = await with_inputs(store, 2)
    eager = Eager(is_there=False)
    with store.taking(eager):
        await store.submit(batch(add(left, right)))
    (group,) = await store.claim("another", 10, 60)
    assert (group, group.attempts) == (eager.groups[0], 0)


async def test_what_is_stored_is_acknowledged_even_if_it_cannot_be_given_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = await with_inputs(store, 2)
    eager = Eager(is_there=False)

    async def fail(worker: str, group_ids: Sequence[int]) -> None:
        raise RecoverableError(f"away, with {len(group_ids)} groups of {worker}")

    monkeypatch.setattr(store, "release", fail)
    with store.taking(eager):
        assert await store.submit(batch(add(left, right))) == 1
    assert await store.claim("another", 10, 60) == []


async def test_leases_that_nobody_knows_of_are_given_back(store: Store) -> None:
    left, right = await with_inputs(store, 2)
    for number in range(4):
        await store.submit(batch(add(left, right), transaction=bytes([number]) * 32))
    mine = [*await store.claim("one", 1, 60), *await store.claim("one", 1, 60)]
    (theirs,) = await store.claim("two", 1, 60)
    async with store.wakeups() as channel:
        assert await store.release_stray("one", {mine[0].group_id}) == 1
        with trio.fail_after(5):
            assert await channel.receive() is Topic.WORK
        assert await store.release_stray("one", {mine[0].group_id}) == 0
    again = await store.claim("three", 10, 60)
    assert (again[0].group_id, again[0].attempts) == (mine[1].group_id, 0)
    assert await store.finish("one", done(mine[0]))
    assert await store.finish("two", done(theirs))


async def test_waiting_for_the_lock_counts_as_waiting(database_url: str) -> None:
    eager = Eager()
    async with open_store(database_url) as store, open_store(database_url) as other:
        left, right = await with_inputs(store, 2)
        assert isinstance(other, PostgresStore)
        async with trio.open_nursery() as nursery:
            with store.taking(eager):
                async with other.pool.transaction() as connection:
                    await lock_graph(connection)
                    await connection.changed_rows(await connection.execute("select 1"))
                    nursery.start_soon(store.submit, batch(add(left, right)))
                    await trio.sleep(0.2)
                while not eager.answers:  # noqa: ASYNC110 - of another task
                    await trio.sleep(0.005)
    assert [group.waited >= 0.18 for group in eager.groups] == [True]


async def test_a_commit_whose_answer_is_lost_may_have_leased(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = Eager()
    async with open_store(database_url) as store:
        left, right = await with_inputs(store, 2)
        receive = TrioConnection._receive_rest

        async def lose(connection: TrioConnection, pipeline: psycopg.AsyncPipeline) -> None:
            await receive(connection, pipeline)
            connection._finish()
            raise psycopg.OperationalError("the server closed the connection")

        with store.taking(eager):
            monkeypatch.setattr(TrioConnection, "_receive_rest", lose)
            with pytest.raises(DatabaseUnavailable):
                await store.submit(batch(add(left, right)))
            monkeypatch.undo()
            assert eager.answers == [None]
            assert await store.claim("another", 10, 60) == []
            assert await store.release_stray("eager", ()) == 1
        (group,) = await store.claim("another", 10, 60)
        assert group.attempts == 0


async def test_who_does_not_offer_or_is_gone_takes_nothing(store: Store) -> None:
    left, right = await with_inputs(store, 2)
    busy, gone, idle = Eager(lease=None), Eager(), Eager()
    with store.taking(gone):
        pass
    with store.taking(busy), store.taking(idle):
        await store.submit(batch(add(left, right)))
    assert (len(busy.answers), len(gone.answers), len(idle.groups)) == (0, 0, 1)


async def test_nobody_is_woken_for_what_is_taken(store: Store) -> None:
    left, right = await with_inputs(store, 2)
    eager = Eager()
    with trio.fail_after(10):
        async with store.wakeups() as channel:
            with store.taking(eager):
                await store.submit(batch(add(left, right)))
            await store.finish_all("eager", [done(group) for group in eager.groups])
            assert await channel.receive() is Topic.RESULTS
            await store.submit(batch(add(left, right), transaction=b"2" * 32))
            assert await channel.receive() is Topic.WORK


async def test_a_tenant_keeps_its_weight(database_url: str) -> None:
    eager = Eager()
    async with open_store(database_url) as store:
        left, right = await with_inputs(store, 2)
        assert isinstance(store, PostgresStore)
        await put_tenant(store.pool, Tenant("heavy", weight=3.0))
        with store.taking(eager):
            await store.submit(replace(batch(add(left, right)), tenant="heavy"))
    assert [group.weight for group in eager.groups] == [3.0]


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when a task has waited for the n-th time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, turn: int) -> None:
        self._task = task
        self._scope = scope
        self._left = turn

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if not self._left:
                self._scope.cancel()


async def test_a_cancellation_leaves_no_lease_that_nobody_knows_of(database_url: str) -> None:
    """Wherever it strikes: either the scheduler has the group, or nothing was stored."""
    eager = Eager()
    submitted: list[Computation] = []
    async with open_store(database_url) as store:
        left, right = await with_inputs(store, 2)
        with store.taking(eager):
            for number in range(60):
                computation = add(left, right)
                submitted.append(computation)
                with trio.CancelScope() as scope:
                    strike = CancelAt(trio.lowlevel.current_task(), scope, 1 + number % 6)
                    trio.lowlevel.add_instrument(strike)
                    try:
                        await store.submit(batch(computation, transaction=number.to_bytes(32, "big")))
                    finally:
                        trio.lowlevel.remove_instrument(strike)
        statuses = await store.get_status([computation.output for computation in submitted])
        assert 0 < len(eager.groups) < len(submitted)
        assert len(eager.answers) == eager.offers
        assert {status.state for status in statuses.values()} == {State.COMPUTING}
        assert statuses.keys() == {output for group in eager.groups for output in group.wanted}
