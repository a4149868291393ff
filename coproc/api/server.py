"""A grpclib server that knows its limits and can drain.

Decides how connections and calls are accepted, bounded, refused and ended; knows nothing of what the calls do, nor of
Trio. grpclib by itself reads messages of any size, dies of unknown HTTP/2 frames, lets errors out as UNKNOWN and ends
by dropping every call; each is mended here, in subclasses of its three classes.

The drain: close the listening socket; end calls that would never end; tell clients by GOAWAY, first without refusing
anything for a round trip, then refusing; let calls in flight finish until a deadline; cancel the rest, which their
callers see as UNAVAILABLE; linger for late streams; close. grpclib's own client drops all its calls on GOAWAY, so it
gets none: its new calls are answered with UNAVAILABLE until it connects elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, cast

import structlog
from grpclib.config import Configuration
from grpclib.const import Cardinality, Status
from grpclib.events import RecvRequest, listen
from grpclib.exceptions import GRPCError
from grpclib.metadata import decode_metadata
from grpclib.protocol import H2Protocol
from grpclib.server import Handler, Server
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame

from coproc.api.caller import caller
from coproc.api.codec import StrictCodec
from coproc.api.details import DetailsCodec
from coproc.api.metadata import check_metadata
from coproc.api.status import to_status
from coproc.errors import InvalidInput, Overloaded
from coproc.metrics import GRPC_CONNECTIONS, GRPC_IN_FLIGHT, timed_call
from coproc.tracing import read_traceparent, span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Generator, Mapping

    from grpclib._typing import IServable
    from grpclib.protocol import Stream as H2Stream
    from grpclib.server import Stream
    from h2.events import Event

    from coproc.api.limits import Limits
    from coproc.store.tenants import Tenant

    Headers = list[tuple[str, str]]

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

DRAINING: Final = "the server is shutting down; connect again"
ROUND_TRIP_SECONDS: Final = 0.1
"""Time in which what was sent before a client heard of the drain arrives."""
_HEALTH: Final = "/grpc.health."
_LAST_STREAM: Final = (1 << 31) - 1
_PREFIX_BYTES: Final = 5


class _Protocol(H2Protocol):
    """One connection."""

    def __init__(self, owner: DrainingServer, handler: _Handler, config: Configuration) -> None:
        super().__init__(handler, config, owner._h2_config)  # noqa: SLF001 - grpclib gives no other access
        self.owner = owner
        self.calls = handler

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", transport)
        # RFC 9113, 5.5: what we do not know is ignored. grpclib raises, which would end the whole service.
        process = self.processor.process

        def tolerant(event: Event) -> None:
            if type(event) in getattr(self.processor, "processors", ()):
                process(event)

        self.processor.process = tolerant  # type: ignore[method-assign]
        self.owner.connections.add(self)
        GRPC_CONNECTIONS.inc()
        self.owner.unconnected.clear()
        if len(self.owner.connections) > self.owner.limits.max_connections:
            self.goaway(0, ErrorCodes.ENHANCE_YOUR_CALM)
            self.shut("too many connections")

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - whatever a client sends costs it its own connection only
            log.info("connection closed over malformed data", error=repr(error))
            self.shut("malformed data")

    def connection_lost(self, exc: BaseException | None) -> None:
        if self in self.owner.connections:
            GRPC_CONNECTIONS.dec()
        self.owner.connections.discard(self)
        if not self.owner.connections:
            self.owner.unconnected.set()
        super().connection_lost(exc)

    def goaway(self, last_stream: int, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Say that streams after ``last_stream`` are not served.

        Written past h2, whose own ``close_connection`` would refuse to send the answers of calls in flight.
        """
        if not self.connection.is_closing():
            frame = GoAwayFrame(0, last_stream_id=last_stream, error_code=code.value)
            self.connection._transport.write(frame.serialize())  # noqa: SLF001

    def last_stream(self) -> int:
        """The newest stream that the client has opened."""
        return self.connection._connection.highest_inbound_stream_id  # noqa: SLF001

    def shut(self, reason: str) -> None:
        """Close the connection and end its calls."""
        self.processor.close(reason)


class _Handler(Handler):
    """The calls of one connection."""

    def __init__(self, owner: DrainingServer) -> None:
        super().__init__(owner._mapping, owner._codec, owner._status_details_codec, owner.__dispatch__)  # noqa: SLF001
        self.owner = owner
        self.draining = False
        self.drops_calls_on_goaway = False
        """Whether the client is grpclib."""
        self.endless: set[asyncio.Task[None]] = set()

    def accept(self, stream: H2Stream, headers: Headers, release_stream: Callable[[], None]) -> None:
        fields = dict(headers)
        self.drops_calls_on_goaway = self.drops_calls_on_goaway or "grpclib" in fields.get("user-agent", "")
        path = fields.get(":path", "")
        if self.draining and not self.drops_calls_on_goaway:
            release_stream()
            stream.reset_nowait(ErrorCodes.REFUSED_STREAM)
            return
        refusal = self._refusal(path, headers)
        if refusal is not None:
            task = self.loop.create_task(_refuse(stream, refusal, release_stream))
            self._tasks[stream] = task
            return
        super().accept(stream, self.owner.with_bounded_deadline(path, headers), release_stream)
        if path in self.owner.endless:
            task = self._tasks[stream]
            self.endless.add(task)
            task.add_done_callback(self.endless.discard)

    def _refusal(self, path: str, headers: Headers) -> GRPCError | None:
        if self.draining:
            return GRPCError(Status.UNAVAILABLE, DRAINING)
        if path not in self.mapping:
            return GRPCError(Status.UNIMPLEMENTED, "there is no such method")
        try:
            decode_metadata(headers)
        except ValueError:
            return to_status(InvalidInput("metadata", "has a key that ends in -bin with a value that is no base64"))
        return None

    def cancel(self, stream: H2Stream) -> None:
        if stream in self._tasks:
            super().cancel(stream)

    def running(self) -> set[asyncio.Task[None]]:
        """Calls in flight."""
        return {task for task in self._tasks.values() if not task.done()}


async def _refuse(stream: H2Stream, error: GRPCError, release_stream: Callable[[], None]) -> None:
    """Answer a call with a status and nothing else."""
    headers = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", str(error.status.value)),
        ("grpc-message", error.message or ""),
    ]
    try:
        await stream.send_headers(headers, end_stream=True)
        if stream.closable:
            stream.reset_nowait()
    except Exception as failure:  # noqa: BLE001 - the client has gone, nobody is left to tell
        log.debug("refusal not delivered", error=repr(failure))
    finally:
        release_stream()


class DrainingServer(Server):
    """Serves until ``drain``; must be made inside the asyncio loop that will run it."""

    def __init__(
        self,
        services: Collection[IServable],
        limits: Limits,
        *,
        tokens: Collection[str] = (),
        endless: Collection[str] = (),
        authenticate: Callable[[Mapping[str, str | bytes]], Awaitable[Tenant]] | None = None,
    ) -> None:
        """Serve ``services``; ``endless`` names the methods (by path) whose calls do not end by themselves.

        With ``tokens``, every call but those of the health service must carry one of them.
        """
        keepalive = Configuration(
            _keepalive_time=limits.keepalive_seconds,
            _keepalive_timeout=limits.keepalive_seconds,
            _keepalive_permit_without_calls=True,
            _http2_max_pings_without_data=0,
            _http2_min_sent_ping_interval_without_data=limits.keepalive_seconds / 2,
        )
        super().__init__(services, codec=StrictCodec(), status_details_codec=DetailsCodec(), config=keepalive)
        self.limits = limits
        self.endless = frozenset(endless)
        self.connections: set[_Protocol] = set()
        self.unconnected = asyncio.Event()
        self._tokens = tuple(tokens)
        self._authenticate = authenticate
        self._calls = 0
        self._buffered = 0
        self._stopping = False
        listen(self, RecvRequest, self._on_request)

    def _protocol_factory(self) -> H2Protocol:
        handler = _Handler(self)
        self._handlers.add(handler)
        return _Protocol(self, handler, self._config)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        server = cast("asyncio.Server", self._server)
        return cast("int", server.sockets[0].getsockname()[1])

    def with_bounded_deadline(self, path: str, headers: Headers) -> Headers:
        """Cut deadlines: each keeps a timer, even after the call, until it would have passed."""
        method = self._mapping[path]
        is_stream = cast("Cardinality", method.cardinality) is not Cardinality.UNARY_UNARY
        seconds = self.limits.max_stream_seconds if is_stream else self.limits.max_call_seconds
        bound = ("grpc-timeout", f"{int(seconds * 1000)}m")
        # The smallest of several deadlines counts; streams without one may live on.
        return headers if is_stream and not _has_deadline(headers) else [*headers, bound]

    async def _on_request(self, event: RecvRequest) -> None:
        call = cast("Callable[[Stream[object, object]], Awaitable[None]]", event.method_func)
        metadata = cast("Mapping[str, str | bytes]", event.metadata)
        is_open = event.method_name.startswith(_HEALTH)
        tokens = () if is_open else self._tokens
        authenticate = None if is_open else self._authenticate
        is_endless = event.method_name in self.endless
        timer = nullcontext(list[str]()) if is_open or is_endless else timed_call(event.method_name.rpartition("/")[2])

        async def guarded(stream: Stream[object, object]) -> None:
            messages = _MessageReader(self, stream._stream)  # noqa: SLF001 - the only way to see sizes in time
            self._calls += 1
            with GRPC_IN_FLIGHT.track_inprogress(), timer as status:
                try:
                    self._check_load()
                    check_metadata(metadata, tokens)
                    if authenticate is not None:
                        caller.set(await authenticate(metadata))
                    with call_span(event.method_name, metadata, endless=is_endless):
                        await call(stream)
                except asyncio.CancelledError:
                    status.append(Status.UNAVAILABLE.name if self._stopping else Status.CANCELLED.name)
                    if self._stopping:
                        raise GRPCError(Status.UNAVAILABLE, DRAINING) from None
                    raise
                except Exception as error:
                    answer = to_status(error)
                    status.append(answer.status.name)
                    raise answer from error
                finally:
                    self._calls -= 1
                    messages.release()

        event.method_func = cast("object", guarded)  # type: ignore[assignment]

    def _check_load(self) -> None:
        if self._calls > self.limits.max_calls:
            raise Overloaded("too many calls are in flight; try again", limit="max_calls")

    def take_buffer(self, size: int) -> None:
        """Count request bytes that are about to be read into memory. Raises Overloaded."""
        if self._buffered + size > self.limits.max_buffered_bytes:
            raise Overloaded("too many request bytes are in memory; try again", limit="max_buffered_bytes")
        self._buffered += size

    def give_buffer(self, size: int) -> None:
        """Count request bytes that are not needed any more."""
        self._buffered -= size

    @property
    def calls(self) -> int:
        """Calls in flight."""
        return self._calls

    def _running(self) -> set[asyncio.Task[None]]:
        return set[asyncio.Task[None]]().union(*(connection.calls.running() for connection in self.connections))

    async def drain(self, deadline_seconds: float) -> int:
        """Stop as the module says; returns how many calls had to be cancelled at the deadline."""
        cast("asyncio.Server", self._server).close()
        self._stopping = True
        for connection in list(self.connections):
            for task in list(connection.calls.endless):
                task.cancel()
            if not connection.calls.drops_calls_on_goaway:
                connection.goaway(_LAST_STREAM)
        await asyncio.sleep(ROUND_TRIP_SECONDS)
        for connection in list(self.connections):
            connection.calls.draining = True
            if not connection.calls.drops_calls_on_goaway:
                connection.goaway(connection.last_stream())
        running = self._running()
        if running:
            await asyncio.wait(running, timeout=deadline_seconds)
        stragglers = len(self._running())
        await self._cancel_running()
        await asyncio.sleep(ROUND_TRIP_SECONDS)
        await self.abandon()
        return stragglers

    async def abandon(self) -> None:
        """Stop at once: cancel what runs and close every socket. Does nothing the second time."""
        cast("asyncio.Server", self._server).close()
        self._stopping = True
        await self._cancel_running()
        for connection in list(self.connections):
            if not connection.connection.is_closing():
                connection.goaway(connection.last_stream())
                connection.shut("server has stopped")
        if self.connections:
            # Transports close once what is written has been sent; a client that does not read is cut off.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.unconnected.wait(), 1.0)
        for connection in list(self.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    async def _cancel_running(self) -> None:
        running = self._running()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=1.0)


@contextmanager
def call_span(path: str, metadata: Mapping[str, str | bytes], *, endless: bool) -> Generator[None]:
    """Measure a call as a child of the client's span; probes and calls that do not end are no part of traces."""
    if endless or path.startswith(_HEALTH):
        yield
        return
    service, _, method = path.strip("/").partition("/")
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    parent = read_traceparent(metadata)
    with span(f"{service}/{method}", kind="SERVER", parent=parent, may_begin=True, attributes=attributes):
        yield


def _has_deadline(headers: Headers) -> bool:
    return any(name == "grpc-timeout" for name, _ in headers)


class _MessageReader:
    """Stands between grpclib and the bytes of one call, to look at every message's length before it is read."""

    def __init__(self, owner: DrainingServer, stream: H2Stream) -> None:
        self._owner = owner
        self._read = stream.recv_data
        self._at_prefix = True
        self._held = 0
        stream.recv_data = self.recv_data  # type: ignore[method-assign]

    async def recv_data(self, size: int) -> bytes:
        """Read exactly ``size`` bytes, or none at the end of the stream."""
        try:
            data = await self._read(size)
        except AssertionError as error:
            raise InvalidInput("message", "is cut short") from error
        if not self._at_prefix:
            if len(data) < size:  # the stream ended right after the prefix
                raise InvalidInput("message", "is cut short")
            self._at_prefix = True
        elif data:
            self._at_prefix = False
            self._check_prefix(data)
        return data

    def _check_prefix(self, prefix: bytes) -> None:
        compressed, size = struct.unpack(">BI", prefix)
        if compressed:
            raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not supported")
        limit = self._owner.limits.max_message_bytes
        if size > limit:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes is over the limit of {limit}")
        # Of a stream of messages only the newest is in memory.
        self.release()
        self._owner.take_buffer(size)
        self._held = size

    def release(self) -> None:
        """Give back what the call held."""
        self._owner.give_buffer(self._held)
        self._held = 0
