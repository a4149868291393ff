"""Wake-ups of the memory twin: a channel for everybody who listens, which forgets what it has no room for."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from coproc.store.base import Topic

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

BUFFER: Final = 64
"""Wake-ups a subscriber may leave unread before further ones are dropped."""


class MemoryWakeups:
    """Whoever is woken, within one process."""

    def __init__(self) -> None:
        super().__init__()
        self._subscribers: set[trio.MemorySendChannel[Topic]] = set()

    @asynccontextmanager
    async def wakeups(self) -> AsyncGenerator[trio.MemoryReceiveChannel[Topic]]:
        """Subscribe to wake-ups; see ``Store.wakeups``."""
        await trio.lowlevel.checkpoint()
        send, receive = trio.open_memory_channel[Topic](BUFFER)
        self._subscribers.add(send)
        with send, receive:
            try:
                yield receive
            finally:
                self._subscribers.discard(send)

    def _wake(self, topic: Topic) -> None:
        for subscriber in self._subscribers:
            with suppress(trio.WouldBlock):  # it has plenty to wake up for already
                subscriber.send_nowait(topic)
