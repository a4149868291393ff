"""Parameter sets between our form and the one that travels inside client keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coproc.tfhe.client.server_key import CompressionSecret
from coproc.tfhe.parameters import ClassicParameters, CompressionParameters, ModulusSwitch
from coproc.tfhe.wire import WireError
from coproc.tfhe.wire.core import NATIVE_MODULUS, EncryptionKeyChoice, TUniform
from coproc.tfhe.wire.parameters import (
    CenteredMeanModulusSwitch,
    ClassicCompressionParameters,
    ClassicPBSParameters,
    CompactPublicKeyEncryptionParameters,
    KeySwitchingParameters,
    RequiresCasting,
    StandardModulusSwitch,
    ZkScheme,
)

if TYPE_CHECKING:
    from coproc.tfhe.wire.core import Gaussian
    from coproc.tfhe.wire.keys import CompactPrivateKey, CompressionPrivateKeys


def wire_parameters(parameters: ClassicParameters) -> ClassicPBSParameters:
    """Write the bootstrap's parameters."""
    centred = parameters.modulus_switch is ModulusSwitch.CENTERED_MEAN
    return ClassicPBSParameters(
        lwe_dimension=parameters.lwe_dimension,
        glwe_dimension=parameters.glwe_dimension,
        polynomial_size=parameters.polynomial_size,
        lwe_noise_distribution=TUniform(parameters.lwe_noise_bound_log2),
        glwe_noise_distribution=TUniform(parameters.glwe_noise_bound_log2),
        pbs_base_log=parameters.pbs_base_log,
        pbs_level=parameters.pbs_level,
        ks_base_log=parameters.ks_base_log,
        ks_level=parameters.ks_level,
        message_modulus=parameters.message_modulus,
        carry_modulus=parameters.carry_modulus,
        max_noise_level=parameters.max_noise_level,
        log2_p_fail=parameters.log2_p_fail,
        ciphertext_modulus=NATIVE_MODULUS,
        encryption_key_choice=EncryptionKeyChoice.BIG,
        modulus_switch_noise_reduction_params=CenteredMeanModulusSwitch() if centred else StandardModulusSwitch(),
    )


def compact_parameters(parameters: ClassicParameters) -> CompactPublicKeyEncryptionParameters:
    """Write the parameters of the dedicated compact public key."""
    return CompactPublicKeyEncryptionParameters(
        encryption_lwe_dimension=parameters.compact_lwe_dimension,
        encryption_noise_distribution=TUniform(parameters.compact_noise_bound_log2),
        message_modulus=parameters.message_modulus,
        carry_modulus=parameters.carry_modulus,
        ciphertext_modulus=NATIVE_MODULUS,
        expansion_kind=RequiresCasting(),
        zk_scheme=ZkScheme.V2,
    )


def casting_parameters(parameters: ClassicParameters) -> KeySwitchingParameters:
    """Write how compact ciphertexts are switched to the small compute key."""
    return KeySwitchingParameters(parameters.ks_base_log, parameters.ks_level, EncryptionKeyChoice.SMALL)


def read_parameters(
    block: ClassicPBSParameters, dedicated: tuple[CompactPrivateKey, KeySwitchingParameters] | None
) -> ClassicParameters:
    """Read the parameters of a client key.

    Raises:
        WireError: of a kind that coproc does not compute with.
    """
    if block.encryption_key_choice is not EncryptionKeyChoice.BIG or not block.ciphertext_modulus.is_native():
        raise WireError("ClientKey", "expected ciphertexts under the big key modulo 2^64")
    switch = block.modulus_switch_noise_reduction_params
    if isinstance(switch, CenteredMeanModulusSwitch):
        modulus_switch = ModulusSwitch.CENTERED_MEAN
    elif isinstance(switch, StandardModulusSwitch):
        modulus_switch = ModulusSwitch.STANDARD
    else:
        modulus_switch = ModulusSwitch.DRIFT
    compact = None if dedicated is None else dedicated[0].parameters
    return ClassicParameters(
        lwe_dimension=block.lwe_dimension,
        glwe_dimension=block.glwe_dimension,
        polynomial_size=block.polynomial_size,
        lwe_noise_bound_log2=_bound(block.lwe_noise_distribution),
        glwe_noise_bound_log2=_bound(block.glwe_noise_distribution),
        pbs_base_log=block.pbs_base_log,
        pbs_level=block.pbs_level,
        ks_base_log=block.ks_base_log,
        ks_level=block.ks_level,
        message_modulus=block.message_modulus,
        carry_modulus=block.carry_modulus,
        max_noise_level=block.max_noise_level,
        log2_p_fail=block.log2_p_fail,
        modulus_switch=modulus_switch,
        compact_lwe_dimension=block.polynomial_size if compact is None else compact.encryption_lwe_dimension,
        compact_noise_bound_log2=17 if compact is None else _bound(compact.encryption_noise_distribution),
    )


def compression_parameters(parameters: CompressionParameters) -> ClassicCompressionParameters:
    """Write the parameters of compression."""
    return ClassicCompressionParameters(
        br_level=parameters.bootstrap_level,
        br_base_log=parameters.bootstrap_base_log,
        packing_ks_level=parameters.packing_level,
        packing_ks_base_log=parameters.packing_base_log,
        packing_ks_polynomial_size=parameters.polynomial_size,
        packing_ks_glwe_dimension=parameters.glwe_dimension,
        lwe_per_glwe=parameters.lwe_per_glwe,
        storage_log_modulus=parameters.storage_log_modulus,
        packing_ks_key_noise_distribution=TUniform(parameters.packing_noise_bound_log2),
    )


def read_compression(keys: CompressionPrivateKeys | None) -> CompressionSecret | None:
    """Read the key of compression; None where there is none, or one that is taken apart by multi-bit bootstraps.

    Raises:
        WireError: its bits contradict its parameters.
    """
    if keys is None or not isinstance(keys.params, ClassicCompressionParameters):
        return None
    about = keys.params
    parameters = CompressionParameters(
        glwe_dimension=about.packing_ks_glwe_dimension,
        polynomial_size=about.packing_ks_polynomial_size,
        lwe_per_glwe=about.lwe_per_glwe,
        storage_log_modulus=about.storage_log_modulus,
        packing_base_log=about.packing_ks_base_log,
        packing_level=about.packing_ks_level,
        packing_noise_bound_log2=_bound(about.packing_ks_key_noise_distribution),
        bootstrap_base_log=about.br_base_log,
        bootstrap_level=about.br_level,
    )
    words = np.array(keys.post_packing_ks_key.data, dtype=np.uint64)
    if words.size != parameters.lwe_dimension or int(words.max(initial=0)) > 1:
        raise WireError("CompressionPrivateKeys", f"expected {parameters.lwe_dimension} bits, got {words.size} words")
    return CompressionSecret(parameters, words.reshape(parameters.glwe_dimension, parameters.polynomial_size))


def _bound(noise: Gaussian | TUniform) -> int:
    if not isinstance(noise, TUniform):
        raise WireError("ClientKey", "expected TUniform noise, got Gaussian")
    return noise.bound_log2
