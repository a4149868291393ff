"""What a block of a chain brings, as stores take it.

Decides the records. A block is written with everything it brings in one transaction, and is itself the cursor: the
newest block of a chain is where following goes on. Everything remembers its block, so that it can be taken back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Final, Protocol

from coproc.errors import InvalidInput, RecoverableError
from coproc.store.base import Store
from coproc.store.rules import check_same_definition, connected_groups

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

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


class ChainStore(Store, Protocol):
    """A store that also keeps what chains bring."""

    async def chain_tail(self, chain_id: int, limit: int) -> Sequence[BlockId]:
        """The newest ``limit`` blocks of a chain, oldest first; the last one is where following goes on."""
        ...

    async def advance_chain(
        self, chain_id: int, key_id: bytes, orphaned: Sequence[bytes], blocks: Sequence[ChainBlock]
    ) -> ChainChange:
        """Write blocks with everything they bring, and take orphaned ones back, in one transaction.

        A computation is linked to each block and transaction that asks for it. What orphaned blocks alone asked for
        goes with its result, unless something that stays reads it; what they alone allowed is allowed no more. What
        the new blocks bring again stays as it is. An event that contradicts what is known is a fault, not an error.

        Args:
            chain_id: the chain.
            key_id: the server key that its computations are done with.
            orphaned: hashes of the newest blocks, which are no part of the chain any more.
            blocks: what follows the rest, in order.

        Raises:
            ChainMoved: ``blocks`` do not follow, or ``orphaned`` are not there: another process was faster.
            NotFound: an unknown key.
        """
        ...

    async def chain_faults(self, chain_id: int, limit: int) -> Sequence[Fault]:
        """The newest events of a chain that made no sense, newest first."""
        ...

    async def chain_delegation(
        self, chain_id: int, delegator: bytes, delegate: bytes, contract: bytes
    ) -> Delegation | None:
        """The newest word on whether ``delegate`` may read for ``delegator`` in a contract; None: there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is to be written for blocks."""

    new: tuple[tuple[bytes, Computation], ...]
    """Computations that are not known yet, each with the transaction that asked for it first."""
    failures: Mapping[Handle, Failure]
    """Those of them that fail from the start."""
    links: tuple[tuple[bytes, bytes, Handle], ...]
    """Block, transaction and output, for known and new ones; each once, in order."""
    faults: tuple[tuple[bytes, Fault], ...]
    """With the block that each stands in."""

    @property
    def inputs(self) -> set[Handle]:
        """What the new computations read and do not make."""
        made = {computation.output for _, computation in self.new}
        live = (computation for _, computation in self.new if computation.output not in self.failures)
        return {handle for computation in live for handle in computation.inputs if handle not in made}

    def groups(self, missing: Collection[Handle]) -> list[tuple[bytes, tuple[Computation, ...]]]:
        """Split the new computations into connected groups that do not leave a transaction, each with its transaction.

        What depends on ``missing`` inputs, which may never come, is kept apart, so that the rest need not wait for it.
        """
        groups: list[tuple[bytes, tuple[Computation, ...]]] = []
        for transaction_id, members in groupby(self.new, key=lambda item: item[0]):
            waiting: dict[Handle, Computation] = {}
            others: list[Computation] = []
            for _, computation in members:
                reads = () if computation.output in self.failures else computation.inputs
                if any(handle in missing or handle in waiting for handle in reads):
                    waiting[computation.output] = computation
                else:
                    others.append(computation)
            parts = (*connected_groups(others), *connected_groups(waiting.values()))
            groups += [(transaction_id, group) for group in parts]
        return groups


def accept(
    blocks: Sequence[ChainBlock], known: Mapping[Handle, Computation | None], allowed: Collection[Handle]
) -> Accepted:
    """Sort out what blocks bring.

    Args:
        blocks: in order.
        known: outputs that are defined already; None where the handle names something else altogether.
        allowed: handles that somebody may read.
    """
    new: dict[Handle, tuple[bytes, Computation]] = {}
    failures: dict[Handle, Failure] = {}
    links: dict[tuple[bytes, bytes, Handle], None] = {}
    faults = [(block.hash, fault) for block in blocks for fault in block.faults]
    for block in blocks:
        for item in block.computations:
            computation, transaction_id = item.computation, item.transaction_id
            output = computation.output
            earlier = new[output][1] if output in new else known.get(output, computation)
            try:
                _check_definition(earlier, computation)
            except InvalidInput as error:
                faults.append((block.hash, Fault(-1, transaction_id, output, REDEFINED, error.message)))
                continue
            if output not in known and output not in new:
                new[output] = (transaction_id, replace(computation, is_allowed=output in allowed))
                if item.failure is not None:
                    failures[output] = item.failure
            links[block.hash, transaction_id, output] = None
    return Accepted(tuple(new.values()), failures, tuple(links), tuple(faults))


def _check_definition(earlier: Computation | None, computation: Computation) -> None:
    if earlier is None:
        raise InvalidInput("result", "this handle already names another value")
    check_same_definition(earlier, computation)
