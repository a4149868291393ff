"""The server survives clients that ask for too much or speak nonsense."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random

import pytest
import trio
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes

from coproc.api.generated.coproc.v1 import GetServerInfoRequest, GetServerInfoResponse
from coproc.api.limits import Limits
from coproc.client import State, Transaction
from coproc.errors import InvalidInput, Overloaded
from coproc.program.types import FheType
from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.client.compact_list import ClearValue, encrypt_list
from nurseries.bridge import open_client
from tests.api.serving import handle, serving, toy_key, toy_server_key, with_limits

INFO = "/coproc.v1.CoprocessorService/GetServerInfo"
REGISTER = "/coproc.v1.CoprocessorService/RegisterKey"


@dataclass
class Answer:
    """What came back on one stream."""

    status: str | None = None
    message: str = ""
    data: bytes = b""
    reset: bool = False


class RawClient:
    """An HTTP/2 client that sends exactly what it is told."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        self.closed = False

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def begin(self, path: str = INFO, *more: tuple[str, str]) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *more,
        ]
        self.h2.send_headers(stream_id, headers)
        await self.flush()
        return stream_id

    async def send(self, stream_id: int, data: bytes, *, end: bool = True) -> None:
        self.h2.send_data(stream_id, data, end_stream=end)
        await self.flush()

    async def events(self) -> list[Event]:
        data = await self.stream.receive_some()
        if not data:
            self.closed = True
            return []
        events = self.h2.receive_data(data)
        await self.flush()
        return events

    async def answer(self, stream_id: int) -> Answer:
        answer = Answer()
        with trio.fail_after(5):
            while not self.closed:
                for event in await self.events():
                    if isinstance(event, ResponseReceived | TrailersReceived) and event.stream_id == stream_id:
                        fields = {name.decode(): value.decode() for name, value in event.headers or []}
                        answer.status = fields.get("grpc-status", answer.status)
                        answer.message = fields.get("grpc-message", answer.message)
                    elif isinstance(event, DataReceived) and event.stream_id == stream_id:
                        answer.data += event.data
                    elif isinstance(event, StreamEnded) and event.stream_id == stream_id:
                        return answer
                    elif isinstance(event, StreamReset) and event.stream_id == stream_id:
                        answer.reset = True
                        return answer
        return answer


async def raw(port: int) -> RawClient:
    client = RawClient(await trio.open_tcp_stream("127.0.0.1", port))
    await client.flush()
    return client


def framed(message: bytes, *, compressed: int = 0, size: int | None = None) -> bytes:
    return struct.pack(">BI", compressed, len(message) if size is None else size) + message


async def assert_alive(port: int) -> None:
    async with open_client("127.0.0.1", port, attempts=1) as client:
        assert (await client.server_info()).software_version == "1.2.3"


async def test_a_plain_call_works_by_hand() -> None:
    async with serving() as server:
        client = await raw(server.port)
        stream_id = await client.begin()
        await client.send(stream_id, framed(bytes(GetServerInfoRequest(api_version="1.0"))))
        answer = await client.answer(stream_id)
        await client.stream.aclose()
    assert answer.status == "0"
    assert GetServerInfoResponse.FromString(answer.data[5:]).plan_version == 7


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (framed(b"", size=1 << 31), "8", "a message of 2147483648 bytes is over the limit of 33554432"),
        (framed(b"x", compressed=1), "12", "compressed messages are not supported"),
        (framed(b"abc", size=10), "3", "message: is cut short"),
        (b"\x00\x00", "3", "message: is cut short"),
        (framed(b"", size=17), "3", "message: is cut short"),
        (b"", "3", "request: must be one message, none came"),
        (framed(b"\x0a\x05ab"), "3", "api_version: says 5 bytes where 2 are left"),
        (framed(b"\x0a\x011"), "3", 'api_version: must be "major.minor", for example "1.0"'),
        (framed(b"\x0a\x033.0"), "9", "API version 3.0 is not supported; this server supports 1.0"),
    ],
)
async def test_bad_bodies_are_answered(body: bytes, status: str, message: str) -> None:
    async with serving() as server:
        client = await raw(server.port)
        stream_id = await client.begin()
        await client.send(stream_id, body)
        answer = await client.answer(stream_id)
        await client.stream.aclose()
        await assert_alive(server.port)
    assert (answer.status, answer.message) == (status, message)


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/coproc.v1.CoprocessorService/Nothing", (), "12"),
        ("nonsense", (), "12"),
        (INFO, (("x-bin", "a"),), "3"),
        (INFO, (("coproc-api-version", "7.0"),), "9"),
        (INFO, (("coproc-api-version", "seven"),), "3"),
        (INFO, (("grpc-timeout", "99999999H"),), "0"),
    ],
)
async def test_odd_headers_are_answered(path: str, more: tuple[tuple[str, str], ...], status: str) -> None:
    async with serving() as server:
        client = await raw(server.port)
        stream_id = await client.begin(path, *more)
        await client.send(stream_id, framed(b""))
        answer = await client.answer(stream_id)
        await client.stream.aclose()
        await assert_alive(server.port)
    assert answer.status == status


async def test_an_unknown_frame_is_ignored() -> None:
    async with serving() as server:
        client = await raw(server.port)
        await client.stream.send_all(b"\x00\x00\x04\x40\x00\x00\x00\x00\x00abcd")
        stream_id = await client.begin()
        await client.send(stream_id, framed(b""))
        assert (await client.answer(stream_id)).status == "0"
        await client.stream.aclose()


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(100), b"\xff" * 5000])
async def test_noise_costs_only_its_own_connection(noise: bytes) -> None:
    async with serving() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(noise)
        with trio.fail_after(5):
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
        await stream.aclose()
        await assert_alive(server.port)


async def test_header_bytes_that_are_no_text_cost_only_their_own_connection() -> None:
    async with serving() as server:
        client = await raw(server.port)
        client.h2.config.validate_outbound_headers = False
        client.h2.config.header_encoding = "utf-8"
        await client.begin(INFO, ("x-name", "\u20ac"))
        with trio.move_on_after(1):
            while not client.closed:
                await client.events()
        await client.stream.aclose()
        await assert_alive(server.port)


async def test_calls_in_flight_are_bounded() -> None:
    async with serving(with_limits(Limits(max_calls=2))) as server:
        client = await raw(server.port)
        held = [await client.begin(REGISTER) for _ in range(2)]
        refused = await client.begin()
        await client.send(refused, framed(b""))
        answer = await client.answer(refused)
        assert (answer.status, answer.message) == ("8", "too many calls are in flight; try again")
        for stream_id in held:
            client.h2.reset_stream(stream_id)
        await client.flush()
        with trio.fail_after(5):
            while answer.status != "0":
                again = await client.begin()
                await client.send(again, framed(b""))
                answer = await client.answer(again)
        await client.stream.aclose()


async def test_request_bytes_in_memory_are_bounded() -> None:
    async with serving(with_limits(Limits(max_buffered_bytes=1000))) as server:
        client = await raw(server.port)
        first, second = await client.begin(), await client.begin()
        await client.send(first, framed(b"", size=900), end=False)
        await client.send(second, framed(b"", size=200), end=False)
        answer = await client.answer(second)
        assert (answer.status, answer.message) == ("8", "too many request bytes are in memory; try again")
        client.h2.reset_stream(first)
        await client.flush()
        await client.stream.aclose()
        await assert_alive(server.port)


async def test_connections_are_bounded() -> None:
    async with serving(with_limits(Limits(max_connections=1))) as server:
        first = await raw(server.port)
        stream_id = await first.begin()
        second = await raw(server.port)
        with trio.fail_after(5):
            while not second.closed:
                try:
                    await second.events()
                except trio.BrokenResourceError:
                    break
        await first.send(stream_id, framed(b""))
        assert (await first.answer(stream_id)).status == "0"
        await first.stream.aclose()
        await second.stream.aclose()


async def test_streams_of_one_connection_are_bounded() -> None:
    async with serving() as server:
        client = await raw(server.port)
        with trio.fail_after(5):
            while SettingCodes.MAX_CONCURRENT_STREAMS not in client.h2.remote_settings:
                await client.events()
        assert client.h2.remote_settings.max_concurrent_streams == 100
        await client.stream.aclose()


async def test_more_handles_than_one_request_takes_are_asked_in_parts() -> None:
    async with serving() as server, open_client("127.0.0.1", server.port) as client:
        states = await client.status([handle() for _ in range(600)])
    assert {state.state for state in states} == {State.UNKNOWN}
    assert len(states) == 600


async def test_a_connection_that_shows_no_life_is_closed_and_a_quiet_one_is_not() -> None:
    async with serving(with_limits(Limits(keepalive_seconds=0.2))) as server:
        dead = await trio.open_tcp_stream("127.0.0.1", server.port)
        quiet = await raw(server.port)
        async with trio.open_nursery() as nursery:

            async def answer_pings() -> None:
                while not quiet.closed:
                    await quiet.events()

            nursery.start_soon(answer_pings)
            with trio.fail_after(5):
                while await dead.receive_some():
                    pass
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        stream_id = await quiet.begin()
        await quiet.send(stream_id, framed(b""))
        assert (await quiet.answer(stream_id)).status == "0"
        await quiet.stream.aclose()
        await dead.aclose()


async def test_a_chain_that_is_too_deep_or_too_dear_is_refused_before_it_is_written() -> None:
    limits = Limits(max_graph_depth=3, max_bootstraps_per_request=2_000)
    async with serving(with_limits(limits)) as server, open_client("127.0.0.1", server.port) as client:
        key_id = await client.register_key(toy_server_key())
        deep = Transaction(key_id)
        value = handle()
        for _ in range(4):
            value = deep.add(value, 1)
        with pytest.raises(InvalidInput, match="4 deep, at most 3"):
            await client.submit(deep)
        dear = Transaction(key_id)
        dear.div(handle(FheType.UINT64), handle(FheType.UINT64), allow=True)
        with pytest.raises(InvalidInput, match="up to 5504 bootstraps, at most 2000") as refusal:
            await client.submit(dear)
        assert refusal.value.field == "computations"
        fits = Transaction(key_id)
        fits.mul(handle(FheType.UINT64), handle(FheType.UINT64), allow=True)
        assert await client.submit(fits) == 1
        assert not await server.store.get_transaction(dear.transaction_id)


async def test_a_full_queue_is_an_immediate_refusal() -> None:
    async with (
        serving(with_limits(Limits(max_open_groups=2))) as server,
        open_client("127.0.0.1", server.port, attempts=1) as client,
    ):
        key_id = await client.register_key(toy_server_key())
        for _ in range(2):
            waiting = Transaction(key_id)
            waiting.add(handle(), 1, allow=True)
            await client.submit(waiting)
        more = Transaction(key_id)
        more.add(handle(), 1, allow=True)
        with pytest.raises(Overloaded, match="the queue is full") as refusal:
            await client.submit(more)
        assert refusal.value.context["limit"] == "max_open_groups"


@pytest.mark.parametrize("seed", range(8))
async def test_random_frames_cost_only_their_own_connection(seed: int) -> None:
    """Frames of every type, known or not, with random flags, streams and contents, after a proper beginning."""
    random = Random(seed)
    async with serving() as server:
        for _ in range(6):
            client = await raw(server.port)
            try:
                for _ in range(random.randrange(1, 12)):
                    body = random.randbytes(random.choice([0, 1, 4, 5, 8, 30]))
                    head = struct.pack(">I", len(body))[1:] + bytes([random.randrange(12), random.randrange(64)])
                    await client.stream.send_all(head + struct.pack(">I", random.choice([0, 1, 2, 3, 5])) + body)
                with trio.move_on_after(0.02):
                    while await client.stream.receive_some():
                        pass
            except trio.BrokenResourceError:
                pass
            await client.stream.aclose()
        await assert_alive(server.port)


async def test_lists_are_held_to_the_limits_of_uploads_and_of_the_queue() -> None:
    values = [ClearValue(1, 1, CiphertextKind.BOOL)]
    first, second = (encrypt_list(toy_key().compact_public_key(), values) for _ in range(2))
    async with (
        serving(with_limits(Limits(max_open_groups=1))) as server,
        open_client("127.0.0.1", server.port, attempts=1) as client,
    ):
        key_id = await client.register_key(toy_server_key())
        assert (await client.upload_inputs(key_id, first)).accepted == 1
        with pytest.raises(Overloaded, match="the queue is full") as refusal:
            await client.upload_inputs(key_id, second)
        assert refusal.value.context["limit"] == "max_open_groups"
    async with (
        serving(with_limits(Limits(max_list_bytes=100))) as server,
        open_client("127.0.0.1", server.port, attempts=1) as client,
    ):
        key_id = await client.register_key(toy_server_key())
        with pytest.raises(InvalidInput, match=r"ciphertext_list: has .* bytes, at most 100 are allowed"):
            await client.upload_inputs(key_id, first)
