"""Follow results from a Trio program: one subscription that survives restarts, cuts and lost connections.

Decides when to connect again and after which number, so that the caller sees every result once and in order. It knows
nothing of ciphertexts: fetch those over gRPC.
"""

from __future__ import annotations

import random
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, cast
from urllib.parse import urlsplit

import structlog
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, wrap_client_stream

from coproc.errors import CoprocError, InvalidInput, IrrecoverableError, RecoverableError
from coproc.results.protocol import (
    VERSIONS,
    Hello,
    Position,
    Refused,
    Subscribe,
    Unauthenticated,
    read_server_message,
    write,
)
from coproc.store.base import ResultEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from trio_websocket import WebSocketConnection

    from coproc.program.types import Handle

MAX_MESSAGE_BYTES: Final = 1 << 20
CONNECT_SECONDS: Final = 10.0
HELLO_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 60.0
"""Longest silence before the client asks for a sign of life itself."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class SubscriptionRefused(IrrecoverableError):
    """The server will not serve this subscription, however often it is asked."""

    rule = "SUBSCRIPTION_REFUSED"


@dataclass(slots=True)
class _Progress:
    """How far a subscription has come."""

    position: int
    latest: int = 0
    failures: int = 0
    connections: int = 0


class Subscription:
    """Results as they come: ``async for event in subscription``. Made by ``subscribe``."""

    def __init__(self, events: trio.MemoryReceiveChannel[ResultEvent], progress: _Progress) -> None:
        self._events = events
        self._progress = progress
        self.position = progress.position
        """Number of the latest result that this iterator returned: what to resume after."""

    @property
    def latest_sequence(self) -> int:
        """The newest result that the server knew of when the client last connected."""
        return self._progress.latest

    @property
    def connections(self) -> int:
        """How often the client has subscribed so far."""
        return self._progress.connections

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> ResultEvent:
        """Wait for the next result; cancelling loses none."""
        event = await self._events.receive()
        self.position = event.sequence
        return event


@asynccontextmanager
async def open_connection(
    url: str, *, headers: Sequence[tuple[bytes, bytes]] = (), ssl_context: ssl.SSLContext | None = None
) -> AsyncGenerator[WebSocketConnection]:
    """Open a websocket and close it, its socket included, with the block.

    (The library's own function leaves the socket to the garbage collector where the server closes first.)

    Raises:
        InvalidInput: the URL is none.
        OSError, trio.BrokenResourceError, trio.TooSlowError: the server is out of reach.
        ConnectionRejected: it refuses, with an HTTP status.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise InvalidInput("url", f"must be ws://host:port/ or wss://host:port/, got {url!r}")
    is_secure = parts.scheme == "wss"
    port = parts.port or (443 if is_secure else 80)
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with trio.fail_after(CONNECT_SECONDS):
        plain = await trio.open_tcp_stream(parts.hostname, port)
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(CONNECT_SECONDS):
                if is_secure:
                    context = ssl_context or ssl.create_default_context()
                    stream = trio.SSLStream(plain, context, server_hostname=parts.hostname, https_compatible=True)
                    await stream.do_handshake()  # here its errors come out; the library would wait for ever
                websocket = await wrap_client_stream(
                    nursery,
                    stream,
                    parts.netloc.rpartition("@")[2],
                    resource,
                    extra_headers=list(headers),
                    max_message_size=MAX_MESSAGE_BYTES,
                )
            yield websocket
            with trio.move_on_after(CLOSE_SECONDS):
                await websocket.aclose()
            nursery.cancel_scope.cancel(reason="the connection is over")
    except BaseExceptionGroup as group:
        raise_alone(group)
    finally:
        await trio.aclose_forcefully(stream)


def raise_alone(group: BaseExceptionGroup) -> NoReturn:
    """Raise the only error of a group as itself, or else the group."""
    first, *others = group.exceptions
    if others:
        raise group
    if isinstance(first, BaseExceptionGroup):
        raise_alone(cast("BaseExceptionGroup[BaseException]", first))
    raise first from first.__cause__


@asynccontextmanager
async def subscribe(
    url: str,
    *,
    after_sequence: int = 0,
    transaction_ids: Sequence[bytes] = (),
    handles: Sequence[Handle] = (),
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    attempts: int | None = 8,
) -> AsyncGenerator[Subscription]:
    """Follow results after ``after_sequence``, of some transactions and handles or of all, while the block lasts.

    ::

        async with subscribe("ws://127.0.0.1:50052/", transaction_ids=[transaction_id]) as events:
            async for event in events:
                ...

    Args:
        url: ``ws://host:port/`` or ``wss://...``.
        after_sequence: 0 for everything there is.
        transaction_ids: up to 256 of 1 to 64 bytes; none for all.
        handles: up to 256; none for all.
        token: a bearer token of the server.
        ssl_context: for ``wss``, if the system's certificates are not what is wanted.
        attempts: how often connecting may fail in a row; None for ever.

    Raises:
        InvalidInput: the URL is none.
        Unauthenticated: the token is not known.
        SubscriptionRefused: the server refuses the subscription.
        RecoverableError: connecting failed ``attempts`` times in a row.
    """
    wanted = Subscribe(after_sequence, tuple(transaction_ids), tuple(handles))
    headers = [(b"Authorization", f"Bearer {token}".encode())] if token is not None else []
    send, receive = trio.open_memory_channel[ResultEvent](0)
    progress = _Progress(after_sequence)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_Follower(url, wanted, headers, ssl_context, attempts, progress).run, send)
            yield Subscription(receive, progress)
            nursery.cancel_scope.cancel(reason="nobody follows any more")
    except BaseExceptionGroup as group:  # the caller's own error, or why there are no more results
        raise_alone(group)


@dataclass(frozen=True, slots=True)
class _Follower:
    """The task behind a subscription."""

    url: str
    wanted: Subscribe
    headers: list[tuple[bytes, bytes]]
    ssl_context: ssl.SSLContext | None
    attempts: int | None
    progress: _Progress

    async def run(self, events: trio.MemorySendChannel[ResultEvent]) -> None:
        """Connect again whenever a connection ends, with growing pauses while nothing comes of it."""
        progress = self.progress
        while True:
            reason = await self._connect_once(events)
            progress.failures += 1
            if self.attempts is not None and progress.failures >= self.attempts:
                raise RecoverableError(f"results at {self.url} cannot be followed: {reason}", attempts=self.attempts)
            pause = min(FIRST_PAUSE * 2 ** min(progress.failures - 1, 16), LONGEST_PAUSE)
            log.debug("connection to results ended", reason=reason, after_sequence=progress.position)
            await trio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret

    async def _connect_once(self, events: trio.MemorySendChannel[ResultEvent]) -> str:
        """Follow one connection to its end; returns why it ended, if trying again makes sense."""
        try:
            async with open_connection(self.url, headers=self.headers, ssl_context=self.ssl_context) as websocket:
                await self._follow(websocket, events)
        except ConnectionRejected as error:
            _judge(error)
            return f"HTTP status {error.status_code}"
        except ConnectionClosed as error:
            return f"closed: {error.reason}"
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            return repr(error.__cause__ or error)

    async def _follow(self, websocket: WebSocketConnection, events: trio.MemorySendChannel[ResultEvent]) -> NoReturn:
        progress = self.progress
        with trio.fail_after(HELLO_SECONDS):
            hello = read_server_message(await websocket.get_message())
        if not isinstance(hello, Hello) or self.wanted.version not in hello.versions:
            spoken = ", ".join(map(str, hello.versions)) if isinstance(hello, Hello) else "something else"
            raise SubscriptionRefused(f"this client speaks version {VERSIONS[-1]} of the protocol, the server {spoken}")
        progress.latest = hello.latest_sequence
        subscription = Subscribe(progress.position, self.wanted.transaction_ids, self.wanted.handles)
        await websocket.send_message(write(subscription))
        progress.connections += 1
        while True:
            match await _receive(websocket):
                case ResultEvent() as event:
                    progress.failures = 0
                    if event.sequence > progress.position:
                        await events.send(event)
                        progress.position = event.sequence
                case Position(sequence):
                    progress.failures = 0
                    progress.position = max(progress.position, sequence)
                case Refused(rule, message):
                    error = Unauthenticated if rule == Unauthenticated.rule else SubscriptionRefused
                    raise error(message, refused_rule=rule)
                case _:
                    progress.failures = 0


async def _receive(websocket: WebSocketConnection) -> object:
    """Wait for a message; a silent server is asked for a sign of life, and given up if it gives none."""
    while True:
        with trio.move_on_after(SILENCE_SECONDS):
            text = await websocket.get_message()
            try:
                return read_server_message(text)
            except CoprocError as error:
                raise SubscriptionRefused(f"the server sent what this client cannot read: {error.message}") from error
        with trio.fail_after(SILENCE_SECONDS):
            await websocket.ping()


def _judge(rejection: ConnectionRejected) -> None:
    """Raise if trying again is no use."""
    said = (rejection.body or b"").decode("utf-8", "replace").strip()
    if rejection.status_code == 401:
        raise Unauthenticated(f"the server refuses the token: {said}")
    if 400 <= rejection.status_code < 500 and rejection.status_code != 429:
        raise SubscriptionRefused(f"the server refuses the connection with HTTP status {rejection.status_code}: {said}")
