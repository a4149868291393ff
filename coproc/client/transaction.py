"""A graph of computations under construction, with a method for every operation.

Decides result types and how clear operands are written; whether an operation takes its operands is checked by the same
rules as on the server (``coproc.program.operations``), so that mistakes show at the line that makes them.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from coproc.api.generated.coproc.v1 import Computation as WireComputation
from coproc.api.generated.coproc.v1 import Operand, SubmitComputationsRequest
from coproc.api.generated.coproc.v1 import Operation as WireOperation
from coproc.errors import InvalidInput
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.operations import check
from coproc.program.types import FheType, Handle, handle_type, new_handle

if TYPE_CHECKING:
    from collections.abc import Sequence


class Transaction:
    """Computations that are submitted together.

    Every operation returns the handle of its result. Clear operands are integers (right operands only, as in fhevm).
    Only results named in ``allow`` (or made with ``allow=True``) are stored and can be fetched.
    """

    def __init__(self, key_id: bytes, transaction_id: bytes | None = None) -> None:
        """Start a graph under a registered key; the id is random unless given."""
        self.key_id = key_id
        self.transaction_id = secrets.token_bytes(32) if transaction_id is None else transaction_id
        self._computations: dict[Handle, Computation] = {}

    @property
    def computations(self) -> tuple[Computation, ...]:
        """What has been added, in order."""
        return tuple(self._computations.values())

    @property
    def allowed(self) -> tuple[Handle, ...]:
        """The results that can be fetched."""
        return tuple(item.output for item in self._computations.values() if item.is_allowed)

    def allow(self, *handles: Handle) -> None:
        """Let results be read. Raises InvalidInput for a handle that is no result of this graph."""
        for handle in handles:
            item = self._computations.get(handle)
            if item is None:
                raise InvalidInput("handle", f"{handle.hex()} is no result of this transaction")
            self._computations[handle] = Computation(item.output, item.operation, item.operands, is_allowed=True)

    def request(self) -> SubmitComputationsRequest:
        """Write the graph as a request."""
        return SubmitComputationsRequest(
            key_id=self.key_id,
            transaction_id=self.transaction_id,
            computations=[
                WireComputation(
                    operation=WireOperation(item.operation + 1),
                    output_handle=item.output,
                    operands=[
                        Operand(scalar=operand.value) if isinstance(operand, Scalar) else Operand(handle=operand)
                        for operand in item.operands
                    ],
                    is_allowed=item.is_allowed,
                )
                for item in self._computations.values()
            ],
        )

    def compute(
        self, operation: Operation, operands: Sequence[Handle | int | Scalar], result: FheType, *, allow: bool = False
    ) -> Handle:
        """Add any operation with a result of the given type.

        An integer is written in the width of the first encrypted operand, or of the result if there is none; a
        ``Scalar`` is taken as it is.

        Raises:
            InvalidInput: the operation does not take these operands.
        """
        encrypted = [operand for operand in operands if isinstance(operand, bytes)]
        width = handle_type(encrypted[0]).bits if encrypted else result.bits
        written = tuple(_scalar(operand, width) if isinstance(operand, int) else operand for operand in operands)
        computation = Computation(new_handle(result), operation, written, allow)
        check(computation, operation.name.lower())
        self._computations[computation.output] = computation
        return computation.output

    def add(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a + b, wrapping."""
        return self._like_left(Operation.ADD, a, b, allow=allow)

    def sub(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a - b, wrapping."""
        return self._like_left(Operation.SUB, a, b, allow=allow)

    def mul(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a * b, wrapping."""
        return self._like_left(Operation.MUL, a, b, allow=allow)

    def div(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a / b, rounded towards zero."""
        return self._like_left(Operation.DIV, a, b, allow=allow)

    def rem(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute the remainder of a / b."""
        return self._like_left(Operation.REM, a, b, allow=allow)

    def bit_and(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a & b."""
        return self._like_left(Operation.BIT_AND, a, b, allow=allow)

    def bit_or(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a | b."""
        return self._like_left(Operation.BIT_OR, a, b, allow=allow)

    def bit_xor(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a ^ b."""
        return self._like_left(Operation.BIT_XOR, a, b, allow=allow)

    def shl(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a << b."""
        return self._like_left(Operation.SHL, a, b, allow=allow)

    def shr(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a >> b."""
        return self._like_left(Operation.SHR, a, b, allow=allow)

    def rotl(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a rotated left by b bits."""
        return self._like_left(Operation.ROTL, a, b, allow=allow)

    def rotr(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a rotated right by b bits."""
        return self._like_left(Operation.ROTR, a, b, allow=allow)

    def eq(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a == b."""
        return self._compare(Operation.EQ, a, b, allow=allow)

    def ne(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a != b."""
        return self._compare(Operation.NE, a, b, allow=allow)

    def ge(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a >= b."""
        return self._compare(Operation.GE, a, b, allow=allow)

    def gt(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a > b."""
        return self._compare(Operation.GT, a, b, allow=allow)

    def le(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a <= b."""
        return self._compare(Operation.LE, a, b, allow=allow)

    def lt(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute a < b."""
        return self._compare(Operation.LT, a, b, allow=allow)

    def min(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute the smaller of a and b."""
        return self._like_left(Operation.MIN, a, b, allow=allow)

    def max(self, a: Handle, b: Handle | int, *, allow: bool = False) -> Handle:
        """Compute the larger of a and b."""
        return self._like_left(Operation.MAX, a, b, allow=allow)

    def neg(self, a: Handle, *, allow: bool = False) -> Handle:
        """Compute -a, wrapping."""
        return self._like_left(Operation.NEG, a, allow=allow)

    def bit_not(self, a: Handle, *, allow: bool = False) -> Handle:
        """Compute ~a (of a boolean: its negation)."""
        return self._like_left(Operation.NOT, a, allow=allow)

    def cast(self, a: Handle, to: FheType, *, allow: bool = False) -> Handle:
        """Compute a in another type: cut, or extended by zeros or its sign."""
        return self.compute(Operation.CAST, (a,), to, allow=allow)

    def trivial_encrypt(self, value: int, fhe_type: FheType, *, allow: bool = False) -> Handle:
        """Make a noiseless ciphertext of a public value."""
        return self.compute(Operation.TRIVIAL_ENCRYPT, (value,), fhe_type, allow=allow)

    def if_then_else(self, condition: Handle, a: Handle, b: Handle, *, allow: bool = False) -> Handle:
        """Choose a where the condition holds, else b."""
        return self.compute(Operation.IF_THEN_ELSE, (condition, a, b), handle_type(a), allow=allow)

    def rand(self, fhe_type: FheType, seed: bytes | None = None, *, allow: bool = False) -> Handle:
        """Draw a uniform value from a public seed of 16 bytes (random unless given)."""
        return self.compute(Operation.RAND, (_seed(seed),), fhe_type, allow=allow)

    def rand_bounded(self, bound: int, fhe_type: FheType, seed: bytes | None = None, *, allow: bool = False) -> Handle:
        """Draw a uniform value below ``bound``, a power of two, from a public seed."""
        written = Scalar(bound.to_bytes(32, "big"))
        return self.compute(Operation.RAND_BOUNDED, (_seed(seed), written), fhe_type, allow=allow)

    def sum(self, values: Sequence[Handle], *, allow: bool = False) -> Handle:
        """Compute the sum of values of one type, wrapping. Raises InvalidInput for no values."""
        if not values:
            raise InvalidInput("values", "must not be empty")
        return self.compute(Operation.SUM, values, handle_type(values[0]), allow=allow)

    def is_in(self, value: Handle, values: Sequence[Handle], *, allow: bool = False) -> Handle:
        """Say whether a value is one of others of its type."""
        return self.compute(Operation.IS_IN, (value, *values), FheType.BOOL, allow=allow)

    def mul_div(self, a: Handle, b: Handle | int, divisor: int, *, allow: bool = False) -> Handle:
        """Compute a * b / divisor, the product in double width, rounded down, cut to a's width."""
        return self.compute(Operation.MUL_DIV, (a, b, divisor), handle_type(a), allow=allow)

    def _like_left(self, operation: Operation, left: Handle, *rest: Handle | int, allow: bool) -> Handle:
        return self.compute(operation, (left, *rest), handle_type(left), allow=allow)

    def _compare(self, operation: Operation, left: Handle, right: Handle | int, *, allow: bool) -> Handle:
        return self.compute(operation, (left, right), FheType.BOOL, allow=allow)


def _scalar(value: int, bits: int) -> Scalar:
    """Write a clear operand big-endian, negative ones in two's complement.

    Raises:
        InvalidInput: it does not fit ``bits``.
    """
    if not -(1 << (bits - 1)) <= value < 1 << bits:
        raise InvalidInput("scalar", f"{value} does not fit {bits} bits")
    return Scalar((value & ((1 << bits) - 1)).to_bytes((bits + 7) // 8, "big"))


def _seed(seed: bytes | None) -> Scalar:
    return Scalar(secrets.token_bytes(16) if seed is None else seed)
