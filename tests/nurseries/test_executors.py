"""One executor takes over from another while jobs run; one that does not come up changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from coproc.config import ExecutorName  # noqa: TC001 - of a table below
from coproc.executors.base import ExecutorUnavailable
from coproc.executors.reference import ReferenceExecutor
from coproc.health.report import ExecutorReport
from coproc.program.planning import Lanes
from coproc.scheduling.model import jobs_at_once
from nurseries.executor import ExecutorActor, JobCall
from nurseries.executors import Executors, add_up, make_executor
from nurseries.mailbox import Mailbox, ask
from tests.nurseries.test_executor import Gated, entered, job, keys, until, value_of

if TYPE_CHECKING:
    from coproc.executors.base import Executor


class Fast(ReferenceExecutor):
    """A reference executor under another name, which says when it was closed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.closed = False

    @property
    def name(self) -> str:
        return self._name

    def close(self) -> None:
        self.closed = True


def missing() -> Executor:
    raise ExecutorUnavailable("there is no device")


async def test_a_job_under_way_ends_where_it_is_and_the_next_one_is_elsewhere(nursery: trio.Nursery) -> None:
    mailbox = Mailbox[JobCall]("jobs", 8)
    slow, fast = Gated(), Fast("emulated")
    made: dict[ExecutorName, Executor] = {"cpu": slow, "emulated": fast}
    executors = Executors(lambda name: ExecutorActor(lambda: made[name], keys(), mailbox), "cpu")
    with trio.fail_after(60):
        await nursery.start(executors.run)
        first: list[int] = []

        async def long() -> None:
            first.append(value_of(await ask(mailbox, job(1, 2))))

        nursery.start_soon(long)
        await entered(slow, 1)
        await executors.change("emulated")
        assert value_of(await ask(mailbox, job(2, 1))) == 3
        assert (first, slow.entered) == ([], 1), "the first job is still there"
        assert [(report.name, report.running) for report in executors.reports] == [("emulated", 0), ("reference", 1)]
        await executors.change("emulated")
        slow.permits.release(2)
        await until(lambda: first == [3])
        await until(lambda: executors.reports[-1].running == 0)
        assert {report.name: report.bootstraps for report in executors.reports} == {"emulated": 1, "reference": 2}

        made["cpu"] = Fast("reference")
        await executors.change("cpu")
        await until(lambda: fast.closed)
        assert value_of(await ask(mailbox, job(0, 3))) == 3
        assert {report.name: report.bootstraps for report in executors.reports} == {"reference": 5, "emulated": 1}
    nursery.cancel_scope.cancel()


async def test_one_that_does_not_come_up_changes_nothing(nursery: trio.Nursery) -> None:
    mailbox = Mailbox[JobCall]("jobs", 8)

    def make(name: ExecutorName) -> ExecutorActor:
        return ExecutorActor(missing if name == "gpu" else lambda: Fast(name), keys(), mailbox)

    executors = Executors(make, "cpu")
    with trio.fail_after(60):
        await nursery.start(executors.run)
        with pytest.raises(ExecutorUnavailable, match="there is no device"):
            await executors.change("gpu")
        assert value_of(await ask(mailbox, job(2, 1))) == 3
        assert [report.name for report in executors.reports] == ["cpu"]
    nursery.cancel_scope.cancel()


def test_reports_of_one_executor_are_one_report() -> None:
    def report(name: str, jobs: int) -> ExecutorReport:
        return ExecutorReport(name, 2, 1, jobs, 0, 10 * jobs, 100 * jobs, 0.5, lanes=4, lane_slots=200 * jobs)

    summed = add_up([report("gpu", 1), report("cpu", 2), report("cpu", 3)])
    assert [(one.name, one.jobs, one.bootstraps, one.lane_slots, one.lanes, one.running) for one in summed] == [
        ("gpu", 1, 100, 200, 4, 1),
        ("cpu", 5, 500, 1000, 4, 2),
    ]


def test_cores_take_as_many_jobs_as_fill_their_lanes_and_devices_their_own_number() -> None:
    mailbox = Mailbox[JobCall]("jobs", 8)
    expected: dict[ExecutorName, int] = {"cpu": 9, "emulated": 3}
    for name, slots in expected.items():
        executor = make_executor(name, keys(), mailbox, threads=64, jobs=9, device_jobs=3, prepared_keys=2)
        assert [report.slots for report in executor.reports] == [slots]
    assert [jobs_at_once(lanes) for lanes in (1, 2, 7, 8, 16, 48, 192)] == [2, 2, 2, 3, 4, 8, 8]
    assert [Lanes(64).share(jobs).count for jobs in (1, 3, 100)] == [64, 21, 1]
