"""A deployment of real processes on one machine: a Postgres of its own, and several of every role of ``coproc serve``.

Decides how processes are started, found ready, signalled and buried. Knows nothing of when or why (``faults``) nor of
who calls (``callers``).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError
from urllib.request import urlopen

import click
import psycopg

from coproc.config import Addresses
from coproc.store.embedded import Cluster, environment, left_server, prepare_cluster
from tests.fixtures.objects import ObjectServer

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
READY_SECONDS: Final = 240.0
"""Patience with one process; this says how slow a machine may be, not how fast a process should be."""
FAKETIME: Final = ROOT / ".cache/libfaketime.so.1"
"""Brought by ``make test``."""


class ChaosFailure(AssertionError):
    """The service broke a promise, or the surroundings of the test did not come up."""


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Clock:
    """The wall clock of the started processes, which can be put wrong; their monotonic clock stays right."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._library: Path | None = None
        if FAKETIME.exists():  # copied to where the account that root's server runs as can read it
            self._library = folder / FAKETIME.name
            self._library.write_bytes(FAKETIME.read_bytes())
            self._library.chmod(0o755)
        self.offset = 0
        self.put(0)

    def put(self, offset: int) -> None:
        """Let the clock be wrong by ``offset`` seconds from now on."""
        self.offset = offset
        partial = self._file.with_suffix(".new")
        partial.write_text(f"{offset:+d}\n")
        partial.chmod(0o644)
        partial.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that put a process on this clock."""
        if self._library is None:
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }


class PostgresProcess:
    """A Postgres on TCP, as a service has it, with its write-ahead log flushed at every commit."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.cluster: Cluster = prepare_cluster(directory)
        self.port = free_port()
        self.url = f"postgresql://coproc@127.0.0.1:{self.port}/postgres"
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The postmaster."""
        if self._process is None:
            raise ChaosFailure("Postgres does not run")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers; after a crash this includes its recovery."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "max_connections": "200",
            "shared_buffers": "32MB",
            "max_wal_size": "64MB",
            "min_wal_size": "32MB",
        }
        account = self.cluster.account
        give_up = time.monotonic() + READY_SECONDS
        while True:
            left_server(self.cluster)  # removes the pid file of a killed one
            with self.cluster.open_log() as log:
                self._process = subprocess.Popen(
                    self.cluster.command(self.cluster.directory, settings),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.cluster.directory,
                    env={**environment(), **self._clock.environment},
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=[] if account else None,
                    process_group=0,
                )
            while self._process.poll() is None:
                try:
                    psycopg.connect(self.url, connect_timeout=5).close()
                except psycopg.OperationalError:
                    if time.monotonic() > give_up:
                        raise ChaosFailure(f"Postgres does not answer: {self.cluster.last_words(10)}") from None
                    time.sleep(0.05)
                else:
                    return
            if time.monotonic() > give_up:
                raise ChaosFailure(f"Postgres does not start: {self.cluster.last_words(10)}")
            time.sleep(0.2)  # children of a killed server may still hold its shared memory

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT is its fast shutdown, SIGKILL leaves it no time for anything."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the server with all its children."""
        os.killpg(self.pid, number)

    def backends(self) -> list[int]:
        """Process ids of the sessions of coproc."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(
                "select pid from pg_stat_activity where application_name = 'coproc' order by backend_start, pid"
            )
            return [pid for (pid,) in cursor.fetchall()]

    def terminate(self, pids: list[int]) -> None:
        """End sessions in the middle of whatever they do."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("select pg_terminate_backend(pid) from unnest(%s::integer[]) as pid", [pids])


@dataclass(eq=False)
class ServiceProcess:
    """One ``coproc serve``, and whoever takes its place after it was killed."""

    name: str
    arguments: list[str]
    folder: Path
    environment: Mapping[str, str]
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None
    addresses: Addresses | None = None
    expected_end: bool = False
    """Whether the present process was told to end, or killed, by the test."""
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the log."""
        self.log = self.folder / f"{self.name}.log"

    @property
    def _addresses_file(self) -> Path:
        return self.folder / f"{self.name}-{self.starts}.json"

    def spawn(self) -> None:
        """Start a process without waiting for it."""
        self.starts += 1
        self.expected_end = False
        self.addresses = None
        self._addresses_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "coproc", "serve", *self.arguments]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--addresses-file", str(self._addresses_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, **self.environment},
            )

    @property
    def is_ready(self) -> bool:
        """Whether the present process has come up. Raises ChaosFailure if it ended instead."""
        if self.addresses is None and self._addresses_file.exists():
            self.addresses = Addresses.read(self._addresses_file)
        if self.process is not None and self.process.poll() is not None and not self.expected_end:
            raise ChaosFailure(f"{self.name} ended with {self.process.returncode}, unasked:\n{self.last_words()}")
        return self.addresses is not None

    def await_ready(self) -> None:
        """Wait until the present process has come up."""
        give_up = time.monotonic() + READY_SECONDS
        while not self.is_ready:
            if time.monotonic() > give_up:
                raise ChaosFailure(f"{self.name} did not come up:\n{self.last_words()}")
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """Signal the process."""
        assert self.process is not None
        self.expected_end = self.expected_end or number in {signal.SIGTERM, signal.SIGKILL}
        self.process.send_signal(number)

    def await_end(self) -> int:
        """Wait for the end; returns the exit status."""
        assert self.process is not None
        try:
            return self.process.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            raise ChaosFailure(f"{self.name} does not end:\n{self.last_words()}") from None

    def last_words(self, count: int = 30) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-count:])

    def health(self, path: str = "readyz") -> dict[str, object]:
        """Ask a probe, whatever its status."""
        assert self.addresses is not None
        try:
            with urlopen(f"{self.addresses.health}/{path}", timeout=10) as answer:  # noqa: S310 - our own
                found: dict[str, object] = json.load(answer)
        except HTTPError as error:
            found = json.loads(error.read())
        return found

    def resident_bytes(self) -> int:
        """Memory that the process holds now."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Deployment:
    """Several processes of every role on one database; those of a role share one port, as behind a load balancer."""

    def __init__(
        self,
        folder: Path,
        *,
        roles: Mapping[str, int],
        settings: Mapping[str, str] | None = None,
        objects: ObjectServer | None = None,
    ) -> None:
        """Prepare ``roles``: how many processes of each; ``settings`` are further ``COPROC_...`` variables."""
        self.folder = folder
        self.objects = objects
        self.clock = Clock(folder)
        self.postgres = PostgresProcess(folder / "database", self.clock)
        self.grpc_port, self.results_port = free_port(), free_port()
        self._settings = dict(settings or {})
        if objects is not None:
            reached = objects.settings
            self._settings |= {
                "OBJECT_STORE_URL": reached.url,
                "OBJECT_STORE_ACCESS_KEY": str(reached.access_key),
                "OBJECT_STORE_SECRET_KEY": str(reached.secret_key),
                "OBJECT_STORE_FROM_BYTES": "100",
            }
        self._numbers = 0
        self._rolling: list[ServiceProcess] = []
        """Parts of the update under way, old and new."""
        self.services = {role: [self._new(role) for _ in range(count)] for role, count in roles.items()}

    @property
    def websocket(self) -> str:
        """Where results are pushed."""
        return f"ws://127.0.0.1:{self.results_port}/"

    @property
    def processes(self) -> list[ServiceProcess]:
        """All of them, in a fixed order."""
        return [process for role in sorted(self.services) for process in self.services[role]]

    def _new(self, role: str) -> ServiceProcess:
        self._numbers += 1
        arguments = ["--roles", role, "--database-url", self.postgres.url, "--threads", "1"]
        arguments += ["--grpc-port", str(self.grpc_port), "--results-port", str(self.results_port)]
        arguments += ["--health-port", "0", "--allow-insecure-parameters", "--log-format", "json"]
        variables = {"COPROC_REUSE_PORT": "true", **self.clock.environment}
        variables |= {f"COPROC_{name}": value for name, value in self._settings.items()}
        return ServiceProcess(f"{role.replace(',', '-')}-{self._numbers}", arguments, self.folder, variables)

    def start(self) -> None:
        """Start everything and wait until it is up."""
        self.postgres.start()
        for process in self.processes:
            process.spawn()
        for process in self.processes:
            process.await_ready()

    def roll(self, places: Sequence[tuple[str, int]]) -> None:
        """Replace processes by one rolling update: the new ones start, and each old one goes when its own is up."""
        started = [(role, index, self._new(role)) for role, index in places]
        self._rolling = [new for _, _, new in started]
        for _, _, new in started:
            new.spawn()
        for role, index, new in started:
            new.await_ready()
            old = self.services[role][index]
            self._rolling.append(old)
            self.services[role][index] = new
            old.send(signal.SIGTERM)
            if (status := old.await_end()) != 0:
                raise ChaosFailure(f"{old.name} ended its drain with {status}:\n{old.last_words()}")

    @property
    def places(self) -> list[tuple[str, int]]:
        """Roles and numbers of all processes."""
        return [(role, index) for role in sorted(self.services) for index in range(len(self.services[role]))]

    def revive_postgres(self) -> None:
        """Start the database again if it has ended by itself, as an operator's supervisor would."""
        time.sleep(1)
        if not self.postgres.is_running:
            self.postgres.start()

    def close(self) -> None:
        """End everything that still runs, without ceremony."""
        for process in [*self.processes, *self._rolling]:
            if process.process is not None and process.process.poll() is None:
                process.process.kill()
                process.process.wait()
        if self.postgres._process is not None:
            self.postgres.stop(signal.SIGQUIT)


@contextmanager
def deployment(
    *,
    roles: Mapping[str, int],
    settings: Mapping[str, str] | None = None,
    disk_bytes: int | None = None,
    with_objects: bool = False,
) -> Generator[Deployment]:
    """A running deployment; with ``disk_bytes`` its database is on a file system of that size (needs root).

    Where things are is printed if they end badly, and the folder is kept then.
    """
    # Not under pytest's own folder: that one is closed to the account that root's server runs as.
    folder = Path(tempfile.mkdtemp(prefix="coproc-chaos-"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        if disk_bytes is not None:
            disk = folder / "database"
            disk.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", f"size={disk_bytes},mode=755", "tmpfs", str(disk)]
            subprocess.run(mount, check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
        objects = ObjectServer(folder / "objects") if with_objects else None
        if objects is not None:
            objects.start()
            stack.callback(objects.stop)
        made = Deployment(folder, roles=roles, settings=settings, objects=objects)
        stack.callback(made.close)
        try:
            made.start()
            yield made
        except BaseException:
            click.echo(f"logs are kept in {folder}", err=True)
            raise
    shutil.rmtree(folder, ignore_errors=True)


def can_mount() -> bool:
    """Whether this process may mount a file system of its own, which a full disk takes."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as name:
        tried = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", name], capture_output=True, check=False
        )
        if tried.returncode == 0:
            subprocess.run(["umount", name], check=True)
        return tried.returncode == 0
