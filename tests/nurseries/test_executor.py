"""Jobs run level by level, take turns, stop when nobody wants them, and never take the actor with them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trio
import trio.testing

from coproc.circuits.circuit import Circuit, Level, LinearForms, LookUpTable
from coproc.errors import InvalidInput
from coproc.executors.base import ExecutorUnavailable
from coproc.executors.reference import ReferenceExecutor, ReferenceKey
from coproc.keyring import KeyCache
from coproc.tfhe.parameters import TOY_2_2
from nurseries.executor import BusyTime, ComputationDefect, ExecutorActor, Job, JobCall, OutOfMemory
from nurseries.gpu_executor import find_gpus, require_gpu
from nurseries.mailbox import Mailbox, ask
from tests.executors.toykeys import generate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from coproc.executors.base import Executor, PreparedKey
    from coproc.tfhe.keys import EvaluationKey

SECRET, KEY = generate(TOY_2_2, seed=5)


class NoSource:
    """A source without keys."""

    async def read_key(self, key_id: bytes) -> bytes:
        raise InvalidInput("key_id", f"{key_id.hex()} is not here")


async def never_load(data: bytes) -> EvaluationKey:
    raise InvalidInput("server_key", f"{len(data)} bytes cannot be read")


def keys() -> KeyCache:
    cache = KeyCache(NoSource(), never_load)
    cache.add(KEY)
    return cache


def increments(depth: int) -> Circuit:
    """Add one modulo 4, ``depth`` times, each by one bootstrap."""
    table = LookUpTable(tuple(2 * ((value + 1) % 4) for value in range(16)))
    levels = tuple(
        Level(
            forms=forms(number),
            form=np.zeros(1, dtype=np.int32),
            table=np.zeros(1, dtype=np.int32),
            first_wire=np.array([number + 1], dtype=np.int32),
        )
        for number in range(depth)
    )
    return Circuit(1, depth + 1, (table,), levels, forms(depth))


def forms(wire: int) -> LinearForms:
    return LinearForms(
        np.array([0, 1], dtype=np.int32),
        np.array([wire], dtype=np.int32),
        np.ones(1, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
    )


def job(value: int, depth: int, key_id: bytes = KEY.key_id) -> Job:
    encrypted = SECRET.encrypt(np.array([value]), np.random.default_rng(value))
    return Job(key_id, increments(depth), encrypted)


def value_of(outputs: NDArray[np.uint64]) -> int:
    return int(SECRET.decrypt_half_steps(outputs)[0]) // 2


class Gated(ReferenceExecutor):
    """Runs a keyswitch when told to, and can be told to raise."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = threading.Semaphore(0)
        self.entered = 0
        self.prepared = 0
        self.error: Exception | None = None

    def prepare(self, key: EvaluationKey) -> ReferenceKey:
        self.prepared += 1
        return super().prepare(key)

    def keyswitch(self, prepared: PreparedKey, ciphertexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        self.entered += 1
        assert self.permits.acquire(timeout=20)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().keyswitch(prepared, ciphertexts)


async def start(nursery: trio.Nursery, executor: Executor, *, jobs: int = 2) -> tuple[ExecutorActor, Mailbox[JobCall]]:
    mailbox = Mailbox[JobCall]("jobs", 8)
    actor = ExecutorActor(lambda: executor, keys(), mailbox, jobs=jobs)
    assert await nursery.start(actor.run) == executor.name
    return actor, mailbox


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - threads do not set events
            await trio.sleep(0.001)


async def entered(executor: Gated, count: int) -> None:
    await until(lambda: executor.entered >= count)


async def test_jobs_compute(nursery: trio.Nursery) -> None:
    actor, mailbox = await start(nursery, ReferenceExecutor())
    assert value_of(await ask(mailbox, job(2, 3))) == 1
    assert value_of(await ask(mailbox, job(3, 0))) == 3
    statistics = actor.statistics
    assert (statistics.jobs, statistics.levels, statistics.bootstraps, statistics.running) == (2, 3, 3, 0)
    assert statistics.busy_seconds > 0
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("autojump_clock")
async def test_levels_that_run_together_keep_an_executor_busy_once() -> None:
    busy = BusyTime()

    async def level(begins: float, seconds: float) -> None:
        await trio.sleep(begins)
        with busy.counting():
            await trio.sleep(seconds)

    async with trio.open_nursery() as levels:
        for begins, seconds in ((0.0, 2.0), (1.0, 2.0), (5.0, 4.0)):
            levels.start_soon(level, begins, seconds)
        await trio.sleep(6.0)
        assert busy.seconds == pytest.approx(4.0), "with the one that runs"
    assert busy.seconds == pytest.approx(7.0)


async def test_levels_of_two_jobs_take_turns(nursery: trio.Nursery) -> None:
    executor = Gated()
    _, mailbox = await start(nursery, executor)
    finished: list[str] = []

    async def submit(name: str, depth: int) -> None:
        await ask(mailbox, job(0, depth))
        finished.append(name)

    nursery.start_soon(submit, "long", 6)
    await entered(executor, 1)
    nursery.start_soon(submit, "short", 1)
    await trio.testing.wait_all_tasks_blocked(0.05)
    executor.permits.release(3)
    await until(lambda: bool(finished))
    assert finished == ["short"]
    assert executor.prepared == 1, "both jobs use the key that was prepared once"
    executor.permits.release(20)
    await until(lambda: len(finished) == 2)
    nursery.cancel_scope.cancel()


async def test_a_job_that_nobody_waits_for_stops_before_its_next_level(nursery: trio.Nursery) -> None:
    executor = Gated()
    actor, mailbox = await start(nursery, executor, jobs=1)
    async with trio.open_nursery() as senders:
        senders.start_soon(ask, mailbox, job(0, 50))
        await entered(executor, 1)
        senders.cancel_scope.cancel()
    executor.permits.release(1)
    executor.permits.release(1)
    assert value_of(await ask(mailbox, job(1, 1))) == 2
    assert executor.entered == 2
    assert actor.statistics.jobs == 1
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("raised", "reported"),
    [
        (ValueError("shapes"), ComputationDefect),
        (MemoryError(), OutOfMemory),
        (InvalidInput("table", "has too many boxes"), InvalidInput),
    ],
)
async def test_the_actor_survives_what_a_job_does(
    raised: Exception, reported: type[Exception], nursery: trio.Nursery
) -> None:
    executor = Gated()
    executor.permits.release(10)
    executor.error = raised
    actor, mailbox = await start(nursery, executor, jobs=1)
    with pytest.raises(reported):
        await ask(mailbox, job(0, 1))
    assert value_of(await ask(mailbox, job(0, 1))) == 1
    assert (actor.statistics.jobs, actor.statistics.failures) == (1, 1)
    nursery.cancel_scope.cancel()


async def test_an_unknown_key_is_the_jobs_problem(nursery: trio.Nursery) -> None:
    _, mailbox = await start(nursery, ReferenceExecutor())
    with pytest.raises(InvalidInput, match="is not here"):
        await ask(mailbox, job(0, 1, key_id=b"another"))
    nursery.cancel_scope.cancel()


def test_the_place_of_the_gpu_says_what_is_missing() -> None:
    presence = find_gpus()
    assert presence.reason.startswith("no GPU is used: ")
    with pytest.raises(ExecutorUnavailable, match="no GPU is used"):
        require_gpu()
