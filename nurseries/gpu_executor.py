"""The executor actor for a device: runs jobs there, and on the cores whenever the device fails.

Decides when the device is asked (a circuit breaker), how long one level may take, and that a job which fails there
starts over on the cores: both give the same bits, and the job has one answer. Levels of concurrent jobs run together.
Rows of a cancelled job are given back after the device is done with them. It must not know which device it is.
"""

from __future__ import annotations

import ctypes
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio

from coproc.executors.base import ExecutorUnavailable
from coproc.executors.factory import create_device_executor, create_executor
from coproc.executors.gpu import DeviceExecutor
from coproc.executors.gpu.device import DeviceFailure, DeviceHung, DeviceLost
from coproc.executors.gpu.owner import MOST_UNDER_WAY
from coproc.health.report import ActorReport
from coproc.resilience import Breaker, BreakerState, CircuitOpen, Guard
from nurseries.executor import ComputationDefect, ExecutorActor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from coproc.executors.base import Executor
    from coproc.health.report import ExecutorReport
    from coproc.keyring import KeyCache
    from nurseries.executor import Job, JobCall, RunsJobs
    from nurseries.mailbox import Mailbox

T = TypeVar("T")
LEVEL_SECONDS: Final = {"gpu": 30.0, "emulated": 900.0}
"""How long one wait for a device may last, by executor."""
LEVELS_AHEAD: Final = MOST_UNDER_WAY + 1
"""Levels of one job that are asked for at once: one more than a device is given, so that it never waits for Trio."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class GpuExecutorActor(ExecutorActor):
    """Runs jobs on a device, and on the cores while the device fails."""

    def __init__(
        self,
        make: Callable[[], DeviceExecutor],
        make_fallback: Callable[[], Executor],
        keys: KeyCache,
        mailbox: Mailbox[JobCall],
        *,
        jobs: int = 4,
        prepared_keys: int = 2,
        level_seconds: float = 30.0,
        breaker: Breaker | None = None,
        label: str = "gpu",
    ) -> None:
        """Take up to ``jobs`` jobs at once; two failures in a row open the breaker."""
        super().__init__(make, keys, mailbox, jobs=jobs, prepared_keys=prepared_keys)
        self._make_fallback = make_fallback
        self._fallback = ExecutorActor(make_fallback, keys, mailbox, prepared_keys=prepared_keys)
        self._fallback_executor: Executor | None = None
        self._opening = trio.Lock()
        self._level_seconds = level_seconds
        self.guard = Guard(label, breaker or Breaker(threshold=2))
        self._stuck: Callable[[], bool] | None = None
        self._lost: DeviceLost | None = None
        self.taken_over = 0
        """Jobs that the cores finished or began because the device could not."""

    @property
    def parallel(self) -> int | None:
        """Bootstraps that take about as long as a single one; None until the device is open."""
        return self._executor.parallel if isinstance(self._executor, DeviceExecutor) else None

    @property
    def device_health(self) -> ActorReport:
        """How the device is; while it is not healthy the cores compute."""
        if self._lost is not None:
            return ActorReport("lost", healthy=False, error=self._lost.message)
        if self._hangs:
            return ActorReport("hung", healthy=False, error=self.guard.error)
        state = self.guard.state
        return ActorReport(state.value, healthy=state is BreakerState.CLOSED, error=self.guard.error)

    @property
    def reports(self) -> tuple[ExecutorReport, ...]:
        """The device, and the cores once they have taken a job over."""
        cores = self._fallback_executor
        return (self.statistics, *([replace(self._fallback.statistics, name=cores.name)] if cores is not None else []))

    @property
    def _hangs(self) -> bool:
        return self._stuck is not None and not self._stuck()

    async def run_levels(self) -> None:
        """Run the levels of jobs that the cores have taken over until cancelled."""
        await self._fallback.run_levels()

    async def compute(self, executor: Executor, job: Job) -> NDArray[np.uint64]:
        """Run a job on the device, or on the cores if that fails."""
        if self._lost is None and not self._hangs:
            try:
                with self.guard.calling():
                    return await self._on_device(executor, job)
            except (DeviceFailure, CircuitOpen) as error:
                log.warning("the cores take a job over", rule=error.rule, error=error.message)
        self.taken_over += 1
        async with self._opening:
            if self._fallback_executor is None:
                self._fallback_executor = await trio.to_thread.run_sync(self._make_fallback)
        return await self._fallback.compute(self._fallback_executor, job)

    async def _on_device(self, executor: Executor, job: Job) -> NDArray[np.uint64]:
        if not isinstance(executor, DeviceExecutor):
            raise ComputationDefect(f"{executor.name} is no executor of a device")
        try:
            with self._patience():
                prepared, inputs = await self._prepare_inputs(executor, job)
                evaluation = executor.evaluate(prepared, job.circuit, inputs)
            running: deque[Future[None]] = deque()
            try:
                await self._wait(evaluation.begin())
                for level in job.circuit.levels:
                    while evaluation.levels_left and len(running) < LEVELS_AHEAD:
                        running.append(evaluation.begin_level())
                    with self._busy.counting():
                        await self._wait(running.popleft())
                    self.ran(executor, level.bootstraps, 1)
                return await self._wait(evaluation.begin_outputs())
            finally:
                for future in running:
                    future.cancel()
                evaluation.close()
        except DeviceLost as error:
            self._lost = error
            log.critical("the device is lost: the cores compute until this process starts anew", error=error.message)
            raise DeviceFailure(error.message) from error

    async def _wait(self, future: Future[T]) -> T:
        """Wait for the device without a thread; what has not started when nobody waits any more never starts."""
        done, token = trio.Event(), trio.lowlevel.current_trio_token()

        def tell(_: Future[T]) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        future.add_done_callback(tell)
        try:
            with self._patience(future):
                await done.wait()
        finally:
            future.cancel()
        return future.result()

    @contextmanager
    def _patience(self, future: Future[T] | None = None) -> Generator[None]:
        with trio.move_on_after(self._level_seconds) as scope:
            yield
        if scope.cancelled_caught:
            if future is not None:
                self._stuck = future.done
            raise DeviceHung(f"the device did not answer for {self._level_seconds:g} s")


@dataclass(frozen=True, slots=True)
class GpuPresence:
    """What this machine has."""

    devices: int
    reason: str
    """Why no GPU is used, as a sentence for operators; empty if one can be."""


def find_gpus() -> GpuPresence:
    """Ask the CUDA driver how many devices there are, without any CUDA package."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return GpuPresence(0, "no GPU is used: this machine has no CUDA driver (libcuda.so.1)")
    if (status := int(driver.cuInit(0))) != 0:
        return GpuPresence(0, f"no GPU is used: the CUDA driver does not start (CUDA error {status})")
    count = ctypes.c_int(0)
    if (status := int(driver.cuDeviceGetCount(ctypes.byref(count)))) != 0 or count.value == 0:
        return GpuPresence(0, f"no GPU is used: the CUDA driver finds no device (CUDA error {status})")
    if find_spec("cupy") is None:
        return GpuPresence(count.value, "no GPU is used: CuPy is not installed (extra `gpu`)")
    return GpuPresence(count.value, "")


def require_gpu() -> None:
    """Check that a GPU executor can start.

    Raises:
        ExecutorUnavailable: it cannot; says what is missing.
    """
    presence = find_gpus()
    if presence.reason:
        raise ExecutorUnavailable(presence.reason, devices=presence.devices)


class GpuExecutors:
    """Several devices beside each other: whole jobs go to whichever has room first."""

    def __init__(self, devices: Sequence[GpuExecutorActor]) -> None:
        """Run one actor a device, all of which take jobs from one mailbox."""
        self.devices: Final = tuple(devices)
        self.retired = trio.Event()
        """Set once the last job of all devices is over."""

    @property
    def name(self) -> str | None:
        """The names of all, None until they have been opened."""
        names = [device.name for device in self.devices]
        return None if None in names else ", ".join(filter(None, names))

    @property
    def parallel(self) -> int | None:
        """Of one device: a job runs on one."""
        return self.devices[0].parallel

    @property
    def reports(self) -> tuple[ExecutorReport, ...]:
        """Every device, and the cores that took over from it."""
        return tuple(report for device in self.devices for report in device.reports)

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Take jobs until cancelled or told to retire.

        Raises:
            ExecutorUnavailable: a device could not be opened.
        """
        async with trio.open_nursery() as nursery:
            names = [str(await nursery.start(device.run)) for device in self.devices]
            task_status.started(", ".join(names))
        self.retired.set()

    def retire(self) -> None:
        """Take no further job; ``run`` returns after those under way."""
        for device in self.devices:
            device.retire()


def devices_of(actor: RunsJobs | None) -> tuple[GpuExecutorActor, ...]:
    """Return the devices behind an executor's actor; none if it runs on cores."""
    if isinstance(actor, GpuExecutors):
        return actor.devices
    return (actor,) if isinstance(actor, GpuExecutorActor) else ()


def gpu_executor(
    keys: KeyCache,
    mailbox: Mailbox[JobCall],
    *,
    name: str = "gpu",
    threads: int | None = None,
    jobs: int = 4,
    prepared_keys: int = 2,
    devices: int = 1,
    cache: Path | None = None,
) -> RunsJobs:
    """Make the actor of one or several devices.

    Args:
        keys: evaluation keys, of which every device keeps ``prepared_keys``.
        mailbox: where jobs come from.
        name: ``gpu`` or ``emulated``.
        threads: of the cores that take over where a device fails.
        jobs: at once on each device.
        prepared_keys: that a device keeps.
        devices: how many there are; CUDA numbers them from 0.
        cache: folder of compiled kernels of the cores.
    """
    actors = [
        GpuExecutorActor(
            partial(create_device_executor, name, number if devices > 1 else None),
            partial(create_executor, "cpu", threads, cache=cache),
            keys,
            mailbox,
            jobs=jobs,
            prepared_keys=prepared_keys,
            level_seconds=LEVEL_SECONDS[name],
            label="gpu" if devices == 1 else f"gpu-{number}",
        )
        for number in range(devices)
    ]
    return actors[0] if devices == 1 else GpuExecutors(actors)
