"""The actor that follows the file of flags: a changed file is in force for the next job, a bad one changes nothing.

Decides when the file is looked at, and what happens to one that breaks a rule or that this worker cannot follow: the
flags before stay as a whole, and a line of the log, a figure and an entry in ``/readyz`` say so until the file is well.
What flags mean is in ``coproc.flags``; who goes by them is told by ``follow``.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog
import trio

from coproc.circuits.strategy import Strategy as CircuitStrategy
from coproc.config import REWRITES
from coproc.errors import CoprocError, RecoverableError
from coproc.flags import FlagFile, Flags, parse, read_bytes
from coproc.health.report import ActorReport
from coproc.metrics import Figure
from coproc.program.lowering import LoweringSettings
from coproc.program.planning import Lanes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from coproc.scheduling.model import Policy

LOOK_SECONDS: Final = 1.0
"""How often the file is read: volumes of orchestrators change by links that no watch sees."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def _on_a_thread(path: Path) -> bytes:
    return await trio.to_thread.run_sync(read_bytes, path)


class FlagsActor:
    """Holds the flags in force; ``run`` follows the file."""

    def __init__(
        self,
        path: Path | None,
        base: Flags,
        follow: Callable[[Flags], Awaitable[None]],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        read: Callable[[Path], Awaitable[bytes]] = _on_a_thread,
    ) -> None:
        """Follow ``path``; without one the flags are ``base`` for ever.

        Args:
            path: of the file.
            base: what the service was configured with.
            follow: goes over to other flags, or raises CoprocError and leaves everything as it was.
            now: the time of day.
            read: reads the file whole, or raises CoprocError.
        """
        self._path = path
        self._base = base
        self._follow = follow
        self._now = now
        self._read = read
        self._file = FlagFile()
        self._seen: bytes | None = None
        self._began = False
        self._applied = self._refused = 0
        self.flags = base
        """Those in force."""
        self.error: str | None = None
        """Why the latest file was refused; None: it is in force."""

    @property
    def health(self) -> ActorReport:
        """Whether the file and what is in force are the same."""
        return ActorReport("running" if self.error is None else "refused", self.error is None, error=self.error)

    @property
    def notices(self) -> tuple[str, ...]:
        """What is about to change."""
        due = self._file.changes_at(self._now())
        return () if due is None else (f"the plan changes at {due.isoformat(timespec='seconds')}",)

    def figures(self) -> Iterator[Figure]:
        """Flags and what became of files, for metrics."""
        for name, value in self.flags.describe(REWRITES):
            yield Figure("flag_info", 1, {"flag": name, "value": value})
        yield Figure("flags_refused", self.error is not None)
        yield Figure("flag_reloads_total", self._applied, {"outcome": "applied"})
        yield Figure("flag_reloads_total", self._refused, {"outcome": "refused"})

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the file until cancelled.

        Raises:
            InvalidConfiguration: there was no good file to begin with.
        """
        if self._path is None:
            task_status.started()
            await trio.sleep_forever()
            return
        if not self._began:
            self._seen = await self._read(self._path)
            self._file = parse(self._seen)
            self.flags = self._file.flags(self._base, self._now())
            self._began = True
            log.info("flags are in force", **dict(self.flags.describe(REWRITES)))
        task_status.started()
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self._look(self._path)

    async def _look(self, path: Path) -> None:
        """Take a changed file in, or refuse it; change the plan when it is time."""
        data: bytes | None = None
        try:
            data = await self._read(path)
            changed = data != self._seen
            self._seen = data
            file = parse(data) if changed else self._file
            await self._change(file.flags(self._base, self._now()))
        except CoprocError as error:
            # What could not be read, or not be followed just now, may be a moment later.
            self._seen = None if isinstance(error, RecoverableError) else data
            if error.message == self.error:
                return  # a file that stays away is one fault
            self._refused += 1
            self.error = error.message
            log.error("flags refused; those before stay", rule=error.rule, error=error.message)  # noqa: TRY400 - no defect
            return
        if changed:
            self._file, self.error = file, None
            self._applied += 1
            if (due := file.changes_at(self._now())) is not None:
                log.warning("the plan will change", effective_at=due.isoformat())

    async def _change(self, flags: Flags) -> None:
        """Go over to other flags. Raises CoprocError if this worker cannot."""
        if flags == self.flags:
            return
        await self._follow(flags)
        old, new = dict(self.flags.describe(REWRITES)), dict(flags.describe(REWRITES))
        self.flags = flags
        log.warning("flags changed", **{name: value for name, value in new.items() if old[name] != value})


def scheduler_settings(
    flags: Flags, base: Policy, threads: int
) -> tuple[Policy, CircuitStrategy | Lanes, LoweringSettings]:
    """Say what flags mean to a scheduler: ``base`` with other batches, and how to plan for so many threads."""
    plan = flags.plan
    most = flags.maximum_batch
    policy = replace(base, window=flags.batch_window_seconds, batch_groups=most, capacity=4 * most)
    strategy = Lanes(threads) if plan.strategy == "auto" else CircuitStrategy(plan.strategy)
    return policy, strategy, LoweringSettings(plan.shift_semantics == "zero", plan.rewrites_off)
