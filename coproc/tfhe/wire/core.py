"""Schema of TFHE-rs ``core_crypto`` objects: scalars, seeds, and the key and ciphertext containers.

The number given to ``struct`` is the version tag of TFHE-rs 1.5 to 1.7. Where both 32- and 64-bit (or 128-bit) forms
exist, the class is generic in the numpy element type.
"""

from enum import Enum
from typing import Annotated, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from coproc.tfhe.wire.codec import Integer
from coproc.tfhe.wire.compound import Converted, MultiVersioned, changed_in_1_6
from coproc.tfhe.wire.errors import WireError
from coproc.tfhe.wire.hints import Newtype, OneOf, codec_of, scalar, struct, unit_enum

S = TypeVar("S", np.uint32, np.uint64, np.void)
"""Element type of the torus: u32, u64 or u128."""

_MAX_DIMENSION = 1 << 20
_TORUS_BITS = 128

U32 = Annotated[int, Integer("u32", 4)]
U64 = Annotated[int, Integer("u64", 8)]
U128 = Annotated[int, Integer("u128", 16)]
I8 = Annotated[int, Integer("i8", 1, signed=True)]

LweDimension = Annotated[int, scalar("LweDimension", at_least=1, at_most=_MAX_DIMENSION)]
LweSize = Annotated[int, scalar("LweSize", at_least=2, at_most=_MAX_DIMENSION + 1)]
GlweDimension = Annotated[int, scalar("GlweDimension", at_least=1, at_most=64)]
GlweSize = Annotated[int, scalar("GlweSize", at_least=2, at_most=65)]
PolynomialSize = Annotated[int, scalar("PolynomialSize", at_least=1, at_most=_MAX_DIMENSION)]
BaseLog = Annotated[int, scalar("DecompositionBaseLog", at_least=1, at_most=_TORUS_BITS)]
LevelCount = Annotated[int, scalar("DecompositionLevelCount", at_least=1, at_most=_TORUS_BITS)]
LweCiphertextCount = Annotated[int, scalar("LweCiphertextCount", at_most=1 << 32)]
CiphertextModulusLog = Annotated[int, scalar("CiphertextModulusLog", at_least=1, at_most=_TORUS_BITS)]
GroupingFactor = Annotated[int, scalar("LweBskGroupingFactor", at_least=1, at_most=8)]
ThreadCount = Annotated[int, scalar("ThreadCount")]
Variance = Annotated[float, Newtype("Variance")]
RSigmaFactor = Annotated[float, Newtype("RSigmaFactor")]
MeasureBound = Annotated[float, Newtype("NoiseEstimationMeasureBound")]


@unit_enum(0)
class EncryptionKeyChoice(Enum):
    """Which secret key ciphertexts are under."""

    BIG = 0
    SMALL = 1


@unit_enum(0)
class PBSOrder(Enum):
    """Whether the keyswitch comes before or after the bootstrap."""

    KEYSWITCH_BOOTSTRAP = 0
    BOOTSTRAP_KEYSWITCH = 1


@struct(0)
class CiphertextModulus:
    """TFHE-rs ``SerializableCiphertextModulus``; ``modulus`` 0 is the native ``2^scalar_bits``."""

    modulus: U128
    scalar_bits: U64

    def fault(self) -> str | None:
        """Say what is wrong with the fields together."""
        if self.scalar_bits not in {32, 64, 128}:
            return f"expected scalar_bits 32, 64 or 128, got {self.scalar_bits}"
        if self.modulus.bit_length() > self.scalar_bits + 1 or self.modulus > 1 << self.scalar_bits:
            return f"expected a modulus of at most 2^{self.scalar_bits}, got {self.modulus}"
        return None

    def is_native(self, bits: int = 64) -> bool:
        """Tell whether this is ``2^bits`` on words of ``bits`` bits."""
        return self.scalar_bits == bits and self.modulus in {0, 1 << bits}


NATIVE_MODULUS = CiphertextModulus(0, 64)


@struct(0)
class Gaussian:
    """Noise with a standard deviation, as a fraction of the torus."""

    std: float
    mean: float


@struct(0)
class TUniform:
    """Noise uniform on ``[-2^b, 2^b]``, ends with half weight."""

    bound_log2: Annotated[int, Integer("TUniform bound", 4, at_most=_TORUS_BITS)]


Distribution = Annotated[Gaussian | TUniform, OneOf("DynamicDistribution")]


# ------------------------------------------------------------------------------------------------ seeds
@struct(None)
class CtrSeed:
    """An AES-128 key; the stream is AES of the block numbers."""

    seed: Annotated[int, Integer("Seed", 16), Newtype("Seed")]


@struct(None)
class XofSeed:
    """Bytes (domain separator, then seed) from which key and first counter are derived."""

    data: Annotated[NDArray[np.uint8], Newtype("XofSeed")]


@struct(0)
class TableIndex:
    """Where in the stream the masks begin: AES block, byte in the block."""

    aes_index: Annotated[int, Integer("AesIndex", 16), Newtype("AesIndex")]
    byte_index: Annotated[int, scalar("ByteIndex", at_most=15)]


@struct(0)
class AesCtrParams:
    """The mask stream of one seeded object."""

    seed: Annotated[CtrSeed | XofSeed, OneOf("SeedKind")]
    first_index: TableIndex


_LEGACY_START = TableIndex(0, 1)


def _seed_from_v0(value: object) -> object:
    return AesCtrParams(CtrSeed(cast("int", value)), _LEGACY_START)


def _seed_to_v0(value: object) -> object:
    if not isinstance(value, AesCtrParams) or not isinstance(value.seed, CtrSeed):
        raise WireError("CompressionSeed", "TFHE-rs 1.5 has no XOF seeds")
    start = value.first_index
    if (start.aes_index, start.byte_index) != (0, 1):
        raise WireError("CompressionSeed", "TFHE-rs 1.5 starts mask streams at byte 1 only")
    return value.seed.seed


CompressionSeed = Annotated[
    AesCtrParams,
    MultiVersioned(
        "CompressionSeed",
        {0: Converted(Integer("CompressionSeed", 16), _seed_from_v0, _seed_to_v0), 1: codec_of(AesCtrParams)},
        changed_in_1_6(0, 1),
    ),
]
"""Up to 1.5 a bare u128 whose stream starts at byte 1; from 1.6 the start is on the wire."""


# ------------------------------------------------------------------------------------------------ secret keys
@struct(0)
class LweSecretKey(Generic[S]):
    """One word per key bit."""

    data: NDArray[S]


@struct(0)
class GlweSecretKey(Generic[S]):
    """``k*N`` words, one per key bit; read flat it is the big LWE key."""

    data: NDArray[S]
    polynomial_size: PolynomialSize


# ------------------------------------------------------------------------------------------------ ciphertexts
@struct(0)
class LweCiphertext(Generic[S]):
    """Mask of n words, then the body."""

    data: NDArray[S]
    ciphertext_modulus: CiphertextModulus


@struct(0)
class SeededLweCiphertext:
    """Only the body; the mask is the seed's stream."""

    data: U64
    lwe_size: LweSize
    compression_seed: CompressionSeed
    ciphertext_modulus: CiphertextModulus


@struct(0)
class SeededLweCiphertextList(Generic[S]):
    """Bodies of a list with one seed."""

    data: NDArray[S]
    lwe_size: LweSize
    compression_seed: CompressionSeed
    ciphertext_modulus: CiphertextModulus


@struct(0)
class GlweCiphertext(Generic[S]):
    """``k*N`` mask words, then N body words."""

    data: NDArray[S]
    polynomial_size: PolynomialSize
    ciphertext_modulus: CiphertextModulus


@struct(0)
class SeededGlweCiphertext(Generic[S]):
    """N body words."""

    data: NDArray[S]
    glwe_size: GlweSize
    compression_seed: CompressionSeed
    ciphertext_modulus: CiphertextModulus


@struct(0)
class LweCompactCiphertextList:
    """``ceil(count/n)`` masks of n words, then ``count`` bodies."""

    data: NDArray[np.uint64]
    lwe_size: LweSize
    lwe_ciphertext_count: LweCiphertextCount
    ciphertext_modulus: CiphertextModulus

    def fault(self) -> str | None:
        """Compare the counts with the number of words."""
        dimension = self.lwe_size - 1
        masks = -(-self.lwe_ciphertext_count // dimension)
        words = masks * dimension + self.lwe_ciphertext_count
        return None if words == self.data.size else f"expected {words} words, got {self.data.size}"


# ------------------------------------------------------------------------------------------------ public keys
@struct(2)
class SeededLweKeyswitchKey(Generic[S]):
    """Bodies, ``(input dimension, levels)`` flat, finest level first."""

    data: NDArray[S]
    decomp_base_log: BaseLog
    decomp_level_count: LevelCount
    output_lwe_size: LweSize
    compression_seed: CompressionSeed
    ciphertext_modulus: CiphertextModulus

    def fault(self) -> str | None:
        """Compare the level count with the number of bodies."""
        rest = self.data.size % self.decomp_level_count
        return f"expected a multiple of {self.decomp_level_count} bodies, got {self.data.size}" if rest else None


@struct(2)
class SeededLwePackingKeyswitchKey(Generic[S]):
    """Bodies, ``(input dimension, levels, N)`` flat."""

    data: NDArray[S]
    decomp_base_log: BaseLog
    decomp_level_count: LevelCount
    output_glwe_size: GlweSize
    output_polynomial_size: PolynomialSize
    compression_seed: CompressionSeed
    ciphertext_modulus: CiphertextModulus

    def fault(self) -> str | None:
        """Compare the level count and polynomial size with the number of bodies."""
        unit = self.decomp_level_count * self.output_polynomial_size
        return f"expected a multiple of {unit} words, got {self.data.size}" if self.data.size % unit else None


@struct(1)
class SeededGgswCiphertextList(Generic[S]):
    """Bodies, ``(count, levels, k+1, N)`` flat, finest level first."""

    data: NDArray[S]
    glwe_size: GlweSize
    polynomial_size: PolynomialSize
    decomp_base_log: BaseLog
    decomp_level_count: LevelCount
    compression_seed: CompressionSeed
    ciphertext_modulus: CiphertextModulus

    def fault(self) -> str | None:
        """Compare the shape with the number of bodies."""
        unit = self.decomp_level_count * self.glwe_size * self.polynomial_size
        return f"expected a multiple of {unit} words, got {self.data.size}" if self.data.size % unit else None


@struct(1)
class SeededLweBootstrapKey(Generic[S]):
    """One GGSW ciphertext per bit of the small key."""

    ggsw_list: SeededGgswCiphertextList[S]


@struct(1)
class SeededLweMultiBitBootstrapKey(Generic[S]):
    """``2^g`` GGSW ciphertexts per group of g bits of the small key."""

    ggsw_list: SeededGgswCiphertextList[S]
    grouping_factor: GroupingFactor


# ------------------------------------------------------------------------------------------------ packed integers
@struct(0)
class PackedIntegers:
    """``initial_len`` integers of ``log_modulus`` bits as a little-endian bit stream in words."""

    packed_coeffs: NDArray[np.uint64]
    log_modulus: CiphertextModulusLog
    initial_len: U64

    def fault(self) -> str | None:
        """Compare the length with the number of words."""
        words = -(-self.initial_len * self.log_modulus // 64)
        return None if words == self.packed_coeffs.size else f"expected {words} words, got {self.packed_coeffs.size}"
