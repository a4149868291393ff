"""A graph is built with the right types, and mistakes show at the line that makes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coproc.api.generated.coproc.v1 import Operation as WireOperation
from coproc.api.limits import Limits
from coproc.api.validation import check_submission
from coproc.client import Transaction
from coproc.errors import InvalidInput
from coproc.program.computation import Operation, Scalar
from coproc.program.types import FheType, Handle, handle_type, new_handle

KEY = bytes(32)
A, B = new_handle(FheType.UINT32), new_handle(FheType.UINT32)
S = new_handle(FheType.INT16)
FLAG = new_handle(FheType.BOOL)

Build = Callable[[Transaction], Handle]

CASES: list[tuple[Build, Operation, FheType]] = [
    (lambda t: t.add(A, B), Operation.ADD, FheType.UINT32),
    (lambda t: t.sub(A, 1), Operation.SUB, FheType.UINT32),
    (lambda t: t.mul(A, B), Operation.MUL, FheType.UINT32),
    (lambda t: t.div(A, 10), Operation.DIV, FheType.UINT32),
    (lambda t: t.rem(A, 10), Operation.REM, FheType.UINT32),
    (lambda t: t.bit_and(A, B), Operation.BIT_AND, FheType.UINT32),
    (lambda t: t.bit_or(A, 255), Operation.BIT_OR, FheType.UINT32),
    (lambda t: t.bit_xor(A, B), Operation.BIT_XOR, FheType.UINT32),
    (lambda t: t.shl(A, 3), Operation.SHL, FheType.UINT32),
    (lambda t: t.shr(A, B), Operation.SHR, FheType.UINT32),
    (lambda t: t.rotl(A, 3), Operation.ROTL, FheType.UINT32),
    (lambda t: t.rotr(A, 3), Operation.ROTR, FheType.UINT32),
    (lambda t: t.eq(A, B), Operation.EQ, FheType.BOOL),
    (lambda t: t.ne(A, 0), Operation.NE, FheType.BOOL),
    (lambda t: t.ge(A, B), Operation.GE, FheType.BOOL),
    (lambda t: t.gt(A, 7), Operation.GT, FheType.BOOL),
    (lambda t: t.le(A, B), Operation.LE, FheType.BOOL),
    (lambda t: t.lt(S, -7), Operation.LT, FheType.BOOL),
    (lambda t: t.min(A, B), Operation.MIN, FheType.UINT32),
    (lambda t: t.max(A, 9), Operation.MAX, FheType.UINT32),
    (lambda t: t.neg(S), Operation.NEG, FheType.INT16),
    (lambda t: t.bit_not(FLAG), Operation.NOT, FheType.BOOL),
    (lambda t: t.cast(A, FheType.UINT64), Operation.CAST, FheType.UINT64),
    (lambda t: t.trivial_encrypt(7, FheType.UINT8), Operation.TRIVIAL_ENCRYPT, FheType.UINT8),
    (lambda t: t.if_then_else(FLAG, A, B), Operation.IF_THEN_ELSE, FheType.UINT32),
    (lambda t: t.rand(FheType.UINT16), Operation.RAND, FheType.UINT16),
    (lambda t: t.rand_bounded(8, FheType.UINT16), Operation.RAND_BOUNDED, FheType.UINT16),
    (lambda t: t.sum([A, B, A]), Operation.SUM, FheType.UINT32),
    (lambda t: t.is_in(A, [B, A]), Operation.IS_IN, FheType.BOOL),
    (lambda t: t.mul_div(A, B, 1000), Operation.MUL_DIV, FheType.UINT32),
]


@pytest.mark.parametrize(("build", "operation", "result"), CASES, ids=lambda value: getattr(value, "name", ""))
def test_every_operation_is_built_as_the_server_takes_it(build: Build, operation: Operation, result: FheType) -> None:
    transaction = Transaction(KEY)
    output = build(transaction)
    assert handle_type(output) is result
    (computation,) = transaction.computations
    assert (computation.operation, computation.output) == (operation, output)
    submission = check_submission(transaction.request(), Limits())
    assert submission.computations == transaction.computations


def test_every_operation_has_a_method() -> None:
    assert {operation for _, operation, _ in CASES} == set(Operation) - {Operation.VERIFY_INPUT}


def test_clear_operands_take_the_width_of_the_left_operand() -> None:
    transaction = Transaction(KEY)
    transaction.add(A, 258)
    transaction.add(S, -2)
    operands = [computation.operands[1] for computation in transaction.computations]
    assert operands == [Scalar(b"\x00\x00\x01\x02"), Scalar(b"\xff\xfe")]


@pytest.mark.parametrize("value", [1 << 32, -(1 << 31) - 1])
def test_clear_operands_must_fit(value: int) -> None:
    with pytest.raises(InvalidInput, match="does not fit 32 bits"):
        Transaction(KEY).add(A, value)


def test_only_what_is_allowed_can_be_fetched() -> None:
    transaction = Transaction(KEY, b"mine")
    first = transaction.add(A, B)
    second = transaction.add(first, B, allow=True)
    assert transaction.allowed == (second,)
    transaction.allow(first)
    assert transaction.allowed == (first, second)
    with pytest.raises(InvalidInput, match="is no result of this transaction"):
        transaction.allow(A)
    request = transaction.request()
    assert (request.key_id, request.transaction_id) == (KEY, b"mine")
    assert [item.is_allowed for item in request.computations] == [True, True]
    assert request.computations[0].operation == WireOperation.ADD


def test_transactions_get_different_names() -> None:
    assert Transaction(KEY).transaction_id != Transaction(KEY).transaction_id


def test_operands_of_wrong_types_are_refused_where_they_are_given() -> None:
    with pytest.raises(InvalidInput):
        Transaction(KEY).add(A, S)
    with pytest.raises(InvalidInput):
        Transaction(KEY).if_then_else(A, A, B)
    with pytest.raises(InvalidInput):
        Transaction(KEY).sum([])
