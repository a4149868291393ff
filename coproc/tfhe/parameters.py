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
