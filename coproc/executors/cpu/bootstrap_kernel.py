"""Emit blind rotation and sample extraction for batches of ciphertexts, and the conversion of the bootstrap key.

Decides loop order and memory layout; the operations on each element follow ``ARITHMETIC.md``. One thread runs one
batch: all its ciphertexts take step ``i`` before any takes step ``i+1``, so that a row of the key is read from memory
once a batch. While one row is used, the next is prefetched, a slice for every group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.executors.cpu.emitter import DOUBLE, I16, I32, I64, POINTER, Function, Value, floating, integer, vector
from coproc.executors.cpu.transform import TransformEmitter

if TYPE_CHECKING:
    from coproc.executors.cpu.shape import Shape

ROUNDING: Final = 1.5 * 2.0**52
"""Adding and subtracting this rounds to an integer, ties to even."""
TORUS_ROUNDING: Final = 1.5 * 2.0**20
"""Adding this leaves the fraction's first 32 bits in the lower half of the word."""
POLYNOMIALS: Final = 2
"""Polynomials of a GLWE ciphertext: ``k + 1`` with ``k = 1``."""


class BootstrapEmitter:
    """Emits the bootstrap of one shape and base."""

    def __init__(self, shape: Shape, base_log: int) -> None:
        self.shape = shape
        self.base_log = base_log
        self.transform = TransformEmitter(shape)
        self.words = vector(shape.lanes, I32)
        self.functions: list[Function] = []

    def emit(self) -> list[Function]:
        """Return the functions, callees first; ``bootstrap`` and ``convert_key`` are exported."""
        digits, forward = self._digits(), self._forward()
        middle, inverse = self._middle(), self._inverse()
        cmux = self._cmux(digits, forward, middle, inverse)
        start, extract = self._start(), self._extract()
        self._bootstrap(cmux, start, extract)
        self._convert_key(forward)
        return self.functions

    def _function(self, name: str, parameters: str, *, exported: bool = False) -> Function:
        kinds = {"p": POINTER, "i": I64}
        named = [(kinds[word[0]], word[2:]) for word in parameters.split()]
        function = Function(name, named, exported=exported)
        self.functions.append(function)
        return function

    def _digits(self) -> Function:
        """Write the digits of ``acc * X^rotation - acc`` as doubles, for one polynomial."""
        f = self._function("digits", "p:acc i:shift i:negate p:out")
        acc, shift, negate, out = f.arguments
        size, lanes = self.shape.polynomial_size, self.shape.lanes
        drop = 32 - self.base_log
        kept = f.splat(f.convert("trunc", negate, I32), lanes)
        wrapped = f.xor(kept, -1)

        def write(place: Value, rotated: Value, sign: Value) -> None:
            rotated = f.sub(f.xor(rotated, sign), sign)
            own = f.load(f.element(acc, I32, place), self.words, align=4 * lanes)
            change = f.add(f.sub(rotated, own), 1 << (drop - 1))
            digit = f.convert("sitofp", f.ashr(change, drop), self.transform.real)
            self.transform.store(f, digit, out, place)

        def rotated(place: Value, behind: Value) -> Value:
            return f.load(f.element(acc, I32, f.sub(place, behind)), self.words, align=4)

        behind_wrapped = f.sub(shift, size)
        whole, rest = f.udiv(shift, lanes), f.bit_and(shift, lanes - 1)

        def on_wrapped(index: Value) -> None:
            place = f.mul(index, lanes)
            write(place, rotated(place, behind_wrapped), wrapped)

        def on_kept(index: Value) -> None:
            place = f.mul(index, lanes)
            write(place, rotated(place, shift), kept)

        f.loop(whole, on_wrapped)
        # The vector in which the wrap happens reads past both ends of the polynomial: there is padding, unused lanes.
        place = f.mul(whole, lanes)
        order = Value("<" + ", ".join(f"i32 {lane}" for lane in range(lanes)) + ">", self.words)
        is_wrapped = f.compare("ult", order, f.splat(f.convert("trunc", rest, I32), lanes))
        mixed = f.select(is_wrapped, rotated(place, behind_wrapped), rotated(place, shift))
        write(place, mixed, f.select(is_wrapped, wrapped, kept))
        f.loop(size // lanes, on_kept, start=f.add(whole, 1))
        return f

    def _forward(self) -> Function:
        f = self._function("forward", "p:data p:table")
        data, table = f.arguments
        for number in range(len(self.shape.passes)):
            self.transform.run_pass(f, data, table, number, inverse=False)
        return f

    def _inverse(self) -> Function:
        """Undo ``forward`` and add the result, rounded to the torus, to an accumulator polynomial."""
        f = self._function("inverse", "p:data p:acc p:table")
        data, acc, table = f.arguments
        lanes = self.shape.lanes
        wide = vector(lanes, I64)

        def accumulate(place: Value, turns: Value) -> None:
            rounding = floating(ROUNDING, turns.type)
            fraction = f.fsub(turns, f.fsub(f.fadd(turns, rounding), rounding))
            bits = f.convert("bitcast", f.fadd(fraction, floating(TORUS_ROUNDING, turns.type)), wide)
            address = f.element(acc, I32, place)
            old = f.load(address, self.words, align=4 * lanes)
            f.store(f.add(old, f.convert("trunc", bits, self.words)), address, align=4 * lanes)

        for number in reversed(range(len(self.shape.passes))):
            sink = accumulate if number == 0 else None
            self.transform.run_pass(f, data, table, number, inverse=True, sink=sink)
        return f

    def _middle(self) -> Function:
        """For every group: last levels forward, products with one GGSW row pair, first levels backward."""
        f = self._function("middle", "p:mask p:body p:key p:table p:following i:lines")
        mask, body, key, table, following, lines = f.arguments
        lanes, transform = self.shape.lanes, self.transform

        def on_group(group: Value) -> None:
            def on_line(line: Value) -> None:
                f.prefetch(f.element(following, I64, f.shl(f.add(f.mul(group, lines), line), 3)))

            f.loop(lines, on_line)
            transform.run_group(f, mask, table, group, inverse=False)
            transform.run_group(f, body, table, group, inverse=False)
            for row in range(lanes):
                index = f.add(f.mul(group, lanes), row)
                place = f.mul(index, lanes)
                base = f.mul(index, 8 * lanes)
                inputs = [transform.load_complex(f, data, place) for data in (mask, body)]
                for column, data in enumerate((mask, body)):
                    total_re: Value | None = None
                    total_im: Value | None = None
                    for number, (x_re, x_im) in enumerate(inputs):
                        at = (2 * number + column) * 2 * lanes
                        k_re = transform.load(f, key, f.add(base, at))
                        k_im = transform.load(f, key, f.add(base, at + lanes))
                        total_re = f.fmul(x_re, k_re) if total_re is None else f.fma(x_re, k_re, total_re)
                        total_re = f.fnma(x_im, k_im, total_re)
                        total_im = f.fmul(x_re, k_im) if total_im is None else f.fma(x_re, k_im, total_im)
                        total_im = f.fma(x_im, k_re, total_im)
                    if total_re is not None and total_im is not None:
                        transform.store_complex(f, (total_re, total_im), data, place)
            transform.run_group(f, mask, table, group, inverse=True)
            transform.run_group(f, body, table, group, inverse=True)

        f.loop(self.shape.groups, on_group)
        return f

    def _cmux(self, digits: Function, forward: Function, middle: Function, inverse: Function) -> Function:
        """Add the external product of ``acc * (X^rotation - 1)`` with one key bit to one accumulator."""
        f = self._function("cmux", "p:acc i:rotation p:key p:work p:table p:following i:lines")
        acc, rotation, key, work, table, following, lines = f.arguments
        size = self.shape.polynomial_size
        shift = f.bit_and(rotation, size - 1)
        negate = f.sub(integer(0), f.lshr(rotation, size.bit_length() - 1))
        spectra = [f.element(work, DOUBLE, number * size) for number in range(POLYNOMIALS)]
        polynomials = [f.element(acc, I32, number * size) for number in range(POLYNOMIALS)]
        for polynomial, spectrum in zip(polynomials, spectra, strict=True):
            f.call(digits, polynomial, shift, negate, spectrum)
            f.call(forward, spectrum, table)
        f.call(middle, *spectra, key, table, following, lines)
        for polynomial, spectrum in zip(polynomials, spectra, strict=True):
            f.call(inverse, spectrum, polynomial, table)
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
        (B, 2, N) u32 with a vector of padding at both ends; ``work`` (2, N) doubles.
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

    def _convert_key(self, forward: Function) -> None:
        """Transform GGSW rows: ``source`` (steps, 2, 2, N) i64 to ``out``, in the order in which ``middle`` reads."""
        f = self._function("convert_key", "p:source p:out p:table p:work i:steps", exported=True)
        source, out, table, work, steps = f.arguments
        shape, lanes = self.shape, self.shape.lanes
        size = shape.polynomial_size
        scale = Value(_power_of_two(-64 - shape.levels, self.transform.real), self.transform.real)

        def on_polynomial(number: Value) -> None:
            def on_vector(index: Value) -> None:
                place = f.mul(index, lanes)
                words = f.load(f.element(source, I64, f.add(f.mul(number, size), place)), vector(lanes, I64), align=8)
                turns = f.fmul(f.convert("sitofp", words, self.transform.real), scale)
                self.transform.store(f, turns, work, place)

            f.loop(size // lanes, on_vector)
            f.call(forward, work, table)
            f.loop(shape.groups, lambda group: self.transform.run_group(f, work, table, group, inverse=False))
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
