"""Multiplication.

Decides how partial products are made. Of two digits, ``ab = a(a+1)/2 + b(b-1)/2 - D(a-b)`` with ``D(x) = x(x+1)/2``:
one look-up of the difference gives both digits of ``D``, half as many as the product itself takes. The terms in ``a``
and in ``b`` alone need the sums ``4^k (w_0 + ... + w_k)``; since ``3 + 3*4 + 3*4^2 + ... = -1`` modulo the width, only
running sums modulo 3 are kept.

A known factor is written in signed digits (no two neighbours are set), each of which adds or subtracts a shifted copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.circuits.builder import BOXES
from coproc.circuits.columns import sum_up
from coproc.circuits.selection import gate
from coproc.circuits.shift import Direction, double, shift_by
from coproc.circuits.strategy import Strategy
from coproc.circuits.word import BASE, BLOCK_BITS, TOP, Word, constant_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.circuits.builder import Block, Builder

SCHOOLBOOK_BLOCKS: Final = {Strategy.THROUGHPUT: 4, Strategy.LATENCY: 8}
"""Up to this many blocks the products of digits themselves take fewer bootstraps, or as many in fewer rounds."""


def mul(builder: Builder, a: Word, b: Word, strategy: Strategy = Strategy.THROUGHPUT) -> Word:
    """Return ``a * b``, reduced to the width of the operands."""
    if clear_value(a) is not None:
        a, b = b, a
    factor = clear_value(b)
    if factor is not None:
        return mul_known(builder, a, factor, len(a), strategy)
    for x, y in ((a, b), (b, a)):
        if y[0].low >= 0 and y[0].high <= 1 and all(block.clear == 0 for block in y[1:]):
            return gate(builder, y[0], x)
    a = tuple(builder.clean(block) for block in a)
    b = tuple(builder.clean(block) for block in b)
    return mul_wide(builder, a, b, len(a), strategy)


def clear_value(word: Word) -> int | None:
    """Return the value of a word whose blocks are all known, else None."""
    digits = [block.clear for block in word]
    if None in digits:
        return None
    return sum((digit or 0) << (BLOCK_BITS * i) for i, digit in enumerate(digits))


def mul_wide(builder: Builder, a: Word, b: Word, width: int, strategy: Strategy = Strategy.THROUGHPUT) -> Word:
    """Return ``a * b`` in ``width`` blocks; operands are fresh and may be of any width."""
    by_differences = len(a) == len(b) > SCHOOLBOOK_BLOCKS[strategy] and len(a) <= width <= 2 * len(a)
    if by_differences and not any(block.clear is not None for block in a + b):
        return _mul_by_differences(builder, a, b, width, strategy)
    return _mul_by_digits(builder, a, b, width, strategy)


def _mul_by_digits(builder: Builder, a: Word, b: Word, width: int, strategy: Strategy) -> Word:
    """Multiply with a look-up for each digit of each product of digits."""
    columns: list[list[Block]] = [[] for _ in range(width)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            if i + j >= width or 0 in {x.clear, y.clear}:
                continue
            form = x * BASE + y
            columns[i + j].append(builder.look_up(form, lambda v: (v // BASE) * (v % BASE) % BASE))
            if i + j + 1 < width:
                columns[i + j + 1].append(builder.look_up(form, lambda v: (v // BASE) * (v % BASE) // BASE))
    return sum_up(builder, columns, strategy)


def mul_known(builder: Builder, word: Word, factor: int, width: int, strategy: Strategy = Strategy.THROUGHPUT) -> Word:
    """Return ``word * factor`` in ``width`` blocks, at least as many as the word has."""
    wide = word + (builder.constant(0),) * (width - len(word))
    factor %= 1 << (BLOCK_BITS * width)
    if factor & (factor - 1) == 0:
        if factor == 0:
            return constant_word(builder, 0, BLOCK_BITS * width)
        return shift_by(builder, wide, factor.bit_length() - 1, Direction.LEFT)
    return sum_up(builder, signed_multiples(builder, word, factor, width), strategy)


def signed_multiples(builder: Builder, word: Word, factor: int, width: int) -> list[list[Block]]:
    """Write ``word * factor`` as columns of digits to be added up; ``factor`` may be negative."""
    columns: list[list[Block]] = [[] for _ in range(width)]
    digits = signed_digits(factor, BLOCK_BITS * width)
    even = tuple(builder.clean(block) for block in word)
    odd = double(builder, even, min(width, len(word) + 1)) if any(place % 2 for place, _ in digits) else ()
    for place, sign in digits:
        for i, block in enumerate(odd if place % 2 else even):
            column = i + place // 2
            if column < width and block.clear != 0:
                columns[column].append(block * sign)
    return columns


def signed_digits(value: int, bits: int) -> list[tuple[int, int]]:
    """Write a number modulo ``2^bits`` as a sum of ``+-2^i``, no two of them neighbours (canonical signed digits)."""
    digits: list[tuple[int, int]] = []
    value %= 1 << bits
    for place in range(bits):
        if value & 1:
            sign = 2 - (value & 3)
            digits.append((place, sign))
            value -= sign
        value >>= 1
    return digits


def _mul_by_differences(builder: Builder, a: Word, b: Word, width: int, strategy: Strategy) -> Word:
    columns: list[list[Block]] = [[] for _ in range(width)]
    constant = 0
    for k in range(width):
        for i in range(max(0, k - len(a) + 1), min(k + 1, len(a))):
            # 3 - D lies between -3 and 3; the 3 is taken off again in the constant.
            constant -= 3 << (BLOCK_BITS * k)
            digit, carry = builder.look_up_many(a[i] - b[k - i], (_low_of_difference, _high_of_difference))
            columns[k].append(digit)
            if k + 1 < width:
                columns[k + 1].append(carry)
    _add_single_terms(builder, columns, a, b, strategy)
    for column, block in zip(columns, constant_word(builder, constant, BLOCK_BITS * width), strict=True):
        column.append(block)
    return sum_up(builder, columns, strategy)


def _low_of_difference(x: int) -> int:
    return (TOP - _triangle(x)) % BASE


def _high_of_difference(x: int) -> int:
    return (TOP - _triangle(x)) // BASE


def _triangle(x: int) -> int:
    return x * (x + 1) // 2


def _add_single_terms(builder: Builder, columns: list[list[Block]], a: Word, b: Word, strategy: Strategy) -> None:
    """Add the terms in one operand alone.

    ``w = a(a+1)/2 + b(b-1)/2 = 3 q + r`` of block ``i`` counts in every column from ``i`` on: ``3 q`` in all of them is
    ``-q`` in column ``i``. The running sum of ``r`` is treated in the same way, two columns at a time: as it is in the
    first of them, and less its multiples of 3 in the second, after which only the sum modulo 3 goes on.

    In a product wider than the operands of ``n`` blocks, block ``i`` counts no more from column ``i + n`` on: all of
    the above is taken off again, ``n`` columns further.
    """
    rests: list[Block] = []
    terms: list[list[Block]] = []
    for x, y in zip(a, b, strict=True):
        rest_a, quotient_a = builder.look_up_many(x, (lambda v: int(v == 1), lambda v: (0, 0, 1, 2)[v]))
        rest_b, quotient_b = builder.look_up_many(y, (lambda v: int(v == 2), lambda v: int(v == 3)))
        terms.append([-quotient_a, -quotient_b])
        rests.append(rest_a + rest_b)
    starts = range(0, len(rests), 2)
    ahead: list[Block] = []
    if strategy is Strategy.LATENCY:
        ahead = _running_sums(builder, [_total(builder, rests[start : start + 2]) for start in starts])
    running: list[Block] = []
    for number, start in enumerate(starts):
        first = [*(ahead[number : number + 1] or running), rests[start]]
        terms[start] += first
        running = first
        if start + 1 < len(rests):
            total = _total(builder, [*first, rests[start + 1]])
            after, value = builder.look_up_many(total, (_mod_3, lambda v: v % 3 - v // 3))
            terms[start + 1].append(value)
            running = [after]
    for index, column in enumerate(columns):
        if index < len(terms):
            column.extend(terms[index])
        else:
            column.extend([*running, *(-block for block in terms[index - len(terms)])])


def _running_sums(builder: Builder, items: Sequence[Block]) -> list[Block]:
    """Return the sums modulo 3 of all items before each, by a tree: few rounds."""
    groups: list[list[Block]] = [[]]
    for item in items:
        if sum(block.high for block in groups[-1]) + item.high + 2 >= BOXES:
            groups.append([])
        groups[-1].append(item)
    heads = [builder.constant(0)]
    if len(groups) > 1:
        heads = _running_sums(builder, [builder.look_up(_total(builder, group), _mod_3) for group in groups])
    return [
        builder.look_up(_total(builder, [head, *group[:index]]), _mod_3)
        for head, group in zip(heads, groups, strict=True)
        for index in range(len(group))
    ]


def _total(builder: Builder, blocks: Sequence[Block]) -> Block:
    return sum(blocks, builder.constant(0))


def _mod_3(x: int) -> int:
    return x % 3
