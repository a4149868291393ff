"""A fleet of workers on one database, played through with the scheduler's own core and no clock but a number.

Decides a model of everything around ``core.step``: claims and renewals share the processors of the database, storing
results waits for the one lock under which the graph changes, and executors take the time that
``coproc.scheduling.cores`` says. Costs are given, measured by ``coproc bench scale``. What is asked is where more
workers stop to help, how full the lanes are, and how long a request takes.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Final

from coproc.scheduling.core import next_time, step
from coproc.scheduling.cores import LevelsOnCores, SharedTime
from coproc.scheduling.model import (
    Candidate,
    Claim,
    Claimed,
    Computed,
    Policy,
    Renew,
    Renewed,
    Settled,
    Start,
    State,
    Tick,
    WorkWaiting,
)
from coproc.store.base import WorkGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.scheduling.cores import Cores, SimulatedExecutor
    from coproc.scheduling.model import Action, Event

_KEY: Final = b"k"
_TRANSACTION: Final = b"t"


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that the database needs, alone and undisturbed; each is ``fixed + each * groups``."""

    claim: tuple[float, float]
    finish: tuple[float, float]
    """All of it counts as under the lock: an upper bound."""
    renew: tuple[float, float]
    processors: int = 4
    """Claims and renewals that run at the same time."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is played through."""

    workers: int
    group_seconds: float
    """Time that a worker's executor needs for one group in a full batch; ignored where there are ``cores``."""
    costs: Costs
    policy: Policy = field(default_factory=Policy)
    seconds: float = 120.0
    warm_up: float = 30.0
    """Seconds before anything counts: all workers start at once, and only after a while are they out of step."""
    arrivals_per_second: float | None = None
    """None: the queue is never empty. Otherwise groups come at random at this rate, over the whole fleet."""
    cores: Cores | None = None
    """None: jobs share the executor's time evenly. Otherwise every level of theirs is played through."""


@dataclass(frozen=True, slots=True)
class Projection:
    """What came of it."""

    workers: int
    groups_per_second: float
    efficiency: float
    """Computed seconds over those of executors that never wait: 1 is linear."""
    lock_busy: float
    """Share of the time during which the graph lock was held."""
    processors_busy: float
    claim_seconds: float
    """From asking to the answer, the mean."""
    finish_seconds: float
    job_sizes: tuple[int, ...]
    """Groups of every job that ended, in order."""
    occupancy: float | None
    """Share of the lanes that bootstraps fill while anything runs; None where there are none."""
    latencies: tuple[float, ...]
    """Seconds from the coming of every group to its stored result, the shortest first; empty if none come."""


class _Queue:
    """Servers that take what waits in order."""

    def __init__(self, servers: int) -> None:
        self._free = [0.0] * servers
        self._busy: list[tuple[float, float]] = []
        self._waits: list[tuple[float, float]] = []

    def serve(self, now: float, seconds: float) -> float:
        """Take a request that comes ``now``; returns when it is done."""
        begin = max(now, heapq.heappop(self._free))
        heapq.heappush(self._free, begin + seconds)
        self._busy.append((begin, begin + seconds))
        self._waits.append((now, begin + seconds - now))
        return begin + seconds

    def busy(self, since: float, until: float) -> float:
        """Share of all servers' time between two moments."""
        inside = sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in self._busy)
        return inside / (len(self._free) * (until - since))

    def mean_wait(self, since: float) -> float:
        """Mean time from request to answer."""
        waits = [seconds for asked, seconds in self._waits if asked >= since]
        return sum(waits) / len(waits) if waits else 0.0


class _Worker:
    """One worker: the core's state, its executor, and the groups of its jobs."""

    def __init__(self, fleet: Fleet) -> None:
        self.state = State(fleet.policy)
        self.executor: SimulatedExecutor = (
            SharedTime(fleet.group_seconds) if fleet.cores is None else LevelsOnCores(fleet.cores)
        )
        self.jobs: dict[int, list[int]] = {}
        self.version = 0
        """Counts changes, so that an end that was foreseen before one is forgotten."""


class _World:
    """Everything that happens, in order of time."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self.fleet = fleet
        self.chance = chance
        self.now = 0.0
        self.workers = [_Worker(fleet) for _ in range(fleet.workers)]
        self.processors = _Queue(fleet.costs.processors)
        self.lock = _Queue(1)
        self.waiting: deque[int] | None = None if fleet.arrivals_per_second is None else deque()
        self.computed = 0.0
        self.sizes: list[int] = []
        self.latencies: list[float] = []
        self._came: dict[int, float] = {}
        self._comings = random.Random(chance.random())  # noqa: S311 - no secret; whoever answers, they come the same
        self._numbers = count(1)
        self._order = count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        for worker in self.workers:
            self.at(chance.random(), worker, WorkWaiting())
        if fleet.arrivals_per_second is not None:
            self.do(0.0, self._arrive)

    def do(self, when: float, what: Callable[[], None]) -> None:
        """Plan something."""
        heapq.heappush(self._agenda, (when, next(self._order), what))

    def at(self, when: float, worker: _Worker, event: Event) -> None:
        """Plan an event of a worker."""
        self.do(when, lambda: self.feed(worker, event))

    def run(self, until: float) -> None:
        """Let everything happen up to some moment."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, what = heapq.heappop(self._agenda)
            what()
        self.now = until
        for worker in self.workers:
            self.computed += worker.executor.advance(until)

    def feed(self, worker: _Worker, event: Event) -> None:
        """Give a worker's core an event and do what it says."""
        self.computed += worker.executor.advance(self.now)
        worker.state, actions = step(worker.state, event, self.now, self.chance.random())
        for action in actions:
            self._perform(worker, action)
        self._plan(worker)

    def _plan(self, worker: _Worker) -> None:
        """Plan what comes next of a worker if nothing else does."""
        worker.version += 1
        self._later(worker, max(next_time(worker.state), self.now), lambda: self.feed(worker, Tick()))
        self._later(worker, worker.executor.next_end(), lambda: self._end(worker))

    def _later(self, worker: _Worker, when: float, what: Callable[[], None]) -> None:
        """Plan something that any change of the worker makes void."""
        version = worker.version
        if when < math.inf:
            self.do(when, lambda: what() if worker.version == version else None)

    def _perform(self, worker: _Worker, action: Action) -> None:
        costs = self.fleet.costs
        match action:
            case Claim():
                groups = self._take(action.limit)
                done = self.processors.serve(self.now, costs.claim[0] + costs.claim[1] * len(groups))
                self.at(done, worker, Claimed(tuple(self._candidate(number) for number in groups)))
            case Renew():
                done = self.processors.serve(self.now, costs.renew[0] + costs.renew[1] * len(action.group_ids))
                self.at(done, worker, Renewed(action.group_ids, action.group_ids))
            case Start():
                groups = [work.group_id for work in action.groups]
                worker.jobs[action.job] = groups
                worker.executor.start(self.now, action.job, groups)
            case _:
                raise AssertionError(f"nothing fails here, but {action} was asked for")

    def _end(self, worker: _Worker) -> None:
        """Let something end on an executor."""
        self.computed += worker.executor.advance(self.now)
        worker.version += 1
        for job in worker.executor.end(self.now):
            groups = worker.jobs.pop(job)
            self.sizes.append(len(groups))
            costs = self.fleet.costs
            done = self.lock.serve(self.now, costs.finish[0] + costs.finish[1] * len(groups))
            self.latencies += [done - self._came.pop(number) for number in groups if number in self._came]
            self.feed(worker, Computed(job))
            for number in groups:
                self.at(done, worker, Settled(number))
        self._plan(worker)

    def _candidate(self, number: int) -> Candidate:
        levels = (1,) if self.fleet.cores is None else self.fleet.cores.circuit(number).fewest
        return Candidate(WorkGroup(number, _KEY, _TRANSACTION, (), frozenset(), 0), b"tenant", sum(levels), len(levels))

    def _take(self, limit: int) -> list[int]:
        if self.waiting is None:
            return [next(self._numbers) for _ in range(limit)]
        return [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]

    def _arrive(self) -> None:
        rate = self.fleet.arrivals_per_second
        if self.waiting is None or rate is None:
            return
        number = next(self._numbers)
        self.waiting.append(number)
        self._came[number] = self.now
        self.do(self.now + self._comings.expovariate(rate), self._arrive)
        for worker in self.workers:
            self.feed(worker, WorkWaiting())


def simulate(fleet: Fleet, seed: int = 0) -> Projection:
    """Play a fleet through; the same seed gives the same projection."""
    world = _World(fleet, random.Random(seed))  # noqa: S311 - no secret
    world.run(fleet.warm_up)
    world.computed = 0.0
    world.sizes.clear()
    world.latencies.clear()
    executors = [worker.executor for worker in world.workers]
    for executor in executors:
        executor.filled = executor.slots = 0
    until = fleet.warm_up + fleet.seconds
    world.run(until)
    slots = sum(executor.slots for executor in executors)
    return Projection(
        workers=fleet.workers,
        groups_per_second=sum(world.sizes) / fleet.seconds,
        efficiency=world.computed / (fleet.workers * fleet.seconds),
        lock_busy=world.lock.busy(fleet.warm_up, until),
        processors_busy=world.processors.busy(fleet.warm_up, until),
        claim_seconds=world.processors.mean_wait(fleet.warm_up),
        finish_seconds=world.lock.mean_wait(fleet.warm_up),
        job_sizes=tuple(world.sizes),
        occupancy=sum(executor.filled for executor in executors) / slots if slots else None,
        latencies=tuple(sorted(world.latencies)),
    )


def knee(fleet: Fleet, least: float = 0.95, most: int = 100_000) -> int:
    """Find how many workers one database feeds at an efficiency of at least ``least``, within a tenth."""
    low, high = 1, most
    while high > low + 1 and high > 1.1 * low:
        middle = max(low + 1, round(math.sqrt(low * high)))
        bound = _bound(replace(fleet, workers=middle))
        low, high = (middle, high) if bound >= least else (low, middle)
    return low


def _bound(fleet: Fleet) -> float:
    """Return the efficiency that the database allows for full batches, without playing anything through."""
    size = fleet.policy.batch_groups
    job = fleet.group_seconds * size
    jobs_per_second = fleet.workers / job
    costs, held = fleet.costs, (fleet.policy.jobs + 1) * size
    lock = jobs_per_second * (costs.finish[0] + costs.finish[1] * size)
    renewals = fleet.workers / fleet.policy.renew_seconds * (costs.renew[0] + costs.renew[1] * held)
    claims = jobs_per_second * (costs.claim[0] + costs.claim[1] * size)
    return min(1.0, 1 / max(lock, (claims + renewals) / costs.processors))
