"""Claims: who gets what, in which order, and at which cost. And finishing what was claimed, many groups at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from coproc.cli.scale.queue import CountingConnection, claim_cost, fill, pages_of
from coproc.errors import InvalidInput
from coproc.program.computation import Computation, Operation, Scalar
from coproc.store.base import GroupOutcome, State, Topic
from coproc.store.claims import STRAY, TENANTS_AT_ONCE, lease, lock_stray
from coproc.store.connection import TrioConnection
from coproc.store.migrator import migrate
from coproc.store.open import open_store
from coproc.store.pool import SESSION
from tests.store.builders import add, batch, done, handle, with_inputs, with_key

if TYPE_CHECKING:
    from coproc.store.base import Store


async def test_a_claim_reads_as_many_pages_of_a_queue_that_is_fifty_times_as_long(
    database_url: str, empty_database_url: str
) -> None:
    """Pages are counted, not time, so that this is exact on every machine."""
    pages: list[float] = []
    for url, groups in ((database_url, 1_000), (empty_database_url, 50_000)):
        async with await CountingConnection.connect(url, autocommit=True) as connection:
            await migrate(connection)
            await connection.execute(SESSION)
            await fill(connection, groups)
            cost = await claim_cost(connection, groups, claims_made=2)
        assert cost.claimed == 64
        pages.append(cost.pages)
    assert pages[1] < 1.4 * pages[0]


async def test_looking_for_lost_leases_reads_nothing_of_what_is_done(database_url: str) -> None:
    async with await TrioConnection.connect(database_url, autocommit=True) as connection:
        await migrate(connection)
        await connection.execute(SESSION)
        await fill(connection, 20_000)
        await connection.execute(
            "update work_groups set state = 3, worker = null, lease_until = null where group_id > 100"
        )
        await connection.execute("vacuum analyze work_groups")
        mine = await connection.execute("select group_id from work_groups where worker = 'worker 15'")
        assert (
            await lock_stray(connection, "worker 15", []) == [group_id for (group_id,) in await mine.fetchall()] != []
        )
        statement = STRAY.replace("%s", "$1", 1).replace("%s", "$2", 1)
        await connection.execute(f"prepare stray (text, bigint[]) as {statement}".encode())
        plan = await connection.execute(
            "explain (analyze, buffers, format json) execute stray ('worker 15', '{}')"  # by the plan for any worker
        )
        row = await plan.fetchone()
    assert row is not None
    assert pages_of(row[0]) < 100


async def ready(store: Store, tenant: str | None, groups: int) -> None:
    """Submit groups that can be computed at once."""
    for _ in range(groups):
        computation = Computation(handle(), Operation.TRIVIAL_ENCRYPT, (Scalar(b"1"),), is_allowed=True)
        await store.submit(replace(batch(computation), tenant=tenant))


async def test_tenants_take_turns_over_all_claims(database_url: str) -> None:
    """More tenants than one claim looks at: the next one goes on where it ended, and nobody is left out."""
    names = [f"tenant {number:03}" for number in range(TENANTS_AT_ONCE + 6)]
    async with open_store(database_url) as store:
        await with_key(store)
        await ready(store, names[0], 3)
        for name in names:
            await ready(store, name, 2)
        first, second = [[group.tenant for group in await store.claim("worker", TENANTS_AT_ONCE, 60)] for _ in range(2)]
        assert first == names[:TENANTS_AT_ONCE]
        assert set(second[:6]) | set(second[6:]) >= set(names[TENANTS_AT_ONCE:])
        assert len(second) == len(set(second)) == TENANTS_AT_ONCE
        rest = [group.tenant for _ in range(4) for group in await store.claim("worker", TENANTS_AT_ONCE, 60)]
        assert sorted(filter(None, [*first, *second, *rest])) == sorted([*names, *names, *names[:1] * 3])


async def test_a_tenant_with_a_long_queue_fills_what_others_leave(database_url: str) -> None:
    async with open_store(database_url) as store:
        await with_key(store)
        await ready(store, "busy", 20)
        await ready(store, "rare", 1)
        found = [group.tenant for group in await store.claim("worker", 10, 60)]
        assert found[0] == "busy"
        assert found[1] == "rare"
        assert found.count("busy") == 5, "one half, since the other tenant might have had as much"
        assert len(await store.claim("worker", 10, 60)) == 10


async def test_claims_at_the_same_time_share_what_is_there(database_url: str) -> None:
    """No more rows are locked than are claimed: the second claim finds the rest while the first is still open."""
    async with open_store(database_url) as store, open_store(database_url) as other:
        await with_key(store)
        for tenant in ("a", "b", None):
            await ready(store, tenant, 8)
        async with await TrioConnection.connect(database_url) as connection, connection.transaction():
            read, _ = await lease(connection, "one", 12, 60, None)
            others = await other.claim("two", 12, 60)
        mine = await read()
        assert len(mine) == len(others) == 12
        assert not {group.group_id for group in mine} & {group.group_id for group in others}


async def test_what_a_silent_worker_held_comes_first(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    await store.submit(batch(add(a), add(a), add(a)))
    silent = [group.group_id for group in await store.claim("silent", 3, 0)][1:]
    again = await store.claim("busy", 1, 60)
    await store.submit(batch(add(a), transaction=b"w" * 32))
    found = [group.group_id for group in await store.claim("next", 10, 60)]
    assert found[: len(silent)] == silent
    assert again[0].group_id not in found
    assert len(found) == len(silent) + 1


async def test_groups_are_finished_together(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    outputs = [handle() for _ in range(3)]
    reader = add(outputs[0], outputs[1])
    for output in outputs:
        await store.submit(batch(add(a, output=output)))
    await store.submit(batch(reader, transaction=b"r" * 32))
    async with store.wakeups() as wakeups:
        groups = await store.claim("worker", 10, 60)
        assert len(groups) == 3
        kept = await store.finish_all("worker", [done(groups[0]), done(groups[1]), done(groups[2], [outputs[2]])])
        assert kept == {group.group_id for group in groups}
        assert {await wakeups.receive(), await wakeups.receive()} == {Topic.WORK, Topic.RESULTS}
    status = await store.get_status([*outputs, reader.output])
    assert [status[name].state for name in outputs] == [State.COMPLETED, State.COMPLETED, State.FAILED]
    assert status[reader.output].state is State.READY
    assert [event.sequence for event in await store.results_after(0, 10)] == [1, 2, 3]


async def test_a_lost_lease_leaves_out_its_group_alone(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    await store.submit(batch(add(a)))
    await store.submit(batch(add(a)))
    groups = await store.claim("slow", 10, 0)
    (taken,) = await store.claim("quick", 1, 60)
    kept = await store.finish_all("slow", [done(group) for group in groups])
    assert kept == {group.group_id for group in groups} - {taken.group_id}
    assert await store.finish("quick", done(taken))


async def test_an_outcome_that_does_not_fit_stores_nothing(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    await store.submit(batch(add(a)))
    await store.submit(batch(add(a)))
    one, two = await store.claim("worker", 10, 60)
    with pytest.raises(InvalidInput):
        await store.finish_all("worker", [done(one), GroupOutcome(two.group_id, ())])
    assert await store.last_sequence() == 0
    assert await store.finish_all("worker", [done(one), done(two)]) == {one.group_id, two.group_id}
