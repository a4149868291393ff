"""The actor that turns stored work into jobs and their outputs into stored results.

Decides nothing: ``coproc.scheduling.core`` does. This is its clock, its hands and its ears: it feeds the core with
events, performs each action in a task of its own, and reports back. No database transaction is open while computing.
"""

from __future__ import annotations

import contextvars
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import trio

from coproc.errors import CoprocError, FatalError, IrrecoverableError, RecoverableError, log_fields
from coproc.metrics import JOB_DURATION, JOB_GROUPS, QUEUE_WAIT, RESULT_LATENCY
from coproc.program.lowering import DEFAULT_SETTINGS
from coproc.program.planning import Lanes
from coproc.resilience import FullJitter, RetryPolicy, retry
from coproc.scheduling.batch import portions
from coproc.scheduling.core import next_time, offer, step
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
    Given,
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
from coproc.store.taking import Lease
from coproc.tracing import span
from nurseries.jobs import AWAY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from coproc.circuits.strategy import Strategy
    from coproc.program.lowering import LoweringSettings
    from coproc.scheduling.model import Action, Event
    from coproc.store.base import Store, WorkGroup
    from nurseries.jobs import ComputedJob, Jobs

SETTLE: Final = RetryPolicy(attempts=1_000, seconds=600.0, backoff=FullJitter(0.2, 5.0))
"""Results are dear: a database that is away for minutes does not lose them."""
GIVE_BACK: Final = RetryPolicy(attempts=5, seconds=5.0, backoff=FullJitter(0.1, 1.0))
"""Groups that cannot be given back are taken over when their lease ends."""
RESUBSCRIBE_SECONDS: Final = 1.0
TURNS_OF_A_PUSH: Final = 3
"""Turns of the event loop that a subscriber's task takes to wake, to get at its socket and to send: what is left to do
for results that are stored waits for so long."""
TURNS_OF_A_STATEMENT: Final = 2
"""Likewise, until the database has the first statements of a task that was started."""
EXPIRE_SECONDS: Final = 0.5
"""How often deadlines are looked at."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


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


def _candidate(work: WorkGroup) -> Candidate:
    size = estimate(work)
    # Where callers are not told apart, a key stands for who uses it.
    tenant = work.key_id if work.tenant is None else work.tenant.encode()
    return Candidate(work, tenant, size.cost, size.path, work.weight)


class Scheduler:
    """Claims, computes and stores; ``run`` is an actor, ``request_drain`` its polite stop."""

    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        *,
        policy: Policy,
        strategy: Strategy | Lanes,
        settings: LoweringSettings = DEFAULT_SETTINGS,
        drain_seconds: float = 30.0,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._worker = jobs.worker
        self._policy = policy
        self._strategy = strategy
        self._settings = settings
        self._drain_seconds = drain_seconds
        self._chance = chance or random.SystemRandom().random
        self._draining = trio.Event()
        self._done = self._failed = self._lost = self._takeovers = 0
        self._reset()

    def _reset(self) -> None:
        self._state = State(self._policy)
        # Bounded by the actions under way, each of which posts one event, and one wake-up.
        self._inbox: deque[Event] = deque()
        self._wake = trio.Event()
        self._wait = trio.CancelScope()
        """Around waiting for the next event."""
        self._actions: trio.Nursery | None = None
        """Where actions run, while the actor does."""
        self._context = contextvars.copy_context()
        self._astray = False
        """An answer got lost: leases may be ours that we do not know of."""
        self._returning = set[int]()
        """Groups that are being given back."""
        self._refused = set[int]()
        """Groups whose outcome the store did not want: their leases end by themselves."""
        self._scopes: dict[int, trio.CancelScope] = {}
        """Of jobs that are computing."""

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
            cached_bytes=self._jobs.cache.size,
            cache_hits=self._jobs.cache.hits,
            cache_misses=self._jobs.cache.misses,
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
                self._actions = actions
                try:
                    with self._store.taking(self):
                        while not self._state.is_drained:
                            self._feed(actions, await self._next_event())
                finally:
                    self._actions = None  # before nothing can be started any more
                ears.cancel_scope.cancel(reason="the scheduler has drained")
        finally:
            await self._give_back_everything()

    # ------------------------------------------------------------------------------------ offers

    def offer(self) -> Lease | None:
        """Offer to take what somebody is about to store; see ``Taker``."""
        state = None if self._inbox or self._astray else offer(self._state, trio.current_time())
        if state is None:
            return None
        self._state = state
        return Lease(self._worker, self._policy.batch_groups, self._policy.lease_seconds)

    def take(self, groups: Sequence[WorkGroup] | None) -> bool:
        """Take what was stored and leased, and start at once: nothing else has been waiting. See ``Taker``."""
        if self._actions is None or not self._state.offering:
            return False
        self._astray |= groups is None
        candidates: tuple[Candidate, ...] = ()
        try:
            candidates = tuple(map(_candidate, groups or ()))
        except BaseException:
            self._astray = True
            raise
        finally:
            self._feed(self._actions, Given(candidates))
            # It may have to be woken sooner than it thought.
            self._wait.deadline = next_time(self._state)
            if self._state.is_drained:
                self._wake.set()
        return True

    # ------------------------------------------------------------------------------------ events

    async def _next_event(self) -> Event:
        if not self._inbox:
            self._wake = trio.Event()
            with trio.move_on_at(next_time(self._state)) as self._wait:
                await self._wake.wait()
        return self._inbox.popleft() if self._inbox else Tick()

    def _post(self, event: Event) -> None:
        self._inbox.append(event)
        self._wake.set()

    def _feed(self, nursery: trio.Nursery, event: Event) -> None:
        self._state, actions = step(self._state, event, trio.current_time(), self._chance())
        for action in actions:
            # Not in the context of whoever submits: a job is nobody's request.
            self._context.run(self._perform, nursery, action)

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
                self._returning |= action.group_ids  # from now on, not from when the task gets its turn
                actions.start_soon(self._release, action.group_ids)
            case Start():
                actions.start_soon(self._run_job, actions, action)
            case Cancel():
                if (scope := self._scopes.get(action.job)) is not None:
                    scope.cancel(reason="the job is not wanted any more")
            case Fail():
                work, failure = action.work, action.failure
                log.warning("group failed", group=work.group_id, rule=failure.rule, reason=failure.message)
                outcome = GroupOutcome(work.group_id, (), dict.fromkeys(work.wanted, failure))
                actions.start_soon(self._settle, (outcome,))

    async def _claim(self, limit: int) -> None:
        try:
            if self._astray and not self._state.offering:
                known = self._state.held.keys() | self._returning | self._refused
                stray = await self._store.release_stray(self._worker, known)
                self._astray = False
                log.info("looked for leases of lost answers", groups=stray)
            groups = await self._store.claim(self._worker, limit, self._policy.lease_seconds)
        except RecoverableError as error:
            log.warning("claiming failed", error=error.message)
            self._astray = True
            self._post(ClaimFailed())
            return
        self._takeovers += sum(work.attempts > 0 for work in groups)
        self._refused.difference_update(work.group_id for work in groups)
        self._post(Claimed(tuple(map(_candidate, groups))))

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
        finally:
            self._returning -= group_ids

    async def _run_job(self, actions: trio.Nursery, start: Start) -> None:
        """Compute a job and store what came of it; only the computing can be cancelled by itself."""
        JOB_GROUPS.observe(len(start.groups))
        for work in start.groups:
            QUEUE_WAIT.observe(self._age(work.group_id))
        computed = await self._compute(start)
        if computed is None:
            return
        spans = {work.group_id: work.traceparent for work in start.groups if work.traceparent is not None}
        for outcomes in portions(computed.outcomes):
            actions.start_soon(self._settle, outcomes, spans, computed.traceparent)
        for _ in range(TURNS_OF_A_STATEMENT):
            await trio.lowlevel.cancel_shielded_checkpoint()
        computed.log()

    async def _compute(self, start: Start) -> ComputedJob | None:
        """Compute a job; None if it was cancelled or failed."""
        with trio.CancelScope() as scope:
            self._scopes[start.job] = scope
            try:
                with JOB_DURATION.time():
                    computed = await self._jobs.compute(start.groups, self._ways, self._size(start.groups))
            except FatalError:
                raise
            except CoprocError as error:
                error.within(key_id=start.groups[0].key_id.hex())
                if len(start.groups) == 1:
                    work = start.groups[0]
                    error.within(transaction_id=work.transaction_id.hex(), attempt=work.attempts + 1)
                log.warning("job failed", job=start.job, groups=len(start.groups), **log_fields(error))
                self._post(JobFailed(start.job, error, counts=not isinstance(error, AWAY)))
            else:
                self._post(Computed(start.job))
                return computed
            finally:
                del self._scopes[start.job]
        return None

    def _ways(self) -> tuple[Strategy | Lanes, LoweringSettings]:
        """How a job is planned that is planned now."""
        strategy = self._strategy
        if isinstance(strategy, Lanes):
            strategy = strategy.share(max(1, len(self._state.jobs)))  # the last job may just have been called off
        return strategy, self._settings

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
            self._refused.add(outcomes[0].group_id)
        for _ in range(TURNS_OF_A_PUSH):
            await trio.lowlevel.cancel_shielded_checkpoint()
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
        came = [event.groups for event in self._inbox if isinstance(event, Claimed)]
        left = frozenset(self._state.held) | {candidate.work.group_id for groups in came for candidate in groups}
        if left:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + GIVE_BACK.seconds):
                await self._release(left)
