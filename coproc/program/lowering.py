"""Lowering: a word graph becomes one block circuit.

Decides which family of circuits computes each operation, and drops what no wanted value depends on. One builder serves
the whole graph, so that equal look-ups are shared across operations and known digits fold through.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from coproc.circuits import arithmetic, bitwise, compare
from coproc.circuits.builder import Builder
from coproc.circuits.cast import cast
from coproc.circuits.choice import look_up_word, number_digits
from coproc.circuits.division import divide, divide_by_known
from coproc.circuits.multiplication import clear_value, mul, mul_known, mul_wide
from coproc.circuits.random import random_input, random_word
from coproc.circuits.savings import Saving
from coproc.circuits.selection import select
from coproc.circuits.shift import Direction, shift
from coproc.circuits.strategy import Strategy
from coproc.circuits.word import BLOCK_BITS, TOP, Word, constant_word, input_word, materialise
from coproc.errors import IrrecoverableError
from coproc.program.choices import KNOWN_CHOICES, find_choices
from coproc.program.computation import Operation
from coproc.program.rewrites import rewrite
from coproc.program.wordgraph import Constant, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coproc.circuits.builder import Block
    from coproc.circuits.circuit import Circuit
    from coproc.circuits.division import Division
    from coproc.program.choices import Choice
    from coproc.program.types import FheType
    from coproc.program.wordgraph import Operand, Step, WordGraph


class UnsupportedOperation(IrrecoverableError):
    """The operation has no circuit in this release."""

    rule = "UNSUPPORTED_OPERATION"


class DivisionByZero(IrrecoverableError):
    """A clear divisor is zero, or cut to zero by the type."""

    rule = "DIVISION_BY_ZERO"


@dataclass(frozen=True, slots=True)
class LoweredInput:
    """What one input wire of the circuit is."""

    number: int
    """Of the value in the word graph."""
    block: int


@dataclass(frozen=True, slots=True)
class RandomInput:
    """An input wire that is made from a seed."""

    seed: int
    """Number of the seed."""
    block: int


@dataclass(frozen=True, slots=True)
class LoweringSettings:
    """What may differ between networks; part of what a plan's version stands for."""

    zero_shifts: bool = False
    """A shift by at least the width gives zero (TFHE-rs from 1.8) instead of counting modulo the width."""
    rewrites_off: frozenset[str] = frozenset()
    """Names of rules (``coproc.program.rules``) that are not applied."""


KNOWN_INPUTS: Final = "known_inputs"
"""Rule: an input that is publicly known, from a trivial encryption, folds into look-ups instead of entering them."""
BORROW_OF_DIFFERENCE: Final = "borrow_of_difference"
"""Rule: where a difference is wanted and its operands are compared, the comparison is the difference's last borrow."""
DIVISION_PAIRS: Final = "division_pairs"
"""Rule: quotient and remainder of one pair come out of one division."""

DEFAULT_SETTINGS: Final = LoweringSettings()


@dataclass(frozen=True, slots=True)
class LoweredOutput:
    """Where a wanted value comes out of the circuit."""

    number: int
    first: int
    blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class LoweredGraph:
    """A circuit and how it connects to its word graph."""

    circuit: Circuit
    inputs: tuple[LoweredInput | RandomInput, ...]
    outputs: tuple[LoweredOutput, ...]
    failures: Mapping[int, IrrecoverableError]
    """Steps that can never succeed, by the number of their result; what depends on them has no output."""


def lower(graph: WordGraph, strategy: Strategy, settings: LoweringSettings = DEFAULT_SETTINGS) -> LoweredGraph:
    """Build the circuit of a graph, rewritten first; the numbers of its values stay."""
    graph = rewrite(graph, settings.rewrites_off)
    off = settings.rewrites_off
    builder = Builder(off)
    needed = set(range(len(graph.inputs) + len(graph.steps))) if Saving.DEAD_LOOK_UPS in off else _needed(graph)
    shared = _Shared(
        _differences(graph, needed) if BORROW_OF_DIFFERENCE not in off else frozenset(),
        find_choices(graph, needed, folds_inputs=KNOWN_INPUTS not in off) if KNOWN_CHOICES not in off else {},
    )
    values, inputs = _take_in(builder, graph, needed, folds=KNOWN_INPUTS not in off)
    failures: dict[int, IrrecoverableError] = {}
    for number, step in enumerate(graph.steps, len(graph.inputs)):
        if number not in needed:
            continue
        sources = [operand.number for operand in step.operands if isinstance(operand, Value)]
        if any(source not in values and source not in shared.numbers for source in sources):
            continue
        lowering = _Lowering(builder, strategy, settings, graph, number, step, values, inputs, shared)
        try:
            word = lowering.result()
        except IrrecoverableError as error:
            failures[number] = error
        else:
            values.update({} if word is None else {number: word})
    outputs: list[LoweredOutput] = []
    blocks: Word = ()
    for number in graph.wanted:
        if number in values:
            word = materialise(builder, values[number], graph.type_of(number).bits)
            outputs.append(LoweredOutput(number, len(blocks), len(word)))
            blocks += word
    return LoweredGraph(builder.build(blocks), tuple(inputs), tuple(outputs), failures)


def _take_in(
    builder: Builder, graph: WordGraph, needed: set[int], *, folds: bool
) -> tuple[dict[int, Word], list[LoweredInput | RandomInput]]:
    """Make words of the inputs: of the public ones known words if they are to fold."""
    values: dict[int, Word] = {}
    inputs: list[LoweredInput | RandomInput] = []
    for number, source in enumerate(graph.inputs):
        if source.clear is not None and folds:
            values[number] = constant_word(builder, source.clear, source.type.bits)
        elif number in needed:
            values[number] = input_word(builder, source.type.bits)
            inputs += [LoweredInput(number, block) for block in range(source.type.blocks)]
    return values, inputs


def _needed(graph: WordGraph) -> set[int]:
    needed = set(graph.wanted)
    first = len(graph.inputs)
    for number in range(first + len(graph.steps) - 1, first - 1, -1):
        if number in needed:
            needed.update(
                operand.number for operand in graph.steps[number - first].operands if isinstance(operand, Value)
            )
    return needed


def _differences(graph: WordGraph, needed: set[int]) -> frozenset[tuple[Operand, Operand]]:
    """Find the unsigned differences that the circuit computes anyway: the borrow of each is a comparison."""
    return frozenset(
        (step.operands[0], step.operands[1])
        for number, step in enumerate(graph.steps, len(graph.inputs))
        if number in needed and step.operation is Operation.SUB and not step.result.is_signed
    )


@dataclass(frozen=True, slots=True)
class _Shared:
    """What steps of one graph compute once for all of them."""

    subtracted: frozenset[tuple[Operand, Operand]]
    """Differences whose borrows are used for comparisons."""
    choices: Mapping[int, Choice]
    """Values that are carried as numbers of known ones."""
    numbers: dict[int, Word] = field(default_factory=dict)
    differences: dict[tuple[Operand, Operand], tuple[Word, Block]] = field(default_factory=dict)
    divisions: dict[tuple[Operand, Operand], Division] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Lowering:
    """One step on its way to blocks."""

    builder: Builder
    strategy: Strategy
    settings: LoweringSettings
    graph: WordGraph
    number: int
    """Of the step's result."""
    step: Step
    values: Mapping[int, Word]
    inputs: list[LoweredInput | RandomInput]
    """Of the circuit so far; random steps add theirs."""
    shared: _Shared

    def result(self) -> Word | None:
        """Build the step's circuit; None where the value is carried as a number, and nobody reads it otherwise."""
        family = _FAMILIES.get(self.step.operation)
        if self.number in self.shared.choices:
            return self.chosen()
        if family is None:
            raise UnsupportedOperation(f"{self.step.operation.name} has no circuit in this release")
        if self.step.operation in _DIVISIONS and self.step.operands[-1] == Constant(0):
            raise DivisionByZero(f"{self.step.operation.name} by a clear zero")
        return family(self)

    @property
    def type(self) -> FheType:
        """Type of the operands (of the result where all operands are clear)."""
        for operand in self.step.operands[self.step.operation is Operation.IF_THEN_ELSE :]:
            if isinstance(operand, Value):
                return self.graph.type_of(operand.number)
        return self.step.result

    @property
    def signed(self) -> bool:
        """Whether operands are two's complement."""
        return self.type.is_signed

    def less(self, left: int, right: int) -> Block:
        """Return whether one operand is less than the other; where their difference is wanted too, by its borrow."""
        pair = (self.step.operands[left], self.step.operands[right])
        if self.strategy is Strategy.THROUGHPUT and not self.signed and pair in self.shared.subtracted:
            return self.difference(left, right)[1]
        return compare.lt(self.builder, self.word(left), self.word(right), self.strategy, signed=self.signed)[0]

    def subtracted(self) -> Word:
        """Subtract the second operand from the first."""
        if self.strategy is Strategy.THROUGHPUT and tuple(self.step.operands) in self.shared.subtracted:
            return self.difference(0, 1)[0]
        return arithmetic.sub(self.builder, self.word(0), self.word(1), self.strategy)

    def difference(self, left: int, right: int) -> tuple[Word, Block]:
        """Return the difference of two operands and its borrow, computed once."""
        pair = (self.step.operands[left], self.step.operands[right])
        if pair not in self.shared.differences:
            found = arithmetic.sub_with_borrow(self.builder, self.word(left), self.word(right))
            self.shared.differences[pair] = found
        return self.shared.differences[pair]

    def divided(self) -> Division:
        """Divide the first operand by the second, once for quotient and remainder."""
        pair = (self.step.operands[0], self.step.operands[1])
        if pair in self.shared.divisions and DIVISION_PAIRS not in self.settings.rewrites_off:
            return self.shared.divisions[pair]
        found = divide(self.builder, self.word(0), self.word(1), self.strategy, signed=self.signed)
        self.shared.divisions[pair] = found
        return found

    def chosen(self) -> Word | None:
        """Select between known values by their numbers, and look the value up if somebody reads it."""
        choice = self.shared.choices[self.number]
        bits = BLOCK_BITS * number_digits(len(choice.known))
        branches: list[Word] = []
        for operand in self.step.operands[1:]:
            if isinstance(operand, Value) and operand.number in self.shared.numbers:
                branches.append(self.shared.numbers[operand.number])
            else:
                value = clear_value(self.read(operand))
                branches.append(constant_word(self.builder, choice.number_of(value or 0), bits))
        number = select(self.builder, self.word(0)[0], branches[0], branches[1])
        self.shared.numbers[self.number] = number
        if self.number not in choice.read:
            return None
        return look_up_word(self.builder, number, choice.words, self.type.blocks)

    def shifted(self, direction: Direction) -> Word:
        """Shift or rotate the first operand by the second."""
        word, amount = self.word(0), self.word(1)
        shifted = shift(self.builder, word, amount, direction, self.strategy, signed=self.signed)
        if direction.is_rotation or not self.settings.zero_shifts:
            return shifted
        bits = constant_word(self.builder, self.type.bits, self.type.bits)
        inside = compare.lt(self.builder, amount, bits, self.strategy)[0]
        sign = (word[-1].builder.look_up(word[-1], lambda x: TOP if x >= 2 else 0),) * len(word)
        filled = (
            sign if self.signed and direction is Direction.RIGHT else constant_word(self.builder, 0, self.type.bits)
        )
        return select(self.builder, inside, shifted, filled)

    def summed(self) -> Word:
        """Sum all operands."""
        signs = self.step.subtracted or (False,) * len(self.step.operands)
        added = [self.read(operand) for operand, off in zip(self.step.operands, signs, strict=True) if not off]
        taken = [self.read(operand) for operand, off in zip(self.step.operands, signs, strict=True) if off]
        return arithmetic.sum_words(self.builder, added, taken, self.type.blocks, self.strategy)

    def drawn(self) -> Word:
        """Draw a uniform value, below a power of two if there is a bound."""
        seed, bits = self.step.operands[0], self.step.result.bits
        if self.step.operation is Operation.RAND_BOUNDED and isinstance(bound := self.step.operands[1], Constant):
            bits = bound.value.bit_length() - 1
        count = -(-bits // 2)
        self.inputs.extend(RandomInput(seed.value, block) for block in range(count) if isinstance(seed, Constant))
        sources = tuple(random_input(self.builder) for _ in range(count))
        return random_word(self.builder, sources, bits, self.step.result.blocks)

    def combined(self, family: Callable[[Builder, Word, Word], Word]) -> Word:
        """Combine two words bit by bit, or any number of booleans at once."""
        if len(self.step.operands) == 2 or family is bitwise.bit_xor:
            return family(self.builder, self.word(0), self.word(1))
        flags = [self.read(operand)[0] for operand in self.step.operands]
        if family is bitwise.bit_or:
            return (compare.any_of(self.builder, flags),)
        return (1 - compare.any_of(self.builder, [1 - flag for flag in flags]),)

    def found(self) -> Word:
        """Ask whether the first operand is among the others."""
        flags = [compare.eq(self.builder, self.word(0), self.read(operand))[0] for operand in self.step.operands[1:]]
        return (compare.any_of(self.builder, flags),)

    def multiplied_and_divided(self) -> Word:
        """Multiply in double width, divide by a known number and cut to the width."""
        a, b, divisor = self.word(0), self.word(1), self.step.operands[2]
        width = self.type.blocks
        factor = clear_value(b)
        product = (
            mul_wide(self.builder, _cleaned(self.builder, a), _cleaned(self.builder, b), 2 * width, self.strategy)
            if factor is None
            else mul_known(self.builder, a, factor, 2 * width, self.strategy)
        )
        value = divisor.value if isinstance(divisor, Constant) else 0
        return divide_by_known(self.builder, product, value, self.strategy).quotient[:width]

    def word(self, index: int) -> Word:
        """Return an operand as a word, a clear one as known blocks."""
        return self.read(self.step.operands[index])

    def read(self, operand: Operand) -> Word:
        """Return an operand as a word, a clear one as known blocks."""
        if isinstance(operand, Constant):
            return constant_word(self.builder, operand.value, self.type.bits)
        return self.values[operand.number]


def _cleaned(builder: Builder, word: Word) -> Word:
    return tuple(builder.clean(block) for block in word)


_DIVISIONS: Final = frozenset({Operation.DIV, Operation.REM, Operation.MUL_DIV})
_FAMILIES: Final[Mapping[Operation, Callable[[_Lowering], Word]]] = {
    Operation.ADD: lambda x: arithmetic.add(x.builder, x.word(0), x.word(1), x.strategy),
    Operation.SUB: lambda x: x.subtracted(),
    Operation.MUL: lambda x: mul(x.builder, x.word(0), x.word(1), x.strategy),
    Operation.DIV: lambda x: x.divided().quotient,
    Operation.REM: lambda x: x.divided().remainder,
    Operation.SHL: lambda x: x.shifted(Direction.LEFT),
    Operation.SHR: lambda x: x.shifted(Direction.RIGHT),
    Operation.ROTL: lambda x: x.shifted(Direction.ROTATE_LEFT),
    Operation.ROTR: lambda x: x.shifted(Direction.ROTATE_RIGHT),
    Operation.SUM: lambda x: x.summed(),
    Operation.IS_IN: lambda x: x.found(),
    Operation.MUL_DIV: lambda x: x.multiplied_and_divided(),
    Operation.NEG: lambda x: arithmetic.neg(x.builder, x.word(0), x.strategy),
    Operation.RAND: lambda x: x.drawn(),
    Operation.RAND_BOUNDED: lambda x: x.drawn(),
    Operation.BIT_AND: lambda x: x.combined(bitwise.bit_and),
    Operation.BIT_OR: lambda x: x.combined(bitwise.bit_or),
    Operation.BIT_XOR: lambda x: x.combined(bitwise.bit_xor),
    Operation.NOT: lambda x: bitwise.bit_not(x.word(0), x.type.bits),
    Operation.EQ: lambda x: compare.eq(x.builder, x.word(0), x.word(1)),
    Operation.NE: lambda x: compare.ne(x.builder, x.word(0), x.word(1)),
    Operation.LT: lambda x: (x.less(0, 1),),
    Operation.LE: lambda x: (1 - x.less(1, 0),),
    Operation.GT: lambda x: (x.less(1, 0),),
    Operation.GE: lambda x: (1 - x.less(0, 1),),
    Operation.MIN: lambda x: compare.minimum(x.builder, x.word(0), x.word(1), x.strategy, signed=x.signed),
    Operation.MAX: lambda x: compare.maximum(x.builder, x.word(0), x.word(1), x.strategy, signed=x.signed),
    Operation.IF_THEN_ELSE: lambda x: select(x.builder, x.word(0)[0], x.word(1), x.word(2)),
    Operation.CAST: lambda x: cast(x.builder, x.word(0), x.step.result.bits, signed=x.signed),
    Operation.TRIVIAL_ENCRYPT: lambda x: x.word(0),
}
