"""The form in which ciphertexts are stored: plain, or compressed when they have long been idle.

Decides the records and what a store offers to whoever compresses and brings back; ``idle`` has the SQL, and
``memory_forms`` shows in few words what it must amount to. Knows nothing of what is in a ciphertext.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from coproc.store.base import Store

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from coproc.program.types import Handle
    from coproc.store.base import StoredCiphertext

EVERY_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Compression:
    """What is compressed, and when."""

    after: float
    """Idle seconds, counted as retention does."""
    larger_than: int = 4096
    """Bytes; whatever is smaller stays as it is."""
    every: float = EVERY_SECONDS
    """Seconds between the end of a sweep and the next one."""


@dataclass(frozen=True, slots=True)
class IdleValues:
    """One step of a sweep."""

    keys: Mapping[Handle, bytes]
    """Idle values with their key ids."""
    more: bool
    """Whether the sweep goes on; False as well where another process has it in hand, or none is due."""


class FormsStore(Protocol):
    """A store whose ciphertexts can change their form. Raises RecoverableError when the database is out of reach."""

    async def find_idle(self, compression: Compression, limit: int) -> IdleValues:
        """Look at the next ``limit`` ciphertexts, oldest first, and name the large idle ones that callers may read.

        All processes share one sweep. Lists whose values have yet to be taken out are left alone.
        """
        ...

    async def change_forms(self, forms: Mapping[Handle, bytes]) -> int:
        """Put other bytes for the same values; returns how many are stored. Those that are gone stay gone.

        What was uploaded can be uploaded again as it was: its digest is remembered.
        """
        ...

    async def ask_plain(self, handles: Collection[Handle]) -> None:
        """Ask for compressed ciphertexts to be brought back; wakes workers."""
        ...

    async def claim_thaws(self, limit: int, lease_seconds: float) -> Sequence[StoredCiphertext]:
        """Lease up to ``limit`` ciphertexts that were asked for, the longest waiting first."""
        ...

    async def finish_thaws(self, forms: Mapping[Handle, bytes], failed: Collection[Handle] = ()) -> None:
        """Store plain forms, which begin a new life as if uploaded just now, forget what failed, and wake readers."""
        ...


class ServedStore(Store, FormsStore, Protocol):
    """What the API needs of a store."""
