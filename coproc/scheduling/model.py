"""What the scheduler's core is told, what it says, and what it remembers: plain frozen data.

Decides the vocabulary of ``scheduling.core``; holds no rule. Times are seconds of one clock, given from outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from coproc.resilience import FullJitter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coproc.errors import CoprocError
    from coproc.store.base import Failure, WorkGroup

NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Policy:
    """The scheduler's settings."""

    capacity: int = 256
    """The most groups under lease at once."""
    jobs: int = 2
    """The most jobs computing at once: a short one need not wait for the end of a long one."""
    guest_jobs: int = 0
    """Further jobs for tenants of whom nothing is computing: nobody waits for the end of others' long work."""
    batch_groups: int = 64
    """The most groups in one job."""
    batch_cost: int = 20_000
    """Estimated bootstraps after which a job takes no further group."""
    window: float = 0.005
    """Seconds that a batch waits for company where groups come in a crowd; a lone group never waits."""
    deference: float = 0.05
    """Seconds that a worker without a free job slot lets others claim first."""
    lease_seconds: float = 30.0
    takeovers: int = 10
    """How often a group is taken over from workers that ended or lost their lease before its computations fail: more
    often than failures, since most workers end for reasons of their own."""
    attempts: int = 3
    """How often computing a group may fail for reasons that pass before its computations fail."""
    poll_seconds: float = 2.0
    """How often to look for work without having been woken."""
    patience: float = 30.0
    """Seconds after which a waiting group goes before longer ones."""
    backoff: FullJitter = field(default_factory=lambda: FullJitter(0.5, 30.0))

    @property
    def renew_seconds(self) -> float:
        """Time between renewals: two of them may fail before a lease ends."""
        return self.lease_seconds / 3


def jobs_at_once(lanes: int) -> int:
    """Say how many jobs cores should compute at once: what levels of two leave empty on many lanes, others fill.

    Results of a job come at its end, so that on few lanes more jobs would only make each other late.
    """
    return 2 + min(6, lanes // 8)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A claimed group with the scheduler's view of it."""

    work: WorkGroup
    tenant: bytes
    """Whom its cost is charged to."""
    cost: int
    """Estimated bootstraps."""
    path: int
    """Estimated levels of its longest chain."""
    weight: float = 1.0
    """The tenant's share: what it is charged is divided by this."""


# ---------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class WorkWaiting:
    """The store may have work."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim came back."""

    groups: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """Whoever stored groups has leased them to us on the way; answers an ``offer``, also with none."""

    groups: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class ClaimFailed:
    """A claim failed for a reason that may pass."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """A renewal came back."""

    asked: frozenset[int]
    held: frozenset[int]


@dataclass(frozen=True, slots=True)
class RenewFailed:
    """A renewal failed for a reason that may pass; leases that nobody took over still count."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A job has its outputs; its groups are being stored, and each will be ``Settled``."""

    job: int


@dataclass(frozen=True, slots=True)
class JobFailed:
    """A job ended without outputs."""

    job: int
    error: CoprocError
    counts: bool = True
    """Whether the attempt is charged to its groups; a dependency that is away is not their fault."""


@dataclass(frozen=True, slots=True)
class WorkEnded:
    """Some leases may have been taken back, because the work is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A group's outcome was stored, or its lease was lost."""

    group_id: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Start nothing more, give back what has not begun."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Go by another policy from now on; jobs under way are not touched."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class HandBack:
    """Give back what is still computing, too."""


Event: TypeAlias = (
    Tick
    | WorkWaiting
    | Claimed
    | Given
    | ClaimFailed
    | Renewed
    | RenewFailed
    | Computed
    | JobFailed
    | WorkEnded
    | Settled
    | Drain
    | Adopt
    | HandBack
)

# --------------------------------------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Claim:
    """Ask the store for up to ``limit`` groups; answered by ``Claimed`` or ``ClaimFailed``."""

    limit: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Extend leases; answered by ``Renewed`` or ``RenewFailed``."""

    group_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Release:
    """Give groups back untouched; not answered."""

    group_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Start:
    """Compute groups together; answered by ``Computed`` or ``JobFailed``."""

    job: int
    groups: tuple[WorkGroup, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a job; not answered."""

    job: int


@dataclass(frozen=True, slots=True)
class Fail:
    """Store that every wanted output of a group has failed; answered by ``Settled``."""

    work: WorkGroup
    failure: Failure


Action: TypeAlias = Claim | Renew | Release | Start | Cancel | Fail

# ----------------------------------------------------------------------------------------------- state


@dataclass(frozen=True, slots=True)
class Held:
    """A group under our lease."""

    candidate: Candidate
    since: float
    """When it was claimed."""
    ready_at: float
    """Not to be started before."""
    tries: int = 0
    """Counted failures."""
    waits: int = 0
    """Backoffs so far."""
    alone: bool = False
    """It was in a batch that failed for good: only by itself can it be told who did it."""
    job: int | None = None
    settling: bool = False

    @property
    def is_waiting(self) -> bool:
        """Whether it has yet to be started."""
        return self.job is None and not self.settling

    @property
    def is_suspect(self) -> bool:
        """Whether a worker ended while it held the group: the group may be what ended it."""
        return self.candidate.work.attempts > 0


@dataclass(frozen=True, slots=True)
class State:
    """Everything the core remembers; made by ``State(policy)``."""

    policy: Policy = field(default_factory=Policy)
    held: Mapping[int, Held] = field(default_factory=lambda: MappingProxyType({}))
    """By group id, in the order of claiming."""
    next_job: int = 1
    claim_due: float = 0.0
    claiming: bool = False
    claim_failures: int = 0
    offering: bool = False
    """Somebody stores groups and may lease them to us on the way."""
    asked: int = 0
    """How many groups the last claim asked for."""
    more: bool = False
    """The last claim brought as many as it asked for: there may be more."""
    arrived_at: float = -NEVER
    """When the last claim that brought anything came back."""
    crowded: bool = False
    """The groups that came last came soon after others."""
    careful: bool = False
    """A suspect is about: claim one group at a time."""
    renew_due: float = NEVER
    renewing: bool = False
    recheck: bool = False
    """Renew again as soon as the renewal under way is back."""
    ended_meanwhile: bool = False
    """Something ended while groups were on their way to us: these may be it."""
    served: Mapping[bytes, float] = field(default_factory=lambda: MappingProxyType({}))
    """Cost charged to each tenant, on the scale of ``virtual_time``."""
    virtual_time: float = 0.0
    """What the tenant served last had been charged: newcomers start here."""
    draining: bool = False

    @property
    def jobs(self) -> frozenset[int]:
        """Jobs that are computing."""
        return frozenset(held.job for held in self.held.values() if held.job is not None)

    @property
    def is_drained(self) -> bool:
        """Whether a drain is over."""
        return self.draining and not (self.held or self.claiming or self.offering)

    def with_held(self, changed: Mapping[int, Held | None]) -> State:
        """Change groups, or drop those that map to None."""
        merged = {**self.held, **changed}
        return replace(self, held={number: held for number, held in merged.items() if held is not None})
