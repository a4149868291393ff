"""Broken frames to a real service: HTTP/2, gRPC messages and websockets, over sockets.

Decides what goes over the wire and what an answer may be: a status with a reason, or the end of the connection; never
INTERNAL or UNKNOWN, never silence where an answer is due. The service must be as well afterwards as before.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import h2.config
import h2.connection
import h2.events
import trio

from coproc.results.protocol import Subscribe, write
from tests.chaos.cluster import ChaosFailure
from tests.chaos.fuzz import requests, spoil

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

SERVICE: Final = "/coproc.v1.CoprocessorService/"
ANSWER_SECONDS: Final = 240.0
"""After this long without an answer to a whole call it is a hang, however slow the machine."""
LINES: Final = 8
"""Connections at once."""
INTERNAL: Final = frozenset({"2", "13"})
"""UNKNOWN and INTERNAL: what no input may lead to."""
ENDLESS: Final = frozenset({"StreamResults", "RegisterKey"})
"""Calls that wait for more, and therefore for their deadline."""
STREAMS_A_CONNECTION: Final = 200
HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(slots=True)
class Work:
    """How many inputs are still to be sent, and what came back."""

    left: int
    said: Counter[str]

    def take(self, count: int) -> int:
        """Take some of what is left."""
        taken = min(count, self.left)
        self.left -= taken
        return taken


async def on_many_lines(count: int, line: Callable[[Work], Awaitable[None]]) -> Counter[str]:
    """Share ``count`` inputs between several connections."""
    work = Work(count, Counter())
    async with trio.open_nursery() as nursery:
        for _ in range(LINES):
            nursery.start_soon(line, work)
    return work.said


def _client() -> h2.connection.H2Connection:
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_inbound_headers=False)
    )
    connection.initiate_connection()
    return connection


def _headers(method: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", SERVICE + method),
        (":authority", "x"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", "500m" if method in ENDLESS else "60S"),
    ]


# ----------------------------------------------------------------------------------------- whole calls


async def calls(port: int, key_id: bytes, ciphertext: bytes, chance: Random, count: int) -> Counter[str]:
    """Well-formed HTTP/2 with broken gRPC messages: each call must be answered by a status that says why."""
    made = {name: bodies for name, (_, bodies) in requests(key_id, ciphertext, chance).items()}
    names = sorted(made)

    def body() -> tuple[str, bytes]:
        name = chance.choice(names)
        message = chance.choice(made[name])
        if chance.random() < 0.95:
            message = spoil(message, chance)
        data = struct.pack(">BI", 0, len(message)) + message
        return name, spoil(data, chance) if chance.random() < 0.2 else data

    async def line(work: Work) -> None:
        while taken := work.take(STREAMS_A_CONNECTION):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                connection = _client()
                for number in range(taken):
                    name, data = body()
                    status = ""
                    with trio.move_on_after(ANSWER_SECONDS) as patience:
                        status = await _call(stream, connection, name, data)
                        work.said[f"status {status}"] += 1
                        if status in INTERNAL:
                            raise ChaosFailure(f"{name} with {data.hex()} is answered by status {status}")
                    if patience.cancelled_caught:
                        raise ChaosFailure(f"{name} with {data.hex()} is not answered")
                    if status == "closed":
                        work.left += taken - number - 1
                        break

    return await on_many_lines(count, line)


async def _call(stream: trio.SocketStream, connection: h2.connection.H2Connection, name: str, data: bytes) -> str:  # noqa: C901 - one case an event
    """Make one call; returns its status, ``reset`` or ``closed``."""
    number = connection.get_next_available_stream_id()
    connection.send_headers(number, _headers(name))
    connection.send_data(number, data, end_stream=True)
    try:
        await stream.send_all(connection.data_to_send())
        while True:
            received = await stream.receive_some()
            if not received:
                return "closed"
            for event in connection.receive_data(received):
                if isinstance(event, h2.events.DataReceived):
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                    found = {str(field): str(value) for field, value in event.headers}
                    if event.stream_id == number and "grpc-status" in found:
                        return found["grpc-status"]
                elif isinstance(event, h2.events.StreamReset) and event.stream_id == number:
                    return "reset"
                elif isinstance(event, h2.events.ConnectionTerminated):
                    return "closed"
            if pending := connection.data_to_send():
                await stream.send_all(pending)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return "closed"


# ---------------------------------------------------------------------------------------------- frames


def _frames(data: bytes) -> list[bytes]:
    """Cut what h2 sends, without its preface, into frames."""
    cut: list[bytes] = []
    while len(data) >= 9:
        size = 9 + int.from_bytes(data[:3], "big")
        cut.append(data[:size])
        data = data[size:]
    return cut


def _strange_frame(chance: Random) -> bytes:
    payload = chance.randbytes(chance.choice([0, 1, 4, 5, 6, 8, 64, 1000]))
    size = len(payload) if chance.random() < 0.8 else chance.randrange(1 << 24)
    number = chance.choice([0, 1, 2, 3, 101, (1 << 31) - 1, 1 << 31])
    return (
        size.to_bytes(3, "big")
        + bytes([chance.randrange(14), chance.randrange(256)])
        + number.to_bytes(4, "big")
        + payload
    )


async def frames(port: int, key_id: bytes, ciphertext: bytes, chance: Random, count: int) -> Counter[str]:
    """Broken HTTP/2: the connection may be ended, and only that."""
    made = [(name, body) for name, (_, bodies) in requests(key_id, ciphertext, chance).items() for body in bodies]

    def conversation() -> tuple[list[bytes], int]:
        connection = _client()
        preface = connection.data_to_send()
        opening = len(preface) - sum(map(len, _frames(preface[24:])))
        for _ in range(chance.randrange(1, 6)):
            name, message = chance.choice(made)
            number = connection.get_next_available_stream_id()
            connection.send_headers(number, _headers(name))
            connection.send_data(
                number, struct.pack(">BI", 0, len(message)) + message, end_stream=chance.random() < 0.8
            )
        parts = [*_frames(preface[24:]), *_frames(connection.data_to_send())]
        broken = 0
        for at in sorted(chance.sample(range(len(parts)), chance.randrange(1, len(parts))), reverse=True):
            match chance.randrange(5):
                case 0:
                    parts[at] = spoil(parts[at], chance)
                case 1:
                    parts.insert(at, _strange_frame(chance))
                case 2:
                    parts.insert(at, parts[at])
                case 3:
                    del parts[at]
                case _:
                    other = chance.randrange(len(parts))
                    parts[at], parts[other] = parts[other], parts[at]
            broken += 1
        start = preface[:opening]
        return [start if chance.random() < 0.97 else spoil(start, chance), *parts], broken

    return await on_many_lines(count, partial(_throw, port, conversation))


async def _throw(port: int, conversation: Callable[[], tuple[list[bytes], int]], work: Work) -> None:
    """Send broken conversations, each on a connection of its own, and see whether the other side hangs up."""
    while work.left > 0:
        parts, broken = conversation()
        work.take(broken)
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"".join(parts))
                with trio.move_on_after(0.02) as patience:
                    while await stream.receive_some():
                        pass
                work.said["left open" if patience.cancelled_caught else "closed"] += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            work.said["cut off"] += 1
        except OSError as error:
            raise ChaosFailure(f"the service does not answer any more: {error}") from error


# ------------------------------------------------------------------------------------------ websockets


def _frame(opcode: int, payload: bytes, mask: bytes, *, final: bool = True) -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([(0x80 if final else 0) | opcode]) + length + mask + masked


async def websockets(port: int, chance: Random, count: int) -> Counter[str]:
    """Broken handshakes, frames and messages."""
    texts = [write(Subscribe(0)).encode(), write(Subscribe(3, (b"abc",))).encode(), b'{"type": "ping"}', b"[" * 3000]

    def conversation() -> tuple[list[bytes], int]:
        parts = [HANDSHAKE if chance.random() < 0.9 else spoil(HANDSHAKE, chance)]
        if chance.random() < 0.5:
            parts.append(_frame(1, texts[0], chance.randbytes(4)))
        count = chance.randrange(1, 6)
        for _ in range(count):
            text = chance.choice(texts)
            opcode = chance.choice([1, 1, 1, 2, 0, 8, 9, 10, 3, 15])
            payload = spoil(text, chance) if chance.random() < 0.7 else text
            frame = _frame(opcode, payload, chance.randbytes(4), final=chance.random() < 0.9)
            parts.append(spoil(frame, chance) if chance.random() < 0.4 else frame)
        return parts, count

    return await on_many_lines(count, partial(_throw, port, conversation))
