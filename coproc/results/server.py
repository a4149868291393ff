"""Serve results over websockets: connections in, what ``protocol`` and ``feed`` decide out.

Decides how a connection lives: handshake, subscription, backlog, feed, signs of life, close. One connection's trouble,
whatever it is, stays its own. Sockets and tasks are here; what is said is in ``protocol``, who hears what in ``feed``.
"""

from __future__ import annotations

import hmac
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio
from trio_websocket import ConnectionClosed, wrap_server_stream

from coproc.errors import CoprocError, FatalError, InvalidInput, RecoverableError
from coproc.metrics import RESULTS_PUSHED, SUBSCRIBERS, SUBSCRIBERS_CLOSED
from coproc.results.feed import READ_AT_ONCE, Closing, Feed, Outbox, Subscriber
from coproc.results.protocol import (
    MAX_MESSAGE_BYTES,
    VERSIONS,
    CloseCode,
    Filter,
    Hello,
    Ping,
    Pong,
    Refused,
    Subscribe,
    Subscribed,
    Unauthenticated,
    check_subscription,
    read_client_message,
    write,
)
from coproc.tracing import span

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection
    from contextlib import AbstractContextManager

    from trio_websocket import WebSocketConnection, WebSocketRequest

    from coproc.results.feed import ResultSource

PATHS: Final = ("/", "/results")
HANDSHAKE_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 1.0
"""How long a peer may take to answer a close frame."""
BACKLOG_AT_ONCE: Final = 500
SEND_BUFFER_BYTES: Final = 128 * 1024
"""What the kernel holds for one subscriber; left to itself it grows to megabytes before a slow one is noticed."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ResultsSettings:
    """Where to listen and how patient to be."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 picks a free one."""
    reuse_port: bool = False
    """Lets the next process listen while this one drains."""
    ssl_context: ssl.SSLContext | None = None
    tokens: frozenset[str] = field(default=frozenset(), repr=False)
    """Bearer tokens that subscribers may use; none: everybody is served."""
    origins: frozenset[str] = frozenset()
    """Web pages that may subscribe, as ``https://host``; ``*`` means all. Programs send no origin and may always."""
    max_subscribers: int = 1024
    buffer_events: int = 1024
    """Results that wait for one subscriber, who is cut when they fill or stay more than half of it for a second."""
    slow_seconds: float = 5.0
    """How long a cut subscriber may take to read what is on its way, before its connection is simply dropped."""
    subscribe_seconds: float = 10.0
    """How long a client may take to subscribe."""
    ping_seconds: float = 20.0
    """How often a subscriber is asked for a sign of life (and told its position)."""
    pong_seconds: float = 20.0
    poll_seconds: float = 2.0
    """How often results are looked for without a wake-up."""


async def serve_results(
    store: ResultSource,
    settings: ResultsSettings,
    *,
    stopping: trio.Event,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stopping`` is set, then close every connection with 1012; ``task_status`` is told the port.

    Raises:
        FatalError: the address cannot be listened on.
    """
    server = ResultsServer(store, settings)
    listeners = await _listen(settings)
    port: int = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.feed.run)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(
                    partial(trio.serve_listeners, server.handle, listeners, handler_nursery=connections)
                )
                log.info("listening for subscribers", host=settings.host, port=port, tls=bool(settings.ssl_context))
                task_status.started(port)
                await stopping.wait()
                accepting.cancel_scope.cancel(reason="the service stops")
            log.info("draining subscribers", connections=server.connections)
            server.close_all(CloseCode.RESTART, "the service stops: connect again and resume by sequence number")
            connections.cancel_scope.deadline = trio.current_time() + settings.slow_seconds + CLOSE_SECONDS
        nursery.cancel_scope.cancel(reason="the service stops")


async def _listen(settings: ResultsSettings) -> list[trio.SocketListener]:
    """Listen on every address of the host, all with the same port."""
    listeners: list[trio.SocketListener] = []
    port = settings.port
    try:
        found = await trio.socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            own = trio.socket.socket(family, kind, protocol)
            try:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                if settings.reuse_port:
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                await own.bind((address[0], port, *address[2:]))
                own.listen(1024)
            except BaseException:
                own.close()
                raise
            port = own.getsockname()[1]
            listeners.append(trio.SocketListener(own))
    except OSError as error:
        for listener in listeners:
            listener.socket.close()
        raise FatalError(f"cannot listen on {settings.host}:{port}: {error.strerror}", port=port) from error
    return listeners


class ResultsServer:
    """The connections of one listener and the feed that they share."""

    def __init__(self, store: ResultSource, settings: ResultsSettings) -> None:
        self.feed = Feed(store, settings.poll_seconds, max(1, min(READ_AT_ONCE, settings.buffer_events // 2)))
        self._store = store
        self._settings = settings
        self._outboxes = set[Outbox]()
        self._handshakes = set[trio.CancelScope]()
        self._closing: tuple[CloseCode, str] | None = None

    @property
    def connections(self) -> int:
        """Open websockets, subscribed or not."""
        return len(self._outboxes)

    def close_all(self, code: CloseCode, reason: str) -> None:
        """End every connection, and at once those that still come."""
        self._closing = (code, reason)
        for outbox in list(self._outboxes):
            outbox.close(code, reason)
        for scope in self._handshakes:
            scope.cancel(reason=reason)

    async def handle(self, socket_stream: trio.SocketStream) -> None:
        """Serve one connection from its first byte to its last; raises nothing but cancellation."""
        if self._closing is not None or len(self._handshakes) >= self._settings.max_subscribers:
            await trio.aclose_forcefully(socket_stream)
            return
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = socket_stream
        if (context := self._settings.ssl_context) is not None:
            stream = trio.SSLStream(socket_stream, context, server_side=True, https_compatible=True)
        try:
            async with trio.open_nursery() as nursery:
                websocket = await self._shake_hands(nursery, stream)
                if websocket is not None:
                    await self._live(*websocket)
                nursery.cancel_scope.cancel(reason="the connection is over")
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except* Exception as group:  # noqa: BLE001 - see below
            # wsproto and TLS complain in many ways about what peers do; none of it may reach the other connections.
            log.debug("connection failed", error=repr(group.exceptions[0]))
        finally:
            await trio.aclose_forcefully(stream)

    def _refuse(self, request: WebSocketRequest) -> tuple[int, str] | None:
        """Judge a handshake: HTTP status and reason, None to go on."""
        headers = {name.lower(): value for name, value in request.headers}
        origin = headers.get(b"origin")
        allowed = self._settings.origins
        if request.path.partition("?")[0] not in PATHS:
            return 404, "results are at /\n"
        if origin is not None and "*" not in allowed and origin.decode("latin-1") not in allowed:
            return 403, "this origin is not allowed\n"
        if b"authorization" in headers and not _has_token(request, self._settings.tokens):
            return 401, "this token is not known\n"
        if self._closing is not None:
            return 503, "the service stops\n"
        if self.connections >= self._settings.max_subscribers:
            return 503, "there are too many subscribers; try again\n"
        return None

    async def _shake_hands(
        self, nursery: trio.Nursery, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    ) -> tuple[WebSocketConnection, bool] | None:
        """Open the websocket; returns it and whether it came with a token, or None if there is to be none."""
        scope = trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_SECONDS)
        self._handshakes.add(scope)
        try:
            with scope:
                if isinstance(stream, trio.SSLStream):
                    await stream.do_handshake()  # so that a failed one ends at once
                request = await wrap_server_stream(nursery, stream, 1, MAX_MESSAGE_BYTES)
                refusal = self._refuse(request)
                if refusal is None:
                    return await request.accept(), _has_token(request, self._settings.tokens)
                status, reason = refusal
                await request.reject(status, body=reason.encode())
            return None
        finally:
            self._handshakes.discard(scope)

    async def _live(self, websocket: WebSocketConnection, has_token: bool) -> None:  # noqa: FBT001 - of _shake_hands
        """Serve an open websocket and close it as its outbox says."""
        settings = self._settings
        outbox = Outbox(settings.buffer_events, settings.slow_seconds)
        self._outboxes.add(outbox)
        SUBSCRIBERS.inc()
        if self._closing is not None:
            outbox.close(*self._closing)
        try:
            with outbox.deadline:
                await self._talk(websocket, outbox, has_token=has_token)
            if not outbox.deadline.cancelled_caught:  # else half a frame is out, and no other may follow
                await _close(websocket, outbox)
        finally:
            self._outboxes.discard(outbox)
            SUBSCRIBERS.dec()
            if outbox.verdict is not None:
                SUBSCRIBERS_CLOSED.labels(str(outbox.verdict.code.value)).inc()

    async def _talk(self, websocket: WebSocketConnection, outbox: Outbox, *, has_token: bool) -> None:
        """Say hello, take the subscription and send results until the outbox closes."""
        try:
            with outbox.waiting():
                latest = await self._store.last_sequence()
            await websocket.send_message(write(Hello(VERSIONS, latest)))
            subscription = await self._take_subscription(websocket, outbox)
            if not has_token and not _is_known(subscription.token or "", self._settings.tokens):
                raise Unauthenticated("this server wants a bearer token that it knows")  # noqa: TRY301 - judged below
            check_subscription(subscription, latest)
            async with trio.open_nursery() as nursery:
                subscriber = Subscriber(Filter.of(subscription), outbox, subscription.after_sequence)
                nursery.start_soon(self._listen_to, websocket, outbox)
                nursery.start_soon(self._probe, websocket, subscriber)
                await self._send_results(websocket, subscriber)
        except* Closing:
            pass
        except* ConnectionClosed:
            outbox.close(CloseCode.NORMAL, "")
        except* RecoverableError as group:
            log.warning("subscriber cut", error=_first(group).message)
            outbox.close(CloseCode.TRY_AGAIN, "results are out of reach: try again")
        except* CoprocError as group:
            _refuse_more(outbox, _first(group))
        except* Exception:
            log.exception("subscription failed")
            outbox.close(CloseCode.INTERNAL, "an error of the server")

    async def _take_subscription(self, websocket: WebSocketConnection, outbox: Outbox) -> Subscribe:
        with trio.move_on_after(self._settings.subscribe_seconds):
            while True:
                with outbox.waiting():
                    text = await websocket.get_message()
                message = read_client_message(text)
                if isinstance(message, Subscribe):
                    return message
                await websocket.send_message(write(Pong()))
        raise InvalidInput("type", f"subscribe must come within {self._settings.subscribe_seconds:g} seconds")

    async def _send_results(self, websocket: WebSocketConnection, subscriber: Subscriber) -> None:
        """Send the backlog, go over to the feed (see ``feed`` for why nothing is missed), and never return."""
        position = subscriber.told
        await websocket.send_message(write(Subscribed(position)))
        position = await self._send_backlog(websocket, subscriber, position)
        with self.feed.attached(subscriber, position):
            position = await self._send_backlog(websocket, subscriber, position)
            while True:
                sequence, text = await subscriber.outbox.next()
                trace = subscriber.outbox.traces.pop(sequence, None)
                if sequence == 0 or sequence > position:
                    with _push_span(trace, sequence):
                        await websocket.send_message(text)
                    RESULTS_PUSHED.inc(sequence > 0)
                    position = max(position, sequence)

    async def _send_backlog(self, websocket: WebSocketConnection, subscriber: Subscriber, position: int) -> int:
        """Send what the store has after ``position``; returns the number of the last result seen."""
        wanted = subscriber.wanted
        transactions = sorted(wanted.transaction_ids) or None
        while True:
            with subscriber.outbox.waiting():
                events = await self._store.results_after(position, BACKLOG_AT_ONCE, transactions)
            for event in events:
                if wanted.matches(event):
                    subscriber.outbox.check()
                    with _push_span(event.traceparent, event.sequence):
                        await websocket.send_message(write(event))
                    RESULTS_PUSHED.inc()
                position = event.sequence
            subscriber.told = max(subscriber.told, position)
            if len(events) < BACKLOG_AT_ONCE:
                return position

    async def _listen_to(self, websocket: WebSocketConnection, outbox: Outbox) -> None:
        """Answer a subscriber's pings; anything else breaks the rules.

        Its end is not raised but said to the outbox, so that what is being sent is not torn in the middle.
        """
        try:
            while True:
                with outbox.waiting():
                    text = await websocket.get_message()
                if not isinstance(read_client_message(text), Ping):
                    raise InvalidInput("type", "must be ping once the subscription holds")  # noqa: TRY301 - as others
                outbox.offer(0, write(Pong()))
        except InvalidInput as error:
            _refuse_more(outbox, error)
        except ConnectionClosed:
            outbox.close(CloseCode.NORMAL, "")
        except Closing:
            pass

    async def _probe(self, websocket: WebSocketConnection, subscriber: Subscriber) -> None:
        """Ask for signs of life, and say from time to time how far the subscriber has come."""
        outbox, settings = subscriber.outbox, self._settings
        while True:
            await trio.sleep(settings.ping_seconds)
            with trio.move_on_after(settings.pong_seconds) as patience:
                await websocket.ping()
            if patience.cancelled_caught:
                outbox.deadline.cancel(reason="no sign of life")
            self.feed.tell_position(subscriber)


def _push_span(trace: str | None, sequence: int) -> AbstractContextManager[None]:
    """Measure a message as part of the trace that asked for its result."""
    return span("push result", kind="PRODUCER", parent=trace, attributes={"coproc.sequence": sequence})


async def _close(websocket: WebSocketConnection, outbox: Outbox) -> None:
    verdict = outbox.verdict
    if verdict is None or websocket.closed is not None:
        return
    with trio.move_on_after(CLOSE_SECONDS), suppress(ConnectionClosed):
        if verdict.farewell is not None:
            await websocket.send_message(verdict.farewell)
        await websocket.aclose(verdict.code, verdict.reason)


def _refuse_more(outbox: Outbox, error: CoprocError) -> None:
    outbox.close(CloseCode.POLICY, error.rule, write(Refused(error.rule, error.message)))


def _first(group: ExceptionGroup[CoprocError]) -> CoprocError:
    """Return the first error of a group, however deep."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


def _has_token(request: WebSocketRequest, tokens: Collection[str]) -> bool:
    """Whether the handshake carries a known token (or none is wanted)."""
    for name, value in request.headers:
        if name.lower() == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return not tokens or (scheme.lower() == "bearer" and _is_known(token.strip(), tokens))
    return not tokens


def _is_known(token: str, tokens: Collection[str]) -> bool:
    """Compare with every token, so that time tells nothing."""
    matches = [hmac.compare_digest(token.encode("utf-8", "surrogatepass"), known.encode()) for known in tokens]
    return not tokens or any(matches)
