"""The parts of a server key that compress ciphertexts: from the wire to arrays.

Decides which of them can be used: classic ones, whose bootstrap gives ciphertexts of the compute key. A key with others
(multi-bit decompression, for instance) computes all the same, and its ciphertexts are stored as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coproc.tfhe.keys import PackingKey, UnpackingKey
from coproc.tfhe.parameters import TORUS_BITS, CompressionParameters
from coproc.tfhe.seeded import expand
from coproc.tfhe.wire.parameters import StandardModulusSwitch
from coproc.tfhe.wire.server_keys import CompressedClassicBootstrapKey

if TYPE_CHECKING:
    import numpy as np

    from coproc.tfhe.parameters import ClassicParameters
    from coproc.tfhe.wire.core import SeededGgswCiphertextList, SeededLwePackingKeyswitchKey
    from coproc.tfhe.wire.server_keys import IntegerCompressedServerKey

_MAX_KEY_BYTES: Final = 1 << 29
"""Bound of one expanded part; the published set takes 60 and 64 MiB."""
_MAX_POLYNOMIAL_SIZE: Final = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class CompressionParts:
    """Both parts as they came, checked against each other."""

    parameters: CompressionParameters
    big_lwe_dimension: int
    packing: SeededLwePackingKeyswitchKey[np.uint64]
    ggsw: SeededGgswCiphertextList[np.uint64]

    def packing_key(self) -> PackingKey:
        """Expand what packs."""
        size = self.parameters.polynomial_size
        key = self.packing
        rows = expand(key.compression_seed, key.data.reshape(-1, size), self.parameters.lwe_dimension)
        rows.flags.writeable = False
        return PackingKey(self.parameters, rows)

    def unpacking_key(self) -> UnpackingKey:
        """Expand what takes out."""
        size, glwe_size = self.ggsw.polynomial_size, self.ggsw.glwe_size
        words = expand(self.ggsw.compression_seed, self.ggsw.data.reshape(-1, size), (glwe_size - 1) * size)
        level = self.parameters.bootstrap_level
        words = words.reshape(self.parameters.lwe_dimension, level, glwe_size, glwe_size, size)
        words.flags.writeable = False
        return UnpackingKey(self.parameters, words)


def find_compression(key: IntegerCompressedServerKey, parameters: ClassicParameters) -> CompressionParts | None:
    """Find the parts that compress ciphertexts of the compute key; None if there are none that can be used."""
    compression, decompression = key.compression_key, key.decompression_key
    if compression is None or decompression is None:
        return None
    bootstrap = decompression.bsk
    if not isinstance(bootstrap, CompressedClassicBootstrapKey) or not isinstance(
        bootstrap.modulus_switch_noise_reduction_key, StandardModulusSwitch
    ):
        return None
    packing, ggsw = compression.packing_key_switching_key, bootstrap.bsk.ggsw_list
    found = CompressionParameters(
        glwe_dimension=packing.output_glwe_size - 1,
        polynomial_size=packing.output_polynomial_size,
        lwe_per_glwe=compression.lwe_per_glwe,
        storage_log_modulus=compression.storage_log_modulus,
        packing_base_log=packing.decomp_base_log,
        packing_level=packing.decomp_level_count,
        packing_noise_bound_log2=0,
        bootstrap_base_log=ggsw.decomp_base_log,
        bootstrap_level=ggsw.decomp_level_count,
    )
    size = found.polynomial_size
    rows = parameters.big_lwe_dimension * found.packing_level
    words = found.lwe_dimension * found.bootstrap_level * ggsw.glwe_size * ggsw.polynomial_size
    fits = (
        found.glwe_dimension >= 1
        and 1 <= found.lwe_per_glwe <= size <= _MAX_POLYNOMIAL_SIZE
        and decompression.lwe_per_glwe == found.lwe_per_glwe
        and 4 <= found.storage_log_modulus <= (2 * parameters.polynomial_size).bit_length() - 1
        and found.packing_base_log * found.packing_level < TORUS_BITS
        # The sums of the packing keyswitch stay exact in doubles, and digits of 4 bits carry what is stored.
        and found.packing_base_log + rows.bit_length() <= 21
        and found.lwe_dimension <= parameters.big_lwe_dimension
        and found.bootstrap_base_log * found.bootstrap_level <= TORUS_BITS
        and packing.ciphertext_modulus.is_native()
        and ggsw.ciphertext_modulus.is_native()
        and (ggsw.glwe_size - 1, ggsw.polynomial_size) == (parameters.glwe_dimension, parameters.polynomial_size)
        and packing.data.size == rows * size
        and ggsw.data.size == words
        and 8 * rows * (found.lwe_dimension + size) <= _MAX_KEY_BYTES
        and 8 * words * ggsw.glwe_size <= _MAX_KEY_BYTES
    )
    return CompressionParts(found, parameters.big_lwe_dimension, packing, ggsw) if fits else None
