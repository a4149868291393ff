"""What is asked of the database for people who look on: at most one thing at a time, and seldom.

Decides that lookers-on never hold more than one connection, how long an answer is good for, and how long one is waited
for, so that a page that nobody closes costs the service nothing to speak of. Knows nothing of HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from coproc.errors import Overloaded, RecoverableError
from coproc.health.history import Backlog, sum_up

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from coproc.store.overview import (
        FailedResult,
        QueueEntry,
        RecentTransaction,
        TransactionGraph,
        ViewedStore,
        WorkerEntry,
    )

T = TypeVar("T")
PATIENCE_SECONDS: Final = 5.0
"""How long one look may take."""
GOOD_FOR_SECONDS: Final = 2.0
"""How long what was seen is shown to others, too: at least this, and twenty times as long as it took to see."""
SHARE: Final = 20
MOST_WAITING: Final = 16
"""Look-ups that wait for their turn; more are refused."""
FAILURES: Final = 50
TRANSACTIONS: Final = 50


class NotSeen(RecoverableError):
    """The database does not answer just now."""


@dataclass(frozen=True, slots=True)
class Glance:
    """The open work of all processes."""

    at: float
    """Time of the Trio clock."""
    seconds: float
    """How long the database took."""
    queue: Sequence[QueueEntry]
    workers: Sequence[WorkerEntry]
    backlog: Backlog


@dataclass(frozen=True, slots=True)
class Recent:
    """What came and what failed lately."""

    failures: Sequence[FailedResult]
    transactions: Sequence[RecentTransaction]


class Lookout:
    """Looks at a store that may come and go."""

    def __init__(self, store: Callable[[], ViewedStore | None]) -> None:
        self._store = store
        self._turn = trio.Lock()
        self._recent: tuple[float, Recent] | None = None
        self.latest: Glance | None = None
        """The latest glance; it stays when the database is lost."""
        self.error: str | None = None
        """Why the latest glance failed; None: it did not."""

    async def glance(self) -> Glance:
        """Look at the open work.

        Raises:
            RecoverableError: the database does not answer.
        """

        async def look(store: ViewedStore) -> Glance:
            began = trio.current_time()
            queue, workers = await store.queue(), await store.workers()
            backlog = sum_up(queue, await store.last_sequence())
            now = trio.current_time()
            return Glance(now, now - began, queue, workers, backlog)

        try:
            self.latest = await self._look(look)
        except RecoverableError as error:
            self.error = error.message
            raise
        self.error = None
        return self.latest

    async def recent(self) -> Recent:
        """Look at failures and transactions; those who come together see the same.

        Raises:
            RecoverableError: the database does not answer.
        """

        async def look(store: ViewedStore) -> Recent:
            began = trio.current_time()
            if self._recent is not None and began < self._recent[0]:
                return self._recent[1]
            seen = Recent(await store.recent_failures(FAILURES), await store.recent_transactions(TRANSACTIONS))
            now = trio.current_time()
            self._recent = (now + max(GOOD_FOR_SECONDS, SHARE * (now - began)), seen)
            return seen

        return await self._look(look)

    async def transaction(self, transaction_id: bytes) -> TransactionGraph | None:
        """Look one transaction up; None if there is none.

        Raises:
            RecoverableError: the database does not answer.
        """
        return await self._look(lambda store: store.transaction_graph(transaction_id))

    async def _look(self, question: Callable[[ViewedStore], Awaitable[T]]) -> T:
        if self._turn.statistics().tasks_waiting >= MOST_WAITING:
            raise Overloaded("too many look-ups at once", retry_after=1.0)
        async with self._turn:
            store = self._store()
            if store is None:
                raise NotSeen("the store is not open")
            with trio.move_on_after(PATIENCE_SECONDS):
                return await question(store)
            raise NotSeen(f"the database did not answer in {PATIENCE_SECONDS:g} s")
