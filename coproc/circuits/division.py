"""Division and remainder.

Decides the algorithms: by an encrypted divisor, restoring long division in base 4 (two conditional subtractions a
digit); by a known one, a multiplication by its reciprocal. By an encrypted zero the quotient is all ones and the
remainder is the dividend, as in TFHE-rs; a known zero is refused. Signed operands round towards zero; the remainder
has the sign of the dividend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coproc.circuits.arithmetic import add_with_carry, complement
from coproc.circuits.bitwise import bit_and
from coproc.circuits.columns import sum_columns
from coproc.circuits.multiplication import clear_value, mul_known, signed_multiples
from coproc.circuits.shift import Direction, double, shift_by
from coproc.circuits.word import BASE, BLOCK_BITS, TOP, Word, constant_word
from coproc.errors import IrrecoverableError

if TYPE_CHECKING:
    from coproc.circuits.builder import Block, Builder


class DivisionByZero(IrrecoverableError):
    """A known divisor is zero."""

    rule = "DIVISION_BY_ZERO"


@dataclass(frozen=True, slots=True)
class Division:
    """Both results; what nobody reads is dropped from the circuit."""

    quotient: Word
    remainder: Word


def divide(builder: Builder, dividend: Word, divisor: Word, *, signed: bool = False) -> Division:
    """Divide words of the same width.

    Raises:
        DivisionByZero: the divisor is known and 0.
    """
    if signed:
        return _divide_signed(builder, dividend, divisor)
    known = clear_value(divisor)
    if known is not None:
        return divide_by_known(builder, dividend, known)
    return _divide_encrypted(builder, dividend, divisor)


def divide_by_known(builder: Builder, dividend: Word, divisor: int) -> Division:
    """Divide by a known number.

    Raises:
        DivisionByZero: it is 0.
    """
    if divisor == 0:
        raise DivisionByZero("the divisor is a known zero")
    width = len(dividend)
    bits = BLOCK_BITS * width
    dividend = tuple(builder.clean(block) for block in dividend)
    if divisor & (divisor - 1) == 0:
        quotient = shift_by(builder, dividend, divisor.bit_length() - 1, Direction.RIGHT)
        return Division(quotient, bit_and(builder, dividend, constant_word(builder, divisor - 1, bits)))
    if divisor >> bits:
        return Division(constant_word(builder, 0, bits), dividend)
    quotient = _multiply_high(builder, dividend, divisor)
    # a - q d as one sum of columns
    columns = signed_multiples(builder, quotient, -divisor, width)
    for column, block in zip(columns, dividend, strict=True):
        column.append(block)
    return Division(quotient, sum_columns(builder, columns))


def _multiply_high(builder: Builder, dividend: Word, divisor: int) -> Word:
    """Return ``floor(a / d)`` as ``(a m) >> s`` with ``m`` the reciprocal rounded up (Granlund and Montgomery).

    With ``s = bits + ceil(log2 d)`` the error stays below one quotient step; the product is taken in full, so that a
    multiplier of one bit more than the word needs no correction.
    """
    width = len(dividend)
    even = (divisor & -divisor).bit_length() - 1
    dividend = shift_by(builder, dividend, even, Direction.RIGHT)
    divisor >>= even
    bits = BLOCK_BITS * width - even
    shift = bits + (divisor - 1).bit_length()
    multiplier = -(-(1 << shift) // divisor)
    # A smaller multiplier that is still exact has fewer digits: e = m d - 2^s must stay within 2^(s - bits).
    while shift > bits:
        smaller = -(-(1 << (shift - 1)) // divisor)
        if smaller * divisor - (1 << (shift - 1)) > 1 << (shift - 1 - bits):
            break
        shift, multiplier = shift - 1, smaller
    product = mul_known(builder, dividend, multiplier, 2 * width + 1)
    whole, odd = divmod(shift, BLOCK_BITS)
    high = product[whole:]
    if odd:
        high = shift_by(builder, high, 1, Direction.RIGHT)
    return (*high, *constant_word(builder, 0, BLOCK_BITS * width))[:width]


def _divide_encrypted(builder: Builder, dividend: Word, divisor: Word) -> Division:
    """Divide base 4, most significant digit first: subtract 2D and then D where they fit."""
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
    return Division(tuple(reversed(quotient)), tuple(remainder))


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
        (new + builder.look_up(old - new + blocked, lambda x: x - 8 if x > 4 else 0)).within(0, TOP)
        for old, new in zip(window, difference, strict=True)
    ]
    return tuple(kept), result


# ------------------------------------------------------------------------------------------------ signed
def _divide_signed(builder: Builder, dividend: Word, divisor: Word) -> Division:
    sign = _sign(builder, dividend)
    known = clear_value(divisor)
    magnitude = negate_if(builder, dividend, sign)
    if known is not None:
        bits = BLOCK_BITS * len(divisor)
        negative = known >> (bits - 1)
        division = divide_by_known(builder, magnitude, (1 << bits) - known if negative else known)
        flip = 1 - sign if negative else sign
    else:
        other = _sign(builder, divisor)
        division = _divide_encrypted(builder, magnitude, negate_if(builder, divisor, other))
        flip = builder.look_up(sign + other, lambda x: x % 2)
    return Division(
        negate_if(builder, division.quotient, flip),
        negate_if(builder, division.remainder, sign),
    )


def _sign(builder: Builder, word: Word) -> Block:
    return builder.look_up(word[-1], lambda x: int(x >= 2))


def negate_if(builder: Builder, word: Word, condition: Block) -> Word:
    """Return ``-x`` where the condition is 1, else ``x``: digits are complemented, and the condition is carried in."""
    flipped = tuple(
        builder.look_up(builder.clean(block) * 2 + condition, lambda v: TOP - v // 2 if v % 2 else v // 2)
        for block in word
    )
    return add_with_carry(builder, flipped, constant_word(builder, 0, BLOCK_BITS * len(word)), condition)[0]
