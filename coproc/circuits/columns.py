"""Sums of columns: digits of equal weight are added up, many at a time.

Decides which digits of a column share a look-up and what is carried. A look-up input spans at most 16 values. With at
most 8, one bootstrap gives digit and carry. With more, one bootstrap gives the carry alone; what remains is the input
less four times the carry, a linear form, while noise allows, and costs another bootstrap where it does not or where a
fresh digit is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.circuits.builder import BOXES, NOISE_BUDGET
from coproc.circuits.carry import carry_of, digit_of
from coproc.circuits.word import BASE, TOP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.circuits.builder import Block, Builder
    from coproc.circuits.word import Word

REST_NOISE: Final = BASE * BASE
"""What subtracting four times a carry adds to the noise."""
ROOM: Final = 4
"""Noise left for the other digits that a rest is added to."""


def sum_columns(builder: Builder, columns: Sequence[Sequence[Block]]) -> Word:
    """Add up weighted digits: column ``i`` has weight ``4^i``; what is carried out of the last column is dropped.

    Blocks may be of any range, negative values too. Digits that nobody reads cost nothing but their carry.
    """
    result: list[Block] = []
    carried: list[Block] = []
    for index, column in enumerate(columns):
        digit, carried = _sum_column(builder, [*column, *carried], is_last=index + 1 == len(columns))
        result.append(digit)
    return tuple(result)


def _sum_column(builder: Builder, column: list[Block], *, is_last: bool) -> tuple[Block, list[Block]]:
    """Reduce one column to a digit in 0 to 3, and what it carries to the next."""
    constant = sum(block.low for block in column)
    waiting = [block - block.low for block in column if block.low < block.high]
    carried: list[Block] = []
    while True:
        total = _fill(builder, waiting)
        if not waiting:
            total = total + constant
            if total.low >= 0 and total.high <= TOP:
                return total, carried
            if is_last:
                return builder.look_up(total, digit_of), carried
            digit, carry = builder.look_up_many(total, (digit_of, carry_of))
            return digit, [*carried, carry]
        rest, carry = _reduce(builder, total, is_last=is_last)
        waiting.append(rest)
        if not is_last:
            carried.append(carry)


def _reduce(builder: Builder, total: Block, *, is_last: bool) -> tuple[Block, Block]:
    """Cut part of a column into something of a digit's range, to be added to the others, and a carry."""
    if is_last:
        return builder.look_up(total, digit_of), builder.constant(0)
    if 2 * (total.high - total.low + 1) > BOXES and total.noise + REST_NOISE + ROOM <= NOISE_BUDGET:
        carry = builder.look_up(total, carry_of)
        return (total - carry * BASE).within(0, TOP), carry
    digit, carry = builder.look_up_many(total, (digit_of, carry_of))
    return digit, carry


def _fill(builder: Builder, waiting: list[Block]) -> Block:
    """Take blocks off a column while their sum fits one look-up: noisy, early and wide ones first."""
    waiting.sort(key=lambda block: (block.noise, -block.level, block.high))
    total = builder.constant(0)
    index = len(waiting) - 1
    while index >= 0:
        larger = total + waiting[index]
        if larger.high - larger.low < BOXES and larger.noise <= NOISE_BUDGET:
            total = larger
            del waiting[index]
        index -= 1
    return total
