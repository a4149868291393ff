"""GLWE and GGSW encryption: polynomials modulo ``X^N + 1`` over words modulo ``2^64``.

The product with a binary polynomial is exact: words are cut into limbs so small that a Fourier transform in doubles
rounds to the true integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.tfhe.lwe import gadget

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMB_BITS: Final = 22
"""Sums of N limbs stay below ``2^22 * N``; for ``N = 2^14`` that is 2^36, far from the 2^53 of a double."""
LIMBS: Final = 3
MAX_POLYNOMIAL_SIZE: Final = 1 << 14


class BinaryPolynomial:
    """A polynomial with coefficients 0 and 1, ready to multiply others."""

    def __init__(self, coefficients: NDArray[np.uint64]) -> None:
        """Transform the coefficients, shape ``(N,)``.

        Raises:
            ValueError: N is too large for exact products.
        """
        size = len(coefficients)
        if size > MAX_POLYNOMIAL_SIZE:
            raise ValueError(f"polynomial size must be at most {MAX_POLYNOMIAL_SIZE}, got {size}")
        # Evaluating at odd roots of unity makes the cyclic product of the transform negacyclic.
        self._twist: NDArray[np.complex128] = np.exp(1j * np.pi / size * np.arange(size))
        self._spectrum: NDArray[np.complex128] = np.fft.fft(coefficients.astype(np.float64) * self._twist)

    def times(self, polynomials: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the exact products with polynomials of shape ``(..., N)``, modulo ``2^64`` and ``X^N + 1``."""
        result = np.zeros(polynomials.shape, dtype=np.uint64)
        mask = np.uint64((1 << LIMB_BITS) - 1)
        for index in range(LIMBS):
            shift = np.uint64(LIMB_BITS * index)
            limb = ((polynomials >> shift) & mask).astype(np.float64)
            product = np.fft.ifft(np.fft.fft(limb * self._twist) * self._spectrum) * self._twist.conj()
            result += np.rint(product.real).astype(np.int64).view(np.uint64) << shift
        return result


def ggsw_messages(
    small_key: NDArray[np.uint64], glwe_key: NDArray[np.uint64], base_log: int, level: int
) -> NDArray[np.uint64]:
    """Return what is added to the bodies of a bootstrap key's GGSW rows: shape ``(n, level, k+1, N)``.

    Row ``r < k`` of bit ``m`` carries ``-m S_r(X)`` by the level's weight, row ``k`` carries ``m``.

    Args:
        small_key: shape ``(n,)``, the encrypted bits.
        glwe_key: shape ``(k, N)``.
        base_log: log2 of the decomposition base.
        level: number of levels.
    """
    k, size = glwe_key.shape
    rows = np.zeros((k + 1, size), dtype=np.uint64)
    rows[:k] = -glwe_key
    rows[k, 0] = 1
    weights = small_key[:, np.newaxis] * gadget(base_log, level)
    return weights[:, :, np.newaxis, np.newaxis] * rows
