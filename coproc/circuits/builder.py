"""Building block circuits: linear forms that remember their noise, and look-ups that refuse what noise forbids.

Decides which look-ups are legal, which are shared or known in the clear, and in which level each runs. Knows no
operation: families of operations are written on top of it, in modules of their own.

**Noise.** A look-up input is a linear form of wires, each with the noise of a fresh bootstrap. With the centred-mean
modulus switch the failure probability stays below 2^-128 while the sum of squared coefficients is at most 40. Outputs
of one bootstrap share their noise: their coefficients are added up before squaring.

**Range.** The padding bit makes 32 positions. A function of at most 16 consecutive values is always a table; of up to
32 values it is one if ``f(x) + f(x+16)`` is the same modulo 32 for all ``x``: blind rotation is negacyclic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from coproc.circuits.circuit import LookUpTable
from coproc.circuits.layout import Bootstrap, lay_out
from coproc.circuits.savings import Saving
from coproc.errors import IrrecoverableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coproc.circuits.circuit import Circuit
    from coproc.circuits.layout import Terms

NOISE_BUDGET: Final = 40
"""Largest sum of squared coefficients of a look-up input."""
BOXES: Final = 16
POSITIONS: Final = 2 * BOXES
HALF: Final = 2
"""Half steps in a step."""

Row = tuple[int, ...]
"""Results of a function for consecutive inputs."""
CACHED_TABLES: Final = 4096


class CircuitError(IrrecoverableError):
    """A circuit was asked for that noise or range forbids: an error in a family of operations."""

    rule = "CIRCUIT"


@dataclass(slots=True, unsafe_hash=True)
class Block:
    """A linear form of wires: a value between ``low`` and ``high``, in steps.

    Never changed once made; it is not frozen, because that would take most of the time that compiling takes.
    """

    builder: Builder
    terms: Terms
    constant: int
    """In half steps."""
    low: int
    high: int

    def __add__(self, other: Block | int) -> Block:
        if isinstance(other, int):
            return Block(self.builder, self.terms, self.constant + HALF * other, self.low + other, self.high + other)
        terms = _add_terms(self.terms, other.terms)
        constant = self.constant + other.constant
        if not terms:
            return Block(self.builder, terms, constant, constant // HALF, constant // HALF)
        return Block(self.builder, terms, constant, self.low + other.low, self.high + other.high)

    def __radd__(self, other: int) -> Block:
        return self + other

    def __neg__(self) -> Block:
        return self * -1

    def __sub__(self, other: Block | int) -> Block:
        return self + (-other)

    def __rsub__(self, other: int) -> Block:
        return -self + other

    def __mul__(self, factor: int) -> Block:
        if factor == 0:
            return self.builder.constant(0)
        terms = tuple((wire, coefficient * factor) for wire, coefficient in self.terms)
        ends = sorted((self.low * factor, self.high * factor))
        return Block(self.builder, terms, self.constant * factor, ends[0], ends[1])

    __rmul__ = __mul__

    def within(self, low: int, high: int) -> Block:
        """State bounds that interval arithmetic cannot see, because terms depend on each other."""
        low, high = max(low, self.low), min(high, self.high)
        if low > high:
            raise CircuitError(f"no value lies both in the stated and in the computed range of {self.terms}")
        return Block(self.builder, self.terms, self.constant, low, high)

    @property
    def clear(self) -> int | None:
        """The value where it is known, else None."""
        return None if self.terms else self.constant // HALF

    @property
    def noise(self) -> int:
        """Sum of squared coefficients, outputs of one bootstrap counted as one."""
        return self.builder.noise_of(self.terms)

    @property
    def level(self) -> int:
        """Round after which the value is known: 0 for inputs and constants."""
        return self.builder.level_of(self.terms)

    @property
    def is_fresh(self) -> bool:
        """Whether the noise is that of one wire (or none)."""
        return not self.terms or (len(self.terms) == 1 and abs(self.terms[0][1]) == 1)


def _add_terms(a: Terms, b: Terms) -> Terms:
    if not a or not b:
        return a or b
    if a[-1][0] < b[0][0]:
        return a + b
    if b[-1][0] < a[0][0]:
        return b + a
    coefficients = dict(a)
    for wire, coefficient in b:
        coefficients[wire] = coefficients.get(wire, 0) + coefficient
    return tuple(sorted(item for item in coefficients.items() if item[1]))


class Builder:
    """Collects inputs and look-ups; equal look-ups are one."""

    def __init__(self, off: frozenset[str] = frozenset()) -> None:
        """Begin an empty circuit, without the savings named in ``off`` (other names mean nothing here)."""
        self.gates = Saving.GATES not in off
        self.lazy_selects = Saving.LAZY_SELECTS not in off
        self._shares = Saving.SHARED_LOOK_UPS not in off
        self._drops = Saving.DEAD_LOOK_UPS not in off
        self._boxes = BOXES if Saving.MANY_LOOK_UP_TABLES not in off else 1
        """Boxes that functions of one form share."""
        self._inputs: list[int] = []
        self._level: list[int] = []
        """Of every wire."""
        self._origin: list[int] = []
        """Per wire: index of its bootstrap; for an input a negative number of its own."""
        self._bootstraps: list[Bootstrap] = []
        self._known: dict[tuple[Terms, int], int] = {}
        """First wire of every look-up, by its form and its table's number."""
        self._rows: dict[tuple[Callable[[int], int], int, int], Row] = {}
        self._tables: dict[LookUpTable, int] = {}
        self._table_numbers: dict[tuple[int, tuple[Row, ...]], int] = {}

    def input(self, degree: int = 3) -> Block:
        """Take in one stored block with a value from 0 to ``degree`` (``2N`` random positions: degree 31)."""
        wire = len(self._level)
        self._level.append(0)
        self._origin.append(-1 - wire)
        self._inputs.append(wire)
        return Block(self, ((wire, 1),), 0, 0, degree)

    def constant(self, value: int) -> Block:
        """Make a block whose value is known."""
        return Block(self, (), HALF * value, value, value)

    def noise_of(self, terms: Terms) -> int:
        """Sum of squared coefficients of a form, outputs of one bootstrap counted as one."""
        if len(terms) == 1:
            return terms[0][1] * terms[0][1]
        shared: dict[int, int] = {}
        for wire, coefficient in terms:
            origin = self._origin[wire]
            shared[origin] = shared.get(origin, 0) + abs(coefficient)
        return sum([value * value for value in shared.values()])

    def level_of(self, terms: Terms) -> int:
        """Round after which all wires of a form are known."""
        return max([self._level[wire] for wire, _ in terms], default=0)

    def look_up(self, form: Block, function: Callable[[int], int]) -> Block:
        """Apply a function to a form by one bootstrap, or none if the result is known or is the form itself.

        Raises:
            CircuitError: noise or range forbid it.
        """
        return self.look_up_many(form, (function,))[0]

    def look_up_many(self, form: Block, functions: Sequence[Callable[[int], int]]) -> tuple[Block, ...]:
        """Apply several functions to one form: by a single bootstrap if its 16 boxes hold all values of all of them.

        Raises:
            CircuitError: noise or range forbid it.
        """
        low, high = form.low, form.high
        rows = [self._row(function, low, high) for function in functions]
        found = [self._without_bootstrap(form, row) for row in rows]
        size = max(1, self._boxes // (high - low + 1))
        left = [index for index, block in enumerate(found) if block is None]
        for start in range(0, len(left), size):
            part = left[start : start + size]
            for index, block in zip(part, self._bootstrap(form, [rows[index] for index in part]), strict=True):
                found[index] = block
        return tuple([block for block in found if block is not None])

    def clean(self, block: Block) -> Block:
        """Bring a form back to the noise of one wire; nothing is done if it has no more."""
        return block if block.is_fresh else self.look_up(block, _same)

    def build(self, outputs: Sequence[Block]) -> Circuit:
        """Lay out what the outputs need, in levels.

        Raises:
            CircuitError: an output is not a whole number of steps.
        """
        needed = self._needed(outputs) if self._drops else list(range(len(self._bootstraps)))
        if any(block.constant % HALF for block in outputs):
            raise CircuitError("an output is offset by half a step")
        forms = [(block.terms, block.constant) for block in outputs]
        bootstraps = [self._bootstraps[index] for index in needed]
        return lay_out(self._inputs, len(self._level), bootstraps, list(self._tables), forms)

    # ---------------------------------------------------------------------------------------- inner workings
    def _row(self, function: Callable[[int], int], low: int, high: int) -> Row:
        key = (function, low, high)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = tuple([function(x) for x in range(low, high + 1)])
        return row

    def _without_bootstrap(self, form: Block, row: Row) -> Block | None:
        """Return the result if it is known in the clear, or an equally fresh linear form of the input."""
        first = row[0]
        if row.count(first) == len(row):
            return self.constant(first)
        slope = row[1] - first
        is_line = abs(slope) == 1 and form.is_fresh and row == tuple(range(first, first + slope * len(row), slope))
        return (form - form.low) * slope + first if is_line else None

    def _bootstrap(self, form: Block, rows: list[Row]) -> list[Block]:
        terms = form.terms
        noise = self.noise_of(terms)
        if noise > NOISE_BUDGET:
            raise CircuitError(f"a look-up input has noise {noise}, more than {NOISE_BUDGET}", noise=noise)
        if form.constant % HALF:
            raise CircuitError("a look-up input is offset by half a step")
        # The constant goes into the table, and the sign of the first term too: more look-ups then read the same form.
        low = form.low - form.constant // HALF
        if terms[0][1] < 0:
            terms = tuple([(wire, -coefficient) for wire, coefficient in terms])
            low = -(low + len(rows[0]) - 1)
            rows = [row[::-1] for row in rows]
        table = self._table(low, tuple(rows))
        key = (terms, table)
        first = self._known.get(key) if self._shares else None
        if first is None:
            level = 1 + self.level_of(terms)
            index = len(self._bootstraps)
            first = self._known[key] = len(self._level)
            self._level += [level] * len(rows)
            self._origin += [index] * len(rows)
            self._bootstraps.append(Bootstrap(terms, table, first, level))
        return [Block(self, ((wire, 1),), 0, min(row), max(row)) for wire, row in enumerate(rows, first)]

    def _table(self, low: int, rows: tuple[Row, ...]) -> int:
        key = (low, rows)
        number = self._table_numbers.get(key)
        if number is None:
            number = self._tables.setdefault(_make_table(low, rows), len(self._tables))
            self._table_numbers[key] = number
        return number

    def _needed(self, outputs: Sequence[Block]) -> list[int]:
        """Bootstraps that some output depends on, in the order they were made."""
        marked = [False] * len(self._bootstraps)
        for block in outputs:
            for wire, _ in block.terms:
                if self._origin[wire] >= 0:
                    marked[self._origin[wire]] = True
        for index in range(len(self._bootstraps) - 1, -1, -1):
            if marked[index]:
                for wire, _ in self._bootstraps[index].terms:
                    if self._origin[wire] >= 0:
                        marked[self._origin[wire]] = True
        return [index for index, mark in enumerate(marked) if mark]


def _same(x: int) -> int:
    return x


@lru_cache(maxsize=CACHED_TABLES)
def _make_table(low: int, rows: tuple[Row, ...]) -> LookUpTable:
    """Lay rows of results, for inputs ``low, low+1, ...``, out in 16 boxes.

    Raises:
        CircuitError: more than 16 inputs and no negacyclic relation.
    """
    width = len(rows[0])
    values = [0] * BOXES
    boxes = tuple(number * width for number in range(len(rows)))
    offsets = [0] * len(rows)
    for number, row in enumerate(rows):
        if width > POSITIONS:
            raise CircuitError(f"a look-up has {width} input values, at most {POSITIONS} fit")
        if width > BOXES:
            sums = {(row[i] + row[i + BOXES]) % POSITIONS for i in range(width - BOXES)}
            if len(sums) > 1:
                raise CircuitError(f"a look-up of {width} input values is not negacyclic")
            offsets[number] = sums.pop()
        for i, value in enumerate(row):
            position = (low + i + boxes[number]) % POSITIONS
            entry = (HALF * value - offsets[number]) % (HALF * POSITIONS)
            entry = -entry if position >= BOXES else entry
            # The least absolute value stands for the class modulo 64 half steps.
            values[position % BOXES] = (entry + POSITIONS) % (HALF * POSITIONS) - POSITIONS
    return LookUpTable(tuple(values), boxes, tuple(offsets))
