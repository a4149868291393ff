"""Long division of encrypted words in base 4, the most significant digit first.

Decides how a digit of the quotient is found. For few bootstraps, ``2D`` and then ``D`` are subtracted where they fit.
For few rounds, ``D``, ``2D`` and ``3D`` are subtracted at the same time, with carries that come ahead, and the last
difference that is not negative stays. Dividing by zero, everything fits: the quotient is all ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.circuits.arithmetic import add, add_with_carry, complement
from coproc.circuits.builder import BOXES
from coproc.circuits.carry import look_ahead
from coproc.circuits.selection import gated
from coproc.circuits.shift import double
from coproc.circuits.strategy import Strategy
from coproc.circuits.word import BASE, TOP, Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.circuits.builder import Block, Builder

MULTIPLES: Final = 3
"""Of the divisor, that are tried at once."""


def divide_step_by_step(builder: Builder, dividend: Word, divisor: Word) -> tuple[Word, Word]:
    """Divide with few bootstraps: subtract ``2D``, then ``D``, where they fit; returns quotient and remainder."""
    width = len(dividend)
    divisor = tuple(builder.clean(block) for block in divisor)
    remainder = [builder.clean(block) for block in dividend]
    twice = double(builder, divisor, width)
    above, above_twice = _parts_above(builder, divisor)
    quotient: list[Block] = []
    for place in range(width - 1, -1, -1):
        size = width - place
        window = tuple(remainder[place:])
        window, upper = _subtract_if_fits(builder, window, twice[:size], above_twice[size], None)
        window, digit = _subtract_if_fits(builder, window, divisor[:size], above[size], upper)
        remainder[place:] = window
        quotient.append(digit)
    return tuple(reversed(quotient)), tuple(remainder)


def _parts_above(builder: Builder, divisor: Word) -> tuple[list[Block], list[Block]]:
    """For every size ``k``: whether ``D`` and ``2 D`` have something from block ``k`` on, which never fits."""
    width = len(divisor)
    zero = builder.constant(0)
    above, above_twice = [zero] * (width + 1), [zero] * (width + 1)
    found = zero
    for size in range(width, 0, -1):
        above[size] = found
        form = divisor[size - 1] + found * BASE
        found, above_twice[size] = builder.look_up_many(form, (lambda x: int(x > 0), lambda x: int(x > 1)))
    return above, above_twice


def _subtract_if_fits(
    builder: Builder, window: Word, part: Word, above: Block, upper: Block | None
) -> tuple[Word, Block]:
    """Subtract once.

    Returns:
        The window, and for the upper step 3 if it fitted else 0; for the lower step (``upper`` given) the digit.
    """
    difference, fits = add_with_carry(builder, window, complement(part), builder.constant(1))
    obstacle = (1 - fits) + above
    if upper is None:
        blocked, result = builder.look_up_many(obstacle, (lambda x: 8 * int(x > 0), lambda x: 3 * int(x == 0)))
    else:
        blocked, result = builder.look_up_many(
            obstacle + upper, (lambda x: 8 * int(x % 3 > 0), lambda x: 2 * (x // 3) + int(x % 3 == 0))
        )
    kept = [
        (new + builder.look_up(old - new + blocked, _taken_back)).within(0, TOP)
        for old, new in zip(window, difference, strict=True)
    ]
    return tuple(kept), result


def _taken_back(x: int) -> int:
    """Read ``old - new``, which lies between -3 and 3, plus 8 where the new digit must not stay."""
    return x - 8 if x > 4 else 0


def divide_in_few_rounds(builder: Builder, dividend: Word, divisor: Word) -> tuple[Word, Word]:
    """Divide with few rounds: a digit takes one subtraction and one choice; returns quotient and remainder."""
    width = len(dividend)
    divisor = tuple(builder.clean(block) for block in divisor)
    remainder = [builder.clean(block) for block in dividend]
    wide = (*divisor, builder.constant(0))
    twice = double(builder, divisor, width + 1)
    thrice = add(builder, wide, twice, Strategy.LATENCY)
    multiples = (wide, twice, thrice)
    above = [_nonzero_from(builder, multiple) for multiple in multiples]
    quotient: list[Block] = []
    for place in range(width - 1, -1, -1):
        size = width - place
        window = tuple(remainder[place:])
        choices, blocked = [window], list["Block"]()
        for multiple, rest in zip(multiples, above, strict=True):
            difference, fits = _subtract(builder, window, multiple[:size])
            choices.append(difference)
            blocked.append(builder.look_up(1 - fits + rest[size], lambda x: int(x > 0)))
        quotient.append(MULTIPLES - _sum(builder, blocked))
        remainder[place:] = _last_that_fits(builder, choices, blocked)
    return tuple(builder.clean(digit) for digit in reversed(quotient)), tuple(remainder)


def _subtract(builder: Builder, window: Word, part: Word) -> tuple[Word, Block]:
    """Return the difference, and 1 if it is not negative, else 0."""
    return look_ahead(builder, [x + y for x, y in zip(window, complement(part), strict=True)], 1)


def _last_that_fits(builder: Builder, choices: Sequence[Word], blocked: Sequence[Block]) -> Word:
    """Take the last choice, and go back from each that is blocked to the one before."""
    result: list[Block] = []
    for blocks in zip(*choices, strict=True):
        total = blocks[-1]
        for before, after, block in zip(blocks, blocks[1:], blocked, strict=False):
            # The parity of the form is the condition.
            total = total + builder.look_up((before - after) * 2 + block, gated)
        result.append(builder.clean(total.within(0, TOP)))
    return tuple(result)


def _nonzero_from(builder: Builder, word: Sequence[Block]) -> list[Block]:
    """Return for every block, and for the end, whether anything from there on is not zero; in few rounds."""
    groups: list[list[Block]] = [[]]
    for block in word:
        if sum(other.high for other in groups[-1]) + block.high >= BOXES:
            groups.append([])
        groups[-1].append(block)
    zero = builder.constant(0)
    later = [zero]
    if len(groups) > 1:
        later = _nonzero_from(builder, [builder.look_up(_sum(builder, group), _is_nonzero) for group in groups])[1:]
    return [
        *(
            builder.look_up(_sum(builder, [*group[index:], after]), _is_nonzero)
            for group, after in zip(groups, later, strict=True)
            for index in range(len(group))
        ),
        zero,
    ]


def _sum(builder: Builder, blocks: Sequence[Block]) -> Block:
    return sum(blocks, builder.constant(0))


def _is_nonzero(x: int) -> int:
    return int(x > 0)
