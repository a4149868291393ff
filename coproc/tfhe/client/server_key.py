"""Making a compressed server key: all masks come from seeds, only bodies are kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.tfhe.csprng import SecretRandom, mask_words, new_seed
from coproc.tfhe.glwe import BinaryPolynomial, ggsw_messages
from coproc.tfhe.lwe import bodies, keyswitch_messages
from coproc.tfhe.parameters import ClassicParameters, CompressionParameters, ModulusSwitch
from coproc.tfhe.wire import write_object
from coproc.tfhe.wire.core import (
    NATIVE_MODULUS,
    EncryptionKeyChoice,
    PBSOrder,
    SeededGgswCiphertextList,
    SeededLweBootstrapKey,
    SeededLweKeyswitchKey,
    SeededLwePackingKeyswitchKey,
)
from coproc.tfhe.wire.parameters import CenteredMeanModulusSwitch, StandardModulusSwitch, StandardPattern
from coproc.tfhe.wire.server_keys import (
    BlockCompressedCompressionKey,
    BlockCompressedDecompressionKey,
    BlockCompressedKeySwitchingKey,
    BlockCompressedServerKey,
    CompressedClassicBootstrapKey,
    CompressedServerKey,
    CompressedStandardServerKey,
    IntegerCompressedServerKey,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_ROWS_AT_ONCE: Final = 512
"""Rows of the packing key that are made together."""
_BITS_AT_ONCE: Final = 64
"""Bits of the small key whose GGSW ciphertexts are made together: a few tens of MiB of transforms."""


@dataclass(frozen=True, slots=True, eq=False)
class CompressionSecret:
    """The key that packed ciphertexts are under."""

    parameters: CompressionParameters
    glwe_key: NDArray[np.uint64] = field(repr=False)
    """Shape ``(k', N')``, bits."""


def compressed_server_key(
    parameters: ClassicParameters,
    small_key: NDArray[np.uint64],
    glwe_key: NDArray[np.uint64],
    compact_key: NDArray[np.uint64] | None,
    compression: CompressionSecret | None,
    tag: bytes,
    progress: Callable[[float], None],
) -> bytes:
    """Make keyswitch key, bootstrap key, what casts from the compact key and what compresses, if asked; serialized."""
    progress(0.0)
    share_of_compute = 0.95 if compression is None else 0.45
    keyswitch = _keyswitch_key(parameters, glwe_key.reshape(-1), small_key)
    bootstrap = _bootstrap_key(
        parameters, small_key, glwe_key, lambda share: progress(0.02 + (share_of_compute - 0.02) * share)
    )
    packing = unpacking = None
    if compression is not None:
        about = compression.parameters
        packing = BlockCompressedCompressionKey(
            _packing_key(about, glwe_key.reshape(-1), compression.glwe_key),
            about.lwe_per_glwe,
            about.storage_log_modulus,
        )
        changed = replace(
            parameters,
            pbs_base_log=about.bootstrap_base_log,
            pbs_level=about.bootstrap_level,
            modulus_switch=ModulusSwitch.STANDARD,
        )
        bits = compression.glwe_key.reshape(-1)
        unpacking = BlockCompressedDecompressionKey(
            _bootstrap_key(changed, bits, glwe_key, lambda share: progress(0.5 + 0.45 * share)), about.lwe_per_glwe
        )
    casting = None
    if compact_key is not None:
        casting = BlockCompressedKeySwitchingKey(
            _keyswitch_key(parameters, compact_key, small_key), 0, EncryptionKeyChoice.SMALL, StandardPattern()
        )
    block = BlockCompressedServerKey(
        CompressedStandardServerKey(keyswitch, bootstrap, PBSOrder.KEYSWITCH_BOOTSTRAP),
        message_modulus=parameters.message_modulus,
        carry_modulus=parameters.carry_modulus,
        max_degree=parameters.plaintext_modulus - parameters.carry_modulus,
        max_noise_level=parameters.max_noise_level,
    )
    key = IntegerCompressedServerKey(block, casting, packing, unpacking, None, None, None, None)
    data = write_object(CompressedServerKey(key, tag))
    progress(1.0)
    return data


def _keyswitch_key(
    parameters: ClassicParameters, source: NDArray[np.uint64], target: NDArray[np.uint64]
) -> SeededLweKeyswitchKey[np.uint64]:
    seed, level = new_seed(), parameters.ks_level
    rows = len(source) * level
    masks = mask_words(seed, 0, rows * len(target)).reshape(rows, len(target))
    messages = keyswitch_messages(source, parameters.ks_base_log, level).reshape(-1)
    noise = SecretRandom().tuniform(parameters.lwe_noise_bound_log2, (rows,))
    return SeededLweKeyswitchKey[np.uint64](
        bodies(masks, target, messages + noise), parameters.ks_base_log, level, len(target) + 1, seed, NATIVE_MODULUS
    )


def _packing_key(
    compression: CompressionParameters, source: NDArray[np.uint64], target: NDArray[np.uint64]
) -> SeededLwePackingKeyswitchKey[np.uint64]:
    seed, level = new_seed(), compression.packing_level
    k, size = target.shape
    rows = len(source) * level
    result = SecretRandom().tuniform(compression.packing_noise_bound_log2, (rows, size))
    result[:, 0] += keyswitch_messages(source, compression.packing_base_log, level).reshape(-1)
    polynomials = [BinaryPolynomial(part) for part in target]
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = result[start : start + _ROWS_AT_ONCE]
        masks = mask_words(seed, start * k * size, len(part) * k * size).reshape(len(part), k, size)
        for index, polynomial in enumerate(polynomials):
            part += polynomial.times(masks[:, index])
    return SeededLwePackingKeyswitchKey[np.uint64](
        result.reshape(-1), compression.packing_base_log, level, k + 1, size, seed, NATIVE_MODULUS
    )


def _bootstrap_key(
    parameters: ClassicParameters,
    small_key: NDArray[np.uint64],
    glwe_key: NDArray[np.uint64],
    progress: Callable[[float], None],
) -> CompressedClassicBootstrapKey[np.uint64]:
    seed, random = new_seed(), SecretRandom()
    k, size = glwe_key.shape
    level = parameters.pbs_level
    polynomials = [BinaryPolynomial(part) for part in glwe_key]
    result = np.empty((len(small_key), level, k + 1, size), dtype=np.uint64)
    words = level * (k + 1) * k * size
    for start in range(0, len(small_key), _BITS_AT_ONCE):
        bits = small_key[start : start + _BITS_AT_ONCE]
        masks = mask_words(seed, start * words, len(bits) * words).reshape(len(bits), level, k + 1, k, size)
        part = ggsw_messages(bits, glwe_key, parameters.pbs_base_log, level)
        part += random.tuniform(parameters.glwe_noise_bound_log2, part.shape)
        for index, polynomial in enumerate(polynomials):
            part += polynomial.times(masks[..., index, :])
        result[start : start + len(bits)] = part
        progress((start + len(bits)) / len(small_key))
    ggsw = SeededGgswCiphertextList[np.uint64](
        result.reshape(-1), k + 1, size, parameters.pbs_base_log, level, seed, NATIVE_MODULUS
    )
    centred = parameters.modulus_switch is ModulusSwitch.CENTERED_MEAN
    return CompressedClassicBootstrapKey[np.uint64](
        SeededLweBootstrapKey[np.uint64](ggsw), CenteredMeanModulusSwitch() if centred else StandardModulusSwitch()
    )
