"""Multiplication.

Decides how partial products are made. Of two digits, ``ab = a(a+1)/2 + b(b-1)/2 - D(a-b)`` with ``D(x) = x(x+1)/2``:
one look-up of the difference gives both digits of ``D``, half as many as the product itself takes. The terms in ``a``
and in ``b`` alone need the sums ``4^k (w_0 + ... + w_k)``; since ``3 + 3*4 + 3*4^2 + ... = -1`` modulo the width, only
running sums modulo 3 are kept.

A known factor is written in signed digits (no two neighbours are set), each of which adds or subtracts a shifted copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.circuits.columns import sum_columns
from coproc.circuits.selection import gate
from coproc.circuits.shift import Direction, double, shift_by
from coproc.circuits.word import BASE, BLOCK_BITS, Word, constant_word

if TYPE_CHECKING:
    from coproc.circuits.builder import Block, Builder

SCHOOLBOOK_BLOCKS = 4
"""Up to this many blocks the products of digits themselves take fewer bootstraps."""


def mul(builder: Builder, a: Word, b: Word) -> Word:
    """Return ``a * b``, reduced to the width of the operands."""
    if clear_value(a) is not None:
        a, b = b, a
    factor = clear_value(b)
    if factor is not None:
        return mul_known(builder, a, factor, len(a))
    for x, y in ((a, b), (b, a)):
        if y[0].low >= 0 and y[0].high <= 1 and all(block.clear == 0 for block in y[1:]):
            return gate(builder, y[0], x)
    a = tuple(builder.clean(block) for block in a)
    b = tuple(builder.clean(block) for block in b)
    if len(a) <= SCHOOLBOOK_BLOCKS or any(block.clear is not None for block in a + b):
        return mul_wide(builder, a, b, len(a))
    return _mul_by_differences(builder, a, b)


def clear_value(word: Word) -> int | None:
    """Return the value of a word whose blocks are all known, else None."""
    digits = [block.clear for block in word]
    if None in digits:
        return None
    return sum((digit or 0) << (BLOCK_BITS * i) for i, digit in enumerate(digits))


def mul_wide(builder: Builder, a: Word, b: Word, width: int) -> Word:
    """Return ``a * b`` in ``width`` blocks, by the products of digits; operands may be of any width."""
    columns: list[list[Block]] = [[] for _ in range(width)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            if i + j >= width or 0 in {x.clear, y.clear}:
                continue
            form = x * BASE + y
            columns[i + j].append(builder.look_up(form, lambda v: (v // BASE) * (v % BASE) % BASE))
            if i + j + 1 < width:
                columns[i + j + 1].append(builder.look_up(form, lambda v: (v // BASE) * (v % BASE) // BASE))
    return sum_columns(builder, columns)


def mul_known(builder: Builder, word: Word, factor: int, width: int) -> Word:
    """Return ``word * factor`` in ``width`` blocks, at least as many as the word has."""
    wide = word + (builder.constant(0),) * (width - len(word))
    factor %= 1 << (BLOCK_BITS * width)
    if factor & (factor - 1) == 0:
        if factor == 0:
            return constant_word(builder, 0, BLOCK_BITS * width)
        return shift_by(builder, wide, factor.bit_length() - 1, Direction.LEFT)
    return sum_columns(builder, signed_multiples(builder, word, factor, width))


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


def _mul_by_differences(builder: Builder, a: Word, b: Word) -> Word:
    width = len(a)
    columns: list[list[Block]] = [[] for _ in range(width)]
    constant = 0
    for k in range(width):
        for i in range(k + 1):
            # 3 - D lies between -3 and 3; the 3 is taken off again in the constant.
            constant -= 3 << (BLOCK_BITS * k)
            digit, carry = builder.look_up_many(
                a[i] - b[k - i], (lambda x: (3 - _d(x)) % BASE, lambda x: (3 - _d(x)) // BASE)
            )
            columns[k].append(digit)
            if k + 1 < width:
                columns[k + 1].append(carry)
    _add_single_terms(builder, columns, a, b)
    for column, block in zip(columns, constant_word(builder, constant, BLOCK_BITS * width), strict=True):
        column.append(block)
    return sum_columns(builder, columns)


def _add_single_terms(builder: Builder, columns: list[list[Block]], a: Word, b: Word) -> None:
    """Add the terms in one operand alone.

    ``w = a(a+1)/2 + b(b-1)/2 = 3 q + r`` of block ``i`` counts in every column from ``i`` on: ``3 q`` in all of them is
    ``-q`` in column ``i``. Of the running sum of ``r`` the part divisible by 3 is dealt with in the same way.
    """
    running = builder.constant(0)
    for column, x, y in zip(columns, a, b, strict=True):
        rest_a, quotient_a = builder.look_up_many(x, (lambda v: int(v == 1), lambda v: (0, 0, 1, 2)[v]))
        rest_b, quotient_b = builder.look_up_many(y, (lambda v: int(v == 2), lambda v: int(v == 3)))
        column += [-quotient_a, -quotient_b]
        running, value = builder.look_up_many(rest_a + rest_b + running, (lambda v: v % 3, lambda v: v % 3 - v // 3))
        column.append(value)


def _d(x: int) -> int:
    return x * (x + 1) // 2
