"""What the memory twin remembers of computations and groups: the rows of Postgres' tables, in few words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from coproc.store.base import State

if TYPE_CHECKING:
    from coproc.program.computation import Computation
    from coproc.program.types import Handle
    from coproc.store.base import Failure


@dataclass(slots=True)
class Entry:
    """A computation and what became of it."""

    computation: Computation
    group: Group
    is_needed: bool = False
    failure: Failure | None = None


@dataclass(slots=True)
class Group:
    """A unit of claiming."""

    group_id: int
    key_id: bytes
    transaction_id: bytes
    outputs: tuple[Handle, ...]
    state: State = State.WAITING
    asked: frozenset[Handle] = frozenset()
    attempts: int = 0
    worker: str | None = None
    lease_ends: float = 0.0
    tenant: str | None = None
    deadline: float = math.inf
    traceparent: str | None = None
    since: float = field(default_factory=trio.current_time)
    """When it was submitted."""
