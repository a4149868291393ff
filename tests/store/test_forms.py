"""Ciphertexts that change their form and not their value: the same tests hold memory and Postgres to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.errors import InvalidInput
from coproc.store.base import State, StoredCiphertext, Topic
from coproc.store.forms import Compression
from coproc.store.retention import Retention
from tests.store.builders import KEY, add, batch, ciphertext, done, handle, with_key, work

if TYPE_CHECKING:
    from coproc.program.types import Handle
    from coproc.store.overview import ViewedStore

LARGE, SMALL = b"large" * 1000, b"small"
AT_ONCE = Compression(after=0, every=0)


async def with_large(store: ViewedStore, count: int) -> list[Handle]:
    await with_key(store)
    handles = [handle() for _ in range(count)]
    await store.put_ciphertexts([ciphertext(name, LARGE) for name in handles])
    return handles


async def idle(store: ViewedStore, compression: Compression = AT_ONCE) -> set[Handle]:
    found: set[Handle] = set()
    more = True
    while more:
        step = await store.find_idle(compression, 2)
        assert set(step.keys.values()) <= {KEY}
        found |= step.keys.keys()
        more = step.more
    return found


async def test_what_is_large_and_idle_and_readable_is_found(store: ViewedStore) -> None:
    a, b, c = await with_large(store, 3)
    a_list = StoredCiphertext(handle(), KEY, LARGE, is_allowed=False)
    await store.put_ciphertexts([a_list, ciphertext(handle(), SMALL)])
    assert await idle(store) == {a, b, c}
    assert await idle(store, replace(AT_ONCE, after=60)) == set()
    assert await idle(store, replace(AT_ONCE, larger_than=10_000)) == set()
    inner = add(a, is_allowed=False)
    await store.submit(batch(inner))
    outer = add(inner.output, b)
    await store.submit(batch(outer))
    assert await idle(store) == {c}, "unfinished work reads the others"
    for _ in range(2):
        (group,) = await store.claim("worker", 1, 60)
        await store.finish("worker", done(group, data=LARGE))
    assert await idle(store) == {a, b, c, inner.output, outer.output}
    restful = replace(AT_ONCE, every=1000)
    assert await idle(store, restful) == set()


async def test_another_form_is_the_same_upload(store: ViewedStore) -> None:
    a, gone = await with_large(store, 2)
    await store.sweep(Retention(uploads=0, every=0), 100)
    await store.put_ciphertexts([ciphertext(a, LARGE)])
    assert await store.change_forms({a: SMALL, gone: SMALL}) == 1
    assert (await store.get_ciphertexts([a, gone])) == {a: ciphertext(a, SMALL)}
    assert await store.put_ciphertexts([ciphertext(a, LARGE)]) == 0
    for other in (SMALL, LARGE + b"!"):
        with pytest.raises(InvalidInput):
            await store.put_ciphertexts([ciphertext(a, other)])
    assert (await store.get_ciphertexts([a]))[a].data == SMALL
    await store.sweep(Retention(uploads=0, every=0), 100)
    with pytest.raises(InvalidInput):
        await store.put_ciphertexts([ciphertext(a, SMALL)])
    assert await store.put_ciphertexts([ciphertext(a, LARGE)]) == 1
    await store.submit(batch(add(a)))
    assert await work(store) == 1


async def test_what_is_asked_for_is_brought_back_once(store: ViewedStore) -> None:
    a, b, c = await with_large(store, 3)
    absent = handle()
    await store.change_forms(dict.fromkeys((a, b, c), SMALL))
    with trio.fail_after(10):
        async with store.wakeups() as wakeups:
            await store.ask_plain([a, b, absent])
            assert await wakeups.receive() is Topic.THAW
            await store.ask_plain([b, c])
            claimed = {item.handle for item in await store.claim_thaws(2, 60)}
            claimed |= {item.handle for item in await store.claim_thaws(10, 60)}
            assert claimed == {a, b, c}
            assert await store.claim_thaws(10, 60) == []
            await store.finish_thaws({a: LARGE, b: LARGE}, [c])
            while await wakeups.receive() is not Topic.RESULTS:
                pass
    assert {name: item.data for name, item in (await store.get_ciphertexts([a, b, c])).items()} == {
        a: LARGE,
        b: LARGE,
        c: SMALL,
    }
    assert await store.claim_thaws(10, 60) == []
    await store.ask_plain([c])
    assert [item.handle for item in await store.claim_thaws(10, 60)] == [c]
    assert (await store.get_status([c]))[c].state is State.COMPLETED


async def test_what_a_worker_let_lie_is_taken_over(store: ViewedStore) -> None:
    (a,) = await with_large(store, 1)
    await store.ask_plain([a])
    assert len(await store.claim_thaws(10, 0.05)) == 1
    await trio.sleep(0.1)
    assert len(await store.claim_thaws(10, 60)) == 1
