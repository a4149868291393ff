"""The ``reference`` executor: keyswitch and bootstrap in plain numpy, slow and easy to read.

Decides nothing: it is the yardstick. Keyswitch and modulus switch equal every other executor's bit for bit. The
bootstrap agrees in value and noise only, since numpy has no fused multiply-add and its own order of additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.errors import InvalidInput
from coproc.executors.lwe import (
    ACCUMULATOR_BITS,
    Extractions,
    accumulator_polynomials,
    gadget_digits,
    sample_extract,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import LookUpTable
    from coproc.executors.base import PreparedKey
    from coproc.tfhe.keys import EvaluationKey
    from coproc.tfhe.parameters import ClassicParameters

BATCH: Final = 64
"""Bootstraps that advance together: enough to hide numpy's overhead, little enough for the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceKey:
    """An evaluation key with the bootstrap key in the Fourier domain."""

    key: EvaluationKey
    spectra: NDArray[np.complex128]
    """Shape ``(n, k+1, k+1, N/2)``: input polynomial, output polynomial; torus in units of one turn."""

    @property
    def parameters(self) -> ClassicParameters:
        """The parameter set of the key."""
        return self.key.parameters

    @property
    def key_id(self) -> bytes:
        """Identity of the evaluation key."""
        return self.key.key_id


class ReferenceExecutor:
    """numpy in one thread; any ``k`` and ``N``, one decomposition level."""

    @property
    def name(self) -> str:
        """Short name."""
        return "reference"

    def prepare(self, key: EvaluationKey) -> ReferenceKey:
        """Transform the bootstrap key.

        Raises:
            InvalidInput: more than one level of decomposition in the bootstrap.
        """
        if key.parameters.pbs_level != 1:
            raise InvalidInput("parameters.pbs_level", f"must be 1, got {key.parameters.pbs_level}")
        spectra = np.empty((*key.bootstrap_key.shape[:1], *key.bootstrap_key.shape[2:-1], _half(key)), np.complex128)
        for step, ggsw in enumerate(key.bootstrap_key):
            spectra[step] = forward_transform(ggsw[0].view(np.int64) * 2.0**-64)
        return ReferenceKey(key=key, spectra=spectra)

    def keyswitch(self, prepared: PreparedKey, ciphertexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Keyswitch; see ``Executor.keyswitch``."""
        key = _own(prepared).key
        parameters = key.parameters
        digits = gadget_digits(ciphertexts[:, :-1], parameters.ks_base_log, parameters.ks_level)
        rows = key.keyswitch_key.reshape(-1, parameters.lwe_dimension + 1)
        small = -(digits.reshape(len(ciphertexts), len(rows)).astype(np.uint64) @ rows)
        small[:, -1] += ciphertexts[:, -1]
        return small

    def bootstrap(
        self,
        prepared: PreparedKey,
        switched: NDArray[np.uint16],
        form: NDArray[np.int32],
        table: NDArray[np.int32],
        tables: Sequence[LookUpTable],
    ) -> NDArray[np.uint64]:
        """Blind rotation and sample extraction; see ``Executor.bootstrap``."""
        own = _own(prepared)
        polynomials = accumulator_polynomials(tables, own.parameters)
        parts = [np.empty((0, own.parameters.big_lwe_dimension + 1), dtype=np.uint64)]
        for start in range(0, len(form), BATCH):
            batch = slice(start, start + BATCH)
            rotations = switched[form[batch]].astype(np.int64)
            accumulators = blind_rotation(own, polynomials[table[batch]], rotations)
            parts.append(sample_extract(accumulators, Extractions(table[batch], tables, own.parameters)))
        return np.concatenate(parts)


def blind_rotation(
    prepared: ReferenceKey, polynomials: NDArray[np.uint32], rotations: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Rotate accumulators by the encrypted phase.

    Args:
        prepared: the key.
        polynomials: shape ``(P, N)``, the trivially encrypted starting polynomials.
        rotations: shape ``(P, n+1)``, modulus-switched ciphertexts.

    Returns:
        Shape ``(P, k+1, N)``: GLWE ciphertexts of ``polynomial * X^-phase``.
    """
    parameters = prepared.parameters
    accumulators = np.zeros((len(polynomials), parameters.glwe_dimension + 1, parameters.polynomial_size), np.uint32)
    accumulators[:, -1] = polynomials
    accumulators = times_monomial(accumulators, -rotations[:, -1])
    shift = ACCUMULATOR_BITS - parameters.pbs_base_log
    half = np.uint32(1 << (shift - 1))
    for step, spectra in enumerate(prepared.spectra):
        # CMUX: the accumulator, plus the external product of its rotation's change with the encrypted key bit.
        change = times_monomial(accumulators, rotations[:, step]) - accumulators
        digits = (change + half).view(np.int32) >> shift
        product = np.einsum("prh,rch->pch", forward_transform(digits.astype(np.float64)), spectra)
        turns = inverse_transform(product)
        turns -= np.rint(turns)
        accumulators += np.rint(turns * 2.0**ACCUMULATOR_BITS).astype(np.int64).astype(np.uint32)
    return accumulators


def times_monomial(polynomials: NDArray[np.uint32], powers: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Multiply row ``p`` of ``polynomials``, shape ``(P, k+1, N)``, by ``X^powers[p]`` modulo ``X^N + 1``."""
    size = polynomials.shape[-1]
    source = np.mod(np.arange(size, dtype=np.int64) - powers[:, np.newaxis], 2 * size).astype(np.int64)
    rotated = np.take_along_axis(polynomials, (source % size)[:, np.newaxis, :], axis=2)
    return np.where((source >= size)[:, np.newaxis, :], -rotated, rotated)


def forward_transform(polynomials: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Evaluate real polynomials modulo ``X^N + 1`` at ``N/2`` of the ``2N``-th roots of unity, one of each pair."""
    half = polynomials.shape[-1] // 2
    folded = polynomials[..., :half] + 1j * polynomials[..., half:]
    return np.fft.ifft(folded * _twist(half), axis=-1, norm="forward")


def inverse_transform(spectra: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Undo ``forward_transform``."""
    folded = np.fft.fft(spectra, axis=-1, norm="forward") * _twist(spectra.shape[-1]).conj()
    return np.concatenate([folded.real, folded.imag], axis=-1)


def _twist(half: int) -> NDArray[np.complex128]:
    twist: NDArray[np.complex128] = np.exp(0.5j * np.pi / half * np.arange(half))
    return twist


def _half(key: EvaluationKey) -> int:
    return key.parameters.polynomial_size // 2


def _own(prepared: PreparedKey) -> ReferenceKey:
    if not isinstance(prepared, ReferenceKey):
        raise InvalidInput("prepared", "was made by another executor")
    return prepared
