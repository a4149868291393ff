"""Schema of the keys that clients keep and hand out: client key, compact public key.

Three layers of TFHE-rs (shortint, integer, high level) wrap most keys; wrappers of one field are written as the field
with one more tag. Where releases differ, the newest form is the one kept.
"""

from typing import Annotated, cast

import numpy as np

from coproc.tfhe.wire.core import GlweCiphertext, GlweSecretKey, LweSecretKey, SeededGlweCiphertext
from coproc.tfhe.wire.errors import WireError
from coproc.tfhe.wire.hints import Before, Newtype, OneOf, Since, generations, struct
from coproc.tfhe.wire.parameters import (
    CompactPublicKeyEncryptionParameters,
    CompressionParameters,
    KeySwitch32PBSParameters,
    KeySwitchingParameters,
    LegacyReRandomization,
    NoiseSquashingCompressionParameters,
    NoiseSquashingParameters,
    PBSParameters,
    ReRandomizationParameters,
    WopbsParameters,
)

Tag = Annotated[bytes, Newtype("Tag")]


# ------------------------------------------------------------------------------------------------ client key
@struct(0)
class StandardClientKey:
    """TFHE-rs ``StandardAtomicPatternClientKey``."""

    glwe_secret_key: GlweSecretKey[np.uint64]
    lwe_secret_key: LweSecretKey[np.uint64]
    parameters: PBSParameters
    wopbs_parameters: WopbsParameters | None


@struct(0)
class KeySwitch32ClientKey:
    """TFHE-rs ``KS32AtomicPatternClientKey``."""

    glwe_secret_key: GlweSecretKey[np.uint64]
    lwe_secret_key: LweSecretKey[np.uint32]
    parameters: KeySwitch32PBSParameters


BlockClientKey = Annotated[
    StandardClientKey | KeySwitch32ClientKey,
    OneOf("AtomicPatternClientKey"),
    Newtype("GenericClientKey", 1),
    Newtype("integer::ClientKey"),
]


@struct(0)
class CompactPrivateKey:
    """TFHE-rs ``shortint::CompactPrivateKey``: the key behind the compact public key."""

    key: LweSecretKey[np.uint64]
    parameters: CompactPublicKeyEncryptionParameters


@struct(0)
class CompressionPrivateKeys:
    """The key that compressed lists are under."""

    post_packing_ks_key: GlweSecretKey[np.uint64]
    params: CompressionParameters


@struct(0)
class NoiseSquashingPrivateKey:
    """The 128-bit key after noise squashing."""

    post_noise_squashing_secret_key: GlweSecretKey[np.void]
    params: NoiseSquashingParameters


@struct(0)
class NoiseSquashingCompressionPrivateKey:
    """The 128-bit key that compressed squashed lists are under."""

    post_packing_ks_key: GlweSecretKey[np.void]
    params: NoiseSquashingCompressionParameters


@struct(None)
class StandardOprfPrivateKey:
    """Small key of the pseudo-random function, 64-bit words."""

    key: LweSecretKey[np.uint64]


@struct(None)
class KeySwitch32OprfPrivateKey:
    """Small key of the pseudo-random function, 32-bit words."""

    key: LweSecretKey[np.uint32]


OprfPrivateKey = Annotated[
    StandardOprfPrivateKey | KeySwitch32OprfPrivateKey,
    OneOf("AtomicPatternOprfPrivateKey"),
    Newtype("shortint::OprfPrivateKey"),
    Newtype("integer::OprfPrivateKey"),
]


def _rerandomization_from_v6(value: object) -> object:
    return None if value is None else LegacyReRandomization(cast("KeySwitchingParameters", value))


def _rerandomization_to_v6(value: object) -> object:
    if value is not None and not isinstance(value, LegacyReRandomization):
        raise WireError("IntegerClientKey", "TFHE-rs 1.5 only re-randomises through a keyswitch")
    return None if value is None else value.rerand_ksk_params


@generations((6, 7, 8), written_1_5=6, written_1_6=8)
class IntegerClientKey:
    """All secret keys of a client."""

    key: BlockClientKey
    dedicated_compact_private_key: (
        tuple[Annotated[CompactPrivateKey, Newtype("integer::CompactPrivateKey")], KeySwitchingParameters] | None
    )
    compression_key: Annotated[CompressionPrivateKeys, Newtype("integer::CompressionPrivateKeys")] | None
    noise_squashing_private_key: (
        Annotated[NoiseSquashingPrivateKey, Newtype("integer::NoiseSquashingPrivateKey")] | None
    )
    noise_squashing_compression_private_key: (
        Annotated[NoiseSquashingCompressionPrivateKey, Newtype("integer::NoiseSquashingCompressionPrivateKey")] | None
    )
    cpk_re_randomization_params: Annotated[
        ReRandomizationParameters | None,
        Before(7, KeySwitchingParameters | None, _rerandomization_from_v6, _rerandomization_to_v6),
    ]
    dedicated_oprf_private_key: Annotated[OprfPrivateKey | None, Since(8)]


@struct(1)
class ClientKey:
    """``high_level_api::ClientKey``."""

    key: IntegerClientKey
    tag: Tag


# ------------------------------------------------------------------------------------------------ compact public key
@struct(0)
class LweCompactPublicKey:
    """One GLWE encryption of zero with k = 1: the mask, then the body."""

    glwe_ciphertext: GlweCiphertext[np.uint64]


@struct(1)
class BlockCompactPublicKey:
    """TFHE-rs ``shortint::CompactPublicKey``."""

    key: LweCompactPublicKey
    parameters: CompactPublicKeyEncryptionParameters


@struct(1)
class CompactPublicKey:
    """``high_level_api::CompactPublicKey``."""

    key: Annotated[BlockCompactPublicKey, Newtype("integer::CompactPublicKey"), Newtype("hl::IntegerCompactPublicKey")]
    tag: Tag


@struct(0)
class SeededLweCompactPublicKey:
    """Only the body; the mask is the seed's stream."""

    seeded_glwe_ciphertext: SeededGlweCiphertext[np.uint64]


@struct(1)
class BlockCompressedCompactPublicKey:
    """TFHE-rs ``shortint::CompressedCompactPublicKey``."""

    key: SeededLweCompactPublicKey
    parameters: CompactPublicKeyEncryptionParameters


IntegerCompressedCompactPublicKey = Annotated[
    BlockCompressedCompactPublicKey, Newtype("integer::CompressedCompactPublicKey")
]


@struct(1)
class CompressedCompactPublicKey:
    """``high_level_api::CompressedCompactPublicKey``."""

    key: Annotated[IntegerCompressedCompactPublicKey, Newtype("hl::IntegerCompressedCompactPublicKey")]
    tag: Tag
