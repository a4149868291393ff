"""Open a store by its URL.

Decides which implementation a URL means and how long an unreachable database is waited for.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from coproc.errors import FatalError, InvalidInput, RecoverableError
from coproc.store.blobs import sweep_chunks
from coproc.store.depot import Depot
from coproc.store.memory_overview import ViewedMemoryStore
from coproc.store.migrator import migrate, require_migrated
from coproc.store.pool import DEFAULT_SIZE, Pool
from coproc.store.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coproc.store.objects import ObjectSettings, ObjectStore
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
    objects: ObjectSettings | None = None,
) -> AsyncGenerator[ViewedStore]:
    """Open a store, migrated to this version; closed in order after the block.

    Args:
        url: ``memory://`` for the twin that forgets, or a ``postgresql://`` connection URL.
        pool_size: the most database connections (one more while somebody subscribes to wake-ups).
        patience: seconds to keep trying, with growing jittered pauses, while the database cannot be reached.
        objects: where large values go, for Postgres; None: into the database, too.
        migrating: whether to apply migrations; False waits for somebody else to have done so, as long as ``patience``.

    Raises:
        InvalidInput: another kind of URL.
        FatalError: an object store is asked for, and the extra ``s3`` is not installed.
        RecoverableError: the database stayed out of reach, or without the migrations of this version.
        MigrationError: the database has another history than this code.
    """
    if url == "memory://":
        yield ViewedMemoryStore()
        return
    if not url.startswith(SCHEMES):
        raise InvalidInput("database_url", f"starts with memory:// or {SCHEMES[0]}")
    pool = Pool(url, pool_size)
    depot = Depot(pool)
    if objects is not None:
        client = await trio.to_thread.run_sync(make_objects, objects)  # imports much
        depot = Depot(pool, client, from_bytes=objects.from_bytes, keep_seconds=objects.keep_seconds)
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
        yield PostgresStore(pool, depot)
    finally:
        await depot.aclose()
        await pool.aclose()


def make_objects(settings: ObjectSettings) -> ObjectStore:
    """Make the client of an object store; nothing is asked yet.

    Raises:
        FatalError: the extra ``s3`` is not installed.
    """
    try:
        from coproc.store.s3 import S3Objects  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as missing:
        raise FatalError(f"object_store_url needs the extra s3: {missing.name} is not installed") from missing
    return S3Objects(settings)
