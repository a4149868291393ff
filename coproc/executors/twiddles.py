"""The twiddle factors of the canonical transform, correctly rounded by integer arithmetic alone.

Decides the table that every executor with the canonical arithmetic must use; no platform's libm is asked, so the same
bits come out everywhere. See ``ARITHMETIC.md`` for what the table means.
"""

from __future__ import annotations

from functools import cache
from math import isqrt
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS: Final = 256
"""Fixed-point fraction bits: about 200 more than the result needs."""
_ONE: Final = 1 << _BITS
_TURN_LOG2: Final = 13
"""The finest angle is ``2*pi / 2^13``: the last level of ``N/2 = 1024`` points."""

MAX_HALF_SIZE: Final = 1024
"""Largest ``N/2`` that the table serves."""


@cache
def twiddle_table() -> NDArray[np.float64]:
    """Return ``exp(2*pi*i * (1 + 4*reverse(b)) / 2^(l+3))`` for level ``l`` and block ``b`` at row ``2^l + b``.

    ``reverse`` reverses the ``l`` bits of ``b``. One table serves every size: ``N/2`` points use the rows from 1 to
    ``N/2 - 1``. Row 0 is zero and unused.

    Returns:
        Shape ``(1024, 2)``: real and imaginary parts, each rounded to nearest, read-only.
    """
    cosines = _cosines()
    table = np.zeros((MAX_HALF_SIZE, 2), dtype=np.float64)
    for level in range(MAX_HALF_SIZE.bit_length() - 1):
        for block in range(1 << level):
            reverse = int(format(block, f"0{level}b")[::-1], 2) if level else 0
            angle = (1 + 4 * reverse) << (_TURN_LOG2 - level - 3)
            table[(1 << level) + block] = _cosine(cosines, angle), _cosine(cosines, angle - (1 << (_TURN_LOG2 - 2)))
    table.flags.writeable = False
    return table


def _cosines() -> list[int]:
    """Return ``cos(2*pi*j / 2^13)`` for ``j`` in ``[0, 2^11]`` in fixed point, by half angles and rotations."""
    cosine, sine = 0, _ONE  # a quarter turn
    for _ in range(_TURN_LOG2 - 2):
        cosine = isqrt((_ONE + cosine) * _ONE // 2)
        sine = sine * _ONE // (2 * cosine)
    values: list[int] = []
    real, imaginary = _ONE, 0
    for _ in range((1 << (_TURN_LOG2 - 2)) + 1):
        values.append(real)
        real, imaginary = (
            (real * cosine - imaginary * sine) >> _BITS,
            (real * sine + imaginary * cosine) >> _BITS,
        )
    values[-1] = 0
    return values


def _cosine(cosines: list[int], angle: int) -> float:
    """Return the cosine of ``angle`` in units of ``2*pi / 2^13``; integer division rounds to nearest."""
    half_turn = 1 << (_TURN_LOG2 - 1)
    angle = abs(angle) % (2 * half_turn)
    angle = min(angle, 2 * half_turn - angle)
    return cosines[angle] / _ONE if angle <= half_turn // 2 else -(cosines[half_turn - angle] / _ONE)
