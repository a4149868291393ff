"""Reading and writing numbers and vectors of numbers as bincode 1.x does: little endian, fixed width, lengths as u64.

Decides that bytes are viewed, not copied, and that nothing is allocated before its count was checked against the bytes
that are left. What is made of several values is in ``compound``; no TFHE-rs type is known here by name.
"""
# ruff: noqa: D102 - what decode and encode do is said once, in Codec

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from enum import IntEnum
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from coproc.tfhe.wire.errors import WireError

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Buffer: TypeAlias = bytes | bytearray | memoryview

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_F64: Final = struct.Struct("<d")

U128_WORDS: Final = np.dtype([("low", "<u8"), ("high", "<u8")])
"""Element type of arrays of 128-bit integers, which numpy lacks."""


class Release(IntEnum):
    """TFHE-rs releases whose layouts can be written; all of them are read."""

    V1_5 = 15
    V1_6 = 16
    V1_7 = 17

    def __str__(self) -> str:
        return f"{self // 10}.{self % 10}"


class Reader:
    """A position in a buffer; hands out views, never copies."""

    __slots__ = ("buffer", "end", "position")

    def __init__(self, data: Buffer) -> None:
        self.buffer = memoryview(data).cast("B")
        self.end = len(self.buffer)
        self.position = 0

    def take(self, count: int, name: str) -> int:
        """Step over ``count`` bytes and return where they start.

        Raises:
            WireError: if fewer are left.
        """
        start = self.position
        if count > self.end - start:
            raise WireError(name, f"expected {count} more bytes, got {self.end - start}", start)
        self.position = start + count
        return start

    def u32(self, name: str) -> int:
        """Read an unsigned 32-bit integer."""
        return cast("int", _U32.unpack_from(self.buffer, self.take(4, name))[0])

    def u64(self, name: str) -> int:
        """Read an unsigned 64-bit integer."""
        return cast("int", _U64.unpack_from(self.buffer, self.take(8, name))[0])

    def count(self, size: int, name: str) -> int:
        """Read the length of a sequence whose elements take at least ``size`` bytes each.

        Raises:
            WireError: if that many cannot be in the bytes left.
        """
        start = self.position
        count = self.u64(name)
        if count * size > self.end - self.position:
            left = self.end - self.position
            raise WireError(name, f"expected {count} elements of at least {size} bytes, got {left} bytes", start)
        return count

    def byte(self, name: str) -> int:
        """Read one byte."""
        return self.buffer[self.take(1, name)]


class Writer:
    """Collects the parts of an object for one target release."""

    __slots__ = ("parts", "release")

    def __init__(self, release: Release) -> None:
        self.release = release
        self.parts: list[Buffer] = []

    def u32(self, value: int) -> None:
        """Append an unsigned 32-bit integer."""
        self.parts.append(_U32.pack(value))

    def u64(self, value: int) -> None:
        """Append an unsigned 64-bit integer."""
        self.parts.append(_U64.pack(value))


class Codec(ABC):
    """How one type is read and written. ``minimum_size`` is the least number of bytes a value takes."""

    minimum_size: int

    @abstractmethod
    def decode(self, reader: Reader) -> object:
        """Read one value.

        Raises:
            WireError: naming the type, what was expected and the byte.
        """

    @abstractmethod
    def encode(self, writer: Writer, value: object) -> None:
        """Append one value.

        Raises:
            WireError: if the value is not of the type or the target release cannot express it.
        """


class Integer(Codec):
    """A fixed-width integer with an optional range."""

    def __init__(
        self, name: str, size: int, *, signed: bool = False, at_least: int | None = None, at_most: int | None = None
    ) -> None:
        self.name = name
        self.minimum_size = size
        self.signed = signed
        self.at_least = at_least if at_least is not None else (-(1 << (8 * size - 1)) if signed else 0)
        self.at_most = at_most if at_most is not None else (1 << (8 * size - signed)) - 1

    def decode(self, reader: Reader) -> int:
        start = reader.take(self.minimum_size, self.name)
        value = int.from_bytes(reader.buffer[start : reader.position], "little", signed=self.signed)
        if not self.at_least <= value <= self.at_most:
            raise WireError(self.name, f"expected {self.at_least} to {self.at_most}, got {value}", start)
        return value

    def encode(self, writer: Writer, value: object) -> None:
        if not isinstance(value, int) or not self.at_least <= value <= self.at_most:
            raise WireError(self.name, f"expected an integer from {self.at_least} to {self.at_most}, got {value!r}")
        writer.parts.append(value.to_bytes(self.minimum_size, "little", signed=self.signed))


class Float(Codec):
    """An IEEE-754 double; infinities and NaN are refused, no TFHE-rs parameter is one."""

    minimum_size = 8

    def decode(self, reader: Reader) -> float:
        start = reader.take(8, "f64")
        value = cast("float", _F64.unpack_from(reader.buffer, start)[0])
        if not math.isfinite(value):
            raise WireError("f64", f"expected a finite number, got {value}", start)
        return value

    def encode(self, writer: Writer, value: object) -> None:
        if not isinstance(value, float):
            raise WireError("f64", f"expected a float, got {value!r}")
        writer.parts.append(_F64.pack(value))


class Boolean(Codec):
    """One byte, 0 or 1."""

    minimum_size = 1

    def decode(self, reader: Reader) -> bool:
        value = reader.byte("bool")
        if value > 1:
            raise WireError("bool", f"expected 0 or 1, got {value}", reader.position - 1)
        return value == 1

    def encode(self, writer: Writer, value: object) -> None:
        if not isinstance(value, bool):
            raise WireError("bool", f"expected a bool, got {value!r}")
        writer.parts.append(b"\1" if value else b"\0")


class ByteString(Codec):
    """``Vec<u8>`` and ``String`` as bytes, copied out of the buffer."""

    minimum_size = 8

    def decode(self, reader: Reader) -> bytes:
        count = reader.count(1, "bytes")
        start = reader.take(count, "bytes")
        return bytes(reader.buffer[start : reader.position])

    def encode(self, writer: Writer, value: object) -> None:
        if not isinstance(value, bytes):
            raise WireError("bytes", f"expected bytes, got {type(value).__name__}")
        writer.u64(len(value))
        writer.parts.append(value)


class Array(Codec):
    """A vector of numbers as a read-only view of the buffer, which need not be aligned."""

    minimum_size = 8

    def __init__(self, dtype: np.dtype[np.generic]) -> None:
        self.dtype = dtype

    def decode(self, reader: Reader) -> NDArray[np.generic]:
        count = reader.count(self.dtype.itemsize, f"vector of {self.dtype}")
        start = reader.take(count * self.dtype.itemsize, f"vector of {self.dtype}")
        view = np.frombuffer(reader.buffer[start : reader.position], self.dtype)
        view.flags.writeable = False
        return view

    def encode(self, writer: Writer, value: object) -> None:
        if not isinstance(value, np.ndarray):
            raise WireError("vector", f"expected an array of {self.dtype}, got {type(value).__name__}")
        array = cast("NDArray[np.generic]", value)
        if array.dtype != self.dtype or array.ndim != 1:
            raise WireError("vector", f"expected one dimension of {self.dtype}, got {array.ndim} of {array.dtype}")
        writer.u64(array.size)
        writer.parts.append(np.ascontiguousarray(array).view(np.uint8).data)
