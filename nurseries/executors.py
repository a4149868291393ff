"""The executor of a worker, which may become another one while jobs run.

Decides which executor a name means on this machine, and how one takes over from another: it comes up first, then the
one before takes no further job, finishes what it has, and gives its memory back. One that does not come up changes
nothing. Figures go on: what an executor did stays counted after it has gone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
import trio

from coproc.errors import RecoverableError
from nurseries.cpu_executor import cpu_executor
from nurseries.gpu_executor import find_gpus, gpu_executor, require_gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from coproc.config import ExecutorName
    from coproc.health.report import ExecutorReport
    from coproc.keyring import KeyCache
    from nurseries.executor import JobCall, RunsJobs
    from nurseries.mailbox import Mailbox

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Executors:
    """Runs one executor actor at a time; ``run`` is an actor itself."""

    def __init__(self, make: Callable[[ExecutorName], RunsJobs], name: ExecutorName) -> None:
        """Begin with ``name``; ``make`` makes the actor of a name, and raises ExecutorUnavailable."""
        self._make = make
        self._name: ExecutorName = name
        self._nursery: trio.Nursery | None = None
        self._leaving: list[RunsJobs] = []
        self._left: tuple[ExecutorReport, ...] = ()
        self.current: RunsJobs | None = None
        """The one that takes jobs."""

    @property
    def reports(self) -> tuple[ExecutorReport, ...]:
        """What every executor has done since the process began, the one in use first."""
        running = (*([self.current] if self.current is not None else []), *self._leaving)
        return add_up([report for actor in running for report in actor.reports] + list(self._left))

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Compute until cancelled."""
        if self.current is not None:  # it has crashed
            self._leave(self.current)
            self.current = None
        for actor in self._leaving.copy():
            self._leave(actor)
        actor = self._make(self._name)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self.current = actor
                await nursery.start(actor.run)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def change(self, name: ExecutorName) -> None:
        """Let another executor take over; does nothing if it has that name already.

        Raises:
            ExecutorUnavailable: this machine lacks what it needs; the one before goes on.
            RecoverableError: no executor runs just now.
        """
        if name == self._name:
            return
        before, nursery = self.current, self._nursery
        if nursery is None or before is None:
            raise RecoverableError("the executor does not run just now")
        actor = self._make(name)
        await nursery.start(actor.run)
        self._leaving.append(before)
        self.current, self._name = actor, name
        before.retire()
        nursery.start_soon(self._see_off, before)
        log.warning("another executor computes from now on", executor=actor.name, before=before.name)

    async def _see_off(self, actor: RunsJobs) -> None:
        await actor.retired.wait()
        self._leave(actor)

    def _leave(self, actor: RunsJobs) -> None:
        if actor in self._leaving:
            self._leaving.remove(actor)
        self._left = add_up([*self._left, *(replace(report, running=0) for report in actor.reports)])


def add_up(reports: Iterable[ExecutorReport]) -> tuple[ExecutorReport, ...]:
    """Sum reports of one executor up, in the order of their first; what is no sum is the first one's."""
    found: dict[str, ExecutorReport] = {}
    for report in reports:
        known = found.get(report.name)
        found[report.name] = (
            report
            if known is None
            else replace(
                known,
                running=known.running + report.running,
                jobs=known.jobs + report.jobs,
                failures=known.failures + report.failures,
                levels=known.levels + report.levels,
                bootstraps=known.bootstraps + report.bootstraps,
                busy_seconds=known.busy_seconds + report.busy_seconds,
                kernel_seconds=known.kernel_seconds + report.kernel_seconds,
                lane_slots=known.lane_slots + report.lane_slots,
            )
        )
    return tuple(found.values())


def make_executor(
    name: ExecutorName,
    keys: KeyCache,
    mailbox: Mailbox[JobCall],
    *,
    threads: int | None,
    jobs: int,
    device_jobs: int,
    prepared_keys: int,
    cache: Path | None = None,
) -> RunsJobs:
    """Make the actor of an executor, which takes ``jobs`` at once on cores, ``device_jobs`` on each device.

    Kernels compiled for cores are kept in the folder ``cache``.

    Raises:
        ExecutorUnavailable: there is no GPU, but one is asked for.
    """
    if name == "gpu":
        require_gpu()
    chosen: str = name
    if name == "auto":
        reason = find_gpus().reason
        chosen = "cpu" if reason else "gpu"
        log.info("choosing the executor", chosen=chosen, reason=reason or "a GPU was found")
    if chosen not in {"gpu", "emulated"}:
        return cpu_executor(
            keys, mailbox, name=chosen, threads=threads, jobs=jobs, prepared_keys=prepared_keys, cache=cache
        )
    return gpu_executor(
        keys,
        mailbox,
        name=chosen,
        threads=threads,
        jobs=device_jobs,
        prepared_keys=prepared_keys,
        devices=find_gpus().devices if chosen == "gpu" else 1,
        cache=cache,
    )
