"""What operators see is what is there, in both stores."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from coproc.cli.scale.queue import fill
from coproc.store import overview
from coproc.store.base import State
from coproc.store.connection import TrioConnection
from coproc.store.migrator import migrate
from coproc.store.open import open_store
from coproc.store.overview import GraphNode, QueueEntry, ViewedStore, operation_name
from coproc.store.postgres import PostgresStore
from tests.store.builders import TRANSACTION, add, batch, ciphertext, done, handle, with_inputs

if TYPE_CHECKING:
    import pytest

OTHER = b"u" * 32


async def test_the_queue_is_told_by_tenant_and_state(store: ViewedStore) -> None:
    first, second = await with_inputs(store, 2)
    assert list(await store.queue()) == []
    await store.submit(batch(add(first, second)))
    await store.submit(replace(batch(add(second, first), transaction=OTHER), tenant="alice"))
    await store.submit(replace(batch(add(first, handle()), transaction=b"v" * 32), tenant="alice"))
    found = list(await store.queue())
    assert [(entry.tenant, entry.state, entry.groups) for entry in found] == [
        (None, State.READY, 1),
        ("alice", State.WAITING, 1),
        ("alice", State.READY, 1),
    ]
    if isinstance(store, PostgresStore):
        assert [entry.bootstraps for entry in found] == [12, None, 12]
        assert all(0 <= (entry.oldest_seconds or 0) < 60 for entry in found)
    else:
        assert found[0] == QueueEntry(None, State.READY, 1, None, None)
    assert list(await store.workers()) == []
    (claimed, *_) = await store.claim("worker", 1, 60)
    (holder,) = await store.workers()
    assert (holder.worker, holder.groups) == ("worker", 1)
    assert holder.bootstraps == (12 if isinstance(store, PostgresStore) else None)
    assert holder.lease_seconds is not None
    assert 0 < holder.lease_seconds <= 60
    assert State.COMPUTING in {entry.state for entry in await store.queue()}
    await store.finish("worker", done(claimed))
    assert sum(entry.groups for entry in await store.queue()) == 2


async def test_the_cost_of_a_long_queue_is_told_from_a_part_of_it(empty_database_url: str) -> None:
    """Everything that an autoscaler would add up, within a bounded number of looks."""
    async with await TrioConnection.connect(empty_database_url, autocommit=True) as connection:
        await migrate(connection)
        await fill(connection, 4_000)
        cursor = await connection.execute("select tenant, state, sum(bootstraps)::bigint from queue_cost group by 1, 2")
        expected = {(tenant, State(state)): cost for tenant, state, cost in await cursor.fetchall()}
        async with open_store(empty_database_url) as store:
            found = await store.queue()
    assert max(entry.groups for entry in found) > 10 * overview.COST_SAMPLE
    assert {(entry.tenant, entry.state): entry.bootstraps for entry in found if entry.bootstraps} == expected


async def test_failures_come_newest_first_with_their_reasons(store: ViewedStore) -> None:
    first, second = await with_inputs(store, 2)
    assert not await store.recent_failures(10)
    for number in range(3):
        broken = add(first, second)
        await store.submit(batch(broken, transaction=bytes([number]) * 32))
        (group,) = await store.claim("worker", 10, 60)
        await store.finish("worker", done(group, [broken.output]))
        await store.submit(batch(add(broken.output, first), transaction=bytes([number]) * 32))
    found = await store.recent_failures(4)
    assert [item.transaction_id[0] for item in found] == [2, 2, 1, 1]
    assert {(item.operation, item.failure.rule) for item in found} == {("ADD", "BROKEN"), ("ADD", "INPUT_FAILED")}
    (follows,) = (item for item in found[:2] if item.failure.rule == "INPUT_FAILED")
    (root,) = (item for item in found[:2] if item.failure.rule == "BROKEN")
    assert (follows.failure.cause, root.failure.cause) == (root.handle, None)
    assert root.failure.message == "by the test"


async def test_transactions_come_newest_first_with_what_became_of_them(store: ViewedStore) -> None:
    first, second = await with_inputs(store, 2)
    broken = add(first, second)
    await store.submit(batch(broken, add(second, second)))
    for group in await store.claim("worker", 10, 60):
        await store.finish("worker", done(group, group.wanted & {broken.output}))
    await store.submit(replace(batch(add(first, first), transaction=OTHER), tenant="alice"))
    newest, oldest = await store.recent_transactions(5)
    assert (newest.transaction_id, newest.tenant, newest.computations, newest.failed) == (OTHER, "alice", 1, 0)
    assert newest.groups == {State.READY: 1}
    assert (oldest.transaction_id, oldest.tenant, oldest.computations, oldest.failed) == (TRANSACTION, None, 2, 1)
    assert oldest.groups == {State.COMPLETED: 1, State.FAILED: 1}
    assert [item.transaction_id for item in await store.recent_transactions(1)] == [OTHER]
    if isinstance(store, PostgresStore):
        assert newest.asked_at is not None
        assert abs(newest.asked_at - time.time()) < 60


async def test_a_transaction_is_a_graph_with_its_states(store: ViewedStore) -> None:
    first, second = await with_inputs(store, 2)
    missing = handle()
    inner = add(first, second, is_allowed=False)
    outer, waits = add(inner.output, inner.output), add(second, missing)
    await store.submit(batch(inner, outer, waits))
    graph = await store.transaction_graph(TRANSACTION)
    assert graph is not None
    assert (graph.transaction_id, graph.total) == (TRANSACTION, 3)
    assert [node.handle for node in graph.nodes] == [inner.output, outer.output, waits.output]
    assert [node.state for node in graph.nodes][2] is State.WAITING
    assert dict(graph.inputs) == {first: True, second: True, missing: False}
    assert [set(node.inputs) for node in graph.nodes] == [{first, second}, {inner.output}, {second, missing}]
    for group in await store.claim("worker", 10, 60):
        await store.finish("worker", done(group))
    graph = await store.transaction_graph(TRANSACTION)
    assert graph is not None
    assert [node.state for node in graph.nodes][:2] == [State.COMPLETED, State.COMPLETED], "one is not kept, but done"
    if isinstance(store, PostgresStore):
        kept = graph.nodes[1]
        assert graph.nodes[0].stored_at is None
        assert kept.asked_at is not None
        assert kept.stored_at is not None
        assert kept.stored_at >= kept.asked_at
    await store.put_ciphertexts([ciphertext(missing)])
    (group,) = await store.claim("mine", 10, 60)
    await_node = await node_of(store, 2)
    assert (await_node.state, await_node.worker, await_node.attempts) == (State.COMPUTING, "mine", 1)
    await store.finish("mine", done(group, [waits.output]))
    failed = await node_of(store, 2)
    assert (failed.state, failed.failure and failed.failure.rule) == (State.FAILED, "BROKEN")
    assert await store.transaction_graph(OTHER) is None


async def node_of(store: ViewedStore, number: int) -> GraphNode:
    graph = await store.transaction_graph(TRANSACTION)
    assert graph is not None
    return graph.nodes[number]


async def test_large_transactions_are_cut(store: ViewedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (overview, __import__("coproc.store.memory_overview", fromlist=["x"])):
        monkeypatch.setattr(module, "MAX_NODES", 2)
    first, second = await with_inputs(store, 2)
    await store.submit(batch(*(add(first, second) for _ in range(3))))
    graph = await store.transaction_graph(TRANSACTION)
    assert graph is not None
    assert (graph.total, len(graph.nodes)) == (3, 2)


def test_an_operation_that_nobody_knows_still_has_a_name() -> None:
    assert (operation_name(0), operation_name(200)) == ("ADD", "operation 200")
