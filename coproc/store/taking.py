"""Work leased to a scheduler of this process while it is stored: sooner than a wake-up and a claim could bring it.

Decides who is asked, that whoever offered always gets an answer, and that nothing stays leased to somebody who is gone.
It is a shortcut that a scheduler may never be offered: what is not taken on the way is claimed as ever.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from coproc.errors import IrrecoverableError, RecoverableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from coproc.store.base import WorkGroup

RETURN_SECONDS: Final = 5.0
"""How long giving back may take what nobody takes; then the lease ends by itself."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker would take at once."""

    worker: str
    limit: int
    """Groups at most; of more than that none is taken."""
    seconds: float
    """How long the lease lasts."""


class Taker(Protocol):
    """A scheduler that would compute what is about to be stored."""

    def offer(self) -> Lease | None:
        """Say what it would take now; whoever gets a lease calls ``take`` once."""
        ...

    def take(self, groups: Sequence[WorkGroup] | None) -> bool:
        """Take what was leased, which may be nothing; None if it cannot be known what was.

        Returns:
            False if it is too late for that.
        """
        ...


@dataclass(slots=True)
class Taken:
    """What one submission leases on the way."""

    lease: Lease | None = None
    """None: nobody takes anything."""
    groups: Sequence[WorkGroup] = ()


class Taking(ABC):
    """Whoever takes."""

    def __init__(self) -> None:
        super().__init__()
        self._takers: list[Taker] = []

    @abstractmethod
    async def release(self, worker: str, group_ids: Sequence[int]) -> None:
        """Give groups back; see ``Store.release``."""

    @contextmanager
    def taking(self, taker: Taker) -> Generator[None]:
        """Offer ``taker`` what ``submit`` stores while the block lasts."""
        self._takers.append(taker)
        try:
            yield
        finally:
            self._takers.remove(taker)

    @asynccontextmanager
    async def _leasing(self) -> AsyncGenerator[Taken]:
        """Ask for an offer; what the block puts into ``groups`` is taken at its end. No checkpoint by itself."""
        for taker in self._takers:
            lease = taker.offer()
            if lease is not None:
                break
        else:
            yield Taken()
            return
        taken = Taken(lease)
        try:
            yield taken
        except IrrecoverableError:
            taker.take(())
            raise
        except BaseException:
            taker.take(None)  # it may have been committed
            raise
        if not taker.take(taken.groups) and taken.groups:
            # Failing that, the lease ends by itself: what was submitted is stored, and that is the answer.
            deadline = trio.current_time() + RETURN_SECONDS
            with trio.CancelScope(shield=True, deadline=deadline), suppress(RecoverableError):
                await self.release(lease.worker, [group.group_id for group in taken.groups])
