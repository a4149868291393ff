"""Every family: exhaustively at 8 bits, at random up to 256 bits, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits import arithmetic, bitwise, compare
from coproc.circuits.builder import Builder
from coproc.circuits.cast import cast
from coproc.circuits.choice import look_up_word
from coproc.circuits.counts import count
from coproc.circuits.division import divide
from coproc.circuits.evaluation import evaluate, verify
from coproc.circuits.multiplication import mul
from coproc.circuits.selection import gate, select
from coproc.circuits.shift import Direction, shift
from coproc.circuits.strategy import Strategy
from coproc.circuits.word import Word, constant_word, input_word, materialise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit

    Family = Callable[[Builder, Word, Word, Word, Strategy], Word]
    Meaning = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.generic]]

T, L = Strategy.THROUGHPUT, Strategy.LATENCY
WORDS = [pow(7, number, 257) & 255 for number in range(16)]


def signed(x: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(x >= 128, x - 256, x)


# name: circuit of (a, b, condition), the same on integers, bits of the result
FAMILIES: dict[str, tuple[Family, Meaning, int]] = {
    "add": (lambda o, a, b, c, s: arithmetic.add(o, a, b, s), lambda a, b, c: a + b, 8),
    "double": (lambda o, a, b, c, s: arithmetic.add(o, a, a, s), lambda a, b, c: 2 * a, 8),
    "sub": (lambda o, a, b, c, s: arithmetic.sub(o, a, b, s), lambda a, b, c: a - b, 8),
    "neg": (lambda o, a, b, c, s: arithmetic.neg(o, a, s), lambda a, b, c: -a, 8),
    "sum": (
        lambda o, a, b, c, s: arithmetic.sum_words(o, [a, b, a, (*b, *a[:1])], [b, a[:2]], 5),
        lambda a, b, c: a + b + a + (b + ((a & 3) << 8)) - b - (a & 15),
        10,
    ),
    "bit_and": (lambda o, a, b, c, s: bitwise.bit_and(o, a, b), lambda a, b, c: a & b, 8),
    "bit_or": (lambda o, a, b, c, s: bitwise.bit_or(o, a, b), lambda a, b, c: a | b, 8),
    "bit_xor": (lambda o, a, b, c, s: bitwise.bit_xor(o, a, b), lambda a, b, c: a ^ b, 8),
    "bit_not": (lambda o, a, b, c, s: bitwise.bit_not(a, 8), lambda a, b, c: ~a, 8),
    "not of a boolean": (lambda o, a, b, c, s: bitwise.bit_not(c, 1), lambda a, b, c: 1 - c, 1),
    "eq": (lambda o, a, b, c, s: compare.eq(o, a, b), lambda a, b, c: a == b, 1),
    "ne": (lambda o, a, b, c, s: compare.ne(o, a, b), lambda a, b, c: a != b, 1),
    "lt": (lambda o, a, b, c, s: compare.lt(o, a, b, s), lambda a, b, c: a < b, 1),
    "le": (lambda o, a, b, c, s: compare.le(o, a, b, s), lambda a, b, c: a <= b, 1),
    "gt": (lambda o, a, b, c, s: compare.gt(o, a, b, s), lambda a, b, c: a > b, 1),
    "ge": (lambda o, a, b, c, s: compare.ge(o, a, b, s), lambda a, b, c: a >= b, 1),
    "signed lt": (
        lambda o, a, b, c, s: compare.lt(o, a, b, s, signed=True),
        lambda a, b, c: signed(a) < signed(b),
        1,
    ),
    "signed ge": (
        lambda o, a, b, c, s: compare.ge(o, a, b, s, signed=True),
        lambda a, b, c: signed(a) >= signed(b),
        1,
    ),
    "minimum": (lambda o, a, b, c, s: compare.minimum(o, a, b, s), lambda a, b, c: np.minimum(a, b), 8),
    "maximum": (lambda o, a, b, c, s: compare.maximum(o, a, b, s), lambda a, b, c: np.maximum(a, b), 8),
    "select": (lambda o, a, b, c, s: select(o, c[0], a, b), lambda a, b, c: np.where(c, a, b), 8),
    "signed minimum": (
        lambda o, a, b, c, s: compare.minimum(o, a, b, s, signed=True),
        lambda a, b, c: np.minimum(signed(a), signed(b)),
        8,
    ),
    "select of minima": (
        lambda o, a, b, c, s: compare.maximum(o, compare.minimum(o, a, b, s), select(o, c[0], a, b), s),
        lambda a, b, c: np.where(c, a, b),
        8,
    ),
    "gate": (lambda o, a, b, c, s: gate(o, c[0], a), lambda a, b, c: np.where(c, a, 0), 8),
    "mul": (lambda o, a, b, c, s: mul(o, a, b, s), lambda a, b, c: a * b, 8),
    "mul by a boolean": (lambda o, a, b, c, s: mul(o, a, cast(o, c, 8)), lambda a, b, c: a * c, 8),
    "wide mul": (lambda o, a, b, c, s: mul(o, cast(o, a, 16), (*b, *a)), lambda a, b, c: a * (b + (a << 8)), 16),
    "square": (lambda o, a, b, c, s: mul(o, (*a, *b), (*a, *b)), lambda a, b, c: (a + (b << 8)) ** 2, 16),
    "shl": (lambda o, a, b, c, s: shift(o, a, b, Direction.LEFT, s), lambda a, b, c: a << (b % 8), 8),
    "shr": (lambda o, a, b, c, s: shift(o, a, b, Direction.RIGHT, s), lambda a, b, c: a >> (b % 8), 8),
    "signed shr": (
        lambda o, a, b, c, s: shift(o, a, b, Direction.RIGHT, s, signed=True),
        lambda a, b, c: signed(a) >> (b % 8),
        8,
    ),
    "rotl": (
        lambda o, a, b, c, s: shift(o, a, b, Direction.ROTATE_LEFT, s),
        lambda a, b, c: a << (b % 8) | a >> (8 - b % 8),
        8,
    ),
    "rotr": (
        lambda o, a, b, c, s: shift(o, a, b, Direction.ROTATE_RIGHT, s),
        lambda a, b, c: a >> (b % 8) | a << (8 - b % 8),
        8,
    ),
    "rotl and back": (
        lambda o, a, b, c, s: shift(o, shift(o, a, b, Direction.ROTATE_LEFT, s), b, Direction.ROTATE_RIGHT, s),
        lambda a, b, c: a,
        8,
    ),
    "word by its number": (
        lambda o, a, b, c, s: look_up_word(o, a[:2], WORDS, 4),
        lambda a, b, c: np.array(WORDS)[a & 15],
        8,
    ),
    "widen": (lambda o, a, b, c, s: cast(o, a, 16), lambda a, b, c: a, 16),
    "widen signed": (lambda o, a, b, c, s: cast(o, a, 16, signed=True), lambda a, b, c: signed(a), 16),
    "narrow": (lambda o, a, b, c, s: cast(o, a, 4), lambda a, b, c: a, 4),
    "to boolean": (lambda o, a, b, c, s: cast(o, a, 1), lambda a, b, c: a != 0, 1),
    "from boolean": (lambda o, a, b, c, s: cast(o, c, 8), lambda a, b, c: c, 8),
}


def split(values: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    return np.stack([(values >> shift) & 3 for shift in range(0, bits, 2)])


def join(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.sum(blocks << (2 * np.arange(len(blocks))[:, np.newaxis]), axis=0)


def build(family: Family, bits: int, result_bits: int, strategy: Strategy, right: int | None = None) -> Circuit:
    builder = Builder()
    a = input_word(builder, bits)
    b = input_word(builder, bits) if right is None else constant_word(builder, right, bits)
    word = family(builder, a, b, input_word(builder, 1), strategy)
    circuit = builder.build(materialise(builder, word, result_bits))
    verify(circuit)
    return circuit


@pytest.mark.parametrize("strategy", [T, L])
@pytest.mark.parametrize("name", FAMILIES)
def test_exhaustively_at_8_bits(name: str, strategy: Strategy) -> None:
    family, meaning, result_bits = FAMILIES[name]
    circuit = build(family, 8, result_bits, strategy)
    a, b, c = (grid.ravel() for grid in np.meshgrid(np.arange(256), np.arange(256), np.arange(2)))
    found = join(evaluate(circuit, np.concatenate([split(a, 8), split(b, 8), c[np.newaxis]])))
    assert np.array_equal(found, meaning(a, b, c).astype(np.int64) & ((1 << result_bits) - 1))


@pytest.mark.parametrize(("strategy", "step"), [(T, 1), (L, 5)])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_clear_right_operand_at_8_bits(name: str, strategy: Strategy, step: int) -> None:
    family, meaning, result_bits = FAMILIES[name]
    a, c = (grid.ravel() for grid in np.meshgrid(np.arange(256), np.arange(2)))
    for right in range(0, 256, step):
        circuit = build(family, 8, result_bits, strategy, right)
        found = join(evaluate(circuit, np.concatenate([split(a, 8), c[np.newaxis]])))
        expected = meaning(a, np.full_like(a, right), c).astype(np.int64)
        assert np.array_equal(found, expected & ((1 << result_bits) - 1)), right


@pytest.mark.parametrize(
    ("name", "strategy", "bootstraps", "depth"),
    [
        ("add", T, 32, 32),
        ("sub", T, 32, 32),
        ("neg", T, 32, 32),
        ("add", L, 64, 6),
        ("lt", T, 16, 16),
        ("lt", L, 21, 3),
        ("eq", T, 17, 2),
        ("minimum", T, 80, 18),
        ("minimum", L, 85, 5),
        ("select", T, 64, 2),
        ("gate", T, 32, 1),
        ("bit_and", T, 32, 1),
        ("mul", T, 991, 42),
        ("shl", T, 211, 8),
        ("rotl", T, 227, 8),
        ("bit_not", T, 0, 0),
    ],
)
def test_costs_at_64_bits(name: str, strategy: Strategy, bootstraps: int, depth: int) -> None:
    family, _, result_bits = FAMILIES[name]
    counted = count(build(family, 64, 64 if result_bits == 8 else result_bits, strategy))
    assert (counted.bootstraps, counted.depth) == (bootstraps, depth)


@pytest.mark.parametrize(("right", "bootstraps"), [(0, 5), (0xFFFFFFFFFFFFFFFF, 5), (0x1111111111111111, 11)])
def test_equality_with_a_known_value_tests_many_digits_at_once(right: int, bootstraps: int) -> None:
    assert count(build(FAMILIES["eq"][0], 64, 1, T, right)).bootstraps <= bootstraps


def clear_division(a: NDArray[np.int64], b: NDArray[np.int64], *, is_signed: bool) -> NDArray[np.int64]:
    """Quotient and remainder, one above the other, with what a division by zero gives."""
    x, y = (signed(a), signed(b)) if is_signed else (a, b)
    safe = np.where(y == 0, 1, y)
    quotient = np.sign(x) * np.sign(safe) * (abs(x) // abs(safe))
    quotient = np.where(y == 0, np.where(x < 0, 1, -1), quotient)
    return np.stack([quotient & 255, np.where(y == 0, x, x - quotient * safe) & 255])


@pytest.mark.parametrize("strategy", [T, L])
@pytest.mark.parametrize("is_signed", [False, True])
def test_division_exhaustively_at_8_bits(strategy: Strategy, *, is_signed: bool) -> None:
    builder = Builder()
    a, b = input_word(builder, 8), input_word(builder, 8)
    division = divide(builder, a, b, strategy, signed=is_signed)
    circuit = builder.build(materialise(builder, division.quotient, 8) + materialise(builder, division.remainder, 8))
    verify(circuit)
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(256), np.arange(256)))
    found = evaluate(circuit, np.concatenate([split(x, 8), split(y, 8)]))
    assert np.array_equal(np.stack([join(found[:4]), join(found[4:])]), clear_division(x, y, is_signed=is_signed))


@pytest.mark.parametrize("is_signed", [False, True])
def test_division_by_every_known_divisor(*, is_signed: bool) -> None:
    x = np.arange(256)
    for divisor in range(1, 256):
        builder = Builder()
        division = divide(builder, input_word(builder, 8), constant_word(builder, divisor, 8), signed=is_signed)
        circuit = builder.build(
            materialise(builder, division.quotient, 8) + materialise(builder, division.remainder, 8)
        )
        found = evaluate(circuit, split(x, 8))
        expected = clear_division(x, np.full_like(x, divisor), is_signed=is_signed)
        assert np.array_equal(np.stack([join(found[:4]), join(found[4:])]), expected), divisor


@pytest.mark.parametrize("is_signed", [False, True])
def test_a_divisor_that_turns_out_to_be_zero(*, is_signed: bool) -> None:
    builder = Builder()
    division = divide(builder, input_word(builder, 8), constant_word(builder, 256, 8), signed=is_signed)
    circuit = builder.build(materialise(builder, division.quotient, 8) + materialise(builder, division.remainder, 8))
    x = np.arange(256)
    found = evaluate(circuit, split(x, 8))
    expected = clear_division(x, np.zeros_like(x), is_signed=is_signed)
    assert np.array_equal(np.stack([join(found[:4]), join(found[4:])]), expected)


@pytest.mark.parametrize(("name", "bootstraps"), [("minimum", 48), ("maximum", 48), ("select", 32)])
def test_costs_at_64_bits_where_nobody_needs_fresh_blocks(name: str, bootstraps: int) -> None:
    builder = Builder()
    a, b, condition = input_word(builder, 64), input_word(builder, 64), input_word(builder, 1)
    word = FAMILIES[name][0](builder, a, b, condition, T)
    assert {block.noise for block in word} == {2}
    assert count(builder.build(word)).bootstraps == bootstraps
