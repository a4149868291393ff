"""Migrations: forward only, once, by one process at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from coproc.errors import InvalidInput, RecoverableError
from coproc.store.base import KeyRecord
from coproc.store.connection import TrioConnection
from coproc.store.faults import DatabaseRefused, translated_errors
from coproc.store.memory import MemoryStore
from coproc.store.migrator import Migration, MigrationError, migrate, shipped_migrations
from coproc.store.open import open_store
from tests.store.builders import KEY, KEY_DATA, pieces


async def connect(url: str) -> TrioConnection:
    return await TrioConnection.connect(url, autocommit=True)


async def test_a_database_is_brought_up_to_date_once(empty_database_url: str) -> None:
    async with await connect(empty_database_url) as connection:
        assert await migrate(connection) == len(shipped_migrations()) > 0
        assert await migrate(connection) == 0
        extra = Migration(len(shipped_migrations()) + 1, "more", "alter table keys add column note text")
        assert await migrate(connection, [*shipped_migrations(), extra]) == 1
        assert await migrate(connection) == 0, "an older release leaves a newer schema alone"


async def test_processes_that_start_together_apply_it_once(empty_database_url: str) -> None:
    counts: list[int] = []

    async def one() -> None:
        async with await connect(empty_database_url) as connection:
            counts.append(await migrate(connection))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(one)
    assert sorted(counts) == [0, 0, len(shipped_migrations())]


async def test_a_changed_migration_is_refused(empty_database_url: str) -> None:
    async with await connect(empty_database_url) as connection:
        await migrate(connection)
        changed = [replace(shipped_migrations()[0], sql="select 1")]
        with pytest.raises(MigrationError) as caught:
            await migrate(connection, changed)
        assert caught.value.context == {"number": 1}


async def test_a_broken_migration_leaves_nothing(empty_database_url: str) -> None:
    broken = Migration(1, "broken", "create table half (n integer); select nonsense")
    async with await connect(empty_database_url) as connection:
        with pytest.raises(DatabaseRefused), translated_errors():
            await migrate(connection, [broken])
        cursor = await connection.execute("select to_regclass('half') is null, to_regclass('migrations') is null")
        assert await cursor.fetchone() == (True, True)


async def test_opening_migrates_and_data_stays(empty_database_url: str) -> None:
    async with open_store(empty_database_url) as store:
        assert await store.put_key(KeyRecord(KEY, len(KEY_DATA), "toy"), pieces(KEY_DATA))
    async with open_store(empty_database_url) as store:
        assert await store.read_key(KEY) == KEY_DATA


async def test_abandoned_chunks_are_swept_when_a_store_opens(database_url: str) -> None:
    async with await connect(database_url) as connection:
        await connection.execute(
            "insert into key_chunks values (gen_random_uuid(), 0, 'old', now() - interval '2 days'),"
            " (gen_random_uuid(), 0, 'new', now())",
        )
        async with open_store(database_url):
            cursor = await connection.execute("select convert_from(data, 'UTF8') from key_chunks")
            assert await cursor.fetchall() == [("new",)]


async def test_urls() -> None:
    async with open_store("memory://") as store:
        assert isinstance(store, MemoryStore)
    with pytest.raises(InvalidInput):
        async with open_store("sqlite:///x"):
            pass


async def test_an_unreachable_database_is_waited_for_and_then_reported() -> None:
    with pytest.raises(RecoverableError):
        async with open_store("postgresql://nobody@localhost:1/nothing", patience=0.1):
            pass
