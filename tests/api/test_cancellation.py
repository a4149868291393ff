"""A call that its client gives up is given up by the server, and nothing of it stays behind."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.api.generated.coproc.v1 import KeyHeader, RegisterKeyRequest
from coproc.api.limits import Limits
from coproc.api.status import DeadlineExceeded
from coproc.client import Transaction
from coproc.errors import Overloaded
from coproc.store.memory_overview import ViewedMemoryStore
from nurseries.bridge import open_client
from tests.api.serving import handle, serving, toy_key, toy_server_key, with_limits
from tests.api.test_limits import REGISTER, framed, raw

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

    from coproc.program.types import Handle
    from coproc.store.base import ComputationStatus, KeyRecord, Topic


class SlowStore(ViewedMemoryStore):
    """A store whose status never comes, and which notes what became of the question."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = trio.Event()
        self.cancelled = trio.Event()
        self.watching = 0

    async def get_status(self, handles: Sequence[Handle]) -> Mapping[Handle, ComputationStatus]:
        assert handles
        self.asked.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise

    @asynccontextmanager
    async def wakeups(self) -> AsyncGenerator[trio.MemoryReceiveChannel[Topic]]:
        self.watching += 1
        try:
            async with super().wakeups() as channel:
                yield channel
        finally:
            self.watching -= 1


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something that nobody announces has happened."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.005)


async def test_a_client_that_cancels_cancels_the_handler() -> None:
    store = SlowStore()
    async with serving(store=store) as server, open_client("127.0.0.1", server.port) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.status, [handle()])
            await store.asked.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await store.cancelled.wait()


async def test_a_deadline_cancels_the_handler() -> None:
    store = SlowStore()
    async with serving(store=store) as server, open_client("127.0.0.1", server.port, timeout=0.2) as client:
        with pytest.raises(DeadlineExceeded), trio.fail_after(5):
            await client.status([handle()])
        with trio.fail_after(5):
            await store.cancelled.wait()


async def test_the_server_bounds_calls_that_have_no_deadline() -> None:
    store = SlowStore()
    async with serving(with_limits(Limits(max_call_seconds=0.2)), store=store) as server:
        async with open_client("127.0.0.1", server.port, timeout=60.0) as client:
            with pytest.raises(DeadlineExceeded), trio.fail_after(5):
                await client.status([handle()])
        with trio.fail_after(5):
            await store.cancelled.wait()


async def test_a_connection_that_breaks_cancels_the_handler() -> None:
    store = SlowStore()
    async with serving(store=store) as server:
        client = await raw(server.port)
        stream_id = await client.begin("/coproc.v1.CoprocessorService/GetStatus")
        await client.send(stream_id, framed(b"\x0a\x20" + handle()))
        await store.asked.wait()
        await client.stream.aclose()
        with trio.fail_after(5):
            await store.cancelled.wait()


async def test_a_subscription_that_ends_stops_watching() -> None:
    store = SlowStore()
    async with serving(store=store) as server, open_client("127.0.0.1", server.port) as client:
        key_id = await client.register_key(toy_server_key())
        name = handle()
        await client.upload(key_id, {name: toy_key().encrypt(1, 8, signed=False, seeded=True)})
        transaction = Transaction(key_id)
        transaction.add(name, name, allow=True)
        await client.submit(transaction)
        await server.complete_everything()
        async with client.results() as results:
            await anext(results)
            assert store.watching == 1
        await until(lambda: store.watching == 0)


async def test_a_key_that_stops_coming_makes_room_for_the_next() -> None:
    data = toy_server_key()
    announced = bytes(RegisterKeyRequest(header=KeyHeader(size=len(data), sha256=hashlib.sha256(data).digest())))
    settings = with_limits(Limits(max_registrations=1, idle_seconds=0.3))
    async with serving(settings) as server:
        stalled = await raw(server.port)
        stream_id = await stalled.begin(REGISTER)
        await stalled.send(stream_id, framed(announced), end=False)
        async with open_client("127.0.0.1", server.port, attempts=1) as client:
            await trio.sleep(0.05)
            with pytest.raises(Overloaded, match="other keys are being received"):
                await client.register_key(data)
        answer = await stalled.answer(stream_id)
        assert answer.status == "4"
        await stalled.stream.aclose()
        async with open_client("127.0.0.1", server.port, attempts=1) as client:
            assert await client.register_key(data) == hashlib.sha256(data).digest()


async def test_a_cancelled_registration_leaves_no_key() -> None:
    class StuckStore(ViewedMemoryStore):
        """A store that gets stuck in the middle of a key."""

        def __init__(self) -> None:
            super().__init__()
            self.reached = trio.Event()

        async def put_key(self, record: KeyRecord, data: AsyncIterator[bytes]) -> bool:
            async for _ in data:
                self.reached.set()
                await trio.sleep_forever()
            return await super().put_key(record, data)

    store = StuckStore()
    async with serving(store=store) as server, open_client("127.0.0.1", server.port) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.register_key, toy_server_key())
            with trio.fail_after(10):
                await store.reached.wait()
            nursery.cancel_scope.cancel()
        assert await store.get_key(hashlib.sha256(toy_server_key()).digest()) is None


async def test_cancelling_the_listener_ends_everything_at_once() -> None:
    store = SlowStore()
    with trio.fail_after(5):
        async with serving(store=store) as server:
            client = await raw(server.port)
            stream_id = await client.begin("/coproc.v1.CoprocessorService/GetStatus")
            await client.send(stream_id, framed(b"\x0a\x20" + handle()))
            await store.asked.wait()
        assert store.cancelled.is_set()
        await client.stream.aclose()
