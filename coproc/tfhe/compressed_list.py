"""Compressed lists: values packed for storage, TFHE-rs ``CompressedCiphertextList``.

Decides the format, and which lists can be taken apart under given parameters. What is read are LWE ciphertexts under
the key of compression, which a bootstrap brings back; ``coproc.executors.compression`` decides how values are packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.compact_list import MAX_CIPHERTEXTS, ListedValue, listed_values
from coproc.tfhe.parameters import TORUS_BITS
from coproc.tfhe.wire import WireError, read_name, read_object, write_object
from coproc.tfhe.wire.ciphertexts import (
    BlockCompressedList,
    BooleanKind,
    CompressedCiphertextList,
    CompressedListMeta,
    IntegerCompressedList,
    PackedGlwe,
    SignedKind,
    UnsignedKind,
)
from coproc.tfhe.wire.core import NATIVE_MODULUS, PackedIntegers, PBSOrder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.tfhe.parameters import ClassicParameters, CompressionParameters
    from coproc.tfhe.wire.ciphertexts import DataKind

_NAME: Final = "CompressedCiphertextList"


@dataclass(frozen=True, slots=True, eq=False)
class CompressedList:
    """A list written out."""

    values: tuple[ListedValue, ...]
    ciphertexts: NDArray[np.uint64]
    """Shape ``(blocks, k'*N' + 1)``: LWE ciphertexts under the key of compression, all messages times 4."""
    tag: bytes


def is_compressed_list(data: bytes) -> bool:
    """Whether bytes say that they are a compressed list."""
    try:
        return read_name(data) == _NAME
    except WireError:
        return False


def read_compressed_list(
    data: bytes, parameters: ClassicParameters, compression: CompressionParameters
) -> CompressedList:
    """Read a list and take its blocks out, still under the key of compression.

    Raises:
        WireError: malformed bytes, other parameters, strings, too many values, or counts that contradict each other.
    """
    value = read_object(data, CompressedCiphertextList)
    packed, meta = value.inner.packed_list.modulus_switched_glwe_ciphertext_list, value.inner.packed_list.meta
    values = listed_values(_NAME, value.inner.info, parameters)
    blocks = values[-1].first_block + values[-1].blocks if values else 0
    if blocks > MAX_CIPHERTEXTS:
        raise WireError(_NAME, f"expected at most {MAX_CIPHERTEXTS} blocks, got {blocks}")
    parts = [np.empty((0, compression.lwe_dimension + 1), dtype=np.uint64)]
    if packed or meta is not None:
        _check_meta(meta, parameters, compression)
    each = compression.lwe_per_glwe
    counts = [min(each, blocks - start) for start in range(0, blocks, each)]
    if [glwe.bodies_count for glwe in packed] != counts:
        raise WireError(_NAME, f"expected packed ciphertexts of {counts} blocks")
    for index, glwe in enumerate(packed):
        parts.append(_extract(_words(f"{_NAME} part {index}", glwe, compression), compression))
    return CompressedList(values, np.concatenate(parts), value.tag)


def read_single_value(
    data: bytes, parameters: ClassicParameters, compression: CompressionParameters, kind: CiphertextKind, bits: int
) -> NDArray[np.uint64]:
    """Read a list of one value of this type: its blocks, shape ``(blocks, k'*N' + 1)``. Raises WireError."""
    found = read_compressed_list(data, parameters, compression)
    if [(value.kind, value.bits) for value in found.values] != [(kind, bits)]:
        raise WireError(_NAME, f"expected one value of type {kind.value} with {bits} bits")
    return found.ciphertexts


def _check_meta(
    meta: CompressedListMeta | None, parameters: ClassicParameters, compression: CompressionParameters
) -> None:
    if meta is None or not meta.ciphertext_modulus.is_native() or meta.atomic_pattern != PBSOrder.KEYSWITCH_BOOTSTRAP:
        raise WireError(_NAME, "expected blocks modulo 2^64, of keyswitch then bootstrap")
    got = (meta.message_modulus, meta.carry_modulus, meta.lwe_per_glwe)
    expected = (parameters.message_modulus, parameters.carry_modulus, compression.lwe_per_glwe)
    if got != expected:
        raise WireError(_NAME, f"expected message and carry modulus and blocks together {expected}, got {got}")


def _words(name: str, glwe: PackedGlwe, compression: CompressionParameters) -> NDArray[np.uint64]:
    """Unpack the words of a ciphertext, each brought back to the upper bits."""
    bits, count = compression.storage_log_modulus, compression.lwe_dimension + glwe.bodies_count
    packed = glwe.packed_integers
    got = (glwe.glwe_dimension, glwe.polynomial_size, packed.log_modulus, packed.initial_len)
    expected = (compression.glwe_dimension, compression.polynomial_size, bits, count)
    if got != expected or not glwe.uncompressed_ciphertext_modulus.is_native():
        raise WireError(name, f"expected dimension, size, bits and words {expected}, got {got}")
    if packed.packed_coeffs.size != -(-count * bits // TORUS_BITS):
        raise WireError(name, f"expected {-(-count * bits // TORUS_BITS)} packed words")
    stream = np.unpackbits(packed.packed_coeffs.astype("<u8").view(np.uint8), bitorder="little")[: count * bits]
    weights = np.uint64(1) << np.arange(bits, dtype=np.uint64)
    return (stream.reshape(count, bits).astype(np.uint64) @ weights) << np.uint64(TORUS_BITS - bits)


def _extract(words: NDArray[np.uint64], compression: CompressionParameters) -> NDArray[np.uint64]:
    """Take the coefficients out: number i has the mask ``a_i, a_(i-1), ..., a_0, -a_(N-1), ..., -a_(i+1)``."""
    size, dimension = compression.polynomial_size, compression.lwe_dimension
    masks, bodies = words[:dimension].reshape(-1, size), words[dimension:]
    degree = np.subtract.outer(np.arange(len(bodies)), np.arange(size))
    taken = masks[:, degree % size]
    taken = np.where(degree < 0, np.uint64(0) - taken, taken)
    result = np.empty((len(bodies), dimension + 1), dtype=np.uint64)
    result[:, :-1] = taken.transpose(1, 0, 2).reshape(len(bodies), dimension)
    result[:, -1] = bodies
    return result


def write_compressed_list(
    packed: Sequence[NDArray[np.uint64]],
    kinds: Sequence[tuple[CiphertextKind, int]],
    parameters: ClassicParameters,
    compression: CompressionParameters,
    tag: bytes,
) -> bytes:
    """Write packed ciphertexts as TFHE-rs does.

    Args:
        packed: of each ciphertext ``k'*N'`` mask words, then a body word a block; only the upper bits are kept.
        kinds: family and number of blocks of each value, in order.
        parameters: of the compute key.
        compression: of the key.
        tag: of the key.
    """
    if not packed:
        raise WireError(_NAME, "expected at least one block, got none")
    bits = compression.storage_log_modulus
    parts = tuple(
        PackedGlwe(
            PackedIntegers(_pack(words, bits), bits, len(words)),
            compression.glwe_dimension,
            compression.polynomial_size,
            len(words) - compression.lwe_dimension,
            NATIVE_MODULUS,
        )
        for words in packed
    )
    meta = CompressedListMeta(
        NATIVE_MODULUS,
        parameters.message_modulus,
        parameters.carry_modulus,
        PBSOrder.KEYSWITCH_BOOTSTRAP,
        compression.lwe_per_glwe,
    )
    info = tuple(_data_kind(kind, blocks) for kind, blocks in kinds)
    inner = IntegerCompressedList(BlockCompressedList(parts, meta), info)
    return write_object(CompressedCiphertextList(inner, tag, (b"",) * len(info)))


def _data_kind(kind: CiphertextKind, blocks: int) -> DataKind:
    if kind is CiphertextKind.BOOL:
        return BooleanKind()
    return UnsignedKind(blocks) if kind is CiphertextKind.UINT else SignedKind(blocks)


def _pack(words: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Round words to their upper bits, halves up, and put these one behind another."""
    half = np.uint64(1 << (TORUS_BITS - bits - 1))
    kept = (words + half) >> np.uint64(TORUS_BITS - bits)
    stream = np.packbits(
        ((kept[:, np.newaxis] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)).astype(np.uint8), bitorder="little"
    )
    padded = np.zeros(-(-len(stream) // 8) * 8, dtype=np.uint8)
    padded[: len(stream)] = stream
    return padded.view("<u8").astype(np.uint64)
