"""What may be deleted and what must stay: the same tests hold memory and Postgres to it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.errors import InvalidInput
from coproc.store.base import State
from coproc.store.open import open_store
from coproc.store.retention import DROPPED, Retention
from coproc.store.rules import INPUT_FAILED
from tests.store.builders import KEY, TRANSACTION, add, batch, ciphertext, done, handle, with_inputs, with_key, work
from tests.store.test_chains import SECOND, block, name, write

if TYPE_CHECKING:
    from coproc.program.types import Handle
    from coproc.store.overview import ViewedStore

AT_ONCE = Retention(intermediates=0, uploads=0, results=0, every=0)
"""Everything goes that may go at all."""
ONLY_INTERMEDIATES = replace(AT_ONCE, uploads=None, results=None)


async def swept(store: ViewedStore, retention: Retention = AT_ONCE) -> int:
    """Sweep once through everything; returns how many values went."""
    count, more = 0, True
    while more:
        step = await store.sweep(retention, 3)
        assert step.values <= step.examined <= 3
        count, more = count + step.values, step.more
    return count


async def kept(store: ViewedStore, *handles: Handle) -> list[bool]:
    found = await store.get_ciphertexts(handles)
    return [name in found for name in handles]


async def test_each_class_has_its_own_age(store: ViewedStore) -> None:
    (a,) = await with_inputs(store, 1)
    inner = add(a, is_allowed=False)
    await store.submit(batch(inner))
    outer = add(inner.output)
    await store.submit(batch(outer))
    await work(store)
    everything = (a, inner.output, outer.output)
    assert await swept(store, Retention(every=0)) == 0, "by default nothing goes within a day"
    assert await swept(store, Retention(None, None, None, every=0)) == 0
    young = Retention(60, 60, 60, every=0)
    assert await swept(store, young) == 0
    assert await kept(store, *everything) == [True, True, True]
    assert await swept(store, replace(young, intermediates=0)) == 1
    assert await kept(store, *everything) == [True, False, True]
    assert await swept(store, replace(young, uploads=0)) == 1
    assert await kept(store, *everything) == [False, False, True]
    assert await swept(store, replace(young, results=0)) == 1
    assert await kept(store, *everything) == [False, False, False]


async def test_what_unfinished_work_reads_stays(store: ViewedStore) -> None:
    a, b = await with_inputs(store, 2)
    waiting, computed = add(a, absent := handle()), add(b)
    await store.submit(batch(waiting, computed))
    reader = add(computed.output)
    await store.submit(batch(reader))
    (group,) = await store.claim("worker", 1, 60)
    assert await swept(store) == 0, "one group waits for an input, one computes"
    assert await store.finish("worker", done(group))
    assert await swept(store) == 1, "the computed one's result is needed by its reader, its own input by nobody"
    assert await kept(store, a, b, computed.output) == [True, False, True]
    await work(store)
    await store.put_ciphertexts([ciphertext(absent)])
    await work(store)
    assert await swept(store) == 5
    assert [status.state for status in await store.get_transaction(TRANSACTION)] == [State.FAILED] * 3


async def test_an_upload_that_went_can_come_back_as_it_was_and_no_other(store: ViewedStore) -> None:
    (a,) = await with_inputs(store, 1)
    other_key = await with_key(store, b"another server key")
    assert await swept(store) == 1
    (status,) = (await store.get_status([a])).values()
    assert (status.state, status.failure) == (State.FAILED, DROPPED)
    late = add(a)
    await store.submit(batch(late))
    (status,) = await store.get_transaction(TRANSACTION)
    assert (status.state, status.missing) == (State.WAITING, (a,))
    for contradiction in (ciphertext(a, b"other"), ciphertext(a, key_id=other_key)):
        with pytest.raises(InvalidInput):
            await store.put_ciphertexts([contradiction])
    with pytest.raises(InvalidInput):
        await store.submit(batch(add(late.output, output=a)))
    assert await store.put_ciphertexts([ciphertext(a)]) == 1
    assert await work(store) == 1
    assert await store.put_ciphertexts([ciphertext(a)]) == 0
    assert (await store.get_status([a]))[a].state is State.COMPLETED


async def test_uploading_again_begins_a_new_life(store: ViewedStore) -> None:
    (a,) = await with_inputs(store, 1)
    while await swept(store, Retention(uploads=0.2, every=0)) == 0:
        assert await store.put_ciphertexts([ciphertext(a)]) == 0
        assert await swept(store, Retention(uploads=0.2, every=0)) == 0
        await trio.sleep(0.1)
        assert await store.put_ciphertexts([ciphertext(a)]) == 0
        await trio.sleep(0.2)


async def test_an_intermediate_is_made_again_with_all_that_it_needs(store: ViewedStore) -> None:
    """Three groups deep: none of the values between is there any more when somebody asks for the last one again."""
    (a,) = await with_inputs(store, 1)
    first = add(a, is_allowed=False)
    await store.submit(batch(first))
    second = add(first.output, is_allowed=False)
    await store.submit(batch(second))
    third, unkept = add(second.output), add(second.output, is_allowed=False)
    await store.submit(batch(third, unkept))
    await work(store)
    assert await swept(store, ONLY_INTERMEDIATES) == 2
    assert await kept(store, a, first.output, second.output, third.output) == [True, False, False, True]
    again = add(second.output, unkept.output)
    await store.submit(batch(again))
    assert await work(store) == 4
    assert await kept(store, again.output, unkept.output) == [True, True]
    assert await swept(store, ONLY_INTERMEDIATES) == 3


async def test_raising_what_is_allowed_makes_what_it_needs_again(store: ViewedStore) -> None:
    (a,) = await with_inputs(store, 1)
    first = add(a, is_allowed=False)
    await store.submit(batch(first))
    second, reader = add(first.output, is_allowed=False), add(first.output)
    await store.submit(batch(second, reader))
    await work(store)
    assert await swept(store, ONLY_INTERMEDIATES) == 1
    await store.submit(batch(replace(second, is_allowed=True)))
    assert await work(store) == 2
    assert await kept(store, second.output) == [True]


async def test_a_result_that_went_has_failed_and_so_has_what_only_it_could_give(store: ViewedStore) -> None:
    (a,) = await with_inputs(store, 1)
    first = add(a)
    await store.submit(batch(first))
    unkept, reader = add(first.output, is_allowed=False), add(first.output)
    await store.submit(batch(unkept, reader))
    await work(store)
    assert await swept(store, replace(AT_ONCE, uploads=None)) == 2
    statuses = await store.get_status([first.output, unkept.output, reader.output])
    assert [status.failure and status.failure.rule for status in statuses.values()] == [
        DROPPED.rule,
        INPUT_FAILED,
        DROPPED.rule,
    ]
    assert [event.failure for event in await store.results_after(0, 10)] == [DROPPED, DROPPED]
    late = add(unkept.output)
    await store.submit(batch(late))
    failure = (await store.get_status([late.output]))[late.output].failure
    assert failure is not None
    assert (failure.rule, failure.cause) == (INPUT_FAILED, first.output)
    assert await work(store) == 0
    assert await store.submit(batch(first)) == 0, "the same again changes nothing"


async def test_what_a_chain_allows_stays_for_ever(store: ViewedStore) -> None:
    a, b = await with_inputs(store, 2)
    allowed, asked = add(a), add(b)
    await write(store, block(1, allowed, asked, allowed=(allowed.output, b)))
    await write(store, *(block(number) for number in range(2, 7)))
    await work(store)
    assert await swept(store, replace(AT_ONCE, reorg_depth=2)) == 1
    assert await kept(store, a, b, allowed.output) == [False, True, True]


async def test_what_a_reorganisation_may_ask_for_again_stays(store: ViewedStore) -> None:
    (a,) = await with_inputs(store, 1)
    inner = add(a, is_allowed=False)
    outer = add(inner.output)
    await write(store, block(1, inner))
    await write(store, block(2, outer, allowed=(outer.output,), transaction=SECOND))
    await work(store)
    depth = replace(AT_ONCE, reorg_depth=2)
    assert await swept(store, depth) == 0
    other = add(inner.output)
    await write(store, block(2, other, allowed=(other.output,), fork=1), orphaned=(name(2),))
    await work(store)
    assert await kept(store, outer.output, other.output) == [False, True]
    await write(store, block(3, parent_fork=1))
    assert await swept(store, depth) == 1, "block 1 is final, block 2 still reads its value"
    assert await kept(store, a, inner.output) == [False, True]
    await write(store, block(4))
    assert await swept(store, depth) == 1
    assert await kept(store, inner.output, other.output) == [False, True]


async def test_a_sweep_is_shared_and_rests(store: ViewedStore) -> None:
    await with_inputs(store, 5)
    restful = replace(AT_ONCE, every=1000)
    steps = [await store.sweep(restful, 2) for _ in range(4)]
    assert [(step.examined, step.values, step.size, step.more) for step in steps] == [
        (2, 2, 10, True),
        (2, 2, 10, True),
        (1, 1, 5, False),
        (0, 0, 0, False),
    ]
    await store.put_ciphertexts([ciphertext(handle())])
    assert (await store.sweep(restful, 2)).examined == 0
    assert (await store.sweep(AT_ONCE, 2)).values == 1


async def make(store: ViewedStore, names: list[Handle], chance: random.Random, transaction: bytes) -> Handle:
    """Upload, compute on it in two groups, and wait for the result."""
    one, two = chance.sample(names, 2)
    await store.put_ciphertexts([ciphertext(one), ciphertext(two)])
    middle = add(one, two, is_allowed=False)
    await store.submit(batch(middle, transaction=transaction))
    outer = add(middle.output, one)
    await store.submit(batch(outer, transaction=transaction))
    while not (await kept(store, outer.output))[0]:
        statuses = await store.get_transaction(transaction)
        assert not any(status.failure for status in statuses)
        # What it waits for can only be an upload that went before it was asked for.
        missing = {name for status in statuses for name in status.missing} & set(names)
        await store.put_ciphertexts([ciphertext(name) for name in missing])
        await trio.sleep(0.005)
    return outer.output


async def compute(store: ViewedStore, chance: random.Random) -> None:
    """Be a worker that reads its inputs outside of any transaction."""
    while True:
        for group in await store.claim("worker", 3, 60):
            inputs = {name for item in group.computations for name in item.inputs}
            inputs -= {item.output for item in group.computations}
            assert (await store.get_ciphertexts(sorted(inputs))).keys() == inputs, "an input of claimed work is gone"
            await trio.sleep(chance.random() * 0.01)
            assert await store.finish("worker", done(group))
        await trio.sleep(0.002)


async def test_deletion_races_with_everything_else_and_nothing_needed_is_lost(database_url: str) -> None:
    """Callers upload, compute on what they made and upload again, while two processes delete whatever they may."""
    chance, retention = random.Random(5), replace(AT_ONCE, results=None)
    async with open_store(database_url) as store, open_store(database_url) as other:
        await with_key(store)
        names = [handle() for _ in range(6)]
        made: list[Handle] = []

        async def call(number: int) -> None:
            with trio.fail_after(120):
                for turn in range(8):
                    output = await make(store, names, chance, bytes([number, turn]) * 16)
                    made.append(output)

        async def delete() -> None:
            while True:
                await other.sweep(retention, 4)
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(compute, store, chance)
            nursery.start_soon(delete)
            nursery.start_soon(delete)
            async with trio.open_nursery() as callers:
                for number in range(3):
                    callers.start_soon(call, number)
            nursery.cancel_scope.cancel()
        for _ in range(2):  # what is left of the last sweep, and a whole one
            await swept(store, retention)
        assert await kept(store, *made) == [True] * 24
        assert await kept(store, *names) == [False] * 6
        for name_ in names:
            with pytest.raises(InvalidInput):
                await store.put_ciphertexts([ciphertext(name_, b"other", KEY)])
