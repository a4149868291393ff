"""Compact lists: many values under a compact public key, read as LWE ciphertexts.

Decides which lists can be used as they are, and which need the casting key: what node-tfhe makes is always under the
key of the compact public key, and each of its blocks must be keyswitched with the casting key and bootstrapped before
it can be computed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.wire import WireError, read_name, read_object
from coproc.tfhe.wire.ciphertexts import (
    BooleanKind,
    CompactCiphertextList,
    ProvenCompactCiphertextList,
    SignedKind,
    UnsignedKind,
)
from coproc.tfhe.wire.core import PBSOrder
from coproc.tfhe.wire.parameters import NoCasting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.tfhe.parameters import ClassicParameters
    from coproc.tfhe.wire.ciphertexts import BlockCompactList, DataKind
    from coproc.tfhe.wire.core import LweCompactCiphertextList


MAX_CIPHERTEXTS: Final = 4096
"""Bound of one list: 8 bytes on the wire unfold into a ciphertext of 16 KiB, so 64 MiB; fhevm allows 512."""


@dataclass(frozen=True, slots=True)
class ListedValue:
    """One value of a list: its type, and which of the list's blocks are its."""

    kind: CiphertextKind
    bits: int
    first_block: int
    blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class CompactList:
    """A list written out."""

    values: tuple[ListedValue, ...]
    is_packed: bool
    """Whether ciphertext i holds block ``2i`` plus 4 times block ``2i+1`` of the whole list."""
    requires_casting: bool
    """Whether the ciphertexts are under the compact key, not the compute key."""
    ciphertexts: NDArray[np.uint64]
    """Shape ``(count, dimension + 1)``: LWE ciphertexts, mask then body."""
    tag: bytes
    is_proven: bool = False
    """Whether proofs came with it, which nobody has verified."""


def read_compact_list(data: bytes, parameters: ClassicParameters, *, accept_proven: bool = False) -> CompactList:
    """Read a ``CompactCiphertextList`` and write out its ciphertexts; about 16 KiB each for the published set.

    Args:
        data: the serialized list.
        parameters: of the compute key, with the dimension of the compact key.
        accept_proven: read a ``ProvenCompactCiphertextList`` too, *without verifying its proofs*.

    Raises:
        WireError: malformed bytes, other parameters, strings, too many values, or counts that contradict each other; a
            proven list, unless it is accepted.
    """
    name = read_name(data)
    is_proven = name == "ProvenCompactCiphertextList"
    if is_proven and not accept_proven:
        raise WireError(name, "expected a CompactCiphertextList; proofs are not verified here")
    if is_proven:
        proven = read_object(data, ProvenCompactCiphertextList)
        pieces = tuple(piece for piece, _ in proven.inner.ct_list.proved_lists)
        info, tag = proven.inner.info, proven.tag
    else:
        value = read_object(data, CompactCiphertextList)
        pieces, info, tag = (value.inner.ct_list,), value.inner.info, value.tag
    for piece in pieces:
        _check_piece(name, piece, parameters)
    if len({(piece.degree, isinstance(piece.expansion_kind, NoCasting)) for piece in pieces}) > 1:
        raise WireError(name, "expected pieces of one kind, packed or not, and under one key")
    count = sum(piece.ct_list.lwe_ciphertext_count for piece in pieces)
    if count > MAX_CIPHERTEXTS:
        raise WireError(name, f"expected at most {MAX_CIPHERTEXTS} ciphertexts, got {count}")
    values = listed_values("CompactCiphertextList", info, parameters)
    total = values[-1].first_block + values[-1].blocks if values else 0
    is_packed = bool(pieces) and pieces[0].degree == parameters.plaintext_modulus - 1
    expected_count = -(-total // 2) if is_packed else total
    if count != expected_count:
        raise WireError(name, f"expected {expected_count} ciphertexts for {total} blocks, got {count}")
    requires_casting = not pieces or not isinstance(pieces[0].expansion_kind, NoCasting)
    dimension = parameters.compact_lwe_dimension if requires_casting else parameters.big_lwe_dimension
    parts = [np.empty((0, dimension + 1), dtype=np.uint64), *[_lwe_ciphertexts(piece.ct_list) for piece in pieces]]
    ciphertexts = parts[1] if len(pieces) == 1 else np.concatenate(parts)
    return CompactList(values, is_packed, requires_casting, ciphertexts, tag, is_proven)


def _check_piece(name: str, piece: BlockCompactList, parameters: ClassicParameters) -> None:
    moduli = (piece.message_modulus, piece.carry_modulus)
    if moduli != (parameters.message_modulus, parameters.carry_modulus):
        expected = (parameters.message_modulus, parameters.carry_modulus)
        raise WireError(name, f"expected message and carry modulus {expected}, got {moduli}")
    unpacked, packed = parameters.message_modulus - 1, parameters.plaintext_modulus - 1
    if piece.degree not in {unpacked, packed}:
        raise WireError(name, f"expected degree {unpacked} or {packed} (packed), got {piece.degree}")
    kind = piece.expansion_kind
    if isinstance(kind, NoCasting) and kind.kind is not PBSOrder.KEYSWITCH_BOOTSTRAP:
        raise WireError(name, "expected the standard atomic pattern, keyswitch then bootstrap")
    dimension = parameters.big_lwe_dimension if isinstance(kind, NoCasting) else parameters.compact_lwe_dimension
    if piece.ct_list.lwe_size != dimension + 1:
        raise WireError(name, f"expected LWE dimension {dimension}, got {piece.ct_list.lwe_size - 1}")
    if not piece.ct_list.ciphertext_modulus.is_native():
        raise WireError(name, f"expected the modulus 2^64, got {piece.ct_list.ciphertext_modulus}")
    if piece.ct_list.lwe_ciphertext_count > MAX_CIPHERTEXTS:
        count = piece.ct_list.lwe_ciphertext_count
        raise WireError(name, f"expected at most {MAX_CIPHERTEXTS} ciphertexts, got {count}")


def expand_compact_list(
    data: bytes, parameters: ClassicParameters
) -> list[tuple[CiphertextKind, int, NDArray[np.uint64]]]:
    """Read a list that needs no casting key: type, width in bits, and blocks ``(blocks, k*N+1)`` of every value.

    Raises:
        WireError: as ``read_compact_list``; or the list is under the compact key (as every list of node-tfhe is), or
            packed: both need bootstraps, which happen elsewhere.
    """
    expanded = read_compact_list(data, parameters)
    if expanded.requires_casting:
        raise WireError(
            "CompactCiphertextList", "expected values under the compute key; these need the casting key and bootstraps"
        )
    if expanded.is_packed:
        raise WireError("CompactCiphertextList", "expected an unpacked list; taking pairs apart needs bootstraps")
    return [
        (value.kind, value.bits, expanded.ciphertexts[value.first_block : value.first_block + value.blocks])
        for value in expanded.values
    ]


def listed_values(name: str, info: tuple[DataKind, ...], parameters: ClassicParameters) -> tuple[ListedValue, ...]:
    """Say what the blocks of a list mean.

    Raises:
        WireError: there is a string among its values.
    """
    per_block = (parameters.message_modulus - 1).bit_length()
    values: list[ListedValue] = []
    start = 0
    for index, item in enumerate(info):
        if isinstance(item, UnsignedKind | SignedKind):
            kind = CiphertextKind.UINT if isinstance(item, UnsignedKind) else CiphertextKind.INT
            value = ListedValue(kind, item.blocks * per_block, start, item.blocks)
        elif isinstance(item, BooleanKind):
            value = ListedValue(CiphertextKind.BOOL, 1, start, 1)
        else:
            raise WireError(f"{name} value {index}", "expected an integer or boolean, got a string")
        values.append(value)
        start += value.blocks
    return tuple(values)


def _lwe_ciphertexts(packed: LweCompactCiphertextList) -> NDArray[np.uint64]:
    """Write out ciphertexts that share masks: number i of a bin has the mask ``X^i * A`` modulo ``X^n + 1``."""
    n, count = packed.lwe_size - 1, packed.lwe_ciphertext_count
    bins = -(-count // n)
    words = np.empty((count, n + 1), dtype=np.uint64)
    words[:, n] = packed.data[bins * n :]
    for index in range(bins):  # a bin has thousands of ciphertexts
        mask = packed.data[index * n : (index + 1) * n]
        in_bin = words[index * n : (index + 1) * n]
        rotations = sliding_window_view(np.concatenate([np.uint64(0) - mask, mask]), n)
        in_bin[:, :n] = rotations[n : n - len(in_bin) : -1]
    return words
