"""Room in the queue: counted rarely where there is much, every time where there is little."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from coproc.api.headroom import SECONDS, SHARE, Headroom
from coproc.errors import Overloaded
from coproc.store.memory import MemoryStore


class Counting(MemoryStore):
    """A queue of a given length."""

    def __init__(self, waiting: int) -> None:
        super().__init__()
        self.waiting = waiting
        self.counted = 0

    async def count_open(self, limit: int, tenant: str | None = None) -> int:
        """Count, and count the counting."""
        assert tenant is None
        await trio.lowlevel.checkpoint()
        self.counted += 1
        return min(self.waiting, limit)


async def test_a_short_queue_is_counted_once_for_many_calls(autojump_clock: trio.testing.MockClock) -> None:
    store = Counting(0)
    headroom = Headroom(store, 160 * SHARE)
    for _ in range(160):
        await headroom.take(1)
    assert store.counted == 1
    await headroom.take(1)
    assert store.counted == 2, "the share is used"
    autojump_clock.jump(SECONDS)
    await headroom.take(1)
    assert store.counted == 3, "the count is old"
    await headroom.take(1000)
    assert store.counted == 4, "so many at once were not expected"


async def test_near_the_limit_every_call_counts() -> None:
    store = Counting(100 - SHARE + 1)
    headroom = Headroom(store, 100)
    for number in range(1, 4):
        await headroom.take(1)
        assert store.counted == number
    store.waiting = 100
    with pytest.raises(Overloaded) as caught:
        await headroom.take(1)
    assert caught.value.context["limit"] == "max_open_groups"
