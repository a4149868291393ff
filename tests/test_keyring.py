"""Keys are read once, one at a time, and make room for one another."""

from __future__ import annotations

import numpy as np
import pytest
import trio

from coproc.errors import NotFound
from coproc.keyring import KeyCache
from coproc.tfhe.keys import EvaluationKey
from coproc.tfhe.parameters import TOY_2_2


def make_key(key_id: bytes) -> EvaluationKey:
    empty = np.zeros(0, dtype=np.uint64)
    return EvaluationKey(key_id, TOY_2_2, b"tag of " + key_id, empty, empty)


class Source:
    """A source of three keys that notes what is read."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.loading = self.most_loading = 0

    async def read_key(self, key_id: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        self.reads.append(key_id)
        if key_id not in {b"a", b"b", b"c"}:
            raise NotFound("no such key")
        return key_id

    async def load(self, data: bytes) -> EvaluationKey:
        self.loading += 1
        self.most_loading = max(self.most_loading, self.loading)
        try:
            await trio.sleep(1)
        finally:
            self.loading -= 1
        return make_key(data)


@pytest.mark.usefixtures("autojump_clock")
async def test_concurrent_callers_share_one_reading_and_readings_do_not_overlap() -> None:
    source = Source()
    keys = KeyCache(source, source.load, capacity=2)
    async with trio.open_nursery() as nursery:
        for key_id in (b"a", b"a", b"b", b"a", b"b"):
            nursery.start_soon(keys.get, key_id)
    assert sorted(source.reads) == [b"a", b"b"]
    assert source.most_loading == 1


@pytest.mark.usefixtures("autojump_clock")
async def test_the_least_recently_used_key_goes_but_its_facts_stay() -> None:
    source = Source()
    keys = KeyCache(source, source.load, capacity=2)
    for key_id in (b"a", b"b", b"a", b"c"):
        assert (await keys.get(key_id)).key_id == key_id
    assert len(keys) == 2
    assert (await keys.facts(b"b")).tag == b"tag of b"
    assert source.reads == [b"a", b"b", b"c"]
    await keys.get(b"b")
    assert source.reads == [b"a", b"b", b"c", b"b"]


@pytest.mark.usefixtures("autojump_clock")
async def test_a_cancelled_reading_leaves_the_way_free() -> None:
    source = Source()
    keys = KeyCache(source, source.load)
    with trio.move_on_after(0.5):
        await keys.get(b"a")
    assert len(keys) == 0
    assert (await keys.facts(b"a")).parameters is TOY_2_2


async def test_an_unknown_key_is_not_found() -> None:
    source = Source()
    with pytest.raises(NotFound):
        await KeyCache(source, source.load).get(b"z")


def test_a_cache_holds_at_least_one_key() -> None:
    source = Source()
    with pytest.raises(ValueError, match="at least 1"):
        KeyCache(source, source.load, capacity=0)
