"""Values that are chosen among publicly known ones travel as the number of the choice.

An auction that keeps the address of its highest bidder selects 160 bits at every bid, although each of them is public.
Decides which selects only choose among known values, and whether it is worth to choose among their numbers instead, and
to look the value up once, where something else reads it. Knows nothing of circuits but what they cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from coproc.circuits.choice import MOST_WORDS, number_digits
from coproc.circuits.word import BLOCK_BITS, TOP
from coproc.program.computation import Operation
from coproc.program.wordgraph import Constant, Value

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from coproc.program.wordgraph import WordGraph

KNOWN_CHOICES: Final = "known_choices"
"""Rule: a value chosen among publicly known ones is carried as a number, and looked up where it is read."""
BOXES: Final = 16
"""Of a look-up table."""


@dataclass(slots=True)
class Choice:
    """Selects that choose among the same known values."""

    known: dict[int, None] = field(default_factory=dict)
    """The values, in the order of their numbers."""
    members: dict[int, bool] = field(default_factory=dict)
    """Numbers of the selects' results, and whether a branch of each is a choice itself."""
    read: set[int] = field(default_factory=set)
    """Those of them that something else reads."""

    @property
    def words(self) -> tuple[int, ...]:
        """The values by their numbers."""
        return tuple(self.known)

    def number_of(self, value: int) -> int:
        """Return the number of a value."""
        return self.words.index(value)

    def is_worthwhile(self, blocks: int) -> bool:
        """Whether choosing among numbers takes fewer bootstraps: one for each digit that differs, at each select."""
        different = sum(len({word >> (BLOCK_BITS * place) & TOP for word in self.known}) > 1 for place in range(blocks))
        digits, selects = number_digits(len(self.known)), sum(self.members.values())
        look_up = -(-different // (BOXES // len(self.known))) + digits
        return digits * selects + look_up * len(self.read) < different * selects


def find_choices(graph: WordGraph, needed: Collection[int], *, folds_inputs: bool) -> Mapping[int, Choice]:
    """Find the selects that are worth it, by the numbers of their results.

    Args:
        graph: rewritten.
        needed: values that will be computed; nobody else reads anything.
        folds_inputs: whether inputs whose value is public count as known.
    """
    first = len(graph.inputs)
    known = {number: item.clear for number, item in enumerate(graph.inputs) if folds_inputs and item.clear is not None}
    choice_of: dict[int, Choice] = {}
    for number, step in enumerate(graph.steps, first):
        source = step.operands[0] if step.operands else None
        if step.operation is Operation.TRIVIAL_ENCRYPT and isinstance(source, Constant):
            known[number] = source.value
        elif step.operation is Operation.IF_THEN_ELSE and number in needed:
            branches = [
                known.get(item.number, item) if isinstance(item, Value) else item.value for item in step.operands[1:]
            ]
            _add(choice_of, number, branches, (1 << step.result.bits) - 1)
    for number, step in enumerate(graph.steps, first):
        for operand in step.operands if number in needed else ():
            choice = choice_of.get(operand.number) if isinstance(operand, Value) else None
            if choice is not None and number not in choice.members and isinstance(operand, Value):
                choice.read.add(operand.number)
    for number in graph.wanted:
        if number in choice_of:
            choice_of[number].read.add(number)
    return {
        number: choice for number, choice in choice_of.items() if choice.is_worthwhile(graph.type_of(number).blocks)
    }


def _add(choice_of: dict[int, Choice], number: int, branches: Sequence[Value | int], mask: int) -> None:
    """Take a select among the choices if both of its branches are known or choices themselves."""
    joined = Choice()
    inner = False
    for branch in branches:
        if isinstance(branch, int):
            joined.known[branch & mask] = None
        elif branch.number in choice_of:
            inner = True
            other = choice_of[branch.number]
            joined.known |= other.known
            joined.members |= other.members
        else:
            return
    if len(joined.known) <= MOST_WORDS:
        joined.members[number] = inner
        choice_of.update(dict.fromkeys(joined.members, joined))
