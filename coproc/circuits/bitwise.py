"""Bitwise operations, block by block: one bootstrap a block, none where a known digit decides.

Decides the packing of two blocks into one look-up input: ``w a + b``, where ``b`` takes ``w`` values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.circuits.builder import NOISE_BUDGET
from coproc.circuits.word import TOP, Word

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.circuits.builder import Block, Builder


def bit_and(builder: Builder, a: Word, b: Word) -> Word:
    """Return ``a & b``."""
    return tuple(bivariate(builder, x, y, lambda u, v: u & v) for x, y in zip(a, b, strict=True))


def bit_or(builder: Builder, a: Word, b: Word) -> Word:
    """Return ``a | b``."""
    return tuple(bivariate(builder, x, y, lambda u, v: u | v) for x, y in zip(a, b, strict=True))


def bit_xor(builder: Builder, a: Word, b: Word) -> Word:
    """Return ``a ^ b``."""
    return tuple(bivariate(builder, x, y, lambda u, v: u ^ v) for x, y in zip(a, b, strict=True))


def bit_not(a: Word, bits: int) -> Word:
    """Return ``~a`` in ``bits`` bits (1 for a boolean), without a bootstrap."""
    top = 1 if bits == 1 else TOP
    return tuple(top - block for block in a)


def bivariate(builder: Builder, x: Block, y: Block, function: Callable[[int, int], int]) -> Block:
    """Apply a function of two blocks."""
    width = y.high - y.low + 1
    form = (x - x.low) * width + (y - y.low)
    if form.noise > NOISE_BUDGET:
        x, y = builder.clean(x), builder.clean(y)
        form = (x - x.low) * width + (y - y.low)
    return builder.look_up(form, lambda v: function(v // width + x.low, v % width + y.low))
