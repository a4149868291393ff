"""Packing ciphertexts for storage, and bringing them back on any executor.

Decides how the two keys of compression are used. Packing is exact integer arithmetic, with the bits of TFHE-rs: a
keyswitch to polynomials, each shifted to a place of its own. Taking out is a bootstrap with a key of its own; so that
every executor can do it as it does all others, the ciphertexts pass a keyswitch that changes nothing. It must not know
which executor runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.executors.casting import PreparedCasting
from coproc.tfhe.lwe import gadget
from coproc.tfhe.parameters import TORUS_BITS, ModulusSwitch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.executors.base import Executor
    from coproc.tfhe.keys import EvaluationKey, PackingKey, UnpackingKey

_ROWS_AT_ONCE: Final = 768
"""Rows of the packing key that are turned into doubles at once: a few MB."""
_HALF_WORD: Final = 32
_IDENTITY_BASE_LOG: Final = 4


def pack(values: Sequence[NDArray[np.uint64]], key: PackingKey, message_modulus: int) -> list[list[NDArray[np.uint64]]]:
    """Pack clean blocks, every value by itself; many values at once cost little more than one.

    Args:
        values: each of shape ``(blocks, k*N+1)``, without carries and of nominal noise.
        key: the packing key.
        message_modulus: what messages are multiplied by, so that they fill the carry space.

    Returns:
        Of each value, for every ``lwe_per_glwe`` blocks ``k'*N'`` mask words, then a body word a block.
    """
    parameters = key.parameters
    each, dimension = parameters.lwe_per_glwe, parameters.lwe_dimension
    switched = _packing_keyswitch(np.concatenate(values) * np.uint64(message_modulus), key)
    result: list[list[NDArray[np.uint64]]] = []
    first = 0
    for value in values:
        packed: list[NDArray[np.uint64]] = []
        for start in range(first, first + len(value), each):
            part = switched[start : min(start + each, first + len(value))]
            packed.append(_shift_and_add(part, parameters.polynomial_size).reshape(-1)[: dimension + len(part)])
        result.append(packed)
        first += len(value)
    return result


def _packing_keyswitch(ciphertexts: NDArray[np.uint64], key: PackingKey) -> NDArray[np.uint64]:
    """Keyswitch every ciphertext to a constant polynomial: shape ``(blocks, (k'+1)*N')``.

    The digits are small and the key's words are cut in two, so that products of doubles are exact.
    """
    parameters = key.parameters
    digits = _balanced_digits(ciphertexts[:, :-1], parameters.packing_base_log, parameters.packing_level)
    factors = digits.reshape(len(ciphertexts), len(key.rows)).astype(np.float64)
    low = np.zeros((len(ciphertexts), key.rows.shape[1]))
    high = np.zeros_like(low)
    for start in range(0, len(key.rows), _ROWS_AT_ONCE):
        rows, part = key.rows[start : start + _ROWS_AT_ONCE], factors[:, start : start + _ROWS_AT_ONCE]
        low += part @ (rows & np.uint64(0xFFFF_FFFF)).astype(np.float64)
        high += part @ (rows >> np.uint64(_HALF_WORD)).astype(np.float64)
    product = low.astype(np.int64).view(np.uint64) + (high.astype(np.int64).view(np.uint64) << np.uint64(_HALF_WORD))
    result: NDArray[np.uint64] = np.uint64(0) - product
    result[:, parameters.lwe_dimension] += ciphertexts[:, -1]
    return result


def _balanced_digits(words: NDArray[np.uint64], base_log: int, level: int) -> NDArray[np.int64]:
    """Decompose torus words as TFHE-rs 1.5 does, least significant digit first: shape ``(*words.shape, level)``.

    Other than in ``gadget_digits``, a rounded word of more than half a turn counts as negative, so that its last digit
    may be ``-B/2``. Both digits stand for the same message, not the same bits.
    """
    bits, one = base_log * level, np.uint64(1)
    rounded = ((words >> np.uint64(TORUS_BITS - 1 - bits)) + one) >> one
    rounded &= np.uint64((1 << bits) - 1)
    is_negative = ((rounded - one) & rounded) >> np.uint64(bits - 1)
    state = (rounded - (is_negative << np.uint64(bits))).view(np.int64)
    digits = np.empty((*words.shape, level), dtype=np.int64)
    for index in range(level):
        digit = state & ((1 << base_log) - 1)
        state >>= base_log
        carry = (((digit - 1) | state) & digit) >> (base_log - 1)
        state += carry
        digits[..., index] = digit - (carry << base_log)
    return digits


def _shift_and_add(rows: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """Sum row i times ``X^i`` up, modulo ``X^N + 1``; rows of shape ``(blocks, (k'+1)*N')``."""
    polynomials = rows.reshape(len(rows), -1, size)
    source = np.subtract.outer(np.arange(size), np.arange(len(rows))).T  # (blocks, N): coefficient j comes from j - i
    shifted = np.take_along_axis(polynomials, (source % size)[:, np.newaxis, :], axis=2)
    shifted = np.where((source < 0)[:, np.newaxis, :], np.uint64(0) - shifted, shifted)
    result: NDArray[np.uint64] = shifted.sum(axis=0, dtype=np.uint64)
    return result


def prepare_unpacking(executor: Executor, key: EvaluationKey, unpacking: UnpackingKey) -> PreparedCasting:
    """Bring the key that takes ciphertexts out into the executor's layout.

    Its keyswitch leaves ciphertexts of ``storage_log_modulus`` bits as they are: noiseless rows, exact digits.

    Raises:
        InvalidInput: the executor refuses the parameters.
    """
    compression = unpacking.parameters
    dimension = compression.lwe_dimension
    level = -(-compression.storage_log_modulus // _IDENTITY_BASE_LOG)
    identity = np.zeros((key.parameters.big_lwe_dimension, level, dimension + 1), dtype=np.uint64)
    places = np.arange(dimension)
    identity[places, :, places] = np.uint64(0) - gadget(_IDENTITY_BASE_LOG, level)
    parameters = replace(
        key.parameters,
        lwe_dimension=dimension,
        pbs_base_log=compression.bootstrap_base_log,
        pbs_level=compression.bootstrap_level,
        ks_base_log=_IDENTITY_BASE_LOG,
        ks_level=level,
        modulus_switch=ModulusSwitch.STANDARD,
    )
    changed = replace(key, parameters=parameters, keyswitch_key=identity, bootstrap_key=unpacking.bootstrap_key)
    return PreparedCasting(executor.prepare(changed), None)
