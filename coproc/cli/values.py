"""Names of types and values on the command line: ``euint64``, ``eint32``, ``ebool``.

Decides how people write types and clear values; knows nothing of keys.
"""

from __future__ import annotations

import click

from coproc.program.types import FheType

_NAMES = {
    FheType.BOOL: "ebool",
    FheType.UINT160: "eaddress",
    FheType.BYTES64: "ebytes64",
    FheType.BYTES128: "ebytes128",
    FheType.BYTES256: "ebytes256",
}


def type_name(fhe_type: FheType) -> str:
    """Write a type as Solidity does: ``euint64``."""
    if fhe_type in _NAMES:
        return _NAMES[fhe_type]
    return f"e{'int' if fhe_type.is_signed else 'uint'}{fhe_type.bits}"


TYPES = {type_name(fhe_type): fhe_type for fhe_type in FheType} | {"euint160": FheType.UINT160}


class TypeParameter(click.ParamType[FheType]):
    """A click parameter that names an encrypted type."""

    name = "type"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> FheType:
        """Turn a name into a type, or fail with the list of names."""
        if isinstance(value, FheType):
            return value
        if not isinstance(value, str) or value not in TYPES:
            self.fail(f"{value!r} is no encrypted type; known: {', '.join(TYPES)}", param, ctx)
        return TYPES[value]


def parse_value(text: str, fhe_type: FheType) -> int:
    """Read a clear value: decimal, 0x..., or true/false; checked against the type's range.

    Raises:
        click.BadParameter: the value does not fit.
    """
    words = {"true": 1, "false": 0}
    try:
        value = words.get(text.lower())
        value = int(text, 0) if value is None else value
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no integer (decimal or 0x...) nor true/false") from error
    low = -(1 << (fhe_type.bits - 1)) if fhe_type.is_signed else 0
    high = low + (1 << fhe_type.bits) - 1
    if not low <= value <= high:
        raise click.BadParameter(f"{value} does not fit {type_name(fhe_type)} ({low} to {high})")
    return value
