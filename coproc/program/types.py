"""The encrypted types of the operation table, and handles that name values.

Decides numbers, widths and the layout of a handle; knows nothing of operations.
"""

from __future__ import annotations

import secrets
from enum import IntEnum
from typing import Final, NewType

from coproc.errors import InvalidInput

Handle = NewType("Handle", bytes)
"""32 bytes that name one encrypted value. Byte 30 is the type, byte 31 the handle version (fhevm layout)."""

HANDLE_BYTES: Final = 32
HANDLE_VERSION: Final = 0
_TYPE_BYTE: Final = 30
_VERSION_BYTE: Final = 31


class FheType(IntEnum):
    """Type numbers of fhevm's ``FheType`` (the signed ones too)."""

    BOOL = 0
    UINT4 = 1
    UINT8 = 2
    UINT16 = 3
    UINT32 = 4
    UINT64 = 5
    UINT128 = 6
    UINT160 = 7
    UINT256 = 8
    BYTES64 = 9
    BYTES128 = 10
    BYTES256 = 11
    INT8 = 20
    INT16 = 24
    INT32 = 25
    INT64 = 26
    INT128 = 27
    INT160 = 28
    INT256 = 29

    @property
    def bits(self) -> int:
        """Width in bits; 1 for a boolean."""
        return _BITS[self]

    @property
    def blocks(self) -> int:
        """Number of 2-bit blocks; a boolean takes one."""
        return (self.bits + 1) // 2

    @property
    def is_signed(self) -> bool:
        """Whether values are two's complement."""
        return self >= FheType.INT8


_BITS: Final = {
    FheType.BOOL: 1,
    FheType.UINT4: 4,
    FheType.UINT8: 8,
    FheType.UINT16: 16,
    FheType.UINT32: 32,
    FheType.UINT64: 64,
    FheType.UINT128: 128,
    FheType.UINT160: 160,
    FheType.UINT256: 256,
    FheType.BYTES64: 512,
    FheType.BYTES128: 1024,
    FheType.BYTES256: 2048,
    FheType.INT8: 8,
    FheType.INT16: 16,
    FheType.INT32: 32,
    FheType.INT64: 64,
    FheType.INT128: 128,
    FheType.INT160: 160,
    FheType.INT256: 256,
}


def new_handle(fhe_type: FheType, chain_id: int = 0) -> Handle:
    """Make a fresh random handle for a value of ``fhe_type`` (byte 21 is 0xff: a computed value)."""
    return Handle(
        secrets.token_bytes(21) + b"\xff" + chain_id.to_bytes(8, "big") + bytes([fhe_type, HANDLE_VERSION]),
    )


def parse_handle(raw: bytes, field: str = "handle") -> Handle:
    """Check the length, type and version of a handle.

    Raises:
        InvalidInput: naming ``field`` and the rule that is broken.
    """
    if len(raw) != HANDLE_BYTES:
        raise InvalidInput(field, f"a handle has {HANDLE_BYTES} bytes, got {len(raw)}")
    if raw[_VERSION_BYTE] != HANDLE_VERSION:
        raise InvalidInput(field, f"handle version (byte 31) must be {HANDLE_VERSION}, got {raw[_VERSION_BYTE]}")
    if raw[_TYPE_BYTE] not in FheType.__members__.values():
        raise InvalidInput(field, f"byte 30 is no known type number: {raw[_TYPE_BYTE]}")
    return Handle(raw)


def handle_type(handle: Handle) -> FheType:
    """Read the type that a parsed handle carries."""
    return FheType(handle[_TYPE_BYTE])
