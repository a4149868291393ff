"""A device is lost in the middle of the work of a service: results are right, probes say degraded, metrics count it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.client import Transaction
from coproc.executors.gpu.device import DeviceLost
from coproc.executors.gpu.emulation import EmulatedDevice
from coproc.program.types import FheType, new_handle
from nurseries.bridge import open_client
from tests.nurseries.running import readiness, running, scrape

if TYPE_CHECKING:
    from coproc.executors.gpu.device import Mark
    from coproc.tfhe.client import ClientKey

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulation of kernels needs g++")


async def test_a_lost_device_degrades_the_service_and_loses_nothing(
    database_url: str, toy_client_key: ClientKey, toy_server_key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = 0
    mark = EmulatedDevice.mark

    def mark_or_die(device: EmulatedDevice) -> Mark:
        nonlocal marks
        marks += 1
        if marks > 2:
            raise DeviceLost("an uncorrectable memory error")
        return mark(device)

    monkeypatch.setattr(EmulatedDevice, "mark", mark_or_die)
    with trio.fail_after(240):
        async with (
            running(database_url, executor="emulated") as addresses,
            open_client(*addresses.grpc_target) as client,
        ):
            assert (await readiness(addresses))[1]["degraded"] == []
            key_id = await client.register_key(toy_server_key)
            for number in range(2):
                a, b, draft = new_handle(FheType.UINT8), new_handle(FheType.UINT8), Transaction(key_id)
                await client.upload(key_id, {a: toy_client_key.encrypt(200, 8), b: toy_client_key.encrypt(number, 8)})
                total = draft.add(a, b, allow=True)
                await client.submit(draft)
                await client.wait([total])
                (item,) = await client.fetch([total])
                assert item.ciphertext is not None
                assert toy_client_key.decrypt(item.ciphertext) == 200 + number
            assert marks == 3, "a lost device is not asked again"
            status, body = await readiness(addresses)
            assert (status, body["degraded"]) == (200, ["gpu"])
            assert "an uncorrectable memory error" in str(body["actors"])
            figures = await scrape(addresses)
            assert figures("executor_taken_over_total", executor="emulated") == 2
            assert figures("executor_jobs_total", executor="emulated") == 2
