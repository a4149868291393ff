"""Lookers-on take one connection at most, see the same for a while, and are told when there is nothing to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from coproc.errors import Overloaded, RecoverableError
from coproc.health.lookout import GOOD_FOR_SECONDS, MOST_WAITING, PATIENCE_SECONDS, Lookout, NotSeen
from coproc.store.memory_overview import ViewedMemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.store.overview import FailedResult, QueueEntry

jumping = pytest.mark.usefixtures("autojump_clock")


class SlowStore(ViewedMemoryStore):
    """Takes its time, and counts."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.inside = self.most_inside = self.asked = 0
        self.error: RecoverableError | None = None

    async def _take_time(self) -> None:
        self.asked += 1
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        try:
            await trio.sleep(self.seconds)
            if self.error is not None:
                raise self.error
        finally:
            self.inside -= 1

    async def queue(self) -> Sequence[QueueEntry]:
        await self._take_time()
        return await super().queue()

    async def recent_failures(self, limit: int) -> Sequence[FailedResult]:
        await self._take_time()
        return await super().recent_failures(limit)


@jumping
async def test_many_lookers_cost_one_question_at_a_time() -> None:
    store = SlowStore(0.05)
    lookout = Lookout(lambda: store)
    async with trio.open_nursery() as nursery:
        for _ in range(MOST_WAITING):
            nursery.start_soon(lookout.recent)
    assert (store.asked, store.most_inside) == (1, 1)
    await trio.sleep(GOOD_FOR_SECONDS)
    await lookout.recent()
    assert store.asked == 2


@jumping
async def test_what_takes_long_to_see_is_looked_at_seldom() -> None:
    store = SlowStore(2.0)
    lookout = Lookout(lambda: store)
    await lookout.recent()
    await trio.sleep(39)
    await lookout.recent()
    assert store.asked == 1
    await trio.sleep(2)
    await lookout.recent()
    assert store.asked == 2


@jumping
async def test_a_database_that_hangs_is_given_up_and_a_crowd_is_refused() -> None:
    store = SlowStore(1000.0)
    lookout = Lookout(lambda: store)
    began = trio.current_time()
    with pytest.raises(NotSeen, match="did not answer in 5 s"):
        await lookout.glance()
    assert trio.current_time() - began == PATIENCE_SECONDS
    assert lookout.error == "the database did not answer in 5 s"
    refused: list[Overloaded] = []

    async def look() -> None:
        try:
            await lookout.glance()
        except Overloaded as error:
            refused.append(error)
        except NotSeen:
            pass

    async with trio.open_nursery() as nursery:
        for _ in range(MOST_WAITING + 3):
            nursery.start_soon(look)
    assert len(refused) == 2, "one looks and sixteen wait"


@jumping
async def test_the_latest_glance_stays_when_the_database_is_lost() -> None:
    store = SlowStore(0.0)
    lookout = Lookout(lambda: store)
    seen = await lookout.glance()
    store.error = RecoverableError("away")
    with pytest.raises(RecoverableError, match="away"):
        await lookout.glance()
    assert lookout.latest is seen
    assert lookout.error == "away"
    store.error = None
    await lookout.glance()
    assert lookout.error is None
