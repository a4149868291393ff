"""The actor that deletes what the retention policy lets go, and objects that nothing refers to.

Decides its pace: short steps with pauses between them, so that nobody waits for it, and a longer rest once nothing is
due. What may go is decided in ``coproc.store.retention``; any number of processes share one sweep.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog
import trio

from coproc.errors import RecoverableError, log_fields

if TYPE_CHECKING:
    from coproc.store.retention import Retention, SweptStore

EXAMINED_AT_ONCE: Final = 200
"""Ciphertexts looked at in one step: the lock that writers take is held for milliseconds."""
PAUSE_SECONDS: Final = 0.1
REST_SECONDS: Final = 30.0
"""How often to see whether a sweep is due, give or take half of it."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SweeperStatistics:
    """What metrics show of this process's steps."""

    examined: int = 0
    values: int = 0
    """Deleted ones."""
    size: int = 0
    """Bytes deleted."""
    failures: int = 0
    """Steps that failed for a reason that may pass."""
    objects: int = 0
    """Objects deleted that nothing referred to."""


class Sweeper:
    """Takes the steps of sweeps; ``run`` is an actor."""

    def __init__(self, store: SweptStore, retention: Retention) -> None:
        self._store = store
        self._retention = retention
        self.statistics: SweeperStatistics = SweeperStatistics()

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Delete until cancelled."""
        task_status.started()
        while True:
            more = await self._step()
            chance = random.uniform(0.5, 1.5)  # noqa: S311 - spreads processes out
            await trio.sleep(PAUSE_SECONDS if more else REST_SECONDS * chance)

    async def _step(self) -> bool:
        """Take a step; returns whether there is more to do at once."""
        done = self.statistics
        try:
            step = await self._store.sweep(self._retention, EXAMINED_AT_ONCE)
            self.statistics = done = replace(
                done,
                examined=done.examined + step.examined,
                values=done.values + step.values,
                size=done.size + step.size,
            )
            if step.values:
                log.info("deleted by the retention policy", values=step.values, bytes=step.size)
            objects, more = await self._store.sweep_objects()
        except RecoverableError as error:
            log.warning("nothing deleted", **log_fields(error))
            self.statistics = replace(done, failures=done.failures + 1)
            return False
        self.statistics = replace(done, objects=done.objects + objects)
        return step.more or more
