"""Division and remainder.

Decides corner cases, and the use of known divisors: a multiplication by the reciprocal. By an encrypted zero the
quotient is all ones and the remainder is the dividend, as in TFHE-rs. Signed operands round
towards zero; the remainder has the sign of the dividend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coproc.circuits.bitwise import bit_and
from coproc.circuits.carry import look_ahead, ripple
from coproc.circuits.columns import sum_up
from coproc.circuits.long_division import divide_in_few_rounds, divide_step_by_step
from coproc.circuits.multiplication import clear_value, mul_known, signed_multiples
from coproc.circuits.shift import Direction, shift_by
from coproc.circuits.strategy import Strategy
from coproc.circuits.word import BLOCK_BITS, TOP, Word, constant_word

if TYPE_CHECKING:
    from coproc.circuits.builder import Block, Builder


@dataclass(frozen=True, slots=True)
class Division:
    """Both results; what nobody reads is dropped from the circuit."""

    quotient: Word
    remainder: Word


def divide(
    builder: Builder,
    dividend: Word,
    divisor: Word,
    strategy: Strategy = Strategy.THROUGHPUT,
    *,
    signed: bool = False,
) -> Division:
    """Divide words of the same width."""
    if signed:
        return _divide_signed(builder, dividend, divisor, strategy)
    known = clear_value(divisor)
    if known is not None:
        return divide_by_known(builder, dividend, known, strategy)
    return _divide_encrypted(builder, dividend, divisor, strategy)


def divide_by_known(
    builder: Builder, dividend: Word, divisor: int, strategy: Strategy = Strategy.THROUGHPUT
) -> Division:
    """Divide by a known number, which may turn out to be 0 (as ``x - x`` does)."""
    width = len(dividend)
    bits = BLOCK_BITS * width
    if divisor == 0:
        return Division(constant_word(builder, -1, bits), dividend)
    dividend = tuple(builder.clean(block) for block in dividend)
    if divisor & (divisor - 1) == 0:
        quotient = shift_by(builder, dividend, divisor.bit_length() - 1, Direction.RIGHT)
        return Division(quotient, bit_and(builder, dividend, constant_word(builder, divisor - 1, bits)))
    if divisor >> bits:
        return Division(constant_word(builder, 0, bits), dividend)
    quotient = _multiply_high(builder, dividend, divisor, strategy)
    # a - q d as one sum of columns
    columns = signed_multiples(builder, quotient, -divisor, width)
    for column, block in zip(columns, dividend, strict=True):
        column.append(block)
    return Division(quotient, sum_up(builder, columns, strategy))


def _multiply_high(builder: Builder, dividend: Word, divisor: int, strategy: Strategy) -> Word:
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
    product = mul_known(builder, dividend, multiplier, 2 * width + 1, strategy)
    whole, odd = divmod(shift, BLOCK_BITS)
    high = product[whole:]
    if odd:
        high = shift_by(builder, high, 1, Direction.RIGHT)
    return (*high, *constant_word(builder, 0, BLOCK_BITS * width))[:width]


def _divide_encrypted(builder: Builder, dividend: Word, divisor: Word, strategy: Strategy) -> Division:
    if strategy is Strategy.LATENCY:
        return Division(*divide_in_few_rounds(builder, dividend, divisor))
    return Division(*divide_step_by_step(builder, dividend, divisor))


def _divide_signed(builder: Builder, dividend: Word, divisor: Word, strategy: Strategy) -> Division:
    sign = _sign(builder, dividend)
    known = clear_value(divisor)
    magnitude = negate_if(builder, dividend, sign, strategy)
    if known is not None:
        bits = BLOCK_BITS * len(divisor)
        negative = known >> (bits - 1)
        division = divide_by_known(builder, magnitude, (1 << bits) - known if negative else known, strategy)
        flip = 1 - sign if negative else sign
    else:
        other = _sign(builder, divisor)
        division = _divide_encrypted(builder, magnitude, negate_if(builder, divisor, other, strategy), strategy)
        flip = builder.look_up(sign + other, lambda x: x % 2)
    return Division(
        negate_if(builder, division.quotient, flip, strategy),
        negate_if(builder, division.remainder, sign, strategy),
    )


def _sign(builder: Builder, word: Word) -> Block:
    return builder.look_up(word[-1], lambda x: int(x >= 2))


def negate_if(builder: Builder, word: Word, condition: Block, strategy: Strategy) -> Word:
    """Return ``-x`` where the condition is 1, else ``x``: digits are complemented, and the condition is carried in."""
    flipped = [
        builder.look_up(builder.clean(block) * 2 + condition, lambda v: TOP - v // 2 if v % 2 else v // 2)
        for block in word
    ]
    flipped[0] = flipped[0] + condition
    if strategy is Strategy.LATENCY:
        return look_ahead(builder, flipped, 0)[0]
    return ripple(builder, flipped, builder.constant(0))[0]
