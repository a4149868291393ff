"""Follow results from a Trio program: one subscription that survives restarts, cuts and lost connections.

Decides when to connect again and after which number, so that the caller sees every result once and in order. It knows
nothing of ciphertexts: fetch those over gRPC.
"""

from __future__ import annotations

import random
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, open_websocket_url

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
    if not url.startswith(("ws://", "wss://")):
        raise InvalidInput("url", f"must start with ws:// or wss://, got {url!r}")
    wanted = Subscribe(after_sequence, tuple(transaction_ids), tuple(handles))
    headers = [(b"Authorization", f"Bearer {token}".encode())] if token is not None else []
    context = ssl_context or (ssl.create_default_context() if url.startswith("wss://") else None)
    send, receive = trio.open_memory_channel[ResultEvent](0)
    progress = _Progress(after_sequence)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_Follower(url, wanted, headers, context, attempts, progress).run, send)
            yield Subscription(receive, progress)
            nursery.cancel_scope.cancel(reason="nobody follows any more")
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:  # the caller's own error, or why there are no more results
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise


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
            async with open_websocket_url(
                self.url,
                ssl_context=self.ssl_context,
                extra_headers=list(self.headers),
                max_message_size=MAX_MESSAGE_BYTES,
                connect_timeout=CONNECT_SECONDS,
                disconnect_timeout=1,
            ) as websocket:
                await self._follow(websocket, events)
        except ConnectionRejected as error:
            _judge(error)
            return f"HTTP status {error.status_code}"
        except ConnectionClosed as error:
            return str(error.reason)
        except HandshakeError as error:
            return repr(error.__cause__ or error)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            return repr(error)
        return "closed"

    async def _follow(self, websocket: WebSocketConnection, events: trio.MemorySendChannel[ResultEvent]) -> None:
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
