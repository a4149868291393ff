"""Connections over real sockets: refusals, slow readers, restarts, and peers that break every rule."""

from __future__ import annotations

import json
import random
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected

from coproc.errors import FatalError, RecoverableError
from coproc.results.client import open_connection, subscribe
from coproc.results.server import ResultsSettings, serve_results
from coproc.store.memory import MemoryStore
from tests.results.publishing import Publisher, serving
from tests.store.builders import handle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_websocket import WebSocketConnection

    from coproc.store.base import Store


async def read(websocket: WebSocketConnection) -> dict[str, object]:
    with trio.fail_after(5):
        return cast("dict[str, object]", json.loads(await websocket.get_message()))


async def read_to_end(websocket: WebSocketConnection) -> tuple[list[dict[str, object]], int]:
    """Every message until the server closes, and its code."""
    messages: list[dict[str, object]] = []
    try:
        while True:
            messages.append(await read(websocket))
    except ConnectionClosed as closed:
        return messages, closed.reason.code if closed.reason else 1006


@asynccontextmanager
async def subscribed(url: str, **wanted: object) -> AsyncGenerator[WebSocketConnection]:
    async with open_connection(url) as websocket:
        assert (await read(websocket))["type"] == "hello"
        await websocket.send_message(json.dumps({"type": "subscribe", "after_sequence": 0, **wanted}))
        assert (await read(websocket))["type"] == "subscribed"
        yield websocket


async def test_backlog_and_news_come_in_order(store: Store) -> None:
    publisher = Publisher(store)
    await publisher.publish(3)
    async with serving(store) as (url, _), open_connection(url) as websocket:
        assert await read(websocket) == {"type": "hello", "versions": [1], "latest_sequence": 3}
        await websocket.send_message('{"type":"ping"}')
        assert await read(websocket) == {"type": "pong"}
        await websocket.send_message('{"type":"subscribe","after_sequence":1}')
        assert await read(websocket) == {"type": "subscribed", "after_sequence": 1}
        await publisher.publish(2)
        assert [(await read(websocket))["sequence"] for _ in range(4)] == [2, 3, 4, 5]
        await websocket.send_message('{"type":"ping"}')
        assert await read(websocket) == {"type": "pong"}


async def test_filters_are_kept_in_backlog_and_news() -> None:
    store = MemoryStore()
    publisher = Publisher(store)
    first, second = await publisher.publish(2, b"a")
    await publisher.publish(2, b"b")
    async with (
        serving(store, ResultsSettings(ping_seconds=0.05)) as (url, _),
        subscribed(url, transaction_ids=[b"a".hex()], handles=[second.hex(), handle().hex()]) as websocket,
    ):
        assert (await read(websocket))["handle"] == second.hex()
        await publisher.publish(2, b"b")
        assert await read(websocket) == {"type": "position", "sequence": 6}
    assert first != second


@pytest.mark.parametrize(
    ("sent", "rule", "words"),
    [
        ("hello?", "INVALID_INPUT", "message: must be JSON"),
        (b"binary", "INVALID_INPUT", "message: must be text"),
        ('{"type":"subscribe"}', "INVALID_INPUT", "after_sequence"),
        ('{"type":"subscribe","after_sequence":9}', "INVALID_INPUT", "newest result here is 0"),
        ('{"type":"subscribe","after_sequence":0,"version":9}', "INVALID_INPUT", "version: must be one of 1"),
    ],
)
async def test_a_broken_rule_is_named_before_the_close(sent: str | bytes, rule: str, words: str) -> None:
    async with serving(MemoryStore()) as (url, _), open_connection(url) as websocket:
        await read(websocket)
        await websocket.send_message(sent)
        messages, code = await read_to_end(websocket)
    assert code == 1008
    assert messages[-1]["rule"] == rule
    assert words in str(messages[-1]["message"])


async def test_subscribing_twice_breaks_the_rules() -> None:
    async with serving(MemoryStore()) as (url, _), subscribed(url) as websocket:
        await websocket.send_message('{"type":"subscribe","after_sequence":0}')
        messages, code = await read_to_end(websocket)
    assert (code, messages[-1]["type"]) == (1008, "error")


async def test_a_message_that_is_too_long_ends_the_connection() -> None:
    async with serving(MemoryStore()) as (url, _), open_connection(url) as websocket:
        await read(websocket)
        await websocket.send_message("x" * 200_000)
        assert (await read_to_end(websocket))[1] == 1009


async def test_who_never_subscribes_is_sent_away() -> None:
    settings = ResultsSettings(subscribe_seconds=0.05)
    async with serving(MemoryStore(), settings) as (url, _), open_connection(url) as websocket:
        assert (await read_to_end(websocket))[1] == 1008


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("elsewhere", {}, 404),
        ("", {"Origin": "https://bad.example"}, 403),
        ("", {"Authorization": "Bearer wrong"}, 401),
        ("", {"Authorization": "Basic one"}, 401),
        ("", {"Authorization": "Bearer one"}, None),
        ("results", {"Origin": "https://good.example"}, None),
    ],
)
async def test_handshakes_are_judged(path: str, headers: dict[str, str], status: int | None) -> None:
    settings = ResultsSettings(tokens=frozenset({"one", "two"}), origins=frozenset({"https://good.example"}))
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    found = None
    async with serving(MemoryStore(), settings) as (url, _):
        try:
            async with open_connection(url + path, headers=extra) as websocket:
                assert (await read(websocket))["type"] == "hello"
        except ConnectionRejected as rejection:
            found = rejection.status_code
    assert found == status


async def test_a_token_may_come_in_the_subscription() -> None:
    settings = ResultsSettings(tokens=frozenset({"one"}))
    async with serving(MemoryStore(), settings) as (url, _):
        async with subscribed(url, token="one") as websocket:  # noqa: S106 - of this test alone
            await websocket.send_message('{"type":"ping"}')
            assert await read(websocket) == {"type": "pong"}
        for wanted in ({}, {"token": "two"}, {"token": "\ud800"}):
            async with open_connection(url) as websocket:
                await read(websocket)
                await websocket.send_message(json.dumps({"type": "subscribe", "after_sequence": 0, **wanted}))
                messages, code = await read_to_end(websocket)
            assert (code, messages[-1]["rule"]) == (1008, "UNAUTHENTICATED")


async def test_one_too_many_is_turned_away() -> None:
    async with serving(MemoryStore(), ResultsSettings(max_subscribers=1)) as (url, _):
        async with subscribed(url):
            with pytest.raises(ConnectionRejected) as rejected:
                async with open_connection(url):
                    pass
        assert rejected.value.status_code == 503


async def test_a_stop_closes_everybody_with_1012() -> None:
    store = MemoryStore()
    with trio.fail_after(2):
        async with serving(store) as (url, stopping), subscribed(url) as one, open_connection(url) as other:
            await read(other)
            stopping.set()
            assert (await read_to_end(one))[1] == 1012
            assert (await read_to_end(other))[1] == 1012


async def stalled(url: str) -> trio.SocketStream:
    """A subscriber that reads nothing after its subscription."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    await stream.send_all(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key.encode() + b"\r\n\r\n"
    )
    with trio.fail_after(5):
        answer = b""
        while b"hello" not in answer:
            answer += await stream.receive_some()
    text = b'{"type":"subscribe","after_sequence":0}'
    await stream.send_all(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    return stream


async def test_a_slow_consumer_is_cut_and_nobody_waits_for_it() -> None:
    """It finds 1013 once it reads again, and what it had read until then is a place to resume from."""
    store = MemoryStore()
    publisher = Publisher(store)
    settings = ResultsSettings(buffer_events=64, slow_seconds=60)
    async with serving(store, settings) as (url, _), subscribed(url) as healthy:
        slow = await stalled(url)
        seen = 0
        for _ in range(15):
            await publisher.publish(200)
            for _ in range(200):
                seen += 1
                assert (await read(healthy))["sequence"] == seen
        received = bytearray()
        with trio.fail_after(5):
            while chunk := await slow.receive_some():
                received += chunk
        await slow.aclose()
        last = int(received.rpartition(b'"sequence":')[2].partition(b",")[0])
        assert received[-60:].find(b"\x03\xf5reads too slowly") >= 0  # 1013 in the close frame
        assert 0 < last < seen
        async with subscribed(url, after_sequence=last) as again:
            assert [(await read(again))["sequence"] for _ in range(last, seen)] == list(range(last + 1, seen + 1))


async def test_a_consumer_that_never_reads_again_is_dropped() -> None:
    store = MemoryStore()
    publisher = Publisher(store)
    settings = ResultsSettings(buffer_events=64, slow_seconds=0.1)
    async with serving(store, settings) as (url, stopping):
        slow = await stalled(url)
        for _ in range(20):
            await publisher.publish(200)
            await trio.sleep(0.01)
        stopping.set()
        started = trio.current_time()
    assert trio.current_time() - started < 1
    await slow.aclose()


async def test_a_silent_peer_is_given_up() -> None:
    settings = ResultsSettings(ping_seconds=0.05, pong_seconds=0.05)
    async with serving(MemoryStore(), settings) as (url, _):
        peer = await stalled(url)
        with trio.fail_after(2):
            while await peer.receive_some():
                pass
        await peer.aclose()


async def test_nonsense_of_all_kinds_stays_with_its_sender() -> None:
    store = MemoryStore()
    publisher = Publisher(store)
    chance = random.Random(7)
    handshake = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with serving(store) as (url, _), subscribed(url) as healthy:
        port = int(url.rstrip("/").rpartition(":")[2])

        async def break_rules(seed: int) -> None:
            with trio.move_on_after(0.3):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                async with stream:
                    noise = random.Random(seed).randbytes(chance.choice([0, 1, 7, 300]))
                    await stream.send_all((handshake if seed % 3 else b"") + noise)
                    if seed % 2:
                        await stream.receive_some()

        for start in range(0, 120, 30):
            async with trio.open_nursery() as nursery:
                for seed in range(start, start + 30):
                    nursery.start_soon(break_rules, seed)
        await publisher.publish()
        assert (await read(healthy))["sequence"] == 1


class Lost(MemoryStore):
    """A store that is out of reach."""

    async def last_sequence(self) -> int:
        await trio.lowlevel.checkpoint()
        raise RecoverableError("gone")


class Broken(MemoryStore):
    """A store with a defect."""

    async def last_sequence(self) -> int:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError


@pytest.mark.parametrize(("store", "code"), [(Lost(), 1013), (Broken(), 1011)])
async def test_trouble_of_the_store_is_told_by_the_code(store: MemoryStore, code: int) -> None:
    async with serving(store) as (url, _), open_connection(url) as websocket:
        assert (await read_to_end(websocket))[1] == code


async def test_an_address_in_use_is_fatal() -> None:
    async with serving(MemoryStore(), ResultsSettings(reuse_port=True)) as (url, _):
        port = int(url.rstrip("/").rpartition(":")[2])
        with pytest.raises(FatalError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            await serve_results(MemoryStore(), ResultsSettings(port=port), stopping=trio.Event())
        shared = replace(ResultsSettings(port=port), reuse_port=True)
        async with serving(MemoryStore(), shared) as (other, _):
            assert other == url


async def test_localhost_is_one_port_on_every_address() -> None:
    store = MemoryStore()
    async with serving(store, ResultsSettings(host="localhost")) as (url, _), subscribe(url) as events:
        await Publisher(store).publish()
        assert (await anext(events)).sequence == 1
