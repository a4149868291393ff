"""Large values in Postgres: ciphertexts and the chunks of keys.

Decides how bytes go over the wire, what is read at once, and the rows of values whose bytes are in an object store.
Knows nothing of computations.
"""

from __future__ import annotations

import uuid
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from coproc.errors import CoprocError
from coproc.program.types import Handle
from coproc.store.base import KeyRecord, StoredCiphertext
from coproc.store.depot import settle
from coproc.store.objects import Place
from coproc.store.rules import redefined, unknown_key, verified
from coproc.store.tables import NEWEST, has_table

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Collection,
        Hashable,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from psycopg import AsyncCursor
    from psycopg.rows import TupleRow

    from coproc.store.connection import TrioConnection
    from coproc.store.depot import Depot
    from coproc.store.objects import ObjectLost
    from coproc.store.pool import Pool

K = TypeVar("K", bound="Hashable")

FOLDER: Final = "ciphertexts"
"""Of the object store."""
KEY_FOLDER: Final = "keys"
CHUNK_BYTES: Final = 4 * 2**20
"""Size of a stored piece of a key."""
STATEMENT_BYTES: Final = 2**20
"""Roughly how much data one statement carries: little enough for the server not to spill it to disk."""
CLEANUP_SECONDS: Final = 5.0
ABANDONED_AFTER: Final = "1 day"
"""Age at which the chunks of an upload that never ended are dropped."""


_ITEMS: Final = "select handle from unnest(%b::bytea[], %b::bytea[], %b::bytea[]) as item (handle, key_id, digest)"
_CONTRADICTS_BEFORE: Final = f"""
    {_ITEMS} join ciphertexts stored using (handle)
    where stored.key_id <> item.key_id or sha256(stored.data) <> item.digest limit 1
"""
"""For the schema of the release before."""
_CONTRADICTS_STORED: Final = f"""
    {_ITEMS} join ciphertexts stored using (handle)
    where not exists (select from originals o where o.handle = item.handle)
      and (stored.key_id <> item.key_id or coalesce(stored.digest, sha256(stored.data)) <> item.digest) limit 1
"""
_CONTRADICTS_ORIGINAL: Final = f"""
    {_ITEMS} join originals o using (handle)
    where o.key_id <> item.key_id or o.digest <> item.digest limit 1
"""


@dataclass(frozen=True, slots=True)
class Found:
    """Ciphertexts as the database has them."""

    items: Mapping[Handle, StoredCiphertext]
    places: Mapping[Handle, Place]
    """Where the bytes are of those that have none here."""


def columns(
    keys: Sequence[K], values: Mapping[K, bytes], places: Mapping[K, Place]
) -> tuple[list[bytes], list[str | None], list[int | None], list[bytes | None]]:
    """Lay out the columns ``data``, ``object``, ``size`` and ``digest`` of values, some of which are elsewhere."""
    found = [places.get(key) for key in keys]
    return (
        [b"" if key in places else values[key] for key in keys],
        [place.name if place else None for place in found],
        [place.size if place else None for place in found],
        [place.digest if place else None for place in found],
    )


async def put_key(pool: Pool, depot: Depot, record: KeyRecord, data: AsyncIterator[bytes]) -> bool:
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
                    await _add_chunk(pool, depot, upload, position, bytes(memoryview(buffer)[:CHUNK_BYTES]))
                    del buffer[:CHUNK_BYTES]
                    position += 1
        if buffer:
            await _add_chunk(pool, depot, upload, position, bytes(buffer))
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


async def _add_chunk(pool: Pool, depot: Depot, upload: uuid.UUID, position: int, chunk: bytes) -> None:
    places = await depot.deposit(KEY_FOLDER, {position: chunk})
    async with pool.transaction() as connection:
        if position not in places:
            await connection.execute(
                "insert into key_chunks (upload, position, data) values (%s, %s, %s)", [upload, position, chunk]
            )
            return
        place = places[position]
        await connection.execute(
            "insert into key_chunks (upload, position, data, object, size, digest) values (%s, %s, '', %s, %s, %s)",
            [upload, position, place.name, place.size, place.digest],
        )
        await settle(connection, [place.name])


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


async def read_key(connection: TrioConnection, key_id: bytes) -> list[bytes | Place]:
    """Read the chunks of a key, one at a time, or where they are. Raises NotFound."""
    cursor = await connection.execute("select size, upload from keys where key_id = %s", [key_id])
    if (row := await cursor.fetchone()) is None:
        raise unknown_key(key_id)
    size, upload = row
    place = "object, size, digest" if await has_table(connection, NEWEST) else "null, null, null"
    chunks: list[bytes | Place] = []
    for position in range(-(-size // CHUNK_BYTES)):
        cursor = await connection.execute(
            f"select data, {place} from key_chunks where upload = %s and position = %s".encode(),  # noqa: S608 - constants
            [upload, position],
            binary=True,
        )
        chunks.extend([Place(*where) if where[0] else data for data, *where in await cursor.fetchall()])
    if sum([chunk.size if isinstance(chunk, Place) else len(chunk) for chunk in chunks]) != size:
        raise CoprocError("a stored key has lost some of its chunks", key_id=key_id.hex())
    return chunks


async def assemble_key(depot: Depot, key_id: bytes, chunks: Sequence[bytes | Place]) -> bytes:
    """Put a key together. Raises ObjectLost."""
    elsewhere = {position: chunk for position, chunk in enumerate(chunks) if isinstance(chunk, Place)}
    read, lost = await depot.fetch(elsewhere)
    for error in lost.values():
        error.within(key_id=key_id.hex())
        raise error
    return b"".join([read[position] if isinstance(chunk, Place) else chunk for position, chunk in enumerate(chunks)])


def _portions(items: Iterable[StoredCiphertext], places: Mapping[Handle, Place]) -> Iterator[list[StoredCiphertext]]:
    """Cut into lists that carry about ``STATEMENT_BYTES``."""
    portion: list[StoredCiphertext] = []
    size = 0
    for item in items:
        portion.append(item)
        size += 0 if item.handle in places else len(item.data)
        if size >= STATEMENT_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


async def add_ciphertexts(
    connection: TrioConnection, items: Collection[StoredCiphertext], places: Mapping[Handle, Place]
) -> set[Handle]:
    """Insert those ciphertexts whose handles are free; returns the new handles.

    Raises:
        RecoverableError: some of ``places`` was waiting for too long.
    """
    finish = await send_ciphertexts(connection, items, places)
    new = await finish()
    await settle(connection, [places[handle].name for handle in new if handle in places])
    return new


async def send_ciphertexts(
    connection: TrioConnection, items: Collection[StoredCiphertext], places: Mapping[Handle, Place]
) -> Callable[[], Awaitable[set[Handle]]]:
    """Insert as ``add_ciphertexts`` does; what is returned waits for the end and returns the new handles.

    Objects of ``places`` are still to be settled.
    """
    new: set[Handle] = set()
    cursor: AsyncCursor[TupleRow] | None = None
    # The release before knows no objects, and its schema no columns for them.
    names, types = (", object, size, digest", ", %s::text[], %s::bigint[], %b::bytea[]") if places else ("", "")

    async def finish() -> set[Handle]:
        if cursor is not None:
            new.update([Handle(handle) for (handle,) in await cursor.fetchall()])
        return new

    # In the order of handles, so that two transactions with the same ones wait for each other in one direction only.
    for portion in _portions(sorted(items, key=lambda item: item.handle), places):
        await finish()  # so that the data of one statement at most waits to be sent
        handles = [item.handle for item in portion]
        data, *where = columns(handles, {item.handle: item.data for item in portion}, places)
        cursor = await connection.execute(
            f"insert into ciphertexts (handle, key_id, data, clear, is_allowed{names})"  # noqa: S608 - constants
            f" select handle, key_id, data, clear::numeric, is_allowed{names}"
            f" from unnest(%b::bytea[], %b::bytea[], %b::bytea[], %s::text[], %s::boolean[]{types})"
            f" as item (handle, key_id, data, clear, is_allowed{names})"
            " on conflict do nothing returning handle".encode(),
            [
                handles,
                [item.key_id for item in portion],
                data,
                [None if item.clear is None else str(item.clear) for item in portion],
                [item.is_allowed for item in portion],
                *(where if places else ()),
            ],
            binary=True,
        )
    return finish


async def put_ciphertexts(
    connection: TrioConnection,
    items: Mapping[Handle, StoredCiphertext],
    digests: Mapping[Handle, bytes],
    places: Mapping[Handle, Place],
) -> set[Handle]:
    """Insert uploads; returns the handles under which nothing was stored.

    Those that are stored already count as uploaded just now, and stay locked until the transaction ends, so that they
    are not deleted meanwhile.

    Raises:
        InvalidInput: a handle names other bytes or another key, or has named them; names the handle.
        RecoverableError: as ``add_ciphertexts``.
    """
    new: set[Handle] = set()
    rest = list(items)
    while rest:  # again only if what was there was deleted between the two statements
        new |= await add_ciphertexts(connection, [items[handle] for handle in rest], places)
        old = [handle for handle in items if handle not in new]
        cursor = await connection.execute(
            "select handle from ciphertexts where handle = any(%s) order by handle for update", [old], binary=True
        )
        rest = sorted(set(old) - {Handle(handle) for (handle,) in await cursor.fetchall()})
    await _check_same(connection, items, digests, new)
    await connection.execute(
        "update ciphertexts set created_at = clock_timestamp() where handle = any(%s)",
        [[handle for handle in items if handle not in new]],
    )
    return new


async def _check_same(
    connection: TrioConnection,
    items: Mapping[Handle, StoredCiphertext],
    digests: Mapping[Handle, bytes],
    new: Collection[Handle],
) -> None:
    """Check that uploads are what is, or was once, stored under their handles."""
    remembers = await has_table(connection, NEWEST)
    old = [handle for handle in items if handle not in new]
    checks = (
        [(_CONTRADICTS_ORIGINAL, [*items]), (_CONTRADICTS_STORED, old)] if remembers else [(_CONTRADICTS_BEFORE, old)]
    )
    for statement, handles in checks:
        cursor = await connection.execute(
            statement.encode(),
            [handles, [items[handle].key_id for handle in handles], [digests[handle] for handle in handles]],
            binary=True,
        )
        if (row := await cursor.fetchone()) is not None:
            raise redefined(Handle(row[0]), "handle")
    if remembers:
        await connection.execute("update originals set dropped_at = null where handle = any(%s)", [sorted(new)])


async def get_ciphertexts(connection: TrioConnection, handles: Sequence[Handle]) -> Found:
    """Read ciphertexts, some at a time; unknown ones are absent."""
    found: dict[Handle, StoredCiphertext] = {}
    places: dict[Handle, Place] = {}
    place = "object, size, digest" if await has_table(connection, NEWEST) else "null, null, null"
    statement = f"select handle, key_id, data, clear::text, is_allowed, {place} from ciphertexts where handle = any(%s)"  # noqa: S608 - constants
    rest = iter(dict.fromkeys(handles))
    while some := list(islice(rest, 64)):
        cursor = await connection.execute(statement.encode(), [some], binary=True)
        for handle, key_id, data, clear, is_allowed, *where in await cursor.fetchall():
            known = None if clear is None else int(clear)
            found[Handle(handle)] = StoredCiphertext(Handle(handle), key_id, data, known, is_allowed)
            if where[0] is not None:
                places[Handle(handle)] = Place(*where)
    return Found(found, places)


async def complete(depot: Depot, found: Found) -> tuple[dict[Handle, StoredCiphertext], dict[Handle, ObjectLost]]:
    """Add the bytes that are in the object store; what cannot be had any more is named with why."""
    read, lost = await depot.fetch(found.places)
    whole = {
        handle: replace(item, data=read[handle]) if handle in read else item
        for handle, item in found.items.items()
        if handle not in lost
    }
    return whole, lost
