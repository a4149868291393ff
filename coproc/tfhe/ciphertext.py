"""Ciphertexts of integers and booleans: from TFHE-rs bytes to arrays of blocks, and back.

Decides what a ciphertext must look like to be computed on under given parameters. Knows nothing of handles, of
operations, nor of secret keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from coproc.tfhe.seeded import expand
from coproc.tfhe.wire import Release, WireError, read_name, read_object, write_object
from coproc.tfhe.wire.ciphertexts import (
    Block,
    CompressedFheBool,
    CompressedFheInt,
    CompressedFheUint,
    FheBool,
    FheInt,
    FheUint,
    SeededBlock,
    SeededRadix,
)
from coproc.tfhe.wire.codec import Reader, Writer
from coproc.tfhe.wire.core import NATIVE_MODULUS, LweCiphertext, PBSOrder
from coproc.tfhe.wire.hints import codec_of
from coproc.tfhe.wire.keys import Tag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.tfhe.parameters import ClassicParameters

    Plain: TypeAlias = FheBool | FheUint | FheInt
    Compressed: TypeAlias = CompressedFheBool | CompressedFheUint | CompressedFheInt

NOMINAL_NOISE_LEVEL: Final = 1
"""Noise level of fresh and bootstrapped blocks; 0 is a trivial encryption."""


class CiphertextKind(Enum):
    """The three families of TFHE-rs types; the width is the number of blocks."""

    BOOL = "FheBool"
    UINT = "FheUint"
    INT = "FheInt"

    def max_degree(self, parameters: ClassicParameters) -> int:
        """Return the largest clear value of a block without carries: 3 for 2_2, 1 for a boolean."""
        return 1 if self is CiphertextKind.BOOL else parameters.message_modulus - 1

    def block_count(self, bits: int, parameters: ClassicParameters) -> int:
        """Return how many blocks hold ``bits`` bits.

        Raises:
            WireError: if no such TFHE-rs type exists.
        """
        if self is CiphertextKind.BOOL:
            if bits != 1:
                raise WireError(self.value, f"a boolean has 1 bit, got {bits}")
            return 1
        per_block = (parameters.message_modulus - 1).bit_length()
        if bits < per_block or bits % per_block:
            raise WireError(self.value, f"expected a positive multiple of {per_block} bits, got {bits}")
        return bits // per_block


_PLAIN: Final[dict[CiphertextKind, type[FheBool | FheUint | FheInt]]] = {
    CiphertextKind.BOOL: FheBool,
    CiphertextKind.UINT: FheUint,
    CiphertextKind.INT: FheInt,
}
_COMPRESSED: Final[dict[CiphertextKind, type[CompressedFheBool | CompressedFheUint | CompressedFheInt]]] = {
    CiphertextKind.BOOL: CompressedFheBool,
    CiphertextKind.UINT: CompressedFheUint,
    CiphertextKind.INT: CompressedFheInt,
}
_FORMS: Final = {kind.value: (kind, False) for kind in CiphertextKind} | {
    f"Compressed{kind.value}": (kind, True) for kind in CiphertextKind
}


@dataclass(frozen=True, slots=True)
class Description:
    """What a serialized ciphertext says of itself."""

    kind: CiphertextKind
    is_compressed: bool
    blocks: int
    lwe_dimension: int
    message_modulus: int
    carry_modulus: int
    tag: bytes


# ------------------------------------------------------------------------------------------------ reading
def read_ciphertext(data: bytes, parameters: ClassicParameters, kind: CiphertextKind, bits: int) -> NDArray[np.uint64]:
    """Read a plain or compressed (seeded) ciphertext of exactly this type, fit to be computed on.

    Returns:
        C-contiguous uint64 of shape ``(blocks, k*N+1)``, the least significant block first; mask words, then the body.

    Raises:
        WireError: another type or width, other parameters, a block with carries or more noise than a fresh one,
            malformed bytes, or bytes left over.
    """
    count = kind.block_count(bits, parameters)
    found, is_compressed = _form(data)
    if found is not kind:
        raise WireError("ciphertext", f"expected {kind.value} or Compressed{kind.value}, got {read_name(data)}")
    if is_compressed:
        return _read_compressed(data, parameters, kind, count)
    words = _layout(parameters, kind).read(data, count)
    # Anything but a list of fresh blocks goes the long way, which finds out what is special or wrong.
    return words if words is not None else _read_plain(data, parameters, kind, count)


def describe(data: bytes) -> Description:
    """Say what a ciphertext is, under whatever parameters; of its blocks the first one speaks for all.

    Raises:
        WireError: if the bytes are no ciphertext of an integer or boolean.
    """
    kind, is_compressed = _form(data)
    if is_compressed:
        compressed = read_object(data, _COMPRESSED[kind])
        seeded = _seeded_blocks(compressed)
        dimensions = [block.ct.lwe_size - 1 for block in seeded[:1]]
        blocks: tuple[Block, ...] | tuple[SeededBlock, ...] = seeded
        tag = compressed.tag
    else:
        plain = read_object(data, _PLAIN[kind])
        blocks = _blocks(plain)
        dimensions = [block.ct.data.size - 1 for block in blocks[:1]]
        tag = plain.tag
    if not blocks:
        raise WireError(kind.value, "expected at least one block, got none")
    first = blocks[0]
    return Description(kind, is_compressed, len(blocks), dimensions[0], first.message_modulus, first.carry_modulus, tag)


def _form(data: bytes) -> tuple[CiphertextKind, bool]:
    name = read_name(data)
    form = _FORMS.get(name)
    if form is None:
        raise WireError("ciphertext", f"expected one of {', '.join(_FORMS)}, got {name!a}")
    return form


def _blocks(value: Plain) -> tuple[Block, ...]:
    return (value.ciphertext,) if isinstance(value, FheBool) else value.ciphertext


def _seeded_blocks(value: Compressed) -> tuple[SeededBlock, ...]:
    inner = value.ciphertext
    if isinstance(inner, SeededRadix):
        return inner.blocks
    if isinstance(inner, SeededBlock):
        return (inner,)
    raise WireError(type(value).__name__, "expected seeded blocks, got modulus-switched ones, which need a bootstrap")


def _read_plain(data: bytes, parameters: ClassicParameters, kind: CiphertextKind, count: int) -> NDArray[np.uint64]:
    blocks = _blocks(read_object(data, _PLAIN[kind]))
    _check_count(blocks, kind, count)
    for index, block in enumerate(blocks):
        name = f"{kind.value} block {index}"
        if not block.ct.ciphertext_modulus.is_native():
            raise WireError(name, f"expected the modulus 2^64, got {block.ct.ciphertext_modulus}")
        _check_block(name, block, block.ct.data.size - 1, parameters, kind)
    return np.array([block.ct.data for block in blocks], dtype=np.uint64)


def _read_compressed(
    data: bytes, parameters: ClassicParameters, kind: CiphertextKind, count: int
) -> NDArray[np.uint64]:
    blocks = _seeded_blocks(read_object(data, _COMPRESSED[kind]))
    _check_count(blocks, kind, count)
    for index, block in enumerate(blocks):
        name = f"Compressed{kind.value} block {index}"
        if not block.ct.ciphertext_modulus.is_native():
            raise WireError(name, f"expected the modulus 2^64, got {block.ct.ciphertext_modulus}")
        _check_block(name, block, block.ct.lwe_size - 1, parameters, kind)
    words = np.empty((count, parameters.big_lwe_dimension + 1), dtype=np.uint64)
    for index, block in enumerate(blocks):  # every block has an AES key of its own
        body = np.array([[block.ct.data]], dtype=np.uint64)
        words[index] = expand(block.ct.compression_seed, body, parameters.big_lwe_dimension)[0]
    return words


def _check_count(blocks: tuple[object, ...], kind: CiphertextKind, count: int) -> None:
    if len(blocks) != count:
        raise WireError(kind.value, f"expected {count} blocks, got {len(blocks)}")


def _check_block(
    name: str, block: Block | SeededBlock, dimension: int, parameters: ClassicParameters, kind: CiphertextKind
) -> None:
    expected = (parameters.big_lwe_dimension, parameters.message_modulus, parameters.carry_modulus)
    got = (dimension, block.message_modulus, block.carry_modulus)
    if got != expected:
        raise WireError(name, f"expected LWE dimension, message and carry modulus {expected}, got {got}")
    if block.atomic_pattern is not PBSOrder.KEYSWITCH_BOOTSTRAP:
        raise WireError(name, "expected the standard atomic pattern, keyswitch then bootstrap")
    if block.degree > kind.max_degree(parameters):
        raise WireError(name, f"expected a degree of at most {kind.max_degree(parameters)}, got {block.degree}")
    if block.noise_level > NOMINAL_NOISE_LEVEL:
        raise WireError(name, f"expected a noise level of at most {NOMINAL_NOISE_LEVEL}, got {block.noise_level}")


# ------------------------------------------------------------------------------------------------ writing
def write_ciphertext(
    blocks: NDArray[np.uint64],
    parameters: ClassicParameters,
    kind: CiphertextKind,
    bits: int,
    tag: bytes,
) -> bytes:
    """Write bootstrapped blocks as every TFHE-rs release from 1.5 on reads them, with the marks of a fresh ciphertext.

    Args:
        blocks: shape ``(blocks, k*N+1)``, the least significant block first.
        parameters: what the blocks are encrypted under.
        kind: the family of types.
        bits: the width in bits.
        tag: the server key's tag.

    Raises:
        ValueError: if the shape is not that of the type.
    """
    shape = (kind.block_count(bits, parameters), parameters.big_lwe_dimension + 1)
    if blocks.shape != shape:
        raise ValueError(f"blocks of {kind.value} with {bits} bits have shape {shape}, got {blocks.shape}")
    return _layout(parameters, kind).write(blocks, tag)


def trivial_blocks(value: int, blocks: int, parameters: ClassicParameters) -> NDArray[np.uint64]:
    """Encode a public value without noise: zero masks, and the digits as bodies.

    Args:
        value: negative values are two's complement; the value is reduced to the width.
        blocks: how many; the least significant comes first.
        parameters: give the shape ``(blocks, k*N+1)`` and the scaling factor.
    """
    base_log2 = (parameters.message_modulus - 1).bit_length()
    width = -(-blocks * base_log2 // 8)
    reduced = value % (1 << (blocks * base_log2))
    bits = np.unpackbits(np.frombuffer(reduced.to_bytes(width, "little"), np.uint8), bitorder="little")
    digits = bits[: blocks * base_log2].reshape(blocks, base_log2).astype(np.uint64)
    weights = np.uint64(1) << (np.arange(base_log2, dtype=np.uint64) + np.uint64(parameters.delta_log2))
    words = np.zeros((blocks, parameters.big_lwe_dimension + 1), dtype=np.uint64)
    words[:, -1] = digits @ weights
    return words


# ------------------------------------------------------------------------------------------------ the layout
@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the words of fresh blocks are: all blocks have the same framing, so that whole arrays can be copied."""

    prefix: bytes
    """Header and tags; integers go on with the count of blocks."""
    has_count: bool
    block: np.dtype[np.void]
    """Fields ``before``, ``words`` and ``after``."""
    framing: NDArray[np.void]
    """One block with zero words."""

    def read(self, data: bytes, count: int) -> NDArray[np.uint64] | None:
        """Return the words, or None if these are not ``count`` fresh blocks and nothing else."""
        prefix = self._prefix(count)
        start = len(prefix)
        end = start + count * self.block.itemsize
        if len(data) < end or data[:start] != prefix:
            return None
        blocks = np.frombuffer(data, self.block, count, start)
        for name in ("before", "after"):
            if not (blocks[name] == self.framing[name]).all():
                return None
        reader = Reader(data)
        reader.position = end
        _TAG.decode(reader)
        _METADATA.decode(reader)
        if reader.position != reader.end:
            return None
        # A copy even of a single block: the bytes are not aligned, and native code takes aligned words only.
        return np.array(blocks["words"], dtype=np.uint64, order="C")

    def write(self, blocks: NDArray[np.uint64], tag: bytes) -> bytes:
        """Frame the words of fresh blocks."""
        framed = np.repeat(self.framing, len(blocks))
        framed["words"] = blocks
        writer = Writer(Release.V1_5)
        writer.parts += [self._prefix(len(blocks)), framed.view(np.uint8).data]
        _TAG.encode(writer, tag)
        _METADATA.encode(writer, b"")
        return b"".join(writer.parts)

    def _prefix(self, count: int) -> bytes:
        return self.prefix + count.to_bytes(8, "little") if self.has_count else self.prefix


_TAG: Final = codec_of(Tag)
_METADATA: Final = _TAG  # the same bytes: a tagged byte string


@lru_cache(maxsize=64)
def _layout(parameters: ClassicParameters, kind: CiphertextKind) -> _Layout:
    """Learn the framing from what the codec writes for one block, which keeps one description of the format."""
    size = parameters.big_lwe_dimension + 1
    block = Block(
        LweCiphertext(np.zeros(size, np.uint64), NATIVE_MODULUS),
        degree=kind.max_degree(parameters),
        noise_level=NOMINAL_NOISE_LEVEL,
        message_modulus=parameters.message_modulus,
        carry_modulus=parameters.carry_modulus,
        atomic_pattern=PBSOrder.KEYSWITCH_BOOTSTRAP,
    )
    writer = Writer(Release.V1_5)
    codec_of(Block).encode(writer, block)
    framing = b"".join(writer.parts)
    # A block is the struct's tag, the ciphertext's tag and the count of words, then the words.
    before = 4 + 4 + 8
    after = len(framing) - before - 8 * size
    dtype = np.dtype([("before", "u1", (before,)), ("words", "<u8", (size,)), ("after", "u1", (after,))])
    if kind is CiphertextKind.BOOL:
        whole, has_count = write_object(FheBool(block, b"", b"")), False
    else:
        cls = FheUint if kind is CiphertextKind.UINT else FheInt
        whole, has_count = write_object(cls((block,), b"", b"")), True
    prefix = whole[: whole.index(framing) - 8 * has_count]
    return _Layout(prefix, has_count, dtype, np.frombuffer(framing, dtype))
