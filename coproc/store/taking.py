"""Work leased to a scheduler of this process while it is stored: sooner than a wake-up and a claim could bring it.

Decides who is asked and that whoever offered always gets an answer. It is a shortcut that a scheduler may never be
offered: what is not taken on the way is claimed as ever.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from coproc.store.base import WorkGroup


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

    def take(self, groups: Sequence[WorkGroup]) -> None:
        """Take what was leased, which may be nothing."""
        ...


@dataclass(slots=True)
class Taken:
    """What one submission leases on the way."""

    lease: Lease | None = None
    """None: nobody takes anything."""
    groups: Sequence[WorkGroup] = ()


class Taking:
    """Whoever takes."""

    def __init__(self) -> None:
        super().__init__()
        self._takers: list[Taker] = []

    @contextmanager
    def taking(self, taker: Taker) -> Generator[None]:
        """Offer ``taker`` what ``submit`` stores while the block lasts."""
        self._takers.append(taker)
        try:
            yield
        finally:
            self._takers.remove(taker)

    @contextmanager
    def _leasing(self) -> Generator[Taken]:
        """Ask for an offer; what the block puts into ``groups`` is taken at its end, however it ends."""
        for taker in self._takers:
            lease = taker.offer()
            if lease is not None:
                taken = Taken(lease)
                try:
                    yield taken
                finally:
                    taker.take(taken.groups)
                return
        yield Taken()
