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
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.circuits.circuit import Circuit, Level, LinearForms, LookUpTable
from coproc.circuits.savings import Saving
from coproc.errors import IrrecoverableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOISE_BUDGET: Final = 40
"""Largest sum of squared coefficients of a look-up input."""
BOXES: Final = 16
POSITIONS: Final = 2 * BOXES
HALF: Final = 2
"""Half steps in a step."""

Terms = tuple[tuple[int, int], ...]
"""Wires and their coefficients, by ascending wire."""


class CircuitError(IrrecoverableError):
    """A circuit was asked for that noise or range forbids: an error in a family of operations."""

    rule = "CIRCUIT"


@dataclass(frozen=True, slots=True)
class Block:
    """A linear form of wires: a value between ``low`` and ``high``, in steps."""

    builder: Builder
    terms: Terms
    constant: int
    """In half steps."""
    low: int
    high: int

    def __add__(self, other: Block | int) -> Block:
        if isinstance(other, int):
            return Block(self.builder, self.terms, self.constant + HALF * other, self.low + other, self.high + other)
        coefficients = dict(self.terms)
        for wire, coefficient in other.terms:
            coefficients[wire] = coefficients.get(wire, 0) + coefficient
        terms = tuple(sorted(item for item in coefficients.items() if item[1]))
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


@dataclass(frozen=True, slots=True)
class _Bootstrap:
    terms: Terms
    constant: int
    table: LookUpTable
    first: int
    level: int


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
        self._ranges: list[tuple[int, int]] = []
        self._level: list[int] = []
        self._origin: list[int] = []
        """Per wire: index of its bootstrap, or -1 for an input."""
        self._bootstraps: list[_Bootstrap] = []
        self._known: dict[tuple[Terms, int, LookUpTable], int] = {}

    def input(self, degree: int = 3) -> Block:
        """Take in one stored block with a value from 0 to ``degree`` (``2N`` random positions: degree 31)."""
        wire = self._new_wire(0, degree, level=0, origin=-1)
        self._inputs.append(wire)
        return Block(self, ((wire, 1),), 0, 0, degree)

    def constant(self, value: int) -> Block:
        """Make a block whose value is known."""
        return Block(self, (), HALF * value, value, value)

    def noise_of(self, terms: Terms) -> int:
        """Sum of squared coefficients of a form, outputs of one bootstrap counted as one."""
        total = 0
        shared: dict[int, int] = {}
        for wire, coefficient in terms:
            origin = self._origin[wire]
            if origin < 0:
                total += coefficient * coefficient
            else:
                shared[origin] = shared.get(origin, 0) + abs(coefficient)
        return total + sum(value * value for value in shared.values())

    def level_of(self, terms: Terms) -> int:
        """Round after which all wires of a form are known."""
        return max((self._level[wire] for wire, _ in terms), default=0)

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
        values = [[function(x) for x in range(form.low, form.high + 1)] for function in functions]
        found: list[Block | None] = [self._without_bootstrap(form, row) for row in values]
        open_rows = [index for index, block in enumerate(found) if block is None]
        for part in self._parts(open_rows, form.high - form.low + 1):
            for index, block in zip(part, self._bootstrap(form, [values[index] for index in part]), strict=True):
                found[index] = block
        return tuple(block for block in found if block is not None)

    def clean(self, block: Block) -> Block:
        """Bring a form back to the noise of one wire; nothing is done if it has no more."""
        return block if block.is_fresh else self.look_up(block, lambda x: x)

    def build(self, outputs: Sequence[Block]) -> Circuit:
        """Lay out what the outputs need, in levels.

        Raises:
            CircuitError: an output is not a whole number of steps.
        """
        needed = self._needed(outputs) if self._drops else list(range(len(self._bootstraps)))
        wires = np.full(len(self._ranges), -1, dtype=np.int64)
        wires[self._inputs] = np.arange(len(self._inputs))
        count = len(self._inputs)
        depth = max((self._bootstraps[index].level for index in needed), default=0)
        by_level: list[list[_Bootstrap]] = [[] for _ in range(depth)]
        for index in needed:
            by_level[self._bootstraps[index].level - 1].append(self._bootstraps[index])
        tables: dict[LookUpTable, int] = {}
        levels: list[Level] = []
        for bootstraps in by_level:
            level, count = _lay_out_level(bootstraps, wires, count, tables)
            levels.append(level)
        if any(block.constant % HALF for block in outputs):
            raise CircuitError("an output is offset by half a step")
        forms = _linear_forms([(block.terms, block.constant) for block in outputs], wires)
        return Circuit(len(self._inputs), count, tuple(tables), tuple(levels), forms)

    # ---------------------------------------------------------------------------------------- inner workings
    def _new_wire(self, low: int, high: int, *, level: int, origin: int) -> int:
        self._ranges.append((low, high))
        self._level.append(level)
        self._origin.append(origin)
        return len(self._ranges) - 1

    def _without_bootstrap(self, form: Block, values: list[int]) -> Block | None:
        """Return the result if it is known in the clear, or an equally fresh linear form of the input."""
        if min(values) == max(values):
            return self.constant(values[0])
        if not form.is_fresh:
            return None
        slope = values[1] - values[0]
        if abs(slope) == 1 and all(values[i] == values[0] + slope * i for i in range(len(values))):
            return (form - form.low) * slope + values[0]
        return None

    def _parts(self, rows: list[int], width: int) -> list[list[int]]:
        """Cut functions into sets that share a bootstrap."""
        size = max(1, self._boxes // width)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _bootstrap(self, form: Block, rows: list[list[int]]) -> list[Block]:
        noise = form.noise
        if noise > NOISE_BUDGET:
            raise CircuitError(f"a look-up input has noise {noise}, more than {NOISE_BUDGET}", noise=noise)
        if form.constant % HALF:
            raise CircuitError("a look-up input is offset by half a step")
        # The constant goes into the table, and the sign of the first term too: more look-ups then read the same form.
        low = form.low - form.constant // HALF
        terms = form.terms
        if terms[0][1] < 0:
            terms = tuple((wire, -coefficient) for wire, coefficient in terms)
            low = -(low + len(rows[0]) - 1)
            rows = [row[::-1] for row in rows]
        table = _make_table(low, rows)
        key = (terms, 0, table)
        first = self._known.get(key) if self._shares else None
        if first is None:
            level = 1 + self.level_of(terms)
            index = len(self._bootstraps)
            first = len(self._ranges)
            for row in rows:
                self._new_wire(min(row), max(row), level=level, origin=index)
            self._bootstraps.append(_Bootstrap(terms, 0, table, first, level))
            self._known[key] = first
        return [Block(self, ((first + i, 1),), 0, min(row), max(row)) for i, row in enumerate(rows)]

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


def _make_table(low: int, rows: list[list[int]]) -> LookUpTable:
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


def _lay_out_level(
    bootstraps: list[_Bootstrap],
    wires: np.ndarray[tuple[int], np.dtype[np.int64]],
    count: int,
    tables: dict[LookUpTable, int],
) -> tuple[Level, int]:
    """Number the outputs of one level and collect its distinct forms; returns the next free wire too."""
    forms: dict[tuple[Terms, int], int] = {}
    form: list[int] = []
    table: list[int] = []
    first_wire: list[int] = []
    for item in bootstraps:
        form.append(forms.setdefault((item.terms, item.constant), len(forms)))
        table.append(tables.setdefault(item.table, len(tables)))
        first_wire.append(count)
        for offset in range(len(item.table.boxes)):
            wires[item.first + offset] = count
            count += 1
    level = Level(
        forms=_linear_forms(list(forms), wires),
        form=np.array(form, dtype=np.int32),
        table=np.array(table, dtype=np.int32),
        first_wire=np.array(first_wire, dtype=np.int32),
    )
    return level, count


def _linear_forms(forms: Sequence[tuple[Terms, int]], wires: np.ndarray[tuple[int], np.dtype[np.int64]]) -> LinearForms:
    offsets = np.concatenate([[0], np.cumsum([len(terms) for terms, _ in forms])])
    sources = [wire for terms, _ in forms for wire, _ in terms]
    return LinearForms(
        offsets=offsets.astype(np.int32),
        sources=wires[np.array(sources, dtype=np.int64)].astype(np.int32),
        coefficients=np.array([coefficient for terms, _ in forms for _, coefficient in terms], dtype=np.int64),
        constants=np.array([constant for _, constant in forms], dtype=np.int64),
    )
