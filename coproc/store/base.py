"""What every store offers: the records and the protocol that Postgres and its memory twin both satisfy.

Decides the semantics of persistence; knows nothing of SQL, Trio tasks or ciphertext contents.

Life of a computation: ``submit`` splits a batch into connected *groups* (the unit of claiming). A group is ``WAITING``
while some of its external inputs have no stored ciphertext, then ``READY``, then ``COMPUTING`` under a lease, then
``COMPLETED`` or ``FAILED``. Results get a *sequence number*, one global order in which a number becomes visible only
after all smaller ones: a subscriber that has seen ``s`` and asks for what comes after ``s`` misses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from datetime import datetime

    import trio

    from coproc.program.computation import Computation
    from coproc.program.types import Handle
    from coproc.store.taking import Taker
    from coproc.store.tenants import Tenant


class State(IntEnum):
    """State of a computation (and of a group)."""

    WAITING = 0
    READY = 1
    COMPUTING = 2
    COMPLETED = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A registered server key."""

    key_id: bytes
    """SHA-256 of ``size`` bytes of the serialized compressed server key."""
    size: int
    parameters: str
    """Name of the parameter set, ``"insecure"`` for sets without a published security level."""
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredCiphertext:
    """A ciphertext as clients read it."""

    handle: Handle
    key_id: bytes
    data: bytes
    """TFHE-rs ``safe_serialize`` bytes of FheBool, FheUint or FheInt (plain or seeded)."""
    clear: int | None = None
    """The value, where it is known to everybody because it was trivially encrypted."""
    is_allowed: bool = True
    """Whether callers may fetch it (an intermediate kept for later groups is not allowed)."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A validated batch; the store trusts it."""

    key_id: bytes
    transaction_id: bytes
    computations: tuple[Computation, ...]
    """In an order in which producers come before consumers."""
    tenant: str | None = None
    """Who asks, where callers are told apart."""
    seconds: float | None = None
    """How long new work is wanted; what is not done by then fails with ``DEADLINE_EXCEEDED``."""
    traceparent: str | None = None
    """The span that asks, as W3C writes it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a computation failed."""

    rule: str
    message: str
    cause: Handle | None = None
    """The handle whose failure this one follows from, if any."""


@dataclass(frozen=True, slots=True)
class ComputationStatus:
    """What can be asked of a computation (or of an uploaded ciphertext: COMPLETED with no transactions)."""

    handle: Handle
    state: State
    is_allowed: bool
    attempts: int = 0
    failure: Failure | None = None
    missing: tuple[Handle, ...] = ()
    """External inputs of its group that nothing stored yet, while WAITING."""


@dataclass(frozen=True, slots=True)
class WorkGroup:
    """A leased group: everything needed to plan it."""

    group_id: int
    key_id: bytes
    transaction_id: bytes
    computations: tuple[Computation, ...]
    wanted: frozenset[Handle]
    """Outputs to materialise: allowed ones and those that other groups need."""
    attempts: int
    """How often it has been claimed before."""
    tenant: str | None = None
    weight: float = 1.0
    """Its tenant's share, relative to others."""
    unreadable: Mapping[Handle, Failure] = field(default_factory=dict["Handle", "Failure"])
    """Outputs whose stored definition makes no sense (a damaged row): they fail, and nothing else does."""
    traceparent: str | None = None
    """The span that asked first."""
    waited: float = field(default=0.0, compare=False)
    """Seconds from its submission to this lease."""


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """What became of a leased group. Outputs of the group in neither field complete without a stored ciphertext."""

    group_id: int
    results: tuple[StoredCiphertext, ...]
    """One for each wanted handle that did not fail."""
    failures: Mapping[Handle, Failure] = field(default_factory=dict["Handle", "Failure"])


@dataclass(frozen=True, slots=True)
class ResultEvent:
    """An allowed output became available or failed, as one transaction sees it."""

    sequence: int
    transaction_id: bytes
    handle: Handle
    state: State
    failure: Failure | None = None
    traceparent: str | None = None
    """The span that asked for it first; not told to subscribers."""


class Topic(IntEnum):
    """What a wake-up is about. Wake-ups may be lost or spurious: readers poll as well."""

    WORK = 0
    RESULTS = 1
    ENDED = 2
    """Work under lease was taken back: it is not wanted any more."""
    THAW = 3
    """A compressed ciphertext is to be brought back."""


class Store(Protocol):
    """Everything that outlives the process.

    Every method is safe to cancel and to call again. Errors: ``RecoverableError`` when the database is out of reach,
    ``InvalidInput`` and ``NotFound`` as named.
    """

    async def put_key(self, record: KeyRecord, data: AsyncIterator[bytes]) -> bool:
        """Store a key whose bytes arrive in chunks, all or nothing. Returns whether it was new."""
        ...

    async def get_key(self, key_id: bytes) -> KeyRecord | None:
        """Look a key up."""
        ...

    async def read_key(self, key_id: bytes) -> bytes:
        """Read the whole serialized key. Raises NotFound."""
        ...

    async def put_ciphertexts(self, items: Sequence[StoredCiphertext]) -> int:
        """Store uploaded or trivial ciphertexts, idempotent by handle; wakes groups that waited for them.

        Returns how many were new. Raises InvalidInput if a handle already names other bytes, another key, or is the
        output of a computation; NotFound for an unknown key.
        """
        ...

    async def get_ciphertexts(self, handles: Sequence[Handle]) -> Mapping[Handle, StoredCiphertext]:
        """Read what is stored under ``handles``; unknown ones are absent."""
        ...

    async def submit(self, submission: Submission) -> int:
        """Write a batch in one transaction and wake workers.

        Idempotent: a computation is identified by its output handle. The same definition again only links it to the
        transaction (and may raise ``is_allowed``); another definition raises InvalidInput. An input that is the
        unstored output of an earlier computation makes that output wanted (its group runs again if it was done).
        An input that has failed makes the consumers fail at once. Returns how many computations were new.
        Who is ``taking`` may get what is ready under a lease at once, which wakes nobody.
        """
        ...

    async def cancel(self, transaction_id: bytes, tenant: str | None = None) -> int:
        """Fail what is not done of a transaction with ``CANCELLED``, and take it back from whoever computes it.

        What another transaction or a chain asks for too, or needs, goes on. ``tenant`` limits this to what that tenant
        asked for.
        Returns how many computations were cancelled. Raises NotFound for an unknown transaction.
        """
        ...

    async def expire(self) -> int:
        """Fail what is not done of groups whose deadline has passed; returns how many computations that were."""
        ...

    async def get_status(self, handles: Sequence[Handle]) -> Mapping[Handle, ComputationStatus]:
        """Status by handle; unknown ones are absent."""
        ...

    async def get_transaction(self, transaction_id: bytes) -> Sequence[ComputationStatus]:
        """Status of every computation of a transaction, in submission order."""
        ...

    async def count_open(self, limit: int, tenant: str | None = None) -> int:
        """Count groups (of a tenant, or all) that wait for inputs or workers, or compute; stops at ``limit``."""
        ...

    async def find_tenant(self, key_hash: bytes) -> Tenant | None:
        """Find the active tenant that an API key (its SHA-256) belongs to."""
        ...

    async def claim(self, worker: str, limit: int, lease_seconds: float) -> Sequence[WorkGroup]:
        """Lease up to ``limit`` groups: those under expired leases first, then the oldest that are READY.

        Tenants take turns. A claim that returns fewer than ``limit`` groups may have left some.
        """
        ...

    async def renew(self, worker: str, group_ids: Sequence[int], lease_seconds: float) -> frozenset[int]:
        """Extend leases; returns those still held by ``worker``."""
        ...

    async def release(self, worker: str, group_ids: Sequence[int]) -> None:
        """Give groups back untouched (drain): READY again, the attempt is not counted."""
        ...

    async def release_stray(self, worker: str, held: Collection[int]) -> int:
        """Give back whatever is under a lease of ``worker`` but ``held``: answers got lost. Returns how many.

        Nothing may be claimed or taken for ``worker`` meanwhile.
        """
        ...

    async def finish(self, worker: str, outcome: GroupOutcome) -> bool:
        """Store results, mark failures and their dependants, end the lease and wake waiters, in one transaction.

        Dependants in this group and in waiting groups fail too; allowed outputs get their sequence numbers. A lease
        that has expired but that nobody took over still counts as held. Returns False, changing nothing, if the lease
        was lost. Raises InvalidInput if the outcome does not fit the group.
        """
        ...

    async def finish_all(self, worker: str, outcomes: Sequence[GroupOutcome]) -> frozenset[int]:
        """``finish`` for several groups in one transaction, all or nothing but for lost leases.

        Returns the groups whose lease was not lost. Raises InvalidInput if any outcome does not fit its group.
        """
        ...

    async def results_after(
        self,
        sequence: int,
        limit: int,
        transaction_ids: Sequence[bytes] | None = None,
    ) -> Sequence[ResultEvent]:
        """Results with a greater sequence number, in order; of some transactions or of all."""
        ...

    async def last_sequence(self) -> int:
        """The newest visible sequence number, 0 when there is none."""
        ...

    def hearing(self, hear: Callable[[Sequence[ResultEvent]], None]) -> AbstractContextManager[None]:
        """Call ``hear`` with results as soon as this process has stored them, where that is known; see ``hearing``."""
        ...

    def taking(self, taker: Taker) -> AbstractContextManager[None]:
        """Offer ``taker`` what this process submits: what is ready of it is leased at once, as ``claim`` would.

        Nothing is leased of a submission that repeats computations, makes what others wait for, reads what has failed
        or makes more groups than are wanted.
        """
        ...

    def wakeups(self) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Topic]]:
        """Subscribe to wake-ups; the channel ends (``trio.EndOfChannel``) when the connection behind it is lost."""
        ...
