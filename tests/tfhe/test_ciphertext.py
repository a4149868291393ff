"""Ciphertexts between bytes and blocks: what is read, what is written, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coproc.tfhe.ciphertext import CiphertextKind, describe, read_ciphertext, trivial_blocks, write_ciphertext
from coproc.tfhe.csprng import mask_words
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2
from coproc.tfhe.wire import Release, WireError, read_object, write_object
from coproc.tfhe.wire.ciphertexts import (
    Block,
    CompressedFheBool,
    CompressedFheInt,
    CompressedFheUint,
    FheBool,
    FheInt,
    FheUint,
    ModulusSwitchedBlock,
    ModulusSwitchedLwe,
    SeededBlock,
    SeededRadix,
)
from coproc.tfhe.wire.core import NATIVE_MODULUS, CiphertextModulus, PackedIntegers, PBSOrder, SeededLweCiphertext
from coproc.tfhe.wire.parameters import KeySwitch32Pattern
from tests.tfhe.serverkeys import seed

BOOL, UINT, INT = CiphertextKind.BOOL, CiphertextKind.UINT, CiphertextKind.INT
TYPES = [(BOOL, 1), (UINT, 2), (UINT, 8), (UINT, 160), (UINT, 2048), (INT, 8), (INT, 256)]


def random_blocks(kind: CiphertextKind, bits: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    shape = (kind.block_count(bits, TOY_2_2), TOY_2_2.big_lwe_dimension + 1)
    return np.random.default_rng(bits).integers(0, 1 << 64, shape, dtype=np.uint64)


@pytest.mark.parametrize(("kind", "bits"), TYPES)
def test_blocks_survive_writing_and_reading(kind: CiphertextKind, bits: int) -> None:
    blocks = random_blocks(kind, bits)
    data = write_ciphertext(blocks, TOY_2_2, kind, bits, b"a tag")
    read = read_ciphertext(data, TOY_2_2, kind, bits)
    assert np.array_equal(read, blocks)
    assert read.dtype == np.uint64
    assert read.flags.c_contiguous
    assert read.flags.aligned
    described = describe(data)
    assert (described.kind, described.blocks, described.tag) == (kind, len(blocks), b"a tag")
    assert (described.is_compressed, described.lwe_dimension) == (False, 512)


@pytest.mark.parametrize(("kind", "bits"), TYPES)
def test_what_is_written_is_what_the_schema_says(kind: CiphertextKind, bits: int) -> None:
    """The fast way and the codec agree on every byte, and results carry the marks of fresh ciphertexts."""
    blocks = random_blocks(kind, bits)
    data = write_ciphertext(blocks, TOY_2_2, kind, bits, b"t")
    value = read_object(data, {BOOL: FheBool, UINT: FheUint, INT: FheInt}[kind])
    assert write_object(value) == data
    assert value.tag == b"t"
    inner = (value.ciphertext,) if isinstance(value, FheBool) else value.ciphertext
    for block, words in zip(inner, blocks, strict=True):
        assert np.array_equal(block.ct.data, words)
        assert (block.degree, block.noise_level) == (1 if kind is BOOL else 3, 1)
        assert (block.message_modulus, block.carry_modulus) == (4, 4)
        assert block.atomic_pattern is PBSOrder.KEYSWITCH_BOOTSTRAP


def test_the_sizes_are_those_of_tfhe_rs() -> None:
    """Measured with node-tfhe for the set of fhevm."""
    for kind, bits, size in ((BOOL, 1, 16593), (UINT, 8, 66101), (UINT, 160, 1320101), (UINT, 256, 2112101)):
        blocks = trivial_blocks(0, kind.block_count(bits, V1_5_2_2), V1_5_2_2)
        assert len(write_ciphertext(blocks, V1_5_2_2, kind, bits, b"")) == size


def seeded(kind: CiphertextKind, count: int, release: Release) -> tuple[bytes, list[SeededBlock]]:
    blocks = [
        SeededBlock(
            SeededLweCiphertext(1000 + i, 513, seed(i), NATIVE_MODULUS),
            1 if kind is BOOL else 3,
            4,
            4,
            PBSOrder.KEYSWITCH_BOOTSTRAP,
            1,
        )
        for i in range(count)
    ]
    if kind is BOOL:
        return write_object(CompressedFheBool(blocks[0], b"tag"), release), blocks
    cls = CompressedFheUint if kind is UINT else CompressedFheInt
    return write_object(cls(SeededRadix(tuple(blocks)), b"tag"), release), blocks


@pytest.mark.parametrize("release", Release)
@pytest.mark.parametrize(("kind", "bits"), [(BOOL, 1), (UINT, 16), (INT, 8)])
def test_seeded_ciphertexts_are_written_out(kind: CiphertextKind, bits: int, release: Release) -> None:
    count = kind.block_count(bits, TOY_2_2)
    data, _ = seeded(kind, count, release)
    blocks = read_ciphertext(data, TOY_2_2, kind, bits)
    assert blocks.shape == (count, 513)
    for i, words in enumerate(blocks):
        assert np.array_equal(words[:-1], mask_words(seed(i), 0, 512))
        assert words[-1] == 1000 + i
    described = describe(data)
    assert (described.kind, described.blocks, described.is_compressed) == (kind, count, True)


# ------------------------------------------------------------------------------------------------ trivial
@pytest.mark.parametrize("bits", [2, 8, 64, 160, 256])
def test_trivial_blocks_hold_the_digits(bits: int) -> None:
    value = int.from_bytes(np.random.default_rng(bits).bytes(32)) % (1 << bits)
    blocks = trivial_blocks(value, bits // 2, TOY_2_2)
    assert blocks.shape == (bits // 2, 513)
    assert not blocks[:, :-1].any()
    assert sum(int(body >> np.uint64(59)) << (2 * i) for i, body in enumerate(blocks[:, -1])) == value
    assert not (blocks[:, -1] & np.uint64((1 << 59) - 1)).any()


def test_trivial_values_are_reduced_to_the_width() -> None:
    assert np.array_equal(trivial_blocks(-1, 4, TOY_2_2), trivial_blocks(255, 4, TOY_2_2))
    assert np.array_equal(trivial_blocks(-128, 4, TOY_2_2), trivial_blocks(128, 4, TOY_2_2))
    assert np.array_equal(trivial_blocks(257, 4, TOY_2_2), trivial_blocks(1, 4, TOY_2_2))
    assert (trivial_blocks(1, 1, TOY_2_2)[0, -1]) == 1 << 59


# ------------------------------------------------------------------------------------------------ refusals
def changed(**changes: object) -> bytes:
    """A FheUint8 with one field of block 2 changed."""
    value = read_object(write_ciphertext(random_blocks(UINT, 8), TOY_2_2, UINT, 8, b""), FheUint)
    blocks = list(value.ciphertext)
    blocks[2] = replace(blocks[2], **changes)  # type: ignore[arg-type]
    return write_object(replace(value, ciphertext=tuple(blocks)))


def lwe(**changes: object) -> object:
    value = read_object(write_ciphertext(random_blocks(UINT, 8), TOY_2_2, UINT, 8, b""), FheUint)
    return replace(value.ciphertext[0].ct, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(degree=4), "FheUint block 2: expected a degree of at most 3, got 4"),
        (changed(noise_level=2), "FheUint block 2: expected a noise level of at most 1, got 2"),
        (changed(noise_level=(1 << 64) - 1), "noise level of at most 1"),
        (changed(message_modulus=2), "FheUint block 2: expected LWE dimension, message and carry modulus"),
        (changed(carry_modulus=8), "message and carry modulus"),
        (changed(atomic_pattern=PBSOrder.BOOTSTRAP_KEYSWITCH), "expected the standard atomic pattern"),
        (changed(atomic_pattern=KeySwitch32Pattern()), "expected the standard atomic pattern"),
        (changed(ct=lwe(data=np.zeros(500, np.uint64))), "got \\(499, 4, 4\\)"),
        (changed(ct=lwe(data=np.zeros(0, np.uint64))), "got \\(-1, 4, 4\\)"),
        (changed(ct=lwe(ciphertext_modulus=CiphertextModulus(0, 128))), "expected the modulus 2\\^64"),
        (changed() + b"\0", "expected the end, got 1 more bytes"),
        (changed()[:-1], "more bytes"),
    ],
)
def test_blocks_that_cannot_be_computed_on_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        read_ciphertext(data, TOY_2_2, UINT, 8)


def test_less_degree_and_noise_than_fresh_is_fine() -> None:
    """Trivial encryptions have noise level 0, and a degree as low as their value."""
    plain = read_ciphertext(changed(), TOY_2_2, UINT, 8)
    for data in (changed(degree=0, noise_level=0), changed(degree=2)):
        assert np.array_equal(read_ciphertext(data, TOY_2_2, UINT, 8), plain)


@pytest.mark.parametrize(
    ("kind", "bits", "message"),
    [
        (UINT, 16, "FheUint: expected 8 blocks, got 4"),
        (UINT, 4, "FheUint: expected 2 blocks, got 4"),
        (INT, 8, "expected FheInt or CompressedFheInt, got FheUint"),
        (BOOL, 1, "expected FheBool or CompressedFheBool, got FheUint"),
        (UINT, 7, "expected a positive multiple of 2 bits, got 7"),
        (UINT, 0, "expected a positive multiple of 2 bits, got 0"),
        (UINT, -8, "expected a positive multiple of 2 bits, got -8"),
        (BOOL, 2, "a boolean has 1 bit, got 2"),
    ],
)
def test_other_types_are_refused(kind: CiphertextKind, bits: int, message: str) -> None:
    with pytest.raises(WireError, match=message):
        read_ciphertext(changed(), TOY_2_2, kind, bits)


def test_other_parameters_are_refused() -> None:
    with pytest.raises(WireError, match=r"expected LWE dimension, .* \(2048, 4, 4\), got \(512, 4, 4\)"):
        read_ciphertext(changed(), V1_5_2_2, UINT, 8)


def test_other_objects_are_refused() -> None:
    data = changed().replace(b"FheUint", b"FheOint")
    for call in (lambda: read_ciphertext(data, TOY_2_2, UINT, 8), lambda: describe(data)):
        with pytest.raises(WireError, match="expected one of FheBool, FheUint, FheInt, CompressedFheBool"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degree": 4}, "CompressedFheUint block 0: expected a degree of at most 3"),
        ({"noise_level": 3}, "noise level"),
        ({"carry_modulus": 1}, "carry modulus"),
        ({"ct": SeededLweCiphertext(1, 500, seed(1), NATIVE_MODULUS)}, r"got \(499, 4, 4\)"),
        ({"ct": SeededLweCiphertext(1, 1 << 20, seed(1), NATIVE_MODULUS)}, r"got \(1048575, 4, 4\)"),
        ({"ct": SeededLweCiphertext(1, 513, seed(1), CiphertextModulus(0, 32))}, "expected the modulus 2"),
    ],
)
def test_seeded_blocks_are_checked_alike(change: dict[str, object], message: str) -> None:
    _, blocks = seeded(UINT, 4, Release.V1_6)
    blocks[0] = replace(blocks[0], **change)  # type: ignore[arg-type]
    data = write_object(CompressedFheUint(SeededRadix(tuple(blocks)), b""), Release.V1_6)
    with pytest.raises(WireError, match=message):
        read_ciphertext(data, TOY_2_2, UINT, 8)


def test_modulus_switched_ciphertexts_are_refused_in_words() -> None:
    packed = PackedIntegers(np.zeros(6, np.uint64), 10, 33)
    block = ModulusSwitchedBlock(ModulusSwitchedLwe(packed, 32), 1, 4, 4, PBSOrder.KEYSWITCH_BOOTSTRAP)
    with pytest.raises(WireError, match="got modulus-switched ones, which need a bootstrap"):
        read_ciphertext(write_object(CompressedFheBool(block, b"")), TOY_2_2, BOOL, 1)


def test_an_integer_without_blocks_is_no_ciphertext() -> None:
    with pytest.raises(WireError, match="at least one block"):
        describe(write_object(FheUint((), b"", b"")))
    with pytest.raises(WireError, match="expected 4 blocks, got 0"):
        read_ciphertext(write_object(FheUint((), b"", b"")), TOY_2_2, UINT, 8)


def test_metadata_for_re_randomisation_is_let_through() -> None:
    value = read_object(changed(), FheUint)
    data = write_object(replace(value, re_randomization_metadata=b"opaque", tag=b"x" * 100))
    assert np.array_equal(read_ciphertext(data, TOY_2_2, UINT, 8), read_ciphertext(changed(), TOY_2_2, UINT, 8))


def test_writing_checks_the_shape() -> None:
    for blocks in (random_blocks(UINT, 16), random_blocks(UINT, 8)[:, 1:], random_blocks(UINT, 8)[0]):
        with pytest.raises(ValueError, match="have shape"):
            write_ciphertext(blocks, TOY_2_2, UINT, 8, b"")


def test_blocks_are_the_same_object_to_the_codec() -> None:
    """A boolean is one block without a count, whatever its degree field says."""
    blocks = random_blocks(BOOL, 1)
    value = read_object(write_ciphertext(blocks, TOY_2_2, BOOL, 1, b""), FheBool)
    assert isinstance(value.ciphertext, Block)
    with pytest.raises(WireError, match="degree of at most 1, got 3"):
        read_ciphertext(write_object(replace(value, ciphertext=replace(value.ciphertext, degree=3))), TOY_2_2, BOOL, 1)
