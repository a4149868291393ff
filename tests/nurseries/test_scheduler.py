"""The scheduler with the store's memory twin, real ciphertexts under toy parameters and the reference executor."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trio
import trio.testing

from coproc.circuits.strategy import Strategy
from coproc.errors import InvalidInput, RecoverableError
from coproc.executors.reference import ReferenceExecutor
from coproc.keyring import KeyCache
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.lowering import DEFAULT_SETTINGS
from coproc.program.planning import Lanes
from coproc.program.types import FheType, Handle, handle_type, new_handle
from coproc.resilience import CircuitOpen, FullJitter, RetryPolicy
from coproc.scheduling.batch import kind_of
from coproc.scheduling.model import Policy, Release
from coproc.store.base import State, StoredCiphertext, Submission
from coproc.store.faults import DatabaseUnavailable
from coproc.store.memory import MemoryStore
from coproc.store.objects import ObjectLost, ObjectStoreUnavailable
from coproc.store.rules import ATTEMPTS_EXHAUSTED, INPUT_FAILED
from coproc.tfhe.ciphertext import read_ciphertext, write_ciphertext
from coproc.tfhe.parameters import TOY_2_2
from nurseries.executor import ExecutorActor, JobCall
from nurseries.jobs import Jobs
from nurseries.mailbox import Mailbox
from nurseries.scheduler import Scheduler
from tests.executors.toykeys import generate
from tests.store.builders import KEY, with_key

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from numpy.typing import NDArray

    from coproc.executors.base import PreparedKey
    from coproc.store.base import Failure, GroupOutcome, WorkGroup
    from coproc.tfhe.keys import EvaluationKey

SECRET, _KEY = generate(TOY_2_2, seed=11)
EVALUATION_KEY = replace(_KEY, key_id=KEY, tag=b"our tag")
POLICY = Policy(jobs=2, window=0.0, lease_seconds=5.0, attempts=3, poll_seconds=0.2, backoff=FullJitter(0.01, 0.05))


async def load(data: bytes) -> EvaluationKey:
    await trio.lowlevel.checkpoint()
    assert data == b"a server key"
    return EVALUATION_KEY


class FlakyStore(MemoryStore):
    """The memory twin, out of reach as often as told."""

    def __init__(self) -> None:
        super().__init__()
        self.outages: dict[str, int] = {}
        self.finished: list[GroupOutcome] = []
        self.refused: set[int] = set()
        """Groups whose outcome is refused, unless it comes alone."""
        self.refuses_alone = False
        self.lost: set[Handle] = set()
        """Handles whose objects are gone."""
        self.reads = 0

    def _fail(self, what: str) -> None:
        if self.outages.get(what, 0):
            self.outages[what] -= 1
            raise RecoverableError("the database is away")

    async def claim(self, worker: str, limit: int, lease_seconds: float) -> Sequence[WorkGroup]:
        self._fail("claim")
        return await super().claim(worker, limit, lease_seconds)

    async def release(self, worker: str, group_ids: Sequence[int]) -> None:
        self._fail("release")
        await super().release(worker, group_ids)

    async def get_ciphertexts(self, handles: Sequence[Handle]) -> Mapping[Handle, StoredCiphertext]:
        self._fail("get_ciphertexts")
        if gone := self.lost.intersection(handles):
            error = ObjectLost("no such object")
            error.handles = sorted(gone)
            raise error
        self.reads += len(handles)
        return await super().get_ciphertexts(handles)

    async def finish_all(self, worker: str, outcomes: Sequence[GroupOutcome]) -> frozenset[int]:
        self._fail("finish")
        refused = self.refused & {outcome.group_id for outcome in outcomes}
        if refused and (len(outcomes) > 1 or self.refuses_alone):
            raise InvalidInput("results", "one of them is refused")
        kept = await super().finish_all(worker, outcomes)
        self.finished += [outcome for outcome in outcomes if outcome.group_id in kept]
        return kept


class TouchyExecutor(ReferenceExecutor):
    """Raises on request, and can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.poison: int | None = None
        self.hold_seconds = 0.0

    def keyswitch(self, prepared: PreparedKey, ciphertexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        trio.from_thread.run(trio.sleep, self.hold_seconds)
        if self.errors:
            raise self.errors.pop(0)
        if self.poison is not None and any(decrypt_blocks(row[np.newaxis]) == self.poison for row in ciphertexts):
            raise InvalidInput("ciphertexts", "are poisonous")
        return super().keyswitch(prepared, ciphertexts)


def decrypt_blocks(blocks: NDArray[np.uint64]) -> int:
    digits = SECRET.decrypt_half_steps(blocks) // 2
    return sum(int(digit) << (2 * place) for place, digit in enumerate(digits))


def encrypted(value: int, fhe_type: FheType = FheType.UINT8, *, key_id: bytes = KEY) -> StoredCiphertext:
    digits = np.array([value >> (2 * place) & 3 for place in range(fhe_type.blocks)])
    blocks = SECRET.encrypt(digits, np.random.default_rng(value))
    data = write_ciphertext(blocks, TOY_2_2, kind_of(fhe_type), fhe_type.bits, b"our tag")
    return StoredCiphertext(new_handle(fhe_type), key_id, data)


@dataclass
class Bench:
    """A store, an executor actor and schedulers to put to work."""

    store: FlakyStore
    executor: TouchyExecutor
    keys: KeyCache
    mailbox: Mailbox[JobCall]
    nursery: trio.Nursery
    results: dict[Handle, int] = field(default_factory=dict[Handle, int])

    def scheduler(self, policy: Policy = POLICY, *, worker: str = "one", drain_seconds: float = 5.0) -> Scheduler:
        return Scheduler(
            self.store,
            Jobs(self.store, self.keys, self.mailbox, worker=worker),
            policy=policy,
            strategy=Strategy.THROUGHPUT,
            drain_seconds=drain_seconds,
        )

    async def start(self, policy: Policy = POLICY) -> Scheduler:
        scheduler = self.scheduler(policy)
        await self.nursery.start(scheduler.run)
        return scheduler

    async def submit(self, *computations: Computation, transaction: bytes = b"t" * 32) -> None:
        await self.store.submit(Submission(KEY, transaction, computations))

    async def done(self, *handles: Handle) -> None:
        """Wait until every handle is completed or has failed."""
        with trio.fail_after(20):
            while True:
                statuses = await self.store.get_status(handles)
                if all(statuses[handle].state in {State.COMPLETED, State.FAILED} for handle in handles):
                    return
                await trio.sleep(0.005)

    async def value(self, handle: Handle) -> int:
        stored = (await self.store.get_ciphertexts([handle]))[handle]
        fhe_type = handle_type(handle)
        return decrypt_blocks(read_ciphertext(stored.data, TOY_2_2, kind_of(fhe_type), fhe_type.bits))

    async def failure(self, handle: Handle) -> Failure:
        failure = (await self.store.get_status([handle]))[handle].failure
        assert failure is not None
        return failure


@asynccontextmanager
async def working() -> AsyncGenerator[Bench]:
    store, executor = FlakyStore(), TouchyExecutor()
    await with_key(store)
    keys = KeyCache(store, load)
    mailbox = Mailbox[JobCall]("jobs", 4)
    actor = ExecutorActor(lambda: executor, keys, mailbox)
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        yield Bench(store, executor, keys, mailbox, nursery)
        nursery.cancel_scope.cancel()


def apply(operation: Operation, *operands: Handle | Scalar, to: FheType = FheType.UINT8) -> Computation:
    return Computation(new_handle(to), operation, operands, is_allowed=True)


async def test_submitted_work_is_computed_and_stored() -> None:
    async with working() as bench:
        left, right = encrypted(200), encrypted(77)
        await bench.store.put_ciphertexts([left, right])
        total = apply(Operation.ADD, left.handle, right.handle)
        is_less = apply(Operation.LT, total.output, left.handle, to=FheType.BOOL)
        chosen = apply(Operation.IF_THEN_ELSE, is_less.output, left.handle, right.handle)
        scheduler = await bench.start()
        await bench.submit(total, is_less, chosen)
        await bench.done(chosen.output)
        assert await bench.value(total.output) == (200 + 77) % 256
        assert await bench.value(is_less.output) == 1
        assert await bench.value(chosen.output) == 200
        assert scheduler.statistics.groups_done == 1
        stored = (await bench.store.get_ciphertexts([total.output]))[total.output]
        assert b"our tag" in stored.data


async def test_an_idle_scheduler_takes_work_as_it_is_stored() -> None:
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        await bench.start(replace(POLICY, poll_seconds=60.0))
        await trio.testing.wait_all_tasks_blocked()
        bench.store.outages = {"claim": 1}  # which would be noticed, since nothing polls
        first = apply(Operation.NEG, operand.handle)
        await bench.submit(first)
        await bench.done(first.output)
        assert await bench.value(first.output) == 251
        assert bench.store.outages == {"claim": 1}


async def test_what_comes_while_one_submission_is_taken_is_claimed_as_ever() -> None:
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        scheduler = await bench.start(replace(POLICY, poll_seconds=60.0))
        await trio.testing.wait_all_tasks_blocked()
        work = [apply(Operation.NEG, operand.handle) for _ in range(5)]
        async with trio.open_nursery() as nursery:
            for number, computation in enumerate(work):
                nursery.start_soon(partial(bench.submit, computation, transaction=bytes([number]) * 32))
        await bench.done(*(computation.output for computation in work))
        assert {await bench.value(computation.output) for computation in work} == {251}
        assert scheduler.statistics.leases_lost == 0


async def test_a_scheduler_that_drains_takes_nothing() -> None:
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        scheduler = await bench.start()
        scheduler.request_drain()
        await trio.testing.wait_all_tasks_blocked()
        late = apply(Operation.NEG, operand.handle)
        await bench.submit(late)
        await trio.testing.wait_all_tasks_blocked()
        assert (await bench.store.get_status([late.output]))[late.output].state is State.READY


async def test_what_comes_too_late_for_a_scheduler_is_given_back() -> None:
    """It crashed while somebody was storing what it had offered to take."""
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        scheduler = bench.scheduler(replace(POLICY, poll_seconds=60.0))
        async with trio.open_nursery() as first:
            await first.start(scheduler.run)
            await trio.testing.wait_all_tasks_blocked()
            assert scheduler.offer() is not None
            first.cancel_scope.cancel()
        assert not scheduler.take([])
        assert scheduler.offer() is None, "nobody starts what it would take"
        computation = apply(Operation.NEG, operand.handle)
        await bench.submit(computation)
        await bench.start()
        await bench.done(computation.output)


async def test_a_lease_whose_answer_was_lost_is_found() -> None:
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        scheduler = await bench.start(replace(POLICY, lease_seconds=600.0))
        await trio.testing.wait_all_tasks_blocked()
        computation = apply(Operation.NEG, operand.handle)
        scheduler_takes = scheduler.take
        scheduler.take = lambda groups: scheduler_takes(None if groups else groups)  # type: ignore[method-assign]
        await bench.submit(computation)
        assert scheduler.offer() is None, "not before it has looked"
        await bench.done(computation.output)
        assert await bench.value(computation.output) == 251
        assert scheduler.statistics.takeovers == 0
        with trio.fail_after(5):
            while scheduler.offer() is None:  # noqa: ASYNC110 - a claim may be due or under way
                await trio.sleep(0.005)


async def test_what_is_being_given_back_is_no_lost_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be claimed again, and given back while it is computed."""
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        computation = apply(Operation.NEG, operand.handle)
        await bench.submit(computation)
        (group,) = await bench.store.claim("one", 1, 600.0)
        bench.store.outages = {"release": 1_000_000}
        scheduler = await bench.start()
        monkeypatch.setattr("nurseries.scheduler.GIVE_BACK", RetryPolicy(1_000_000, backoff=FullJitter(0.01, 0.01)))
        scheduler._perform(bench.nursery, Release(frozenset({group.group_id})))
        scheduler._astray = True
        with trio.fail_after(5):
            while scheduler._astray:  # noqa: ASYNC110 - until the next claim
                await trio.sleep(0.005)
        status = (await bench.store.get_status([computation.output]))[computation.output]
        assert (status.state, status.attempts) == (State.COMPUTING, 1)
        assert scheduler.statistics.held == 0, "it was not claimed again"
        bench.store.outages = {}
        await bench.done(computation.output)
        assert scheduler.statistics.takeovers == 0


async def test_an_outcome_that_is_refused_is_not_tried_again_because_an_answer_was_lost() -> None:
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        computation = apply(Operation.NEG, operand.handle)
        await bench.submit(computation)
        (group,) = await bench.store.claim("nobody", 1, 0.0)
        bench.store.refused = {group.group_id}
        bench.store.refuses_alone = True
        scheduler = await bench.start(replace(POLICY, lease_seconds=600.0))
        with trio.fail_after(20):
            while scheduler.statistics.leases_lost < 1:  # noqa: ASYNC110 - of other tasks
                await trio.sleep(0.005)
        bench.store.outages = {"claim": 1}
        await trio.sleep(3 * POLICY.poll_seconds)
        assert bench.store.outages == {"claim": 0}
        assert (await bench.store.get_status([computation.output]))[computation.output].attempts == 2
        assert scheduler.statistics.leases_lost == 1


async def test_a_job_that_is_called_off_as_its_inputs_come_harms_nobody() -> None:
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        scheduler = await bench.start()
        scheduler.adopt(POLICY, Lanes(8), DEFAULT_SETTINGS)
        assert scheduler._ways()[0] == Lanes(8), "with no job left"
        computation = apply(Operation.NEG, operand.handle)
        await bench.submit(computation)
        await bench.done(computation.output)


async def test_values_that_were_just_computed_are_not_read_again() -> None:
    async with working() as bench:
        operand = encrypted(3)
        await bench.store.put_ciphertexts([operand])
        await bench.start()
        computation = apply(Operation.ADD, operand.handle, Scalar(b"\x01"))
        for _ in range(4):
            await bench.submit(computation, transaction=computation.output)
            await bench.done(computation.output)
            computation = apply(Operation.ADD, computation.output, Scalar(b"\x01"))
        assert bench.store.reads == 1


async def test_a_public_input_needs_no_ciphertext() -> None:
    async with working() as bench:
        public = replace(encrypted(0), clear=40)
        private = encrypted(2)
        await bench.store.put_ciphertexts([public, private])
        both = apply(Operation.ADD, private.handle, public.handle)
        await bench.start()
        await bench.submit(both)
        await bench.done(both.output)
        assert await bench.value(both.output) == 42


async def test_one_bad_ciphertext_fails_what_reads_it_and_nothing_else() -> None:
    async with working() as bench:
        good = encrypted(5)
        bad = replace(encrypted(6), data=b"no ciphertext at all")
        await bench.store.put_ciphertexts([good, bad])
        poisoned = apply(Operation.ADD, good.handle, bad.handle)
        dependant = apply(Operation.NEG, poisoned.output)
        neighbour = apply(Operation.ADD, good.handle, Scalar(b"\x02"))
        other = apply(Operation.BIT_XOR, good.handle, good.handle)
        scheduler = bench.scheduler()
        await bench.submit(poisoned, dependant, neighbour)
        await bench.submit(other, transaction=b"u" * 32)
        await bench.nursery.start(scheduler.run)
        await bench.done(poisoned.output, dependant.output, neighbour.output, other.output)
        assert bad.handle.hex() in (await bench.failure(poisoned.output)).message
        assert (await bench.failure(dependant.output)).rule == INPUT_FAILED
        assert await bench.value(neighbour.output) == 7
        assert await bench.value(other.output) == 0


async def test_a_group_that_breaks_its_batch_is_found_and_fails_alone() -> None:
    async with working() as bench:
        bench.executor.poison = 3
        inputs = [encrypted(value) for value in (0, 1, 3, 2)]
        await bench.store.put_ciphertexts(inputs)
        work = [apply(Operation.EQ, item.handle, Scalar(b"\x09"), to=FheType.BOOL) for item in inputs]
        for number, computation in enumerate(work):
            await bench.submit(computation, transaction=bytes([number]) * 32)
        await bench.start()
        await bench.done(*(computation.output for computation in work))
        assert [await bench.value(work[number].output) for number in (0, 1, 3)] == [0, 0, 0]
        assert (await bench.failure(work[2].output)).rule == "INVALID_INPUT"
        assert "poisonous" in (await bench.failure(work[2].output)).message


async def test_recoverable_failures_are_tried_again_and_their_number_is_bounded() -> None:
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        lucky = apply(Operation.NEG, operand.handle)
        bench.executor.errors = [RecoverableError("hiccup"), MemoryError()]
        await bench.start()
        await bench.submit(lucky)
        await bench.done(lucky.output)
        assert await bench.value(lucky.output) == 251
        hopeless = apply(Operation.BIT_XOR, operand.handle, operand.handle)
        bench.executor.errors = [RecoverableError(f"hiccup {number}") for number in range(3)]
        await bench.submit(hopeless, transaction=b"u" * 32)
        await bench.done(hopeless.output)
        failure = await bench.failure(hopeless.output)
        assert (failure.rule, "hiccup 2" in failure.message) == (ATTEMPTS_EXHAUSTED, True)


async def test_a_database_that_is_away_costs_nobody_an_attempt() -> None:
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        computation = apply(Operation.NEG, operand.handle)
        await bench.submit(computation)
        bench.store.outages = {"claim": 2, "get_ciphertexts": 6, "finish": 4}
        await bench.start()
        await bench.done(computation.output)
        assert await bench.value(computation.output) == 251
        assert len(bench.store.finished) == 1
        assert not any(bench.store.outages.values())


@pytest.mark.parametrize("away", [ObjectStoreUnavailable, DatabaseUnavailable, CircuitOpen])
async def test_an_executor_that_cannot_read_a_key_costs_nobody_an_attempt(away: type[RecoverableError]) -> None:
    async with working() as bench:
        operand = encrypted(5)
        await bench.store.put_ciphertexts([operand])
        bench.executor.errors = [away("away") for _ in range(POLICY.attempts + 2)]
        computation = apply(Operation.NEG, operand.handle)
        await bench.submit(computation)
        await bench.start()
        await bench.done(computation.output)
        assert await bench.value(computation.output) == 251
        assert not bench.executor.errors


async def test_a_lost_object_fails_what_reads_it_and_nothing_else() -> None:
    async with working() as bench:
        lost, fine = encrypted(5), encrypted(6)
        await bench.store.put_ciphertexts([lost, fine])
        bench.store.lost = {lost.handle}
        work = [apply(Operation.NEG, lost.handle), apply(Operation.NEG, fine.handle)]
        await bench.submit(work[0])
        await bench.submit(work[1], transaction=b"u" * 32)
        await bench.start(replace(POLICY, window=0.05))
        await bench.done(*(computation.output for computation in work))
        assert (await bench.failure(work[0].output)).rule == "OBJECT_LOST"
        assert await bench.value(work[1].output) == 250


async def test_leases_outlast_long_jobs() -> None:
    async with working() as bench:
        operand = encrypted(1)
        await bench.store.put_ciphertexts([operand])
        bench.executor.hold_seconds = 0.8
        computation = apply(Operation.NEG, operand.handle)
        await bench.submit(computation)
        await bench.start(replace(POLICY, lease_seconds=0.5))
        await trio.sleep(0.65)
        assert not await bench.store.claim("thief", 10, 5.0)
        await bench.done(computation.output)
        assert len(bench.store.finished) == 1


async def test_two_workers_share_work_and_do_everything_once() -> None:
    async with working() as bench:
        operand = encrypted(1)
        await bench.store.put_ciphertexts([operand])
        work = [apply(Operation.ADD, operand.handle, Scalar(bytes([number]))) for number in range(12)]
        for worker in ("one", "two"):
            await bench.nursery.start(bench.scheduler(replace(POLICY, capacity=2), worker=worker).run)
        for number, computation in enumerate(work):
            await bench.submit(computation, transaction=bytes([number]) * 32)
        await bench.done(*(computation.output for computation in work))
        assert len(bench.store.finished) == 12
        assert [await bench.value(computation.output) for computation in work] == [1 + number for number in range(12)]


async def test_an_outcome_that_the_store_refuses_holds_up_no_other_of_its_job() -> None:
    async with working() as bench:
        operand = encrypted(1)
        await bench.store.put_ciphertexts([operand])
        bench.store.refused = {2}
        work = [apply(Operation.NEG, operand.handle) for _ in range(3)]
        for number, computation in enumerate(work):
            await bench.submit(computation, transaction=bytes([number]) * 32)
        await bench.start(replace(POLICY, window=0.05))
        await bench.done(*(computation.output for computation in work))
        assert len(bench.store.finished) == 3


async def test_a_drain_stores_what_is_computing_and_gives_the_rest_back() -> None:
    async with working() as bench:
        operand = encrypted(1)
        await bench.store.put_ciphertexts([operand])
        bench.executor.hold_seconds = 0.1
        work = [apply(Operation.NEG, operand.handle) for _ in range(4)]
        for number, computation in enumerate(work):
            await bench.submit(computation, transaction=bytes([number]) * 32)
        scheduler = bench.scheduler(replace(POLICY, jobs=1, batch_groups=1))
        async with trio.open_nursery() as nursery:
            await nursery.start(scheduler.run)
            await trio.sleep(0.05)
            scheduler.request_drain()
        assert scheduler.statistics.held == 0
        states = [(await bench.store.get_status([item.output]))[item.output] for item in work]
        assert sorted(status.state for status in states) == [*[State.READY] * 3, State.COMPLETED]
        assert [status.attempts for status in states if status.state is State.READY] == [0, 0, 0]


@pytest.mark.parametrize("politely", [True, False])
async def test_what_does_not_finish_in_time_is_given_back(politely: bool) -> None:  # noqa: FBT001 - both ways to stop
    async with working() as bench:
        operand = encrypted(1)
        await bench.store.put_ciphertexts([operand])
        bench.executor.hold_seconds = 0.5
        computation = apply(Operation.NEG, operand.handle)
        await bench.submit(computation)
        scheduler = bench.scheduler(drain_seconds=0.05)
        async with trio.open_nursery() as nursery:
            await nursery.start(scheduler.run)
            await trio.sleep(0.1)
            if politely:
                scheduler.request_drain()
            else:
                nursery.cancel_scope.cancel()
        status = (await bench.store.get_status([computation.output]))[computation.output]
        assert (status.state, status.attempts) == (State.READY, 0)
        bench.executor.hold_seconds = 0.0
        await bench.start()
        await bench.done(computation.output)
        assert await bench.value(computation.output) == 255
