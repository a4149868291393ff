"""The actor that runs an embedded Postgres.

It starts the server, watches it, and stops it fast and surely: with SIGINT (open transactions are rolled back), then
SIGQUIT, then SIGKILL. The server cannot outlive this process: the kernel sends it SIGINT when our thread ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import trio

from coproc.errors import RecoverableError
from coproc.store.connection import TrioConnection
from coproc.store.embedded import (
    directory_lock,
    environment,
    fits_socket,
    left_server,
    prepare_cluster,
    url_of,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from coproc.store.embedded import Cluster

START_SECONDS: Final = 300.0
"""How long the server may take to accept connections; recovery after a crash replays its log."""
START_ATTEMPTS: Final = 10
"""After a killed server its children may hold the shared memory for a moment: starting is tried again."""
STOP_SECONDS: Final = {signal.SIGINT: 10.0, signal.SIGQUIT: 5.0, signal.SIGKILL: 5.0}
_PR_SET_PDEATHSIG: Final = 1


class PostgresEnded(RecoverableError):
    """The server ended by itself; its supervisor starts it again."""

    rule = "POSTGRES_ENDED"


async def run_postgres(
    data_directory: Path,
    *,
    settings: Mapping[str, str] | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``data_directory`` until cancelled; ``task_status`` reports the URL once connections are accepted.

    Args:
        data_directory: created if missing; keeps its data over restarts.
        settings: server settings that differ from ``coproc.store.embedded.SETTINGS``.
        task_status: reports the URL.

    Raises:
        FatalError: no binaries, or a directory that cannot be used.
        DirectoryInUse: another process serves the directory.
        PostgresEnded: the server ended by itself or did not start.
    """
    cluster = await trio.to_thread.run_sync(prepare_cluster, data_directory)
    with directory_lock(cluster.directory), _socket_directory(cluster) as sockets:
        if (left := left_server(cluster)) is not None:
            await _end_left_server(left)
        server = await _start(cluster, sockets, settings or {})
        try:
            task_status.started(url_of(sockets))
            await _ended(server.pid)
        finally:
            await _stop(server)
    raise PostgresEnded(f"Postgres ended with {server.returncode}: {cluster.last_words()}")


@contextmanager
def _socket_directory(cluster: Cluster) -> Generator[Path]:
    """Choose where the socket is: beside the data, or in a private temporary folder when that path is too long."""
    if fits_socket(cluster.directory):
        yield cluster.directory
        return
    folder = Path(tempfile.mkdtemp(prefix="coproc-"))  # mode 0700
    try:
        if cluster.account is not None:
            os.chown(folder, cluster.account.uid, cluster.account.gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _start(cluster: Cluster, sockets: Path, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the server and wait until it accepts connections."""
    attempt = 0
    while True:
        server = _spawn(cluster, cluster.command(sockets, settings))
        try:
            if await _answers(server, url_of(sockets)):
                return server
        except BaseException:
            await _stop(server)
            raise
        attempt += 1
        if attempt == START_ATTEMPTS or "shared memory block" not in cluster.last_words(10):
            raise PostgresEnded(f"Postgres did not start: {cluster.last_words()}", returncode=server.returncode)
        await trio.sleep(0.05 * 2**attempt)


def _spawn(cluster: Cluster, command: list[str]) -> subprocess.Popen[bytes]:
    """Start the server process from this thread.

    Not from a worker thread of Trio's: the death signal is tied to the thread that spawns.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os._exit(1)

    account = cluster.account
    with cluster.open_log() as log:
        return subprocess.Popen(  # noqa: S603 - our own command line
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=cluster.directory,
            env=environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            process_group=0,  # Ctrl-C in a terminal is ours to handle
            preexec_fn=die_with_parent,  # noqa: PLW1509 - two system calls, resolved beforehand
        )


async def _answers(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait for the first connection; False if the server ends instead."""
    with trio.fail_after(START_SECONDS):
        while server.poll() is None:
            try:
                connection = await TrioConnection.connect(url)
            except psycopg.OperationalError:
                await trio.sleep(0.02)
            else:
                await connection.close()
                return True
    return False


async def _ended(pid: int) -> None:
    """Wait for the end of a process."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(watch)
    finally:
        os.close(watch)


async def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stop the server, whatever it takes."""
    with trio.CancelScope(shield=True):
        for how, seconds in STOP_SECONDS.items():
            if server.poll() is not None:
                break
            server.send_signal(how)
            with trio.move_on_after(seconds):
                await _ended(server.pid)
    server.wait(timeout=5)


async def _end_left_server(pid: int) -> None:
    """Stop a server that a killed predecessor left behind."""
    for how, seconds in STOP_SECONDS.items():
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return
        with trio.move_on_after(seconds):
            await _ended(pid)
            return
