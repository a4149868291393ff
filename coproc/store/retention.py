"""Which stored ciphertexts may go, and what is left of them.

Decides the policy and its records; ``sweep`` and ``memory_retention`` carry it out. A value is *idle* since it was
stored (or uploaded again), or since the newest work that reads it was asked for, whichever is later.

Never deleted, however old:

- what unfinished work reads, and what a chain allows somebody to read;
- what blocks that a reorganisation may still replace ask for, allow or read.

What remains of a deleted value, so that a handle never comes to mean anything else: an intermediate is as if it had
never been stored, and is made again when something needs it; an upload can be uploaded again, with the same bytes; a
result has failed, with the reason, and so has what could only be made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from coproc.store.base import Failure

DROPPED: Final = Failure("RETENTION_EXPIRED", "was deleted by this server's retention policy")
"""Of a result that is not kept any more, and of an upload that is asked for."""
REORG_DEPTH: Final = 64
"""Newest blocks that may be replaced, of chains of which nothing else is known."""


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many idle seconds values are kept; None: for ever."""

    intermediates: float | None = 86_400.0
    """What nobody may read: values that only other work needed, and lists whose values were taken out."""
    uploads: float | None = None
    """What callers uploaded or had trivially encrypted."""
    results: float | None = None
    """What callers may read of their computations."""
    reorg_depth: int = REORG_DEPTH
    """How many of a chain's newest blocks may be replaced."""
    every: float = 600.0
    """Seconds between the end of a sweep and the next one."""

    @property
    def shortest(self) -> float | None:
        """The least age at which anything may go; None: nothing ever goes."""
        return min((age for age in (self.intermediates, self.uploads, self.results) if age is not None), default=None)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One step of a sweep."""

    examined: int = 0
    values: int = 0
    """Deleted ones."""
    size: int = 0
    """Bytes of ciphertext deleted."""
    more: bool = False
    """Whether the sweep goes on; False as well where another process has it in hand, or none is due."""


class SweptStore(Protocol):
    """A store that old values can go from. Raises RecoverableError when the database is out of reach."""

    async def sweep(self, retention: Retention, limit: int) -> Sweep:
        """Look at the next ``limit`` ciphertexts, oldest first, and delete those that may go.

        All processes share one sweep: it goes on where the last step ended, whoever took it.
        """
        ...

    async def sweep_objects(self) -> tuple[int, bool]:
        """Delete objects of the object store that nothing refers to; returns how many, and whether there are more.

        Raises RecoverableError also when the object store is out of reach.
        """
        ...
