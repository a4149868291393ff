"""A bounded pool of Trio connections behind a circuit breaker.

Decides how many connections there are, which may be used again, and when the database counts as gone: then callers are
told at once, instead of each waiting for it. Knows nothing of what is asked over the connections.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio

from coproc.resilience import Breaker, Guard
from coproc.store.connection import TrioConnection
from coproc.store.faults import DatabaseUnavailable, translated_errors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

DEFAULT_SIZE: Final = 8
SESSION: Final = (
    "set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off;"
    " set plan_cache_mode = force_generic_plan"
)
"""Every statement of ours goes by an index. Without this, a plan made while the tables were small may be kept while
they grow, and scan all of them. So there is nothing to plan anew for other values either, which takes longer than to
find a few rows."""
ACQUIRE_SECONDS: Final = 30.0
"""How long a task may wait for a free connection."""
BREAKER: Final = Breaker(threshold=3, cooldown=1.0)
"""Of connecting and of signs of life: while the database is away, callers hear so at once."""
CHECK_SECONDS: Final = 5.0
"""How long the database may take to give a sign of life."""
STILL_SECONDS: Final = 15.0
"""How long a transaction waits for a lock before it asks whether whoever holds it stands still."""
CLOSE_SECONDS: Final = 5.0
"""How long closing waits for connections in use."""


class Pool:
    """At most ``size`` connections, the most recently used first, each checked before it is handed out.

    A connection that a block leaves inside a transaction, busy or broken is closed, not reused. All connections are
    in autocommit mode: transactions are asked for by name.
    """

    def __init__(self, conninfo: str, size: int = DEFAULT_SIZE, still_seconds: float = STILL_SECONDS) -> None:
        self.conninfo = conninfo
        self._still_seconds = still_seconds
        self.guard = Guard("database", BREAKER)
        self._slots = trio.Semaphore(size, max_value=size)
        self._size = size
        self._pulse: TrioConnection | None = None
        self._idle: list[TrioConnection] = []
        self._busy: set[TrioConnection] = set()
        self._is_closing = False
        self._all_returned = trio.Event()

    @property
    def size(self) -> int:
        """The most connections there can be."""
        return self._size

    @property
    def in_use(self) -> int:
        """Connections handed out now."""
        return len(self._busy)

    @property
    def idle(self) -> int:
        """Connections open and waiting."""
        return len(self._idle)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[TrioConnection]:
        """Borrow a connection. psycopg errors of the block leave it translated.

        Raises:
            DatabaseUnavailable: when the pool is closing, none becomes free in time, or connecting fails.
            CircuitOpen: the database has been out of reach and is left in peace for a moment.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # whoever is cancelled already sends nothing
        if not self._idle:
            self.guard.check()
        with translated_errors():
            try:
                self._slots.acquire_nowait()
            except trio.WouldBlock:
                with trio.fail_after(ACQUIRE_SECONDS):
                    await self._slots.acquire()
            try:
                connection = await self._take()
                self._busy.add(connection)
                try:
                    yield connection
                finally:
                    self._busy.discard(connection)
                    await self._give_back(connection)
            finally:
                self._slots.release()
                if self._is_closing and not self._busy:
                    self._all_returned.set()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[TrioConnection]:
        """Borrow a connection with a transaction open: committed after the block, rolled back if it raises.

        Statements are sent ahead; see ``TrioConnection.sending_ahead``.
        """
        async with self.connection() as connection, connection.sending_ahead():
            yield connection

    async def end_stillness(self) -> None:
        """End sessions of ours that have stood still in a transaction: their processes were stopped, or cut off.

        The server's own limits do not see them: to it, whoever sends statements ahead and then nothing is busy.
        """
        async with self.connection() as connection:
            cursor = await connection.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where datname = current_database() and usename = current_user and pid <> pg_backend_pid()"
                " and xact_start is not null and wait_event = 'ClientRead'"
                " and state_change < clock_timestamp() - make_interval(secs => %s)",
                [self._still_seconds / 2],
            )
            row = await cursor.fetchone()
        if row and row[0]:
            log.warning("sessions ended that stood still in a transaction", sessions=row[0])

    async def check(self) -> None:
        """Ask the database for a sign of life, over a connection beside the pool's, which may all be stuck.

        Raises:
            DatabaseUnavailable: if there is none.
            CircuitOpen: there was none several times in a row, and it is too early to ask again.
        """
        with self.guard.calling(), translated_errors(), trio.fail_after(CHECK_SECONDS):
            if self._is_closing:
                raise DatabaseUnavailable("database: the pool is closing")
            connection, self._pulse = self._pulse, None
            try:
                if connection is None or not connection.is_reusable:
                    await _close(connection)
                    connection = await TrioConnection.connect(self.conninfo, autocommit=True)
                await connection.execute("select 1")
                self._pulse, connection = connection, self._pulse
            finally:
                await _close(connection)

    async def aclose(self) -> None:
        """Hand out no more, wait a while for connections in use, then close all of them."""
        self._is_closing = True
        try:
            if self._busy:
                with trio.move_on_after(CLOSE_SECONDS):
                    await self._all_returned.wait()
        finally:
            for connection in [*self._idle, *self._busy, self._pulse]:
                await _close(connection)
            self._idle.clear()

    async def _take(self) -> TrioConnection:
        if self._is_closing:
            raise DatabaseUnavailable("database: the pool is closing")
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            await connection.close()
        return await self.connect(f"{SESSION}; set lock_timeout = '{1000 * self._still_seconds:.0f}ms'")

    async def connect(self, statement: str) -> TrioConnection:
        """Open a connection beside the pool's and prepare it by a statement; closing it is the caller's business.

        Raises:
            DatabaseUnavailable: that is not possible now.
            CircuitOpen: it was not possible several times in a row, a moment ago.
        """
        with self.guard.calling(), translated_errors():
            connection = await TrioConnection.connect(self.conninfo, autocommit=True, prepare_threshold=0)
            try:
                await connection.execute(statement.encode(), prepare=False)
            except BaseException:
                await connection.close()
                raise
            return connection

    async def _give_back(self, connection: TrioConnection) -> None:
        if connection.is_reusable and not self._is_closing:
            self._idle.append(connection)
        else:
            await connection.close()


async def _close(connection: TrioConnection | None) -> None:
    """Close a connection if there is one; takes no checkpoint."""
    if connection is not None:
        await connection.close()
