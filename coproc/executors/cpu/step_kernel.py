"""Emit one step of the blind rotation: the external product that a bit of the key adds to one accumulator.

Decides the order of work inside a step and when the key's next row is fetched; the operations on each element follow
``ARITHMETIC.md``. It knows nothing of batches: whoever calls a step says how many lines each call shall fetch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.executors.cpu.emitter import DOUBLE, I32, I64, POINTER, Function, Value, floating, integer, vector
from coproc.executors.cpu.product_kernel import POLYNOMIALS, ProductEmitter
from coproc.executors.cpu.shape import LINE
from coproc.executors.cpu.transform import TransformEmitter

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.executors.cpu.machine import Machine
    from coproc.executors.cpu.shape import Shape
    from coproc.executors.cpu.transform import Complex

ROUNDING: Final = 1.5 * 2.0**52
"""Adding and subtracting this rounds to an integer, ties to even."""
TORUS_ROUNDING: Final = 1.5 * 2.0**20
"""Adding this leaves the fraction's first 32 bits in the lower half of the word."""


def define(functions: list[Function], name: str, parameters: str, *, exported: bool = False) -> Function:
    """Start a function and add it to ``functions``; ``parameters`` are words ``p:name`` (pointer) or ``i:name``."""
    kinds = {"p": POINTER, "i": I64}
    function = Function(name, [(kinds[word[0]], word[2:]) for word in parameters.split()], exported=exported)
    functions.append(function)
    return function


class StepEmitter:
    """Emits the step of one shape and base, in two versions: for many ciphertexts, and for few.

    Many share each row of the key, so each fetches little of the next: some lines for every group. For few the time of
    fetching is all that counts, and lines are spread over the whole step, so that they never wait for each other.
    """

    def __init__(self, shape: Shape, machine: Machine, base_log: int) -> None:
        self.shape = shape
        self.machine = machine
        self.base_log = base_log
        self.transform = TransformEmitter(shape, machine)
        self.width = 2 * shape.lanes
        """Words of an accumulator in a vector."""
        self.words = vector(self.width, I32)
        self.functions: list[Function] = []

    @property
    def row_words(self) -> int:
        """Doubles in one row of the key."""
        return POLYNOMIALS * POLYNOMIALS * self.shape.polynomial_size

    def places(self, *, few: bool) -> int:
        """Places of a step where lines are fetched, counted as often as they run."""
        if not few:
            return self.shape.groups
        columns = sum(self.shape.columns(number) for number in range(len(self.shape.passes)))
        return self.shape.half // self.shape.lanes + 2 * POLYNOMIALS * columns

    def emit(self) -> tuple[Function, Function]:
        """Add the functions to ``functions``, callees first; return the steps for many and for few ciphertexts."""
        digits = self._digits()
        many, few = (self._step_of(digits, few=few) for few in (False, True))
        return many, few

    def _step_of(self, digits: Function, *, few: bool) -> Function:
        forward, middle, inverse = self._forward(few=few), self._middle(few=few), self._inverse(few=few)
        return self._cmux(digits, forward, middle, inverse, few=few)

    def _function(self, name: str, parameters: str, *, few: bool = False) -> Function:
        return define(self.functions, name + ("_few" if few else ""), parameters)

    @staticmethod
    def _fetcher(f: Function, following: Value, lines: Value) -> Callable[[Value], None]:
        """Return what fetches the lines of a place, by its number."""

        def fetch(place: Value) -> None:
            def on_line(line: Value) -> None:
                at = f.mul(f.add(f.mul(place, lines), line), LINE)
                f.prefetch(f.element(following, DOUBLE, at), cache=2)

            f.loop(lines, on_line)

        return fetch

    def _digits(self) -> Function:
        """Write the digits of ``acc * X^rotation - acc`` as signed words, for one polynomial."""
        f = self._function("digits", "p:acc i:shift i:negate p:out")
        acc, shift, negate, out = f.arguments
        size, width = self.shape.polynomial_size, self.width
        drop = 32 - self.base_log
        # minus x is the complement of x, plus one
        kept = f.splat(f.convert("trunc", negate, I32), width)
        wrapped = f.xor(kept, -1)
        half = integer(1 << (drop - 1), self.words)
        kept_half, wrapped_half = f.sub(half, kept), f.sub(half, wrapped)

        def write(place: Value, rotated: Value, sign: Value, rounding: Value) -> None:
            own = f.load(f.element(acc, I32, place), self.words, align=4 * width)
            change = f.add(f.sub(f.xor(rotated, sign), own), rounding)
            f.store(f.ashr(change, drop), f.element(out, I32, place), align=4 * width)

        def rotated(place: Value, behind: Value) -> Value:
            return f.load(f.element(acc, I32, f.sub(place, behind)), self.words, align=4)

        behind_wrapped = f.sub(shift, size)
        whole, rest = f.udiv(shift, width), f.bit_and(shift, width - 1)

        def on_wrapped(index: Value) -> None:
            place = f.mul(index, width)
            write(place, rotated(place, behind_wrapped), wrapped, wrapped_half)

        def on_kept(index: Value) -> None:
            place = f.mul(index, width)
            write(place, rotated(place, shift), kept, kept_half)

        f.loop(whole, on_wrapped)
        # The vector in which the wrap happens reads past both ends of the polynomial: there is padding, unused lanes.
        place = f.mul(whole, width)
        order = Value("<" + ", ".join(f"i32 {lane}" for lane in range(width)) + ">", self.words)
        is_wrapped = f.compare("ult", order, f.splat(f.convert("trunc", rest, I32), width))
        mixed = f.select(is_wrapped, rotated(place, behind_wrapped), rotated(place, shift))
        write(
            place,
            mixed,
            f.select(is_wrapped, wrapped, kept),
            f.select(is_wrapped, wrapped_half, kept_half),
        )
        f.loop(size // width, on_kept, start=f.add(whole, 1))
        return f

    def _forward(self, *, few: bool) -> Function:
        """Run the first pass of the transform on digits."""
        f = self._function("forward", "p:digits p:data p:table p:following i:lines", few=few)
        digits, data, table, following, lines = f.arguments
        lanes = self.shape.lanes

        def digit(place: Value) -> Value:
            words = f.load(f.element(digits, I32, place), vector(lanes, I32), align=4 * lanes)
            return f.convert("sitofp", words, self.transform.real)

        def point(index: Value) -> Complex:
            return digit(index), digit(f.add(index, self.shape.half))

        between = self._fetcher(f, following, lines) if few else None
        self.transform.run_pass(f, data, table, 0, inverse=False, source=point, between=between)
        return f

    def _inverse(self, *, few: bool) -> Function:
        """Undo ``forward`` and add the result to an accumulator polynomial, a vector of its words at a time."""
        f = self._function("inverse", "p:data p:acc p:table p:following i:lines", few=few)
        data, acc, table, following, lines = f.arguments
        lanes, transform = self.shape.lanes, self.transform

        def to_torus(turns: Value) -> Value:
            """Return bit patterns whose lower halves are words of the torus."""
            if self.machine.reduces:
                return f.fadd(f.without_integer(turns), floating(TORUS_ROUNDING, turns.type))
            # (turns - integer) + TORUS_ROUNDING in one rounding, since both differences are exact
            rounded = f.fadd(turns, floating(ROUNDING, turns.type))
            return f.fsub(turns, f.fsub(rounded, floating(ROUNDING + TORUS_ROUNDING, turns.type)))

        def park(index: Value, turns: Complex) -> None:
            transform.store_complex(f, (to_torus(turns[0]), to_torus(turns[1])), data, index)

        def finish(index: Value, turns: Complex) -> None:
            begin = f.sub(index, lanes)
            for part, parked in enumerate(transform.load_complex(f, data, begin)):
                low, high = (f.convert("bitcast", value, self.words) for value in (parked, to_torus(turns[part])))
                address = f.element(acc, I32, f.add(begin, part * self.shape.half))
                old = f.load(address, self.words, align=8 * lanes)
                f.store(f.add(old, f.shuffle(low, high, range(0, 2 * self.width, 2))), address, align=8 * lanes)

        between = self._fetcher(f, following, lines) if few else None
        transform.run_last_pass(f, data, table, park=park, finish=finish, between=between)
        return f

    def _middle(self, *, few: bool) -> Function:
        """Between the first pass and its inverse: the product with one GGSW row pair."""
        f = self._function("middle", "p:mask p:body p:key p:table p:following i:lines", few=few)
        following, lines = f.arguments[4:]
        ProductEmitter(self.transform, f, self._fetcher(f, following, lines), few=few).emit()
        return f

    def _cmux(
        self,
        digits: Function,
        forward: Function,
        middle: Function,
        inverse: Function,
        *,
        few: bool,
    ) -> Function:
        """Add the external product of ``acc * (X^rotation - 1)`` with one key bit to one accumulator.

        At each of its ``places``, so many ``lines`` are fetched, from ``following`` on.
        """
        f = self._function("cmux", "p:acc i:rotation p:key p:work p:table p:following i:lines", few=few)
        acc, rotation, key, work, table, following, lines = f.arguments
        size = self.shape.polynomial_size
        shift = f.bit_and(rotation, size - 1)
        negate = f.sub(integer(0), f.lshr(rotation, size.bit_length() - 1))
        spectra = [f.element(work, DOUBLE, number * self.shape.spectrum_words) for number in range(POLYNOMIALS)]
        words = f.element(work, DOUBLE, POLYNOMIALS * self.shape.spectrum_words)
        polynomials = [f.element(acc, I32, number * size) for number in range(POLYNOMIALS)]
        columns = self.shape.columns(0)
        first = self.places(few=True) - 2 * POLYNOMIALS * columns

        def share(number: int) -> Value:
            """Return what call ``number`` of a first pass fetches."""
            return f.element(following, DOUBLE, f.mul(lines, (first + number * columns) * LINE))

        for number, (polynomial, spectrum) in enumerate(zip(polynomials, spectra, strict=True)):
            f.call(digits, polynomial, shift, negate, words)
            f.call(forward, words, spectrum, table, share(number), lines)
        f.call(middle, *spectra, key, table, following, lines)
        for number, (polynomial, spectrum) in enumerate(zip(polynomials, spectra, strict=True)):
            f.call(inverse, spectrum, polynomial, table, share(POLYNOMIALS + number), lines)
        return f
