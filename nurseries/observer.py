"""The actor behind the operator's page: takes a reading of this process and of the database every few seconds.

Decides when, and that a page outlives every other actor. What is kept is decided by ``coproc.health.history``, what is
asked by ``coproc.health.lookout``. Nothing depends on this actor: where it cannot see the database, that part of the
reading is left out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog
import trio

from coproc.errors import RecoverableError
from coproc.health.history import History, read
from coproc.health.lookout import Lookout

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.health.history import Backlog
    from coproc.health.page import Access, OperatorPage
    from coproc.health.report import HealthReport
    from coproc.health.view import Identity
    from coproc.store.overview import ViewedStore

PERIOD_SECONDS: Final = 2.0
SHARE: Final = 10
"""A database that takes long to say how long its queue is, is asked seldom: for this part of the time,"""
LONGEST_SECONDS: Final = 15.0
"""but not more seldom than this, so that there is something to see."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Observer:
    """Fills the history of a page; ``run`` is an actor."""

    def __init__(
        self,
        report: Callable[[], HealthReport],
        store: Callable[[], ViewedStore | None],
        identity: Identity,
        *,
        period: float = PERIOD_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.history = History()
        self.lookout = Lookout(store)
        self._report = report
        self._identity = identity
        self._period = period
        self._now = now

    def page(self, access: Access) -> OperatorPage:
        """Make the page of what is observed."""
        from coproc.health.page import OperatorPage  # noqa: PLC0415 - Quart takes a while to import

        return OperatorPage(self._identity, self._report, self.history, self.lookout, access=access)

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Observe until cancelled."""
        task_status.started()
        lag = 0.0
        while True:
            began = trio.current_time()
            backlog: Backlog | None = None
            try:
                backlog = (await self.lookout.glance()).backlog
            except RecoverableError:
                pass  # the page says so
            except Exception:
                log.exception("the open work cannot be seen")
            now = trio.current_time()
            self.history.add(read(self._now(), now, lag, self._report(), backlog))
            took = now - began
            due = now + max(self._period - took, min(SHARE * took, LONGEST_SECONDS))
            await trio.sleep_until(due)
            lag = trio.current_time() - due
