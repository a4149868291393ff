"""Room in the queue, without counting the queue for every call.

Decides how long a count may be relied upon: for a second, and until a small share of the room that it found is used.
Near the limit that share is nothing, so that every call counts. Other processes add to the queue as well: all of them
together overshoot the limit by no more than that share each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from coproc.errors import Overloaded

if TYPE_CHECKING:
    from coproc.store.base import Store

SHARE: Final = 16
"""One of so many parts of the room may be used before it is counted again."""
SECONDS: Final = 1.0


class Headroom:
    """How much more work may be accepted."""

    def __init__(self, store: Store, limit: int) -> None:
        """Allow ``limit`` open groups."""
        self._store = store
        self._limit = limit
        self._left = 0
        self._until = 0.0

    async def take(self, groups: int) -> None:
        """Use room for up to so many new groups. Raises Overloaded if the queue is full."""
        if groups > self._left or trio.current_time() >= self._until:
            room = self._limit - await self._store.count_open(self._limit)
            if room <= 0:
                raise Overloaded("the queue is full; try again later", limit="max_open_groups", retry_after=5.0)
            self._left, self._until = room // SHARE, trio.current_time() + SECONDS
        self._left -= groups
