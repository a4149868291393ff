"""The word graph: one group of computations with its handles taken away.

Decides the form in which groups are rewritten, lowered and cached. Two groups that differ only in handles, such as the
same transfer of two users, have equal word graphs and so share one circuit. Knows nothing of blocks nor of executors.

Values are numbered: first the inputs, then the results of the steps in order. A step reads only lower numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coproc.program.computation import Operation, Scalar
from coproc.program.operations import scalar_value
from coproc.program.types import FheType, handle_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coproc.program.computation import Computation
    from coproc.program.types import Handle

RANDOM: Final = frozenset({Operation.RAND, Operation.RAND_BOUNDED})


@dataclass(frozen=True, slots=True)
class Value:
    """An operand that an earlier value provides."""

    number: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A clear operand, cut to the type it is used with (seeds and bounds in full)."""

    value: int


Operand = Value | Constant


@dataclass(frozen=True, slots=True)
class Step:
    """``result = operation(operands)``."""

    operation: Operation
    result: FheType
    operands: tuple[Operand, ...]
    subtracted: tuple[bool, ...] = ()
    """For a sum made by a rewrite: which operands are taken off instead of added (none if empty)."""


@dataclass(frozen=True, slots=True)
class Input:
    """An encrypted value that comes from outside the group."""

    type: FheType
    clear: int | None = None
    """The value where it is public (a trivial encryption): it takes no ciphertext."""


@dataclass(frozen=True, slots=True)
class WordGraph:
    """A group without handles; hashable, the key of the circuit cache."""

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    wanted: tuple[int, ...]
    """Numbers of the values to materialise, in order."""

    def type_of(self, number: int) -> FheType:
        """Type of a value."""
        if number < len(self.inputs):
            return self.inputs[number].type
        return self.steps[number - len(self.inputs)].result


@dataclass(frozen=True, slots=True)
class NamedGraph:
    """A word graph and the handles of its values."""

    graph: WordGraph
    handles: tuple[Handle, ...]
    """One for every value, inputs first."""
    seeds: tuple[bytes, ...] = ()
    """What the first operands of random steps stand for: the graph holds their numbers, so that it can be shared."""


def name_values(
    computations: Sequence[Computation],
    wanted: Sequence[Handle],
    clear: Mapping[Handle, int],
) -> NamedGraph:
    """Take the handles away.

    Args:
        computations: checked, producers before consumers.
        wanted: outputs to materialise.
        clear: inputs whose value is public.
    """
    outputs = {item.output for item in computations}
    sources = dict.fromkeys(handle for item in computations for handle in item.inputs if handle not in outputs)
    numbers = {handle: number for number, handle in enumerate(sources)}
    inputs = tuple(Input(handle_type(handle), clear.get(handle)) for handle in sources)
    steps: list[Step] = []
    seeds: list[bytes] = []
    for item in computations:
        operands = tuple(
            Constant(_clear_operand(item, operand)) if isinstance(operand, Scalar) else Value(numbers[operand])
            for operand in item.operands
        )
        if item.operation in RANDOM and isinstance(item.operands[0], Scalar):
            operands = (Constant(len(seeds)), *operands[1:])
            seeds.append(item.operands[0].value)
        steps.append(Step(item.operation, handle_type(item.output), operands))
        numbers[item.output] = len(inputs) + len(steps) - 1
    graph = WordGraph(inputs, tuple(steps), tuple(numbers[handle] for handle in wanted))
    return NamedGraph(graph, (*sources, *(item.output for item in computations)), tuple(seeds))


def _clear_operand(item: Computation, scalar: Scalar) -> int:
    if item.operation in RANDOM:
        return int.from_bytes(scalar.value, "big")
    first = item.operands[0]
    return scalar_value(scalar, handle_type(item.output if isinstance(first, Scalar) else first))
