"""Selection by an encrypted condition.

Decides the form of a select: ``b + g`` with ``g = a - b`` where the condition holds and 0 elsewhere. ``g`` is one
look-up of ``2 (a - b) + c``, whose parity is the condition. The sum has the noise of two wires; consumers that cannot
bear it clean it, and a result is fresh at no cost where ``b`` is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.circuits.builder import NOISE_BUDGET
from coproc.circuits.word import TOP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coproc.circuits.builder import Block, Builder
    from coproc.circuits.word import Word


def select(builder: Builder, condition: Block, a: Word, b: Word) -> Word:
    """Return ``a`` where the condition is 1, else ``b``."""
    if condition.clear is not None:
        return a if condition.clear else b
    condition = builder.clean(condition)
    known = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x.clear is not None and y.clear is not None]
    tables = [_choice(a[i].low, b[i].low) for i in known]
    shared = dict(zip(known, builder.look_up_many(condition, tables), strict=True)) if known else {}
    return tuple(
        shared[i] if i in shared else select_block(builder, condition, x, y)
        for i, (x, y) in enumerate(zip(a, b, strict=True))
    )


def select_block(builder: Builder, condition: Block, x: Block, y: Block) -> Block:
    """Return ``x`` where the condition is 1, else ``y``, for one block."""
    if x == y:
        return x
    if builder.gates and x.clear == 0 and _is_digit(y):
        return _gates(builder, condition, y)[1]
    if builder.gates and y.clear == 0 and _is_digit(x):
        return _gates(builder, condition, x)[0]
    if x.clear is not None:
        return select_block(builder, 1 - condition, y, x)
    if y.clear is None and max(x.high, y.high) <= 1 and min(x.low, y.low) >= 0:
        return _select_bits(builder, condition, x, y)
    form = (x - y) * 2 + condition
    if form.noise > NOISE_BUDGET:
        x, y = builder.clean(x), builder.clean(y)
        form = (x - y) * 2 + condition
    difference = builder.look_up(form, gated)
    selected = (y + difference).within(min(x.low, y.low), max(x.high, y.high))
    return selected if builder.lazy_selects else builder.clean(selected)


def gate(builder: Builder, condition: Block, word: Word) -> Word:
    """Return the word where the condition is 1, else zero: one bootstrap a block, fresh."""
    zero = builder.constant(0)
    return select(builder, condition, word, tuple(zero for _ in word))


def _is_digit(block: Block) -> bool:
    """Whether a block has a digit's range; bits have a select of their own."""
    return block.low >= 0 and 1 < block.high <= TOP


def _gates(builder: Builder, condition: Block, block: Block) -> Sequence[Block]:
    """Return the block where the condition is 1, and where it is 0: ``2 x + c`` has 8 values, one look-up gives both.

    A select with zero and its counterpart (a ballot counted for or against) are then one bootstrap.
    """
    form = block * 2 + condition
    if form.noise > NOISE_BUDGET:
        form = builder.clean(block) * 2 + condition
    return builder.look_up_many(form, (gated, _gated_off))


def gated(x: int) -> int:
    """Return what lies above the lowest bit where that bit is set, else 0."""
    return x >> 1 if x & 1 else 0


def _gated_off(x: int) -> int:
    return 0 if x & 1 else x >> 1


def _choice(x: int, y: int) -> Callable[[int], int]:
    return lambda c: x if c else y


def _select_bits(builder: Builder, condition: Block, x: Block, y: Block) -> Block:
    """Select between bits: ``3c + 2x - y`` tells all that matters (2 means 0 either way)."""
    form = condition * 3 + x * 2 - y
    if form.noise > NOISE_BUDGET:
        form = condition * 3 + builder.clean(x) * 2 - builder.clean(y)
    return builder.look_up(form.within(-1, 5), lambda v: {-1: 1, 0: 0, 1: 1, 2: 0, 3: 0, 4: 1, 5: 1}[v])
