"""LWE encryption under a binary key.

A ciphertext of ``m`` under ``s`` is ``(a_1, ..., a_n, b)`` with ``b = <a, s> + m + e`` modulo ``2^64``, the ``a_i``
uniform and ``e`` small. Rows of ciphertexts are handled at once. Knows nothing of integers nor of formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coproc.tfhe.parameters import TORUS_BITS

if TYPE_CHECKING:
    from numpy.typing import NDArray


def bodies(masks: NDArray[np.uint64], key: NDArray[np.uint64], messages: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return ``<a, s> + m`` for every row.

    Args:
        masks: shape ``(..., n)``.
        key: shape ``(n,)``, bits.
        messages: shape ``(...)``, noise included.
    """
    return (masks @ key) + messages


def phases(ciphertexts: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return ``b - <a, s>``, the message with its noise, for rows of shape ``(..., n+1)``."""
    return ciphertexts[..., -1] - ciphertexts[..., :-1] @ key


def decode(phase: NDArray[np.uint64], delta_log2: int) -> NDArray[np.uint64]:
    """Round phases to multiples of ``2^delta_log2``; the result counts them modulo ``2^(64 - delta_log2)``."""
    half = np.uint64(1 << (delta_log2 - 1))
    return (phase + half) >> np.uint64(delta_log2)


def gadget(base_log: int, level: int) -> NDArray[np.uint64]:
    """Return the weights of decomposition digits, the finest level first (TFHE-rs order): ``2^(64 - base_log l)``."""
    return np.array([1 << (TORUS_BITS - base_log * (level - index)) for index in range(level)], dtype=np.uint64)


def keyswitch_messages(key: NDArray[np.uint64], base_log: int, level: int) -> NDArray[np.uint64]:
    """Return what the rows of a keyswitch key encrypt: every input bit by every weight, shape ``(n_in, level)``."""
    return key[:, np.newaxis] * gadget(base_log, level)
