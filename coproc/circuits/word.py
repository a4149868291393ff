"""Words: integers as rows of 2-bit blocks, the least significant first.

Decides how clear integers are cut and what a stored result must look like. A boolean is a word of one block that is 0
or 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.circuits.builder import Block, CircuitError

if TYPE_CHECKING:
    from coproc.circuits.builder import Builder

BLOCK_BITS: Final = 2
BASE: Final = 4
TOP: Final = BASE - 1
"""Largest digit."""

Word = tuple[Block, ...]


def constant_word(builder: Builder, value: int, bits: int) -> Word:
    """Cut a clear value, reduced to ``bits`` bits, into known blocks."""
    value &= (1 << bits) - 1
    return tuple(builder.constant((value >> shift) & TOP) for shift in range(0, bits, BLOCK_BITS))


def input_word(builder: Builder, bits: int) -> Word:
    """Take in a stored value, block by block."""
    if bits == 1:
        return (builder.input(degree=1),)
    return tuple(builder.input() for _ in range(0, bits, BLOCK_BITS))


def materialise(builder: Builder, word: Word, bits: int) -> Word:
    """Bring a result to the form in which TFHE-rs accepts it: every block as good as fresh and a digit.

    Raises:
        CircuitError: a block may be no digit, which is an error in the family that made it.
    """
    degree = 1 if bits == 1 else TOP
    for index, block in enumerate(word):
        if block.low < 0 or block.high > degree:
            raise CircuitError(f"block {index} may lie between {block.low} and {block.high}, not in 0 to {degree}")
    return tuple(builder.clean(block) for block in word)
