"""An upgrade without a pause: the release before on the new schema, this one on the old, and both at once.

The release before is real: its code is taken from this repository's history (``tests/store/last_release.txt`` names the
commit) and run as a program of its own. A release's last act is to write its commit there.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.cli.service import Service, start_service
from coproc.client import Transaction
from coproc.program.types import FheType, new_handle
from coproc.store.connection import TrioConnection
from coproc.store.migrator import (
    OLDEST_SCHEMA,
    NotMigrated,
    applied_number,
    migrate,
    require_migrated,
    shipped_migrations,
)
from nurseries.bridge import open_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coproc.tfhe.client import ClientKey

ROOT = Path(__file__).parents[1]
RELEASE = (ROOT / "tests/store/last_release.txt").read_text("utf-8").strip()


@pytest.fixture(scope="module")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the packages of the release before."""
    if not (ROOT / ".git").exists():
        pytest.skip("a copy without history holds no release before")
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", RELEASE, "coproc", "nurseries"], capture_output=True, check=True
    ).stdout
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def start(stack: ExitStack, folder: Path, role: str, url: str, code: Path = ROOT) -> Service:
    """Run one role with the code of a folder."""
    own = folder / f"{role}-{len(list(folder.iterdir()))}"
    own.mkdir()
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(code)
    here = Path.cwd()
    os.chdir(code)  # "python -m" looks in the working folder first
    try:
        arguments = ["--roles", role, "--database-url", url, "--allow-insecure-parameters", "--threads", "1"]
        service = start_service([*arguments, "--no-migrate-on-start"], own)
    finally:
        os.chdir(here)
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before

    def end() -> None:
        service.process.kill()
        service.process.wait()

    stack.callback(end)
    # The process must run the code that it is said to run.
    assert Path(f"/proc/{service.process.pid}/cwd").readlink() == code
    return service


async def migrate_to(url: str, number: int) -> None:
    async with await TrioConnection.connect(url, autocommit=True) as connection:
        await migrate(connection, shipped_migrations()[:number])
        assert await applied_number(connection) == number


async def compute(api: Service, client_key: ClientKey, server_key: bytes, left: int, right: int) -> int:
    """The whole loop through an API: register, upload, submit, wait, fetch, decrypt."""
    a, b = new_handle(FheType.UINT8), new_handle(FheType.UINT8)
    async with open_client("127.0.0.1", api.grpc_port) as client:
        key_id = await client.register_key(server_key)
        await client.upload(key_id, {a: client_key.encrypt(left, 8), b: client_key.encrypt(right, 8)})
        transaction = Transaction(key_id)
        total = transaction.add(a, b, allow=True)
        await client.submit(transaction)
        await client.wait([total], 60)
        (item,) = await client.fetch([total])
    assert item.ciphertext is not None
    return int(client_key.decrypt(item.ciphertext))


def test_the_release_before_is_what_this_one_promises_to_bear(release_before: Path) -> None:
    files = sorted((release_before / "coproc/store/migrations").glob("*.sql"))
    assert len(files) == OLDEST_SCHEMA, "this release must work on the schema of the one before"
    for file, migration in zip(files, shipped_migrations(), strict=False):
        assert file.read_text("utf-8") == migration.sql, "a migration that was shipped never changes"


async def test_both_releases_share_the_new_schema(
    toy_client_key: ClientKey,
    toy_server_key: bytes,
    empty_database_url: str,
    release_before: Path,
    tmp_path: Path,
    stack: ExitStack,
) -> None:
    """As in a rollout: the migration ran, and old and new processes serve each other."""
    url = empty_database_url
    await migrate_to(url, len(shipped_migrations()))
    with trio.fail_after(150):
        old_api = await trio.to_thread.run_sync(start, stack, tmp_path, "api", url, release_before)
        old_worker = await trio.to_thread.run_sync(start, stack, tmp_path, "worker", url, release_before)
        assert await compute(old_api, toy_client_key, toy_server_key, 40, 2) == 42
        new_api = await trio.to_thread.run_sync(start, stack, tmp_path, "api", url)
        assert await compute(new_api, toy_client_key, toy_server_key, 30, 3) == 33, "made by the old worker"
        await trio.to_thread.run_sync(old_worker.terminate)
        await trio.to_thread.run_sync(start, stack, tmp_path, "worker", url)
        assert await compute(old_api, toy_client_key, toy_server_key, 20, 4) == 24, "made by the new worker"


async def test_this_release_works_on_the_schema_before(
    toy_client_key: ClientKey, toy_server_key: bytes, empty_database_url: str, tmp_path: Path, stack: ExitStack
) -> None:
    """As when a database was restored, or processes come up before the migration."""
    url = empty_database_url
    await migrate_to(url, OLDEST_SCHEMA)
    with trio.fail_after(150):
        api = await trio.to_thread.run_sync(start, stack, tmp_path, "api", url)
        await trio.to_thread.run_sync(start, stack, tmp_path, "worker", url)
        assert await compute(api, toy_client_key, toy_server_key, 40, 2) == 42
        await migrate_to(url, len(shipped_migrations()))  # beneath running processes
        assert await compute(api, toy_client_key, toy_server_key, 50, 5) == 55


async def test_an_empty_database_is_refused(empty_database_url: str) -> None:
    async with await TrioConnection.connect(empty_database_url, autocommit=True) as connection:
        with pytest.raises(NotMigrated, match="coproc migrate"):
            await require_migrated(connection)


def test_migrations_only_expand() -> None:
    """What the release before uses stays: nothing is dropped, renamed or made stricter without a word about it."""
    for migration in shipped_migrations()[OLDEST_SCHEMA:]:
        for line in migration.sql.lower().splitlines():
            statement = line.partition("--")[0]
            assert not any(word in statement for word in ("drop ", "rename ", " set not null")), migration.name
            assert "add column" not in statement or "not null" not in statement or "default" in statement
