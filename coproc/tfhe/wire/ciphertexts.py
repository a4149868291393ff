"""Schema of what is encrypted: integers and booleans, their compressed forms, and lists.

Integers of every width are the same type: a vector of blocks, the least significant first.
"""

from typing import Annotated

import numpy as np

from coproc.tfhe.wire.codec import Integer
from coproc.tfhe.wire.core import (
    U32,
    U64,
    CiphertextModulus,
    GlweDimension,
    GroupingFactor,
    LweCiphertext,
    LweCiphertextCount,
    LweCompactCiphertextList,
    LweDimension,
    PackedIntegers,
    PolynomialSize,
    SeededLweCiphertext,
)
from coproc.tfhe.wire.hints import Newtype, OneOf, struct
from coproc.tfhe.wire.keys import Tag
from coproc.tfhe.wire.parameters import (
    AtomicPatternKind,
    CarryModulus,
    Degree,
    ExpansionKind,
    MessageModulus,
    NoiseLevel,
)
from coproc.tfhe.wire.proofs import CompactPkeProof

ReRandomizationMetadata = Annotated[bytes, Newtype("ReRandomizationMetadata")]


# ------------------------------------------------------------------------------------------------ blocks
@struct(1)
class Block:
    """TFHE-rs ``shortint::Ciphertext``."""

    ct: LweCiphertext[np.uint64]
    degree: Degree
    noise_level: NoiseLevel
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    atomic_pattern: AtomicPatternKind


@struct(1)
class SeededBlock:
    """TFHE-rs ``shortint::CompressedCiphertext``."""

    ct: SeededLweCiphertext
    degree: Degree
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    atomic_pattern: AtomicPatternKind
    noise_level: NoiseLevel


@struct(2)
class ModulusSwitchedLwe:
    """A ciphertext of the small key, rounded to ``2N``."""

    packed_integers: PackedIntegers
    lwe_dimension: LweDimension


@struct(2)
class ModulusSwitchedMultiBitLwe:
    """A ciphertext of the small key, rounded for a multi-bit bootstrap."""

    body: U64
    packed_mask: PackedIntegers
    packed_diffs: PackedIntegers | None
    lwe_dimension: LweDimension
    uncompressed_ciphertext_modulus: CiphertextModulus
    grouping_factor: GroupingFactor


@struct(2)
class ModulusSwitchedBlock:
    """TFHE-rs ``shortint::CompressedModulusSwitchedCiphertext``; a bootstrap restores it."""

    compressed_modulus_switched_lwe_ciphertext: Annotated[
        ModulusSwitchedLwe | ModulusSwitchedMultiBitLwe, OneOf("InternalCompressedModulusSwitchedCiphertext")
    ]
    degree: Degree
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    atomic_pattern: AtomicPatternKind


# ------------------------------------------------------------------------------------------------ plain
@struct(2)
class FheBool:
    """``high_level_api::FheBool``."""

    ciphertext: Annotated[Block, Newtype("integer::BooleanBlock"), Newtype("InnerBoolean")]
    tag: Tag
    re_randomization_metadata: ReRandomizationMetadata


@struct(2)
class FheUint:
    """``high_level_api::FheUint``, any width."""

    ciphertext: Annotated[tuple[Block, ...], Newtype("BaseRadixCiphertext"), Newtype("hl::RadixCiphertext")]
    tag: Tag
    re_randomization_metadata: ReRandomizationMetadata


@struct(2)
class FheInt:
    """``high_level_api::FheInt``, any width, two's complement."""

    ciphertext: Annotated[tuple[Block, ...], Newtype("BaseSignedRadixCiphertext"), Newtype("hl::SignedRadixCiphertext")]
    tag: Tag
    re_randomization_metadata: ReRandomizationMetadata


# ------------------------------------------------------------------------------------------------ compressed
@struct(0)
class _ModulusSwitchedRadixGeneric:
    paired_blocks: tuple[ModulusSwitchedBlock, ...]
    last_block: ModulusSwitchedBlock | None


@struct(0)
class ModulusSwitchedRadix:
    """Rounded blocks, two to a ciphertext."""

    generic: _ModulusSwitchedRadixGeneric


@struct(1)
class CompressedFheBool:
    """``high_level_api::CompressedFheBool``."""

    ciphertext: Annotated[SeededBlock | ModulusSwitchedBlock, OneOf("InnerCompressedFheBool")]
    tag: Tag


@struct(0)
class SeededRadix:
    """TFHE-rs ``BaseRadixCiphertext`` of seeded blocks; every block has a seed of its own."""

    blocks: tuple[SeededBlock, ...]


@struct(1)
class CompressedFheUint:
    """``high_level_api::CompressedFheUint``, any width."""

    ciphertext: Annotated[SeededRadix | ModulusSwitchedRadix, OneOf("hl::CompressedRadixCiphertext", 1)]
    tag: Tag


@struct(1)
class CompressedFheInt:
    """``high_level_api::CompressedFheInt``, any width."""

    ciphertext: Annotated[SeededRadix | ModulusSwitchedRadix, OneOf("hl::CompressedSignedRadixCiphertext", 1)]
    tag: Tag


# ------------------------------------------------------------------------------------------------ lists
_BlockCount = Annotated[int, Integer("number of blocks", 8, at_least=1, at_most=1 << 16)]


@struct(None)
class UnsignedKind:
    """An unsigned integer of that many blocks."""

    blocks: _BlockCount


@struct(None)
class SignedKind:
    """A signed integer of that many blocks."""

    blocks: _BlockCount


@struct(None)
class BooleanKind:
    """A boolean: one block."""


@struct(None)
class StringKind:
    """An ASCII string: four blocks a character."""

    n_chars: U32
    padded: bool


DataKind = Annotated[UnsignedKind | SignedKind | BooleanKind | StringKind, OneOf("DataKind", 1)]


@struct(2)
class BlockCompactList:
    """TFHE-rs ``shortint::CompactCiphertextList``; a degree above 3 means two blocks to a ciphertext."""

    ct_list: LweCompactCiphertextList
    degree: Degree
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    expansion_kind: ExpansionKind


@struct(1)
class IntegerCompactList:
    """The list and what its blocks mean."""

    ct_list: BlockCompactList
    info: tuple[DataKind, ...]


@struct(1)
class CompactCiphertextList:
    """``high_level_api::CompactCiphertextList``: values under a compact public key."""

    inner: IntegerCompactList
    tag: Tag


@struct(0)
class BlockProvenList:
    """TFHE-rs ``shortint::ProvenCompactCiphertextList``: pieces, each with its proof."""

    proved_lists: tuple[tuple[BlockCompactList, CompactPkeProof], ...]


@struct(0)
class IntegerProvenList:
    """The pieces and what their blocks mean."""

    ct_list: BlockProvenList
    info: tuple[DataKind, ...]


@struct(0)
class ProvenCompactCiphertextList:
    """``high_level_api::ProvenCompactCiphertextList``."""

    inner: IntegerProvenList
    tag: Tag


@struct(0)
class PackedGlwe:
    """TFHE-rs ``CompressedModulusSwitchedGlweCiphertext``."""

    packed_integers: PackedIntegers
    glwe_dimension: GlweDimension
    polynomial_size: PolynomialSize
    bodies_count: LweCiphertextCount
    uncompressed_ciphertext_modulus: CiphertextModulus


@struct(0)
class CompressedListMeta:
    """TFHE-rs ``CompressedCiphertextListMeta``."""

    ciphertext_modulus: CiphertextModulus
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    atomic_pattern: AtomicPatternKind
    lwe_per_glwe: LweCiphertextCount


@struct(2)
class BlockCompressedList:
    """TFHE-rs ``shortint::CompressedCiphertextList``."""

    modulus_switched_glwe_ciphertext_list: tuple[PackedGlwe, ...]
    meta: CompressedListMeta | None


@struct(0)
class IntegerCompressedList:
    """The list and what its blocks mean."""

    packed_list: BlockCompressedList
    info: tuple[DataKind, ...]


@struct(3)
class CompressedCiphertextList:
    """``high_level_api::CompressedCiphertextList``: results packed for the way back."""

    inner: IntegerCompressedList
    tag: Tag
    re_randomization_metadata: tuple[ReRandomizationMetadata, ...]
