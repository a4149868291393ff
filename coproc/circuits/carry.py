"""Carries: along a word, or ahead of it through states of spans.

Decides how the carry reaches each block of a sum of digits. Travelling along takes one bootstrap a block and as many
rounds. Looking ahead takes more bootstraps and few rounds: a span of blocks *generates* a carry (state 1), *passes* one
on (0) or *swallows* it (-1), which is the sign of its sum less the most that it can hold. Neighbouring states merge as
``8 s3 + 4 s2 + 2 s1 + s0``, whose sign is that of the highest state other than 0.

The tree over states is lazy: only the carries that somebody asks for are built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.circuits.builder import NOISE_BUDGET
from coproc.circuits.word import BASE, TOP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coproc.circuits.builder import Block, Builder
    from coproc.circuits.word import Word

SPANS_AT_ONCE: Final = 4
"""States merged by one look-up: 8 s3 + 4 s2 + 2 s1 + s0 lies between -15 and 15."""


def digit_of(x: int) -> int:
    """Return the digit of a column's sum."""
    return x % BASE


def carry_of(x: int) -> int:
    """Return what a column's sum carries to the next; negative sums borrow."""
    return x // BASE


def scaled_sign(scale: int) -> Callable[[int], int]:
    """Make the look-up that gives the sign of a value, times its weight in a merge."""
    return lambda x: scale * _sign(x)


def ripple(builder: Builder, totals: Sequence[Block], carry: Block) -> tuple[Word, Block]:
    """Let the carry travel along sums of digits: one bootstrap a block gives digit and carry.

    Returns:
        The digits and the carry out of the last; what is not used of them costs nothing.
    """
    result: list[Block] = []
    for total in totals:
        digit, carry = builder.look_up_many(total + carry, (digit_of, carry_of))
        result.append(digit)
    return tuple(result), carry


def look_ahead(builder: Builder, totals: Sequence[Block], carry: int, *, shortest: bool = False) -> tuple[Word, Block]:
    """Add up sums of digits with carries that come ahead of them.

    Args:
        builder: makes the circuit.
        totals: one sum of digits a block, each from 0 to 6.
        carry: 0 or 1, into the first block.
        shortest: one round less, for about a quarter more bootstraps.

    Returns:
        The digits of the sum, cut to the length of ``totals``, and the carry out of them; what is not used of them
        costs nothing.
    """
    spans = _spans(totals)
    into = CarryTree(builder, [_centred(totals[start:stop]) for start, stop in spans], carry)
    result: list[Block] = []
    for number, (start, stop) in enumerate(spans):
        carried = into.carry(number)
        if shortest and stop - start == 2 and number > 0:
            result += _both_at_once(builder, totals[start], totals[start + 1], carried)
        else:
            digits, _ = ripple(builder, totals[start:stop], carried)
            result += digits
    return tuple(result), into.carry(len(spans))


def _spans(totals: Sequence[Block]) -> list[tuple[int, int]]:
    """Cut a word into spans of two blocks, or one where noise forbids to look at two together."""
    spans: list[tuple[int, int]] = []
    start = 0
    while start < len(totals):
        stop = start + 2
        if stop > len(totals) or _centred(totals[start:stop]).noise > NOISE_BUDGET:
            stop = start + 1
        spans.append((start, stop))
        start = stop
    return spans


def _centred(totals: Sequence[Block]) -> Block:
    """Return the sum of a span less the most that it holds: its sign is the state of the span."""
    if len(totals) == 1:
        return totals[0] - TOP
    return totals[1] * BASE + totals[0] - (BASE * BASE - 1)


def _both_at_once(builder: Builder, low: Block, high: Block, carry: Block) -> tuple[Block, Block]:
    """Finish two blocks in the same round: the state of the lower one (0, 1, 2) stands for its carry."""
    state = builder.look_up(low - TOP, lambda x: 1 + _sign(x))
    (digit,) = builder.look_up_many(low + carry, (digit_of,))
    # state 2, or state 1 and a carry, carries into the upper block: that is bit 1 of their sum.
    return digit, builder.look_up(high * 2 + state + carry, lambda x: (x >> 1) % BASE)


class CarryTree:
    """The resolved carry into every span, by a radix-4 prefix tree over span states.

    Level 0 are the spans themselves, in groups of four from span 0. On higher levels, a node merges four of the level
    below; the first node is resolved (a carry, not a state) and stands before the groups, so that it can be the base of
    the first one.
    """

    def __init__(self, builder: Builder, spans: Sequence[Block], carry: int) -> None:
        """Take centred sums of spans, the least significant first, and the carry (0 or 1) into the first."""
        self._builder = builder
        self._spans = spans
        self._carry = carry
        self._states: dict[tuple[int, int], Block] = {}
        self._first: dict[int, Block] = {}
        self._carries: dict[tuple[int, int], Block] = {}

    def carry(self, span: int) -> Block:
        """Return the carry into a span: 0 or 1."""
        return self._into(0, span)

    def _state(self, level: int, index: int) -> Block:
        """State of a node, scaled by its place in its group."""
        key = (level, index)
        if key not in self._states:
            function: Callable[[int], int]
            if level == 0 and index == 0:
                form, function = self._spans[0] + self._carry, _first_state
            elif level == 0:
                form, function = self._spans[index], scaled_sign(1 << (index % SPANS_AT_ONCE))
            else:
                start = SPANS_AT_ONCE * index + (level > 1)
                form = self._merge(level - 1, range(start, start + SPANS_AT_ONCE))
                function = scaled_sign(1 << ((index - 1) % SPANS_AT_ONCE))
            self._states[key] = self._builder.look_up(form, function)
        return self._states[key]

    def _resolved_first(self, level: int) -> Block:
        """Carry out of the first node of a level above 0."""
        if level not in self._first:
            form = self._merge(level - 1, range(level > 1, SPANS_AT_ONCE + (level > 1)))
            if level > 1:
                form = form + self._resolved_first(level - 1)
            self._first[level] = self._builder.look_up(form, _carries)
        return self._first[level]

    def _into(self, level: int, index: int) -> Block:
        """Carry into a node."""
        key = (level, index)
        if key not in self._carries:
            self._carries[key] = self._find_carry(level, index)
        return self._carries[key]

    def _find_carry(self, level: int, index: int) -> Block:
        if level == 0 and index == 0:
            return self._builder.constant(self._carry)
        first = int(level > 0)
        start = first + (index - first) // SPANS_AT_ONCE * SPANS_AT_ONCE
        base: Block | None
        if level == 0:
            base = None if start == 0 else self._into(1, start // SPANS_AT_ONCE)
        elif start == 1:
            base = self._resolved_first(level)
        else:
            base = self._into(level + 1, (start - 1) // SPANS_AT_ONCE)
        if index == start and base is not None:
            return base
        form = self._merge(level, range(start, index))
        return self._builder.look_up(form if base is None else form + base, _carries)

    def _merge(self, level: int, indices: range) -> Block:
        total = self._state(level, indices[0])
        for index in indices[1:]:
            total = total + self._state(level, index)
        return total


def _sign(x: int) -> int:
    return (x > 0) - (x < 0)


def _first_state(x: int) -> int:
    """State of the first span, whose carry in is known: it never passes one on."""
    return 1 if x >= 1 else -1


def _carries(x: int) -> int:
    return int(x >= 1)
