"""A store with an object store beside it, and a look at what both of them hold."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coproc.resilience import Breaker, FullJitter, Guard, RetryPolicy
from coproc.store.connection import TrioConnection
from coproc.store.depot import Depot
from coproc.store.pool import Pool
from coproc.store.postgres import PostgresStore
from coproc.store.retention import Retention
from coproc.store.s3 import S3Objects
from tests.store.builders import ciphertext, handle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coproc.program.types import Handle
    from tests.fixtures.objects import ObjectServer

LARGE = bytes(range(256)) * 8
QUICK = RetryPolicy(attempts=3, seconds=30.0, backoff=FullJitter(0.01, 0.02))
BREAKER = Breaker(threshold=5, cooldown=60.0)
EVERYTHING = Retention(0, 0, 0, every=0)


@dataclass
class Bench:
    """A store that keeps values of 1000 bytes and more elsewhere, and what both sides hold."""

    store: PostgresStore
    client: S3Objects
    server: ObjectServer
    url: str
    now: float = 0.0
    """Time of the breaker."""

    def come_back(self) -> None:
        """The object store is up again, and the breaker's cooldown over."""
        self.server.start()
        self.now += BREAKER.cooldown

    @property
    def depot(self) -> Depot:
        return self.store.depot

    async def rows(self, query: bytes, *values: object) -> list[tuple[object, ...]]:
        async with await TrioConnection.connect(self.url, autocommit=True) as connection:
            cursor = await connection.execute(query, values, binary=True)
            return await cursor.fetchall() if cursor.description else []

    async def names(self, *handles: Handle) -> list[str | None]:
        rows = await self.rows(b"select handle, object from ciphertexts where handle = any(%s)", list(handles))
        found = {row[0]: row[1] for row in rows}
        return [None if found.get(name) is None else str(found[name]) for name in handles]

    async def kept(self) -> set[str]:
        """Objects that rows refer to."""
        query = b"select object from ciphertexts where object is not null union select object from key_chunks"
        return {str(name) for (name,) in await self.rows(query) if name is not None}

    def stored(self) -> set[str]:
        """Objects that there are."""
        return {name.removeprefix("some/prefix/") for name in self.server.names()}

    async def spoil(self, name: Handle, data: bytes | None) -> None:
        """Put other bytes in the place of a value, or none."""
        (object_name,) = await self.names(name)
        assert object_name is not None
        if data is None:
            await self.client.delete(object_name)
        else:
            await self.client.put(object_name, data, hashlib.sha256(data).digest())


@asynccontextmanager
async def bench(url: str, server: ObjectServer, *, keep: float = 0.0, from_bytes: int = 1000) -> AsyncGenerator[Bench]:
    pool, client = Pool(url), S3Objects(server.settings)
    depot = Depot(pool, client, from_bytes=from_bytes, keep_seconds=keep, policy=QUICK)
    opened = Bench(PostgresStore(pool, depot), client, server, url)
    depot.guard = Guard("object_store", BREAKER, clock=lambda: opened.now)
    try:
        yield opened
    finally:
        await depot.aclose()
        await pool.aclose()


async def upload(store: PostgresStore, count: int, data: bytes = LARGE) -> list[Handle]:
    items = [ciphertext(handle(), data + bytes([number])) for number in range(count)]
    assert await store.put_ciphertexts(items) == count
    return [item.handle for item in items]


async def data_of(store: PostgresStore, *handles: Handle) -> list[bytes]:
    found = await store.get_ciphertexts(handles)
    return [found[name].data for name in handles]
