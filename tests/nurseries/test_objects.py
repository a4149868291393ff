"""A whole service with an object store: what it keeps there, and what it says and does while that is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from coproc.client import Transaction
from coproc.client.records import ComputationFailed
from coproc.errors import RecoverableError
from coproc.program.types import FheType, new_handle
from coproc.resilience import Breaker
from coproc.store.connection import TrioConnection
from nurseries.bridge import open_client
from tests.nurseries.running import readiness, running, scrape, until

if TYPE_CHECKING:
    from coproc.program.types import Handle
    from coproc.tfhe.client import ClientKey
    from tests.fixtures.objects import ObjectServer


async def execute(url: str, statement: bytes, *values: object) -> list[tuple[object, ...]]:
    async with await TrioConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement, values, binary=True)
        return await cursor.fetchall() if cursor.description else []


def settings(server: ObjectServer) -> dict[str, object]:
    reached = server.settings
    return {
        "object_store_url": reached.url,
        "object_store_access_key": reached.access_key,
        "object_store_secret_key": reached.secret_key,
        "object_store_from_bytes": 100,
        "attempts": 1,
        "ciphertext_cache_bytes": 0,
    }


async def test_an_object_store_that_is_away_degrades_fails_nothing_and_loses_nothing(
    database_url: str,
    objects: ObjectServer,
    toy_client_key: ClientKey,
    toy_server_key: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coproc.store.depot.BREAKER", Breaker(threshold=5, cooldown=0.5))
    with trio.fail_after(120):
        async with running(database_url, **settings(objects)) as addresses:
            target = addresses.grpc_target
            async with open_client(*target) as client, open_client(*target, attempts=1) as impatient:
                key_id = await client.register_key(toy_server_key)

                async def upload(value: int) -> Handle:
                    name = new_handle(FheType.UINT8)
                    await client.upload(key_id, {name: toy_client_key.encrypt(value, 8)})
                    return name

                async def submit(*operands: Handle) -> Handle:
                    draft = Transaction(key_id)
                    total = draft.add(*operands, allow=True)
                    await client.submit(draft)
                    return total

                a, b = await upload(40), await upload(2)
                total = await submit(a, b)
                await client.wait([total])
                (item,) = await client.fetch([total])
                assert item.ciphertext is not None
                assert toy_client_key.decrypt(item.ciphertext) == 42
                ((kept, inline),) = await execute(
                    database_url, b"select count(object), sum(octet_length(data)) from ciphertexts"
                )
                assert (kept, inline) == (3, 0)
                assert (await readiness(addresses))[1]["degraded"] == []

                objects.stop()
                again = await submit(a, total)  # small rows need no object store

                async def is_degraded() -> bool:
                    return (await readiness(addresses))[1]["degraded"] == ["object_store"]

                await until(is_degraded)
                status, body = await readiness(addresses)
                assert status == 200, "degraded is not dead"
                assert "object_store" in str(body["breakers"])
                shown = await scrape(addresses)
                assert shown("actor_up", actor="object_store") == 0
                assert shown("breaker_state", dependency="object_store", state="closed") == 0
                assert shown("breaker_openings_total", dependency="object_store") >= 1
                for call in (
                    impatient.upload(key_id, {new_handle(FheType.UINT8): toy_client_key.encrypt(1, 8)}),
                    impatient.fetch([total]),
                ):
                    with pytest.raises(RecoverableError) as caught:
                        await call
                    assert caught.value.rule in {"OBJECT_STORE_UNAVAILABLE", "CIRCUIT_OPEN"}

                objects.start()
                await client.wait([again])
                (item,) = await client.fetch([again])
                assert item.ciphertext is not None
                assert toy_client_key.decrypt(item.ciphertext) == 82, "one attempt was allowed, and none was charged"

                async def is_well() -> bool:
                    return (await readiness(addresses))[1]["degraded"] == []

                await until(is_well)


async def test_a_lost_object_fails_what_reads_it_and_nothing_else(
    database_url: str, objects: ObjectServer, toy_client_key: ClientKey, toy_server_key: bytes
) -> None:
    with trio.fail_after(120):
        async with (
            running(database_url, **settings(objects)) as addresses,
            open_client(*addresses.grpc_target) as client,
        ):
            key_id = await client.register_key(toy_server_key)
            lost, fine = new_handle(FheType.UINT8), new_handle(FheType.UINT8)
            await client.upload(key_id, {lost: toy_client_key.encrypt(1, 8), fine: toy_client_key.encrypt(3, 8)})
            await execute(database_url, b"update ciphertexts set object = object || 'x' where handle = %s", lost)
            draft = Transaction(key_id)
            broken, whole = draft.add(lost, 1, allow=True), draft.add(fine, 1, allow=True)
            await client.submit(draft)
            await client.wait([whole])
            with pytest.raises(ComputationFailed, match=f"input {lost.hex()}: the object store has no such object"):
                await client.wait([broken])
            fetched = {item.handle: item for item in await client.fetch([lost, fine])}
            assert fetched[fine].ciphertext is not None
            assert fetched[lost].ciphertext is None
            assert "OBJECT_LOST" in str(fetched[lost].failure)
