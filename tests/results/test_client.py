"""A subscription outlives connections and servers, sees everything once and in order, and says why it gives up."""

from __future__ import annotations

import random
import ssl
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.config import Config
from coproc.errors import InvalidInput, RecoverableError
from coproc.results.client import SubscriptionRefused, subscribe
from coproc.results.protocol import Unauthenticated
from coproc.results.server import ResultsSettings
from coproc.store.memory import MemoryStore
from tests.fixtures.certificates import make_certificate
from tests.results.publishing import Publisher, serving

if TYPE_CHECKING:
    from pathlib import Path

    from coproc.store.base import ResultEvent, Store


class Breaker:
    """A TCP relay that cuts connections at random moments, in the middle of frames too."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.cuts = 0
        self._target = port
        self._chance = chance

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listener.socket.getsockname()[1])
        await trio.serve_listeners(self._relay, [listener])

    async def _relay(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self._target)
        budget = self._chance.randrange(200, 6000)  # the handshake passes: cut, it would cost its timeout
        async with client, server, trio.open_nursery() as nursery:

            async def pass_on(source: trio.SocketStream, sink: trio.SocketStream, most: float) -> None:
                passed = 0
                try:
                    while passed < most and (data := await source.receive_some()):
                        part = data[: int(min(len(data), most - passed))]
                        passed += len(part)
                        await sink.send_all(part)
                except trio.BrokenResourceError:
                    pass
                self.cuts += passed >= most
                nursery.cancel_scope.cancel()

            nursery.start_soon(pass_on, client, server, 1e9)
            nursery.start_soon(pass_on, server, client, budget)


async def test_who_is_cut_at_random_misses_nothing_and_sees_nothing_twice(store: Store) -> None:
    publisher = Publisher(store)
    chance = random.Random(11)
    await publisher.publish(20)
    seen: list[ResultEvent] = []
    total = 200
    async with serving(store) as (url, _), trio.open_nursery() as nursery:
        breaker = Breaker(int(url.rstrip("/").rpartition(":")[2]), chance)
        port: int = await nursery.start(breaker.run)

        async def follow() -> None:
            async with subscribe(f"ws://127.0.0.1:{port}/", attempts=None) as events:
                async for event in events:
                    seen.append(event)
                    if len(seen) == total:
                        return

        with trio.fail_after(30):
            async with trio.open_nursery() as following:
                following.start_soon(follow)
                while (missing := total - (await store.last_sequence())) > 0:
                    await publisher.publish(min(missing, chance.randrange(1, 12)))
                    await trio.sleep(chance.random() * 0.02)
        nursery.cancel_scope.cancel()
    assert seen == await publisher.everything()
    assert breaker.cuts >= 5


async def test_leaving_and_coming_back_by_number_misses_nothing() -> None:
    store = MemoryStore()
    publisher = Publisher(store)
    chance = random.Random(3)
    numbers: list[int] = []
    async with serving(store) as (url, _), trio.open_nursery() as nursery:

        async def publish() -> None:
            for _ in range(40):
                await publisher.publish(chance.randrange(1, 5))
                await trio.sleep(0.002)

        nursery.start_soon(publish)
        with trio.fail_after(20):
            while len(numbers) < 40 or numbers[-1] < await store.last_sequence():
                async with subscribe(url, after_sequence=numbers[-1] if numbers else 0) as events:
                    for _ in range(chance.randrange(1, 9)):
                        with trio.move_on_after(0.05):
                            numbers.append((await anext(events)).sequence)
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_restart_of_the_server_is_not_noticed() -> None:
    store = MemoryStore()
    publisher = Publisher(store)
    async with serving(store) as (url, first):
        port = int(url.rstrip("/").rpartition(":")[2])
        async with subscribe(url, attempts=None) as events:
            await publisher.publish(2)
            assert [(await anext(events)).sequence for _ in range(2)] == [1, 2]
            first.set()
            await publisher.publish(2)
            while True:
                try:
                    async with serving(store, ResultsSettings(port=port)):
                        await publisher.publish(2)
                        with trio.fail_after(5):
                            assert [(await anext(events)).sequence for _ in range(4)] == [3, 4, 5, 6]
                        assert events.connections == 2
                        assert events.position == 6
                        break
                except* Exception as group:
                    if "in use" not in str(group.exceptions):
                        raise
                    await trio.sleep(0.02)


async def test_a_filtered_subscription_comes_back_where_it_was() -> None:
    store = MemoryStore()
    publisher = Publisher(store)
    async with serving(store, ResultsSettings(ping_seconds=0.05)) as (url, _):
        async with subscribe(url, transaction_ids=[b"mine"]) as events:
            await publisher.publish(1, b"mine")
            await publisher.publish(5, b"other")
            (mine,) = await publisher.publish(1, b"mine")
            assert (await anext(events)).transaction_id == b"mine"
            assert (await anext(events)).handle == mine
        async with subscribe(url, handles=[mine]) as events:
            assert events.latest_sequence == 0
            assert (await anext(events)).sequence == 7
            assert events.latest_sequence == 7


async def test_a_token_opens_the_door_and_another_does_not() -> None:
    store = MemoryStore()
    publisher = Publisher(store)
    await publisher.publish()
    async with serving(store, ResultsSettings(tokens=frozenset({"one"}))) as (url, _):
        async with subscribe(url, token="one") as events:  # noqa: S106 - of this test alone
            assert (await anext(events)).sequence == 1
        for token in ("two", None):
            with pytest.raises(Unauthenticated):
                async with subscribe(url, token=token) as events:
                    await anext(events)


async def test_what_can_never_work_is_not_tried_again() -> None:
    async with serving(MemoryStore()) as (url, _):
        with pytest.raises(SubscriptionRefused, match="newest result here is 0"):
            async with subscribe(url, after_sequence=5) as events:
                await anext(events)
        with pytest.raises(SubscriptionRefused, match="404"):
            async with subscribe(f"{url}elsewhere") as events:
                await anext(events)


@pytest.mark.parametrize("url", ["", "http://127.0.0.1/", "ws:///"])
async def test_a_url_must_be_one(url: str) -> None:
    with pytest.raises(InvalidInput, match="url: must be ws://"):
        async with subscribe(url) as events:
            await anext(events)


async def test_a_server_that_is_not_there_is_given_up(autojump_clock: object) -> None:  # noqa: ARG001 - a fixture
    with pytest.raises(RecoverableError, match=r"cannot be followed: .*"):
        async with subscribe("ws://127.0.0.1:9/", attempts=2) as events:
            await anext(events)


async def test_the_callers_own_error_comes_out_as_itself() -> None:
    async with serving(MemoryStore()) as (url, _):
        with pytest.raises(KeyError, match="mine"):
            async with subscribe(url):
                raise KeyError("mine")


async def test_results_come_over_tls(tmp_path: Path) -> None:
    store = MemoryStore()
    certificate, key = make_certificate(tmp_path)
    settings = ResultsSettings(ssl_context=Config(tls_certificate=certificate, tls_key=key).server_tls())
    async with serving(store, settings) as (url, _):
        secure = url.replace("ws://", "wss://")
        with pytest.raises(RecoverableError, match="CERTIFICATE_VERIFY_FAILED"):
            async with subscribe(secure, attempts=1) as events:
                await anext(events)
        async with subscribe(secure, ssl_context=ssl.create_default_context(cafile=certificate)) as events:
            await Publisher(store).publish()
            assert (await anext(events)).sequence == 1
