"""How the operands of a computation are written into one database value.

Decides the bytes: for each operand a tag (0 handle, 1 scalar), a length of 4 bytes (big-endian) and its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.program.computation import Scalar
from coproc.program.types import Handle

if TYPE_CHECKING:
    from collections.abc import Sequence

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
