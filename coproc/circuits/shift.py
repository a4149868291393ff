"""Shifts and rotations.

Decides how amounts act: a known amount moves blocks, and an odd one takes one bootstrap a block; an encrypted one is
cut into bits, each of which moves the word or keeps it, in rounds of one many-output bootstrap a block.

Amounts count modulo the width (TFHE-rs up to 1.7); widths that are no power of two use as many bits of the amount as
their own number of bits takes. A shift to the right of a signed word fills with its sign.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from coproc.circuits.builder import NOISE_BUDGET
from coproc.circuits.strategy import Strategy
from coproc.circuits.word import BASE, BLOCK_BITS, TOP, Word

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coproc.circuits.builder import Block, Builder


class Direction(Enum):
    """Where bits go and what comes in."""

    LEFT = "shl"
    RIGHT = "shr"
    ROTATE_LEFT = "rotl"
    ROTATE_RIGHT = "rotr"

    @property
    def is_left(self) -> bool:
        """Towards the most significant end."""
        return self in {Direction.LEFT, Direction.ROTATE_LEFT}

    @property
    def is_rotation(self) -> bool:
        """Whether bits that leave come in again."""
        return self in {Direction.ROTATE_LEFT, Direction.ROTATE_RIGHT}


def shift(
    builder: Builder,
    word: Word,
    amount: Word,
    direction: Direction,
    strategy: Strategy = Strategy.THROUGHPUT,
    *,
    signed: bool = False,
) -> Word:
    """Move the bits of a word by an amount of the same width, known or encrypted."""
    clear = [block.clear for block in amount]
    if None not in clear:
        value = sum((digit or 0) << (BLOCK_BITS * i) for i, digit in enumerate(clear))
        return shift_by(builder, word, value % (BLOCK_BITS * len(word)), direction, signed=signed)
    fill = _fill(builder, word, direction, signed=signed)
    return _shift_encrypted(builder, word, amount, direction, fill, strategy)


def shift_by(builder: Builder, word: Word, amount: int, direction: Direction, *, signed: bool = False) -> Word:
    """Move the bits of a word by less than its width."""
    blocks, odd = divmod(amount, BLOCK_BITS)
    fill = _fill(builder, word, direction, signed=signed)
    moved = _neighbours(word, blocks, direction, fill)
    if not odd:
        return moved
    beyond = _neighbours(word, blocks + 1, direction, fill)
    function = _left if direction.is_left else _right
    return tuple(_join(builder, near, far, function) for near, far in zip(moved, beyond, strict=True))


def double(builder: Builder, word: Word, width: int) -> Word:
    """Return ``2 x`` in ``width`` blocks, at least as many as the word has."""
    zero = builder.constant(0)
    wide = word + (zero,) * (width - len(word))
    return shift_by(builder, wide, 1, Direction.LEFT)


def _left(near: int, far: int) -> int:
    return (near << 1 & TOP) | far >> 1


def _right(near: int, far: int) -> int:
    return near >> 1 | (far & 1) << 1


def _join(builder: Builder, near: Block, far: Block, function: Callable[[int, int], int]) -> Block:
    near, far = builder.clean(near), builder.clean(far)
    return builder.look_up(near * BASE + far, lambda v: function(v // BASE, v % BASE))


def _fill(builder: Builder, word: Word, direction: Direction, *, signed: bool) -> Block:
    """What comes in from outside: zeros, or for a signed shift to the right the sign."""
    if signed and direction is Direction.RIGHT:
        return builder.look_up(word[-1], lambda x: TOP if x >= 2 else 0)
    return builder.constant(0)


def _neighbours(word: Word, distance: int, direction: Direction, fill: Block) -> Word:
    """For every block the one that comes to its place."""
    count = len(word)
    places = [i - distance if direction.is_left else i + distance for i in range(count)]
    if direction.is_rotation:
        return tuple(word[place % count] for place in places)
    return tuple(word[place] if 0 <= place < count else fill for place in places)


def _shift_encrypted(
    builder: Builder, word: Word, amount: Word, direction: Direction, fill: Block, strategy: Strategy
) -> Word:
    rounds = (BLOCK_BITS * len(word) - 1).bit_length()
    bits = _scaled_bits(builder, amount, rounds)
    current, done = word, 0
    if strategy is Strategy.LATENCY and rounds > 1:
        current, fill = _move_by_digit(builder, word, amount[0], direction, fill)
        done = BLOCK_BITS
    for number in range(done, rounds):
        distance = 1 << number >> 1  # in blocks; bit 0 moves half a block
        keep, move = (_keep_half(direction), _move_half(direction)) if number == 0 else (_keep, _move)
        pairs = [_halves(builder, block, bits[number], keep, move) for block in current]
        # What comes in from outside is moved by the same rule; a zero stays one.
        _, incoming = _halves(builder, fill, bits[number], keep, move)
        moved = _neighbours(tuple(pair[1] for pair in pairs), max(distance, 1), direction, incoming)
        current = tuple((kept + come).within(0, TOP) for (kept, _), come in zip(pairs, moved, strict=True))
    return current


def _move_by_digit(builder: Builder, word: Word, digit: Block, direction: Direction, fill: Block) -> tuple[Word, Block]:
    """Move by 0 to 3 bits in one round: three look-ups a block, for the blocks in which its bits can come to lie."""
    digit = builder.clean(digit)

    def parts(block: Block) -> tuple[Block, ...]:
        form = block + digit * BASE
        if form.noise > NOISE_BUDGET:
            form = builder.clean(block) + digit * BASE
        return builder.look_up_many(form, [_part(direction, distance) for distance in range(3)])

    rows = [parts(block) for block in word]
    outside = parts(fill)
    moved = [
        _neighbours(tuple(row[distance] for row in rows), distance, direction, outside[distance])
        for distance in range(3)
    ]
    return tuple((x + y + z).within(0, TOP) for x, y, z in zip(*moved, strict=True)), fill


def _part(direction: Direction, distance: int) -> Callable[[int], int]:
    """Bits of ``x % 4``, moved by ``x // 4``, that come to lie ``distance`` blocks further."""
    if direction.is_left:
        return lambda x: (x % BASE << x // BASE) >> (BLOCK_BITS * distance) & TOP
    return lambda x: (x % BASE << (BLOCK_BITS * distance)) >> x // BASE & TOP


def _scaled_bits(builder: Builder, amount: Word, count: int) -> list[Block]:
    """Cut the amount into bits, each 0 or 4, two by one bootstrap."""
    bits: list[Block] = []
    for block in amount[: (count + 1) // 2]:
        bits += builder.look_up_many(builder.clean(block), (lambda x: BASE * (x & 1), lambda x: BASE * (x >> 1)))
    return bits[:count]


def _halves(
    builder: Builder, block: Block, bit: Block, keep: Callable[[int], int], move: Callable[[int], int]
) -> Sequence[Block]:
    return builder.look_up_many(block + bit, (keep, move))


def _keep(x: int) -> int:
    return 0 if x >= BASE else x


def _move(x: int) -> int:
    return x - BASE if x >= BASE else 0


def _keep_half(direction: Direction) -> Callable[[int], int]:
    """Bit 0: what stays in the block, shifted inside it if the bit is set."""
    if direction.is_left:
        return lambda x: (x % BASE << 1) & TOP if x >= BASE else x
    return lambda x: x % BASE >> 1 if x >= BASE else x


def _move_half(direction: Direction) -> Callable[[int], int]:
    """Bit 0: what crosses into the next block."""
    if direction.is_left:
        return lambda x: x % BASE >> 1 if x >= BASE else 0
    return lambda x: (x & 1) << 1 if x >= BASE else 0
