"""The watch over the event loop: who blocks it, and by how much it is late.

Decides what counts as blocked and what is written down about it; must not know what tasks are for. While one task step
runs, nothing else does: no lease is renewed, no probe answered. A thread samples the stack of a step that takes too
long *while* it runs, since afterwards there is only its length to see.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from coproc.metrics import LOOP_LAG

if TYPE_CHECKING:
    from collections.abc import Callable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

STACK_FRAMES = 12
"""Innermost frames that are written down."""


@dataclass(frozen=True, slots=True)
class BlockedStep:
    """A task step during which the event loop stood still."""

    task: str
    seconds: float
    stack: str
    """Where it was when it became too long; empty if it ended before it could be seen."""


@dataclass(frozen=True, slots=True)
class LoopHealth:
    """What probes and metrics show of the event loop."""

    lag: float
    """Seconds by which the latest heartbeat came late."""
    worst_lag: float
    blocked_steps: int
    heartbeat_age: float
    """Seconds since the latest heartbeat, of the real clock: a liveness probe from another thread can ask."""


class Watchdog(trio.abc.Instrument):
    """Measures every task step and the lateness of a heartbeat; ``run`` is an actor."""

    def __init__(
        self,
        *,
        threshold: float = 0.1,
        heartbeat: float = 1.0,
        on_blocked: Callable[[BlockedStep], None] | None = None,
    ) -> None:
        self._threshold = threshold
        self._heartbeat = heartbeat
        self._on_blocked = on_blocked
        # One tuple, replaced as a whole, so that the sampling thread never sees half a change.
        self._step: tuple[trio.lowlevel.Task, float] | None = None
        self._sampled: tuple[tuple[trio.lowlevel.Task, float], str] | None = None
        self._lag = self._worst_lag = 0.0
        self._blocked_steps = 0
        self._beat_at = time.monotonic()

    @property
    def health(self) -> LoopHealth:
        """How the loop is doing; may be asked from any thread."""
        return LoopHealth(self._lag, self._worst_lag, self._blocked_steps, time.monotonic() - self._beat_at)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note when a step began."""
        self._step = (task, time.monotonic())

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Report a step that took too long."""
        step, self._step = self._step, None
        if step is None or step[0] is not task:
            return
        seconds = time.monotonic() - step[1]
        if seconds < self._threshold:
            return
        sampled, self._sampled = self._sampled, None
        blocked = BlockedStep(task.name, seconds, sampled[1] if sampled and sampled[0] is step else "")
        self._blocked_steps += 1
        log.warning("event loop blocked", task=blocked.task, seconds=round(seconds, 3), stack=blocked.stack)
        if self._on_blocked is not None:
            self._on_blocked(blocked)

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        stopping = threading.Event()
        loop_thread = threading.get_ident()
        trio.lowlevel.add_instrument(self)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, self._sample, loop_thread, stopping)
                try:
                    task_status.started()
                    await self._beat()
                finally:
                    stopping.set()
        finally:
            trio.lowlevel.remove_instrument(self)

    async def _beat(self) -> None:
        while True:
            due = trio.current_time() + self._heartbeat
            await trio.sleep_until(due)
            self._lag = max(0.0, trio.current_time() - due)
            self._worst_lag = max(self._worst_lag, self._lag)
            LOOP_LAG.observe(self._lag)
            self._beat_at = time.monotonic()

    def _sample(self, loop_thread: int, stopping: threading.Event) -> None:
        """Look at the loop's thread every half threshold, and keep the stack of a step that is too long."""
        while not stopping.wait(self._threshold / 2):
            step, sampled = self._step, self._sampled
            if step is None or time.monotonic() - step[1] < self._threshold:
                continue
            if sampled is not None and sampled[0] is step:
                continue
            frame = sys._current_frames().get(loop_thread)  # noqa: SLF001 - documented, named like this to warn
            if frame is not None:
                self._sampled = (step, "".join(traceback.format_stack(frame)[-STACK_FRAMES:]))
