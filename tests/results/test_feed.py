"""One reading for all: who hears what, who is cut, and what happens while the store is away. On a mock clock."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from coproc.errors import RecoverableError
from coproc.results.feed import HEARD_SECONDS, Closing, Feed, Outbox, Subscriber
from coproc.results.protocol import CloseCode, Filter, Position, read_server_message
from coproc.store.memory import MemoryStore
from tests.results.publishing import Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from coproc.store.base import ResultEvent, Topic

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Watched(MemoryStore):
    """A memory store that counts readings, and can be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0
        self.listeners = 0
        self.away = False
        self.tells = False
        """Whether results are this process's own."""

    def _tell(self, events: Sequence[ResultEvent]) -> None:
        if self.tells:
            super()._tell(events)

    async def results_after(
        self, sequence: int, limit: int, transaction_ids: Sequence[bytes] | None = None
    ) -> Sequence[ResultEvent]:
        self.readings += 1
        if self.away:
            raise RecoverableError("the store is away")
        return await super().results_after(sequence, limit, transaction_ids)

    @asynccontextmanager
    async def wakeups(self) -> AsyncGenerator[trio.MemoryReceiveChannel[Topic]]:
        self.listeners += 1
        async with super().wakeups() as channel:
            yield channel


def subscriber(capacity: int = 1000, **wanted: frozenset[bytes]) -> Subscriber:
    return Subscriber(Filter(**wanted), Outbox(capacity, grace=5), 0)  # type: ignore[arg-type]


async def heard(listener: Subscriber) -> list[int]:
    """Sequence numbers that wait in the box."""
    await wait_all_tasks_blocked()
    numbers: list[int] = []
    with suppress(trio.WouldBlock):
        while True:
            numbers.append(listener.outbox._receive.receive_nowait()[0])
    return numbers


async def test_all_share_one_listener_and_one_reading(nursery: trio.Nursery) -> None:
    store = Watched()
    feed = Feed(store, poll_seconds=1000)
    nursery.start_soon(feed.run)
    listeners = [subscriber() for _ in range(50)]
    publisher = Publisher(store)
    await publisher.publish()
    attached = [feed.attached(listener, 1) for listener in listeners]
    for entry in attached:
        entry.__enter__()
    await wait_all_tasks_blocked()  # the wake-up of the first result is over
    before = store.readings
    await publisher.publish(3)
    assert [await heard(listener) for listener in listeners] == [[2, 3, 4]] * 50
    assert store.readings == before + 3  # a wake-up a result, not one a subscriber
    assert store.listeners == 1
    for entry in attached:
        entry.__exit__(None, None, None)
    before = store.readings
    await publisher.publish(3)
    await wait_all_tasks_blocked()
    assert (feed.subscribers, store.readings) == (0, before)
    nursery.cancel_scope.cancel()


async def test_everybody_hears_what_it_asked_for(nursery: trio.Nursery) -> None:
    store = MemoryStore()
    feed = Feed(store, poll_seconds=1000)
    nursery.start_soon(feed.run)
    publisher = Publisher(store)
    both = subscriber(transaction_ids=frozenset({b"a", b"b"}))
    only_a, everything = subscriber(transaction_ids=frozenset({b"a"})), subscriber()
    with feed.attached(both, 0), feed.attached(only_a, 0), feed.attached(everything, 0):
        for name in (b"a", b"b", b"c", b"a"):
            await publisher.publish(transaction=name)
            await wait_all_tasks_blocked()
        feed.tell_position(only_a)
        feed.tell_position(both)
        feed.tell_position(everything)
        assert await heard(everything) == [1, 2, 3, 4]
        assert await heard(both) == [1, 2, 4]
        assert await heard(only_a) == [1, 4]
        await publisher.publish(transaction=b"c")
        await wait_all_tasks_blocked()
        feed.tell_position(only_a)
        feed.tell_position(only_a)
        _, text = await only_a.outbox.next()
        assert read_server_message(text) == Position(5)
        assert await heard(only_a) == []
    nursery.cancel_scope.cancel()


async def test_who_does_not_keep_up_is_cut_and_nobody_else(nursery: trio.Nursery) -> None:
    store = MemoryStore()
    feed = Feed(store, poll_seconds=1000)
    nursery.start_soon(feed.run)
    slow, healthy = subscriber(capacity=4), subscriber()
    with feed.attached(slow, 0), feed.attached(healthy, 0):
        await Publisher(store).publish(10)
        await trio.sleep(2)
        assert await heard(healthy) == list(range(1, 11))
        assert slow.outbox.verdict is not None
        assert slow.outbox.verdict.code is CloseCode.TRY_AGAIN
        with pytest.raises(Closing):
            await slow.outbox.next()
    nursery.cancel_scope.cancel()


async def test_a_burst_waits_for_who_reads_and_cuts_who_does_not(nursery: trio.Nursery) -> None:
    store = MemoryStore()
    feed = Feed(store, poll_seconds=1000, read_at_once=4)
    nursery.start_soon(feed.run)
    stuck, reader = subscriber(capacity=8), subscriber(capacity=8)
    numbers: list[int] = []
    with feed.attached(stuck, 0), feed.attached(reader, 0):
        await wait_all_tasks_blocked()
        started = trio.current_time()
        await Publisher(store).publish(100)
        while len(numbers) < 100:
            await trio.sleep(0.1)
            numbers.append((await reader.outbox.next())[0])
        assert numbers == list(range(1, 101))
        assert stuck.outbox.verdict is not None
        assert reader.outbox.verdict is None
        assert trio.current_time() - started < 15
    nursery.cancel_scope.cancel()


async def test_a_store_that_was_away_is_caught_up_with(nursery: trio.Nursery) -> None:
    store = Watched()
    feed = Feed(store, poll_seconds=2)
    nursery.start_soon(feed.run)
    listener = subscriber()
    publisher = Publisher(store)
    with feed.attached(listener, 0):
        store.away = True
        await publisher.publish(2)
        await wait_all_tasks_blocked()
        assert not feed.connected
        await publisher.publish(2)
        assert await heard(listener) == []
        store.away = False
        await trio.sleep(2)
        assert feed.connected
        assert await heard(listener) == [1, 2, 3, 4]
    nursery.cancel_scope.cancel()


async def test_results_are_found_without_wakeups(nursery: trio.Nursery) -> None:
    store = Watched()
    feed = Feed(store, poll_seconds=2)
    nursery.start_soon(feed.run)
    listener = subscriber()
    with feed.attached(listener, 0):
        await wait_all_tasks_blocked()
        store._subscribers.clear()
        await Publisher(store).publish()
        assert await heard(listener) == []
        await trio.sleep(2.5)
        assert await heard(listener) == [1]
    nursery.cancel_scope.cancel()


async def test_closing_ends_waits_at_once_and_sending_after_a_grace() -> None:
    outbox = Outbox(1, grace=5)
    started = trio.current_time()
    ends = dict[str, float]()

    async def wait() -> None:
        with pytest.raises(Closing):
            await outbox.next()
        ends["wait"] = trio.current_time() - started

    async def send() -> None:
        with outbox.deadline:
            await trio.sleep_forever()
        ends["send"] = trio.current_time() - started

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(send)
        await trio.sleep(1)
        outbox.close(CloseCode.RESTART, "first")
        outbox.close(CloseCode.POLICY, "second")
    assert ends == {"wait": 1, "send": 6}
    assert outbox.verdict is not None
    assert outbox.verdict.reason == "first"


@asynccontextmanager
async def told(store: Watched, listener: Subscriber, **settings: int) -> AsyncGenerator[tuple[Feed, Publisher]]:
    """Attach a listener to a feed whose process stores results itself."""
    feed = Feed(store, **{"poll_seconds": 1000, **settings})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        with feed.attached(listener, 0):
            await wait_all_tasks_blocked()
            store.tells = True
            yield feed, Publisher(store)
        nursery.cancel_scope.cancel()


async def test_what_the_process_stores_itself_is_told_without_reading() -> None:
    store, listener = Watched(), subscriber()
    async with told(store, listener) as (feed, publisher):
        store._subscribers.clear()
        before = store.readings
        await publisher.publish(3)
        assert await heard(listener) == [1, 2, 3]
        assert feed.position == 3
        assert store.readings == before


async def test_what_others_stored_before_is_read_first() -> None:
    """What the process stores itself is no news then: it comes with the reading, and once."""
    store, listener = Watched(), subscriber()
    async with told(store, listener, poll_seconds=2) as (_, publisher):
        store._subscribers.clear()
        store.tells = False
        await publisher.publish()
        store.tells = True
        await publisher.publish()
        assert await heard(listener) == []
        await trio.sleep(2.5)
        assert await heard(listener) == [1, 2]
        await publisher.publish()
        assert await heard(listener) == [3]


async def test_what_is_told_while_it_is_read_comes_once() -> None:
    """Wake-ups come as well, and the feed reads the same."""
    listener = subscriber()
    async with told(Watched(), listener) as (_, publisher):
        await publisher.publish(2)
        assert await heard(listener) == [1, 2]
        await publisher.publish(2)
        assert await heard(listener) == [3, 4]


async def test_what_was_told_is_read_again_a_moment_later() -> None:
    """With what another process has stored meanwhile."""
    store, listener = Watched(), subscriber()
    async with told(store, listener) as (_, publisher):
        before = store.readings
        for _ in range(5):
            await publisher.publish()
        store.tells = False
        await publisher.publish()
        assert await heard(listener) == [1, 2, 3, 4, 5]
        assert store.readings == before
        await trio.sleep(1.1 * HEARD_SECONDS)
        assert await heard(listener) == [6]
        began = trio.current_time()
        await publisher.publish()
        assert await heard(listener) == [7]
        assert trio.current_time() == began, "nothing was told just before"


async def test_whoever_is_behind_is_waited_for_and_not_told() -> None:
    slow = subscriber(capacity=6)
    async with told(Watched(), slow, read_at_once=3) as (feed, publisher):
        await publisher.publish(2)
        await publisher.publish(2)
        assert slow.outbox.is_crowded
        await publisher.publish(2)
        assert feed.position == 4
        assert await heard(slow) == [1, 2, 3, 4]
        await trio.sleep(0.5)
        assert await heard(slow) == [5, 6]
        assert slow.outbox.verdict is None
