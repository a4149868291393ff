"""Cancelled and late work, on both stores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.errors import NotFound
from coproc.store.base import State, Topic
from coproc.store.rules import CANCELLED, EXPIRED, INPUT_FAILED
from tests.store.builders import TRANSACTION, add, batch, done, handle, with_inputs, work

if TYPE_CHECKING:
    from coproc.store.base import Store

OTHER = b"o" * 32


async def test_a_cancelled_transaction_is_taken_back_from_its_worker(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    computing, waiting = add(a, a), add(a, handle())
    await store.submit(batch(computing, waiting))
    (group,) = await store.claim("worker", 10, 60)
    async with store.wakeups() as wakeups:
        assert await store.cancel(TRANSACTION) == 2
        with trio.fail_after(5):
            while await wakeups.receive() is not Topic.ENDED:
                pass
    assert await store.renew("worker", [group.group_id], 60) == frozenset()
    assert not await store.finish("worker", done(group))
    assert not await store.claim("worker", 10, 60)
    statuses = await store.get_transaction(TRANSACTION)
    assert [status.state for status in statuses] == [State.FAILED, State.FAILED]
    assert [status.failure for status in statuses] == [CANCELLED, CANCELLED]
    assert [event.failure for event in await store.results_after(0, 10)] == [CANCELLED, CANCELLED]
    assert await store.cancel(TRANSACTION) == 0
    with pytest.raises(NotFound, match="is not known"):
        await store.cancel(b"nothing")


async def test_what_others_asked_for_or_need_survives_a_cancellation(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    needed = add(a, a, is_allowed=False)
    middle = add(needed.output, a)
    shared, alone = add(a, middle.output), add(a, needed.output)
    await store.submit(batch(needed, middle, shared, alone))
    reader = add(middle.output, a)
    await store.submit(batch(reader, shared, transaction=OTHER))
    assert await store.cancel(TRANSACTION) == 1
    await work(store)
    found = await store.get_status([alone.output, shared.output, reader.output, middle.output])
    assert found[alone.output].failure == CANCELLED
    assert [found[item.output].state for item in (shared, reader, middle)] == [State.COMPLETED] * 3


async def test_what_is_done_stays_done(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    first = add(a, a)
    await store.submit(batch(first))
    await work(store)
    assert await store.cancel(TRANSACTION) == 0
    assert (await store.get_status([first.output]))[first.output].state is State.COMPLETED


async def test_a_tenant_cancels_only_its_own(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    await store.submit(replace(batch(add(a, a)), tenant="alice"))
    assert await store.cancel(TRANSACTION, "bob") == 0
    assert await store.cancel(TRANSACTION, "alice") == 1


async def test_late_work_fails_with_its_dependants(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    late, patient, unhurried = add(a, a), add(a, a), add(a, a)
    await store.submit(replace(batch(late), seconds=0.05))
    await store.submit(replace(batch(patient, transaction=OTHER), seconds=3600.0))
    await store.submit(batch(unhurried, transaction=b"x"))
    dependant = add(late.output, a)
    await store.submit(batch(dependant, transaction=b"y"))
    with trio.fail_after(5):
        while not (ended := await store.expire()):  # noqa: ASYNC110 - as schedulers do
            await trio.sleep(0.02)
    assert ended == 1
    found = await store.get_status([late.output, dependant.output])
    assert found[late.output].failure == EXPIRED
    failure = found[dependant.output].failure
    assert failure is not None
    assert (failure.rule, failure.cause, EXPIRED.rule in failure.message) == (INPUT_FAILED, late.output, True)
    assert await store.expire() == 0
    assert await work(store) == 2
