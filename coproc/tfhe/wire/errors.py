"""The one error of the wire format: what was expected, and at which byte.

Knows nothing of the types that are read.
"""

from __future__ import annotations

from coproc.errors import InvalidInput


class WireError(InvalidInput):
    """Bytes that are no valid TFHE-rs object, or not the one asked for.

    ``field`` names the TFHE-rs type, ``offset`` the byte (None where the fault is not at one place).
    """

    rule = "INVALID_WIRE_OBJECT"

    def __init__(self, field: str, message: str, offset: int | None = None) -> None:
        at = "" if offset is None else f" at byte {offset}"
        super().__init__(field, f"{message}{at}", offset=offset)
        self.offset = offset
