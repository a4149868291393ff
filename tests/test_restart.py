"""Stopping the real program in the middle of its work, and going on afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from coproc.cli.service import start_service
from coproc.client import State, Transaction
from coproc.program.types import FheType, Handle, new_handle
from nurseries.bridge import open_client

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from coproc.tfhe.client import ClientKey

JOBS = 8


async def test_sigterm_in_the_middle_of_work_loses_nothing(
    toy_client_key: ClientKey, toy_server_key: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("restart")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o711)  # the database of a root user runs as another one
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
