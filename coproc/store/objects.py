"""Bytes of large values outside the database: what an object store offers, and what the database keeps of an object.

Decides the protocol, so that anything that keeps bytes under names can be put behind it. Knows neither SQL nor HTTP.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from coproc.errors import IrrecoverableError, RecoverableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.program.types import Handle
    from coproc.store.base import Store, StoredCiphertext

FROM_BYTES: Final = 1 << 16
"""By default values of this size and more go to the object store."""
KEEP_SECONDS: Final = 86_400.0
"""By default objects are kept that long after nothing refers to them any more."""


@dataclass(frozen=True, slots=True)
class ObjectSettings:
    """Which object store, and what of it."""

    url: str
    """``https://host/bucket`` or ``https://host/bucket/prefix``."""
    region: str = "us-east-1"
    access_key: str | None = field(default=None, repr=False)
    """With ``secret_key``; without them, those of the environment, pod or machine."""
    secret_key: str | None = field(default=None, repr=False)
    from_bytes: int = FROM_BYTES
    keep_seconds: float = KEEP_SECONDS


class ObjectStoreUnavailable(RecoverableError):
    """The object store is out of reach, refuses us, or is not the one it should be."""

    rule = "OBJECT_STORE_UNAVAILABLE"


class ObjectLocked(IrrecoverableError):
    """The object store does not let us delete this object."""

    rule = "OBJECT_LOCKED"


class ObjectLost(IrrecoverableError):
    """The object store has no such object, or other bytes than were stored."""

    rule = "OBJECT_LOST"
    handles: Sequence[Handle] = ()
    """Ciphertexts that cannot be had because of it."""


class ObjectStore(Protocol):
    """Keeps bytes under names that are never used twice.

    Methods may be cancelled and called again. Raises ObjectStoreUnavailable.
    """

    async def put(self, name: str, data: bytes, digest: bytes) -> None:
        """Store bytes, whose SHA-256 is ``digest``; when this returns they are safe."""
        ...

    async def get(self, name: str, size: int) -> bytes:
        """Read an object of up to ``size`` bytes. Raises ObjectLost if there is none, or a larger one."""
        ...

    async def delete(self, name: str) -> None:
        """Delete an object; one that is not there counts as deleted. Raises ObjectLocked."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a value are, and how they are known again; the database keeps it instead of them."""

    name: str
    size: int
    digest: bytes
    """SHA-256 of the bytes."""

    def holds(self, data: bytes) -> bool:
        """Whether these are the bytes that were stored."""
        return len(data) == self.size and hashlib.sha256(data).digest() == self.digest


async def read_what_is_left(
    store: Store, handles: Sequence[Handle]
) -> tuple[dict[Handle, StoredCiphertext], dict[Handle, ObjectLost]]:
    """Read ciphertexts as ``Store.get_ciphertexts`` does, and name what the object store has lost, with why."""
    lost: dict[Handle, ObjectLost] = {}
    while True:
        try:
            return dict(await store.get_ciphertexts([handle for handle in handles if handle not in lost])), lost
        except ObjectLost as error:
            if not error.handles:
                raise
            lost |= dict.fromkeys(error.handles, error)
