"""One reading of the results for everybody who listens, and the bounded box in front of each listener.

Decides that all subscribers share one wake-up listener and one query a batch, that whoever does not keep up is cut (and
resumes by sequence number), and how a subscriber goes over from its own backlog to the shared feed without a gap. It
must not know of websockets.

Going over: the subscriber reads the store to its end, attaches, and reads the store once more. What became visible
before it attached is in that last reading, what the feed reads afterwards is in its box, and numbers seen twice are
skipped.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

import structlog
import trio

from coproc.errors import RecoverableError
from coproc.results.protocol import CloseCode, Position, write
from coproc.store.base import Topic
from coproc.tracing import is_on

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from coproc.results.protocol import Filter
    from coproc.store.base import ResultEvent

READ_AT_ONCE: Final = 500
PACE_SECONDS: Final = 1.0
"""How long the feed waits for a subscriber whose box is half full before it cuts it and goes on."""
PACE_STEP: Final = 0.01
HEARD_SECONDS: Final = 0.005
"""How long a wake-up waits that is most likely about what this process has just stored and offered already."""
RETRY_SECONDS: Final = 1.0
"""Pause before the store is asked again after it was out of reach."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class ResultSource(Protocol):
    """The part of a store that subscriptions need; every store is one."""

    async def results_after(
        self, sequence: int, limit: int, transaction_ids: Sequence[bytes] | None = None
    ) -> Sequence[ResultEvent]:
        """Results with a greater sequence number, in order."""
        ...

    async def last_sequence(self) -> int:
        """The newest visible sequence number."""
        ...

    def hearing(self, hear: Callable[[Sequence[ResultEvent]], None]) -> AbstractContextManager[None]:
        """Call ``hear`` with results as soon as this process has stored them."""
        ...

    def wakeups(self) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Topic]]:
        """Subscribe to wake-ups."""
        ...


@dataclass(frozen=True, slots=True)
class Close:
    """How a connection is to end."""

    code: CloseCode
    reason: str
    farewell: str | None = None
    """A last message."""


class Closing(Exception):
    """Unwinds whoever works for a connection that is to end."""


class Outbox:
    """What one connection has still to send: bounded, and the one place that decides when and why it ends.

    Closing interrupts every wait inside ``waiting`` at once. Sending is never interrupted in the middle of a frame, but
    for ``grace`` seconds later: by then the peer does not read any more.
    """

    def __init__(self, capacity: int, grace: float) -> None:
        self._send, self._receive = trio.open_memory_channel[tuple[int, str]](capacity)
        self._grace = grace
        self._waits = set[trio.CancelScope]()
        self.verdict: Close | None = None
        self.deadline = trio.CancelScope(deadline=inf)
        """Put around everything that sends."""
        self.traces: dict[int, str] = {}
        """Spans that asked for results in the box, by sequence number; whoever sends one takes it out."""

    def offer(self, sequence: int, text: str) -> None:
        """Add a message; a box that is full closes instead. Sequence 0 is for what is no result."""
        if self.verdict is not None:
            return
        try:
            self._send.send_nowait((sequence, text))
        except trio.WouldBlock:
            self.cut()

    def cut(self) -> None:
        """Close because the peer does not keep up."""
        self.close(CloseCode.TRY_AGAIN, "reads too slowly: resume by sequence number")

    def close(self, code: CloseCode, reason: str, farewell: str | None = None) -> None:
        """Say that the connection is to end; what was said first holds."""
        if self.verdict is not None:
            return
        self.verdict = Close(code, reason, farewell)
        self.deadline.deadline = min(self.deadline.deadline, trio.current_time() + self._grace)
        for scope in self._waits:
            scope.cancel(reason="the connection is to end")

    @property
    def is_crowded(self) -> bool:
        """Whether the box is more than half full."""
        inner = self._send.statistics()
        return self.verdict is None and inner.current_buffer_used > inner.max_buffer_size // 2

    def check(self) -> None:
        """Raise Closing if the connection is to end."""
        if self.verdict is not None:
            raise Closing

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Wait for anything but sending: raises Closing as soon as the connection is to end."""
        scope = trio.CancelScope()
        self.check()
        self._waits.add(scope)
        try:
            with scope:
                yield
        finally:
            self._waits.discard(scope)
        if scope.cancelled_caught:
            raise Closing

    async def next(self) -> tuple[int, str]:
        """Take the oldest message, with its sequence number. Raises Closing."""
        with self.waiting():
            return await self._receive.receive()
        raise Closing  # not reached: waiting() raises


@dataclass(eq=False, slots=True)
class Subscriber:
    """One who listens to the feed."""

    wanted: Filter
    outbox: Outbox
    told: int
    """The greatest number offered or skipped so far: at first, what it wants to hear after."""


class Feed:
    """Reads results once for all subscribers."""

    def __init__(self, source: ResultSource, poll_seconds: float, read_at_once: int = READ_AT_ONCE) -> None:
        """Make a feed; ``read_at_once`` is at most half of what a subscriber's box holds."""
        self._source = source
        self._poll_seconds = poll_seconds
        self._read_at_once = read_at_once
        self._attached = set[Subscriber]()
        self._everything = set[Subscriber]()
        self._by_transaction: defaultdict[bytes, set[Subscriber]] = defaultdict(set)
        self.position = 0
        """Every attached subscriber has been offered all up to this number."""
        self._heard_at = -inf
        self.connected = False
        """Whether wake-ups come; without them results are only polled for."""

    @property
    def subscribers(self) -> int:
        """How many are attached."""
        return len(self._attached)

    @contextmanager
    def attached(self, subscriber: Subscriber, position: int) -> Generator[None]:
        """Offer results to a subscriber that has read the store up to ``position``; see the module for the protocol."""
        if not self._attached:  # nobody needs what lies between
            self.position = max(self.position, position)
        sets = [self._by_transaction[name] for name in subscriber.wanted.transaction_ids] or [self._everything]
        for members in sets:
            members.add(subscriber)
        self._attached.add(subscriber)
        try:
            yield
        finally:
            self._attached.discard(subscriber)
            for members in sets:
                members.discard(subscriber)
            for name in subscriber.wanted.transaction_ids:
                if not self._by_transaction[name]:
                    del self._by_transaction[name]

    def tell_position(self, subscriber: Subscriber) -> None:
        """Let a subscriber know how far it has come, if that is news to it."""
        if self.position > subscriber.told:
            subscriber.told = self.position
            subscriber.outbox.offer(self.position, write(Position(self.position)))

    async def run(self) -> None:
        """Read and offer until cancelled; a store out of reach is waited for."""
        with self._source.hearing(self._hear):
            while True:
                try:
                    async with self._source.wakeups() as wakeups:
                        self.connected = True
                        await self._offer_new()
                        while await self._await_results(wakeups):
                            await self._offer_new()
                except RecoverableError as error:
                    log.warning("results cannot be read", error=error.message)
                finally:
                    self.connected = False
                await trio.sleep(RETRY_SECONDS)

    def _hear(self, events: Sequence[ResultEvent]) -> None:
        """Offer what this process has just stored, if it is what comes next and all have room: else it is read."""
        if (
            self._attached
            and len(events) <= self._read_at_once
            and [event.sequence - self.position for event in events] == [*range(1, len(events) + 1)]
            and not is_on()  # the spans that asked for them are only read
            and not self._crowded()
        ):
            self._offer_all(events)
            self._heard_at = trio.current_time()

    async def _offer_new(self) -> None:
        while self._attached:
            await self._make_room()
            events = await self._source.results_after(self.position, self._read_at_once)
            self._offer_all(events)
            if len(events) < self._read_at_once:
                return

    def _offer_all(self, events: Sequence[ResultEvent]) -> None:
        for event in events:
            if event.sequence > self.position:  # else it was heard while it was read
                self._offer(event)
                self.position = event.sequence

    def _crowded(self) -> list[Outbox]:
        return [subscriber.outbox for subscriber in self._attached if subscriber.outbox.is_crowded]

    async def _make_room(self) -> None:
        """Wait a little for those who are behind: a burst alone cuts nobody who reads."""
        deadline = trio.current_time() + PACE_SECONDS
        while crowded := self._crowded():
            if trio.current_time() >= deadline:
                for outbox in crowded:
                    outbox.cut()
                return
            await trio.sleep(PACE_STEP)

    def _offer(self, event: ResultEvent) -> None:
        listening = self._everything | self._by_transaction.get(event.transaction_id, set())
        hearing = [subscriber for subscriber in listening if subscriber.wanted.matches(event)]
        if hearing:
            text = write(event)
            for subscriber in hearing:
                subscriber.told = max(subscriber.told, event.sequence)
                if event.traceparent is not None and subscriber.outbox.verdict is None:
                    subscriber.outbox.traces[event.sequence] = event.traceparent
                subscriber.outbox.offer(event.sequence, text)

    async def _await_results(self, wakeups: trio.abc.ReceiveChannel[Topic]) -> bool:
        """Wait for a wake-up or for the time to poll; returns whether wake-ups still come."""
        with trio.move_on_after(self._poll_seconds):
            try:
                while await wakeups.receive() is not Topic.RESULTS:
                    pass
            except trio.EndOfChannel:
                return False
        if trio.current_time() < (due := self._heard_at + HEARD_SECONDS):
            await trio.sleep_until(due)
        return True
