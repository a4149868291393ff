"""Stopping the real program in the middle of its work, and going on afterwards."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.cli.service import start_service
from coproc.client import State, Transaction
from coproc.program.types import FheType, Handle, new_handle
from nurseries.bridge import open_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coproc.tfhe.client import ClientKey

JOBS = 8


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of its own: pytest's belong to this user alone, and a root user's database runs as another one."""
    with tempfile.TemporaryDirectory(prefix="coproc-restart-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


async def test_sigterm_in_the_middle_of_work_loses_nothing(
    toy_client_key: ClientKey, toy_server_key: bytes, folder: Path
) -> None:
    arguments = ["--allow-insecure-parameters", "--data-directory", str(folder / "data"), "--drain-seconds", "0.5"]
    arguments += ["--batch-window-seconds", "0"]
    service = start_service(arguments, folder)
    inputs = {new_handle(FheType.UINT64): 10**18 + 7 * number for number in range(JOBS)}
    divisor = new_handle(FheType.UINT64)
    expected: dict[Handle, int] = {}
    with trio.fail_after(200):
        async with open_client("127.0.0.1", service.grpc_port) as client:
            key_id = await client.register_key(toy_server_key)
            uploads = {handle: toy_client_key.encrypt(value, 64) for handle, value in inputs.items()}
            await client.upload(key_id, uploads | {divisor: toy_client_key.encrypt(12345, 64)})
            for handle, value in inputs.items():
                transaction = Transaction(key_id)
                expected[transaction.div(handle, divisor, allow=True)] = value // 12345
                await client.submit(transaction)
            await trio.sleep(0.3)
            states = {state.state for state in await client.status(list(expected))}
            assert states & {State.COMPUTING, State.READY}, "the work ended before it could be interrupted"
        assert await trio.to_thread.run_sync(service.terminate) == 0

        service = start_service(arguments, folder)
        async with open_client("127.0.0.1", service.grpc_port) as client:
            await client.wait(list(expected), 150)
            for item in await client.fetch(list(expected)):
                assert item.ciphertext is not None
                assert toy_client_key.decrypt(item.ciphertext) == expected[item.handle]
        assert await trio.to_thread.run_sync(service.terminate) == 0
