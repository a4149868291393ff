"""Idle ciphertexts become small, and nobody who computes on them or reads them notices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from coproc.api.generated.coproc.v1 import FetchCiphertextsRequest, FetchCiphertextsResponse
from coproc.api.service import CoprocessorService
from coproc.client import Transaction
from coproc.errors import Overloaded
from coproc.executors.compression import pack
from coproc.keyring import KeyCache
from coproc.program.types import FheType, new_handle
from coproc.store.memory_overview import ViewedMemoryStore
from coproc.tfhe.ciphertext import CiphertextKind, describe, read_ciphertext
from coproc.tfhe.client import ClientKey
from coproc.tfhe.compressed_list import is_compressed_list, write_compressed_list
from coproc.tfhe.parameters import TOY_2_2, TOY_COMPRESSION
from coproc.tfhe.server_key import load_packing_key, read_server_key_facts
from nurseries.bridge import open_client
from tests.api.serving import SETTINGS
from tests.nurseries.running import running, scrape, until
from tests.store.builders import ciphertext, with_key

if TYPE_CHECKING:
    from coproc.tfhe.keys import EvaluationKey


@pytest.mark.parametrize("executor", ["reference", "cpu"])
async def test_values_are_compressed_computed_on_and_brought_back(database_url: str, executor: str) -> None:
    key = ClientKey.generate(TOY_2_2, tag=b"packed", compression=TOY_COMPRESSION)
    server_key = await trio.to_thread.run_sync(key.compressed_server_key)
    a, b, c = (new_handle(FheType.UINT64) for _ in range(3))
    settings = {"executor": executor, "compress_after_seconds": 0.5, "ciphertext_cache_bytes": 0}
    with trio.fail_after(240):
        async with running(database_url, **settings) as addresses, open_client(*addresses.grpc_target) as client:
            key_id = await client.register_key(server_key)
            plain = key.encrypt(41, 64, seeded=False)
            await client.upload(key_id, {a: plain, b: key.encrypt(2, 64, seeded=False)})
            first = Transaction(key_id)
            total = first.add(a, b, allow=True)
            await client.submit(first)
            await client.wait([total], 60)

            async def all_are_packed() -> bool:
                found = await client.fetch([a, b, total], accept_compressed=True)
                return all(item.ciphertext is not None and is_compressed_list(item.ciphertext) for item in found)

            await until(all_are_packed)
            packed = [item.ciphertext or b"" for item in await client.fetch([a, total], accept_compressed=True)]
            assert [key.decrypt(data) for data in packed] == [41, 43]
            assert max(map(len, packed)) < 500
            assert len(plain) > 100_000

            # The client's own compressed form is an upload like any other; the stored one is computed on as it is.
            assert await client.upload(key_id, {c: packed[0], a: plain}) == 1
            second = Transaction(key_id)
            more = second.add(second.add(total, c), a, allow=True)
            await client.submit(second)
            await client.wait([more], 60)
            for name, value in ((more, 43 + 41 + 41), (total, 43), (a, 41), (c, 41)):
                (item,) = await client.fetch([name])
                assert item.ciphertext is not None
                assert describe(item.ciphertext).blocks == 32, "a plain FheUint64"
                assert key.decrypt(item.ciphertext) == value
            shown = await scrape(addresses)
            assert shown("compression_packed_total") >= 3
            assert shown("compression_saved_bytes_total") > 300_000
            assert shown("compression_unpacked_total") >= 2
            assert shown("compression_failures_total") == 0


async def test_a_key_that_cannot_compress_keeps_everything_plain(
    database_url: str, toy_client_key: ClientKey, toy_server_key: bytes
) -> None:
    a = new_handle(FheType.UINT64)
    with trio.fail_after(120):
        async with (
            running(database_url, compress_after_seconds=0.05) as addresses,
            open_client(*addresses.grpc_target) as client,
        ):
            key_id = await client.register_key(toy_server_key)
            plain = toy_client_key.encrypt(7, 64, seeded=False)
            await client.upload(key_id, {a: plain})
            await trio.sleep(0.5)
            (item,) = await client.fetch([a], accept_compressed=True)
            assert item.ciphertext == plain


@pytest.mark.usefixtures("autojump_clock")
async def test_without_a_worker_a_reader_is_told_to_come_back_or_to_take_it_compressed() -> None:
    store = ViewedMemoryStore()
    key = ClientKey.generate(TOY_2_2, compression=TOY_COMPRESSION)
    server_key = key.compressed_server_key()
    compression = read_server_key_facts(server_key).compression
    assert compression is not None
    blocks = read_ciphertext(key.encrypt(7, 8), TOY_2_2, CiphertextKind.UINT, 8)
    (parts,) = pack([blocks], load_packing_key(server_key), TOY_2_2.message_modulus)
    packed = write_compressed_list(parts, [(CiphertextKind.UINT, 4)], TOY_2_2, compression, b"")
    name = new_handle(FheType.UINT8)
    await with_key(store)
    await store.put_ciphertexts([ciphertext(name, packed)])
    service = CoprocessorService(store, KeyCache(store, nothing), SETTINGS)
    answers: list[FetchCiphertextsResponse] = []

    async def send(answer: FetchCiphertextsResponse) -> None:
        await trio.lowlevel.checkpoint()
        answers.append(answer)

    with pytest.raises(Overloaded, match="not brought back in time"):
        await service.fetch_ciphertexts(FetchCiphertextsRequest(handles=[name]), send)
    assert not answers
    await service.fetch_ciphertexts(FetchCiphertextsRequest(handles=[name], accept_compressed=True), send)
    assert key.decrypt(answers[0].ciphertext) == 7


async def nothing(_: bytes) -> EvaluationKey:
    raise AssertionError("no key is needed")
