"""One named computation on handles, as callers submit it.

Decides the data; validation and types are in ``program.operations``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coproc.program.types import Handle


class Operation(IntEnum):
    """Operation numbers of fhevm's coprocessor.

    22 takes a value out of an uploaded list: the server makes such computations, callers cannot submit them.
    """

    ADD = 0
    SUB = 1
    MUL = 2
    DIV = 3
    REM = 4
    BIT_AND = 5
    BIT_OR = 6
    BIT_XOR = 7
    SHL = 8
    SHR = 9
    ROTL = 10
    ROTR = 11
    EQ = 12
    NE = 13
    GE = 14
    GT = 15
    LE = 16
    LT = 17
    MIN = 18
    MAX = 19
    NEG = 20
    NOT = 21
    VERIFY_INPUT = 22
    CAST = 23
    TRIVIAL_ENCRYPT = 24
    IF_THEN_ELSE = 25
    RAND = 26
    RAND_BOUNDED = 27
    SUM = 28
    IS_IN = 29
    MUL_DIV = 30


@dataclass(frozen=True, slots=True)
class Scalar:
    """A clear operand: big-endian bytes of any length, cut to the low bits of the type it is used with."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Computation:
    """``output = operation(operands)``; the output's type is the one its handle carries (``handle_type``)."""

    output: Handle
    operation: Operation
    operands: tuple[Handle | Scalar, ...]
    is_allowed: bool
    """Whether somebody may read the output: only then is it stored and pushed."""

    @property
    def inputs(self) -> tuple[Handle, ...]:
        """The encrypted operands, in order."""
        return tuple(operand for operand in self.operands if not isinstance(operand, Scalar))
