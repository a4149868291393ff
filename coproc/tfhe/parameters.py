"""Cryptographic parameter sets as data.

Decides which numbers describe a TFHE instance; knows nothing of keys, wire formats or executors.

Notation: ``n`` is the dimension of the small LWE key, ``k`` and ``N`` are the GLWE dimension and polynomial size (the
"big" LWE key is the GLWE key read flat, dimension ``k*N``), ``q = 2^64`` is the ciphertext modulus.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

TORUS_BITS: Final = 64


class ModulusSwitch(Enum):
    """How a ciphertext is rounded to ``2N`` before blind rotation (TFHE-rs ``ModulusSwitchType``)."""

    STANDARD = 0
    DRIFT = 1
    CENTERED_MEAN = 2


@dataclass(frozen=True, slots=True)
class ClassicParameters:
    """One classic (non multi-bit) parameter set, TFHE-rs ``ClassicPBSParameters`` with ``EncryptionKeyChoice::Big``.

    ``*_noise_bound_log2`` are bounds ``b`` of TUniform(b), the uniform law on ``[-2^b, 2^b]`` with half-weight ends.
    """

    lwe_dimension: int
    glwe_dimension: int
    polynomial_size: int
    lwe_noise_bound_log2: int
    glwe_noise_bound_log2: int
    pbs_base_log: int
    pbs_level: int
    ks_base_log: int
    ks_level: int
    message_modulus: int
    carry_modulus: int
    max_noise_level: int
    log2_p_fail: float
    modulus_switch: ModulusSwitch
    compact_lwe_dimension: int
    """Dimension of the dedicated compact public key."""
    compact_noise_bound_log2: int

    @property
    def big_lwe_dimension(self) -> int:
        """Dimension of the ciphertexts that clients hold."""
        return self.glwe_dimension * self.polynomial_size

    @property
    def plaintext_modulus(self) -> int:
        """Number of block values under the padding bit: message times carry modulus, 16 for 2_2."""
        return self.message_modulus * self.carry_modulus

    @property
    def delta_log2(self) -> int:
        """Log2 of the scaling factor of a block value: 59 for 2_2 (one padding bit)."""
        return TORUS_BITS - 1 - (self.plaintext_modulus - 1).bit_length()

    @property
    def is_secure(self) -> bool:
        """Whether this is one of the sets with a published security level; everything else is for tests."""
        return self in SECURE_PARAMETERS


V1_5_2_2: Final = ClassicParameters(
    lwe_dimension=918,
    glwe_dimension=1,
    polynomial_size=2048,
    lwe_noise_bound_log2=45,
    glwe_noise_bound_log2=17,
    pbs_base_log=23,
    pbs_level=1,
    ks_base_log=4,
    ks_level=4,
    message_modulus=4,
    carry_modulus=4,
    max_noise_level=5,
    log2_p_fail=-129.581,
    modulus_switch=ModulusSwitch.CENTERED_MEAN,
    compact_lwe_dimension=2048,
    compact_noise_bound_log2=17,
)
"""``V1_5_PARAM_MESSAGE_2_CARRY_2_KS_PBS_TUNIFORM_2M128``, the set of fhevm: 128-bit security, failure 2^-129.6."""

TOY_2_2: Final = ClassicParameters(
    lwe_dimension=32,
    glwe_dimension=1,
    polynomial_size=512,
    lwe_noise_bound_log2=30,
    glwe_noise_bound_log2=17,
    pbs_base_log=23,
    pbs_level=1,
    ks_base_log=4,
    ks_level=4,
    message_modulus=4,
    carry_modulus=4,
    max_noise_level=5,
    log2_p_fail=-128.0,
    modulus_switch=ModulusSwitch.CENTERED_MEAN,
    compact_lwe_dimension=512,
    compact_noise_bound_log2=17,
)
"""No security at all; decrypts correctly and makes an end-to-end test a matter of a second."""

SECURE_PARAMETERS: Final[frozenset[ClassicParameters]] = frozenset({V1_5_2_2})


@dataclass(frozen=True, slots=True)
class CompressionParameters:
    """How ciphertexts are packed for storage and taken out again, TFHE-rs ``ClassicCompressionParameters``.

    Many LWE ciphertexts become one GLWE ciphertext under a key of its own (packing keyswitch), of which only the
    uppermost bits are kept. A bootstrap takes each of them out again, with the noise of a fresh one.
    """

    glwe_dimension: int
    polynomial_size: int
    lwe_per_glwe: int
    storage_log_modulus: int
    """Bits of a word that are kept."""
    packing_base_log: int
    packing_level: int
    packing_noise_bound_log2: int
    """Of TUniform, in the packing key; not part of server keys."""
    bootstrap_base_log: int
    bootstrap_level: int

    @property
    def lwe_dimension(self) -> int:
        """Dimension of what is taken out of a packed ciphertext, before its bootstrap."""
        return self.glwe_dimension * self.polynomial_size


V1_5_COMPRESSION: Final = CompressionParameters(
    glwe_dimension=4,
    polynomial_size=256,
    lwe_per_glwe=256,
    storage_log_modulus=12,
    packing_base_log=4,
    packing_level=3,
    packing_noise_bound_log2=43,
    bootstrap_base_log=23,
    bootstrap_level=1,
)
"""``V1_5_COMP_PARAM_MESSAGE_2_CARRY_2_KS_PBS_TUNIFORM_2M128``, which belongs to ``V1_5_2_2``."""

TOY_COMPRESSION: Final = CompressionParameters(
    glwe_dimension=2,
    polynomial_size=32,
    lwe_per_glwe=32,
    storage_log_modulus=10,
    packing_base_log=4,
    packing_level=3,
    packing_noise_bound_log2=30,
    bootstrap_base_log=23,
    bootstrap_level=1,
)
"""No security at all; belongs to ``TOY_2_2``. A 64-bit value fills just one packed ciphertext."""
