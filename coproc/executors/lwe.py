"""The exact integer steps that every executor shares, in bulk numpy.

Decides linear combinations, gadget digits, the modulus switch, accumulator polynomials and sample extraction, word for
word as TFHE-rs computes them. Knows nothing of Fourier transforms, threads or circuits' meaning.

Ciphertexts are rows ``(a_1, ..., a_d, b)`` of uint64; all arithmetic is modulo 2^64, which is what uint64 does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.errors import InvalidInput
from coproc.tfhe.parameters import TORUS_BITS, ModulusSwitch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import LinearForms, LookUpTable
    from coproc.tfhe.parameters import ClassicParameters

HALF_STEP_BELOW_DELTA: Final = 1
"""Constants of circuits count half steps, ``Delta / 2``."""

ACCUMULATOR_BITS: Final = 32
"""Width of the accumulator of a blind rotation: the upper half of the torus word."""


def linear_combinations(
    forms: LinearForms, ciphertexts: NDArray[np.uint64], rows: NDArray[np.int64], half_step_log2: int
) -> NDArray[np.uint64]:
    """Evaluate linear forms of ciphertexts.

    Args:
        forms: ``F`` forms.
        ciphertexts: shape ``(S, d+1)``.
        rows: shape ``(T,)``, the row of ``ciphertexts`` that each term reads.
        half_step_log2: log2 of the torus value of one half step.

    Returns:
        Shape ``(F, d+1)`` uint64.
    """
    terms = np.diff(forms.offsets)
    coefficients = forms.coefficients.astype(np.uint64)[:, np.newaxis]
    result = np.zeros((forms.count, ciphertexts.shape[1]), dtype=np.uint64)
    # One bulk step for the first terms of all forms, one for the second terms, and so on: noise bounds their number.
    for rank in range(int(terms.max(initial=0))):
        (longer,) = np.nonzero(terms > rank)
        term = forms.offsets[longer] + rank
        result[longer] += ciphertexts[rows[term]] * coefficients[term]
    result[:, -1] += forms.constants.astype(np.uint64) << np.uint64(half_step_log2)
    return result


def gadget_digits(words: NDArray[np.uint64], base_log: int, level: int) -> NDArray[np.int64]:
    """Decompose torus words into balanced digits, least significant first (TFHE-rs ``SignedDecomposer``).

    A word is rounded to ``base_log * level`` bits (half up); then every digit is brought into ``[-B/2, B/2]`` for
    ``B = 2^base_log``, where ``B/2`` itself carries only if bit ``base_log-1`` of the rest above it is set.

    Returns:
        Shape ``(*words.shape, level)`` int64.
    """
    bits = base_log * level
    one = np.uint64(1)
    state = ((words >> np.uint64(TORUS_BITS - 1 - bits)) + one) >> one
    if bits < TORUS_BITS:
        state &= np.uint64((1 << bits) - 1)
    mask, shift, top = np.uint64((1 << base_log) - 1), np.uint64(base_log), np.uint64(base_log - 1)
    digits = np.empty((*words.shape, level), dtype=np.int64)
    for index in range(level):
        digit = state & mask
        state = state >> shift
        carry = (((digit - one) | state) & digit) >> top
        state = state + carry
        digits[..., index] = digit.astype(np.int64) - (carry << shift).astype(np.int64)
    return digits


def modulus_switch(ciphertexts: NDArray[np.uint64], parameters: ClassicParameters) -> NDArray[np.uint16]:
    """Round small ciphertexts to ``Z/2N``, with the centred-mean correction where the parameters ask for it.

    The correction adds the expected rounding error of the mask to the body and removes half a case, which centres the
    box (TFHE-rs ``CenteredMeanNoiseReduction``). Halves round up; divisions by two truncate towards zero.

    Args:
        ciphertexts: shape ``(F, n+1)``.
        parameters: for ``N`` and the kind of modulus switch.

    Returns:
        Shape ``(F, n+1)`` uint16, values in ``[0, 2N)``.

    Raises:
        InvalidInput: the drift technique, which needs encryptions of zero that our keys do not carry.
    """
    if parameters.modulus_switch is ModulusSwitch.DRIFT:
        raise InvalidInput("parameters.modulus_switch", "the drift technique is not supported")
    log2_size = (2 * parameters.polynomial_size).bit_length() - 1
    shift = np.uint64(TORUS_BITS - log2_size)
    switched = _round_to(ciphertexts, log2_size)
    if parameters.modulus_switch is ModulusSwitch.CENTERED_MEAN:
        masks = ciphertexts[:, :-1]
        errors = ((switched[:, :-1] << shift) - masks).view(np.int64)
        halves = (errors - (errors >> 63)) >> 1  # towards zero
        lost = (2 * halves - errors).sum(axis=1)
        correction = halves.sum(axis=1) - ((lost - (lost >> 63)) >> 1)
        half_case = np.uint64(1 << (TORUS_BITS - log2_size - 1))
        bodies = ciphertexts[:, -1] + correction.view(np.uint64) - half_case
        switched[:, -1] = _round_to(bodies, log2_size)
    return (switched & np.uint64(2 * parameters.polynomial_size - 1)).astype(np.uint16)


def _round_to(words: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Round to the upper ``bits`` bits, halves up; the result may be ``2^bits``, which stands for zero."""
    return ((words >> np.uint64(TORUS_BITS - 1 - bits)) + np.uint64(1)) >> np.uint64(1)


def accumulator_polynomials(tables: Sequence[LookUpTable], parameters: ClassicParameters) -> NDArray[np.uint32]:
    """Lay look-up tables out as the body polynomials that blind rotation starts from.

    Box ``x`` covers the coefficients ``[x * N/16 - N/32, x * N/16 + N/32)``; the half of box 0 that lies below
    coefficient 0 comes back negated at the upper end.

    Returns:
        Shape ``(len(tables), N)`` uint32: the upper halves of the torus words (the lower halves are zero).

    Raises:
        InvalidInput: a table has the wrong number of values, or an output or offset that does not exist.
    """
    boxes, size = parameters.plaintext_modulus, parameters.polynomial_size
    for table in tables:
        if len(table.values) != boxes:
            raise InvalidInput("table.values", f"must have {boxes} entries, got {len(table.values)}")
        if len(table.boxes) != len(table.offsets) or not all(0 <= box < boxes for box in table.boxes):
            raise InvalidInput("table.boxes", f"must lie in [0, {boxes}) and match the offsets in number")
    values = np.array([table.values for table in tables], dtype=np.int64).reshape(len(tables), boxes)
    half_step = np.uint32(parameters.delta_log2 - HALF_STEP_BELOW_DELTA - (TORUS_BITS - ACCUMULATOR_BITS))
    polynomials = np.repeat(values.astype(np.uint32) << half_step, size // boxes, axis=1)
    half_box = size // boxes // 2
    polynomials = np.roll(polynomials, -half_box, axis=1)
    polynomials[:, size - half_box :] = -polynomials[:, size - half_box :]
    return polynomials


class Extractions:
    """Where the outputs of a batch of bootstraps come from, in output order."""

    def __init__(self, table: NDArray[np.int32], tables: Sequence[LookUpTable], parameters: ClassicParameters) -> None:
        """List the outputs of bootstraps whose tables are ``table``, shape ``(P,)``."""
        counts = np.array([len(entry.boxes) for entry in tables], dtype=np.int64)
        starts = np.cumsum(counts) - counts
        per_bootstrap = counts[table]
        self.offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum(per_bootstrap)]).astype(np.int64)
        """Shape ``(P+1,)``: outputs of bootstrap ``p`` are ``offsets[p]:offsets[p+1]``."""
        self.bootstrap: NDArray[np.int64] = np.repeat(np.arange(len(table)), per_bootstrap)
        """Shape ``(O,)``: the bootstrap of each output."""
        entry = np.repeat(starts[table] - self.offsets[:-1], per_bootstrap) + np.arange(int(self.offsets[-1]))
        box = np.array([box for item in tables for box in item.boxes], dtype=np.int64)
        offset = np.array([offset for item in tables for offset in item.offsets], dtype=np.int64)
        self.coefficient: NDArray[np.int64] = box[entry] * (parameters.polynomial_size // parameters.plaintext_modulus)
        """Shape ``(O,)``: the coefficient of the accumulator that becomes the output."""
        half_step = np.uint64(parameters.delta_log2 - HALF_STEP_BELOW_DELTA)
        self.added: NDArray[np.uint64] = offset[entry].astype(np.uint64) << half_step
        """Shape ``(O,)``: torus value added to the body of the output."""

    @property
    def count(self) -> int:
        """Number of outputs."""
        return len(self.bootstrap)


def sample_extract(accumulators: NDArray[np.uint32], extractions: Extractions) -> NDArray[np.uint64]:
    """Take single coefficients of GLWE ciphertexts out as LWE ciphertexts under the big key.

    Args:
        accumulators: shape ``(P, k+1, N)``, upper halves of torus words, body last.
        extractions: the outputs.

    Returns:
        Shape ``(O, k*N+1)`` uint64; the lower 32 bits of every mask word are zero.
    """
    size = accumulators.shape[2]
    degree = np.subtract.outer(extractions.coefficient, np.arange(size, dtype=np.int64)).astype(np.int64)
    masks = accumulators[extractions.bootstrap, :-1]
    masks = np.take_along_axis(masks, (degree % size)[:, np.newaxis, :], axis=2)
    masks = np.where((degree < 0)[:, np.newaxis, :], -masks, masks)
    bodies = accumulators[extractions.bootstrap, -1, extractions.coefficient]
    result = np.empty((extractions.count, masks.shape[1] * size + 1), dtype=np.uint64)
    result[:, :-1] = masks.reshape(extractions.count, -1)
    result[:, -1] = bodies
    result <<= np.uint64(TORUS_BITS - ACCUMULATOR_BITS)
    result[:, -1] += extractions.added
    return result
