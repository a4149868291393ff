"""Readings are taken in time, seldom where they are dear, and go on whatever happens to the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from coproc.errors import RecoverableError
from coproc.health.report import HealthReport
from coproc.health.view import Identity
from coproc.store.memory_overview import ViewedMemoryStore
from nurseries.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.store.overview import QueueEntry

jumping = pytest.mark.usefixtures("autojump_clock")
REPORT = HealthReport(started=True, ready=True, draining=False)


class MoodyStore(ViewedMemoryStore):
    """Answers after a while, or not at all."""

    seconds = 0.0
    error: Exception | None = None

    async def queue(self) -> Sequence[QueueEntry]:
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return await super().queue()


def observe(store: ViewedMemoryStore | None) -> Observer:
    return Observer(lambda: REPORT, lambda: store, Identity("1", 1, ()), now=trio.current_time)


@jumping
async def test_it_looks_every_two_seconds(nursery: trio.Nursery) -> None:
    observer = observe(MoodyStore())
    await nursery.start(observer.run)
    await trio.sleep(21)
    points = observer.history.points("short")
    assert len(points) == 10
    assert {round(point.seconds, 6) for point in points} == {2.0}
    assert {point.ready for point in points} == {0}
    nursery.cancel_scope.cancel()


@jumping
@pytest.mark.parametrize(("takes", "apart"), [(0.1, 2), (1.0, 11), (4.0, 19)])
async def test_a_slow_database_is_asked_seldom(nursery: trio.Nursery, takes: float, apart: int) -> None:
    store = MoodyStore()
    store.seconds = takes
    observer = observe(store)
    await nursery.start(observer.run)
    await trio.sleep(200)
    assert {round(point.seconds) for point in observer.history.points("short")} == {apart}
    nursery.cancel_scope.cancel()


@jumping
async def test_trouble_leaves_gaps_and_goes_by(nursery: trio.Nursery) -> None:
    store = MoodyStore()
    observer = observe(store)
    await nursery.start(observer.run)
    await trio.sleep(5)
    for error in (RecoverableError("away"), ValueError("a defect")):
        store.error = error
        await trio.sleep(4)
    store.error = None
    await trio.sleep(6)
    known = [point.ready is not None for point in observer.history.points("short")]
    assert known == [True] * 2 + [False] * 4 + [True] * 3
    assert observer.lookout.error is None
    nursery.cancel_scope.cancel()


@jumping
async def test_without_a_store_only_the_process_is_seen(nursery: trio.Nursery) -> None:
    observer = observe(None)
    await nursery.start(observer.run)
    await trio.sleep(5)
    assert [point.waiting for point in observer.history.points("short")] == [None, None]
    assert observer.lookout.error == "the store is not open"
    nursery.cancel_scope.cancel()
