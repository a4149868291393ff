"""Server keys: from a TFHE-rs ``CompressedServerKey`` to arrays that executors use.

Decides which keys can be computed with (classic bootstrap, keyswitch first, 64-bit words, 2_2) and that nothing is
expanded before every dimension was compared with the others. Knows no executor and no Fourier transform.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coproc.tfhe.compression_key import find_compression
from coproc.tfhe.keys import EvaluationKey
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2, ClassicParameters, ModulusSwitch
from coproc.tfhe.seeded import expand
from coproc.tfhe.wire import WireError, read_object
from coproc.tfhe.wire.core import EncryptionKeyChoice, PBSOrder
from coproc.tfhe.wire.parameters import CenteredMeanModulusSwitch, StandardModulusSwitch, StandardPattern
from coproc.tfhe.wire.server_keys import CompressedClassicBootstrapKey, CompressedServerKey, CompressedStandardServerKey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from coproc.tfhe.compression_key import CompressionParts
    from coproc.tfhe.keys import PackingKey, UnpackingKey
    from coproc.tfhe.parameters import CompressionParameters
    from coproc.tfhe.wire.core import CiphertextModulus, SeededGgswCiphertextList, SeededLweKeyswitchKey
    from coproc.tfhe.wire.server_keys import BlockCompressedKeySwitchingKey

_NAMES: Final = {V1_5_2_2: "V1_5_PARAM_MESSAGE_2_CARRY_2_KS_PBS_TUNIFORM_2M128"}
_KNOWN: Final = (V1_5_2_2, TOY_2_2)
_MAX_KEY_BYTES: Final = 1 << 30
"""Bound of one expanded key; the published set takes 57 MiB for each of its two."""


@dataclass(frozen=True, slots=True)
class ServerKeyFacts:
    """The small part of a server key."""

    parameters: ClassicParameters
    tag: bytes
    casting_dimension: int
    """Dimension of the compact key whose lists can be cast to the compute key; 0: none can."""
    compression: CompressionParameters | None = None
    """How ciphertexts are packed under this key; None: they cannot be."""

    @property
    def has_casting_key(self) -> bool:
        """Whether compact lists can be cast to the compute key."""
        return self.casting_dimension > 0


@dataclass(frozen=True, slots=True, eq=False)
class CastingKey:
    """Keyswitch key from the dedicated compact key to the compute key, the small or the big one."""

    base_log: int
    level: int
    keyswitch_key: NDArray[np.uint64]
    """Shape ``(compact dimension, level, n+1)``, finest level first; ``k*N+1`` instead of ``n+1`` for the big key."""
    destination_is_big: bool = False
    """Whether it casts to the big key, so that an ordinary keyswitch and bootstrap follow."""


@dataclass(frozen=True, slots=True, eq=False)
class _Parsed:
    parameters: ClassicParameters
    tag: bytes
    keyswitch: SeededLweKeyswitchKey[np.uint64]
    ggsw: SeededGgswCiphertextList[np.uint64]
    casting: BlockCompressedKeySwitchingKey | None
    packing: CompressionParts | None


def parameters_name(parameters: ClassicParameters) -> str:
    """Return the published name of a parameter set, or ``insecure`` for every other one."""
    return _NAMES.get(parameters, "insecure")


def read_server_key_facts(data: bytes) -> ServerKeyFacts:
    """Check a serialized key and read its small part, in well under a millisecond; nothing is expanded.

    Raises:
        WireError: as ``load_server_key``.
    """
    parsed = _parse(data)
    compression = None if parsed.packing is None else parsed.packing.parameters
    return ServerKeyFacts(parsed.parameters, parsed.tag, _casting_dimension(parsed.casting), compression)


def load_server_key(data: bytes) -> EvaluationKey:
    """Read and expand the compute key of a TFHE-rs ``CompressedServerKey``; the other parts stay as they are.

    Noise laws and the failure probability are not part of a server key: a key with the dimensions of a known parameter
    set is taken for that set, and any other one has 0 in those fields.

    Raises:
        WireError: if the bytes are no such object, or a key of another kind: multi-bit, 32-bit keyswitch, small-key
            encryption, other moduli; or dimensions that do not fit together.
    """
    parsed = _parse(data)
    parameters = parsed.parameters
    n, k, size = parameters.lwe_dimension, parameters.glwe_dimension, parameters.polynomial_size
    keyswitch_key = expand(parsed.keyswitch.compression_seed, parsed.keyswitch.data.reshape(-1, 1), n)
    keyswitch_key = keyswitch_key.reshape(k * size, parameters.ks_level, n + 1)
    bootstrap_key = expand(parsed.ggsw.compression_seed, parsed.ggsw.data.reshape(-1, size), k * size)
    bootstrap_key = bootstrap_key.reshape(n, parameters.pbs_level, k + 1, k + 1, size)
    keyswitch_key.flags.writeable = False
    bootstrap_key.flags.writeable = False
    return EvaluationKey(
        hashlib.sha256(data).digest(),
        parameters,
        parsed.tag,
        keyswitch_key,
        bootstrap_key,
        _casting_dimension(parsed.casting),
        None if parsed.packing is None else parsed.packing.parameters,
    )


def load_packing_key(data: bytes) -> PackingKey:
    """Read and expand what packs ciphertexts for storage.

    Raises:
        WireError: as ``load_server_key``, or if the key has no such part, or one of a kind that is not supported.
    """
    return _parts_of_compression(data).packing_key()


def load_unpacking_key(data: bytes) -> UnpackingKey:
    """Read and expand what takes packed ciphertexts out. Raises like ``load_packing_key``."""
    return _parts_of_compression(data).unpacking_key()


def _parts_of_compression(data: bytes) -> CompressionParts:
    parts = _parse(data).packing
    if parts is None:
        raise WireError("CompressedServerKey", "expected a key that compresses ciphertexts, got none that can be used")
    return parts


def load_casting_key(data: bytes) -> CastingKey:
    """Read and expand what casts compact lists to the compute key.

    Raises:
        WireError: as ``load_server_key``, or if the key has no such part, or one that casts elsewhere.
    """
    parsed = _parse(data)
    if parsed.casting is None:
        raise WireError("CompressedServerKey", "expected a key that casts compact lists, got none")
    casting = parsed.casting
    key = casting.key_switching_key
    is_big = casting.destination_key is EncryptionKeyChoice.BIG
    n = parsed.parameters.big_lwe_dimension if is_big else parsed.parameters.lwe_dimension
    words = expand(key.compression_seed, key.data.reshape(-1, 1), n).reshape(-1, key.decomp_level_count, n + 1)
    words.flags.writeable = False
    return CastingKey(key.decomp_base_log, key.decomp_level_count, words, is_big)


# ------------------------------------------------------------------------------------------------ checks
def _parse(data: bytes) -> _Parsed:
    value = read_object(data, CompressedServerKey)
    key = value.integer_key.key
    pattern = key.compressed_ap_server_key
    name = "CompressedServerKey"
    if not isinstance(pattern, CompressedStandardServerKey):
        raise WireError(name, "expected the standard atomic pattern, got the one with a 32-bit keyswitch")
    if pattern.pbs_order is not PBSOrder.KEYSWITCH_BOOTSTRAP:
        raise WireError(name, "expected keyswitch before bootstrap, got the reverse")
    bootstrap = pattern.bootstrapping_key
    if not isinstance(bootstrap, CompressedClassicBootstrapKey):
        raise WireError(name, "expected a classic bootstrap key, got a multi-bit one")
    switch = bootstrap.modulus_switch_noise_reduction_key
    if isinstance(switch, CenteredMeanModulusSwitch):
        modulus_switch = ModulusSwitch.CENTERED_MEAN
    elif isinstance(switch, StandardModulusSwitch):
        modulus_switch = ModulusSwitch.STANDARD
    else:
        raise WireError(name, "expected a standard or centred-mean modulus switch, got the drift technique")
    got = (key.message_modulus, key.carry_modulus, key.max_degree)
    if got != (4, 4, 12):
        raise WireError(name, f"expected message modulus 4, carry modulus 4 and maximal degree 12, got {got}")
    ggsw, keyswitch = bootstrap.bsk.ggsw_list, pattern.key_switching_key
    casting = value.integer_key.cpk_key_switching_key_material
    parameters = _recognise(
        ClassicParameters(
            lwe_dimension=keyswitch.output_lwe_size - 1,
            glwe_dimension=ggsw.glwe_size - 1,
            polynomial_size=ggsw.polynomial_size,
            lwe_noise_bound_log2=0,
            glwe_noise_bound_log2=0,
            pbs_base_log=ggsw.decomp_base_log,
            pbs_level=ggsw.decomp_level_count,
            ks_base_log=keyswitch.decomp_base_log,
            ks_level=keyswitch.decomp_level_count,
            message_modulus=key.message_modulus,
            carry_modulus=key.carry_modulus,
            max_noise_level=key.max_noise_level,
            log2_p_fail=0.0,
            modulus_switch=modulus_switch,
            compact_lwe_dimension=_casting_dimension(casting),
            compact_noise_bound_log2=0,
        )
    )
    _check_shapes(parameters, keyswitch, ggsw)
    if casting is not None:
        _check_casting(parameters, casting)
    packing = find_compression(value.integer_key, parameters)
    return _Parsed(parameters, value.tag, keyswitch, ggsw, casting, packing)


def _recognise(found: ClassicParameters) -> ClassicParameters:
    """Return the known parameter set with these dimensions, if there is one."""
    return next((known for known in _KNOWN if _dimensions(known) == _dimensions(found)), found)


def _dimensions(parameters: ClassicParameters) -> tuple[int, ...]:
    return (
        parameters.lwe_dimension,
        parameters.glwe_dimension,
        parameters.polynomial_size,
        parameters.pbs_base_log,
        parameters.pbs_level,
        parameters.ks_base_log,
        parameters.ks_level,
        parameters.message_modulus,
        parameters.carry_modulus,
        parameters.max_noise_level,
        parameters.modulus_switch.value,
    )


def _check_shapes(
    parameters: ClassicParameters,
    keyswitch: SeededLweKeyswitchKey[np.uint64],
    ggsw: SeededGgswCiphertextList[np.uint64],
) -> None:
    n, k, size = parameters.lwe_dimension, parameters.glwe_dimension, parameters.polynomial_size
    if size & (size - 1):
        raise WireError("SeededLweBootstrapKey", f"expected a power of two as polynomial size, got {size}")
    for name, base_log, level in (
        ("SeededLweKeyswitchKey", parameters.ks_base_log, parameters.ks_level),
        ("SeededLweBootstrapKey", parameters.pbs_base_log, parameters.pbs_level),
    ):
        if base_log * level > 64:
            raise WireError(name, f"expected at most 64 bits of decomposition, got {level} levels of {base_log} bits")
    _check_native("SeededLweKeyswitchKey", keyswitch.ciphertext_modulus)
    _check_native("SeededLweBootstrapKey", ggsw.ciphertext_modulus)
    bodies = k * size * parameters.ks_level
    if keyswitch.data.size != bodies:
        raise WireError("SeededLweKeyswitchKey", f"expected {bodies} bodies, got {keyswitch.data.size}")
    bodies = n * parameters.pbs_level * (k + 1) * size
    if ggsw.data.size != bodies:
        raise WireError("SeededLweBootstrapKey", f"expected {bodies} words, got {ggsw.data.size}")
    _check_size("SeededLweKeyswitchKey", keyswitch.data.size * (n + 1))
    _check_size("SeededLweBootstrapKey", ggsw.data.size * (k + 1))


def _casting_dimension(casting: BlockCompressedKeySwitchingKey | None) -> int:
    if casting is None:
        return 0
    return casting.key_switching_key.data.size // max(1, casting.key_switching_key.decomp_level_count)


def _check_casting(parameters: ClassicParameters, casting: BlockCompressedKeySwitchingKey) -> None:
    name, key = "CompressedKeySwitchingKeyMaterial", casting.key_switching_key
    if casting.cast_rshift:
        raise WireError(name, f"expected a cast without a shift, got {casting.cast_rshift}")
    if not isinstance(casting.destination_atomic_pattern, StandardPattern):
        raise WireError(name, "expected a cast to the standard atomic pattern")
    is_big = casting.destination_key is EncryptionKeyChoice.BIG
    n = parameters.big_lwe_dimension if is_big else parameters.lwe_dimension
    _check_native(name, key.ciphertext_modulus)
    if key.output_lwe_size != n + 1:
        raise WireError(name, f"expected output size {n + 1}, got {key.output_lwe_size}")
    base_log, level = key.decomp_base_log, key.decomp_level_count
    if base_log < 1 or level < 1 or base_log * level > 64:
        raise WireError(name, f"expected 1 to 64 bits of decomposition, got {level} levels of {base_log} bits")
    if key.data.size == 0 or key.data.size % level:
        raise WireError(name, f"expected {level} bodies for each word, got {key.data.size} in all")
    _check_size(name, key.data.size * (n + 1))


def _check_native(name: str, modulus: CiphertextModulus) -> None:
    if not modulus.is_native():
        raise WireError(name, f"expected the modulus 2^64, got {modulus.modulus} on {modulus.scalar_bits} bits")


def _check_size(name: str, words: int) -> None:
    if 8 * words > _MAX_KEY_BYTES:
        raise WireError(name, f"expected at most {_MAX_KEY_BYTES} bytes expanded, got {8 * words}")
