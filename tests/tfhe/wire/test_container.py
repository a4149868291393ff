"""Objects of every type: round trips in every release, and what is refused."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from coproc.errors import InvalidInput
from coproc.tfhe.wire import Release, WireError, read_name, read_object, write_object
from coproc.tfhe.wire.ciphertexts import (
    Block,
    BooleanKind,
    CompressedFheBool,
    FheBool,
    FheInt,
    FheUint,
    ProvenCompactCiphertextList,
    SeededBlock,
)
from coproc.tfhe.wire.compound import Absent, Converted, MultiVersioned, Struct, Variants
from coproc.tfhe.wire.container import OBJECTS
from coproc.tfhe.wire.core import NATIVE_MODULUS, CiphertextModulus, LweCiphertext, PBSOrder
from coproc.tfhe.wire.hints import codec_of
from coproc.tfhe.wire.keys import ClientKey
from coproc.tfhe.wire.proofs import HashConfig, ProofV2
from coproc.tfhe.wire.server_keys import CompressedServerKey, IntegerCompressedServerKey, LegacyReRandomizationKey
from tests.tfhe.wire.examples import example


@pytest.mark.parametrize("release", Release)
@pytest.mark.parametrize("name", OBJECTS)
def test_reading_and_writing_are_inverse(name: str, release: Release) -> None:
    rng = Random(f"{name} {release}")
    for _ in range(20):
        data = write_object(example(name, release, rng), release)
        assert read_name(data) == name
        assert write_object(read_object(data, OBJECTS[name]), release) == data


@pytest.mark.parametrize("name", OBJECTS)
def test_what_1_5_wrote_can_be_written_for_later_releases_and_back(name: str) -> None:
    rng = Random(name)
    for _ in range(20):
        old = write_object(example(name, Release.V1_5, rng), Release.V1_5)
        try:
            new = write_object(read_object(old, OBJECTS[name]), Release.V1_6)
        except WireError as error:  # an object of 1.5 always has a form in 1.6
            pytest.fail(str(error))
        assert write_object(read_object(new, OBJECTS[name]), Release.V1_7) == new
        assert write_object(read_object(new, OBJECTS[name]), Release.V1_5) == old


def test_every_variant_of_every_enum_comes_up() -> None:
    """The round trips above would prove little if some variants were never drawn."""
    seen: set[tuple[str, int]] = set()
    original = Variants.encode

    def spy(self: Variants, writer: object, value: object) -> None:
        seen.add((self.name, self.index[type(value)]))
        original(self, writer, value)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Variants, "encode", spy)
        rng = Random(7)
        for name in OBJECTS:
            for _ in range(60):
                write_object(example(name, Release.V1_7, rng), Release.V1_7)
    every = {(variants.name, i) for variants in _all_variants() for i in range(len(variants.variants))}
    assert len(every) > 40
    assert seen == every


def _all_variants() -> list[Variants]:
    """Collect the enums that the newest layouts reach."""
    found: list[Variants] = []
    visited: set[int] = set()
    waiting: list[object] = [codec_of(cls) for cls in OBJECTS.values()]
    while waiting:
        codec = waiting.pop()
        if id(codec) in visited:
            continue
        visited.add(id(codec))
        if isinstance(codec, Variants):
            found.append(codec)
            waiting += codec.variants
        elif isinstance(codec, Struct):
            waiting += [inner for _, inner in codec.fields]
        elif isinstance(codec, MultiVersioned):
            waiting.append(codec.layouts[codec.written[Release.V1_7]])
        elif not isinstance(codec, Absent | Converted):
            waiting += getattr(codec, "elements", ())
            waiting += [part for name in ("inner", "element") if (part := getattr(codec, name, None)) is not None]
    return found


# ------------------------------------------------------------------------------------------------ refusals
def fresh(cls: type[FheUint | FheInt] = FheUint) -> bytes:
    block = Block(
        LweCiphertext(np.arange(4, dtype=np.uint64), NATIVE_MODULUS), 3, 1, 4, 4, PBSOrder.KEYSWITCH_BOOTSTRAP
    )
    return write_object(cls((block, block), b"tag", b""))


def test_vectors_are_views_of_the_bytes() -> None:
    data = fresh()
    words = read_object(data, FheUint).ciphertext[0].ct.data
    assert not words.flags.owndata
    assert not words.flags.writeable
    assert np.shares_memory(words, np.frombuffer(data, np.uint8))


def test_another_type_is_refused_by_name() -> None:
    with pytest.raises(WireError, match="expected a TFHE-rs FheInt, got 'FheUint'"):
        read_object(fresh(), FheInt)


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(WireError, match="FheUint: expected the end, got 1 more bytes at byte"):
        read_object(fresh() + b"\0", FheUint)


def test_every_truncation_is_refused() -> None:
    data = fresh()
    for length in range(len(data)):
        with pytest.raises(WireError):
            read_object(data[:length], FheUint)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "safe_serialize header version: expected 11 more bytes, got 0 at byte 0"),
        (b"\xff" * 200, "expected the string '0.5'; is this a safe_serialize object?"),
        (fresh()[:11] + b"\1" + fresh()[12:], r"versioning mode: expected 0 \(versioned\), got 1 at byte 11"),
        (fresh()[:15] + b"\4" + fresh()[16:], "versioning scheme: expected the string '0.1'"),
        (fresh()[:26] + b"\xff" * 8 + fresh()[34:], "type name: expected 18446744073709551615 elements"),
        (fresh().replace(b"high_level_api", b"high_level_xxx"), "type name: expected high_level_api::..., got"),
        (fresh()[:57] + b"\7" + fresh()[58:], "FheUint: expected version tag 2, got 7 at byte 57"),
    ],
)
def test_broken_headers_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        read_object(data, FheUint)


def test_counts_are_checked_before_anything_is_made() -> None:
    data = fresh()
    blocks = 69
    for huge in (1 << 63, (1 << 64) - 1, 1 << 40):
        with pytest.raises(WireError, match=f"vector of Block: expected {huge} elements of at least [0-9]+ bytes"):
            read_object(data[:blocks] + huge.to_bytes(8, "little") + data[blocks + 8 :], FheUint)


def test_errors_are_bad_input_and_say_where() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_object(fresh()[:-1], FheUint)
    assert isinstance(caught.value, WireError)
    assert caught.value.offset == len(fresh()) - 8
    assert caught.value.rule == "INVALID_WIRE_OBJECT"


@pytest.mark.parametrize(
    ("modulus", "bits", "message"), [(0, 63, "scalar_bits"), (1 << 65, 64, "at most 2\\^64"), (3 << 32, 32, "2\\^32")]
)
def test_impossible_moduli_are_refused(modulus: int, bits: int, message: str) -> None:
    value = FheBool(
        example_block(CiphertextModulus(modulus, bits)),
        b"",
        b"",
    )
    with pytest.raises(WireError, match=message):
        read_object(write_object(value), FheBool)


def example_block(modulus: CiphertextModulus) -> Block:
    return Block(LweCiphertext(np.arange(4, dtype=np.uint64), modulus), 1, 1, 4, 4, PBSOrder.KEYSWITCH_BOOTSTRAP)


# ------------------------------------------------------------------------------------------------ writing
def test_only_known_objects_are_written() -> None:
    for value in (3, None, NATIVE_MODULUS):
        with pytest.raises(WireError, match="expected a known TFHE-rs object"):
            write_object(value)


def test_fields_of_the_wrong_type_are_refused() -> None:
    for ciphertext in (None, (3,), [1], (np.zeros(3),)):
        with pytest.raises(WireError):
            write_object(FheUint(ciphertext, b"", b""))  # type: ignore[arg-type]
    for tag in ("text", 3, None):
        with pytest.raises(WireError, match="expected bytes"):
            write_object(FheUint((), tag, b""))  # type: ignore[arg-type]


def test_what_a_release_cannot_express_is_refused() -> None:
    rng = Random(1)
    refused = 0
    for _ in range(100):
        value = read_object(
            write_object(example("CompressedServerKey", Release.V1_6, rng), Release.V1_6), CompressedServerKey
        )
        integer: IntegerCompressedServerKey = value.integer_key
        expressible = integer.oprf_key is None and isinstance(
            integer.cpk_re_randomization_key, LegacyReRandomizationKey | None
        )
        if not expressible:
            with pytest.raises(WireError, match=r"TFHE-rs 1\.5"):
                write_object(value, Release.V1_5)
            refused += 1
    assert refused > 50


def test_seeds_that_do_not_begin_at_byte_1_are_not_written_for_1_5() -> None:
    rng = Random(3)
    value = example("CompressedFheBool", Release.V1_6, rng)
    while not (isinstance(value, CompressedFheBool) and isinstance(value.ciphertext, SeededBlock)):
        value = example("CompressedFheBool", Release.V1_6, rng)
    with pytest.raises(WireError, match=r"CompressionSeed: TFHE-rs 1\.5"):
        write_object(value, Release.V1_5)


def test_client_keys_of_all_layouts_are_read() -> None:
    rng = Random(5)
    tags = set[int]()
    for release in Release:
        data = write_object(example("ClientKey", release, rng), release)
        offset = 34 + len("high_level_api::ClientKey") + 4
        tags.add(data[offset])
        read_object(data, ClientKey)
    assert tags == {6, 8}


def test_a_proven_list_of_node_tfhe_survives() -> None:
    """One boolean with its proof, made by node-tfhe 1.5.4; the proof takes a minute to make, hence the file."""
    data = (Path(__file__).parent / "data" / "proven_list_1_5_4.safe").read_bytes()
    value = read_object(data, ProvenCompactCiphertextList)
    assert [type(kind) for kind in value.inner.info] == [BooleanKind]
    ((blocks, proof),) = value.inner.ct_list.proved_lists
    assert blocks.ct_list.lwe_size == 2049
    assert isinstance(proof, ProofV2)
    assert proof.hash_config is HashConfig.V0_8_0
    assert write_object(value) == data
