"""Compact lists are written out as LWE ciphertexts, and what they cannot be used for is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.compact_list import expand_compact_list, read_compact_list
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2
from coproc.tfhe.wire import Release, WireError, write_object
from coproc.tfhe.wire.ciphertexts import (
    BlockCompactList,
    BlockProvenList,
    BooleanKind,
    CompactCiphertextList,
    DataKind,
    FheUint,
    IntegerCompactList,
    IntegerProvenList,
    ProvenCompactCiphertextList,
    SignedKind,
    StringKind,
    UnsignedKind,
)
from coproc.tfhe.wire.core import NATIVE_MODULUS, CiphertextModulus, LweCompactCiphertextList, PBSOrder
from coproc.tfhe.wire.parameters import KeySwitch32Pattern, NoCasting, RequiresCasting

INFO = (UnsignedKind(4), BooleanKind(), SignedKind(8))


def listed(info: tuple[DataKind, ...] = INFO, *, count: int = 13, degree: int = 3) -> CompactCiphertextList:
    """Make a list of random words under toy parameters."""
    n = TOY_2_2.compact_lwe_dimension
    rng = np.random.default_rng(count)
    words = rng.integers(0, 1 << 64, -(-count // n) * n + count, dtype=np.uint64)
    inner = LweCompactCiphertextList(words, n + 1, count, NATIVE_MODULUS)
    return CompactCiphertextList(
        IntegerCompactList(BlockCompactList(inner, degree, 4, 4, RequiresCasting()), info), b"tag"
    )


def with_list(value: CompactCiphertextList, **changes: object) -> CompactCiphertextList:
    blocks = replace(value.inner.ct_list, **changes)  # type: ignore[arg-type]
    return replace(value, inner=replace(value.inner, ct_list=blocks))


def with_lwe(value: CompactCiphertextList, **changes: object) -> CompactCiphertextList:
    return with_list(value, ct_list=replace(value.inner.ct_list.ct_list, **changes))  # type: ignore[arg-type]


def negacyclic_shift(mask: np.ndarray[tuple[int], np.dtype[np.uint64]], by: int) -> list[int]:
    """Multiply by X^by the slow way: one position at a time, the word that leaves comes back negated."""
    words = [int(word) for word in mask]
    for _ in range(by):
        words = [-words[-1] % (1 << 64), *words[:-1]]
    return words


@pytest.mark.parametrize("release", Release)
def test_values_and_masks_are_taken_apart(release: Release) -> None:
    value = listed()
    read = read_compact_list(write_object(value, release), TOY_2_2)
    kinds = [(item.kind, item.bits, item.first_block, item.blocks) for item in read.values]
    assert kinds == [
        (CiphertextKind.UINT, 8, 0, 4),
        (CiphertextKind.BOOL, 1, 4, 1),
        (CiphertextKind.INT, 16, 5, 8),
    ]
    assert (read.is_packed, read.requires_casting, read.tag) == (False, True, b"tag")
    words = value.inner.ct_list.ct_list.data
    assert read.ciphertexts.shape == (13, 513)
    assert np.array_equal(read.ciphertexts[:, -1], words[512:])
    for i in (0, 1, 5, 12):
        assert read.ciphertexts[i, :-1].tolist() == negacyclic_shift(words[:512], i)


def test_long_lists_have_a_mask_for_every_bin() -> None:
    value = listed((UnsignedKind(1024), UnsignedKind(6)), count=1030)
    read = read_compact_list(write_object(value), TOY_2_2)
    words = value.inner.ct_list.ct_list.data
    assert np.array_equal(read.ciphertexts[:, -1], words[3 * 512 :])
    for i in (0, 511, 512, 1023, 1024, 1029):
        bin_index, shift = divmod(i, 512)
        mask = words[bin_index * 512 : (bin_index + 1) * 512]
        assert read.ciphertexts[i, :-1].tolist() == negacyclic_shift(mask, shift)


def test_packed_lists_have_two_blocks_to_a_ciphertext() -> None:
    read = read_compact_list(write_object(listed(count=7, degree=15)), TOY_2_2)
    assert read.is_packed
    assert read.ciphertexts.shape == (7, 513)
    assert read_compact_list(write_object(listed((), count=0)), TOY_2_2).values == ()


def test_lists_under_the_compute_key_are_expanded() -> None:
    data = write_object(with_list(listed(), expansion_kind=NoCasting(PBSOrder.KEYSWITCH_BOOTSTRAP)))
    read = read_compact_list(data, TOY_2_2)
    assert not read.requires_casting
    expanded = expand_compact_list(data, TOY_2_2)
    assert [(kind, bits) for kind, bits, _ in expanded] == [
        (CiphertextKind.UINT, 8),
        (CiphertextKind.BOOL, 1),
        (CiphertextKind.INT, 16),
    ]
    assert np.array_equal(np.concatenate([blocks for _, _, blocks in expanded]), read.ciphertexts)


def test_what_needs_more_than_reading_is_said() -> None:
    with pytest.raises(WireError, match="these need the casting key and bootstraps"):
        expand_compact_list(write_object(listed()), TOY_2_2)
    packed = with_list(listed(count=7, degree=15), expansion_kind=NoCasting(PBSOrder.KEYSWITCH_BOOTSTRAP))
    with pytest.raises(WireError, match="taking pairs apart needs bootstraps"):
        expand_compact_list(write_object(packed), TOY_2_2)
    proven = ProvenCompactCiphertextList(IntegerProvenList(BlockProvenList(()), ()), b"")
    with pytest.raises(WireError, match="proofs are not verified here"):
        read_compact_list(write_object(proven), TOY_2_2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (listed(count=12), "expected 13 ciphertexts for 13 blocks, got 12"),
        (listed(degree=15), "expected 7 ciphertexts for 13 blocks, got 13"),
        (listed(degree=7), r"expected degree 3 or 15 \(packed\), got 7"),
        (with_list(listed(), message_modulus=2), "expected message and carry modulus"),
        (listed((*INFO, StringKind(n_chars=1, padded=False))), "value 3: expected an integer or boolean, got a string"),
        (listed((UnsignedKind(1 << 16),)), "expected 65536 ciphertexts for 65536 blocks, got 13"),
        (listed((UnsignedKind(4097),), count=4097), "expected at most 4096 ciphertexts, got 4097"),
        (with_lwe(listed(), ciphertext_modulus=CiphertextModulus(0, 32)), "expected the modulus 2"),
        (with_list(listed(), expansion_kind=NoCasting(PBSOrder.BOOTSTRAP_KEYSWITCH)), "standard atomic pattern"),
        (with_list(listed(), expansion_kind=NoCasting(KeySwitch32Pattern())), "standard atomic pattern"),
    ],
)
def test_lists_that_contradict_themselves_are_refused(value: CompactCiphertextList, message: str) -> None:
    with pytest.raises(WireError, match=message):
        read_compact_list(write_object(value, Release.V1_6), TOY_2_2)


def test_other_parameters_and_objects_are_refused() -> None:
    with pytest.raises(WireError, match="expected LWE dimension 2048, got 512"):
        read_compact_list(write_object(listed()), V1_5_2_2)
    with pytest.raises(WireError, match="expected a TFHE-rs CompactCiphertextList, got 'FheUint'"):
        read_compact_list(write_object(FheUint((), b"", b"")), TOY_2_2)
    with pytest.raises(WireError, match="LweCompactCiphertextList: expected 526 words, got 525"):
        read_compact_list(write_object(with_lwe(listed(), lwe_ciphertext_count=14)), TOY_2_2)
