"""Schema of the compressed server key with all its optional parts.

Which parts there are depends on the client's configuration; coproc computes with the first one, and keeps the others.
Where releases differ, the newest form is the one kept.
"""

from typing import Annotated, Generic, cast

import numpy as np

from coproc.tfhe.wire.core import (
    I8,
    CiphertextModulus,
    CiphertextModulusLog,
    EncryptionKeyChoice,
    LweCiphertextCount,
    MeasureBound,
    PBSOrder,
    RSigmaFactor,
    S,
    SeededLweBootstrapKey,
    SeededLweCiphertextList,
    SeededLweKeyswitchKey,
    SeededLweMultiBitBootstrapKey,
    SeededLwePackingKeyswitchKey,
    ThreadCount,
    Variance,
)
from coproc.tfhe.wire.errors import WireError
from coproc.tfhe.wire.hints import Before, Newtype, OneOf, Since, generations, struct
from coproc.tfhe.wire.keys import IntegerCompressedCompactPublicKey, Tag
from coproc.tfhe.wire.parameters import (
    CarryModulus,
    CenteredMeanModulusSwitch,
    KeySwitch32Pattern,
    MaxDegree,
    MaxNoiseLevel,
    MessageModulus,
    StandardModulusSwitch,
    StandardPattern,
)


# ------------------------------------------------------------------------------------------------ bootstrap keys
@struct(1)
class CompressedDriftTechniqueKey(Generic[S]):
    """TFHE-rs ``CompressedModulusSwitchNoiseReductionKey``: encryptions of zero that steer the rounding."""

    modulus_switch_zeros: SeededLweCiphertextList[S]
    ms_bound: MeasureBound
    ms_r_sigma_factor: RSigmaFactor
    ms_input_variance: Variance


@struct(None)
class CompressedClassicBootstrapKey(Generic[S]):
    """A classic bootstrap key; ``S`` is the word of the ciphertexts it is applied to."""

    bsk: SeededLweBootstrapKey[np.uint64]
    modulus_switch_noise_reduction_key: Annotated[
        StandardModulusSwitch | CompressedDriftTechniqueKey[S] | CenteredMeanModulusSwitch,
        OneOf("CompressedModulusSwitchConfiguration"),
    ]


@struct(None)
class CompressedMultiBitBootstrapKey:
    """A multi-bit bootstrap key."""

    seeded_bsk: SeededLweMultiBitBootstrapKey[np.uint64]
    deterministic_execution: bool


@struct(None)
class CompressedClassicBootstrapKey128(Generic[S]):
    """A classic bootstrap key into 128-bit ciphertexts."""

    bsk: SeededLweBootstrapKey[np.void]
    modulus_switch_noise_reduction_key: Annotated[
        StandardModulusSwitch | CompressedDriftTechniqueKey[S] | CenteredMeanModulusSwitch,
        OneOf("CompressedModulusSwitchConfiguration"),
    ]


@struct(None)
class CompressedMultiBitBootstrapKey128:
    """A multi-bit bootstrap key into 128-bit ciphertexts."""

    bsk: SeededLweMultiBitBootstrapKey[np.void]
    thread_count: ThreadCount
    deterministic_execution: bool


# ------------------------------------------------------------------------------------------------ compute key
@struct(0)
class CompressedStandardServerKey:
    """TFHE-rs ``CompressedStandardAtomicPatternServerKey``: keyswitch key, then bootstrap key."""

    key_switching_key: SeededLweKeyswitchKey[np.uint64]
    bootstrapping_key: Annotated[
        CompressedClassicBootstrapKey[np.uint64] | CompressedMultiBitBootstrapKey,
        OneOf("ShortintCompressedBootstrappingKey", 3),
    ]
    pbs_order: PBSOrder


@struct(0)
class CompressedKeySwitch32ServerKey:
    """TFHE-rs ``CompressedKS32AtomicPatternServerKey``."""

    key_switching_key: SeededLweKeyswitchKey[np.uint32]
    bootstrapping_key: Annotated[
        CompressedClassicBootstrapKey[np.uint32] | CompressedMultiBitBootstrapKey,
        OneOf("ShortintCompressedBootstrappingKey", 3),
    ]


@struct(3)
class BlockCompressedServerKey:
    """TFHE-rs ``shortint::CompressedServerKey``."""

    compressed_ap_server_key: Annotated[
        CompressedStandardServerKey | CompressedKeySwitch32ServerKey, OneOf("CompressedAtomicPatternServerKey")
    ]
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    max_degree: MaxDegree
    max_noise_level: MaxNoiseLevel


# ------------------------------------------------------------------------------------------------ optional server keys
@struct(2)
class BlockCompressedKeySwitchingKey:
    """TFHE-rs ``shortint::CompressedKeySwitchingKeyMaterial``: from the compact key to the compute key."""

    key_switching_key: SeededLweKeyswitchKey[np.uint64]
    cast_rshift: I8
    destination_key: EncryptionKeyChoice
    destination_atomic_pattern: Annotated[
        StandardPattern | KeySwitch32Pattern, OneOf("KeySwitchingKeyDestinationAtomicPattern")
    ]


CompressedKeySwitchingKey = Annotated[
    BlockCompressedKeySwitchingKey, Newtype("integer::CompressedKeySwitchingKeyMaterial", 2)
]


@struct(2)
class BlockCompressedCompressionKey:
    """TFHE-rs ``shortint::CompressedCompressionKey``."""

    packing_key_switching_key: SeededLwePackingKeyswitchKey[np.uint64]
    lwe_per_glwe: LweCiphertextCount
    storage_log_modulus: CiphertextModulusLog


@struct(2)
class BlockCompressedDecompressionKey:
    """TFHE-rs ``shortint::CompressedDecompressionKey``."""

    bsk: Annotated[
        CompressedClassicBootstrapKey[np.uint64] | CompressedMultiBitBootstrapKey,
        OneOf("ShortintCompressedBootstrappingKey", 3),
    ]
    lwe_per_glwe: LweCiphertextCount


@struct(0)
class StandardNoiseSquashingKey:
    """Noise squashing of the standard atomic pattern."""

    bootstrapping_key: Annotated[
        CompressedClassicBootstrapKey128[np.uint64] | CompressedMultiBitBootstrapKey128,
        OneOf("CompressedShortint128BootstrappingKey", 1),
    ]


@struct(0)
class KeySwitch32NoiseSquashingKey:
    """Noise squashing of the atomic pattern with a 32-bit keyswitch."""

    bootstrapping_key: Annotated[
        CompressedClassicBootstrapKey128[np.uint32] | CompressedMultiBitBootstrapKey128,
        OneOf("CompressedShortint128BootstrappingKey", 1),
    ]


@struct(3)
class BlockCompressedNoiseSquashingKey:
    """TFHE-rs ``shortint::CompressedNoiseSquashingKey``."""

    atomic_pattern: Annotated[
        StandardNoiseSquashingKey | KeySwitch32NoiseSquashingKey, OneOf("CompressedAtomicPatternNoiseSquashingKey")
    ]
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    output_ciphertext_modulus: CiphertextModulus


@struct(0)
class BlockCompressedNoiseSquashingCompressionKey:
    """TFHE-rs ``shortint::CompressedNoiseSquashingCompressionKey``."""

    packing_key_switching_key: SeededLwePackingKeyswitchKey[np.void]
    lwe_per_glwe: LweCiphertextCount


@struct(None)
class SharedReRandomizationKeySwitch:
    """Re-randomisation uses the casting key."""


@struct(None)
class DedicatedReRandomizationKeySwitch:
    """Re-randomisation has a keyswitch key of its own."""

    key: CompressedKeySwitchingKey


ReRandomizationKeySwitch = Annotated[
    SharedReRandomizationKeySwitch | DedicatedReRandomizationKeySwitch,
    OneOf("CompressedReRandomizationKeySwitchingKey"),
]


@struct(None)
class LegacyReRandomizationKey:
    """The form of 1.5: a keyswitch from the dedicated compact key."""

    ksk: ReRandomizationKeySwitch


@struct(None)
class DerivedReRandomizationKey:
    """The form of 1.6: a compact public key of the compute key."""

    cpk: IntegerCompressedCompactPublicKey


@struct(None)
class ClassicOprfKey:
    """Bootstrap key of the pseudo-random function."""

    seeded_bsk: SeededLweBootstrapKey[np.uint64]


@struct(None)
class MultiBitOprfKey:
    """Multi-bit bootstrap key of the pseudo-random function."""

    seeded_bsk: SeededLweMultiBitBootstrapKey[np.uint64]
    deterministic_execution: bool


CompressedOprfKey = Annotated[
    ClassicOprfKey | MultiBitOprfKey,
    OneOf("CompressedOprfBootstrappingKey"),
    Newtype("shortint::CompressedOprfServerKey"),
    Newtype("integer::CompressedOprfServerKey"),
]


def _rerandomization_key_from_v5(value: object) -> object:
    return None if value is None else LegacyReRandomizationKey(cast("ReRandomizationKeySwitch", value))


def _rerandomization_key_to_v5(value: object) -> object:
    if value is not None and not isinstance(value, LegacyReRandomizationKey):
        raise WireError("IntegerCompressedServerKey", "TFHE-rs 1.5 only re-randomises through a keyswitch")
    return None if value is None else value.ksk


@generations((5, 6, 7), written_1_5=5, written_1_6=7)
class IntegerCompressedServerKey:
    """The compute key and what optional features need."""

    key: Annotated[BlockCompressedServerKey, Newtype("integer::CompressedServerKey", 2)]
    cpk_key_switching_key_material: CompressedKeySwitchingKey | None
    compression_key: Annotated[BlockCompressedCompressionKey, Newtype("integer::CompressedCompressionKey", 2)] | None
    decompression_key: (
        Annotated[BlockCompressedDecompressionKey, Newtype("integer::CompressedDecompressionKey", 1)] | None
    )
    noise_squashing_key: (
        Annotated[BlockCompressedNoiseSquashingKey, Newtype("integer::CompressedNoiseSquashingKey")] | None
    )
    noise_squashing_compression_key: (
        Annotated[
            BlockCompressedNoiseSquashingCompressionKey, Newtype("integer::CompressedNoiseSquashingCompressionKey")
        ]
        | None
    )
    cpk_re_randomization_key: Annotated[
        Annotated[LegacyReRandomizationKey | DerivedReRandomizationKey, OneOf("CompressedReRandomizationKey")] | None,
        Before(6, ReRandomizationKeySwitch | None, _rerandomization_key_from_v5, _rerandomization_key_to_v5),
    ]
    oprf_key: Annotated[CompressedOprfKey | None, Since(7)]


@struct(2)
class CompressedServerKey:
    """``high_level_api::CompressedServerKey``."""

    integer_key: IntegerCompressedServerKey
    tag: Tag
