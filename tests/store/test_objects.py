"""Large values in an object store: a real Postgres, and a real server of S3's interface that goes away and lies."""

from __future__ import annotations

import hashlib
import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio
from click.testing import CliRunner

from coproc.cli import cli
from coproc.errors import InvalidInput, RecoverableError
from coproc.resilience import BreakerState, CircuitOpen
from coproc.store.base import KeyRecord
from coproc.store.connection import TrioConnection
from coproc.store.migrator import OLDEST_SCHEMA, migrate, shipped_migrations
from coproc.store.objects import ObjectLocked, ObjectLost, ObjectStoreUnavailable, read_what_is_left
from coproc.store.open import open_store
from coproc.store.postgres import PostgresStore
from coproc.store.s3 import S3Objects
from tests.store.builders import KEY, KEY_DATA, add, batch, ciphertext, done, handle, pieces, with_key
from tests.store.object_bench import EVERYTHING, LARGE, bench, data_of, upload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coproc.program.types import Handle
    from coproc.store.base import StoredCiphertext
    from coproc.store.objects import ObjectSettings, Place
    from tests.fixtures.objects import ObjectServer


async def test_large_values_go_there_and_small_ones_stay(database_url: str, objects: ObjectServer) -> None:
    async with bench(database_url, objects) as at:
        store = at.store
        await with_key(store)
        a, b = await upload(store, 2)
        small, clear = ciphertext(handle()), replace(ciphertext(handle(), LARGE), clear=-5, is_allowed=False)
        assert await store.put_ciphertexts([small, clear]) == 2
        computation = add(a, b)
        await store.submit(batch(computation))
        (group,) = await store.claim("worker", 1, 60)
        assert await store.finish("worker", done(group, data=LARGE[::-1]))
        everything = [a, b, small.handle, clear.handle, computation.output]
        found = await store.get_ciphertexts([*everything, handle()])
        assert [found[name].data for name in everything] == [LARGE + b"\0", LARGE + b"\1", b"bytes", LARGE, LARGE[::-1]]
        assert found[clear.handle] == clear
        rows = await at.rows(b"select octet_length(data), size, digest from ciphertexts where object is not null")
        digests = [hashlib.sha256(found[name].data).digest() for name in everything if name != small.handle]
        assert sorted(rows) == sorted([(0, len(found[a].data), digests[0]), (0, len(found[b].data), digests[1])] + [
            (0, len(LARGE), digest) for digest in digests[2:]
        ])  # fmt: skip
        assert at.stored() == await at.kept()
        assert len(at.stored()) == 4
        assert await at.rows(b"select from loose_objects") == []
        assert store.guards[-1].name == "object_store"
        await store.check()
    async with open_store(database_url, objects=objects.settings) as reopened:
        assert (await reopened.get_ciphertexts([a]))[a].data == LARGE + b"\0"


async def test_a_key_is_kept_in_chunks(database_url: str, objects: ObjectServer) -> None:
    data = random.Random(1).randbytes((4 << 20) + 5000)
    record = KeyRecord(hashlib.sha256(data).digest(), len(data), "toy")
    async with bench(database_url, objects) as at:
        assert await at.store.put_key(record, pieces(data[:1000], data[1000:]))
        assert await at.rows(b"select octet_length(data), size from key_chunks order by position") == [
            (0, 4 << 20),
            (0, 5000),
        ]
        assert await at.store.read_key(record.key_id) == data
        at.server.stop()
        with pytest.raises(ObjectStoreUnavailable):
            await at.store.read_key(record.key_id)
        at.come_back()
        wrong = KeyRecord(bytes(32), len(data), "toy")
        with pytest.raises(InvalidInput):
            await at.store.put_key(wrong, pieces(data))
        assert (await at.store.sweep_objects())[0] == 1, "chunks of an upload that did not count"
        assert at.stored() == await at.kept()
        (name,) = sorted(await at.kept())[:1]
        await at.client.delete(name)
        with pytest.raises(ObjectLost) as caught:
            await at.store.read_key(record.key_id)
        assert caught.value.context["key_id"] == record.key_id.hex()


async def test_uploads_are_compared_wherever_their_bytes_are(database_url: str, objects: ObjectServer) -> None:
    """Also those from before there was an object store, or from after."""
    async with open_store(database_url) as plain:
        await with_key(plain)
        before = ciphertext(handle(), LARGE)
        assert await plain.put_ciphertexts([before]) == 1
    async with bench(database_url, objects) as at:
        (after,) = [ciphertext(name, LARGE + b"\0") for name in await upload(at.store, 1)]
        for item in (before, after):
            assert await at.store.put_ciphertexts([item]) == 0
            with pytest.raises(InvalidInput):
                await at.store.put_ciphertexts([replace(item, data=LARGE + b"other")])
        assert len(at.stored()) == 1, "what is there already is not stored again"
        await at.store.sweep(EVERYTHING, 10)
        with pytest.raises(InvalidInput):
            await at.store.put_ciphertexts([replace(after, data=LARGE + b"other")])
        assert await at.store.put_ciphertexts([before, after]) == 2
    async with open_store(database_url) as plain:
        assert await plain.put_ciphertexts([before, after]) == 0


# -------------------------------------------------------------------------------------------- crashes, garbage


async def test_an_object_without_a_row_is_deleted_in_time(database_url: str, objects: ObjectServer) -> None:
    async with bench(database_url, objects, keep=3600) as at:
        await with_key(at.store)
        (stays,) = await upload(at.store, 1)
        places = await at.depot.deposit("ciphertexts", {1: LARGE, 2: b"small"})  # and then the process ends
        assert places.keys() == {1}
        assert await at.store.sweep_objects() == (0, False)
        assert len(at.stored()) == 2
    async with bench(database_url, objects) as at:
        assert await at.store.sweep_objects() == (1, False)
        assert at.stored() == set(await at.names(stays))
        assert await at.rows(b"select from loose_objects") == []


async def test_a_deleted_rows_object_is_deleted_even_if_it_cannot_be_at_once(
    database_url: str, objects: ObjectServer
) -> None:
    async with bench(database_url, objects) as at:
        await with_key(at.store)
        await upload(at.store, 3)
        step = await at.store.sweep(EVERYTHING, 10)
        assert (step.values, step.size) == (3, 3 * (len(LARGE) + 1))
        at.server.stop()
        with pytest.raises(RecoverableError):
            await at.store.sweep_objects()
        at.come_back()
        assert len(at.stored()) == 3
        assert await at.store.sweep_objects() == (3, False)
        assert at.stored() == set()
        assert await at.rows(b"select from loose_objects") == []


async def test_what_cannot_be_deleted_holds_up_nothing_else(
    database_url: str, objects: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(database_url, objects) as at:
        await with_key(at.store)
        handles = await upload(at.store, 3)
        (locked, *_) = await at.names(*handles)
        whole = at.client.delete

        async def delete(name: str) -> None:
            if name == locked:
                raise ObjectLocked("403 AccessDenied")
            await whole(name)

        monkeypatch.setattr(at.client, "delete", delete)
        monkeypatch.setattr("coproc.store.depot.DELETED_AT_ONCE", 2)
        await at.store.sweep(EVERYTHING, 10)
        await at.rows(b"update loose_objects set since = since - interval '1 minute' where name = %s", locked)
        assert [await at.store.sweep_objects() for _ in range(2)] == [(1, True), (1, True)]
        assert at.stored() == {locked}
        assert await at.store.sweep_objects() == (0, False)
        assert at.store.guards[-1].failures == 0, "an answer"
        monkeypatch.undo()
        assert await at.store.sweep_objects() == (1, False)
        assert at.stored() == set()


async def test_nothing_comes_to_refer_to_what_is_being_deleted(
    database_url: str, objects: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer stands still between object and row for so long that the object counts as forgotten."""
    async with bench(database_url, objects) as at:
        await with_key(at.store)
        item = ciphertext(handle(), LARGE)
        whole = at.depot.deposit

        async def interrupted(
            folder: str, values: Mapping[Handle, bytes], digests: Mapping[Handle, bytes]
        ) -> Mapping[Handle, Place]:
            places = await whole(folder, values, digests)
            assert await at.store.sweep_objects() == (1, False)
            return places

        monkeypatch.setattr(at.depot, "deposit", interrupted)
        with pytest.raises(RecoverableError, match="waited too long"):
            await at.store.put_ciphertexts([item])
        assert await at.store.get_ciphertexts([item.handle]) == {}
        monkeypatch.undo()
        assert await at.store.put_ciphertexts([item]) == 1
        assert await data_of(at.store, item.handle) == [LARGE]


async def write_both(store: PostgresStore, items: Sequence[StoredCiphertext], chance: random.Random) -> None:
    """Store each value, then another form of it; each attempt is cut off at random, with growing patience."""
    patience = 0.02
    for item in items:
        for form in (item.data, item.data[::-1]):
            written = False
            while not written:
                # An object may also be swept before its row is there.
                with trio.move_on_after(chance.random() * patience), suppress(RecoverableError):
                    if form is item.data:
                        await store.put_ciphertexts([item])
                    else:
                        await store.change_forms({item.handle: form})
                    written = True
                patience *= 1.02
            assert await data_of(store, item.handle) == [form]


@pytest.mark.parametrize("sweeping", [True, False])
async def test_cut_off_anywhere_nothing_is_lost_and_nothing_forgotten(
    database_url: str, objects: ObjectServer, *, sweeping: bool
) -> None:
    """Uploads and changes of form are cut off at random and repeated; objects are swept all the time, or never."""
    chance = random.Random(5)
    async with bench(database_url, objects) as at:
        store = at.store
        await with_key(store)
        items = {item.handle: item for item in [ciphertext(handle(), chance.randbytes(1500)) for _ in range(24)]}

        async def sweep() -> None:
            while True:
                with suppress(RecoverableError):
                    await store.sweep_objects()
                await trio.sleep(0.01)

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                if sweeping:
                    nursery.start_soon(sweep)
                async with trio.open_nursery() as writers:
                    for first in range(0, 24, 8):
                        writers.start_soon(write_both, store, [*items.values()][first : first + 8], chance)
                nursery.cancel_scope.cancel()
        assert await data_of(store, *items) == [item.data[::-1] for item in items.values()]
        stored, kept = at.stored(), await at.kept()
        assert kept <= stored
        assert len(kept) == 24
        if not sweeping:  # else a request that was cut off may have been carried out after the deletion
            loose = {str(name) for (name,) in await at.rows(b"select name from loose_objects")}
            assert stored - kept <= loose
            assert len(loose) >= 24


async def test_another_form_is_another_object(database_url: str, objects: ObjectServer) -> None:
    async with bench(database_url, objects, keep=3600) as at:
        await with_key(at.store)
        a, b = await upload(at.store, 2)
        before = await at.names(a, b)
        assert await at.store.change_forms({a: LARGE[::-1], b: b"small", handle(): LARGE}) == 2
        assert await data_of(at.store, a, b) == [LARGE[::-1], b"small"]
        after = await at.names(a, b)
        assert after[1] is None
        assert after[0] not in before
        assert {before[0], before[1], after[0]} < at.stored(), "who is reading just now goes on"
        assert await at.store.put_ciphertexts([ciphertext(a, LARGE + b"\0")]) == 0, "the same upload"
        await at.store.ask_plain([a, b])
        assert {item.handle: item.data for item in await at.store.claim_thaws(5, 60)} == {a: LARGE[::-1], b: b"small"}
        await at.store.finish_thaws({b: LARGE})
        assert await data_of(at.store, b) == [LARGE]
    async with bench(database_url, objects) as at:
        assert (await at.store.sweep_objects())[0] == 3
        assert at.stored() == await at.kept()


# ------------------------------------------------------------------------------------ what an object store can do


async def test_while_it_is_away_what_needs_it_waits_and_the_rest_goes_on(
    database_url: str, objects: ObjectServer
) -> None:
    async with bench(database_url, objects) as at:
        store = at.store
        await with_key(store)
        (a,) = await upload(store, 1)
        late = ciphertext(handle(), LARGE)
        await store.submit(batch(add(a)))
        (group,) = await store.claim("worker", 1, 60)
        at.server.stop()
        for call in (
            lambda: store.put_ciphertexts([late]),
            lambda: store.get_ciphertexts([a]),
            lambda: store.finish("worker", done(group, data=LARGE)),
        ):
            with pytest.raises(RecoverableError) as caught:
                await call()
            assert isinstance(caught.value, ObjectStoreUnavailable | CircuitOpen)
        guard = store.guards[-1]
        assert (guard.name, guard.state, guard.openings) == ("object_store", BreakerState.OPEN, 1)
        with pytest.raises(CircuitOpen):
            await store.put_ciphertexts([late])
        with pytest.raises(RecoverableError):
            await store.check()
        assert await store.get_status([late.handle]) == {}, "no row without its object"
        assert await store.put_ciphertexts([ciphertext(handle())]) == 1
        at.come_back()
        assert await store.put_ciphertexts([late]) == 1
        assert await store.finish("worker", done(group, data=LARGE))
        assert await data_of(store, a, late.handle) == [LARGE + b"\0", LARGE]
        await store.check()
        assert (guard.state, guard.error) == (BreakerState.CLOSED, None)


async def test_wrong_bytes_are_told_from_right_ones_and_spoil_nothing_else(
    database_url: str, objects: ObjectServer
) -> None:
    async with bench(database_url, objects) as at:
        store = at.store
        await with_key(store)
        gone, changed, shorter, longer, fine = handles = await upload(store, 5)
        await at.spoil(gone, None)
        await at.spoil(changed, LARGE + b"!")
        await at.spoil(shorter, LARGE[:1200])
        await at.spoil(longer, LARGE * 100)
        with pytest.raises(ObjectLost) as caught:
            await store.get_ciphertexts(handles)
        assert set(caught.value.handles) == {gone, changed, shorter, longer}
        left, lost = await read_what_is_left(store, handles)
        assert {name: item.data for name, item in left.items()} == {fine: LARGE + b"\4"}
        assert lost.keys() == {gone, changed, shorter, longer}
        await store.ask_plain(handles)
        assert [item.handle for item in await store.claim_thaws(10, 60)] == [fine]
        assert await store.claim_thaws(10, 0) == [], "nobody asks for ever for what is lost"
        assert store.guards[-1].state is BreakerState.CLOSED, "an answer, if a bad one"


async def test_another_bucket_and_other_keys_are_refused(database_url: str, objects: ObjectServer) -> None:
    async with bench(database_url, objects) as at:
        await with_key(at.store)
        (a,) = await upload(at.store, 1)
    settings = objects.settings
    for wrong, reason in (
        (replace(settings, url=f"{settings.url}/elsewhere"), "is object_store_url right"),
        (replace(settings, url=settings.url.replace("/coproc/", "/nowhere/")), "NoSuchBucket"),
        (replace(settings, secret_key="wrong"), "403 SignatureDoesNotMatch"),  # noqa: S106
        (replace(settings, access_key="nobody"), "403 InvalidAccessKeyId"),
        (None, "set object_store_url"),
    ):
        async with open_store(database_url, objects=wrong) as store:
            for call in (lambda: store.get_ciphertexts([a]), store.check):
                with pytest.raises(ObjectStoreUnavailable, match=reason):
                    await call()
            guard = store.guards[-1]
            assert guard.name == "object_store"
            assert guard.error is not None
            assert reason in guard.error
    async with bench(database_url, objects) as at:
        reader = S3Objects(replace(settings, secret_key="wrong"))  # noqa: S106
        with pytest.raises(ObjectLocked, match="SignatureDoesNotMatch"):
            await reader.delete("anything")
        await reader.aclose()
        assert len(at.stored()) == 1


async def test_without_keys_those_of_the_environment_are_used(
    database_url: str, objects: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(objects.settings, access_key=None, secret_key=None)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    async with open_store(database_url, objects=settings) as store:
        with pytest.raises(ObjectStoreUnavailable, match="no credentials"):
            await with_key(store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", str(objects.settings.access_key))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", str(objects.settings.secret_key))
    async with open_store(database_url, objects=settings) as store:
        await with_key(store)
        assert await store.read_key(KEY) == KEY_DATA
    assert len(objects.names()) == 1


async def test_signatures_go_by_the_clock_of_the_object_store(database_url: str, objects: ObjectServer) -> None:
    async with bench(database_url, objects) as at:
        for wrong in (timedelta(hours=1), timedelta(days=-2)):
            at.client._skew = wrong
            with pytest.raises(ObjectStoreUnavailable, match=r"RequestTimeTooSkewed|AccessDenied"):
                await at.client.get("anything", 5)
            with pytest.raises(ObjectLost):
                await at.client.get("anything", 5)
            assert abs(at.client._skew) < timedelta(minutes=10)


async def test_two_databases_share_a_bucket(database_url: str, empty_database_url: str, objects: ObjectServer) -> None:
    async with bench(database_url, objects) as one:
        await with_key(one.store)
        (a,) = await upload(one.store, 1)
        async with await TrioConnection.connect(empty_database_url, autocommit=True) as connection:
            await migrate(connection)
        async with bench(empty_database_url, objects) as other:
            await with_key(other.store)
            await upload(other.store, 2)
            await other.store.sweep(EVERYTHING, 10)
            assert await other.store.sweep_objects() == (2, False)
        assert await data_of(one.store, a) == [LARGE + b"\0"]


# ----------------------------------------------------------------------------------------- other releases, moving


async def test_on_the_schema_before_everything_stays_in_the_database(
    empty_database_url: str, objects: ObjectServer
) -> None:
    async with await TrioConnection.connect(empty_database_url, autocommit=True) as connection:
        await migrate(connection, shipped_migrations()[:OLDEST_SCHEMA])
    async with bench(empty_database_url, objects) as at:
        await with_key(at.store)
        (a,) = await upload(at.store, 1)
        assert await at.store.put_ciphertexts([ciphertext(a, LARGE + b"\0")]) == 0
        with pytest.raises(InvalidInput):
            await at.store.put_ciphertexts([ciphertext(a, LARGE)])
        assert await data_of(at.store, a) == [LARGE + b"\0"]
        assert await at.store.read_key(KEY) == KEY_DATA
        assert await at.store.sweep_objects() == (0, False)
        assert at.stored() == set()


async def test_bytes_that_a_release_without_objects_writes_count(database_url: str, objects: ObjectServer) -> None:
    async with bench(database_url, objects) as at:
        await with_key(at.store)
        a, b = await upload(at.store, 2)
        await at.rows(b"update ciphertexts set data = 'another form' where handle = %s", a)
        await at.rows(b"update ciphertexts set is_allowed = false where handle = %s", b)
        assert await data_of(at.store, a, b) == [b"another form", LARGE + b"\1"]
        assert await at.store.sweep_objects() == (1, False)
        assert at.stored() == set(await at.names(b))


def test_values_move_there_and_back(database_url: str, objects: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    key = random.Random(2).randbytes(300_000)
    key_id = hashlib.sha256(key).digest()
    items = [ciphertext(handle(), bytes([number]) * 2000, key_id) for number in range(20)]
    small = ciphertext(handle(), b"small", key_id)

    async def fill() -> None:
        async with open_store(database_url) as store:
            await store.put_key(KeyRecord(key_id, len(key), "toy"), pieces(key))
            assert await store.put_ciphertexts([*items, small]) == 21

    async def look(settings: ObjectSettings | None) -> tuple[int, int]:
        """Everything is as it was; returns how many values and chunks are in the object store."""
        async with open_store(database_url, objects=settings) as store:
            assert isinstance(store, PostgresStore)
            assert await store.read_key(key_id) == key
            assert await store.get_ciphertexts([item.handle for item in items]) == {item.handle: item for item in items}
            async with store.pool.connection() as connection:
                cursor = await connection.execute(
                    "select (select count(object) from ciphertexts), (select count(object) from key_chunks)"
                )
                ((values, chunks),) = await cursor.fetchall()
                return int(values), int(chunks)

    settings = objects.settings
    trio.run(fill)
    monkeypatch.setenv("COPROC_DATABASE_URL", database_url)
    run = CliRunner()
    assert "COPROC_OBJECT_STORE_URL" in run.invoke(cli, ["objects", "to-store"]).output
    for name, value in (
        ("URL", settings.url),
        ("ACCESS_KEY", settings.access_key),
        ("SECRET_KEY", settings.secret_key),
        ("FROM_BYTES", 1000),
    ):
        monkeypatch.setenv(f"COPROC_OBJECT_STORE_{name}", str(value))
    told = run.invoke(cli, ["objects", "to-store"], catch_exceptions=False)
    assert (told.exit_code, "ciphertexts: 20 moved" in told.output, "key_chunks: 1 moved" in told.output) == (0, 1, 1)
    assert trio.run(look, settings) == (20, 1)
    assert run.invoke(cli, ["objects", "to-store"], catch_exceptions=False).output == ""
    told = run.invoke(cli, ["objects", "to-database"], catch_exceptions=False)
    assert told.exit_code == 0
    assert "nothing is left" in told.output
    assert trio.run(look, None) == (0, 0)
    assert len(objects.names()) == 21, "they are swept later, by services"
