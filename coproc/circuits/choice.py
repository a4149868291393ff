"""Looking words up by their number.

Decides how digits of publicly known words come out of an encrypted number: all of them are functions of one small form,
several of which share a bootstrap where there are few words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.circuits.builder import BOXES, NOISE_BUDGET, CircuitError
from coproc.circuits.word import BASE, BLOCK_BITS, TOP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coproc.circuits.builder import Block, Builder
    from coproc.circuits.word import Word

MOST_WORDS: Final = BOXES
"""Numbers that one look-up tells apart."""


def number_digits(words: int) -> int:
    """Return how many digits the number of one of so many words has."""
    return 1 if words <= BASE else 2


def look_up_word(builder: Builder, number: Word, words: Sequence[int], blocks: int) -> Word:
    """Return ``words[number]`` as ``blocks`` fresh blocks.

    Args:
        builder: of the circuit.
        number: below the number of words; ``number_digits`` digits.
        words: at most 16 known values.
        blocks: of the result; what is above is cut off.

    Raises:
        CircuitError: there are too many words.
    """
    if len(words) > MOST_WORDS:
        raise CircuitError(f"a look-up tells {MOST_WORDS} words apart, not {len(words)}")
    form = _joined(builder, number)
    if form.noise > NOISE_BUDGET:
        form = _joined(builder, [builder.clean(digit) for digit in number])
    if form.clear is None:
        form = form.within(0, len(words) - 1)
    columns = [tuple(word >> (BLOCK_BITS * place) & TOP for word in words) for place in range(blocks)]
    distinct = list(dict.fromkeys(columns))
    found = dict(zip(distinct, builder.look_up_many(form, [_column(column) for column in distinct]), strict=True))
    return tuple(found[column] for column in columns)


def _joined(builder: Builder, number: Sequence[Block]) -> Block:
    """Put the digits of a number together."""
    return sum((digit * BASE**place for place, digit in enumerate(number)), builder.constant(0))


def _column(digits: Sequence[int]) -> Callable[[int], int]:
    return lambda number: digits[number]
