"""Random words from ciphertexts that nobody chose.

A ciphertext whose words come from a public seed decrypts, under the secret key, to a uniform position that nobody
knows. One bootstrap of it gives a uniform digit: the 32 positions fall into four parts of eight, and the table that
names the parts is negacyclic. Decides that table; knows nothing of seeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.circuits.builder import BOXES, POSITIONS
from coproc.circuits.word import BLOCK_BITS, Word

if TYPE_CHECKING:
    from coproc.circuits.builder import Block, Builder


def random_input(builder: Builder) -> Block:
    """Take in a ciphertext of a uniform position."""
    return builder.input(degree=POSITIONS - 1)


def random_word(builder: Builder, sources: Word, bits: int, width: int) -> Word:
    """Return a uniform value below ``2^bits`` as a word of ``width`` blocks; one source for every two bits.

    Args:
        builder: of the circuit.
        sources: at least ``ceil(bits / 2)`` random inputs.
        bits: how many bits are random.
        width: blocks of the result; what is above the bits is 0.
    """
    digits: list[Block] = []
    for place in range(width):
        left = bits - BLOCK_BITS * place
        if left <= 0:
            digits.append(builder.constant(0))
        else:
            digits.append(builder.look_up(sources[place], _digit if left >= BLOCK_BITS else _bit))
    return tuple(digits)


def _digit(position: int) -> int:
    return (2, 3, 1, 0)[position // 8]


def _bit(position: int) -> int:
    return int(position < BOXES)
