"""Tenants as operators and callers meet them: the command line, API keys over gRPC, a real database."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
from click.testing import CliRunner

from coproc.api.metadata import Unauthenticated
from coproc.cli import cli
from coproc.client import Transaction
from coproc.config import Addresses, Config
from coproc.errors import InvalidInput, Overloaded
from coproc.program.types import FheType, new_handle
from coproc.store.open import open_store
from nurseries.bridge import open_client
from nurseries.root import serve
from tests.store.builders import add, batch, with_inputs

if TYPE_CHECKING:
    from coproc.tfhe.client import ClientKey


def command(url: str, *arguments: str) -> str:
    result = CliRunner().invoke(cli, ["tenants", *arguments, "--database-url", url], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.strip()


async def test_keys_quotas_and_cancelling(database_url: str, toy_client_key: ClientKey, toy_server_key: bytes) -> None:
    def prepare() -> tuple[str, str]:
        command(database_url, "set", "alice", "--weight", "2", "--max-open-groups", "2")
        command(database_url, "set", "bob", "--max-bootstraps-per-request", "100")
        return command(database_url, "new-key", "alice"), command(database_url, "new-key", "bob")

    alices, bobs = await trio.to_thread.run_sync(prepare)
    listing = await trio.to_thread.run_sync(command, database_url, "list")
    assert (
        listing.splitlines()[0] == "alice: weight 2, 1 keys, at most 2 open groups, any number of bootstraps a request"
    )
    with psycopg.connect(database_url) as connection:
        stored = connection.execute("select api_keys::text from api_keys").fetchall()
    assert len(stored) == 2
    assert not any(alices in str(row) or alices.encode().hex() in str(row) for row in stored), "only digests are kept"
    config = Config(
        database_url=database_url,
        grpc_port=0,
        results_port=0,
        health_port=0,
        executor="reference",
        drain_seconds=5.0,
        allow_insecure_parameters=True,
        require_api_keys=True,
    )

    async def run(*, task_status: trio.TaskStatus[Addresses]) -> None:
        assert await serve(config, task_status=task_status) == 0

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(run)
            host, port = addresses.grpc_target
            for wrong in (None, "coproc_guessed", "x"):
                async with open_client(host, port, token=wrong, attempts=1) as client:
                    with pytest.raises(Unauthenticated):
                        await client.server_info()
            async with open_client(host, port, token=bobs, attempts=1) as client:
                key_id = await client.register_key(toy_server_key)
                dear = Transaction(key_id)
                dear.mul(new_handle(FheType.UINT64), 3, allow=True)
                with pytest.raises(InvalidInput, match="your quota is 100"):
                    await client.submit(dear)
                a, cheap = new_handle(FheType.UINT8), Transaction(key_id)
                await client.upload(key_id, {a: toy_client_key.encrypt(4, 8, signed=False)})
                total = cheap.add(a, 1, allow=True)
                await client.submit(cheap)
                await client.wait([total])
            async with open_client(host, port, token=alices, attempts=1) as client:
                drafts = [Transaction(key_id) for _ in range(3)]
                for draft in drafts:
                    draft.add(new_handle(FheType.UINT8), 1, allow=True)
                await client.submit(drafts[0])
                await client.submit(drafts[1])
                with pytest.raises(Overloaded, match="quota of 2 open groups"):
                    await client.submit(drafts[2])
                assert await client.cancel(cheap.transaction_id) == 0
                assert await client.cancel(drafts[0].transaction_id) == 1
                await client.submit(drafts[2])
            await trio.to_thread.run_sync(command, database_url, "revoke-key", bobs)
            async with open_client(host, port, token=bobs, attempts=1) as client:
                with pytest.raises(Unauthenticated):  # noqa: PT012 - the answer may be old for a while
                    while True:  # the answer is believed for some seconds
                        await client.server_info()
                        await trio.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)


async def test_claims_take_turns_between_tenants(database_url: str) -> None:
    async with open_store(database_url) as store:
        (a,) = await with_inputs(store, 1)
        for number in range(20):
            await store.submit(replace(batch(add(a, a), transaction=bytes([1, number])), tenant="greedy"))
        await store.submit(replace(batch(add(a, a), transaction=b"late"), tenant="modest"))
        await store.submit(batch(add(a, a), transaction=b"nobody"))
        claimed = await store.claim("worker", 4, 60)
        assert {work.tenant for work in claimed} == {"greedy", "modest", None}
        rest = await store.claim("worker", 100, 60)
        assert len(claimed) + len(rest) == 22
