"""Wake-ups from Postgres: one listening connection, however many subscribe.

Decides who reads the connection. There is no task of its own: whoever waits reads for everybody, and when it stops
waiting another one takes over. Nobody's slowness holds up another, since wake-ups that wait are merged by topic.
"""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

import psycopg
import trio

from coproc.store.base import Topic

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coproc.store.connection import TrioConnection
    from coproc.store.pool import Pool


_TOPICS: Final = {str(int(topic)): topic for topic in Topic}
"""Others are those of a later release."""


class Listener:
    """Subscriptions to a notification channel. The connection is opened with the first and closed with the last."""

    def __init__(self, pool: Pool, channel: str) -> None:
        self._pool = pool
        self._channel = channel
        self._line: _Line | None = None
        self._connecting = trio.Lock()

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[trio.abc.ReceiveChannel[Topic]]:
        """Hear wake-ups while the block lasts; the channel ends when the connection is lost.

        Raises:
            RecoverableError: the connection cannot be opened.
        """
        subscriber = await self._join()
        try:
            yield subscriber
        finally:
            line = subscriber.line
            line.members.discard(subscriber)
            if not line.members:
                if self._line is line:
                    self._line = None
                await line.connection.close()  # takes no checkpoint

    async def _join(self) -> _Subscriber:
        async with self._connecting:
            if self._line is None or self._line.is_lost:
                self._line = _Line(await self._pool.connect(f"listen {self._channel}"))
            return _Subscriber(self._line)


class _Line:
    """The connection and those who hear it."""

    def __init__(self, connection: TrioConnection) -> None:
        self.connection = connection
        self.members = set[_Subscriber]()
        self.is_lost = False
        self.is_read = False
        """Whether somebody waits for the connection right now."""

    async def read(self) -> None:
        """Wait for one notification and tell everybody; afterwards another one may have to take over."""
        self.is_read = True
        try:
            async with aclosing(self.connection.notifies(stop_after=1)) as notifications:
                async for notification in notifications:
                    if (topic := _TOPICS.get(notification.payload)) is not None:
                        for member in self.members:
                            member.waiting[topic] = None
        except psycopg.OperationalError:
            self.is_lost = True
        finally:
            self.is_read = False
            # Of those who have nothing to hear one reads on, and the others need not wake up.
            idle = [member for member in self.members if member.is_listening and not member.waiting]
            for member in self.members.difference(() if self.is_lost else idle[1:]):
                member.nudge.set()

    def wake_everybody(self) -> None:
        """Let somebody take over."""
        for member in self.members:
            member.nudge.set()


class _Subscriber(trio.abc.ReceiveChannel[Topic]):
    """One who hears a line."""

    def __init__(self, line: _Line) -> None:
        self.line = line
        self.waiting: dict[Topic, None] = {}
        """Topics not yet received, in order of arrival."""
        self.nudge = trio.Event()
        self.is_listening = False
        """Whether it waits while somebody else reads."""
        self._is_closed = False
        line.members.add(self)

    async def receive(self) -> Topic:
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError
            if self.waiting:
                topic = next(iter(self.waiting))
                del self.waiting[topic]
                return topic
            if self.line.is_lost:
                raise trio.EndOfChannel
            if self.line.is_read:
                self.nudge = trio.Event()
                self.is_listening = True
                try:
                    await self.nudge.wait()
                except trio.Cancelled:
                    self.line.wake_everybody()  # it may have been this one's turn to read
                    raise
                finally:
                    self.is_listening = False
            else:
                await self.line.read()

    async def aclose(self) -> None:
        self._is_closed = True
        self.nudge.set()
        self.line.wake_everybody()  # as when it is cancelled
        await trio.lowlevel.checkpoint()
