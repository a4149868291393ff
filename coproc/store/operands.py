"""How the operands of a computation are written into one database value, and how a row is read back.

Decides the bytes: for each operand a tag (0 handle, 1 scalar), a length of 4 bytes (big-endian) and its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.errors import CoprocError
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.operations import RULES, check
from coproc.program.types import Handle, parse_handle
from coproc.store.base import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

DAMAGED_ROW: Final = "DAMAGED_ROW"
"""``Failure.rule`` of a computation whose row cannot be read."""
_HANDLE = 0
_SCALAR = 1


def encode_operands(operands: Sequence[Handle | Scalar]) -> bytes:
    """Write operands; equal operands give equal bytes."""
    parts: list[bytes] = []
    for operand in operands:
        tag, raw = (_SCALAR, operand.value) if isinstance(operand, Scalar) else (_HANDLE, operand)
        parts.append(bytes([tag]) + len(raw).to_bytes(4, "big") + raw)
    return b"".join(parts)


def decode_operands(data: bytes) -> tuple[Handle | Scalar, ...]:
    """Read what ``encode_operands`` wrote.

    Raises:
        ValueError: if ``data`` is nothing of the kind.
    """
    operands: list[Handle | Scalar] = []
    at = 0
    while at < len(data):
        tag, size = data[at], int.from_bytes(data[at + 1 : at + 5], "big")
        raw = data[at + 5 : at + 5 + size]
        if tag not in (_HANDLE, _SCALAR) or len(raw) != size or at + 5 > len(data):
            raise ValueError("operands: broken encoding")
        operands.append(Scalar(raw) if tag == _SCALAR else Handle(raw))
        at += 5 + size
    return tuple(operands)


def read_computation(output: Handle, operation: int, data: bytes, *, is_allowed: bool) -> Computation | Failure:
    """Read a stored computation as strictly as it was read when it came in.

    A row that makes no sense gives the reason instead of an error: it must not keep a worker from the rows beside it.
    """
    try:
        operands = decode_operands(data)
        for number, operand in enumerate(operands):
            if not isinstance(operand, Scalar):
                parse_handle(operand, f"operands[{number}]")
        computation = Computation(parse_handle(output, "output"), Operation(operation), operands, is_allowed=is_allowed)
        if computation.operation in RULES:  # encrypted inputs have rules of their own
            check(computation, "computation")
    except (ValueError, CoprocError) as error:
        return Failure(DAMAGED_ROW, f"its stored definition makes no sense: {error}")
    return computation
