"""Large values in Postgres: ciphertexts and the chunks of keys.

Decides how bytes go over the wire and what is read at once. Knows nothing of computations.
"""

from __future__ import annotations

import uuid
from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio

from coproc.errors import CoprocError
from coproc.program.types import Handle
from coproc.store.base import KeyRecord, StoredCiphertext
from coproc.store.rules import redefined, unknown_key, verified
from coproc.store.sweep import TABLE as ORIGINALS
from coproc.store.tables import has_table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from psycopg import AsyncCursor
    from psycopg.rows import TupleRow

    from coproc.store.connection import TrioConnection
    from coproc.store.pool import Pool

CHUNK_BYTES: Final = 4 * 2**20
"""Size of a stored piece of a key."""
STATEMENT_BYTES: Final = 2**20
"""Roughly how much data one statement carries: little enough for the server not to spill it to disk."""
CLEANUP_SECONDS: Final = 5.0
ABANDONED_AFTER: Final = "1 day"
"""Age at which the chunks of an upload that never ended are dropped."""


_ITEMS: Final = "select handle from unnest(%b::bytea[], %b::bytea[], %b::bytea[]) as item (handle, key_id, data)"
_CONTRADICTS: Final = f"""
    {_ITEMS} join ciphertexts stored using (handle)
    where stored.key_id <> item.key_id or stored.data <> item.data limit 1
"""
_CONTRADICTS_STORED: Final = f"""
    {_ITEMS} join ciphertexts stored using (handle)
    where not exists (select from originals o where o.handle = item.handle)
      and (stored.key_id <> item.key_id or stored.data <> item.data) limit 1
"""
_CONTRADICTS_ORIGINAL: Final = f"""
    {_ITEMS} join originals o using (handle)
    where o.key_id <> item.key_id or o.digest <> sha256(item.data) limit 1
"""


async def put_key(pool: Pool, record: KeyRecord, data: AsyncIterator[bytes]) -> bool:
    """Store a key chunk by chunk; see ``Store.put_key``.

    Each chunk is a short transaction, so a slow client holds no connection; the record that makes the chunks count
    comes last.
    """
    upload = uuid.uuid4()
    try:
        position = 0
        buffer = bytearray()
        async with aclosing(verified(record, data)) as chunks:
            async for chunk in chunks:
                buffer += chunk
                while len(buffer) >= CHUNK_BYTES:
                    await _add_chunk(pool, upload, position, bytes(memoryview(buffer)[:CHUNK_BYTES]))
                    del buffer[:CHUNK_BYTES]
                    position += 1
        if buffer:
            await _add_chunk(pool, upload, position, bytes(buffer))
        async with pool.transaction() as connection:
            cursor = await connection.execute(
                "insert into keys (key_id, size, parameters, upload) values (%s, %s, %s, %s) on conflict do nothing",
                [record.key_id, record.size, record.parameters, upload],
            )
            is_new = await connection.changed_rows(cursor) == 1
    except BaseException:
        await _drop_chunks(pool, upload)
        raise
    if not is_new:  # another upload was faster
        await _drop_chunks(pool, upload)
    return is_new


async def _add_chunk(pool: Pool, upload: uuid.UUID, position: int, chunk: bytes) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "insert into key_chunks (upload, position, data) values (%s, %s, %s)",
            [upload, position, chunk],
        )


async def _drop_chunks(pool: Pool, upload: uuid.UUID) -> None:
    """Remove the chunks of an upload that does not count; what is left after a failure is swept a day later."""
    with trio.move_on_after(CLEANUP_SECONDS, shield=True):
        try:
            async with pool.connection() as connection:
                # If the answer to the last statement was lost, the record may exist all the same: then keep them.
                await connection.execute(
                    "delete from key_chunks where upload = %(upload)s"
                    " and not exists (select from keys where upload = %(upload)s)",
                    {"upload": upload},
                )
        except CoprocError:
            return


async def sweep_chunks(connection: TrioConnection) -> int:
    """Drop the chunks of uploads that never ended; returns how many there were."""
    cursor = await connection.execute(
        "delete from key_chunks c where created_at < now() - %s::interval"
        " and not exists (select from keys k where k.upload = c.upload)",
        [ABANDONED_AFTER],
    )
    return await connection.changed_rows(cursor)


async def get_key(connection: TrioConnection, key_id: bytes) -> KeyRecord | None:
    """Look a key up."""
    cursor = await connection.execute(
        "select size, parameters, created_at from keys where key_id = %s",
        [key_id],
    )
    row = await cursor.fetchone()
    return None if row is None else KeyRecord(key_id, row[0], row[1], row[2])


async def read_key(connection: TrioConnection, key_id: bytes) -> bytes:
    """Read a whole key, a chunk at a time. Raises NotFound."""
    cursor = await connection.execute("select size, upload from keys where key_id = %s", [key_id])
    if (row := await cursor.fetchone()) is None:
        raise unknown_key(key_id)
    size, upload = row
    chunks: list[bytes] = []
    for position in range(-(-size // CHUNK_BYTES)):
        cursor = await connection.execute(
            "select data from key_chunks where upload = %s and position = %s",
            [upload, position],
            binary=True,
        )
        chunks.extend([data for (data,) in await cursor.fetchall()])
    whole = b"".join(chunks)
    if len(whole) != size:
        raise CoprocError("a stored key has lost some of its chunks", key_id=key_id.hex())
    return whole


def _portions(items: Iterable[StoredCiphertext]) -> Iterator[list[StoredCiphertext]]:
    """Cut into lists of about ``STATEMENT_BYTES``."""
    portion: list[StoredCiphertext] = []
    size = 0
    for item in items:
        portion.append(item)
        size += len(item.data)
        if size >= STATEMENT_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


async def add_ciphertexts(connection: TrioConnection, items: Collection[StoredCiphertext]) -> set[Handle]:
    """Insert those ciphertexts whose handles are free; returns the new handles."""
    finish = await send_ciphertexts(connection, items)
    return await finish()


async def send_ciphertexts(
    connection: TrioConnection, items: Collection[StoredCiphertext]
) -> Callable[[], Awaitable[set[Handle]]]:
    """Insert as ``add_ciphertexts`` does; what is returned waits for the end and returns the new handles."""
    new: set[Handle] = set()
    cursor: AsyncCursor[TupleRow] | None = None

    async def finish() -> set[Handle]:
        if cursor is not None:
            new.update([Handle(handle) for (handle,) in await cursor.fetchall()])
        return new

    # In the order of handles, so that two transactions with the same ones wait for each other in one direction only.
    for portion in _portions(sorted(items, key=lambda item: item.handle)):
        await finish()  # so that the data of one statement at most waits to be sent
        cursor = await connection.execute(
            "insert into ciphertexts (handle, key_id, data, clear, is_allowed)"
            " select handle, key_id, data, clear::numeric, is_allowed"
            " from unnest(%b::bytea[], %b::bytea[], %b::bytea[], %s::text[], %s::boolean[])"
            " as item (handle, key_id, data, clear, is_allowed)"
            " on conflict do nothing returning handle",
            [
                [item.handle for item in portion],
                [item.key_id for item in portion],
                [item.data for item in portion],
                [None if item.clear is None else str(item.clear) for item in portion],
                [item.is_allowed for item in portion],
            ],
            binary=True,
        )
    return finish


async def put_ciphertexts(connection: TrioConnection, items: Mapping[Handle, StoredCiphertext]) -> set[Handle]:
    """Insert uploads; returns the handles under which nothing was stored.

    Those that are stored already count as uploaded just now, and stay locked until the transaction ends, so that they
    are not deleted meanwhile.

    Raises:
        InvalidInput: a handle names other bytes or another key, or has named them; names the handle.
    """
    new: set[Handle] = set()
    rest = list(items)
    while rest:  # again only if what was there was deleted between the two statements
        new |= await add_ciphertexts(connection, [items[handle] for handle in rest])
        old = [handle for handle in items if handle not in new]
        cursor = await connection.execute(
            "select handle from ciphertexts where handle = any(%s) order by handle for update", [old], binary=True
        )
        rest = sorted(set(old) - {Handle(handle) for (handle,) in await cursor.fetchall()})
    await _check_same(connection, items, new)
    await connection.execute(
        "update ciphertexts set created_at = clock_timestamp() where handle = any(%s)",
        [[handle for handle in items if handle not in new]],
    )
    return new


async def _check_same(
    connection: TrioConnection, items: Mapping[Handle, StoredCiphertext], new: Collection[Handle]
) -> None:
    """Check that uploads are what is, or was once, stored under their handles."""
    remembers = await has_table(connection, ORIGINALS)
    for portion in _portions(items.values()):
        columns = [
            [item.handle for item in portion],
            [item.key_id for item in portion],
            [item.data for item in portion],
        ]
        for statement in (_CONTRADICTS_ORIGINAL, _CONTRADICTS_STORED) if remembers else (_CONTRADICTS,):
            cursor = await connection.execute(statement.encode(), columns, binary=True)
            if (row := await cursor.fetchone()) is not None:
                raise redefined(Handle(row[0]), "handle")
    if remembers:
        await connection.execute("update originals set dropped_at = null where handle = any(%s)", [sorted(new)])


async def get_ciphertexts(connection: TrioConnection, handles: Sequence[Handle]) -> dict[Handle, StoredCiphertext]:
    """Read ciphertexts, some at a time; unknown ones are absent."""
    found: dict[Handle, StoredCiphertext] = {}
    rest = iter(dict.fromkeys(handles))
    while some := list(islice(rest, 64)):
        cursor = await connection.execute(
            "select handle, key_id, data, clear::text, is_allowed from ciphertexts where handle = any(%s)",
            [some],
            binary=True,
        )
        for handle, key_id, data, clear, is_allowed in await cursor.fetchall():
            known = None if clear is None else int(clear)
            found[Handle(handle)] = StoredCiphertext(Handle(handle), key_id, data, known, is_allowed)
    return found
