"""Every corner case of ``docs/operations.md``, from the computation's check to the circuit's result."""

from __future__ import annotations

import pytest

from coproc.circuits.strategy import Strategy
from coproc.errors import InvalidInput
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.lowering import DivisionByZero, LoweringSettings
from coproc.program.operations import check
from coproc.program.planning import GroupGraph, plan
from coproc.program.types import FheType, Handle, new_handle
from tests.program.test_planning import run_plan

U8, U16, I8, I16, U160, BOOL = (
    FheType.UINT8,
    FheType.UINT16,
    FheType.INT8,
    FheType.INT16,
    FheType.UINT160,
    FheType.BOOL,
)
Op = Operation
Encrypted = tuple[FheType, int]
"""A value that comes as a ciphertext; plain integers are clear operands."""


def compute(
    operation: Operation, result: FheType, *operands: Encrypted | int, zero_shifts: bool = False
) -> int | DivisionByZero:
    """Check, plan and run one computation both ways."""
    values: dict[Handle, int] = {}
    given: list[Handle | Scalar] = []
    for operand in operands:
        if isinstance(operand, int):
            given.append(Scalar(operand.to_bytes(40, "big").lstrip(b"\0")))
        else:
            handle = new_handle(operand[0])
            values[handle] = operand[1] & ((1 << operand[0].bits) - 1)
            given.append(handle)
    item = Computation(new_handle(result), operation, tuple(given), is_allowed=True)
    check(item, "computation")
    found: set[int] = set()
    for strategy in Strategy:
        group = GroupGraph(1, (item,), frozenset({item.output}), {})
        planned = plan([group], strategy, LoweringSettings(zero_shifts=zero_shifts))
        if planned.failures:
            (failure,) = planned.failures.values()
            assert isinstance(failure, DivisionByZero)
            return failure
        found.add(run_plan(planned, values)[1, item.output])
    (value,) = found
    return value - (value >> (result.bits - 1) << result.bits) if result.is_signed else value


@pytest.mark.parametrize(
    ("operation", "result", "operands", "meant"),
    [
        # overflow
        (Op.ADD, U8, ((U8, 200), (U8, 100)), 44),
        (Op.SUB, U8, ((U8, 1), (U8, 2)), 255),
        (Op.MUL, U8, ((U8, 200), 3), 88),
        (Op.NEG, U8, ((U8, 1),), 255),
        (Op.NEG, I8, ((I8, -128),), -128),
        (Op.SUM, U8, ((U8, 200), (U8, 100), (U8, 255)), 43),
        (Op.ADD, I8, ((I8, 127), (I8, 1)), -128),
        # clear operands
        (Op.LT, BOOL, ((U8, 0), 256), 0),
        (Op.ADD, U8, ((U8, 1), (1 << 256) + 7), 8),
        (Op.BIT_AND, BOOL, ((BOOL, 1), 256), 1),
        (Op.TRIVIAL_ENCRYPT, BOOL, (256,), 1),
        (Op.TRIVIAL_ENCRYPT, U8, (0x1FF,), 255),
        (Op.TRIVIAL_ENCRYPT, U8, (0,), 0),
        # division
        (Op.DIV, U8, ((U8, 9), (U8, 0)), 255),
        (Op.REM, U8, ((U8, 9), (U8, 0)), 9),
        (Op.DIV, I8, ((I8, 9), (I8, 0)), -1),
        (Op.DIV, I8, ((I8, -9), (I8, 0)), 1),
        (Op.REM, I8, ((I8, -9), (I8, 0)), -9),
        (Op.DIV, I8, ((I8, -7), (I8, 2)), -3),
        (Op.REM, I8, ((I8, -7), (I8, 2)), -1),
        (Op.DIV, I8, ((I8, -7), 2), -3),
        (Op.DIV, I8, ((I8, -128), (I8, -1)), -128),
        (Op.REM, I8, ((I8, -128), (I8, -1)), 0),
        (Op.MUL_DIV, U8, ((U8, 200), (U8, 100), 30), 666 & 255),
        (Op.MUL_DIV, U8, ((U8, 255), 255, 255), 255),
        # shifts and rotations
        (Op.SHL, U8, ((U8, 5), 9), 10),
        (Op.SHL, U8, ((U8, 5), (U8, 9)), 10),
        (Op.SHR, U8, ((U8, 5), (U8, 8)), 5),
        (Op.SHR, I8, ((I8, -128), 3), -16),
        (Op.SHR, I8, ((I8, -128), (I8, 7)), -1),
        (Op.SHL, U160, ((U160, 1), 161), 2),
        (Op.SHL, U160, ((U160, 1), (U160, 161)), 0),
        (Op.SHL, U160, ((U160, 1), (U160, 257)), 2),
        (Op.ROTL, U8, ((U8, 0x81), 9), 3),
        (Op.ROTR, U8, ((U8, 0x81), (U8, 9)), 0xC0),
        (Op.ROTL, U160, ((U160, 1), (U160, 200)), 1 << 40),
        (Op.ROTL, U160, ((U160, 1), (U160, 256 + 3)), 8),
        # casts and booleans
        (Op.CAST, U8, ((U16, 0x1234),), 0x34),
        (Op.CAST, U16, ((U8, 200),), 200),
        (Op.CAST, I16, ((U8, 200),), 200),
        (Op.CAST, I16, ((I8, -2),), -2),
        (Op.CAST, U16, ((I8, -2),), 0xFFFE),
        (Op.CAST, BOOL, ((U16, 0x0200),), 1),
        (Op.CAST, BOOL, ((U16, 0),), 0),
        (Op.CAST, U8, ((BOOL, 1),), 1),
        (Op.NOT, BOOL, ((BOOL, 1),), 0),
        (Op.NOT, U8, ((U8, 1),), 254),
        # collections
        (Op.SUM, U8, (), 0),
        (Op.IS_IN, BOOL, ((U8, 3),), 0),
        (Op.IS_IN, BOOL, ((U8, 3), (U8, 3), (U8, 3), (U8, 4)), 1),
        (Op.IS_IN, BOOL, ((U8, 3), (U8, 4)), 0),
    ],
)
def test_a_corner_case(
    operation: Operation, result: FheType, operands: tuple[Encrypted | int, ...], meant: int
) -> None:
    assert compute(operation, result, *operands) == meant


@pytest.mark.parametrize("divisor", [0, 256, 1 << 256])
def test_a_clear_zero_fails_by_itself(divisor: int) -> None:
    for operation in (Op.DIV, Op.REM):
        assert isinstance(compute(operation, U8, (U8, 9), divisor), DivisionByZero)
        assert isinstance(compute(operation, I8, (I8, -9), divisor), DivisionByZero)
    assert isinstance(compute(Op.MUL_DIV, U8, (U8, 9), (U8, 9), divisor), DivisionByZero)


@pytest.mark.parametrize("amount", [8, 9, 255, (U8, 8), (U8, 255)])
def test_shifts_by_the_width_where_a_network_says_zero(amount: Encrypted | int) -> None:
    assert compute(Op.SHL, U8, (U8, 255), amount, zero_shifts=True) == 0
    assert compute(Op.SHR, U8, (U8, 255), amount, zero_shifts=True) == 0
    signed = amount if isinstance(amount, int) else (I8, amount[1])
    assert compute(Op.SHR, I8, (I8, -5), signed, zero_shifts=True) == -1
    assert compute(Op.ROTL, U8, (U8, 255), amount, zero_shifts=True) == 255


@pytest.mark.parametrize("bound", [0, 3, 257, 512])
def test_bounds_that_are_no_power_of_two_up_to_the_width_are_refused(bound: int) -> None:
    scalars = (Scalar(bytes(16)), Scalar(bound.to_bytes(32, "big")))
    item = Computation(new_handle(U8), Op.RAND_BOUNDED, scalars, is_allowed=True)
    with pytest.raises(InvalidInput, match="power of two"):
        check(item, "computation")


@pytest.mark.parametrize("bound", [1, 2, 128, 256])
def test_other_bounds_are_taken(bound: int) -> None:
    scalars = (Scalar(bytes(16)), Scalar(bound.to_bytes(32, "big")))
    check(Computation(new_handle(U8), Op.RAND_BOUNDED, scalars, is_allowed=True), "computation")


@pytest.mark.parametrize(
    ("operation", "result", "operands"),
    [
        (Op.ADD, U8, ((U8, 1), (U16, 1))),
        (Op.ADD, U8, (1, (U8, 1))),
        (Op.ADD, BOOL, ((BOOL, 1), (BOOL, 1))),
        (Op.ADD, U16, ((U8, 1), (U8, 1))),
        (Op.EQ, U8, ((U8, 1), (U8, 1))),
        (Op.IF_THEN_ELSE, U8, ((U8, 1), (U8, 1), (U8, 1))),
        (Op.IF_THEN_ELSE, U8, ((BOOL, 1), (U8, 1), 1)),
        (Op.IF_THEN_ELSE, U8, ((BOOL, 1), (U8, 1), (U16, 1))),
        (Op.MUL_DIV, U8, ((U8, 1), (U8, 1), (U8, 1))),
        (Op.IS_IN, BOOL, ()),
        (Op.SUM, U160, ((U160, 1),)),
        (Op.NEG, U8, ((U8, 1), (U8, 1))),
        (Op.MUL, FheType.BYTES64, ((FheType.BYTES64, 1), (FheType.BYTES64, 1))),
    ],
)
def test_what_does_not_fit_is_refused(
    operation: Operation, result: FheType, operands: tuple[Encrypted | int, ...]
) -> None:
    with pytest.raises(InvalidInput):
        compute(operation, result, *operands)
