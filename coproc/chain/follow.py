"""Which blocks to ask for and which to write or take back: a pure function of the head that a node tells.

Decides what the chain is: blocks that link by parent hash up to the node's head. Notifications are never believed, only
taken as a reason to look; so lost, repeated, reordered and removed ones make no difference. Nothing here asks a node or
waits: ``advance`` yields the headers it needs and is sent them.

A head below ours that we know is a node that lags, and changes nothing: what it has not seen may still be there. A head
that we do not know is a fork, however low: everything above the fork point is orphaned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from coproc.chain.blocks import NodeFault
from coproc.errors import IrrecoverableError
from coproc.store.chains import BlockId

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from coproc.chain.blocks import Header

PAGE: Final = 64
"""Blocks asked for together while catching up."""


class ReorgTooDeep(IrrecoverableError):
    """The node's chain leaves ours below every block that may still be taken back."""

    rule = "REORG_TOO_DEEP"


@dataclass(frozen=True, slots=True)
class ByNumber:
    """Ask for the header of a number on the node's chain."""

    number: int


@dataclass(frozen=True, slots=True)
class ByHash:
    """Ask for a header by its hash."""

    hash: bytes


Request: TypeAlias = ByNumber | ByHash
Walk: TypeAlias = "Generator[Sequence[Request], Sequence[Header | None], Sequence[Step]]"


@dataclass(frozen=True, slots=True)
class Step:
    """To be done at once: take some blocks back and write others."""

    orphaned: tuple[bytes, ...]
    """Hashes, newest first."""
    blocks: tuple[Header, ...]
    """In order; the first follows what remains."""


class Follower:
    """Where one chain stands, and how it goes on."""

    def __init__(self, tail: Sequence[BlockId], *, first: int, depth: int, page: int = PAGE) -> None:
        """Go on from what is stored.

        Args:
            tail: the newest stored blocks, oldest first, without gaps: ``depth + 1`` of them if there are as many.
            first: the block to start with if none is stored.
            depth: how many blocks may be taken back.
            page: how many headers to ask for together.
        """
        self._blocks = list(tail)
        self._numbers = {block.hash: block.number for block in tail}
        self._is_whole = len(tail) <= depth
        """Whether ``_blocks`` are all there are: then even the first may be replaced."""
        self._first = first
        self._depth = depth
        self.page = page
        """How many headers are asked for together: it may change between walks."""

    @property
    def tip(self) -> BlockId | None:
        """The newest block."""
        return self._blocks[-1] if self._blocks else None

    @property
    def next_number(self) -> int:
        """The number of the block that comes next."""
        return self._blocks[-1].number + 1 if self._blocks else self._first

    def advance(self, head: Header) -> Walk:
        """Find out what leads to ``head``; a part of it if that is far away. Nothing: we are there, or ask again later.

        Yields headers to ask for; to be sent one answer for each, None for a block that the node does not know.

        Raises:
            NodeFault: the answers contradict each other or the question.
            ReorgTooDeep: too many blocks would have to be taken back.
        """
        if head.hash in self._numbers:
            return ()
        branch = yield from self._ahead(head)
        if not branch or (self._blocks and branch[0].number < self._blocks[0].number):
            return ()
        while self._blocks and branch[0].parent not in self._numbers:
            if branch[0].number == self._blocks[0].number:
                if not self._is_whole:
                    raise ReorgTooDeep(
                        f"the node's block {branch[0].number} is not ours; at most {self._depth} may be taken back",
                        number=branch[0].number,
                    )
                break
            (parent,) = yield (ByHash(branch[0].parent),)
            if parent is None:
                return ()
            if (parent.hash, parent.number + 1) != (branch[0].parent, branch[0].number):
                raise NodeFault(f"the node's answer is not the parent of block {branch[0].number}")
            branch.insert(0, parent)
        return self._steps(branch)

    def applied(self, step: Step) -> None:
        """Take note that a step was done."""
        for orphan in step.orphaned:
            if self._blocks.pop().hash != orphan:
                raise AssertionError("steps are done in order")
            del self._numbers[orphan]
        for header in step.blocks:
            self._blocks.append(BlockId(header.number, header.hash))
            self._numbers[header.hash] = header.number
        while len(self._blocks) > self._depth + 1:
            self._is_whole = False
            del self._numbers[self._blocks.pop(0).hash]

    def _ahead(self, head: Header) -> Generator[Sequence[Request], Sequence[Header | None], list[Header]]:
        """Headers between our tip and ``head``, linked to each other; ``head`` alone when it is not above our tip."""
        start = self.next_number
        if head.number < start:
            return [head] if self._blocks else []
        last = min(head.number, start + self.page - 1)
        asked = [ByNumber(number) for number in range(start, last + 1) if number != head.number]
        answers = [*(yield asked)] if asked else []
        if last == head.number:
            answers.append(head)
        branch: list[Header] = []
        for number, header in enumerate(answers, start):
            if header is None or (branch and header.parent != branch[-1].hash):
                break  # the node has changed its mind meanwhile
            if header.number != number:
                raise NodeFault(f"the node was asked for block {number} and gave block {header.number}")
            branch.append(header)
        return branch

    def _steps(self, branch: list[Header]) -> list[Step]:
        fork = branch[0].number - 1
        known = self._numbers.get(branch[0].parent, fork)
        if known != fork:
            raise NodeFault(f"the node's block {branch[0].number} has block {known} for a parent")
        orphaned = tuple(block.hash for block in reversed(self._blocks) if block.number > fork)
        if len(orphaned) > self._depth:
            raise ReorgTooDeep(f"{len(orphaned)} blocks would be taken back, at most {self._depth} may be")
        # What takes the place of orphaned blocks comes with their end: what both bring is not taken back in between.
        together = len(orphaned)
        steps = [Step(orphaned, tuple(branch[:together]))] if orphaned else []
        return [*steps, *(Step((), (header,)) for header in branch[together:])]
