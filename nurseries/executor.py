"""The actor around an executor: takes jobs from a mailbox and runs them level by level on threads.

Decides how jobs share the machine: levels of concurrent jobs run together (``nurseries.levels``), so that a short job
passes through while a long one runs, and a job whose sender gave up is in no further run. It must not know which
executor it runs nor what circuits compute.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import structlog
import trio
from numpy.typing import NDArray

from coproc.errors import CoprocError, IrrecoverableError, RecoverableError
from coproc.executors.base import Closeable, Metered, lanes_of
from coproc.executors.casting import PreparedCasting, prepare_casting
from coproc.executors.compression import prepare_unpacking
from coproc.executors.evaluation import Evaluation
from coproc.health.report import ExecutorReport
from coproc.metrics import LEVEL_BOOTSTRAPS
from coproc.tfhe.server_key import load_unpacking_key
from coproc.tracing import span, traceparent
from nurseries.levels import Levels
from nurseries.mailbox import Call, Mailbox
from nurseries.threads import run_near

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from coproc.circuits.circuit import Circuit
    from coproc.executors.base import Executor, PreparedKey
    from coproc.keyring import KeyCache
    from coproc.tfhe.keys import UnpackingKey

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A circuit to run under one key."""

    key_id: bytes
    circuit: Circuit
    inputs: NDArray[np.uint64]
    """Shape ``(I, k*N+1)``: the circuit's input wires in order."""
    casting: bool = False
    """Whether the inputs are under the compact key instead, shape ``(I, compact dimension + 1)``."""
    unpacking: bool = False
    """Whether they are under the key of compression, shape ``(I, k'*N' + 1)``."""
    traceparent: str | None = field(default_factory=traceparent)
    """The span that the job was made in."""


JobCall: TypeAlias = Call[Job, NDArray[np.uint64]]
"""A job whose answer is its outputs, shape ``(O, k*N+1)``."""


class ComputationDefect(IrrecoverableError):
    """The executor raised something that it should not: a defect of ours, which trying again would only repeat."""

    rule = "EXECUTOR_DEFECT"


class OutOfMemory(RecoverableError):
    """The executor could not get memory for a job; it may later, or in a smaller batch."""

    rule = "OUT_OF_MEMORY"


class BusyTime:
    """Time during which at least one level runs; levels that run together count once."""

    def __init__(self) -> None:
        self._sum = self._since = 0.0
        self._running = 0

    @property
    def seconds(self) -> float:
        """The time so far, that of levels which run just now included."""
        return self._sum + (trio.current_time() - self._since if self._running else 0.0)

    @contextmanager
    def counting(self) -> Generator[None]:
        """Run one level in the block."""
        if not self._running:
            self._since = trio.current_time()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._sum += trio.current_time() - self._since


class RunsJobs(Protocol):
    """What takes jobs: one executor, or several beside each other."""

    retired: trio.Event

    @property
    def name(self) -> str | None:
        """The executor's; None until it has been made."""
        ...

    @property
    def parallel(self) -> int | None:
        """Bootstraps that take about as long as a single one; None until the executor has been made."""
        ...

    @property
    def reports(self) -> tuple[ExecutorReport, ...]:
        """Every executor behind it, the one in use first."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Take jobs until cancelled or told to retire."""
        ...

    def retire(self) -> None:
        """Take no further job; ``run`` returns after those under way."""
        ...


class ExecutorActor:
    """Runs jobs; ``run`` is an actor that can be restarted, and its mailbox outlives it."""

    def __init__(
        self,
        make: Callable[[], Executor],
        keys: KeyCache,
        mailbox: Mailbox[JobCall],
        *,
        jobs: int = 2,
        prepared_keys: int = 2,
    ) -> None:
        """Take up to ``jobs`` jobs at once and keep ``prepared_keys`` keys in the executor's layout.

        ``make`` makes the executor, on a thread: compiling or finding a device takes a while.
        """
        self._make = make
        self._keys = keys
        self._mailbox = mailbox
        self._jobs = jobs
        self._capacity = prepared_keys
        self._prepared: OrderedDict[bytes, PreparedKey] = OrderedDict()
        self._castings: OrderedDict[tuple[bytes, bool], PreparedCasting] = OrderedDict()
        self._preparing = trio.Lock()
        self._on_cores = Levels(self)
        self._executor: Executor | None = None
        self._running = self._done = self._failures = self._levels = self._bootstraps = self._slots = 0
        self._lanes: int | None = None
        self._busy = BusyTime()
        self._receiving: set[trio.CancelScope] = set()
        self._retiring = False
        self.retired = trio.Event()
        """Set once the last job of an actor that was to retire is over."""

    @property
    def name(self) -> str | None:
        """The executor's; None until it has been made."""
        return None if self._executor is None else self._executor.name

    @property
    def parallel(self) -> int | None:
        """Bootstraps that take about as long as a single one; None until the executor has been made."""
        return None if self._executor is None else lanes_of(self._executor)

    @property
    def statistics(self) -> ExecutorReport:
        """Counts since the start of the process."""
        return ExecutorReport(
            name=self.name or "none yet",
            slots=self._jobs,
            running=self._running,
            jobs=self._done,
            failures=self._failures,
            levels=self._levels,
            bootstraps=self._bootstraps,
            busy_seconds=self._busy.seconds,
            kernel_seconds=self._executor.kernel_seconds if isinstance(self._executor, Metered) else 0.0,
            lanes=self._lanes,
            lane_slots=self._slots,
        )

    @property
    def reports(self) -> tuple[ExecutorReport, ...]:
        """Every executor behind this actor, the one in use first."""
        return (self.statistics,)

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Take jobs until cancelled or told to retire; ``task_status`` reports the executor's name.

        Raises:
            ExecutorUnavailable: this machine lacks what the executor needs.
        """
        self._prepared.clear()
        self._castings.clear()
        executor = await trio.to_thread.run_sync(self._make)
        self._executor = executor
        self._lanes = lanes_of(executor)
        async with trio.open_nursery() as levels:
            levels.start_soon(self.run_levels)
            async with trio.open_nursery() as nursery:
                for _ in range(self._jobs):
                    nursery.start_soon(self._serve, executor)
                log.info("executor ready", executor=executor.name)
                task_status.started(executor.name)
            levels.cancel_scope.cancel(reason="no job is left")
        if isinstance(executor, Closeable):
            await trio.to_thread.run_sync(executor.close)
        self._prepared.clear()
        self._castings.clear()
        self.retired.set()
        log.info("executor retired", executor=executor.name)

    async def run_levels(self) -> None:
        """Run the levels of jobs on cores until cancelled."""
        await self._on_cores.run()

    def retire(self) -> None:
        """Take no further job; ``run`` returns after those under way."""
        self._retiring = True
        for scope in self._receiving:
            scope.cancel(reason="the executor retires")

    async def _receive(self) -> JobCall | None:
        """Take the next job; None once the executor retires."""
        call: JobCall | None = None
        with trio.CancelScope() as scope:
            self._receiving.add(scope)
            try:
                if not self._retiring:
                    call = await self._mailbox.receive()
            finally:
                self._receiving.discard(scope)
        return call

    async def _serve(self, executor: Executor) -> None:
        while (call := await self._receive()) is not None:
            if call.abandoned:
                continue
            self._running += 1
            try:
                with call.answering(), _span(executor.name, call.message):
                    call.answer(await self.compute(executor, call.message))
                    self._done += 1
            finally:
                self._running -= 1

    async def compute(self, executor: Executor, job: Job) -> NDArray[np.uint64]:
        """Run one job to its outputs; whatever goes wrong is a ``CoprocError``."""
        try:
            prepared, inputs = await self._prepare_inputs(executor, job)
            size = job.circuit.wires
            evaluation = await run_near(Evaluation, executor, prepared, job.circuit, inputs, ciphertexts=size)
            await self._on_cores.finish(evaluation)
            return await run_near(evaluation.outputs, ciphertexts=size)
        except CoprocError:
            self._failures += 1
            raise
        except MemoryError as error:
            self._failures += 1
            raise OutOfMemory("not enough memory for this job", bootstraps=job.circuit.bootstraps) from error
        except Exception as error:
            # An actor that dies of one job would be killed by it again and again: the job fails instead.
            self._failures += 1
            log.exception("executor defect", executor=executor.name, bootstraps=job.circuit.bootstraps)
            raise ComputationDefect(f"the executor failed with {type(error).__name__}") from error

    def running(self) -> AbstractContextManager[None]:
        """Count the time of a run as busy for as long as this is held."""
        return self._busy.counting()

    def ran(self, executor: Executor, bootstraps: int, levels: int) -> None:
        """Count bootstraps that have run together, and the levels that ended with them."""
        self._levels += levels
        self._bootstraps += bootstraps
        self._lanes = lanes_of(executor)
        if self._lanes is not None:
            self._slots += -(-bootstraps // self._lanes) * self._lanes
        LEVEL_BOOTSTRAPS.labels(executor.name).observe(bootstraps)

    async def _prepare(self, executor: Executor, key_id: bytes) -> PreparedKey:
        """Find a key in the executor's layout, or make it; the least recently used one makes room."""
        if (prepared := self._prepared.get(key_id)) is not None:
            self._prepared.move_to_end(key_id)
            return prepared
        async with self._preparing:
            prepared = self._prepared.get(key_id)
            if prepared is None:
                key = await self._keys.get(key_id)
                prepared = await trio.to_thread.run_sync(executor.prepare, key, abandon_on_cancel=True)
                self._prepared[key_id] = prepared
            self._prepared.move_to_end(key_id)
            while len(self._prepared) > self._capacity:
                self._prepared.popitem(last=False)
            return prepared

    async def _prepare_inputs(self, executor: Executor, job: Job) -> tuple[PreparedKey, NDArray[np.uint64]]:
        """Find the key that a job is computed under, and bring its inputs under the compute key's dimensions."""
        if not (job.casting or job.unpacking):
            return await self._prepare(executor, job.key_id), job.inputs
        casting = await self._prepare_casting(executor, job.key_id, unpacking=job.unpacking)
        return casting.prepared, await trio.to_thread.run_sync(casting.bring, job.inputs, abandon_on_cancel=True)

    async def _prepare_casting(self, executor: Executor, key_id: bytes, *, unpacking: bool) -> PreparedCasting:
        """Find what brings ciphertexts of another key to the compute key in the executor's layout, or make it."""
        async with self._preparing:
            prepared = self._castings.get((key_id, unpacking))
            if prepared is None:
                key = await self._keys.get(key_id)
                if unpacking:
                    make = partial(prepare_unpacking, executor, key, await self._keys.part(key_id, _load_unpacking))
                else:
                    make = partial(prepare_casting, executor, key, await self._keys.casting(key_id))
                prepared = await trio.to_thread.run_sync(make, abandon_on_cancel=True)
                self._castings[key_id, unpacking] = prepared
            self._castings.move_to_end((key_id, unpacking))
            while len(self._castings) > self._capacity:
                self._castings.popitem(last=False)
            return prepared


async def _load_unpacking(data: bytes) -> UnpackingKey:
    return await trio.to_thread.run_sync(load_unpacking_key, data)


def _span(executor: str, job: Job) -> AbstractContextManager[None]:
    circuit = job.circuit
    attributes: dict[str, str | int | float] = {
        "coproc.executor": executor,
        "coproc.key_id": job.key_id.hex(),
        "coproc.bootstraps": circuit.bootstraps,
        "coproc.levels": circuit.depth,
        "coproc.batch_width": max((level.bootstraps for level in circuit.levels), default=0),
    }
    return span("execute", kind="CONSUMER", parent=job.traceparent, attributes=attributes)
