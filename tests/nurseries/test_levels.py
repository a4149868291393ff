"""Levels of jobs that wait together run together: full lanes, fair turns, and nobody suffers from anybody."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trio
import trio.testing

from coproc.circuits.merge import merge
from coproc.errors import InvalidInput
from coproc.executors.cpu import CpuExecutor
from coproc.executors.evaluation import Evaluation
from coproc.executors.sharing import LEAST_ROUNDS, MOST_ROUNDS
from coproc.keyring import KeyCache
from coproc.tfhe.parameters import TOY_2_2
from nurseries.executor import ExecutorActor, Job, JobCall, OutOfMemory
from nurseries.levels import Levels
from nurseries.mailbox import Mailbox, ask
from tests.executors.circuits import CHAIN, chain_in_the_clear, random_circuit
from tests.executors.toykeys import generate, random_key
from tests.nurseries.test_executor import KEY, SECRET, NoSource, increments, never_load, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit
    from coproc.executors.base import Executor, PreparedKey
    from coproc.executors.parts import LookUpsPart


class Watched(CpuExecutor):
    """Writes down how wide every part of every run is, and runs when told to."""

    def __init__(self, lanes: int, *, gated: bool = False) -> None:
        super().__init__(lanes)
        self.runs: list[tuple[int, ...]] = []
        self.keys: list[PreparedKey] = []
        self.permits = threading.Semaphore(0 if gated else 1 << 30)
        self.most: int | None = None
        """Bootstraps for which there is memory."""

    def look_up(self, prepared: PreparedKey, parts: Sequence[LookUpsPart]) -> None:
        self.runs.append(tuple(len(part.look_ups.form) for part in parts))
        self.keys.append(prepared)
        assert self.permits.acquire(timeout=60)
        if self.most is not None and sum(self.runs[-1]) > self.most:
            raise MemoryError
        super().look_up(prepared, parts)


class Counts:
    """Counts runs as an actor does."""

    def __init__(self) -> None:
        self.bootstraps = self.levels = self.runs = 0

    def running(self) -> AbstractContextManager[None]:
        return nullcontext()

    def ran(self, executor: Executor, bootstraps: int, levels: int) -> None:
        assert executor.name == "cpu"
        self.bootstraps += bootstraps
        self.levels += levels
        self.runs += 1


def inputs_of(circuit: Circuit, seed: int) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 1 << 64, (circuit.inputs, 513), dtype=np.uint64)


def alone(executor: CpuExecutor, key: PreparedKey, circuit: Circuit, inputs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    evaluation = Evaluation(executor, key, circuit, inputs)
    while evaluation.levels_left:
        evaluation.run_level()
    return evaluation.outputs()


def chain(depth: int, copies: int = 1) -> Circuit:
    """``copies`` bootstraps a level."""
    return merge([increments(depth)] * copies)


async def start(nursery: trio.Nursery) -> tuple[Levels, Counts]:
    counts = Counts()
    levels = Levels(counts)
    nursery.start_soon(levels.run)
    return levels, counts


async def test_jobs_that_wait_together_have_the_bits_of_each_alone(nursery: trio.Nursery) -> None:
    executor, rng = Watched(5), np.random.default_rng(31)
    key = executor.prepare(KEY)
    circuits = [random_circuit(rng, 5, widths) for widths in ([1] * 9, [30, 2, 7], [400], [3, 0, 5], [], [11] * 4)]
    expected = [alone(executor, key, circuit, inputs_of(circuit, 1)) for circuit in circuits]
    levels, counts = await start(nursery)
    executor.runs.clear()
    evaluations = [Evaluation(executor, key, circuit, inputs_of(circuit, 1)) for circuit in circuits]
    async with trio.open_nursery() as jobs:
        for evaluation in evaluations:
            jobs.start_soon(levels.finish, evaluation)
    for evaluation, outputs in zip(evaluations, expected, strict=True):
        assert np.array_equal(evaluation.outputs(), outputs)
    assert counts.bootstraps == sum(circuit.bootstraps for circuit in circuits) == sum(map(sum, executor.runs))
    assert counts.levels == sum(len(circuit.levels) for circuit in circuits)
    assert counts.runs == len(executor.runs)
    assert max(map(len, executor.runs)) > 2, "several ran together"
    nursery.cancel_scope.cancel()


async def test_jobs_fill_each_others_lanes_and_the_actor_counts_them(nursery: trio.Nursery) -> None:
    """Levels of 20 on 16 lanes: each alone would leave 12 of 32 empty."""
    cache, mailbox = KeyCache(NoSource(), never_load), Mailbox[JobCall]("jobs", 8)
    cache.add(KEY)
    executor = Watched(16, gated=True)
    actor = ExecutorActor(lambda: executor, cache, mailbox, jobs=4)
    await nursery.start(actor.run)
    circuit = chain(8, copies=20)
    inputs = SECRET.encrypt(np.full(20, 3), np.random.default_rng(1))
    answers: list[list[int]] = []

    async def submit() -> None:
        outputs = await ask(mailbox, Job(KEY.key_id, circuit, inputs))
        answers.append((SECRET.decrypt_half_steps(outputs) // 2).tolist())

    for _ in range(4):
        nursery.start_soon(submit)
    await until(lambda: bool(executor.runs) and sum(map(len, actor._on_cores._queues.values())) == 4)
    executor.permits.release(1_000)
    await until(lambda: len(answers) == 4)
    assert answers == [[(3 + 8) % 4] * 20] * 4
    statistics = actor.statistics
    assert (statistics.bootstraps, statistics.levels, statistics.failures) == (4 * 8 * 20, 4 * 8, 0)
    assert statistics.lane_slots == sum(-(-sum(run) // 16) * 16 for run in executor.runs)
    assert statistics.bootstraps > 0.9 * statistics.lane_slots
    nursery.cancel_scope.cancel()


async def test_a_narrow_job_passes_through_while_a_wide_one_runs(nursery: trio.Nursery) -> None:
    executor = Watched(2, gated=True)
    key = executor.prepare(KEY)
    levels, _ = await start(nursery)
    over: list[str] = []

    async def compute(name: str, circuit: Circuit) -> None:
        await levels.finish(Evaluation(executor, key, circuit, inputs_of(circuit, 2)))
        over.append(name)

    nursery.start_soon(compute, "wide", chain(2, copies=3 * MOST_ROUNDS * 2))
    await until(lambda: bool(executor.runs))
    nursery.start_soon(compute, "narrow", chain(10))
    await trio.testing.wait_all_tasks_blocked(0.05)
    executor.permits.release(1_000)
    await until(lambda: len(over) == 2)
    assert over == ["narrow", "wide"]
    assert executor.runs[0] == (MOST_ROUNDS * 2,), "a wide level alone is cut, too"
    shared = [run for run in executor.runs if len(run) == 2]
    assert len(shared) == 10, "each level of the narrow job was in the next run"
    assert {sum(run) for run in shared} == {LEAST_ROUNDS * 2}, "and that was a short one"
    nursery.cancel_scope.cancel()


async def test_keys_take_turns(nursery: trio.Nursery) -> None:
    executor = Watched(2, gated=True)
    keys: list[PreparedKey] = [executor.prepare(random_key(TOY_2_2, seed)) for seed in (41, 42, 43)]
    levels, _ = await start(nursery)
    circuit = chain(4, copies=3)
    evaluations = [Evaluation(executor, key, circuit, inputs_of(circuit, 3)) for key in keys for _ in range(2)]
    async with trio.open_nursery() as jobs:
        for evaluation in evaluations:
            jobs.start_soon(levels.finish, evaluation)
        await until(lambda: bool(executor.runs))
        await trio.testing.wait_all_tasks_blocked(0.05)
        executor.permits.release(1_000)
    turns = [keys.index(key) for key in executor.keys]
    for first in range(0, 3 * len(circuit.levels), 3):
        assert sorted(turns[first : first + 3]) == [0, 1, 2]
    for one, other in zip(evaluations[::2], evaluations[1::2], strict=True):
        assert np.array_equal(one.outputs(), other.outputs())
    nursery.cancel_scope.cancel()


async def test_a_cancelled_job_leaves_those_that_ran_with_it_alone(nursery: trio.Nursery) -> None:
    executor = Watched(4, gated=True)
    key = executor.prepare(KEY)
    levels, counts = await start(nursery)
    circuit, long = chain(5, copies=4), chain(50, copies=8)
    staying = [Evaluation(executor, key, circuit, inputs_of(circuit, seed)) for seed in range(3)]
    async with trio.open_nursery() as jobs:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as leaving:
                leaving.start_soon(levels.finish, Evaluation(executor, key, long, inputs_of(long, 9)))
                for evaluation in staying:
                    jobs.start_soon(levels.finish, evaluation)
                await until(lambda: bool(executor.runs))
                executor.permits.release()
                await until(lambda: len(executor.runs) == 2)
                scope.cancel()
        executor.permits.release(1_000)
    assert 8 in executor.runs[1]
    assert all(8 not in run for run in executor.runs[2:])
    assert counts.bootstraps == sum(map(sum, executor.runs))
    for seed, evaluation in enumerate(staying):
        assert np.array_equal(evaluation.outputs(), alone(executor, key, circuit, inputs_of(circuit, seed)))
    nursery.cancel_scope.cancel()


async def test_a_job_that_goes_at_the_moment_it_comes_harms_nobody(nursery: trio.Nursery) -> None:
    executor = Watched(2)
    key, circuit = executor.prepare(KEY), chain(2)
    levels, _ = await start(nursery)
    for _ in range(20):  # in half of which it is gone before anybody has looked
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await levels.finish(Evaluation(executor, key, circuit, inputs_of(circuit, 1)))
        assert scope.cancelled_caught
    evaluation = Evaluation(executor, key, circuit, inputs_of(circuit, 1))
    await levels.finish(evaluation)
    assert not evaluation.levels_left
    nursery.cancel_scope.cancel()


async def test_a_job_that_cannot_run_fails_by_itself(nursery: trio.Nursery) -> None:
    executor = Watched(1, gated=True)  # one lane: nothing is put off
    key = executor.prepare(KEY)
    levels, counts = await start(nursery)
    good, bad = chain(3, copies=3), increments(3)
    bad = replace(bad, tables=(replace(bad.tables[0], values=(0,)),))
    errors: list[Exception] = []

    async def compute(evaluation: Evaluation) -> None:
        try:
            await levels.finish(evaluation)
        except InvalidInput as error:
            errors.append(error)

    evaluations = [Evaluation(executor, key, good, inputs_of(good, 5)) for _ in range(2)]
    async with trio.open_nursery() as jobs:
        for evaluation in evaluations:
            jobs.start_soon(compute, evaluation)
        await until(lambda: bool(executor.runs))
        jobs.start_soon(compute, Evaluation(executor, key, bad, inputs_of(bad, 5)))
        await trio.testing.wait_all_tasks_blocked()
        executor.permits.release(1_000)
    assert [str(error) for error in errors] == ["table.values: must have 16 entries, got 1"]
    assert counts.bootstraps == 2 * good.bootstraps
    joint = next(number for number, run in enumerate(executor.runs) if len(run) > 1 and 1 in run)
    assert executor.runs[joint + 1 :][: len(executor.runs[joint])] == [(width,) for width in executor.runs[joint]]
    expected = alone(executor, key, good, inputs_of(good, 5))
    assert all(np.array_equal(evaluation.outputs(), expected) for evaluation in evaluations)
    nursery.cancel_scope.cancel()


async def test_what_does_not_fit_into_memory_together_runs_one_by_one(nursery: trio.Nursery) -> None:
    cache, mailbox = KeyCache(NoSource(), never_load), Mailbox[JobCall]("jobs", 8)
    cache.add(KEY)
    executor = Watched(4)
    executor.most = 8
    actor = ExecutorActor(lambda: executor, cache, mailbox, jobs=4)
    await nursery.start(actor.run)
    failed: list[str] = []

    async def submit(values: list[int]) -> None:
        inputs = SECRET.encrypt(np.array(values), np.random.default_rng(7))
        circuit = merge([CHAIN] * (len(values) // 3))
        try:
            outputs = await ask(mailbox, Job(KEY.key_id, circuit, inputs))
        except OutOfMemory:
            failed.append(str(values))
        else:
            assert SECRET.decrypt_half_steps(outputs).tolist() == chain_in_the_clear(*values[:3]) * (len(values) // 3)

    async with trio.open_nursery() as jobs:
        for values in ([1, 2, 0], [3, 3, 3] * 2, [2, 0, 1] * 2, [1, 1, 1] * 4):
            jobs.start_soon(submit, values)
    assert failed == [str([1, 1, 1] * 4)], "12 bootstraps never fit"
    assert (actor.statistics.jobs, actor.statistics.failures) == (3, 1)
    assert actor.statistics.bootstraps == 4 * (1 + 2 + 2)
    nursery.cancel_scope.cancel()


async def test_jobs_that_come_and_go_at_any_time(nursery: trio.Nursery) -> None:
    """Many jobs of many shapes, some of which are cancelled: every one that ends is right."""
    executor, rng = Watched(3), np.random.default_rng(32)
    prepared = [executor.prepare(generate(TOY_2_2, seed=seed)[1]) for seed in (51, 52)]
    circuits = [random_circuit(rng, 4, rng.integers(1, 30, rng.integers(1, 7)).tolist()) for _ in range(12)]
    expected = {
        (number, which): alone(executor, key, circuit, inputs_of(circuit, number))
        for number, circuit in enumerate(circuits)
        for which, key in enumerate(prepared)
    }
    levels, _ = await start(nursery)
    ended = 0

    async def compute(number: int, which: int, ticks: int, patience: int) -> None:
        nonlocal ended
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        evaluation = Evaluation(executor, prepared[which], circuits[number], inputs_of(circuits[number], number))
        async with trio.open_nursery() as job:

            async def give_up() -> None:
                while len(executor.runs) < patience:  # noqa: ASYNC110 - threads do not set events
                    await trio.sleep(0.001)
                job.cancel_scope.cancel()

            job.start_soon(give_up)
            await levels.finish(evaluation)
            job.cancel_scope.cancel()
            assert np.array_equal(evaluation.outputs(), expected[number, which])
            ended += 1

    async with trio.open_nursery() as jobs:
        for count in range(40):
            patience = len(executor.runs) + (int(rng.integers(1, 20)) if count % 4 == 0 else 1 << 30)
            arguments = (int(rng.integers(12)), int(rng.integers(2)), int(rng.integers(0, 200)), patience)
            jobs.start_soon(partial(compute, *arguments))
    assert ended >= 30
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("autojump_clock")
async def test_nothing_waits_for_company(nursery: trio.Nursery) -> None:
    """No clock is looked at: a lone job is over without a moment of waiting."""
    executor = Watched(64)
    levels, _ = await start(nursery)
    began = trio.current_time()
    circuit = chain(3)
    await levels.finish(Evaluation(executor, executor.prepare(KEY), circuit, inputs_of(circuit, 8)))
    assert trio.current_time() == began
    assert executor.runs == [(1,)] * 3
    nursery.cancel_scope.cancel()
