"""Take the pictures of the operator's page in docs/: a real service, a real database, callers of toy keys.

    python -m tests.browser.pictures [folder]

Each state of it is seen in a browser of its own; look at the pictures before you commit them.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from coproc.api.caller import hash_api_key, new_api_key
from coproc.cli.service import start_service
from coproc.store.open import open_store
from coproc.store.postgres import PostgresStore
from coproc.store.tenants import Tenant, add_key, put_tenant
from coproc.tfhe.client import ClientKey
from coproc.tfhe.parameters import TOY_2_2
from tests.browser.acts import shoot
from tests.browser.chromium import PHONE, Browser
from tests.browser.load import Submitted, call

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from coproc.cli.service import Service

ROOT = Path(__file__).parents[2]
CALLERS = ("exchange", "treasury", "payments")
SECONDS = float(os.environ.get("SECONDS_OF_LOAD", "150"))


@contextmanager
def database(folder: Path) -> Generator[str]:
    """A Postgres of its own."""
    script = ROOT / "tests/fixtures/postgres_server.py"
    command = [sys.executable, str(script), str(folder / "data")]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.communicate("", timeout=60)


async def make_callers(url: str) -> list[str]:
    """Make tenants and keys of theirs."""
    async with open_store(url) as store:
        assert isinstance(store, PostgresStore)
        tokens: list[str] = []
        for name in CALLERS:
            await put_tenant(store.pool, Tenant(name))
            tokens.append(new_api_key())
            await add_key(store.pool, name, hash_api_key(tokens[-1]))
        return tokens


class Load:
    """Callers on a thread of their own."""

    def __init__(self, service: Service, tokens: Sequence[str]) -> None:
        self.submitted = Submitted()
        self._target = service.addresses.grpc_target
        self._tokens = tokens
        self._scope = trio.CancelScope()
        self._began: queue.Queue[trio.lowlevel.TrioToken] = queue.Queue()
        self._thread = threading.Thread(target=lambda: trio.run(self._run))
        self._thread.start()
        self._token = self._began.get()

    async def _run(self) -> None:
        self._began.put(trio.lowlevel.current_trio_token())
        key = ClientKey.generate(TOY_2_2)
        with self._scope:
            await call(self._target, self._tokens, key, key.compressed_server_key(), self.submitted)

    def stop(self) -> None:
        """End all calls."""
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()


def main(folder: Path) -> None:
    """Take all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="coproc-shots-"))
    base.chmod(0o755)
    os.environ |= {"COPROC_REQUIRE_API_KEYS": "true"}
    with database(base) as url:
        tokens = trio.run(make_callers, url)
        arguments = ["--database-url", url, "--allow-insecure-parameters"]
        service = start_service(arguments, base)
        load = Load(service, tokens)
        browser = Browser()
        try:
            time.sleep(SECONDS)
            take(browser, service, load.submitted, folder)
        finally:
            browser.close()
            load.stop()
            service.process.kill()
            service.process.wait()
    shutil.rmtree(base, ignore_errors=True)


def take(browser: Browser, service: Service, submitted: Submitted, folder: Path) -> None:
    """Visit the page in several ways."""
    address = service.addresses.health + "/"

    def path(name: str) -> str:
        return str(folder / f"{name}.png")

    def of(program: str) -> str:
        return f"{address}#transaction/{submitted.latest(program)}"

    browser.visit(shoot, address, size=(1440, 1480), path=path("page-light"))
    browser.visit(shoot, address, size=(1440, 1180), scheme="dark", path=path("page-dark"))
    browser.visit(shoot, address, size=PHONE, touch=True, path=path("page-phone"))
    chosen = ".node[aria-label^='ge,']"
    browser.visit(shoot, of("payroll"), size=(1440, 900), path=path("page-transaction"), click=chosen)
    browser.visit(shoot, of("division"), size=(1440, 620), path=path("page-failure"), click=".node.failed")
    browser.visit(
        shoot, of("transfer"), size=PHONE, touch=True, scheme="dark", path=path("page-phone-transaction"), whole=True
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/images")
