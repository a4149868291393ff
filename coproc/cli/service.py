"""Start ``coproc serve`` as a child process and know when it is ready.

Decides how the demo (and tests) run a private service; the service itself is the same program that operators run.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coproc.config import Addresses
from coproc.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence


@dataclass(frozen=True, slots=True)
class Service:
    """A running service."""

    process: subprocess.Popen[bytes]
    addresses: Addresses
    log: Path

    @property
    def grpc_port(self) -> int:
        """Port of the compute API, on this machine."""
        return self.addresses.grpc_target[1]

    def terminate(self, timeout: float = 60.0) -> int:
        """Send SIGTERM, wait for the drain and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def start_service(arguments: Sequence[str], folder: Path, *, timeout: float = 120.0) -> Service:
    """Run ``coproc serve`` on free ports with its log in ``folder``; returns when it is ready.

    Raises:
        FatalError: it ended, or was not ready in ``timeout`` seconds; the message carries the end of the log.
    """
    addresses, log = folder / "addresses.json", folder / "service.log"
    addresses.unlink(missing_ok=True)
    command = [sys.executable, "-m", "coproc", "serve", "--addresses-file", str(addresses), "--grpc-port", "0"]
    command += ["--results-port", "0", "--health-port", "0", *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603
    give_up = time.monotonic() + timeout
    while not addresses.exists():
        if process.poll() is not None or time.monotonic() > give_up:
            process.kill()
            tail = log.read_text(errors="replace")[-4000:]
            raise FatalError(f"the service did not start (exit status {process.wait()}); its log ends with:\n{tail}")
        time.sleep(0.02)
    return Service(process, Addresses.read(addresses), log)


@contextmanager
def private_service(arguments: Sequence[str]) -> Generator[Service]:
    """A service on an embedded database in a temporary folder, stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="coproc-") as name:
        # An embedded Postgres started by root runs as another user, who must be able to enter the folder.
        Path(name).chmod(0o711)
        service = start_service(["--data-directory", f"{name}/data", *arguments], Path(name))
        try:
            yield service
        finally:
            if service.process.poll() is None:
                service.process.terminate()
                try:
                    service.process.wait(60)
                except subprocess.TimeoutExpired:
                    service.process.kill()
                    service.process.wait()
