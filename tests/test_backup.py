"""Backup and restore as docs/backup.md tells it: dumped with work waiting, restored elsewhere, and gone on with."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import trio

from coproc.cli.service import Service, start_service
from coproc.client import Transaction
from coproc.program.types import FheType, new_handle
from coproc.store.embedded import find_binaries
from nurseries.bridge import open_client

if TYPE_CHECKING:
    from pathlib import Path

    from coproc.tfhe.client import ClientKey


def programs(url: str) -> tuple[Path, Path]:
    """``pg_dump`` and ``pg_restore`` as new as the server."""
    with psycopg.connect(url) as connection:
        folder = find_binaries(connection.info.server_version // 10_000).directory
    return folder / "pg_dump", folder / "pg_restore"


def start(stack: ExitStack, folder: Path, role: str, url: str) -> Service:
    own = folder / f"{role}-{len(list(folder.iterdir()))}"
    own.mkdir()
    options = ["--roles", role, "--database-url", url, "--allow-insecure-parameters", "--threads", "1"]
    service = start_service([*options, "--no-migrate-on-start"], own)

    def end() -> None:
        service.process.kill()
        service.process.wait()

    stack.callback(end)
    return service


async def test_a_restored_database_goes_on_where_the_backup_was_taken(
    toy_client_key: ClientKey, toy_server_key: bytes, database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    dump, restore = programs(database_url)
    left, right = new_handle(FheType.UINT8), new_handle(FheType.UINT8)
    with ExitStack() as stack, trio.fail_after(150):
        api = await trio.to_thread.run_sync(start, stack, tmp_path, "api", database_url)
        async with open_client("127.0.0.1", api.grpc_port) as client:
            key_id = await client.register_key(toy_server_key)
            await client.upload(key_id, {left: toy_client_key.encrypt(40, 8), right: toy_client_key.encrypt(2, 8)})
            transaction = Transaction(key_id)
            total = transaction.add(left, right, allow=True)
            await client.submit(transaction)
        file = tmp_path / "coproc.dump"
        subprocess.run([dump, "--format=custom", f"--file={file}", database_url], check=True)  # noqa: ASYNC221 - nothing else waits
        subprocess.run(  # noqa: ASYNC221 - likewise
            [restore, "--exit-on-error", "--no-owner", f"--dbname={empty_database_url}", file], check=True
        )

        api = await trio.to_thread.run_sync(start, stack, tmp_path, "api", empty_database_url)
        await trio.to_thread.run_sync(start, stack, tmp_path, "worker", empty_database_url)
        async with open_client("127.0.0.1", api.grpc_port) as client:
            await client.wait([total], 60)
            later = Transaction(key_id)
            difference = later.sub(left, right, allow=True)
            await client.submit(later)
            await client.wait([difference], 60)
            found = {item.handle: item.ciphertext for item in await client.fetch([total, difference])}
    assert {name: toy_client_key.decrypt(data or b"") for name, data in found.items()} == {total: 42, difference: 38}
