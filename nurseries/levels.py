"""The queue before the cores: levels of concurrent jobs that wait at the same moment run as one.

Decides when a level runs and with which others: keys take turns, and under one key all levels that wait share a run as
``coproc.executors.sharing`` says. Whoever has ended a level waits for the next one at once, so jobs that once ran
together go on together, and nobody has to be waited for. A job that nobody waits for is left out from the next run on,
and one that makes a run fail is found by running each by itself. It must not know what circuits compute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from coproc.executors.base import lanes_of
from coproc.executors.evaluation import run_together
from coproc.executors.sharing import run_width, shares

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from coproc.executors.base import Executor
    from coproc.executors.evaluation import Evaluation

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class CountsRuns(Protocol):
    """Whoever is told of every run."""

    def running(self) -> AbstractContextManager[None]:
        """Return what to hold while one is under way."""
        ...

    def ran(self, executor: Executor, bootstraps: int, levels: int) -> None:
        """Count one, and the levels that it ended."""
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    """A job with levels left."""

    evaluation: Evaluation
    over: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None


class Levels:
    """Runs the levels of all jobs of one executor."""

    def __init__(self, counts: CountsRuns) -> None:
        """Tell ``counts`` of every run."""
        self._counts = counts
        self._queues: dict[int, list[_Waiting]] = {}
        """By prepared key, the one whose turn it is first; those that have waited longest come first."""
        self._wake = trio.Event()

    async def finish(self, evaluation: Evaluation) -> None:
        """Run all levels that an evaluation has left; ``run`` must go on meanwhile.

        Raises:
            Exception: what the executor raises for this evaluation.
        """
        if not evaluation.levels_left:
            return
        waiting = _Waiting(evaluation)
        self._queues.setdefault(id(evaluation.key), []).append(waiting)
        self._wake.set()
        try:
            await waiting.over.wait()
        finally:
            self._leave(waiting)
        if waiting.error is not None:
            raise waiting.error

    async def run(self) -> None:
        """Run levels until cancelled."""
        while True:
            while not self._queues:  # whoever woke us may be gone by now
                self._wake = trio.Event()
                await self._wake.wait()
            turns = self._next_turns()
            await self._run(turns)
            for waiting, _ in turns:
                self._go_on(waiting)
            key = id(turns[0][0].evaluation.key)
            if key in self._queues:  # the other keys come first now, those that came meanwhile, too
                self._queues[key] = self._queues.pop(key)

    def _next_turns(self) -> list[tuple[_Waiting, int]]:
        """Choose whose bootstraps run next, and how many of each."""
        queue = next(iter(self._queues.values()))
        lanes = lanes_of(queue[0].evaluation.executor) or 1
        everyone = [waiting.evaluation.waiting for others in self._queues.values() for waiting in others]
        granted = shares([waiting.evaluation.waiting for waiting in queue], run_width(everyone, lanes), lanes)
        return [(waiting, count) for waiting, count in zip(queue, granted, strict=True) if count]

    async def _run(self, turns: Sequence[tuple[_Waiting, int]]) -> None:
        evaluations = [waiting.evaluation for waiting, _ in turns]
        before = sum(evaluation.levels_left for evaluation in evaluations)
        batch = [(waiting.evaluation, count) for waiting, count in turns]
        try:
            with self._counts.running():
                await trio.to_thread.run_sync(run_together, batch)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever awaits the job
            if len(turns) == 1:
                turns[0][0].error = error
                return
            log.warning("jobs failed together and run one by one", jobs=len(turns), error=repr(error))
            for turn in turns:
                if not self._has_left(turn[0]):
                    await self._run([turn])
            return
        ended = before - sum(evaluation.levels_left for evaluation in evaluations)
        self._counts.ran(evaluations[0].executor, sum(count for _, count in turns), ended)

    def _go_on(self, waiting: _Waiting) -> None:
        """Let a job wait for its next level, behind those that have not had theirs, or tell it that it is over."""
        if self._has_left(waiting):
            return
        if waiting.error is not None or not waiting.evaluation.levels_left:
            self._leave(waiting)
            waiting.over.set()
        elif not waiting.evaluation.has_begun:
            queue = self._queues[id(waiting.evaluation.key)]
            queue.remove(waiting)
            queue.append(waiting)

    def _has_left(self, waiting: _Waiting) -> bool:
        return waiting not in self._queues.get(id(waiting.evaluation.key), ())

    def _leave(self, waiting: _Waiting) -> None:
        if self._has_left(waiting):
            return
        key = id(waiting.evaluation.key)
        self._queues[key].remove(waiting)
        if not self._queues[key]:
            del self._queues[key]
