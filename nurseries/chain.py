"""The actor that follows one chain: one node at a time, block by block, into the store.

Decides connections: which node is asked, when another one is, and how long to wait in between. Which blocks are asked
for is ``coproc.chain.follow``'s business, what they mean ``coproc.chain.events``'. Chains have an actor, breakers and
figures of their own, so that a dead node of one slows no other.
"""

from __future__ import annotations

import base64
import secrets
import ssl
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import unquote, urlsplit

import httpx
import structlog
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from coproc.chain.blocks import NodeFault
from coproc.chain.events import read_block
from coproc.chain.follow import PAGE, Follower
from coproc.chain.rpc import HttpNode, Session, check_chain, get_head, get_header, get_logs, subscribe
from coproc.chain.settings import host_of
from coproc.errors import CoprocError, NotFound, RecoverableError, log_fields
from coproc.health.report import ActorReport
from coproc.resilience import Breaker, CircuitOpen, FullJitter, Guard
from coproc.store.chains import ChainMoved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_websocket import WebSocketConnection

    from coproc.chain.blocks import Header, Log
    from coproc.chain.follow import Step
    from coproc.chain.rpc import Node
    from coproc.chain.settings import ChainSettings
    from coproc.store.chains import ChainBlock, ChainStore

MAX_MESSAGE: Final = 64 << 20
"""Bytes of one answer: the logs of one block."""
DOUBTS: Final = 3
"""How often a block whose bloom filter promises events must be found empty to be believed (filters may be wrong)."""
ON_A_THREAD: Final = 256
"""Blocks of more logs are decoded on a thread."""
Question = TypeVar("Question")
Answer = TypeVar("Answer")
_BACKOFF: Final = FullJitter(0.2, 10.0)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class ChainStatistics:
    """What an operator wants to know of a chain."""

    head: int = -1
    """The newest block that a node has told of; -1: none yet."""
    block: int = -1
    """The newest block that is written."""
    blocks: int = 0
    computations: int = 0
    faults: int = 0
    reorganisations: int = 0
    retracted: int = 0
    """Computations taken back."""
    node_failures: int = 0


class ChainActor:
    """Follows one chain."""

    def __init__(self, store: ChainStore, settings: ChainSettings) -> None:
        self.settings = settings
        self.statistics = ChainStatistics()
        self.error: str | None = None
        """Why the chain is not followed just now; None: it is."""
        self._store = store
        self._contracts = settings.contracts
        self.guards = [Guard(f"node {host_of(url)}", Breaker(threshold=3)) for url in settings.urls]
        """Of the nodes, in order of preference."""
        self._follower: Follower | None = None
        self._page = PAGE
        """Blocks that are asked for together: fewer after a failure, so that a bad line is got over in small steps."""
        self._doubts: dict[bytes, int] = {}
        self._chance = secrets.SystemRandom().random
        self._log = log.bind(chain_id=settings.chain_id)

    @property
    def health(self) -> ActorReport:
        """How following goes, for health pages."""
        return ActorReport("following" if self.error is None else "waiting", self.error is None, error=self.error)

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled. A chain that cannot be followed is tried again for ever, and keeps nobody else."""
        task_status.started()
        attempt = turn = 0
        while True:
            before = self.statistics.blocks
            failure = await self._session(turn % len(self.guards))
            self.error = failure.message
            self.statistics.node_failures += isinstance(failure, NodeFault)
            self._follower = None
            if isinstance(failure, NodeFault):
                self._page = max(1, self._page // 2)
            if not isinstance(failure, CircuitOpen):  # that was told when it opened
                fields = {name: value for name, value in log_fields(failure).items() if name != "chain_id"}
                self._log.warning("the chain is not followed", node=self.guards[turn % len(self.guards)].name, **fields)
            if not isinstance(failure, ChainMoved):
                turn += 1
            attempt = 0 if self.statistics.blocks > before else attempt + 1
            # The first round over all nodes is quick: one of them may be well.
            await trio.sleep(_BACKOFF.delay(attempt // len(self.guards), self._chance()))

    async def _session(self, turn: int) -> CoprocError:
        """Follow with one node; returns why it ended."""
        url, guard = self.settings.urls[turn], self.guards[turn]
        failure: CoprocError = RecoverableError("the session ended")
        async with trio.open_nursery() as nursery:
            try:
                with guard.calling():
                    node = await self._connect(nursery, url)
                    await check_chain(node, self.settings.chain_id)
                    if isinstance(node, Session):
                        await subscribe(node, self._contracts)
                self._log.info("following the chain", node=guard.name)
                await self._follow(node)
            except CoprocError as error:
                failure = error
            nursery.cancel_scope.cancel(reason="the session with a node has ended")
        return failure

    async def _connect(self, nursery: trio.Nursery, url: str) -> Node:
        settings = self.settings
        if url.startswith("http"):
            http: HttpNode = await nursery.start(_run_http, url, settings.request_seconds, settings.requests_in_flight)
            return http
        try:
            with trio.fail_after(settings.request_seconds):
                session: Session = await nursery.start(
                    _run_websocket, url, settings.request_seconds, settings.requests_in_flight
                )
        except OSError as error:
            raise NodeFault(f"the node cannot be connected to: {type(error).__name__}") from error
        except trio.TooSlowError:
            raise NodeFault(f"the node did not connect in {settings.request_seconds} s") from None
        return session

    async def _follow(self, node: Node) -> None:
        """Go on for ever. Raises CoprocError."""
        settings = self.settings
        newest, since = -1, trio.current_time()
        while True:
            head = await get_head(node, settings.confirmations)
            if head is not None:
                self.statistics.head = head.number
                if head.number > newest:
                    newest, since = head.number, trio.current_time()
                follower = await self._load(head)
                while await self._advance(node, follower, head):
                    pass
                self.error = None
            if len(settings.urls) > 1 and trio.current_time() - since > settings.stale_seconds:
                raise NodeFault(f"the node has had no new block for {settings.stale_seconds} s")
            await node.wait(settings.poll_seconds)

    async def _load(self, head: Header) -> Follower:
        """Read where we stand, at the beginning and whenever somebody else may have moved."""
        if self._follower is None:
            settings = self.settings
            if await self._store.get_key(settings.key) is None:
                raise NotFound("the chain's server key is not registered yet", key_id=settings.key.hex())
            tail = await self._store.chain_tail(settings.chain_id, settings.reorg_depth + 1)
            first = head.number if settings.first_block is None else settings.first_block
            self._follower = Follower(tail, first=first, depth=settings.reorg_depth, page=self._page)
            self.statistics.block = tail[-1].number if tail else -1
        return self._follower

    async def _advance(self, node: Node, follower: Follower, head: Header) -> bool:
        """Take the next page of blocks; False when there is nothing more to take."""
        walk = follower.advance(head)
        try:
            requests = next(walk)
            while True:
                requests = walk.send(await _all(partial(get_header, node), requests))
        except StopIteration as end:
            steps: Sequence[Step] = end.value
        headers = [header for step in steps for header in step.blocks]
        found = await _all(partial(self._get_logs, node), headers)
        logs = {header.hash: of_block for header, of_block in zip(headers, found, strict=True)}
        for step in steps:
            await self._write(follower, step, logs)
        if steps:
            self._page = follower.page = min(PAGE, 2 * self._page)
        return bool(steps)

    async def _write(self, follower: Follower, step: Step, logs: dict[bytes, tuple[Log, ...]]) -> None:
        settings, statistics = self.settings, self.statistics
        blocks: list[ChainBlock] = []
        for header in step.blocks:
            found = logs[header.hash]
            read = partial(read_block, settings.chain_id, header, found, self._contracts, max_depth=settings.max_depth)
            blocks.append(await trio.to_thread.run_sync(read) if len(found) > ON_A_THREAD else read())
        change = await self._store.advance_chain(settings.chain_id, settings.key, step.orphaned, blocks)
        follower.applied(step)
        statistics.blocks += len(blocks)
        statistics.computations += change.computations
        statistics.faults += change.faults
        statistics.retracted += change.retracted
        statistics.block = -1 if follower.tip is None else follower.tip.number
        if step.orphaned:
            statistics.reorganisations += 1
            self._log.warning(
                "the chain was reorganised",
                depth=len(step.orphaned),
                retracted=change.retracted,
                block=statistics.block,
            )
        for block in blocks:
            for fault in block.faults:
                self._log.warning(
                    "an event makes no sense",
                    rule=fault.rule,
                    error=fault.message,
                    block=block.number,
                    transaction_id=fault.transaction_id.hex(),
                )

    async def _get_logs(self, node: Node, header: Header) -> tuple[Log, ...]:
        found = await get_logs(node, header, self._contracts)
        promised = header.may_log(self._contracts.executor) or header.may_log(self._contracts.acl)
        if promised and not found:
            self._doubts[header.hash] = self._doubts.get(header.hash, 0) + 1
            if self._doubts[header.hash] < DOUBTS:
                raise NodeFault(f"the node gave no events of block {header.number}, whose filter promises some")
        self._doubts.pop(header.hash, None)
        return found


async def _all(ask: Callable[[Question], Awaitable[Answer]], questions: Sequence[Question]) -> list[Answer]:
    """Ask everything at once; answers in order. Raises the first error alone, not in a group."""
    answers: dict[int, Answer] = {}
    failures: list[CoprocError] = []

    async def one(number: int, question: Question) -> None:
        try:
            answers[number] = await ask(question)
        except CoprocError as error:
            failures.append(error)
            nursery.cancel_scope.cancel(reason="another request failed")

    async with trio.open_nursery() as nursery:
        for number, question in enumerate(questions):
            nursery.start_soon(one, number, question)
    if failures:
        raise failures[0]
    return [answers[number] for number in range(len(questions))]


async def _run_http(
    url: str, seconds: float, in_flight: int, *, task_status: trio.TaskStatus[HttpNode] = trio.TASK_STATUS_IGNORED
) -> None:
    """Keep connections for HTTP open until cancelled."""
    async with httpx.AsyncClient(timeout=seconds) as client:
        task_status.started(HttpNode(client, url, in_flight=in_flight))
        await trio.sleep_forever()


async def _run_websocket(
    url: str, seconds: float, in_flight: int, *, task_status: trio.TaskStatus[Session] = trio.TASK_STATUS_IGNORED
) -> None:
    """Keep a websocket open until cancelled; then it is closed at once, without waiting for the node's goodbye.

    Raises:
        NodeFault: there is no websocket. One that breaks later tells so by its session.
        OSError: nothing listens there.
    """
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "wss"
    plain = await trio.open_tcp_stream(host, parts.port or (443 if secure else 80))
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
    if secure:
        context = ssl.create_default_context()
        stream = trio.SSLStream(plain, context, server_hostname=host, https_compatible=True)
    headers: list[tuple[bytes, bytes]] = []
    if parts.username:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers.append((b"Authorization", b"Basic " + base64.b64encode(user)))
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    session: Session | None = None
    broken: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            websocket = await wrap_client_stream(
                nursery,
                stream,
                parts.netloc.rpartition("@")[2],
                resource,
                extra_headers=headers,
                max_message_size=MAX_MESSAGE,
            )
            session = Session(partial(_send, websocket), seconds=seconds, in_flight=in_flight)
            nursery.start_soon(_receive, websocket, session)
            task_status.started(session)
            await trio.sleep_forever()
    except* Exception as group:  # noqa: BLE001 - what is no websocket breaks the library in many ways
        broken = group.exceptions[0]
    finally:
        await trio.aclose_forcefully(stream)
    reason = f"what the node speaks is no websocket: {type(broken).__name__}"
    if session is None:
        raise NodeFault(reason)
    session.lose(reason)


async def _send(websocket: WebSocketConnection, text: str) -> None:
    try:
        await websocket.send_message(text)
    except ConnectionClosed:
        raise NodeFault("the node has closed the connection") from None


async def _receive(websocket: WebSocketConnection, session: Session) -> None:
    """Hand on what arrives until the connection is lost."""
    try:
        while True:
            session.received(await websocket.get_message())
    except ConnectionClosed:
        session.lose("the node has closed the connection")
