"""Emit blind rotation and sample extraction for batches of ciphertexts, and the conversion of the bootstrap key.

Decides loop order and memory layout; the operations on each element follow ``ARITHMETIC.md``. One thread runs one
batch: all its ciphertexts take step ``i`` before any takes step ``i+1``, so that a row of the key is read from memory
once a batch. While one row is used, the next is prefetched, a slice for every group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.executors.cpu.emitter import DOUBLE, I16, I32, I64, POINTER, Function, Value, floating, integer, vector
from coproc.executors.cpu.shape import LINE
from coproc.executors.cpu.transform import TransformEmitter

if TYPE_CHECKING:
    from coproc.executors.cpu.machine import Machine
    from coproc.executors.cpu.shape import Shape
    from coproc.executors.cpu.transform import Complex

ROUNDING: Final = 1.5 * 2.0**52
"""Adding and subtracting this rounds to an integer, ties to even."""
TORUS_ROUNDING: Final = 1.5 * 2.0**20
"""Adding this leaves the fraction's first 32 bits in the lower half of the word."""
POLYNOMIALS: Final = 2
"""Polynomials of a GLWE ciphertext: ``k + 1`` with ``k = 1``."""


class BootstrapEmitter:
    """Emits the bootstrap of one shape and base."""

    def __init__(self, shape: Shape, machine: Machine, base_log: int) -> None:
        self.shape = shape
        self.machine = machine
        self.base_log = base_log
        self.transform = TransformEmitter(shape, machine)
        self.width = 2 * shape.lanes
        """Words of an accumulator in a vector."""
        self.words = vector(self.width, I32)
        self.functions: list[Function] = []

    def emit(self) -> list[Function]:
        """Return the functions, callees first; ``bootstrap`` and ``convert_key`` are exported."""
        digits, forward, middle = self._digits(), self._forward(), self._middle()
        inverse, accumulate = self._inverse(), self._accumulate()
        cmux = self._cmux(digits, forward, middle, inverse, accumulate)
        start, extract = self._start(), self._extract()
        self._bootstrap(cmux, start, extract)
        self._convert_key()
        return self.functions

    def _function(self, name: str, parameters: str, *, exported: bool = False) -> Function:
        kinds = {"p": POINTER, "i": I64}
        named = [(kinds[word[0]], word[2:]) for word in parameters.split()]
        function = Function(name, named, exported=exported)
        self.functions.append(function)
        return function

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

    def _forward(self) -> Function:
        """Run the first pass of the transform on digits."""
        f = self._function("forward", "p:digits p:data p:table")
        digits, data, table = f.arguments
        lanes = self.shape.lanes

        def digit(place: Value) -> Value:
            words = f.load(f.element(digits, I32, place), vector(lanes, I32), align=4 * lanes)
            return f.convert("sitofp", words, self.transform.real)

        def point(index: Value) -> Complex:
            return digit(index), digit(f.add(index, self.shape.half))

        self.transform.run_pass(f, data, table, 0, inverse=False, source=point)
        return f

    def _inverse(self) -> Function:
        """Undo ``forward``; what is left are bit patterns whose lower halves are words of the torus."""
        f = self._function("inverse", "p:data p:table")
        data, table = f.arguments

        def to_torus(turns: Value) -> Value:
            if self.machine.reduces:
                fraction = f.without_integer(turns)
            else:
                rounding = floating(ROUNDING, turns.type)
                fraction = f.fsub(turns, f.fsub(f.fadd(turns, rounding), rounding))
            return f.fadd(fraction, floating(TORUS_ROUNDING, turns.type))

        self.transform.run_pass(f, data, table, 0, inverse=True, finish=to_torus)
        return f

    def _accumulate(self) -> Function:
        """Add the lower halves of what ``inverse`` leaves to an accumulator polynomial."""
        f = self._function("accumulate", "p:data p:acc")
        data, acc = f.arguments
        width, lanes, half = self.width, self.shape.lanes, self.shape.half

        def on_vectors(index: Value) -> None:
            place = f.mul(index, width)
            for part in (0, 1):
                halves = [
                    f.load(f.element(data, I64, f.add(f.shl(place, 1), first)), self.words, align=8 * lanes)
                    for first in (part * lanes, (part + 2) * lanes)
                ]
                address = f.element(acc, I32, f.add(place, part * half))
                old = f.load(address, self.words, align=8 * lanes)
                added = f.shuffle(halves[0], halves[1], range(0, 2 * width, 2))
                f.store(f.add(old, added), address, align=8 * lanes)

        f.loop(half // width, on_vectors)
        return f

    def _middle(self) -> Function:
        """Between the first pass and its inverse, block by block: transform, products with one GGSW row pair, back.

        A block and its part of the key stay in the first-level cache meanwhile.
        """
        f = self._function("middle", "p:mask p:body p:key p:table p:following i:lines")
        mask, body, key, table, following, lines = f.arguments
        lanes, transform = self.shape.lanes, self.transform

        def on_group(group: Value) -> None:
            def on_line(line: Value) -> None:
                f.prefetch(f.element(following, I64, f.shl(f.add(f.mul(group, lines), line), 3)), cache=2)

            f.loop(lines, on_line)
            x = transform.forward(f, transform.load_group(f, mask, group), table, group)
            transform.store_group(f, x, mask, group)
            x = transform.forward(f, transform.load_group(f, body, group), table, group)
            for row in range(lanes):
                place = f.mul(f.add(f.mul(group, lanes), row), lanes)
                base = f.mul(place, 8)
                for line in range(0, 8 * lanes, LINE):  # of the next group
                    f.prefetch(f.element(key, DOUBLE, f.add(base, 8 * lanes * lanes + line)), cache=1)
                inputs = [transform.load_complex(f, mask, place), x[row]]
                transform.store_complex(f, self._products(f, inputs, key, base, 0), mask, place)
                x[row] = self._products(f, inputs, key, base, 1)
            transform.scatter_group(f, transform.backward(f, x, table, group), body, group)
            x = transform.backward(f, transform.load_group(f, mask, group), table, group)
            transform.scatter_group(f, x, mask, group)

        def on_part(part: Value) -> None:
            for data in (mask, body):
                transform.run_later_passes(f, data, table, part, inverse=False)
            groups = self.shape.groups >> self.shape.passes[0]
            f.loop(groups, lambda group: on_group(f.add(f.mul(part, groups), group)))
            # the body first: its last halves were stored earlier, and are whole vectors by now
            for data in (body, mask):
                transform.run_later_passes(f, data, table, part, inverse=True)

        f.loop(1 << self.shape.passes[0], on_part)
        return f

    def _products(self, f: Function, inputs: list[Complex], key: Value, base: Value, column: int) -> Complex:
        """Return the sum of the products of both inputs with one column of the key, for one vector of points."""
        lanes, transform = self.shape.lanes, self.transform
        total: Complex | None = None
        for number, (x_re, x_im) in enumerate(inputs):
            at = (POLYNOMIALS * number + column) * 2 * lanes
            k_re = transform.load(f, key, f.add(base, at))
            k_im = transform.load(f, key, f.add(base, at + lanes))
            re = f.fmul(x_re, k_re) if total is None else f.fma(x_re, k_re, total[0])
            im = f.fmul(x_re, k_im) if total is None else f.fma(x_re, k_im, total[1])
            total = f.fnma(x_im, k_im, re), f.fma(x_im, k_re, im)
        if total is None:
            raise ValueError("a product needs at least one input")
        return total

    def _cmux(
        self, digits: Function, forward: Function, middle: Function, inverse: Function, accumulate: Function
    ) -> Function:
        """Add the external product of ``acc * (X^rotation - 1)`` with one key bit to one accumulator."""
        f = self._function("cmux", "p:acc i:rotation p:key p:work p:table p:following i:lines")
        acc, rotation, key, work, table, following, lines = f.arguments
        size = self.shape.polynomial_size
        shift = f.bit_and(rotation, size - 1)
        negate = f.sub(integer(0), f.lshr(rotation, size.bit_length() - 1))
        spectra = [f.element(work, DOUBLE, number * self.shape.spectrum_words) for number in range(POLYNOMIALS)]
        words = f.element(work, DOUBLE, POLYNOMIALS * self.shape.spectrum_words)
        polynomials = [f.element(acc, I32, number * size) for number in range(POLYNOMIALS)]
        for polynomial, spectrum in zip(polynomials, spectra, strict=True):
            f.call(digits, polynomial, shift, negate, words)
            f.call(forward, words, spectrum, table)
        f.call(middle, *spectra, key, table, following, lines)
        for polynomial, spectrum in zip(polynomials, spectra, strict=True):
            f.call(inverse, spectrum, table)
            f.call(accumulate, spectrum, polynomial)
        return f

    def _start(self) -> Function:
        """Write ``(0, polynomial * X^-rotation)`` into an accumulator."""
        f = self._function("start", "p:polynomial i:rotation p:acc")
        polynomial, rotation, acc = f.arguments
        size = self.shape.polynomial_size

        def on_coefficient(index: Value) -> None:
            f.store(integer(0, I32), f.element(acc, I32, index), align=4)
            source = f.add(index, rotation)
            word = f.load(f.element(polynomial, I32, f.bit_and(source, size - 1)), I32, align=4)
            sign = f.sub(integer(0), f.bit_and(f.lshr(source, size.bit_length() - 1), 1))
            sign = f.convert("trunc", sign, I32)
            f.store(f.sub(f.xor(word, sign), sign), f.element(acc, I32, f.add(index, size)), align=4)

        f.loop(size, on_coefficient)
        return f

    def _extract(self) -> Function:
        """Write one coefficient of an accumulator as an LWE ciphertext."""
        f = self._function("extract", "p:acc i:coefficient i:added p:out")
        acc, coefficient, added, out = f.arguments
        size = self.shape.polynomial_size

        def on_word(index: Value) -> None:
            degree = f.sub(coefficient, index)
            word = f.load(f.element(acc, I32, f.bit_and(degree, size - 1)), I32, align=4)
            wide = f.shl(f.convert("zext", word, I64), 32)
            sign = f.ashr(degree, 63)
            f.store(f.sub(f.xor(wide, sign), sign), f.element(out, I64, index), align=8)

        f.loop(size, on_word)
        body = f.load(f.element(acc, I32, f.add(coefficient, size)), I32, align=4)
        wide = f.add(f.shl(f.convert("zext", body, I64), 32), added)
        f.store(wide, f.element(out, I64, size), align=8)
        return f

    def _bootstrap(self, cmux: Function, start: Function, extract: Function) -> None:
        """Bootstrap a batch.

        ``switched`` (F, n+1) u16, ``form`` and ``table`` (B,) i32, ``polynomials`` (T, N) u32, ``first`` (B+1,) i64,
        ``coefficient`` and ``added`` (O,) i64, all outputs counted from ``first[0]`` on; ``out`` (O, N+1) u64; ``accs``
        (B, 2, N) u32 with a vector of padding at both ends; ``work`` as in ``Shape.workspace_words``.
        """
        f = self._function(
            "bootstrap",
            "p:switched p:form p:table p:polynomials p:first p:coefficient p:added p:out p:key p:twiddles p:accs p:work"
            " i:dimension i:batch",
            exported=True,
        )
        switched, form, table, polynomials, first, coefficient, added, out, key, twiddles, accs, work = f.arguments[:12]
        dimension, batch = f.arguments[12:]
        size, lanes = self.shape.polynomial_size, self.shape.lanes
        row_words = POLYNOMIALS * POLYNOMIALS * size
        width = f.add(dimension, 1)

        def rotation(number: Value, step: Value) -> Value:
            row = f.convert("sext", f.load(f.element(form, I32, number), I32, align=4), I64)
            word = f.load(f.element(switched, I16, f.add(f.mul(row, width), step)), I16, align=2)
            return f.convert("zext", word, I64)

        def accumulator(number: Value) -> Value:
            return f.element(accs, I32, f.mul(number, POLYNOMIALS * size))

        def on_start(number: Value) -> None:
            row = f.convert("sext", f.load(f.element(table, I32, number), I32, align=4), I64)
            polynomial = f.element(polynomials, I32, f.mul(row, size))
            f.call(start, polynomial, rotation(number, dimension), accumulator(number))

        # lines of 64 bytes to prefetch for every group and ciphertext
        lines = f.udiv(f.add(batch, lanes * lanes - 1), batch)

        def on_step(step: Value) -> None:
            row = f.element(key, DOUBLE, f.mul(step, row_words))

            def on_ciphertext(number: Value) -> None:
                power = rotation(number, step)

                def rotate() -> None:
                    ahead = f.add(integer(row_words), f.mul(f.mul(number, lines), 8 * self.shape.groups))
                    following = f.element(row, I64, ahead)
                    f.call(cmux, accumulator(number), power, row, work, twiddles, following, lines)

                f.when(f.compare("ne", power, 0), rotate)

            f.loop(batch, on_ciphertext)

        def on_extract(number: Value) -> None:
            begin = f.load(f.element(first, I64, number), I64, align=8)
            end = f.load(f.element(first, I64, f.add(number, 1)), I64, align=8)

            def on_output(output: Value) -> None:
                at = f.load(f.element(coefficient, I64, output), I64, align=8)
                offset = f.load(f.element(added, I64, output), I64, align=8)
                f.call(extract, accumulator(number), at, offset, f.element(out, I64, f.mul(output, size + 1)))

            f.loop(end, on_output, start=begin)

        f.loop(batch, on_start)
        f.loop(dimension, on_step)
        f.loop(batch, on_extract)

    def _convert_key(self) -> None:
        """Transform GGSW rows: ``source`` (steps, 2, 2, N) i64 to ``out``, in the order in which ``middle`` reads."""
        f = self._function("convert_key", "p:source p:out p:table p:work i:steps", exported=True)
        source, out, table, work, steps = f.arguments
        shape, lanes = self.shape, self.shape.lanes
        size = shape.polynomial_size
        scale = Value(_power_of_two(-64 - shape.levels, self.transform.real), self.transform.real)

        def on_polynomial(number: Value) -> None:
            def turns(place: Value) -> Value:
                words = f.load(f.element(source, I64, f.add(f.mul(number, size), place)), vector(lanes, I64), align=8)
                return f.fmul(f.convert("sitofp", words, self.transform.real), scale)

            def point(index: Value) -> Complex:
                return turns(index), turns(f.add(index, shape.half))

            def on_group(group: Value) -> None:
                x = self.transform.forward(f, self.transform.load_group(f, work, group), table, group)
                self.transform.store_group(f, x, work, group)

            self.transform.run_pass(f, work, table, 0, inverse=False, source=point)
            f.loop(
                1 << shape.passes[0],
                lambda part: self.transform.run_later_passes(f, work, table, part, inverse=False),
            )
            f.loop(shape.groups, on_group)
            step, pair = f.lshr(number, 2), f.bit_and(number, 3)
            base = f.add(f.mul(step, POLYNOMIALS * POLYNOMIALS * size), f.mul(pair, 2 * lanes))

            def on_result(index: Value) -> None:
                value = self.transform.load_complex(f, work, f.mul(index, lanes))
                place = f.add(base, f.mul(index, 8 * lanes))
                self.transform.store(f, value[0], out, place)
                self.transform.store(f, value[1], out, f.add(place, lanes))

            f.loop(shape.half // lanes, on_result)

        f.loop(f.shl(steps, 2), on_polynomial)


def _power_of_two(exponent: int, kind: str) -> str:
    """Spell a constant exactly, as the bits of a double."""
    lanes = int(kind[1:-1].split(" x ", maxsplit=1)[0])
    return "<" + ", ".join([f"double 0x{(1023 + exponent) << 52:016X}"] * lanes) + ">"
