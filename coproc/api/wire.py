"""A strict reading of the protobuf wire format, done before any message class sees the bytes.

Decides which bytes are a message of a given class. The decoder behind it accepts truncated fields, any wire type and
two members of a oneof at once, and needs microseconds a field, so that a small message can be made to cost seconds;
here such messages are refused with the path of the field. Unknown fields are tolerated, as proto3 demands. Knows
nothing of gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, cast

from coproc.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    import betterproto2

MAX_FIELDS: Final = 50_000
"""Fields of one message, nested ones included: bounds the time that decoding may take."""
MAX_DEPTH: Final = 32

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5

_WIRE_TYPES: Final = {
    "bool": _VARINT,
    "enum": _VARINT,
    "int32": _VARINT,
    "int64": _VARINT,
    "uint32": _VARINT,
    "uint64": _VARINT,
    "sint32": _VARINT,
    "sint64": _VARINT,
    "double": _FIXED64,
    "fixed64": _FIXED64,
    "sfixed64": _FIXED64,
    "float": _FIXED32,
    "fixed32": _FIXED32,
    "sfixed32": _FIXED32,
    "bytes": _LENGTH,
    "string": _LENGTH,
    "message": _LENGTH,
}
_UNSIGNED_32: Final = frozenset({"uint32"})
_SIGNED_32: Final = frozenset({"int32", "enum"})


@dataclass(frozen=True, slots=True)
class FieldRule:
    """What the schema says of one field number."""

    name: str
    proto_type: str
    wire_type: int
    repeated: bool
    oneof: str | None
    message: type[betterproto2.Message] | None
    """The class of a message field."""


@cache
def schema(message_class: type[betterproto2.Message]) -> Mapping[int, FieldRule]:
    """Read the field rules of a generated class, by field number.

    Raises:
        TypeError: the class has a field of a kind that this check does not know (maps).
    """
    # The schema can be read nowhere else; mypy does not follow betterproto2's class property.
    metadata = message_class._betterproto  # type: ignore[arg-type] # noqa: SLF001
    rules: dict[int, FieldRule] = {}
    for name, field in metadata.meta_by_field_name.items():
        if field.proto_type not in _WIRE_TYPES:
            raise TypeError(f"{message_class.__name__}.{name}: fields of kind {field.proto_type} are not supported")
        nested = cast("type[betterproto2.Message]", metadata.cls_by_field[name])
        rules[field.number] = FieldRule(
            name=name,
            proto_type=field.proto_type,
            wire_type=_WIRE_TYPES[field.proto_type],
            repeated=bool(field.repeated),
            oneof=field.group,
            message=nested if field.proto_type == "message" else None,
        )
    return rules


def check_message(data: bytes, message_class: type[betterproto2.Message]) -> None:
    """Check that ``data`` is one well-formed message of ``message_class``.

    Raises:
        InvalidInput: it is not; names the field and the rule.
    """
    _Checker(data).message(0, len(data), message_class, "", 0)


class _Checker:
    """One pass over the bytes; ``fields`` counts what a decoder will have to do."""

    __slots__ = ("data", "fields")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fields = 0

    def varint(self, position: int, end: int, path: str) -> tuple[int, int]:
        """Read a varint of at most 64 bits; returns it and the position after it."""
        value = shift = 0
        data = self.data
        while True:
            if position >= end:
                raise InvalidInput(path or "message", "is cut short inside a number")
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise InvalidInput(path or "message", "has a number of more than 10 bytes")
        if value >> 64:
            raise InvalidInput(path or "message", "has a number of more than 64 bits")
        return value, position

    def message(
        self, position: int, end: int, message_class: type[betterproto2.Message], path: str, depth: int
    ) -> None:
        """Check the fields of one message that occupies ``[position, end)``."""
        if depth > MAX_DEPTH:
            raise InvalidInput(path, f"is nested more than {MAX_DEPTH} deep")
        rules = schema(message_class)
        prefix = f"{path}." if path else ""
        counts: dict[int, int] = {}
        chosen: dict[str, str] = {}
        while position < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise InvalidInput(path or "message", f"has more than {MAX_FIELDS} fields")
            tag, position = self.varint(position, end, path)
            number, wire_type = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise InvalidInput(path or "message", f"has a field number out of range: {number}")
            rule = rules.get(number)
            if rule is None:
                position = self.skip(position, end, wire_type, f"{prefix}#{number}")
                continue
            field = f"{prefix}{rule.name}"
            if rule.repeated:
                index = counts.get(number, 0)
                counts[number] = index + 1
                field = f"{field}[{index}]"
            if rule.oneof is not None and chosen.setdefault(rule.oneof, rule.name) != rule.name:
                raise InvalidInput(field, f"is set beside {chosen[rule.oneof]}, of which only one may be")
            position = self.known(position, end, wire_type, rule, field, depth)

    def known(self, position: int, end: int, wire_type: int, rule: FieldRule, field: str, depth: int) -> int:
        """Check the value of a field of the schema; returns the position after it."""
        packed = rule.repeated and rule.wire_type != _LENGTH and wire_type == _LENGTH
        if wire_type != rule.wire_type and not packed:
            raise InvalidInput(field, f"has wire type {wire_type}, a {rule.proto_type} has {rule.wire_type}")
        if packed:
            start, stop = self.length(position, end, field)
            while start < stop:
                self.fields += 1
                if self.fields > MAX_FIELDS:
                    raise InvalidInput(field, f"the message has more than {MAX_FIELDS} fields")
                start = self.scalar(start, stop, rule, field)
            return stop
        if wire_type != _LENGTH:
            return self.scalar(position, end, rule, field)
        start, stop = self.length(position, end, field)
        if rule.message is not None:
            self.message(start, stop, rule.message, field, depth + 1)
        elif rule.proto_type == "string":
            try:
                self.data[start:stop].decode()
            except UnicodeDecodeError as error:
                raise InvalidInput(field, "is not valid UTF-8") from error
        return stop

    def scalar(self, position: int, end: int, rule: FieldRule, field: str) -> int:
        """Check a number; returns the position after it."""
        if rule.wire_type != _VARINT:
            return self.skip(position, end, rule.wire_type, field)
        value, position = self.varint(position, end, field)
        if rule.proto_type in _UNSIGNED_32 and value >= 1 << 32:
            raise InvalidInput(field, f"does not fit {rule.proto_type}: {value}")
        if rule.proto_type in _SIGNED_32 and (1 << 31) <= value < (1 << 64) - (1 << 31):
            raise InvalidInput(field, f"does not fit {rule.proto_type}: {value}")
        if rule.proto_type == "bool" and value > 1:
            raise InvalidInput(field, f"is neither true nor false: {value}")
        return position

    def length(self, position: int, end: int, field: str) -> tuple[int, int]:
        """Read a length prefix; returns where its bytes begin and end."""
        size, position = self.varint(position, end, field)
        if size > end - position:
            raise InvalidInput(field, f"says {size} bytes where {end - position} are left")
        return position, position + size

    def skip(self, position: int, end: int, wire_type: int, field: str) -> int:
        """Step over a value whose contents do not matter; returns the position after it."""
        if wire_type == _VARINT:
            return self.varint(position, end, field)[1]
        if wire_type == _LENGTH:
            return self.length(position, end, field)[1]
        if wire_type not in {_FIXED32, _FIXED64}:
            raise InvalidInput(field, f"has wire type {wire_type}, which proto3 does not have")
        position += 8 if wire_type == _FIXED64 else 4
        if position > end:
            raise InvalidInput(field, "is cut short")
        return position
