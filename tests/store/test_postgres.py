"""What only a real database can show: lost connections, crashes in the middle, cancellation anywhere."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.errors import RecoverableError
from coproc.program.computation import Computation, Operation, Scalar
from coproc.store.base import GroupOutcome, KeyRecord, State, Topic
from coproc.store.connection import TrioConnection
from coproc.store.memory import MemoryStore
from coproc.store.open import open_store
from tests.store.builders import add, batch, ciphertext, done, handle, with_inputs, with_key, work

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coproc.store.base import Store


async def count(url: str, query: bytes) -> object:
    async with await TrioConnection.connect(url, autocommit=True) as connection:
        row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row[0]


async def test_a_subscription_ends_when_its_connection_is_lost(database_url: str) -> None:
    async with open_store(database_url) as store, store.wakeups() as channel:
        await count(
            database_url,
            b"select count(pg_terminate_backend(pid)) from pg_stat_activity"
            b" where query like 'listen%' and datname = current_database()",
        )
        with trio.fail_after(5), pytest.raises(trio.EndOfChannel):
            await channel.receive()


async def wake(store: Store) -> None:
    """Submit something that can be computed at once."""
    await store.submit(batch(Computation(handle(), Operation.TRIVIAL_ENCRYPT, (Scalar(b"1"),), is_allowed=True)))


async def test_subscriptions_share_one_connection_and_hand_the_reading_on(database_url: str) -> None:
    listening = b"select count(*) from pg_stat_activity where query like 'listen%' and datname = current_database()"
    heard, hearing = trio.open_memory_channel[int](100)
    async with open_store(database_url) as store:
        await with_key(store)

        async def hear(number: int, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            with trio.CancelScope() as scope:
                async with store.wakeups() as channel:
                    task_status.started(scope)
                    while True:
                        assert await channel.receive() is Topic.WORK
                        heard.send_nowait(number)

        async with trio.open_nursery() as nursery:
            scopes = [await nursery.start(hear, number) for number in range(20)]
            assert await count(database_url, listening) == 1
            while scopes:
                await wake(store)
                with trio.fail_after(5):
                    numbers = {await hearing.receive() for _ in scopes}
                assert numbers == set(range(20 - len(scopes), 20))
                for scope in scopes[:7]:
                    scope.cancel()
                del scopes[:7]
        with trio.fail_after(5):
            while await count(database_url, listening):  # noqa: ASYNC110 - the server notices a moment later
                await trio.sleep(0.01)


async def test_who_does_not_listen_holds_nobody_up(database_url: str) -> None:
    async with open_store(database_url) as store:
        await with_key(store)
        async with store.wakeups() as idle, store.wakeups() as eager:
            for _ in range(200):
                await wake(store)
                with trio.fail_after(5):
                    assert await eager.receive() is Topic.WORK
            with trio.fail_after(5):
                assert await idle.receive() is Topic.WORK
            with trio.move_on_after(0.05):
                raise AssertionError(await idle.receive())  # merged
            await eager.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await eager.receive()


async def test_after_a_loss_a_new_subscription_opens_a_new_connection(database_url: str) -> None:
    async with open_store(database_url) as store, store.wakeups() as lost:
        await with_key(store)
        await count(
            database_url,
            b"select count(pg_terminate_backend(pid)) from pg_stat_activity"
            b" where query like 'listen%' and datname = current_database()",
        )
        with trio.fail_after(5), pytest.raises(trio.EndOfChannel):
            await lost.receive()
        async with store.wakeups() as channel:
            await wake(store)
            with trio.fail_after(5):
                assert await channel.receive() is Topic.WORK


async def test_an_upload_that_breaks_off_leaves_no_chunk(database_url: str) -> None:
    data = bytes(9_000_000)

    async def breaking() -> AsyncGenerator[bytes]:
        yield data[:5_000_000]
        await trio.sleep_forever()

    async with open_store(database_url) as store:
        record = KeyRecord(hashlib.sha256(data).digest(), len(data), "toy")
        with trio.move_on_after(0.3) as scope:
            await store.put_key(record, breaking())
        assert scope.cancelled_caught
        assert await store.get_key(record.key_id) is None
    assert await count(database_url, b"select count(*) from key_chunks") == 0


async def test_operations_cancelled_anywhere_can_be_repeated(database_url: str) -> None:
    """Every call is cut off at random and repeated; in the end each result is there exactly once."""
    chance = random.Random(3)
    async with open_store(database_url) as store:
        (a,) = await with_inputs(store, 1)
        submissions = [batch(add(a), add(a), transaction=bytes([number]) * 32) for number in range(12)]

        # Patience grows, so that a slow machine comes to the end, too.
        async def submit() -> None:
            patience = 0.01
            for submission in submissions:
                finished = False
                while not finished:
                    with trio.move_on_after(chance.random() * patience):
                        await store.submit(submission)
                        finished = True
                    patience *= 1.02

        async def compute(name: str) -> None:
            patience = 0.02
            while await store.last_sequence() < 24:
                with trio.move_on_after(chance.random() * patience):
                    for group in await store.claim(name, 4, patience):
                        await store.finish(name, done(group))
                patience *= 1.02

        with trio.fail_after(240):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(submit)
                nursery.start_soon(compute, "one")
                nursery.start_soon(compute, "two")
        events = await store.results_after(0, 100)
        assert [event.sequence for event in events] == list(range(1, 25))
        assert len({event.handle for event in events}) == 24


async def test_two_processes_share_the_work(database_url: str) -> None:
    async with open_store(database_url) as here, open_store(database_url) as there, there.wakeups() as channel:
        (a,) = await with_inputs(here, 1)
        await here.submit(batch(add(a)))
        with trio.fail_after(5):
            await channel.receive()
        assert await work(there) == 1
        assert await here.last_sequence() == 1


async def test_leases_expire_by_the_clock_of_the_database(database_url: str) -> None:
    async with open_store(database_url) as store:
        (a,) = await with_inputs(store, 1)
        await store.submit(batch(add(a)))
        (group,) = await store.claim("dead", 1, 0.15)
        assert await store.claim("next", 1, 60) == []
        with trio.fail_after(5):
            while not (again := await store.claim("next", 1, 60)):  # noqa: ASYNC110 - the clock is the server's
                await trio.sleep(0.02)
        assert (again[0].group_id, again[0].attempts) == (group.group_id, 1)


async def test_the_database_going_away_is_recoverable(database_url: str) -> None:
    async with open_store(database_url) as store:
        await with_key(store)
        name = database_url.rpartition("/")[2].partition("?")[0]
        server = database_url.replace(f"/{name}?", "/postgres?")
        async with await TrioConnection.connect(server, autocommit=True) as connection:
            await connection.execute(f"alter database {name} with allow_connections false".encode())
            await connection.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s",
                [name],
            )
            with pytest.raises(RecoverableError):
                await store.get_key(b"k" * 32)
            await connection.execute(f"alter database {name} with allow_connections true".encode())
        await store.put_ciphertexts([ciphertext(handle())])


@pytest.mark.parametrize("seed", range(3))
async def test_both_stores_tell_the_same_story(database_url: str, seed: int) -> None:
    """Random batches, uploads, failures and takeovers: memory and Postgres agree on every status and event."""
    chance = random.Random(seed)
    memory: Store = MemoryStore()
    async with open_store(database_url) as postgres:
        stores = (memory, postgres)
        for store in stores:
            await with_key(store)
        names = [handle() for _ in range(6)]
        outputs = [handle() for _ in range(40)]
        definitions: list[Computation] = []
        for position, output in enumerate(outputs):
            pool = names + outputs[max(0, position - 8) : position]
            definitions.append(add(*chance.choices(pool, k=2), output=output, is_allowed=chance.random() < 0.4))
        position = 0
        for step in range(80):
            choice = chance.random()
            if choice < 0.4 and position < len(definitions):
                size = chance.randint(1, 6)
                again = chance.sample(definitions[:position], min(position, 1))
                submission = batch(*again, *definitions[position : position + size], transaction=bytes([step]) * 32)
                position += size
                assert len({await store.submit(submission) for store in stores}) == 1
            elif choice < 0.55 and names:
                item = ciphertext(chance.choice(names))
                assert len({await store.put_ciphertexts([item]) for store in stores}) == 1
            else:
                seconds = 60 if chance.random() < 0.8 else 0
                claims = [await store.claim("worker", 2, seconds) for store in stores]
                assert claims[0] == claims[1]
                for group in claims[0]:
                    broken = [name for name in sorted(group.wanted) if chance.random() < 0.15]
                    outcome: GroupOutcome = done(group, broken)
                    assert len({await store.finish("worker", outcome) for store in stores}) == 1
            told = [await store.get_status([*names, *outputs]) for store in stores]
            for name, status in told[0].items():
                other = told[1][name]
                assert (status.state, status.attempts, status.is_allowed) == (
                    other.state,
                    other.attempts,
                    other.is_allowed,
                )
                assert set(status.missing) == set(other.missing)
                assert (status.failure is None) == (other.failure is None)
            assert told[0].keys() == told[1].keys()
        events = [{(e.transaction_id, e.handle, e.state) for e in await s.results_after(0, 999)} for s in stores]
        assert events[0] == events[1]
        states = {status.state for status in (await memory.get_status(outputs)).values()}
        assert State.COMPLETED in states, "the walk got somewhere"
