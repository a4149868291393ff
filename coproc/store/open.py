"""Open a store by its URL.

Decides which implementation a URL means and how long an unreachable database is waited for.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from coproc.errors import InvalidInput, RecoverableError
from coproc.store.blobs import sweep_chunks
from coproc.store.memory_overview import ViewedMemoryStore
from coproc.store.migrator import migrate, require_migrated
from coproc.store.pool import DEFAULT_SIZE, Pool
from coproc.store.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coproc.store.overview import ViewedStore

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 60.0
"""How long an unreachable database is waited for."""
SCHEMES: Final = ("postgresql://", "postgres://")


@asynccontextmanager
async def open_store(
    url: str,
    *,
    pool_size: int = DEFAULT_SIZE,
    patience: float = PATIENCE_SECONDS,
    migrating: bool = True,
) -> AsyncGenerator[ViewedStore]:
    """Open a store, migrated to this version; closed in order after the block.

    Args:
        url: ``memory://`` for the twin that forgets, or a ``postgresql://`` connection URL.
        pool_size: the most database connections (one more while somebody subscribes to wake-ups).
        patience: seconds to keep trying, with growing jittered pauses, while the database cannot be reached.
        migrating: whether to apply migrations; False waits for somebody else to have done so, as long as ``patience``.

    Raises:
        InvalidInput: another kind of URL.
        RecoverableError: the database stayed out of reach, or without the migrations of this version.
        MigrationError: the database has another history than this code.
    """
    if url == "memory://":
        yield ViewedMemoryStore()
        return
    if not url.startswith(SCHEMES):
        raise InvalidInput("database_url", f"starts with memory:// or {SCHEMES[0]}")
    pool = Pool(url, pool_size)
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(RecoverableError),
            wait=wait_exponential_jitter(multiplier=0.2, max=5),
            stop=stop_after_delay(patience),
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        ):
            with attempt:
                async with pool.connection() as connection:
                    await (migrate(connection) if migrating else require_migrated(connection))
                    await sweep_chunks(connection)
        yield PostgresStore(pool)
    finally:
        await pool.aclose()
