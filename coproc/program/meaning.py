"""What operations mean on clear integers: the yardstick of circuits, tests and the demo.

Decides the corner cases: results are reduced to the width of their type; signed values are two's complement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.program.computation import Operation
from coproc.program.wordgraph import Constant, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from coproc.program.types import FheType
    from coproc.program.wordgraph import Step, WordGraph


def reduce(value: int, fhe_type: FheType) -> int:
    """Bring a number into the range of a type."""
    value &= (1 << fhe_type.bits) - 1
    if fhe_type.is_signed and value >> (fhe_type.bits - 1):
        value -= 1 << fhe_type.bits
    return value


def evaluate_graph(graph: WordGraph, inputs: Sequence[int]) -> list[int]:
    """Compute every value of a graph in the clear; ``inputs`` are given in the order of ``graph.inputs``."""
    values = [reduce(value, source.type) for value, source in zip(inputs, graph.inputs, strict=True)]
    for step in graph.steps:
        values.append(_evaluate(graph, step, values))
    return values


def _evaluate(graph: WordGraph, step: Step, values: Sequence[int]) -> int:
    numbers = [operand.number for operand in step.operands if isinstance(operand, Value)]
    is_select = step.operation is Operation.IF_THEN_ELSE
    operand_type = graph.type_of(numbers[is_select]) if numbers else step.result
    operands = [
        reduce(operand.value, operand_type) if isinstance(operand, Constant) else values[operand.number]
        for operand in step.operands
    ]
    bits = operand_type.bits
    unsigned = [value & ((1 << bits) - 1) for value in operands]
    # An encrypted amount counts modulo a power of two, which only for 160 bits is more than the width.
    is_clear = isinstance(step.operands[-1], Constant)
    amount = unsigned[-1] % (bits if is_clear else 1 << (bits - 1).bit_length())
    match step.operation:
        case Operation.SHL:
            return reduce(operands[0] << amount, step.result)
        case Operation.SHR:
            return operands[0] >> amount
        case Operation.ROTL:
            return reduce(_rotate_left(unsigned[0], amount % bits, bits), step.result)
        case Operation.ROTR:
            return reduce(_rotate_left(unsigned[0], -amount % bits, bits), step.result)
        case _:
            pass
    if step.operation is Operation.CAST and step.result.bits == 1:
        return int(operands[0] != 0)
    return reduce(_MEANINGS[step.operation](operands), step.result)


def _rotate_left(value: int, amount: int, bits: int) -> int:
    return value << amount | value >> (bits - amount)


def divide(a: int, b: int) -> tuple[int, int]:
    """Divide, rounding towards zero; by zero the quotient is all ones (negated for a < 0), the remainder ``a``."""
    if b == 0:
        return (1 if a < 0 else -1), a
    quotient = abs(a) // abs(b) * (-1 if (a < 0) != (b < 0) else 1)
    return quotient, a - quotient * b


_MEANINGS: Final[Mapping[Operation, Callable[[Sequence[int]], int]]] = {
    Operation.ADD: lambda x: x[0] + x[1],
    Operation.SUB: lambda x: x[0] - x[1],
    Operation.MUL: lambda x: x[0] * x[1],
    Operation.DIV: lambda x: divide(x[0], x[1])[0],
    Operation.REM: lambda x: divide(x[0], x[1])[1],
    Operation.SUM: sum,
    Operation.IS_IN: lambda x: int(x[0] in x[1:]),
    Operation.MUL_DIV: lambda x: x[0] * x[1] // x[2],
    Operation.NEG: lambda x: -x[0],
    Operation.BIT_AND: lambda x: x[0] & x[1],
    Operation.BIT_OR: lambda x: x[0] | x[1],
    Operation.BIT_XOR: lambda x: x[0] ^ x[1],
    Operation.NOT: lambda x: ~x[0],
    Operation.EQ: lambda x: int(x[0] == x[1]),
    Operation.NE: lambda x: int(x[0] != x[1]),
    Operation.LT: lambda x: int(x[0] < x[1]),
    Operation.LE: lambda x: int(x[0] <= x[1]),
    Operation.GT: lambda x: int(x[0] > x[1]),
    Operation.GE: lambda x: int(x[0] >= x[1]),
    Operation.MIN: lambda x: min(x[0], x[1]),
    Operation.MAX: lambda x: max(x[0], x[1]),
    Operation.IF_THEN_ELSE: lambda x: x[1] if x[0] else x[2],
    Operation.CAST: lambda x: x[0],
    Operation.TRIVIAL_ENCRYPT: lambda x: x[0],
}
