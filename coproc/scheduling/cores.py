"""The executor of a worker in a simulation: jobs that share its time, or levels on lanes as cores run them.

Decides how long jobs take, and how many bootstraps there would have been room for. Which levels run together is decided
where real ones are, in ``coproc.executors.sharing``, and how jobs are planned in ``coproc.program.planning``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from coproc.executors.sharing import run_width, shares
from coproc.program.planning import Lanes, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class GroupCircuit:
    """What one group costs by either strategy: bootstraps level by level."""

    fewest: tuple[int, ...]
    """By the strategy for throughput."""
    shortest: tuple[int, ...]
    """By the strategy for latency."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores, and the circuits that run on them."""

    lanes: int
    """Bootstraps that run at the same time."""
    circuits: tuple[GroupCircuit, ...]
    """Groups have these by turns."""
    round_seconds: float = 0.006
    """Time that one bootstrap on each lane needs."""
    together: bool = True
    """Whether levels of several jobs run together; otherwise they take turns, and each has all lanes."""

    def circuit(self, group: int) -> GroupCircuit:
        """Return what a group costs."""
        return self.circuits[group % len(self.circuits)]

    def levels(self, groups: Sequence[int], jobs: int) -> list[int]:
        """Return the levels of a job that is planned while so many jobs compute, itself included."""
        circuits = [self.circuit(group) for group in groups]
        levels = [circuit.fewest for circuit in circuits]
        lanes = Lanes(self.lanes).share(jobs if self.together else 1).count
        for index in shorten(levels, lambda index: circuits[index].shortest, lanes):
            levels[index] = circuits[index].shortest
        depth = max(map(len, levels))
        return [sum(widths[level] for widths in levels if level < len(widths)) for level in range(depth)]

    @property
    def groups_per_second(self) -> float:
        """What full lanes compute with the fewest bootstraps."""
        bootstraps = sum(sum(circuit.fewest) for circuit in self.circuits)
        return self.lanes * len(self.circuits) / (self.round_seconds * bootstraps)


class SimulatedExecutor(Protocol):
    """What takes jobs and says when one of them ends."""

    filled: int
    """Bootstraps so far."""
    slots: int
    """Bootstraps for which there was room in the same rounds."""

    def start(self, now: float, job: int, groups: Sequence[int]) -> None:
        """Take a job."""
        ...

    def advance(self, now: float) -> float:
        """Let time pass; returns during how much of it there was something to compute."""
        ...

    def next_end(self) -> float:
        """When something ends if nothing changes; infinite if nothing is under way."""
        ...

    def end(self, now: float) -> list[int]:
        """Let end what ends now; returns the jobs that are over."""
        ...


class SharedTime:
    """Jobs that take a time by their size, and share the executor evenly."""

    def __init__(self, group_seconds: float) -> None:
        self._group_seconds = group_seconds
        self._left: dict[int, float] = {}
        self._since = 0.0
        self.filled = self.slots = 0

    def start(self, now: float, job: int, groups: Sequence[int]) -> None:
        """Take a job."""
        self.advance(now)
        self._left[job] = self._group_seconds * len(groups)

    def advance(self, now: float) -> float:
        """Share the time since the last call among the jobs."""
        elapsed, self._since = now - self._since, now
        if not self._left:
            return 0.0
        each = elapsed / len(self._left)
        self._left = {job: left - each for job, left in self._left.items()}
        return elapsed

    def next_end(self) -> float:
        """When the first job ends."""
        if not self._left:
            return math.inf
        return self._since + len(self._left) * max(0.0, min(self._left.values()))

    def end(self, now: float) -> list[int]:
        """Let the job end that has least left."""
        self.advance(now)
        job = min(self._left, key=self._left.__getitem__)
        del self._left[job]
        return [job]


@dataclass(slots=True)
class _Job:
    number: int
    levels: list[int]
    """Bootstraps of those that have not begun, the next one last."""
    left: int
    """Bootstraps of the present level that have not run."""


class LevelsOnCores:
    """Levels as the actor around an executor on cores runs them, see ``nurseries.levels``."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._queue: list[_Job] = []
        self._run: list[tuple[_Job, int]] = []
        self._ends = math.inf
        self._since = 0.0
        self.filled = self.slots = 0

    def start(self, now: float, job: int, groups: Sequence[int]) -> None:
        """Take a job."""
        levels = self._cores.levels(groups, len(self._queue) + 1)[::-1]
        self._queue.append(_Job(job, levels, levels.pop()))
        if not self._run:
            self._begin(now)

    def advance(self, now: float) -> float:
        """Let time pass."""
        elapsed, self._since = now - self._since, now
        return elapsed if self._run else 0.0

    def next_end(self) -> float:
        """When the present run ends."""
        return self._ends

    def end(self, now: float) -> list[int]:
        """End the present run and begin the next one."""
        over: list[int] = []
        for job, count in self._run:
            job.left -= count
            if job.left:
                continue
            self._queue.remove(job)
            if job.levels:
                job.left = job.levels.pop()
                self._queue.append(job)
            else:
                over.append(job.number)
        self._begin(now)
        return over

    def _begin(self, now: float) -> None:
        self._run, self._ends = [], math.inf
        if not self._queue:
            return
        lanes = self._cores.lanes
        waiting = [job.left for job in self._queue]
        granted = shares(waiting, run_width(waiting, lanes), lanes) if self._cores.together else waiting[:1]
        self._run = [(job, count) for job, count in zip(self._queue, granted, strict=False) if count]
        bootstraps = sum(granted)
        rounds = -(-bootstraps // lanes)
        self.filled += bootstraps
        self.slots += rounds * lanes
        self._ends = now + rounds * self._cores.round_seconds
