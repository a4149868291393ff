"""The embedded Postgres: starts, stops surely, recovers from every kind of kill, keeps its data."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio

from coproc.store import embedded
from coproc.store.connection import TrioConnection
from coproc.store.embedded import DirectoryInUse, NoPostgres, UnusableDirectory, find_binaries
from nurseries.postgres import PostgresEnded, run_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).parents[1] / "fixtures" / "postgres_server.py"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A data directory to be made, in a folder that the server's account can reach (pytest's own is closed to it)."""
    folder = Path(tempfile.mkdtemp(prefix="coproc-tests-"))
    folder.chmod(0o755)
    yield folder / "data"
    shutil.rmtree(folder)


async def rows(url: str, statement: bytes) -> list[object]:
    async with await TrioConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement)
        return [row[0] for row in await cursor.fetchall()] if cursor.description else []


def server_pid(directory: Path) -> int:
    (pid_file,) = directory.glob("cluster-*/postmaster.pid")
    return int(pid_file.read_text().split()[0])


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def find_copy(directory: Path) -> str:
    (copy,) = directory.glob("binaries-*")
    return copy.name


def give_away_pid_file(directory: Path) -> None:
    """Leave a pid file whose number now belongs to somebody else, as happens in containers."""
    (data,) = directory.glob("cluster-*")
    (data / "postmaster.pid").write_text(f"{os.getppid()}\n{data}\n")


async def test_it_starts_stops_and_keeps_its_data(directory: Path) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(run_postgres, directory)
            await rows(url, b"create table t as select 7 as n")
            pid = server_pid(directory)
            assert mode(directory) == 0o700
            assert await rows(url, b"show listen_addresses") == [""]
            async with await TrioConnection.connect(url) as connection:
                await connection.execute("lock table t")  # a client in a transaction does not hold up the stop
                started = trio.current_time()
                nursery.cancel_scope.cancel()
        assert trio.current_time() - started < 5
        assert not is_running(pid)
        with pytest.raises(psycopg.OperationalError):
            await TrioConnection.connect(url)
        async with trio.open_nursery() as nursery:
            url = await nursery.start(run_postgres, directory)
            assert await rows(url, b"select n from t") == [7]
            with pytest.RaisesGroup(DirectoryInUse):
                async with trio.open_nursery() as second:
                    await second.start(run_postgres, directory)
            nursery.cancel_scope.cancel()


async def test_a_killed_server_is_reported_and_the_next_one_recovers(directory: Path) -> None:
    with trio.fail_after(30):
        with pytest.RaisesGroup(PostgresEnded):
            async with trio.open_nursery() as nursery:
                url = await nursery.start(run_postgres, directory)
                await rows(url, b"create table t as select 7 as n")
                os.kill(server_pid(directory), signal.SIGKILL)
        async with trio.open_nursery() as nursery:
            assert await rows(await nursery.start(run_postgres, directory), b"select n from t") == [7]
            nursery.cancel_scope.cancel()
        give_away_pid_file(directory)
        async with trio.open_nursery() as nursery:
            assert await rows(await nursery.start(run_postgres, directory), b"select n from t") == [7]
            nursery.cancel_scope.cancel()


async def test_the_server_does_not_outlive_a_killed_service(directory: Path) -> None:
    root = SCRIPT.parents[2]
    process = subprocess.Popen(  # noqa: ASYNC220 - two pipes of a line each
        [sys.executable, str(SCRIPT), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
        env={"PYTHONPATH": str(root)},
    )
    with trio.fail_after(30), process:
        assert process.stdout is not None
        url = (await trio.to_thread.run_sync(process.stdout.readline)).decode().strip()
        await rows(url, b"create table t as select 7 as n")
        pid = server_pid(directory)
        process.kill()
        await trio.to_thread.run_sync(process.wait)
        async with trio.open_nursery() as nursery:  # at once, while the old server may still be going down
            assert await rows(await nursery.start(run_postgres, directory), b"select n from t") == [7]
            assert server_pid(directory) != pid
            nursery.cancel_scope.cancel()


async def test_a_long_path_gets_its_socket_elsewhere(directory: Path) -> None:
    deep = directory.with_name("d" * 120)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(run_postgres, deep)
            assert await rows(url, b"select 1") == [1]
            (sockets,) = await rows(url, b"show unix_socket_directories")
            assert mode(Path(str(sockets))) == 0o700
            nursery.cancel_scope.cancel()
        assert not await trio.Path(str(sockets)).exists()


async def test_data_of_another_version_is_not_touched(directory: Path) -> None:
    (directory / "cluster-9").mkdir(parents=True)
    with pytest.raises(NoPostgres, match="Postgres 9 binaries"):
        await run_postgres(directory)
    assert find_binaries().major >= 14
    assert (find_binaries().directory / "initdb").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another account")
async def test_binaries_that_the_account_cannot_reach_are_copied(
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bin_directory = find_binaries().directory
    package = bin_directory.parents[1]
    closed = tmp_path / "closed"
    shutil.copytree(bin_directory.parent, closed / package.name / bin_directory.parent.name, symlinks=True)
    if (libraries := package.with_name(f"{package.name}.libs")).exists():
        shutil.copytree(libraries, closed / libraries.name, symlinks=True)
    closed.chmod(0o700)
    monkeypatch.setattr(embedded, "_places", lambda: iter([closed / bin_directory.relative_to(package.parent)]))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            assert await rows(await nursery.start(run_postgres, directory), b"select 1") == [1]
            nursery.cancel_scope.cancel()
    assert find_copy(directory) == f"binaries-{find_binaries().version}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another account")
async def test_a_directory_that_the_account_cannot_reach_is_refused(directory: Path) -> None:
    directory.parent.chmod(0o700)
    with pytest.raises(UnusableDirectory, match="cannot be reached by user"):
        await run_postgres(directory)
