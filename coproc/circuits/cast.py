"""Changing the width of a word.

Decides what fills a wider word; dropping high blocks and adding known zeros take no bootstrap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.circuits.compare import ne
from coproc.circuits.word import BLOCK_BITS, TOP, Word, constant_word

if TYPE_CHECKING:
    from coproc.circuits.builder import Builder


def cast(builder: Builder, word: Word, bits: int, *, signed: bool = False) -> Word:
    """Return the value in ``bits`` bits: cut, or filled with zeros, or with the sign if the source is signed.

    To a boolean (1 bit) it asks whether the value is not 0.
    """
    if bits == 1:
        return (
            word
            if len(word) == 1 and word[0].high <= 1
            else ne(builder, word, constant_word(builder, 0, 2 * len(word)))
        )
    blocks = bits // BLOCK_BITS
    if len(word) >= blocks:
        return word[:blocks]
    if not signed:
        return word + constant_word(builder, 0, bits - BLOCK_BITS * len(word))
    sign = builder.look_up(word[-1], lambda x: TOP if x >= 2 else 0)
    return word + (sign,) * (blocks - len(word))
