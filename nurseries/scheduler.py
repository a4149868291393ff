"""The actor that turns stored work into jobs and their outputs into stored results.

Decides nothing: ``coproc.scheduling.core`` does. This is its clock, its hands and its ears: it feeds the core with
events, performs each action in a task of its own, and reports back. No database transaction is open while computing.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import trio

from coproc.errors import CoprocError, FatalError, IrrecoverableError, RecoverableError, log_fields
from coproc.metrics import JOB_BOOTSTRAPS, JOB_DURATION, JOB_GROUPS, QUEUE_WAIT, RESULT_LATENCY
from coproc.program.lowering import DEFAULT_SETTINGS
from coproc.program.planning import Lanes
from coproc.resilience import CircuitOpen, FullJitter, RetryPolicy, retry
from coproc.scheduling.batch import external_inputs, finish_batch, portions, prepare_batch, read_values
from coproc.scheduling.cache import ValueCache
from coproc.scheduling.casting import castings_of, prepare_castings
from coproc.scheduling.core import next_time, step
from coproc.scheduling.estimate import estimate
from coproc.scheduling.model import (
    Adopt,
    Cancel,
    Candidate,
    Claim,
    Claimed,
    ClaimFailed,
    Computed,
    Drain,
    Fail,
    HandBack,
    JobFailed,
    Policy,
    Release,
    Renew,
    Renewed,
    RenewFailed,
    Settled,
    Start,
    State,
    Tick,
    WorkEnded,
    WorkWaiting,
)
from coproc.store.base import GroupOutcome, Topic
from coproc.store.faults import DatabaseUnavailable
from coproc.store.objects import ObjectStoreUnavailable, read_what_is_left
from coproc.tfhe.compressed_list import is_compressed_list
from coproc.tracing import span, traceparent
from nurseries.executor import Job
from nurseries.mailbox import ask
from nurseries.packer import unpack
from nurseries.threads import run_near

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from coproc.circuits.strategy import Strategy
    from coproc.keyring import KeyCache, KeyFacts
    from coproc.program.lowering import LoweringSettings
    from coproc.program.types import Handle
    from coproc.scheduling.batch import FinishedBatch
    from coproc.scheduling.cache import Value
    from coproc.scheduling.model import Action, Event
    from coproc.store.base import Store, WorkGroup
    from nurseries.executor import JobCall
    from nurseries.mailbox import Mailbox

CACHE_BYTES: Final = 256 << 20
"""Ciphertext blocks kept in memory: 500 values of 64 bits under real parameters."""
READ_AT_ONCE: Final = 16
"""Ciphertexts read by one query; the largest take 16.8 MB each."""
SETTLE: Final = RetryPolicy(attempts=1_000, seconds=600.0, backoff=FullJitter(0.2, 5.0))
"""Results are dear: a database that is away for minutes does not lose them."""
GIVE_BACK: Final = RetryPolicy(attempts=5, seconds=5.0, backoff=FullJitter(0.1, 1.0))
"""Groups that cannot be given back are taken over when their lease ends."""
RESUBSCRIBE_SECONDS: Final = 1.0
EXPIRE_SECONDS: Final = 0.5
"""How often deadlines are looked at."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _NotTheirFault(RecoverableError):
    """Something that a job needs is away; its groups are not charged for it."""


_AWAY: Final = (_NotTheirFault, DatabaseUnavailable, ObjectStoreUnavailable, CircuitOpen)
"""The same of an executor that cannot read a key."""


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """What metrics show of a scheduler."""

    held: int
    """Groups under lease."""
    computing: int
    """Jobs that are being computed."""
    groups_done: int
    groups_failed: int
    leases_lost: int
    takeovers: int
    """Groups that another worker had before it ended or lost its lease."""
    cached_bytes: int
    cache_hits: int
    cache_misses: int
    draining: bool


class Scheduler:
    """Claims, computes and stores; ``run`` is an actor, ``request_drain`` its polite stop."""

    def __init__(
        self,
        store: Store,
        keys: KeyCache,
        executor: Mailbox[JobCall],
        *,
        worker: str,
        policy: Policy,
        strategy: Strategy | Lanes,
        settings: LoweringSettings = DEFAULT_SETTINGS,
        drain_seconds: float = 30.0,
        cache_bytes: int = CACHE_BYTES,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._executor = executor
        self._worker = worker
        self._policy = policy
        self._strategy = strategy
        self._settings = settings
        self._drain_seconds = drain_seconds
        self._chance = chance or random.SystemRandom().random
        self._cache = ValueCache(cache_bytes)
        self._draining = trio.Event()
        self._done = self._failed = self._lost = self._takeovers = 0
        self._reset()

    def _reset(self) -> None:
        self._state = State(self._policy)
        # Bounded by the actions under way, each of which posts one event, and one wake-up.
        self._inbox: deque[Event] = deque()
        self._wake = trio.Event()
        self._jobs: dict[int, trio.CancelScope] = {}

    @property
    def statistics(self) -> SchedulerStatistics:
        """How it is doing."""
        return SchedulerStatistics(
            held=len(self._state.held),
            computing=len(self._state.jobs),
            groups_done=self._done,
            groups_failed=self._failed,
            leases_lost=self._lost,
            takeovers=self._takeovers,
            cached_bytes=self._cache.size,
            cache_hits=self._cache.hits,
            cache_misses=self._cache.misses,
            draining=self._state.draining,
        )

    def adopt(self, policy: Policy, strategy: Strategy | Lanes, settings: LoweringSettings) -> None:
        """Go by other settings from the next job on; jobs that are planned go on as planned."""
        self._policy, self._strategy, self._settings = policy, strategy, settings
        self._post(Adopt(policy))

    def request_drain(self) -> None:
        """Take no more work; ``run`` returns when what is computing is stored, or given back after a while."""
        self._draining.set()

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled or drained; whatever is held at the end is given back."""
        self._reset()
        try:
            async with trio.open_nursery() as actions, trio.open_nursery() as ears:
                ears.start_soon(self._listen)
                ears.start_soon(self._await_drain)
                ears.start_soon(self._expire)
                task_status.started()
                while not self._state.is_drained:
                    self._feed(actions, await self._next_event())
                ears.cancel_scope.cancel(reason="the scheduler has drained")
        finally:
            await self._give_back_everything()

    # ------------------------------------------------------------------------------------ events

    async def _next_event(self) -> Event:
        if not self._inbox:
            self._wake = trio.Event()
            with trio.move_on_at(next_time(self._state)):
                await self._wake.wait()
        return self._inbox.popleft() if self._inbox else Tick()

    def _post(self, event: Event) -> None:
        self._inbox.append(event)
        self._wake.set()

    def _feed(self, nursery: trio.Nursery, event: Event) -> None:
        self._state, actions = step(self._state, event, trio.current_time(), self._chance())
        for action in actions:
            self._perform(nursery, action)

    async def _listen(self) -> None:
        """Pass wake-ups on; one waiting event stands for any number of them."""
        while True:
            try:
                async with self._store.wakeups() as wakeups:
                    self._post_wakeup()  # what came before the subscription was missed
                    async for topic in wakeups:
                        if topic is Topic.WORK:
                            self._post_wakeup()
                        elif topic is Topic.ENDED:
                            self._post(WorkEnded())
            except RecoverableError as error:
                log.warning("no wake-ups", error=error.message)
            await trio.sleep(RESUBSCRIBE_SECONDS)

    def _post_wakeup(self) -> None:
        if not any(isinstance(event, WorkWaiting) for event in self._inbox):
            self._post(WorkWaiting())

    async def _expire(self) -> None:
        """Fail work whose deadline has passed, whoever holds it."""
        while True:
            try:
                if ended := await self._store.expire():
                    log.info("past their deadline", computations=ended)
            except RecoverableError as error:
                log.warning("deadlines not checked", **log_fields(error))
            await trio.sleep(EXPIRE_SECONDS)

    async def _await_drain(self) -> None:
        await self._draining.wait()
        log.info("draining the scheduler", held=len(self._state.held), seconds=self._drain_seconds)
        self._post(Drain())
        await trio.sleep(self._drain_seconds)
        self._post(HandBack())
        await trio.sleep_forever()

    # ----------------------------------------------------------------------------------- actions

    def _perform(self, actions: trio.Nursery, action: Action) -> None:
        match action:
            case Claim():
                actions.start_soon(self._claim, action.limit)
            case Renew():
                actions.start_soon(self._renew, action.group_ids)
            case Release():
                actions.start_soon(self._release, action.group_ids)
            case Start():
                actions.start_soon(self._run_job, actions, action)
            case Cancel():
                if (scope := self._jobs.get(action.job)) is not None:
                    scope.cancel(reason="the job is not wanted any more")
            case Fail():
                work, failure = action.work, action.failure
                log.warning("group failed", group=work.group_id, rule=failure.rule, reason=failure.message)
                outcome = GroupOutcome(work.group_id, (), dict.fromkeys(work.wanted, failure))
                actions.start_soon(self._settle, (outcome,))

    async def _claim(self, limit: int) -> None:
        try:
            groups = await self._store.claim(self._worker, limit, self._policy.lease_seconds)
        except RecoverableError as error:
            log.warning("claiming failed", error=error.message)
            self._post(ClaimFailed())
            return
        candidates: list[Candidate] = []
        for work in groups:
            size = estimate(work)
            # Where callers are not told apart, a key stands for who uses it.
            tenant = work.key_id if work.tenant is None else work.tenant.encode()
            candidates.append(Candidate(work, tenant, size.cost, size.path, work.weight))
            self._takeovers += work.attempts > 0
        self._post(Claimed(tuple(candidates)))

    async def _renew(self, group_ids: frozenset[int]) -> None:
        try:
            held = await self._store.renew(self._worker, sorted(group_ids), self._policy.lease_seconds)
        except RecoverableError as error:
            log.warning("renewing failed", error=error.message)
            self._post(RenewFailed())
        else:
            self._post(Renewed(group_ids, held))

    async def _release(self, group_ids: frozenset[int]) -> None:
        try:
            await retry(
                lambda: self._store.release(self._worker, sorted(group_ids)), GIVE_BACK, what="giving groups back"
            )
        except RecoverableError as error:
            log.warning("groups not given back; others take over when the lease ends", error=error.message)

    async def _run_job(self, actions: trio.Nursery, start: Start) -> None:
        with trio.CancelScope() as scope:
            self._jobs[start.job] = scope
            JOB_GROUPS.observe(len(start.groups))
            for work in start.groups:
                QUEUE_WAIT.observe(self._age(work.group_id))
            try:
                with JOB_DURATION.time():
                    finished, job_span = await self._trace(start.groups)
            except FatalError:
                raise
            except CoprocError as error:
                error.within(key_id=start.groups[0].key_id.hex())
                if len(start.groups) == 1:
                    work = start.groups[0]
                    error.within(transaction_id=work.transaction_id.hex(), attempt=work.attempts + 1)
                log.warning("job failed", job=start.job, groups=len(start.groups), **log_fields(error))
                self._post(JobFailed(start.job, error, counts=not isinstance(error, _AWAY)))
            else:
                # Nothing is awaited from here on: a cancelled job has either no outputs, or all of them stored.
                self._cache.add(finished.values)
                self._post(Computed(start.job))
                spans = {work.group_id: work.traceparent for work in start.groups if work.traceparent is not None}
                for outcomes in portions(finished.outcomes):
                    actions.start_soon(self._settle, outcomes, spans, job_span)
            finally:
                del self._jobs[start.job]

    async def _trace(self, groups: Sequence[WorkGroup]) -> tuple[FinishedBatch, str | None]:
        """Compute in a span: it is part of one caller's trace and linked to those of the others."""
        asked = list(dict.fromkeys(work.traceparent for work in groups if work.traceparent is not None))
        attributes: dict[str, str | int | float] = {
            "coproc.groups": len(groups),
            "coproc.operations": sum(len(work.computations) for work in groups),
            "coproc.key_id": groups[0].key_id.hex(),
            "coproc.worker": self._worker,
        }
        parent = asked[0] if asked else None
        with span("job", kind="CONSUMER", parent=parent, links=asked[1:], attributes=attributes):
            return await self._compute(groups), traceparent()

    async def _compute(self, groups: Sequence[WorkGroup]) -> FinishedBatch:
        """Load, plan, compute and write one job."""
        key_id = groups[0].key_id
        began = trio.current_time()
        try:
            facts = await self._keys.facts(key_id)
            values, bad_inputs = await self._load(external_inputs(groups), facts, key_id)
        except RecoverableError as error:
            raise _NotTheirFault(f"inputs are out of reach: {error.message}") from error
        cast, bad_lists = await self._cast(groups, facts, key_id)
        values |= cast
        bad_inputs |= bad_lists
        strategy = self._strategy
        if isinstance(strategy, Lanes):
            strategy = strategy.share(len(self._state.jobs))
        batch = await run_near(
            prepare_batch, groups, values, bad_inputs, facts, strategy, self._settings, ciphertexts=self._size(groups)
        )
        planned = trio.current_time()
        JOB_BOOTSTRAPS.observe(batch.plan.circuit.bootstraps)
        outputs = await ask(self._executor, Job(key_id, batch.plan.circuit, batch.inputs))
        computed = trio.current_time()
        finished = await run_near(finish_batch, batch, outputs, facts, key_id, ciphertexts=len(outputs))
        log.info(
            "job computed",
            groups=len(groups),
            bootstraps=batch.plan.circuit.bootstraps,
            levels=batch.plan.circuit.depth,
            prepare_seconds=round(planned - began, 4),
            compute_seconds=round(computed - planned, 4),
        )
        return finished

    async def _cast(
        self, groups: Sequence[WorkGroup], facts: KeyFacts, key_id: bytes
    ) -> tuple[dict[Handle, Value], dict[Handle, IrrecoverableError]]:
        """Take the values that groups need out of uploaded lists, on the executor."""
        castings = castings_of(groups)
        if not castings:
            return {}, {}
        values = self._cache.find([item.output for item in castings], key_id, counted=False)
        left = tuple(item for item in castings if item.output not in values)
        handles = tuple(dict.fromkeys(handle for item in left for handle in item.inputs))
        try:
            stored, lost = await read_what_is_left(self._store, handles)
        except RecoverableError as error:
            raise _NotTheirFault(f"uploaded lists are out of reach: {error.message}") from error
        absent = [handle for handle in handles if handle not in stored and handle not in lost]
        if absent:
            raise RecoverableError("an uploaded list is not stored", handle=absent[0].hex())
        unread = {item.output: lost[handle] for item in left for handle in item.inputs if handle in lost}
        left = tuple(item for item in left if item.output not in unread)
        jobs, errors = await trio.to_thread.run_sync(prepare_castings, left, stored, facts)
        for job in jobs:
            outputs = await ask(self._executor, Job(key_id, job.circuit, job.inputs, job.under_compact_key))
            values |= job.values(key_id, outputs)
        return values, {**errors, **unread}

    async def _load(
        self, handles: Sequence[Handle], facts: KeyFacts, key_id: bytes
    ) -> tuple[dict[Handle, Value], dict[Handle, IrrecoverableError]]:
        """Read values from memory, else from the store."""
        values = self._cache.find(handles, key_id)
        bad_inputs: dict[Handle, IrrecoverableError] = {}
        missing = [handle for handle in handles if handle not in values]
        for first in range(0, len(missing), READ_AT_ONCE):
            wanted = missing[first : first + READ_AT_ONCE]
            stored, lost = await read_what_is_left(self._store, wanted)
            bad_inputs |= lost
            absent = [handle for handle in wanted if handle not in stored and handle not in lost]
            if absent:
                raise RecoverableError("an input of claimed work is not stored", handle=absent[0].hex())
            packed = {handle: item for handle, item in stored.items() if is_compressed_list(item.data)}
            plain = tuple(item for handle, item in stored.items() if handle not in packed)
            read, errors = await trio.to_thread.run_sync(read_values, plain, facts, key_id)
            if packed:
                taken, bad = await unpack(self._executor, packed.values(), facts, key_id)
                read, errors = read | taken, errors | bad
            values |= read
            bad_inputs |= errors
            self._cache.add(read)
        return values, bad_inputs

    async def _settle(
        self, outcomes: Sequence[GroupOutcome], spans: Mapping[int, str] | None = None, job: str | None = None
    ) -> None:
        """Store outcomes together; the results are kept in memory until the database takes them."""
        asked = [spans[outcome.group_id] for outcome in outcomes if outcome.group_id in spans] if spans else []
        results = sum(len(outcome.results) for outcome in outcomes)
        kept = frozenset[int]()
        try:
            with span(
                "store results",
                parent=asked[0] if asked else None,
                links=[*dict.fromkeys(asked[1:]), job],
                attributes={"coproc.groups": len(outcomes), "coproc.results": results},
            ):
                kept = await retry(
                    lambda: self._store.finish_all(self._worker, outcomes), SETTLE, what="storing results"
                )
        except RecoverableError as error:
            groups = [outcome.group_id for outcome in outcomes]
            log.error("results not stored; the groups are computed again", groups=groups, error=error.message)  # noqa: TRY400 - no defect
        except IrrecoverableError:
            if len(outcomes) > 1:  # one at a time, so that only the one at fault is left out
                for outcome in outcomes:
                    await self._settle((outcome,), spans, job)
                return
            # Our own defect; the lease ends by itself, and its attempts are bounded.
            log.exception("the store refuses an outcome", group=outcomes[0].group_id)
        for outcome in outcomes:
            if outcome.group_id in kept:
                RESULT_LATENCY.observe(self._age(outcome.group_id))
                self._done += not outcome.failures
                self._failed += bool(outcome.failures)
            else:
                self._lost += 1
            self._post(Settled(outcome.group_id))

    def _size(self, groups: Sequence[WorkGroup]) -> int:
        """How many ciphertexts a job deals with, roughly; what the estimate counts nothing for is one each."""
        held = self._state.held
        costs = {work.group_id: held[work.group_id].candidate.cost for work in groups if work.group_id in held}
        return sum(max(len(work.computations), costs.get(work.group_id, 0)) for work in groups)

    def _age(self, group_id: int) -> float:
        """Seconds since a group was submitted."""
        held = self._state.held.get(group_id)
        return 0.0 if held is None else held.candidate.work.waited + trio.current_time() - held.since

    async def _give_back_everything(self) -> None:
        """After cancellation or a crash: let others go on at once instead of after the lease."""
        left = frozenset(self._state.held)
        if left:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + GIVE_BACK.seconds):
                await self._release(left)
