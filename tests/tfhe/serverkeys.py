"""Compressed server keys of random words: of the right shape, though no secret fits them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coproc.tfhe.parameters import TOY_2_2, ClassicParameters, ModulusSwitch
from coproc.tfhe.wire.core import (
    NATIVE_MODULUS,
    AesCtrParams,
    CtrSeed,
    EncryptionKeyChoice,
    PBSOrder,
    SeededGgswCiphertextList,
    SeededLweBootstrapKey,
    SeededLweKeyswitchKey,
    TableIndex,
)
from coproc.tfhe.wire.parameters import CenteredMeanModulusSwitch, StandardModulusSwitch, StandardPattern
from coproc.tfhe.wire.server_keys import (
    BlockCompressedKeySwitchingKey,
    BlockCompressedServerKey,
    CompressedClassicBootstrapKey,
    CompressedServerKey,
    CompressedStandardServerKey,
    IntegerCompressedServerKey,
)

LEGACY_START = TableIndex(0, 1)


def seed(number: int, start: TableIndex = LEGACY_START) -> AesCtrParams:
    return AesCtrParams(CtrSeed(number), start)


def compressed_server_key(
    parameters: ClassicParameters = TOY_2_2, *, tag: bytes = b"", casting: bool = True
) -> CompressedServerKey:
    """Make a key with the dimensions of a parameter set."""
    rng = np.random.default_rng(5)
    n, k, size = parameters.lwe_dimension, parameters.glwe_dimension, parameters.polynomial_size

    def words(count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        return rng.integers(0, 1 << 64, count, dtype=np.uint64)

    def keyswitch(dimension: int, number: int) -> SeededLweKeyswitchKey[np.uint64]:
        bodies = words(dimension * parameters.ks_level)
        return SeededLweKeyswitchKey(
            bodies, parameters.ks_base_log, parameters.ks_level, n + 1, seed(number), NATIVE_MODULUS
        )

    ggsw = SeededGgswCiphertextList(
        words(n * parameters.pbs_level * (k + 1) * size),
        k + 1,
        size,
        parameters.pbs_base_log,
        parameters.pbs_level,
        seed(2),
        NATIVE_MODULUS,
    )
    centred = parameters.modulus_switch is ModulusSwitch.CENTERED_MEAN
    bootstrap = CompressedClassicBootstrapKey[np.uint64](
        SeededLweBootstrapKey(ggsw), CenteredMeanModulusSwitch() if centred else StandardModulusSwitch()
    )
    block = BlockCompressedServerKey(
        CompressedStandardServerKey(keyswitch(k * size, 1), bootstrap, PBSOrder.KEYSWITCH_BOOTSTRAP),
        message_modulus=parameters.message_modulus,
        carry_modulus=parameters.carry_modulus,
        max_degree=parameters.plaintext_modulus - parameters.message_modulus,
        max_noise_level=parameters.max_noise_level,
    )
    material = BlockCompressedKeySwitchingKey(
        keyswitch(parameters.compact_lwe_dimension, 3), 0, EncryptionKeyChoice.SMALL, StandardPattern()
    )
    return CompressedServerKey(
        IntegerCompressedServerKey(block, material if casting else None, None, None, None, None, None, None), tag
    )


def with_pattern(key: CompressedServerKey, **changes: object) -> CompressedServerKey:
    """Change fields of the innermost standard server key."""
    block = key.integer_key.key
    pattern = replace(block.compressed_ap_server_key, **changes)  # type: ignore[arg-type]
    return with_block(key, compressed_ap_server_key=pattern)


def with_block(key: CompressedServerKey, **changes: object) -> CompressedServerKey:
    """Change fields of the block-level server key."""
    block = replace(key.integer_key.key, **changes)  # type: ignore[arg-type]
    return replace(key, integer_key=replace(key.integer_key, key=block))
