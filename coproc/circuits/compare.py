"""Comparison, equality, minimum and maximum.

Decides how differences are examined. Two blocks of both operands fit one look-up: ``(4 a1 + a0) - (4 b1 + b0)`` lies
between -15 and 15, and its sign and its zero test are negacyclic. With a borrow below it is still one look-up, which
makes a chain; without, signs merge four at a time in a tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.circuits.builder import BOXES, NOISE_BUDGET
from coproc.circuits.carry import scaled_sign
from coproc.circuits.selection import select
from coproc.circuits.strategy import Strategy
from coproc.circuits.word import BASE, TOP, Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.circuits.builder import Block, Builder

SIGNS_AT_ONCE: Final = 4
FLAGS_AT_ONCE: Final = BOXES
"""A sum of up to 16 flags: 0 and 16 are complementary, so an OR is negacyclic."""
DIGITS_AT_ONCE: Final = 10
"""Digits that must all be zero, tested by one look-up: their sum is at most 30."""


def lt(builder: Builder, a: Word, b: Word, strategy: Strategy, *, signed: bool = False) -> Word:
    """Return whether ``a < b``."""
    if signed:
        a, b = _bias(builder, a), _bias(builder, b)
    differences = _differences(a, b)
    if strategy is Strategy.THROUGHPUT or len(differences) <= 2:
        return (_borrow(builder, differences),)
    return (_sign_tree(builder, differences),)


def gt(builder: Builder, a: Word, b: Word, strategy: Strategy, *, signed: bool = False) -> Word:
    """Return whether ``a > b``."""
    return lt(builder, b, a, strategy, signed=signed)


def ge(builder: Builder, a: Word, b: Word, strategy: Strategy, *, signed: bool = False) -> Word:
    """Return whether ``a >= b``."""
    return (1 - lt(builder, a, b, strategy, signed=signed)[0],)


def le(builder: Builder, a: Word, b: Word, strategy: Strategy, *, signed: bool = False) -> Word:
    """Return whether ``a <= b``."""
    return (1 - lt(builder, b, a, strategy, signed=signed)[0],)


def ne(builder: Builder, a: Word, b: Word) -> Word:
    """Return whether ``a`` and ``b`` differ."""
    zeros: list[Block] = []
    rest: list[tuple[Block, Block]] = []
    for x, y in zip(a, b, strict=True):
        if x.clear is not None and y.clear is None:
            x, y = y, x  # noqa: PLW2901 - only the difference matters
        if y.clear in {0, TOP} and x.low >= 0 and x.high <= TOP:
            zeros.append(x if y.clear == 0 else TOP - x)
        else:
            rest.append((x, y))
    if len(rest) % 2 and zeros:
        # A digit that stands alone takes one of the simple ones with it.
        rest.append((zeros.pop(), builder.constant(0)))
    forms = _differences(tuple(x for x, _ in rest), tuple(y for _, y in rest))
    flags = [builder.look_up(form, _is_nonzero) for form in forms]
    flags += [builder.look_up(total, _nonzero) for total in _zero_sums(builder, zeros)]
    return (any_of(builder, flags),)


def eq(builder: Builder, a: Word, b: Word) -> Word:
    """Return whether ``a`` and ``b`` are equal."""
    return (1 - ne(builder, a, b)[0],)


def minimum(builder: Builder, a: Word, b: Word, strategy: Strategy, *, signed: bool = False) -> Word:
    """Return the smaller operand (noise level 2)."""
    return select(builder, lt(builder, a, b, strategy, signed=signed)[0], a, b)


def maximum(builder: Builder, a: Word, b: Word, strategy: Strategy, *, signed: bool = False) -> Word:
    """Return the larger operand (noise level 2)."""
    return select(builder, lt(builder, a, b, strategy, signed=signed)[0], b, a)


def any_of(builder: Builder, flags: Sequence[Block]) -> Block:
    """Return 1 if some flag is not 0; flags are small and never negative."""
    rest = list(flags)
    while len(rest) > 1 or (rest and rest[0].high > 1):
        merged: list[Block] = []
        while rest:
            total = rest.pop(0)
            while rest and (total + rest[0]).high <= FLAGS_AT_ONCE and (total + rest[0]).noise <= NOISE_BUDGET:
                total = total + rest.pop(0)
            merged.append(builder.look_up(total, _is_nonzero))
        rest = merged
    return rest[0] if rest else builder.constant(0)


def _zero_sums(builder: Builder, blocks: Sequence[Block]) -> list[Block]:
    """Add up digits that must all be 0, as many at once as range and noise allow (a repeated block counts squared)."""
    sums: list[Block] = []
    total, count = builder.constant(0), 0
    for block in dict.fromkeys(blocks):
        larger = total + block
        if larger.noise > NOISE_BUDGET:
            larger = total + builder.clean(block)
        if count == DIGITS_AT_ONCE or larger.noise > NOISE_BUDGET:
            sums.append(total)
            larger, count = builder.clean(block), 0
        total, count = larger, count + 1
    return [*sums, total] if count else sums


def _is_nonzero(x: int) -> int:
    return int(x != 0)


def _is_negative(x: int) -> int:
    return int(x < 0)


def _nonzero(x: int) -> int:
    """Tell zero from 1 to 30; 16 answers 2, which makes 0 and 16 complementary."""
    return 2 if x == BOXES else int(x != 0)


def _differences(a: Word, b: Word) -> list[Block]:
    """Cut ``a - b`` into looks of two blocks, or one where noise allows no more; the least significant first."""
    forms: list[Block] = []
    index = 0
    while index < len(a):
        if index + 1 < len(a):
            form = (a[index + 1] - b[index + 1]) * BASE + (a[index] - b[index])
            if form.noise < NOISE_BUDGET:  # one more for a borrow
                forms.append(form)
                index += 2
                continue
        forms.append(a[index] - b[index])
        index += 1
    return forms


def _borrow(builder: Builder, differences: Sequence[Block]) -> Block:
    borrow = builder.constant(0)
    for form in differences:
        borrow = builder.look_up(form - borrow, _is_negative)
    return borrow


def _sign_tree(builder: Builder, differences: Sequence[Block]) -> Block:
    """Merge signs four at a time; a sign is scaled by its place in its group inside its own look-up."""
    forms: list[Block] = list(differences)
    while len(forms) > 1:
        signs = [builder.look_up(form, scaled_sign(1 << (index % SIGNS_AT_ONCE))) for index, form in enumerate(forms)]
        forms = list["Block"]()
        for start in range(0, len(signs), SIGNS_AT_ONCE):
            total = signs[start]
            for sign in signs[start + 1 : start + SIGNS_AT_ONCE]:
                total = total + sign
            forms.append(total)
    return builder.look_up(forms[0], _is_negative)


def _bias(builder: Builder, word: Word) -> Word:
    """Turn two's complement into an unsigned order by flipping the sign bit."""
    return (*word[:-1], builder.look_up(word[-1], lambda x: (x + 2) % BASE))
