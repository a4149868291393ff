"""Schema of the parameter sets that travel inside keys."""

from enum import Enum
from typing import Annotated

from coproc.tfhe.wire.compound import MultiVersioned, Variants, changed_in_1_6
from coproc.tfhe.wire.core import (
    BaseLog,
    CiphertextModulus,
    CiphertextModulusLog,
    Distribution,
    EncryptionKeyChoice,
    GlweDimension,
    GroupingFactor,
    LevelCount,
    LweCiphertextCount,
    LweDimension,
    MeasureBound,
    PBSOrder,
    PolynomialSize,
    RSigmaFactor,
    Variance,
)
from coproc.tfhe.wire.errors import WireError
from coproc.tfhe.wire.hints import Before, OneOf, layout_of, scalar, struct, unchanged, unit_enum

MessageModulus = Annotated[int, scalar("MessageModulus", at_least=1, at_most=1 << 16)]
CarryModulus = Annotated[int, scalar("CarryModulus", at_least=1, at_most=1 << 16)]
MaxNoiseLevel = Annotated[int, scalar("MaxNoiseLevel")]
MaxDegree = Annotated[int, scalar("MaxDegree")]
Degree = Annotated[int, scalar("Degree")]
NoiseLevel = Annotated[int, scalar("NoiseLevel")]


@struct(None)
class StandardModulusSwitch:
    """Plain rounding."""


@struct(0)
class DriftTechnique:
    """TFHE-rs ``ModulusSwitchNoiseReductionParams``."""

    modulus_switch_zeros_count: LweCiphertextCount
    ms_bound: MeasureBound
    ms_r_sigma_factor: RSigmaFactor
    ms_input_variance: Variance


@struct(None)
class CenteredMeanModulusSwitch:
    """Rounding with the expected rounding error taken off the body."""


ModulusSwitchType = Annotated[
    StandardModulusSwitch | DriftTechnique | CenteredMeanModulusSwitch, OneOf("ModulusSwitchType")
]


@struct(2)
class ClassicPBSParameters:
    """Parameters of a classic bootstrap."""

    lwe_dimension: LweDimension
    glwe_dimension: GlweDimension
    polynomial_size: PolynomialSize
    lwe_noise_distribution: Distribution
    glwe_noise_distribution: Distribution
    pbs_base_log: BaseLog
    pbs_level: LevelCount
    ks_base_log: BaseLog
    ks_level: LevelCount
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    max_noise_level: MaxNoiseLevel
    log2_p_fail: float
    ciphertext_modulus: CiphertextModulus
    encryption_key_choice: EncryptionKeyChoice
    modulus_switch_noise_reduction_params: ModulusSwitchType


@struct(0)
class MultiBitPBSParameters:
    """Parameters of a multi-bit bootstrap."""

    lwe_dimension: LweDimension
    glwe_dimension: GlweDimension
    polynomial_size: PolynomialSize
    lwe_noise_distribution: Distribution
    glwe_noise_distribution: Distribution
    pbs_base_log: BaseLog
    pbs_level: LevelCount
    ks_base_log: BaseLog
    ks_level: LevelCount
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    max_noise_level: MaxNoiseLevel
    log2_p_fail: float
    ciphertext_modulus: CiphertextModulus
    encryption_key_choice: EncryptionKeyChoice
    grouping_factor: GroupingFactor
    deterministic_execution: bool


@struct(1)
class KeySwitch32PBSParameters:
    """Parameters of the atomic pattern whose keyswitch works on 32-bit words."""

    lwe_dimension: LweDimension
    glwe_dimension: GlweDimension
    polynomial_size: PolynomialSize
    lwe_noise_distribution: Distribution
    glwe_noise_distribution: Distribution
    pbs_base_log: BaseLog
    pbs_level: LevelCount
    ks_base_log: BaseLog
    ks_level: LevelCount
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    max_noise_level: MaxNoiseLevel
    log2_p_fail: float
    post_keyswitch_ciphertext_modulus: CiphertextModulus
    ciphertext_modulus: CiphertextModulus
    modulus_switch_noise_reduction_params: ModulusSwitchType


PBSParameters = Annotated[ClassicPBSParameters | MultiBitPBSParameters, OneOf("PBSParameters")]


@struct(0)
class WopbsParameters:
    """Parameters of the bootstrap without padding."""

    lwe_dimension: LweDimension
    glwe_dimension: GlweDimension
    polynomial_size: PolynomialSize
    lwe_noise_distribution: Distribution
    glwe_noise_distribution: Distribution
    pbs_base_log: BaseLog
    pbs_level: LevelCount
    ks_level: LevelCount
    ks_base_log: BaseLog
    pfks_level: LevelCount
    pfks_base_log: BaseLog
    pfks_noise_distribution: Distribution
    cbs_level: LevelCount
    cbs_base_log: BaseLog
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    ciphertext_modulus: CiphertextModulus
    encryption_key_choice: EncryptionKeyChoice


# ------------------------------------------------------------------------------------------------ atomic patterns
@struct(None)
class StandardPattern:
    """The standard atomic pattern, where its order does not matter."""


@struct(None)
class KeySwitch32Pattern:
    """Atomic pattern with a 32-bit keyswitch."""


AtomicPatternKind = Annotated[PBSOrder | KeySwitch32Pattern, OneOf("AtomicPatternKind")]
"""A bare ``PBSOrder`` is the standard pattern in that order."""


# ------------------------------------------------------------------------------------------------ compact lists
@struct(None)
class RequiresCasting:
    """Expanded ciphertexts are under the compact key and must be cast."""


def _order_only(kind: object) -> object:
    if not isinstance(kind, PBSOrder):
        raise WireError("CompactCiphertextListExpansionKind", "TFHE-rs 1.5 only has the standard atomic pattern")
    return kind


@struct(None)
class NoCasting:
    """Expanded ciphertexts are under the compute key."""

    kind: Annotated[AtomicPatternKind, Before(1, PBSOrder, unchanged, _order_only)]


ExpansionKind = Annotated[
    RequiresCasting | NoCasting,
    MultiVersioned(
        "CompactCiphertextListExpansionKind",
        {
            version: Variants(
                "CompactCiphertextListExpansionKind",
                ((RequiresCasting, layout_of(RequiresCasting, version)), (NoCasting, layout_of(NoCasting, version))),
            )
            for version in (0, 1)
        },
        changed_in_1_6(0, 1),
    ),
]


@unit_enum(0)
class ZkScheme(Enum):
    """TFHE-rs ``SupportedCompactPkeZkScheme``."""

    NOT_SUPPORTED = 0
    V1 = 1
    V2 = 2


@struct(1)
class CompactPublicKeyEncryptionParameters:
    """Parameters of the dedicated compact public key."""

    encryption_lwe_dimension: LweDimension
    encryption_noise_distribution: Distribution
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    ciphertext_modulus: CiphertextModulus
    expansion_kind: ExpansionKind
    zk_scheme: ZkScheme


@struct(0)
class KeySwitchingParameters:
    """TFHE-rs ``ShortintKeySwitchingParameters``."""

    ks_base_log: BaseLog
    ks_level: LevelCount
    destination_key: EncryptionKeyChoice


@struct(None)
class LegacyReRandomization:
    """Re-randomisation through a dedicated compact public key and a keyswitch."""

    rerand_ksk_params: KeySwitchingParameters


@struct(None)
class DerivedReRandomization:
    """Re-randomisation with a compact public key derived from the compute key."""


ReRandomizationParameters = Annotated[
    LegacyReRandomization | DerivedReRandomization, OneOf("ReRandomizationParameters")
]


# ------------------------------------------------------------------------------------------------ compression
@struct(0)
class ClassicCompressionParameters:
    """Compression of lists of results."""

    br_level: LevelCount
    br_base_log: BaseLog
    packing_ks_level: LevelCount
    packing_ks_base_log: BaseLog
    packing_ks_polynomial_size: PolynomialSize
    packing_ks_glwe_dimension: GlweDimension
    lwe_per_glwe: LweCiphertextCount
    storage_log_modulus: CiphertextModulusLog
    packing_ks_key_noise_distribution: Distribution


@struct(0)
class MultiBitCompressionParameters:
    """Compression whose decompression uses a multi-bit bootstrap."""

    br_level: LevelCount
    br_base_log: BaseLog
    packing_ks_level: LevelCount
    packing_ks_base_log: BaseLog
    packing_ks_polynomial_size: PolynomialSize
    packing_ks_glwe_dimension: GlweDimension
    lwe_per_glwe: LweCiphertextCount
    storage_log_modulus: CiphertextModulusLog
    packing_ks_key_noise_distribution: Distribution
    decompression_grouping_factor: GroupingFactor


CompressionParameters = Annotated[
    ClassicCompressionParameters | MultiBitCompressionParameters, OneOf("CompressionParameters", 1)
]


@struct(0)
class NoiseSquashingClassicParameters:
    """Bootstrap into 128-bit ciphertexts."""

    glwe_dimension: GlweDimension
    polynomial_size: PolynomialSize
    glwe_noise_distribution: Distribution
    decomp_base_log: BaseLog
    decomp_level_count: LevelCount
    modulus_switch_noise_reduction_params: ModulusSwitchType
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    ciphertext_modulus: CiphertextModulus


@struct(0)
class NoiseSquashingMultiBitParameters:
    """Multi-bit bootstrap into 128-bit ciphertexts."""

    glwe_dimension: GlweDimension
    polynomial_size: PolynomialSize
    glwe_noise_distribution: Distribution
    decomp_base_log: BaseLog
    decomp_level_count: LevelCount
    grouping_factor: GroupingFactor
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    ciphertext_modulus: CiphertextModulus
    deterministic_execution: bool


NoiseSquashingParameters = Annotated[
    NoiseSquashingClassicParameters | NoiseSquashingMultiBitParameters, OneOf("NoiseSquashingParameters", 2)
]


@struct(0)
class NoiseSquashingCompressionParameters:
    """Compression of lists of 128-bit ciphertexts."""

    packing_ks_level: LevelCount
    packing_ks_base_log: BaseLog
    packing_ks_polynomial_size: PolynomialSize
    packing_ks_glwe_dimension: GlweDimension
    lwe_per_glwe: LweCiphertextCount
    packing_ks_key_noise_distribution: Distribution
    message_modulus: MessageModulus
    carry_modulus: CarryModulus
    ciphertext_modulus: CiphertextModulus
