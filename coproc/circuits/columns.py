"""Sums of columns: digits of equal weight are added up, many at a time.

Decides which digits of a column share a look-up and what is carried. A look-up input spans at most 16 values. With at
most 8, one bootstrap gives digit and carry. With more, one bootstrap gives the carry alone; what remains is the input
less four times the carry, a linear form, while noise allows, and costs another bootstrap where it does not or where a
fresh digit is wanted.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, Final

from coproc.circuits.builder import BOXES, NOISE_BUDGET, CircuitError
from coproc.circuits.carry import carry_of, digit_of, look_ahead
from coproc.circuits.strategy import Strategy
from coproc.circuits.word import BASE, BLOCK_BITS, TOP, constant_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.circuits.builder import Block, Builder
    from coproc.circuits.word import Word

REST_NOISE: Final = BASE * BASE
"""What subtracting four times a carry adds to the noise."""
ROOM: Final = 4
"""Noise left for the other digits that a rest is added to."""
SHORT_WORD: Final = 4
"""Up to this many columns carries travel along as fast as ahead."""
TWO_DIGITS: Final = 2 * TOP
"""Columns of no more than this need no look-up before carries are resolved."""
WORTHWHILE: Final = 10
"""While more is to arrive, look-ups of a narrower sum wait for it."""


def sum_up(builder: Builder, columns: Sequence[Sequence[Block]], strategy: Strategy) -> Word:
    """Add up weighted digits as the strategy asks: see ``sum_columns`` and ``sum_columns_fast``."""
    if strategy is Strategy.THROUGHPUT or len(columns) <= SHORT_WORD:
        return sum_columns(builder, columns)
    return sum_columns_fast(builder, columns)


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
    waiting = sorted((block - block.low for block in column if block.low < block.high), key=_order)
    carried: list[Block] = []
    while True:
        total = _fill(builder, waiting) if waiting else builder.constant(0)
        if not waiting:
            total = total + constant
            if total.low >= 0 and total.high <= TOP:
                return total, carried
            if is_last:
                return builder.look_up(total, digit_of), carried
            digit, carry = builder.look_up_many(total, (digit_of, carry_of))
            return digit, [*carried, carry]
        rest, carry = _reduce(builder, total, is_last=is_last)
        insort(waiting, rest, key=_order)
        if not is_last:
            carried.append(carry)


def _reduce(builder: Builder, total: Block, *, is_last: bool, is_fresh_wanted: bool = False) -> tuple[Block, Block]:
    """Cut part of a column into something of a digit's range, to be added to the others, and a carry."""
    if is_last:
        return builder.look_up(total, digit_of), builder.constant(0)
    if (
        not is_fresh_wanted
        and 2 * (total.high - total.low + 1) > BOXES
        and total.noise + REST_NOISE + ROOM <= NOISE_BUDGET
    ):
        carry = builder.look_up(total, carry_of)
        return (total - carry * BASE).within(0, TOP), carry
    digit, carry = builder.look_up_many(total, (digit_of, carry_of))
    return digit, carry


def _order(block: Block) -> tuple[int, int, int]:
    """Sort key of a column's digits, which are taken from the end: noisy, early and wide ones first."""
    return (block.noise, -block.level, block.high)


def _fill(builder: Builder, waiting: list[Block]) -> Block:
    """Take blocks off the end of an ordered column, which is not empty, while their sum fits one look-up.

    Raises:
        CircuitError: a block is too noisy or too wide by itself.
    """
    total = builder.constant(0)
    index = len(waiting) - 1
    while index >= 0 and total.high < BOXES - 1:
        larger = total + waiting[index]
        if larger.high < BOXES and larger.noise <= NOISE_BUDGET:
            total = larger
            del waiting[index]
        index -= 1
    if not total.terms:
        raise CircuitError("a column holds a block that no look-up can take")
    if waiting and total.is_fresh and total.high <= TOP:
        # A digit beside which nothing fits: what is left is wide, and has to be cut first.
        digit, total = total, waiting.pop()
        insort(waiting, digit, key=_order)
    return total


def sum_columns_fast(builder: Builder, columns: Sequence[Sequence[Block]]) -> Word:
    """Add up weighted digits in few rounds: columns shrink side by side, then carries come ahead of the digits."""
    constant = 0
    waiting: list[list[Block]] = []
    for index, column in enumerate(columns):
        constant += sum(block.low for block in column) << (BLOCK_BITS * index)
        waiting.append([block - block.low for block in column if block.low < block.high])
    known = [block.low for block in constant_word(builder, constant, BLOCK_BITS * len(columns))]
    constant &= (1 << (BLOCK_BITS * len(columns))) - 1
    now = 0
    while any(_is_open(column, digit) for column, digit in zip(waiting, known, strict=True)):
        _shrink(builder, waiting, known, now)
        now += 1
    sums: list[Block] = [sum(column, builder.constant(0)) for column in waiting]
    if constant in {0, 1} and all(total.high <= TWO_DIGITS and total.noise < NOISE_BUDGET for total in sums):
        return look_ahead(builder, sums, constant)[0]
    totals: list[Block] = []
    carried = builder.constant(0)
    for index, (unknown, digit) in enumerate(zip(sums, known, strict=True)):
        total = unknown + digit
        if total.high <= TOP:
            totals.append(builder.clean(total) + carried)
            carried = builder.constant(0)
        elif index + 1 < len(waiting):
            low, high = builder.look_up_many(total, (digit_of, carry_of))
            totals.append(low + carried)
            carried = high
        else:
            totals.append(builder.look_up(total, digit_of) + carried)
    return look_ahead(builder, totals, 0)[0]


def _is_open(column: Sequence[Block], digit: int) -> bool:
    """Whether a column is still too wide or too noisy for a single look-up."""
    return sum((block.high for block in column), digit) >= BOXES or sum(block.noise for block in column) > NOISE_BUDGET


def _shrink(builder: Builder, waiting: list[list[Block]], known: Sequence[int], now: int) -> None:
    """Play one round: look up parts of columns that are known by now; what comes out is known one round later."""
    arriving: list[list[Block]] = [[] for _ in range(len(waiting) + 1)]
    for index, column in enumerate(waiting):
        ready = sorted((block for block in column if block.level <= now), key=_order)
        later = arriving[index]
        later += [block for block in column if block.level > now]
        is_last = index + 1 == len(waiting)
        while ready and _is_open(ready + later, known[index]):
            left = list(ready)
            total = _fill(builder, left)
            if later and (len(left) == len(ready) - 1 or total.high < WORTHWHILE):
                break  # better to wait for what arrives
            ready = left
            # Two rests do not fit one look-up: keep one a column.
            is_fresh_wanted = any(block.noise > REST_NOISE for block in ready + later)
            rest, carry = _reduce(builder, total, is_last=is_last, is_fresh_wanted=is_fresh_wanted)
            later.append(rest)
            if not is_last:
                arriving[index + 1].append(carry)
        waiting[index] = ready + later
