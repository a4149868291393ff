"""The container of ``safe_serialize``: a header that names the type, then the object.

Decides which types are known and that what is read is exactly one object of the type asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar, cast

from coproc.tfhe.wire import ciphertexts, keys, server_keys
from coproc.tfhe.wire.codec import ByteString, Reader, Release, Writer
from coproc.tfhe.wire.errors import WireError
from coproc.tfhe.wire.hints import codec_of

if TYPE_CHECKING:
    from coproc.tfhe.wire.codec import Buffer

T = TypeVar("T")

_HEADER_VERSION: Final = b"0.5"
_VERSIONING_SCHEME: Final = b"0.1"
_MODULE: Final = "high_level_api::"
_MAX_NAME_BYTES: Final = 64
_BYTES: Final = ByteString()

OBJECTS: Final[dict[str, type[object]]] = {
    cls.__name__: cls
    for cls in (
        keys.ClientKey,
        keys.CompactPublicKey,
        keys.CompressedCompactPublicKey,
        server_keys.CompressedServerKey,
        ciphertexts.CompactCiphertextList,
        ciphertexts.CompressedCiphertextList,
        ciphertexts.CompressedFheBool,
        ciphertexts.CompressedFheInt,
        ciphertexts.CompressedFheUint,
        ciphertexts.FheBool,
        ciphertexts.FheInt,
        ciphertexts.FheUint,
        ciphertexts.ProvenCompactCiphertextList,
    )
}
"""Every type that can be read and written, by the last part of its TFHE-rs name."""
_CODECS: Final = {cls: codec_of(cls) for cls in OBJECTS.values()}


def read_name(data: Buffer) -> str:
    """Read only the header: the type's name without its module, such as ``FheUint``; it need not be a known one.

    Raises:
        WireError: if this is no versioned ``safe_serialize`` object of the high-level API.
    """
    return _read_header(Reader(data))


def read_object(data: Buffer, cls: type[T]) -> T:
    """Read an object of a known type. Vectors are read-only views of ``data``, which they keep alive.

    Raises:
        WireError: if it is of another type, malformed, or followed by anything.
    """
    reader = Reader(data)
    name = _read_header(reader)
    if OBJECTS.get(name) is not cls:
        raise WireError("object", f"expected a TFHE-rs {cls.__name__}, got {name!a}")
    value = _CODECS[cls].decode(reader)
    if reader.position != reader.end:
        raise WireError(name, f"expected the end, got {reader.end - reader.position} more bytes", reader.position)
    return cast("T", value)


def write_object(value: object, release: Release = Release.V1_5) -> bytes:
    """Write an object as ``release`` does. Plain ciphertexts look the same in all of them.

    Raises:
        WireError: if the value is of no known type, a field does not fit, or the release has no form for it.
    """
    codec = _CODECS.get(type(value))
    if codec is None:
        raise WireError("object", f"expected a known TFHE-rs object, got {type(value).__name__}")
    writer = Writer(release)
    write_header(writer, type(value).__name__)
    codec.encode(writer, value)
    return b"".join(writer.parts)


def write_header(writer: Writer, name: str) -> None:
    """Append the header of a versioned object."""
    _BYTES.encode(writer, _HEADER_VERSION)
    writer.u32(0)
    _BYTES.encode(writer, _VERSIONING_SCHEME)
    _BYTES.encode(writer, (_MODULE + name).encode())


def _read_header(reader: Reader) -> str:
    # Lengths first: whatever is at the start of foreign bytes must not be read as a huge string.
    _expect(reader, _HEADER_VERSION, "safe_serialize header version")
    mode = reader.u32("versioning mode")
    if mode != 0:
        raise WireError("versioning mode", f"expected 0 (versioned), got {mode}", reader.position - 4)
    _expect(reader, _VERSIONING_SCHEME, "versioning scheme")
    start = reader.position
    count = reader.count(1, "type name")
    if count > _MAX_NAME_BYTES:
        raise WireError("type name", f"expected at most {_MAX_NAME_BYTES} bytes, got {count}", start)
    at = reader.take(count, "type name")
    name = bytes(reader.buffer[at : reader.position]).decode("ascii", "backslashreplace")
    if not name.startswith(_MODULE):
        raise WireError("type name", f"expected {_MODULE}..., got {name!a}", start)
    return name.removeprefix(_MODULE)


def _expect(reader: Reader, text: bytes, name: str) -> None:
    start = reader.position
    at = reader.take(8 + len(text), name)
    got = bytes(reader.buffer[at : reader.position])
    if got != len(text).to_bytes(8, "little") + text:
        raise WireError(name, f"expected the string {text.decode()!r}; is this a safe_serialize object?", start)
