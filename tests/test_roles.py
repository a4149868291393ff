"""One service as several processes: an API, a worker and a websocket, each by itself, on one Postgres."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
import trio

from coproc.cli.devnet import write_settings
from coproc.cli.service import Service, start_service
from coproc.client import State, Transaction
from coproc.config import Config, InvalidConfiguration
from coproc.errors import FatalError
from coproc.program.types import FheType, new_handle
from coproc.results.client import subscribe
from nurseries.bridge import open_client

if TYPE_CHECKING:
    from coproc.tfhe.client import ClientKey


def start(stack: ExitStack, folder: Path, role: str, database_url: str, *arguments: str) -> Service:
    own = folder / role
    own.mkdir()
    options = ["--roles", role, "--database-url", database_url, "--allow-insecure-parameters", "--threads", "1"]
    service = start_service([*options, *arguments], own)

    def end() -> None:
        service.process.kill()
        service.process.wait()

    stack.callback(end)
    return service


def coproc(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coproc", *arguments], capture_output=True, text=True, check=False, timeout=100
    )


def actors(service: Service) -> set[str]:
    with urlopen(f"{service.addresses.health}/metrics") as answer:  # noqa: S310 - an address of our own
        text = answer.read().decode()
    return {line.split('"')[1] for line in text.splitlines() if line.startswith("coproc_actor_up{")}


async def test_roles_are_processes_of_their_own(
    toy_client_key: ClientKey, toy_server_key: bytes, empty_database_url: str, tmp_path: Path
) -> None:
    url = empty_database_url
    # Services that must not migrate wait for the job that does, and say so when nobody runs it.
    assert coproc("migrate", "--check", "--patience-seconds", "0", "--database-url", url).returncode == 1
    migrated = coproc("migrate", "--database-url", url)
    assert migrated.returncode == 0, migrated.stderr
    assert coproc("migrate", "--check", "--database-url", url).returncode == 0

    with ExitStack() as stack, trio.fail_after(120):
        waiting = "--no-migrate-on-start"
        api = await trio.to_thread.run_sync(start, stack, tmp_path, "api", url, waiting)
        assert (api.addresses.results, actors(api) & {"listener", "results", "executor", "scheduler"}) == (
            "",
            {"listener"},
        )
        left, right = new_handle(FheType.UINT8), new_handle(FheType.UINT8)
        async with open_client("127.0.0.1", api.grpc_port) as client:
            info = await client.server_info()
            assert (list(info.executors), info.results_port) == ([], 0)
            key_id = await client.register_key(toy_server_key)
            await client.upload(key_id, {left: toy_client_key.encrypt(40, 8), right: toy_client_key.encrypt(2, 8)})
            transaction = Transaction(key_id)
            total = transaction.add(left, right, allow=True)
            await client.submit(transaction)
            assert [status.state for status in await client.status([total])] == [State.READY], "nobody computes yet"

            worker = await trio.to_thread.run_sync(start, stack, tmp_path, "worker", url, waiting)
            results = await trio.to_thread.run_sync(start, stack, tmp_path, "results", url, waiting)
            assert (worker.addresses.grpc, worker.addresses.results, results.addresses.grpc) == ("", "", "")
            assert actors(worker) & {"listener", "results", "executor", "scheduler"} == {"executor", "scheduler"}
            assert actors(results) & {"listener", "results", "executor", "scheduler"} == {"results"}
            async with subscribe(results.addresses.results, after_sequence=0) as events:
                async for event in events:
                    assert (event.handle, event.state.name) == (total, "COMPLETED")
                    break
            (item,) = await client.fetch([total])
            assert item.ciphertext is not None
            assert toy_client_key.decrypt(item.ciphertext) == 42
        for service in (worker, results, api):
            service.process.send_signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(service.process.wait, 60) == 0


async def test_a_listener_is_a_process_of_its_own(empty_database_url: str, tmp_path: Path) -> None:
    """It follows chains and serves nobody; a chain that cannot be followed shows as degraded."""
    settings = tmp_path / "coproc.toml"
    write_settings(settings, ["http://127.0.0.1:9"], b"k" * 32)
    with ExitStack() as stack:
        listener = start(stack, tmp_path, "listener", empty_database_url, "--config-file", str(settings))
        assert (listener.addresses.grpc, listener.addresses.results) == ("", "")
        assert actors(listener) >= {"chain-31337"}
        assert not actors(listener) & {"listener", "results", "executor", "scheduler"}
        with trio.fail_after(30):
            while True:
                with urlopen(f"{listener.addresses.health}/readyz") as answer:  # noqa: ASYNC210, S310 - a local probe
                    if json.load(answer)["degraded"] == ["chain-31337"]:
                        break
                await trio.sleep(0.05)
        listener.process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(listener.process.wait, 60) == 0


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"roles": "api"}, "shared database"),
        ({"roles": "worker", "database_url": "memory://"}, "shared database"),
        ({"roles": "cook", "database_url": "postgresql://x/y"}, "roles.*COPROC_ROLES"),
        ({"roles": " , ", "database_url": "postgresql://x/y"}, "at least one role"),
    ],
)
def test_roles_that_make_no_sense_are_named(settings: dict[str, str], fault: str) -> None:
    with pytest.raises(InvalidConfiguration, match=fault):
        Config(**settings)


def test_roles_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPROC_ROLES", "api, results")
    assert Config(database_url="postgresql://x/y").roles == {"api", "results"}


def test_a_service_that_may_not_migrate_says_what_is_missing(empty_database_url: str, tmp_path: Path) -> None:
    script = (
        "import sys, trio\n"
        "from coproc.store.open import open_store\n"
        "async def main():\n"
        "    async with open_store(sys.argv[1], patience=0, migrating=False): pass\n"
        "trio.run(main)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, empty_database_url], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    assert ended.returncode == 1
    assert "run coproc migrate" in ended.stderr
    with pytest.raises(FatalError, match="must be postgresql"):
        start_service(["--roles", "api"], tmp_path)
