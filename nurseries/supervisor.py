"""Keeping actors alive: start in order, restart with backoff inside a crash budget, stop in reverse order.

Decides when an actor runs and what its crash means for its siblings; must not know what any actor does. An actor is
``async def run(*, task_status)`` that calls ``task_status.started()`` once it is of use. A supervisor is itself such an
actor, so trees are made by nesting.

A failure before ``started()`` on the first start is fatal (the configuration is wrong, and restarting would hide it);
afterwards it counts as a crash. Two ways to stop an actor: its ``stop`` function asks politely, and after its grace
its cancel scope ends it.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol, cast

import structlog
import trio

from coproc.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = structlog.stdlib.get_logger(__name__)


class Restart(Enum):
    """What the end of an actor means."""

    PERMANENT = "permanent"
    """Runs as long as the tree: even a clean return is a crash."""
    TRANSIENT = "transient"
    """May finish; restarted only when it fails."""
    TEMPORARY = "temporary"
    """Never restarted; its failure is logged and shown."""


class Strategy(Enum):
    """Whom a crash takes along."""

    ONE_FOR_ONE = "one_for_one"
    """Only the crashed actor is restarted."""
    REST_FOR_ONE = "rest_for_one"
    """Those started after it depend on it: they are stopped in reverse order and restarted in order."""


class Run(Protocol):
    """The body of an actor."""

    async def __call__(self, *, task_status: trio.TaskStatus[object]) -> None:
        """Run until stopped; call ``task_status.started()`` when of use."""
        ...


@dataclass(frozen=True, slots=True)
class Child:
    """How one actor is kept."""

    name: str
    run: Run
    restart: Restart = Restart.PERMANENT
    stop: Callable[[], None] | None = None
    """Asks the actor to finish; without it, stopping cancels the actor at once."""
    stop_grace: float = 5.0
    """Seconds from the polite request to cancellation."""
    start_timeout: float = 60.0
    """Seconds until ``started()``; later counts as a failed start."""


class ChildState(Enum):
    """Where an actor is in its life."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """What a health page shows of an actor."""

    name: str
    state: ChildState
    restarts: int
    error: str | None
    """The latest crash, as text."""
    since: float
    """Time (of the Trio clock) of the latest change of state."""

    @property
    def healthy(self) -> bool:
        """Whether the actor does what it is there for."""
        return self.state in {ChildState.RUNNING, ChildState.FINISHED}


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits before restarts: ``initial * factor^n``, at most ``maximum``, less a random part of at most ``jitter``."""

    initial: float = 0.1
    factor: float = 2.0
    maximum: float = 10.0
    jitter: float = 0.5

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait before restart number ``attempt`` (from 0); ``chance`` is uniform in ``[0, 1)``."""
        full = min(self.maximum, self.initial * self.factor ** min(attempt, 64))
        return full * (1.0 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class CrashBudget:
    """More than ``crashes`` crashes within ``window`` seconds, and the supervisor gives up."""

    crashes: int = 5
    window: float = 60.0


class StartFailed(FatalError):
    """An actor never came up: its configuration or surroundings are wrong."""

    rule = "START_FAILED"


class CrashBudgetExceeded(FatalError):
    """Restarting does not help: the parent decides, and at the top the process stops."""

    rule = "CRASH_BUDGET_EXCEEDED"


class ActorStopped(FatalError):
    """An actor reported a FatalError."""

    rule = "ACTOR_FATAL"


class _UnexpectedEnd(Exception):
    """A permanent actor returned."""


class _StartTimeout(Exception):
    """An actor did not call ``started()`` in time."""


@dataclass(eq=False)
class _Kept:
    """One child and its present incarnation."""

    child: Child
    state: ChildState = ChildState.PENDING
    restarts: int = 0
    error: str | None = None
    since: float = 0.0
    started_at: float = 0.0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    failure: BaseException | None = None
    """Why the incarnation ended, until the lane has dealt with it."""

    def enter(self, state: ChildState) -> None:
        """Change state."""
        self.state = state
        self.since = trio.current_time()


class _Lane:
    """Children that restart together: one child under ONE_FOR_ONE, all of them under REST_FOR_ONE."""

    def __init__(self, members: list[_Kept]) -> None:
        self.members = members
        self.wake = trio.Event()
        self.attempt = 0

    def first_down(self) -> int | None:
        """Index of the first member that should run but does not."""
        return next((index for index, kept in enumerate(self.members) if kept.failure is not None), None)


class Supervisor:
    """Runs children by their specifications; ``run`` is itself an actor.

    ``on_change`` is called after each change of a child's state (for metrics); ``chance`` gives the jitter.
    """

    def __init__(
        self,
        name: str,
        children: Sequence[Child],
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        budget: CrashBudget | None = None,
        backoff: Backoff | None = None,
        on_change: Callable[[ChildStatus], None] | None = None,
        chance: Callable[[], float] | None = None,
    ) -> None:
        names = [child.name for child in children]
        if len(set(names)) != len(names):
            raise ValueError(f"children of {name} share a name: {names}")
        self.name = name
        self._children = tuple(children)
        self._strategy = strategy
        self._budget = budget or CrashBudget()
        self._backoff = backoff or Backoff()
        self._on_change = on_change
        self._chance = chance or random.SystemRandom().random
        self._reset()

    def _reset(self) -> None:
        self._kept = [_Kept(child) for child in self._children]
        lanes = [self._kept] if self._strategy is Strategy.REST_FOR_ONE else [[kept] for kept in self._kept]
        self._lanes = [_Lane(members) for members in lanes]
        self._crashes = deque[float]()
        self._stop = trio.Event()
        self._failure: FatalError | None = None

    # ------------------------------------------------------------------------------------------ observing

    @property
    def status(self) -> tuple[ChildStatus, ...]:
        """Every child, in start order."""
        return tuple(self._status_of(kept) for kept in self._kept)

    @property
    def healthy(self) -> bool:
        """Whether every child runs (or has finished as it may)."""
        return all(status.healthy for status in self.status)

    def _status_of(self, kept: _Kept) -> ChildStatus:
        return ChildStatus(kept.child.name, kept.state, kept.restarts, kept.error, kept.since)

    def _enter(self, kept: _Kept, state: ChildState) -> None:
        kept.enter(state)
        if self._on_change is not None:
            self._on_change(self._status_of(kept))

    # ------------------------------------------------------------------------------------------ running

    def request_stop(self) -> None:
        """Ask for an orderly stop; ``run`` returns when all children have ended."""
        self._stop.set()

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children in order, keep them, and on ``request_stop`` stop them in reverse order.

        Raises:
            StartFailed: a child failed on its first start; those started before it have been stopped in order.
            CrashBudgetExceeded: restarting did not help; all others have been stopped in order.
            ActorStopped: a child raised a FatalError; all others have been stopped in order.
        """
        self._reset()
        async with trio.open_nursery() as actors:
            for kept in self._kept:
                if self._stop.is_set():
                    break
                came_up = await self._start(actors, kept)
                if not came_up and not self._may_stay_down(kept):
                    self._failure = StartFailed(f"{kept.child.name} did not start: {kept.error}", actor=kept.child.name)
                    self._failure.__cause__ = kept.failure
                    self.request_stop()
            async with trio.open_nursery() as keepers:
                for lane in self._lanes:
                    keepers.start_soon(self._keep, actors, lane)
                if not self._stop.is_set():
                    task_status.started()
                await self._stop.wait()
                keepers.cancel_scope.cancel(reason=f"{self.name} stops")
            for kept in reversed(self._kept):
                await self._end(kept)
        if self._failure is not None:
            raise self._failure

    async def _start(self, actors: trio.Nursery, kept: _Kept) -> bool:
        """Start one incarnation; returns whether it came up. If not, ``kept.failure`` says why and no task is left."""
        kept.scope, kept.ended, kept.failure = trio.CancelScope(), trio.Event(), None
        self._enter(kept, ChildState.STARTING)
        came_up: bool = await actors.start(self._incarnate, kept)
        return came_up

    async def _incarnate(self, kept: _Kept, *, task_status: trio.TaskStatus[bool]) -> None:
        """Run a child once. ``task_status`` gets whether it came up, so that a failed start is no exception here."""
        child, scope, ended = kept.child, kept.scope, kept.ended
        came_up = False
        failure: BaseException | None = None
        try:
            with scope:
                async with trio.open_nursery() as own:
                    with trio.move_on_after(child.start_timeout) as patience:
                        await own.start(child.run, name=child.name)
                        came_up = True
                    if patience.cancelled_caught:
                        raise _StartTimeout(f"not started after {child.start_timeout:g} s")  # noqa: TRY301 - one place judges every end
                    kept.started_at = trio.current_time()
                    self._enter(kept, ChildState.RUNNING)
                    task_status.started(True)
            was_asked = kept.state is ChildState.STOPPING or self._stop.is_set()
            if not was_asked and not scope.cancelled_caught and child.restart is Restart.PERMANENT:
                raise _UnexpectedEnd("returned, though it should run as long as the service")  # noqa: TRY301 - as above
        except Exception as error:  # noqa: BLE001 - every crash is judged alike, by the keeper of the lane
            failure = error
        finally:
            # Cancellation from outside passes through here too: it is no crash.
            if failure is not None:
                kept.error = _describe(failure)
                if scope.cancel_called or self._stop.is_set():
                    log.warning("actor failed while stopping", supervisor=self.name, actor=child.name, error=kept.error)
            if failure is not None and not scope.cancel_called:
                kept.failure = failure
                self._enter(kept, ChildState.FAILED)
            else:
                self._enter(kept, ChildState.FINISHED)
            ended.set()
            for lane in self._lanes:
                if kept in lane.members:
                    lane.wake.set()
        if not came_up:
            task_status.started(False)

    async def _end(self, kept: _Kept) -> None:
        """Stop a child: politely, then by cancellation when its grace is over."""
        if kept.state is ChildState.PENDING or kept.ended.is_set():
            return
        child = kept.child
        self._enter(kept, ChildState.STOPPING)
        if child.stop is not None:
            child.stop()
            with trio.move_on_after(child.stop_grace) as grace:
                await kept.ended.wait()
            if grace.cancelled_caught:
                log.warning("actor overran its grace", supervisor=self.name, actor=child.name, grace=child.stop_grace)
        kept.scope.cancel(reason=f"{self.name} stops {child.name}")
        await kept.ended.wait()

    # ------------------------------------------------------------------------------------------ restarting

    def _may_stay_down(self, kept: _Kept) -> bool:
        """Deal with what needs no restart: returns whether the child is to be left as it is."""
        if kept.child.restart is not Restart.TEMPORARY or _fatal_in(kept.failure) is not None:
            return False
        log.error("temporary actor failed", supervisor=self.name, actor=kept.child.name, error=kept.error)
        kept.failure = None
        return True

    async def _keep(self, actors: trio.Nursery, lane: _Lane) -> None:
        """Bring the members of a lane back up, for ever."""
        while True:
            lane.wake = trio.Event()
            down = lane.first_down()
            if down is None:
                await lane.wake.wait()
                continue
            kept = lane.members[down]
            if self._may_stay_down(kept):
                continue
            if not self._count_crash(lane, kept):
                return
            for later in reversed(lane.members[down + 1 :]):
                await self._take_along(later)
            if await self._pause(lane, down):
                await self._restart(actors, lane, down)

    def _count_crash(self, lane: _Lane, kept: _Kept) -> bool:
        """Log a crash and charge the budget; returns whether a restart is allowed."""
        now = trio.current_time()
        fatal = _fatal_in(kept.failure)
        self._crashes.append(now)
        while self._crashes[0] < now - self._budget.window:
            self._crashes.popleft()
        log.error(
            "actor crashed",
            supervisor=self.name,
            actor=kept.child.name,
            crashes=len(self._crashes),
            budget=self._budget.crashes,
            exc_info=kept.failure,
        )
        if now - kept.started_at > self._budget.window:
            lane.attempt = 0
        if fatal is not None:
            self._give_up(ActorStopped(f"{kept.child.name}: {fatal.message}", actor=kept.child.name), fatal)
        elif len(self._crashes) > self._budget.crashes:
            text = f"{kept.child.name} crashed {len(self._crashes)} times in {self._budget.window:g} s"
            self._give_up(CrashBudgetExceeded(text, actor=kept.child.name), kept.failure)
        return self._failure is None

    def _give_up(self, failure: FatalError, cause: BaseException | None) -> None:
        if self._failure is None:
            failure.__cause__ = cause
            self._failure = failure
        self.request_stop()

    async def _take_along(self, kept: _Kept) -> None:
        """Stop a younger sibling of a crashed child; it is to be restarted unless it had finished as it may."""
        may_stay_down = kept.state is ChildState.FINISHED or (
            kept.child.restart is Restart.TEMPORARY and kept.state is ChildState.FAILED
        )
        if may_stay_down or kept.state is ChildState.PENDING:
            return
        kept.scope.cancel(reason=f"{self.name} restarts what it depends on")
        await kept.ended.wait()
        kept.failure = None
        self._enter(kept, ChildState.PENDING)

    async def _pause(self, lane: _Lane, down: int) -> bool:
        """Wait out the backoff; False when meanwhile an elder sibling crashed, which then comes first."""
        self._enter(lane.members[down], ChildState.BACKOFF)
        deadline = trio.current_time() + self._backoff.delay(lane.attempt, self._chance())
        lane.attempt += 1
        while lane.first_down() == down:
            lane.wake = trio.Event()
            with trio.move_on_at(deadline) as waiting:
                await lane.wake.wait()
            if waiting.cancelled_caught:
                return True
        return False

    async def _restart(self, actors: trio.Nursery, lane: _Lane, down: int) -> None:
        for index in range(down, len(lane.members)):
            kept = lane.members[index]
            if index > down and kept.state is not ChildState.PENDING:
                continue
            elder = lane.first_down()
            if elder is not None and elder < index:
                return
            kept.restarts += 1
            await self._start(actors, kept)
            if kept.failure is not None:
                return


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    """Iterate over the errors inside groups; an error that is no group is its own leaf."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    elif error is not None:
        yield error


def _describe(error: BaseException) -> str:
    """Name the innermost errors of a group, which is what an operator wants to read."""
    return "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in _leaves(error))


def _fatal_in(error: BaseException | None) -> FatalError | None:
    """Find a FatalError, in a group or alone."""
    return next((leaf for leaf in _leaves(error) if isinstance(leaf, FatalError)), None)
