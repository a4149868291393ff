"""What a batch will cost at most, known before it is accepted.

Decides the estimate: every operation is counted as a circuit of its own, with encrypted operands wherever it may have
them, so that planning (which merges, rewrites and knows clear operands) only makes it cheaper. The counts come from
real circuits, made once for every operation and type, so that the price of asking is bounded however large a batch is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from coproc.circuits.strategy import Strategy
from coproc.program.computation import Operation, Scalar
from coproc.program.lowering import lower
from coproc.program.operations import RULES, Shape
from coproc.program.types import FheType, handle_type
from coproc.program.wordgraph import Constant, Input, Step, Value, WordGraph

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coproc.program.computation import Computation
    from coproc.program.types import Handle

FEW: Final = 64

_CountKey: TypeAlias = "tuple[Operation, FheType, FheType, int, bool]"
_COUNTS: Final[dict[_CountKey, int]] = {}
"""Bounded by the operations, types and limits of operands."""


@dataclass(frozen=True, slots=True)
class Cost:
    """An upper estimate."""

    bootstraps: int = 0
    depth: int = 0
    """Computations of the longest chain."""


def cost_of(computations: Iterable[Computation]) -> Cost:
    """Estimate a batch whose producers come before their consumers. The first use of an operation takes a while."""
    bootstraps = 0
    depth: dict[Handle, int] = {}
    for computation in computations:
        bootstraps += _bootstraps_of(computation)
        depth[computation.output] = 1 + max((depth.get(handle, 0) for handle in computation.inputs), default=0)
    return Cost(bootstraps, max(depth.values(), default=0))


def is_quick(computations: Sequence[Computation]) -> bool:
    """Whether estimating a batch takes less than a millisecond: it is small, and its operations have been counted."""
    return len(computations) <= FEW and all(
        (key := _count_key(computation)) is None or key in _COUNTS for computation in computations
    )


def _bootstraps_of(computation: Computation) -> int:
    key = _count_key(computation)
    if key is None:
        return handle_type(computation.output).blocks  # at most a clean-up of each block
    if key not in _COUNTS:
        _COUNTS[key] = _count(*key)
    return _COUNTS[key]


def _count_key(computation: Computation) -> _CountKey | None:
    """What the bootstraps of a computation depend on; None if it has no encrypted operands."""
    result = handle_type(computation.output)
    inputs = [handle_type(handle) for handle in computation.inputs]
    shape = RULES[computation.operation].shape
    if shape in {Shape.CLEAR, Shape.RANDOM, Shape.RANDOM_BOUNDED} or not inputs:
        return None
    if shape is Shape.MULTIPLY_DIVIDE:
        divisor = computation.operands[2]
        is_power = isinstance(divisor, Scalar) and int.from_bytes(divisor.value, "big").bit_count() <= 1
        return computation.operation, result, inputs[0], 2, is_power
    return computation.operation, result, inputs[-1], len(computation.operands), False


def _count(operation: Operation, result: FheType, operand: FheType, count: int, power: bool) -> int:  # noqa: FBT001 - part of the key
    """Count the bootstraps of one operation on its own.

    Args:
        operation: which.
        result: its type.
        operand: the type of its operands (of a selection: of the branches).
        count: how many operands it has.
        power: for MUL_DIV, whether the divisor is a power of two.
    """
    types = [FheType.BOOL, operand, operand] if operation is Operation.IF_THEN_ELSE else [operand] * count
    operands: tuple[Value | Constant, ...] = tuple(Value(number) for number in range(len(types)))
    if operation is Operation.MUL_DIV:
        operands = (*operands, Constant(1 if power else 3))
    graph = WordGraph(tuple(Input(item) for item in types), (Step(operation, result, operands),), (len(types),))
    return lower(graph, Strategy.LATENCY).circuit.bootstraps
