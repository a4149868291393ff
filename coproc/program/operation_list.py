"""Every operation on every type that has it, as graphs of one step: what ``coproc bench counts`` lists.

Decides names and examples. Where the cost depends on a clear operand, an arbitrary odd one of the full width stands for
all. The names are those of ``coproc.program.catalogue.TFHE_RS``, and more.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from coproc.program.catalogue import TFHE_RS, operation_graph
from coproc.program.computation import Operation
from coproc.program.operations import RULES, SIGNED, Shape
from coproc.program.types import FheType
from coproc.program.wordgraph import Constant, Input, Step, Value, WordGraph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coproc.program.wordgraph import Operand

CLEAR: Final = "_clear"
"""Ending of the names of operations with a clear right operand."""
MANY: Final = 8
"""Candidates of the example of membership."""
DIVISOR: Final = 10_000


def type_key(fhe_type: FheType) -> str:
    """Name a type by its width, a signed one as ``int64``."""
    return f"int{fhe_type.bits}" if fhe_type in SIGNED else str(fhe_type.bits)


TYPE_KEYS: Final = {type_key(fhe_type): fhe_type for fhe_type in FheType}


def operation_names() -> tuple[str, ...]:
    """All operations, with clear right operands too."""
    clear = [f"{item.name.lower()}{CLEAR}" for item, rule in RULES.items() if rule.shape is Shape.BINARY]
    return (
        *TFHE_RS,
        *clear,
        f"is_in_{MANY}",
        "mul_div",
        "cast_to_bool",
        "cast_to_256",
        "rand_bounded",
        "trivial_encrypt",
    )


def operation_examples(name: str) -> Mapping[str, WordGraph]:
    """Graphs of an operation by the keys of the types that have it."""
    operation = _operation(name)
    return {key: _example(name, operation, item) for key, item in TYPE_KEYS.items() if item in RULES[operation].types}


def _operation(name: str) -> Operation:
    for start, operation in (("sum_", Operation.SUM), ("is_in_", Operation.IS_IN), ("cast_to_", Operation.CAST)):
        if name.startswith(start):
            return operation
    return Operation[name.removesuffix(CLEAR).upper()]


def _example(name: str, operation: Operation, fhe_type: FheType) -> WordGraph:
    if name in TFHE_RS:
        return operation_graph(name, fhe_type)
    clear = Constant(_number(fhe_type.bits))
    operands: tuple[Operand, ...]
    count = 1
    match operation:
        case Operation.IS_IN:
            count = MANY + 1
            operands = tuple(map(Value, range(count)))
        case Operation.MUL_DIV:
            count = 2
            operands = (Value(0), Value(1), Constant(DIVISOR))
        case Operation.RAND_BOUNDED:
            count = 0
            operands = (Constant(0), Constant(1 << (fhe_type.bits - 1)))
        case Operation.TRIVIAL_ENCRYPT:
            count = 0
            operands = (clear,)
        case Operation.CAST:
            operands = (Value(0),)
        case _:
            operands = (Value(0), clear)
    result = FheType.BOOL if RULES[operation].yields_bool else fhe_type
    if operation is Operation.CAST:
        result = FheType.BOOL if name.endswith("bool") else FheType.UINT256
    return WordGraph((Input(fhe_type),) * count, (Step(operation, result, operands),), (count,))


def _number(bits: int) -> int:
    """Return an odd number of a width, the same everywhere."""
    digits = hashlib.shake_256(b"a clear operand").digest(-(-bits // 8))
    return (int.from_bytes(digits, "big") | 1) & ((1 << bits) - 1)
