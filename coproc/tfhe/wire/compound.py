"""Codecs of what is made of other values, with the version tags of tfhe-versionable.

Rules of bincode 1.x: enum variants are u32, options one byte, structs and tuples their fields in order. A versioned
type is preceded by a u32, the index of its layout. Knows no TFHE-rs type by name.
"""
# ruff: noqa: D102 - what decode and encode do is said once, in Codec

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from coproc.tfhe.wire.codec import Codec, Reader, Release, Writer
from coproc.tfhe.wire.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import Enum


class Sequence(Codec):
    """A vector of anything else, as a tuple."""

    minimum_size = 8

    def __init__(self, element: Codec, name: str) -> None:
        self.element = element
        self.name = name

    def decode(self, reader: Reader) -> tuple[object, ...]:
        decode = self.element.decode
        # A type that takes no bytes would make the count unbounded; no TFHE-rs vector has such elements.
        count = reader.count(max(1, self.element.minimum_size), self.name)
        return tuple([decode(reader) for _ in range(count)])

    def encode(self, writer: Writer, value: object) -> None:
        if not isinstance(value, tuple):
            raise WireError(self.name, f"expected a tuple, got {type(value).__name__}")
        elements = cast("tuple[object, ...]", value)
        writer.u64(len(elements))
        for element in elements:
            self.element.encode(writer, element)


class FixedTuple(Codec):
    """A Rust tuple: elements in order, nothing else."""

    def __init__(self, elements: tuple[Codec, ...]) -> None:
        self.elements = elements
        self.minimum_size = sum(element.minimum_size for element in elements)

    def decode(self, reader: Reader) -> tuple[object, ...]:
        return tuple([element.decode(reader) for element in self.elements])

    def encode(self, writer: Writer, value: object) -> None:
        if not isinstance(value, tuple) or len(cast("tuple[object, ...]", value)) != len(self.elements):
            raise WireError("tuple", f"expected {len(self.elements)} elements, got {value!r}")
        for element, part in zip(self.elements, cast("tuple[object, ...]", value), strict=True):
            element.encode(writer, part)


class Optional(Codec):
    """``Option<T>``: one byte, then the value if it is 1."""

    minimum_size = 1

    def __init__(self, inner: Codec) -> None:
        self.inner = inner

    def decode(self, reader: Reader) -> object:
        flag = reader.byte("Option")
        if flag > 1:
            raise WireError("Option", f"expected 0 or 1, got {flag}", reader.position - 1)
        return self.inner.decode(reader) if flag else None

    def encode(self, writer: Writer, value: object) -> None:
        if value is None:
            writer.parts.append(b"\0")
        else:
            writer.parts.append(b"\1")
            self.inner.encode(writer, value)


class Struct(Codec):
    """Fields in order, built into a frozen dataclass.

    A class may have a method ``fault() -> str | None`` that compares its fields: what is wrong, if anything.
    """

    def __init__(self, cls: type, fields: tuple[tuple[str, Codec], ...]) -> None:
        self.cls = cls
        self.fields = fields
        self.minimum_size = sum(codec.minimum_size for _, codec in fields)
        self._decoders = tuple(codec.decode for _, codec in fields)
        # A struct without fields (a unit variant) carries nothing: one instance serves all.
        self._unit: object = cls() if not fields else None
        self._fault = cast("Callable[[object], str | None] | None", getattr(cls, "fault", None))

    def decode(self, reader: Reader) -> object:
        if not self.fields:
            return self._unit
        start = reader.position
        value = cast("object", self.cls(*[decode(reader) for decode in self._decoders]))
        if self._fault is not None and (fault := self._fault(value)) is not None:
            raise WireError(self.cls.__name__, fault, start)
        return value

    def encode(self, writer: Writer, value: object) -> None:
        if type(value) is not self.cls:
            raise WireError(self.cls.__name__, f"expected {self.cls.__name__}, got {type(value).__name__}")
        for name, codec in self.fields:
            codec.encode(writer, getattr(value, name))


class Enumeration(Codec):
    """A Rust enum without fields as a Python enum; variants in order of declaration."""

    minimum_size = 4

    def __init__(self, cls: type[Enum]) -> None:
        self.cls = cls
        self.members = tuple(cls)
        self.index = {member: i for i, member in enumerate(self.members)}

    def decode(self, reader: Reader) -> Enum:
        start = reader.position
        index = reader.u32(self.cls.__name__)
        if index >= len(self.members):
            raise WireError(self.cls.__name__, f"expected a variant below {len(self.members)}, got {index}", start)
        return self.members[index]

    def encode(self, writer: Writer, value: object) -> None:
        if not isinstance(value, self.cls):
            raise WireError(self.cls.__name__, f"expected {self.cls.__name__}, got {value!r}")
        writer.u32(self.index[value])


class Variants(Codec):
    """A Rust enum with fields: the value's class tells the variant."""

    def __init__(self, name: str, variants: tuple[tuple[type, Codec], ...]) -> None:
        self.name = name
        self.variants = tuple(codec for _, codec in variants)
        self.index = {cls: i for i, (cls, _) in enumerate(variants)}
        if len(self.index) != len(variants):
            raise TypeError(f"{name}: two variants have the same class")
        self.minimum_size = 4 + min(codec.minimum_size for codec in self.variants)

    def decode(self, reader: Reader) -> object:
        start = reader.position
        index = reader.u32(self.name)
        if index >= len(self.variants):
            raise WireError(self.name, f"expected a variant below {len(self.variants)}, got {index}", start)
        return self.variants[index].decode(reader)

    def encode(self, writer: Writer, value: object) -> None:
        index = self.index.get(type(value))
        if index is None:
            raise WireError(self.name, f"no variant holds a {type(value).__name__}")
        writer.u32(index)
        self.variants[index].encode(writer, value)


class Versioned(Codec):
    """A type with one known layout: its tag, then the type."""

    def __init__(self, name: str, version: int, inner: Codec) -> None:
        self.name = name
        self.version = version
        self.inner = inner
        self.minimum_size = 4 + inner.minimum_size

    def decode(self, reader: Reader) -> object:
        start = reader.position
        tag = reader.u32(self.name)
        if tag != self.version:
            raise WireError(self.name, f"expected version tag {self.version}, got {tag}", start)
        return self.inner.decode(reader)

    def encode(self, writer: Writer, value: object) -> None:
        writer.u32(self.version)
        self.inner.encode(writer, value)


class Converted(Codec):
    """A value that is kept in another form than the one on the wire."""

    def __init__(self, inner: Codec, decoded: Callable[[object], object], encoded: Callable[[object], object]) -> None:
        """``decoded`` turns wire form into kept form, ``encoded`` the reverse; it raises WireError if there is none."""
        self.inner = inner
        self.decoded = decoded
        self.encoded = encoded
        self.minimum_size = inner.minimum_size

    def decode(self, reader: Reader) -> object:
        return self.decoded(self.inner.decode(reader))

    def encode(self, writer: Writer, value: object) -> None:
        self.inner.encode(writer, self.encoded(value))


class Absent(Codec):
    """A field that this layout does not have: read as None, and nothing else can be written."""

    minimum_size = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def decode(self, reader: Reader) -> None:
        """Read nothing."""

    def encode(self, writer: Writer, value: object) -> None:
        if value is not None:
            raise WireError(self.name, f"TFHE-rs {writer.release} has no such field; expected None")


class MultiVersioned(Codec):
    """A type whose layout changed: read by its tag, written for the target release."""

    def __init__(self, name: str, layouts: Mapping[int, Codec], written: Mapping[Release, int]) -> None:
        self.name = name
        self.layouts = dict(layouts)
        self.written = dict(written)
        self.minimum_size = 4 + min(layout.minimum_size for layout in self.layouts.values())

    def decode(self, reader: Reader) -> object:
        start = reader.position
        layout = self.layouts.get(tag := reader.u32(self.name))
        if layout is None:
            raise WireError(self.name, f"expected a version tag of {sorted(self.layouts)}, got {tag}", start)
        return layout.decode(reader)

    def encode(self, writer: Writer, value: object) -> None:
        tag = self.written[writer.release]
        writer.u32(tag)
        self.layouts[tag].encode(writer, value)


def changed_in_1_6(before: int, after: int) -> dict[Release, int]:
    """Tell the layout each release writes, for a type that changed in 1.6."""
    return {Release.V1_5: before, Release.V1_6: after, Release.V1_7: after}
