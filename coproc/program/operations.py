"""The operation table: which operands an operation takes, of which types, and the type of its result.

Decides what is a well-formed computation (fhevm's operation numbers and its engine's type table, with signed integers
added); knows nothing of how an operation is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from coproc.errors import InvalidInput
from coproc.program.computation import Operation, Scalar
from coproc.program.types import FheType, handle_type

if TYPE_CHECKING:
    from coproc.program.computation import Computation

BOOL: Final = frozenset({FheType.BOOL})
SIGNED: Final = frozenset(fhe_type for fhe_type in FheType if fhe_type.is_signed)
UNSIGNED: Final = frozenset(
    {
        FheType.UINT4,
        FheType.UINT8,
        FheType.UINT16,
        FheType.UINT32,
        FheType.UINT64,
        FheType.UINT128,
        FheType.UINT160,
        FheType.UINT256,
    },
)
BYTES: Final = frozenset({FheType.BYTES64, FheType.BYTES128, FheType.BYTES256})
NUMBERS: Final = UNSIGNED | SIGNED
EVERYTHING: Final = BOOL | NUMBERS | BYTES
_SUMMED: Final = frozenset({FheType.UINT8, FheType.UINT16, FheType.UINT32, FheType.UINT64, FheType.UINT128})
_SEARCHED: Final = _SUMMED | {FheType.UINT160, FheType.UINT256}
_MULTIPLIED_AND_DIVIDED: Final = _SUMMED - {FheType.UINT128}

SEED_BYTES: Final = 16
BOUND_BYTES: Final = 32


class Shape(Enum):
    """How the operands of an operation are made up."""

    BINARY = "an encrypted value and an encrypted or clear one of the same type"
    UNARY = "one encrypted value"
    SELECT = "an encrypted boolean and two encrypted values of the same type"
    CLEAR = "one clear value"
    RANDOM = "one clear seed"
    RANDOM_BOUNDED = "a clear seed and a clear bound"
    COLLECTION = "encrypted values of one type"
    MEMBERSHIP = "an encrypted value and encrypted candidates of its type"
    MULTIPLY_DIVIDE = "an encrypted value, an encrypted or clear factor of its type, and a clear divisor"


@dataclass(frozen=True, slots=True)
class Rule:
    """What one operation accepts."""

    shape: Shape
    types: frozenset[FheType]
    """Types of the first encrypted operand (for SELECT: of the branches; for CLEAR and RANDOM: of the result)."""
    yields_bool: bool = False
    """Whether the result is a boolean; otherwise it has the type of the operands (CAST: any type)."""


RULES: Final = {
    Operation.ADD: Rule(Shape.BINARY, NUMBERS),
    Operation.SUB: Rule(Shape.BINARY, NUMBERS),
    Operation.MUL: Rule(Shape.BINARY, NUMBERS),
    Operation.DIV: Rule(Shape.BINARY, NUMBERS),
    Operation.REM: Rule(Shape.BINARY, NUMBERS),
    Operation.BIT_AND: Rule(Shape.BINARY, EVERYTHING),
    Operation.BIT_OR: Rule(Shape.BINARY, EVERYTHING),
    Operation.BIT_XOR: Rule(Shape.BINARY, EVERYTHING),
    Operation.SHL: Rule(Shape.BINARY, NUMBERS | BYTES),
    Operation.SHR: Rule(Shape.BINARY, NUMBERS | BYTES),
    Operation.ROTL: Rule(Shape.BINARY, NUMBERS | BYTES),
    Operation.ROTR: Rule(Shape.BINARY, NUMBERS | BYTES),
    Operation.EQ: Rule(Shape.BINARY, EVERYTHING, yields_bool=True),
    Operation.NE: Rule(Shape.BINARY, EVERYTHING, yields_bool=True),
    Operation.GE: Rule(Shape.BINARY, NUMBERS, yields_bool=True),
    Operation.GT: Rule(Shape.BINARY, NUMBERS, yields_bool=True),
    Operation.LE: Rule(Shape.BINARY, NUMBERS, yields_bool=True),
    Operation.LT: Rule(Shape.BINARY, NUMBERS, yields_bool=True),
    Operation.MIN: Rule(Shape.BINARY, NUMBERS),
    Operation.MAX: Rule(Shape.BINARY, NUMBERS),
    Operation.NEG: Rule(Shape.UNARY, NUMBERS),
    Operation.NOT: Rule(Shape.UNARY, EVERYTHING),
    Operation.CAST: Rule(Shape.UNARY, EVERYTHING),
    Operation.TRIVIAL_ENCRYPT: Rule(Shape.CLEAR, EVERYTHING),
    Operation.IF_THEN_ELSE: Rule(Shape.SELECT, EVERYTHING),
    Operation.RAND: Rule(Shape.RANDOM, EVERYTHING),
    Operation.RAND_BOUNDED: Rule(Shape.RANDOM_BOUNDED, EVERYTHING - BOOL),
    Operation.SUM: Rule(Shape.COLLECTION, _SUMMED),
    Operation.IS_IN: Rule(Shape.MEMBERSHIP, _SEARCHED, yields_bool=True),
    Operation.MUL_DIV: Rule(Shape.MULTIPLY_DIVIDE, _MULTIPLIED_AND_DIVIDED),
}


def collection_limit(fhe_type: FheType) -> int:
    """Return how many elements SUM and IS_IN take (fhevm's limits)."""
    return 100 if fhe_type.bits <= 32 else 60


def scalar_value(scalar: Scalar, fhe_type: FheType) -> int:
    """Read a clear operand as it is used with a type: cut to its low bits; any set bit makes a boolean true."""
    value = int.from_bytes(scalar.value, "big")
    return int(value != 0) if fhe_type is FheType.BOOL else value & ((1 << fhe_type.bits) - 1)


def check(computation: Computation, field: str) -> None:
    """Check operands and result type of one computation against the table.

    Args:
        computation: With handles that were parsed.
        field: Where it stands in the request, for the error.

    Raises:
        InvalidInput: naming the field and the rule.
    """
    rule = RULES[computation.operation]
    operands = computation.operands
    _check_count(rule, len(operands), computation, field)
    clear_at = _clear_positions(rule.shape, len(operands))
    for index, operand in enumerate(operands):
        is_clear = isinstance(operand, Scalar)
        may_be_clear = clear_at.get(index)
        if is_clear and may_be_clear is None:
            raise InvalidInput(f"{field}.operands[{index}]", "must be encrypted (a handle)")
        if not is_clear and may_be_clear is True:
            raise InvalidInput(f"{field}.operands[{index}]", "must be clear (a scalar)")
    result = handle_type(computation.output)
    operand_type = _operand_type(rule, computation, field)
    if operand_type not in rule.types:
        raise InvalidInput(field, f"{computation.operation.name} is not defined on {operand_type.name}")
    if rule.yields_bool:
        if result is not FheType.BOOL:
            raise InvalidInput(f"{field}.output_handle", f"must have type BOOL, its byte 30 says {result.name}")
    elif computation.operation is not Operation.CAST and result is not operand_type:
        raise InvalidInput(
            f"{field}.output_handle", f"must have type {operand_type.name}, its byte 30 says {result.name}"
        )
    _check_values(computation, operand_type, field)


def _check_count(rule: Rule, count: int, computation: Computation, field: str) -> None:
    expected = {
        Shape.BINARY: 2,
        Shape.UNARY: 1,
        Shape.SELECT: 3,
        Shape.CLEAR: 1,
        Shape.RANDOM: 1,
        Shape.RANDOM_BOUNDED: 2,
        Shape.MULTIPLY_DIVIDE: 3,
    }.get(rule.shape)
    if expected is not None and count != expected:
        raise InvalidInput(
            f"{field}.operands", f"{computation.operation.name} takes {rule.shape.value}: {expected}, got {count}"
        )
    if rule.shape is Shape.MEMBERSHIP and count < 1:
        raise InvalidInput(f"{field}.operands", f"{computation.operation.name} takes {rule.shape.value}, got none")


def _clear_positions(shape: Shape, count: int) -> dict[int, bool]:
    """Positions that may be clear (False) or must be (True)."""
    match shape:
        case Shape.BINARY:
            return {1: False}
        case Shape.MULTIPLY_DIVIDE:
            return {1: False, 2: True}
        case Shape.CLEAR | Shape.RANDOM | Shape.RANDOM_BOUNDED:
            return dict.fromkeys(range(count), True)
        case _:
            return {}


def _operand_type(rule: Rule, computation: Computation, field: str) -> FheType:
    """Return the one type of the encrypted operands, checking that it is one."""
    encrypted = [(i, operand) for i, operand in enumerate(computation.operands) if not isinstance(operand, Scalar)]
    if rule.shape is Shape.SELECT:
        index, condition = encrypted[0]
        if handle_type(condition) is not FheType.BOOL:
            raise InvalidInput(f"{field}.operands[{index}]", f"must have type BOOL, got {handle_type(condition).name}")
        encrypted = encrypted[1:]
    if not encrypted:
        return handle_type(computation.output)
    first = handle_type(encrypted[0][1])
    for index, operand in encrypted[1:]:
        if handle_type(operand) is not first:
            raise InvalidInput(
                f"{field}.operands[{index}]", f"must have type {first.name}, got {handle_type(operand).name}"
            )
    return first


def _check_values(computation: Computation, operand_type: FheType, field: str) -> None:
    """Check what the shape does not say: sizes of seeds, numbers of elements."""
    operation, operands = computation.operation, computation.operands
    if operation in {Operation.RAND, Operation.RAND_BOUNDED}:
        seed = operands[0]
        if isinstance(seed, Scalar) and len(seed.value) != SEED_BYTES:
            raise InvalidInput(f"{field}.operands[0]", f"a seed has {SEED_BYTES} bytes, got {len(seed.value)}")
    if operation is Operation.RAND_BOUNDED and isinstance(operands[1], Scalar):
        bound = int.from_bytes(operands[1].value, "big")
        if bound == 0 or bound & (bound - 1) or bound > 1 << operand_type.bits:
            raise InvalidInput(
                f"{field}.operands[1]", f"a bound must be a power of two from 1 to 2^{operand_type.bits}"
            )
    if operation in {Operation.SUM, Operation.IS_IN}:
        count = len(operands) - (operation is Operation.IS_IN)
        limit = collection_limit(operand_type)
        if count > limit:
            raise InvalidInput(
                f"{field}.operands",
                f"{operation.name} takes at most {limit} elements of {operand_type.name}, got {count}",
            )
