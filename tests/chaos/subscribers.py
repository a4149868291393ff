"""Those who follow results: faithful ones, whose record must be whole, and bad ones, who must harm nobody.

Decides what each does with its connection and what it writes down. What a whole record is, ``invariants`` decides.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed, HandshakeError

from coproc.results.client import open_connection, subscribe
from coproc.results.protocol import Hello, Subscribe, read_server_message, write
from coproc.store.base import ResultEvent
from nurseries.bridge import open_client
from tests.chaos.cluster import ChaosFailure

if TYPE_CHECKING:
    import random

    from coproc.program.types import Handle


@dataclass(slots=True)
class Record:
    """What one subscriber has seen, in the order in which it came."""

    name: str
    seen: list[tuple[int, bytes, Handle, str]] = field(default_factory=list[tuple[int, bytes, "Handle", str]])
    connections: int = 0

    @property
    def position(self) -> int:
        """The number of the last result."""
        return self.seen[-1][0] if self.seen else 0

    def note(self, event: ResultEvent) -> None:
        """Write a result down."""
        self.seen.append((event.sequence, event.transaction_id, event.handle, event.state.name))


async def follow_websocket(url: str, record: Record) -> None:
    """Follow everything from the first result on, through whatever happens."""
    async with subscribe(url, attempts=None) as events:
        async for event in events:
            record.note(event)
            record.connections = events.connections


async def follow_grpc(port: int, record: Record) -> None:
    """Follow everything by StreamResults of our own client."""
    async with open_client("127.0.0.1", port) as client, client.results() as results:
        async for result in results:
            record.seen.append((result.sequence, result.transaction_id, result.handle, result.state.value))


async def vanish(url: str, record: Record, chance: random.Random) -> None:
    """Follow for a few results, vanish without a word, and come back after the last one seen."""
    while True:
        try:
            async with open_connection(url) as websocket:
                record.connections += 1
                if not isinstance(read_server_message(await websocket.get_message()), Hello):
                    raise ChaosFailure("the first message must be hello")
                await websocket.send_message(write(Subscribe(record.position)))
                left = chance.randrange(1, 30)
                while left:
                    message = read_server_message(await websocket.get_message())
                    if isinstance(message, ResultEvent):
                        record.note(message)
                        left -= 1
                await trio.aclose_forcefully(websocket._stream)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass
        except (ConnectionClosed, HandshakeError):
            pass
        await trio.sleep(chance.random())


async def follow_slowly(url: str, record: Record, chance: random.Random) -> None:
    """Follow everything, but take a rest in between; being cut is part of the deal, missing something is not."""
    async with subscribe(url, attempts=None) as events:
        async for event in events:
            record.note(event)
            record.connections = events.connections
            if chance.random() < 0.05:
                await trio.sleep(chance.random() * 3)


async def never_read(port: int) -> None:
    """Subscribe and never read a byte, with as little room in the kernel as it gives; again when cut."""
    request = (
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    text = write(Subscribe(0)).encode()
    mask = bytes(4)  # a mask of zeros masks nothing
    frame = bytes([0x81, 0x80 | len(text)]) + mask + text
    while True:
        line = trio.socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        try:
            await line.connect(("127.0.0.1", port))
            await line.send(request.encode() + frame)
            with trio.move_on_after(20):
                while True:  # writing tells when the connection is gone, without reading
                    await trio.sleep(0.5)
                    await line.send(b"\x8a\x80" + mask)  # an unasked-for pong
        except OSError:
            await trio.sleep(1)
        finally:
            line.close()
