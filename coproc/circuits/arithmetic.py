"""Addition, subtraction, negation and sums of many words.

Decides which sums are formed before carries are resolved. Results are reduced to the width of the operands.

Subtracting ``b`` is adding ``3 - b`` in each digit, and 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.circuits.builder import NOISE_BUDGET
from coproc.circuits.carry import look_ahead, ripple
from coproc.circuits.columns import sum_up
from coproc.circuits.strategy import Strategy
from coproc.circuits.word import TOP, Word, constant_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.circuits.builder import Block, Builder

SHORT_WORD: Final = 4
"""Up to this many blocks a carry travels along as fast as ahead."""


def add(builder: Builder, a: Word, b: Word, strategy: Strategy, *, shortest: bool = False) -> Word:
    """Return ``a + b``; ``shortest`` takes one round less than ``LATENCY`` alone, for a quarter more bootstraps."""
    return _add(builder, a, b, 0, strategy, shortest=shortest)


def sub(builder: Builder, a: Word, b: Word, strategy: Strategy, *, shortest: bool = False) -> Word:
    """Return ``a - b``."""
    return _add(builder, a, complement(b), 1, strategy, shortest=shortest)


def neg(builder: Builder, a: Word, strategy: Strategy) -> Word:
    """Return ``-a``."""
    zero = constant_word(builder, 0, 2 * len(a))
    return sub(builder, zero, a, strategy)


def complement(word: Word) -> Word:
    """Turn every digit ``x`` into ``3 - x``, without a bootstrap."""
    return tuple(TOP - block for block in word)


def sum_words(
    builder: Builder,
    added: Sequence[Word],
    subtracted: Sequence[Word],
    width: int,
    strategy: Strategy = Strategy.THROUGHPUT,
) -> Word:
    """Return the sum of some words less others, ``width`` blocks wide, in one sum of columns.

    Words may be shorter than the result.
    """
    columns: list[list[Block]] = [[] for _ in range(width)]
    constant = 0
    for word in added:
        for column, block in zip(columns, word, strict=False):
            column.append(block)
    for word in subtracted:
        for column, block in zip(columns, complement(word), strict=False):
            column.append(block)
        constant += 1 - (1 << (2 * len(word)))  # what is above the word is not complemented
    for column, block in zip(columns, constant_word(builder, constant, 2 * width), strict=True):
        column.append(block)
    return sum_up(builder, columns, strategy)


def add_with_carry(builder: Builder, a: Word, b: Word, carry: Block) -> tuple[Word, Block]:
    """Return the digits of ``a + b + carry`` and the carry out of them: one bootstrap a block."""
    return ripple(builder, [_total(builder, x, y) for x, y in zip(a, b, strict=True)], carry)


def sub_with_borrow(builder: Builder, a: Word, b: Word) -> tuple[Word, Block]:
    """Return ``a - b`` and whether ``a < b`` (unsigned): one bootstrap a block in all, since borrows travel anyway."""
    digits, carry = add_with_carry(builder, a, complement(b), builder.constant(1))
    return digits, 1 - carry


def _add(builder: Builder, a: Word, b: Word, carry: int, strategy: Strategy, *, shortest: bool) -> Word:
    if strategy is Strategy.THROUGHPUT or (len(a) <= SHORT_WORD and not shortest):
        return add_with_carry(builder, a, b, builder.constant(carry))[0]
    totals = [builder.clean(x) + builder.clean(y) for x, y in zip(a, b, strict=True)]
    return look_ahead(builder, totals, carry, shortest=shortest)[0]


def _total(builder: Builder, x: Block, y: Block) -> Block:
    """Add two blocks, such that a carry may be added too."""
    total = x + y
    return total if total.noise < NOISE_BUDGET else builder.clean(x) + builder.clean(y)
