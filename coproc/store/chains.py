"""What a block of a chain brings, as stores take it.

Decides the records. A block is written with everything it brings in one transaction, and is itself the cursor: the
newest block of a chain is where following goes on. Everything remembers its block, so that it can be taken back.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from coproc.errors import RecoverableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.program.computation import Computation
    from coproc.program.types import Handle
    from coproc.store.base import Failure

REDEFINED: Final = "REDEFINED"
"""Rule of a fault: an event names a value by a handle that names another one already."""


class ChainMoved(RecoverableError):
    """Another process has written blocks of this chain meanwhile: read where it stands, and go on from there."""

    rule = "CHAIN_MOVED"


@dataclass(frozen=True, slots=True)
class BlockId:
    """Where a block stands."""

    number: int
    hash: bytes
    """32 bytes."""


@dataclass(frozen=True, slots=True)
class ChainComputation:
    """A computation that an event asks for."""

    transaction_id: bytes
    """Hash of the chain's transaction."""
    computation: Computation
    """Its ``is_allowed`` is not looked at: that is what ``ChainBlock.allowed`` says."""
    failure: Failure | None = None
    """Why it can never be computed, if that shows in the event; what depends on it fails, too."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """Somebody may read what another may read in one contract, until ``new_expiry`` (seconds; 0: revoked)."""

    log_index: int
    delegator: bytes
    delegate: bytes
    contract: bytes
    """Addresses, 20 bytes each."""
    counter: int
    old_expiry: int
    new_expiry: int


@dataclass(frozen=True, slots=True)
class Fault:
    """An event that makes no sense."""

    log_index: int
    transaction_id: bytes
    handle: bytes | None
    """The result that it names, as it stands there."""
    rule: str
    message: str


@dataclass(frozen=True, slots=True)
class ChainBlock:
    """A block and what it brings, in the order of its logs."""

    chain_id: int
    number: int
    hash: bytes
    parent: bytes
    computations: tuple[ChainComputation, ...] = ()
    allowed: tuple[Handle, ...] = ()
    """Handles that somebody may read from this block on."""
    delegations: tuple[Delegation, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class ChainChange:
    """What writing blocks and taking others back did."""

    computations: int = 0
    """New ones."""
    retracted: int = 0
    """Computations that nobody asks for any more: they are gone, with their results."""
    faults: int = 0


def check_extends(tip: BlockId | None, blocks: Sequence[ChainBlock], remaining: int) -> None:
    """Check that blocks go on where a chain stands, once orphaned ones are gone.

    Args:
        tip: the newest block that stays; None when none does.
        blocks: new ones, in order; each is the parent of the next.
        remaining: how many orphaned blocks were not there.

    Raises:
        ChainMoved: they do not.
    """
    if remaining:
        raise ChainMoved("blocks to be taken back are gone already")
    if not blocks:
        return
    first = blocks[0]
    if tip is not None and (tip.hash, tip.number + 1) != (first.parent, first.number):
        raise ChainMoved(
            f"block {first.number} does not follow block {tip.number}", chain_id=first.chain_id, number=first.number
        )
    for earlier, later in pairwise(blocks):
        if (earlier.hash, earlier.number + 1) != (later.parent, later.number):
            raise ChainMoved(f"block {later.number} does not follow the one before", chain_id=later.chain_id)
