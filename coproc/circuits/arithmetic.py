"""Addition, subtraction, negation and sums of many words.

Decides how carries travel: along the word (one bootstrap a block, as many rounds as blocks) or ahead of it through
states of spans (more bootstraps, few rounds). Results are reduced to the width of the operands.

A sum of columns keeps every look-up input within 16 consecutive values. One bootstrap then gives the digit, one the
carry, and a single one gives both when there are at most 8 values. Subtracting ``b`` is adding ``3 - b`` in each digit,
and 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.circuits.builder import BOXES, NOISE_BUDGET
from coproc.circuits.strategy import Strategy
from coproc.circuits.word import BASE, TOP, Word, constant_word

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coproc.circuits.builder import Block, Builder

SPANS_AT_ONCE: Final = 4
"""Signs merged by one look-up: 8 s3 + 4 s2 + 2 s1 + s0 lies between -15 and 15."""
PAIR_CENTRE: Final = 15
"""The sum of two pairs of blocks at which a carry travels through."""
SHORT_WORD: Final = 4
"""Up to this many blocks a carry travels along as fast as ahead."""


def add(builder: Builder, a: Word, b: Word, strategy: Strategy) -> Word:
    """Return ``a + b``."""
    return _add_with_carry(builder, a, b, 0, strategy)


def sub(builder: Builder, a: Word, b: Word, strategy: Strategy) -> Word:
    """Return ``a - b``."""
    return _add_with_carry(builder, a, complement(b), 1, strategy)


def neg(builder: Builder, a: Word, strategy: Strategy) -> Word:
    """Return ``-a``."""
    zero = constant_word(builder, 0, 2 * len(a))
    return sub(builder, zero, a, strategy)


def complement(word: Word) -> Word:
    """Turn every digit ``x`` into ``3 - x``, without a bootstrap."""
    return tuple(TOP - block for block in word)


def sum_words(builder: Builder, added: Sequence[Word], subtracted: Sequence[Word], width: int) -> Word:
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
    return sum_columns(builder, columns)


def sum_columns(builder: Builder, columns: Sequence[Sequence[Block]]) -> Word:
    """Add up weighted digits: column ``i`` has weight ``4^i``; what is carried out of the last column is dropped.

    Blocks may be of any range, negative values too. Digits that nobody reads cost nothing but their carry.
    """
    result: list[Block] = []
    waiting = [list(column) for column in columns]
    for index, column in enumerate(waiting):
        above = waiting[index + 1] if index + 1 < len(waiting) else None
        while True:
            part = _fill(column) if column else builder.constant(0)
            whole = not column
            digit, carry = _split(builder, part, is_last=above is None)
            if above is not None and carry.clear != 0:
                above.append(carry)
            if whole:
                result.append(digit)
                break
            column.append(digit)
    return tuple(result)


def _fill(column: list[Block]) -> Block:
    """Take blocks off a column while their sum fits one look-up."""
    column.sort(key=lambda block: (-block.level, block.high - block.low))  # taken from the end: early and wide first
    total = column.pop()
    index = len(column) - 1
    while index >= 0:
        larger = total + column[index]
        if larger.high - larger.low < BOXES and larger.noise <= NOISE_BUDGET:
            total = larger
            del column[index]
        index -= 1
    return total


def _split(builder: Builder, total: Block, *, is_last: bool) -> tuple[Block, Block]:
    """Cut a sum into its digit and what is carried."""
    if total.low >= 0 and total.high < BASE:
        return total, builder.constant(0)
    if is_last:
        return builder.look_up(total, lambda x: x % BASE), builder.constant(0)
    digit, carry = builder.look_up_many(total, (lambda x: x % BASE, lambda x: x // BASE))
    return digit, carry


# ------------------------------------------------------------------------------------------------ two operands
def _add_with_carry(builder: Builder, a: Word, b: Word, carry: int, strategy: Strategy) -> Word:
    if strategy is Strategy.THROUGHPUT or len(a) <= SHORT_WORD:
        return _ripple(builder, a, b, builder.constant(carry))
    a = tuple(builder.clean(block) for block in a)
    b = tuple(builder.clean(block) for block in b)
    totals = [_pair(a, index) + _pair(b, index) - PAIR_CENTRE for index in range((len(a) - 1) // 2)]
    if any(total.noise > NOISE_BUDGET for total in totals):  # both operands share wires, as in x + x
        return _ripple(builder, a, b, builder.constant(carry))
    carries = _carries_into_pairs(builder, totals, carry)
    result: list[Block] = []
    for index, carried in enumerate(carries):
        start = 2 * index
        result += _ripple(builder, a[start : start + 2], b[start : start + 2], carried)
    return tuple(result)


def _ripple(builder: Builder, a: Word, b: Word, carry: Block) -> Word:
    return ripple(builder, a, b, carry)[0]


def ripple(builder: Builder, a: Word, b: Word, carry: Block) -> tuple[Word, Block]:
    """Let the carry travel along: one bootstrap a block gives digit and carry. Returns the sum and the last carry."""
    result: list[Block] = []
    for x, y in zip(a, b, strict=True):
        total = x + y + carry
        if total.noise > NOISE_BUDGET:
            total = builder.clean(x) + builder.clean(y) + carry
        digit, carry = builder.look_up_many(total, (lambda v: v % BASE, lambda v: v // BASE))
        result.append(digit)
    return tuple(result), carry


def _carries_into_pairs(builder: Builder, totals: Sequence[Block], carry: int) -> list[Block]:
    """Find the carry into every pair of blocks, from the centred sums of all pairs but the last.

    A span is in state 1 if it carries out by itself, 0 if it passes a carry on, -1 if it swallows one: the sign of its
    sum less what it can hold. States of neighbouring spans merge like digits: the highest that is not 0 decides.
    """
    carries = [builder.constant(carry)]
    # Groups of up to four pairs: states of the spans from the group's start to each of its pairs.
    groups: list[list[Block]] = []
    for start in range(0, len(totals), SPANS_AT_ONCE):
        members = totals[start : start + SPANS_AT_ONCE]
        states = [builder.look_up(total, scaled_sign(1 << rank)) for rank, total in enumerate(members)]
        groups.append([builder.look_up(_prefix(states, rank), _sign) for rank in range(len(states))])
    into_group = builder.constant(carry)
    spans: list[Block] = []
    for group in groups:
        resolved = [builder.look_up(state + into_group, _carries) for state in group]
        carries += resolved
        spans.append(group[-1])
        into_group = resolved[-1]
    return carries


def _pair(word: Word, index: int) -> Block:
    return word[2 * index + 1] * BASE + word[2 * index]


def _prefix(states: Sequence[Block], last: int) -> Block:
    total = states[0]
    for state in states[1 : last + 1]:
        total = total + state
    return total


def scaled_sign(scale: int) -> Callable[[int], int]:
    """Make the look-up that gives the sign of a value, times its weight in a merge."""
    return lambda x: scale * _sign(x)


def _sign(x: int) -> int:
    return (x > 0) - (x < 0)


def _carries(x: int) -> int:
    return int(x >= 1)
