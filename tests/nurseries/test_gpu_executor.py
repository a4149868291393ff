"""A device that fails loses no job: the cores finish it, the breaker opens, and health says so."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trio

from coproc.circuits.circuit import Circuit, LinearForms
from coproc.executors import create_executor
from coproc.executors.gpu import DeviceExecutor
from coproc.executors.gpu.device import DeviceFailure, DeviceLost, DeviceOutOfMemory
from coproc.executors.gpu.emulation import EmulatedDevice
from coproc.executors.gpu.kernels import DeviceKey
from coproc.resilience import Breaker
from nurseries.gpu_executor import GpuExecutorActor, GpuExecutors, devices_of
from nurseries.mailbox import Mailbox, ask
from tests.nurseries.test_executor import job, keys, until, value_of

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from coproc.executors.gpu.device import DeviceArray, Mark
    from coproc.tfhe.keys import EvaluationKey
    from nurseries.executor import JobCall

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulation of kernels needs g++")


class FailingDevice(EmulatedDevice):
    """Raises or waits where it synchronizes, and has no memory for more rows than ``room``."""

    def __init__(self) -> None:
        super().__init__(processors=0)
        self.errors: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        self.waits = 0
        self.room: int | None = None

    def synchronize(self, mark: Mark | None = None) -> None:  # noqa: ARG002 - the device's signature
        self.waits += 1
        assert self.gate.wait(60)
        if self.errors:
            raise self.errors.pop(0)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        if self.room is not None and shape[0] > self.room and dtype is np.uint64:
            raise DeviceOutOfMemory("no room")
        return super().empty(shape, dtype)


async def start(
    nursery: trio.Nursery, device: FailingDevice, *, seconds: float = 60.0, cooldown: float = 60.0
) -> tuple[GpuExecutorActor, Mailbox[JobCall]]:
    mailbox = Mailbox["JobCall"]("jobs", 8)
    actor = GpuExecutorActor(
        lambda: DeviceExecutor("emulated", lambda: device),
        lambda: create_executor("cpu", 1),
        keys(),
        mailbox,
        level_seconds=seconds,
        breaker=Breaker(threshold=2, cooldown=cooldown),
    )
    assert await nursery.start(actor.run) == "emulated"
    return actor, mailbox


async def test_jobs_run_on_the_device_and_share_its_levels() -> None:
    device = FailingDevice()
    async with trio.open_nursery() as nursery:
        actor, mailbox = await start(nursery, device)
        assert value_of(await ask(mailbox, job(1, 1))) == 2
        device.waits = 0
        results: list[int] = []

        async def one(value: int) -> None:
            results.append(value_of(await ask(mailbox, job(value, 3))))

        async with trio.open_nursery() as callers:
            for value in range(4):
                callers.start_soon(one, value)
        assert sorted(results) == [0, 1, 2, 3]
        assert actor.taken_over == 0
        assert actor.device_health.healthy
        assert actor.statistics.levels == 13
        assert actor.statistics.jobs == 5
        assert len(actor.reports) == 1, "the cores have done nothing"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [DeviceFailure("launch failed"), DeviceOutOfMemory("no room")])
async def test_failures_open_the_breaker_and_the_cores_finish_every_job(error: Exception) -> None:
    device = FailingDevice()
    async with trio.open_nursery() as nursery:
        actor, mailbox = await start(nursery, device, cooldown=1.0)
        assert value_of(await ask(mailbox, job(0, 1))) == 1
        device.errors = [error] * 2
        for number in range(2):
            assert value_of(await ask(mailbox, job(number, 2))) == number + 2
        assert actor.taken_over == 2
        assert not actor.device_health.healthy
        assert [(report.name, report.bootstraps) for report in actor.reports] == [("emulated", 1), ("cpu", 4)]
        with trio.fail_after(60):
            while actor.taken_over:  # after the cooldown one job asks the device again, and the breaker closes
                before = actor.taken_over
                assert value_of(await ask(mailbox, job(3, 1))) == 0
                if actor.taken_over == before:
                    break
                await trio.sleep(0.2)
        assert actor.device_health.healthy
        nursery.cancel_scope.cancel()


async def test_a_lost_device_is_never_asked_again() -> None:
    device = FailingDevice()
    async with trio.open_nursery() as nursery:
        actor, mailbox = await start(nursery, device, cooldown=0.0)
        assert value_of(await ask(mailbox, job(0, 1))) == 1
        device.errors = [DeviceLost("illegal address")]
        assert value_of(await ask(mailbox, job(2, 3))) == 1
        assert actor.device_health.state == "lost"
        waits = device.waits
        assert value_of(await ask(mailbox, job(1, 1))) == 2
        assert (device.waits, actor.taken_over) == (waits, 2)
        assert actor.statistics.jobs == 3
        nursery.cancel_scope.cancel()


async def test_a_hanging_device_is_left_alone_until_it_answers() -> None:
    device = FailingDevice()
    async with trio.open_nursery() as nursery:
        actor, mailbox = await start(nursery, device, seconds=3.0, cooldown=0.0)
        assert value_of(await ask(mailbox, job(0, 1))) == 1
        device.gate.clear()
        assert value_of(await ask(mailbox, job(1, 2))) == 3
        assert actor.device_health.state == "hung"
        assert value_of(await ask(mailbox, job(2, 1))) == 3
        assert actor.taken_over == 2
        device.gate.set()
        await until(lambda: actor.device_health.state != "hung")
        assert value_of(await ask(mailbox, job(2, 2))) == 0
        assert actor.taken_over == 2
        nursery.cancel_scope.cancel()


async def test_a_batch_too_large_for_memory_is_split() -> None:
    device = FailingDevice()
    async with trio.open_nursery() as nursery:
        actor, mailbox = await start(nursery, device)
        assert value_of(await ask(mailbox, job(0, 1))) == 1
        device.room = 1
        results: list[int] = []

        async def one(value: int) -> None:
            results.append(value_of(await ask(mailbox, job(value, 2))))

        async with trio.open_nursery() as callers:
            for value in range(4):
                callers.start_soon(one, value)
        assert sorted(results) == [0, 1, 2, 3]
        assert actor.taken_over == 0
        nursery.cancel_scope.cancel()


async def test_rows_of_a_cancelled_job_come_back_after_the_device_is_done() -> None:
    device = FailingDevice()
    async with trio.open_nursery() as nursery:
        actor, mailbox = await start(nursery, device)
        assert value_of(await ask(mailbox, job(0, 1))) == 1
        (key,) = actor._prepared.values()
        assert isinstance(key, DeviceKey)
        slots = key.slots
        await until(lambda: slots.free == len(slots._free))
        device.gate.clear()
        waits = device.waits
        async with trio.open_nursery() as callers:
            callers.start_soon(ask, mailbox, job(1, 5))
            await until(lambda: device.waits > waits)
            callers.cancel_scope.cancel()
        assert slots.free < len(slots._free)
        device.gate.set()
        await until(lambda: slots.free == len(slots._free))
        assert value_of(await ask(mailbox, job(1, 1))) == 2
        assert actor.taken_over == 0
        nursery.cancel_scope.cancel()


async def test_several_devices_share_the_jobs_and_one_that_fails_leaves_the_others_alone() -> None:
    devices = [FailingDevice(), FailingDevice()]
    mailbox = Mailbox["JobCall"]("jobs", 8)

    def open_device(number: int) -> DeviceExecutor:
        return DeviceExecutor(f"emulated-{number}", lambda: devices[number])

    fleet = GpuExecutors(
        [
            GpuExecutorActor(
                partial(open_device, number),
                lambda: create_executor("cpu", 1),
                keys(),
                mailbox,
                jobs=1,
                label=f"gpu-{number}",
            )
            for number in range(2)
        ]
    )
    async with trio.open_nursery() as nursery:
        assert await nursery.start(fleet.run) == "emulated-0, emulated-1"
        first, second = devices_of(fleet)
        devices[0].gate.clear()
        results: list[int] = []

        async def one(value: int) -> None:
            results.append(value_of(await ask(mailbox, job(value, 1))))

        async with trio.open_nursery() as callers:
            callers.start_soon(one, 0)
            await until(lambda: first.statistics.running + second.statistics.running == 1)
            devices[0].gate.set()
        for _ in range(6):
            async with trio.open_nursery() as callers:
                for value in range(2):
                    callers.start_soon(one, value)
        assert sorted(results) == [1] * 7 + [2] * 6
        assert first.statistics.jobs > 0
        assert second.statistics.jobs > 0
        devices[0].errors = [DeviceLost("gone")]
        while first.device_health.healthy:
            async with trio.open_nursery() as callers:
                for value in range(2):
                    callers.start_soon(one, value)
        assert second.device_health.healthy
        assert {report.name for report in fleet.reports} == {"emulated-0", "emulated-1", "cpu"}
        fleet.retire()
        with trio.fail_after(30):
            await fleet.retired.wait()
        nursery.cancel_scope.cancel()


def test_outputs_too_large_for_memory_come_in_parts(toy_evaluation_key: EvaluationKey) -> None:
    device = FailingDevice()
    executor = DeviceExecutor("emulated", lambda: device)
    key = executor.prepare(toy_evaluation_key)
    count = 5
    numbers, ones = np.arange(count + 1, dtype=np.int32), np.ones(count, dtype=np.int64)
    forms = LinearForms(numbers, numbers[:count], ones, ones - ones)
    circuit = Circuit(inputs=count, wires=count, tables=(), levels=(), outputs=forms)
    inputs = np.random.default_rng(3).integers(0, 1 << 64, (count, key.words), dtype=np.uint64)
    evaluation = executor.evaluate(key, circuit, inputs)
    evaluation.begin().result()
    device.room = 2
    assert np.array_equal(evaluation.outputs(), inputs)
    evaluation.close()
