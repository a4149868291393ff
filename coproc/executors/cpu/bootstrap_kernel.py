"""Emit blind rotation and sample extraction for batches of ciphertexts, and the conversion of the bootstrap key.

Decides loop order and memory layout; the operations on each element follow ``ARITHMETIC.md``. Threads take batches
from a shared counter until none is left, so that nobody comes back in between. In a batch all ciphertexts take step
``i`` before any takes step ``i+1``, so that a row of the key is read from memory once a batch. While one row is used,
the next is fetched, a part by every ciphertext.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.executors.cpu.emitter import DOUBLE, I16, I32, I64, Function, Value, integer, vector
from coproc.executors.cpu.product_kernel import POLYNOMIALS
from coproc.executors.cpu.shape import LINE
from coproc.executors.cpu.step_kernel import StepEmitter, define

if TYPE_CHECKING:
    from coproc.executors.cpu.machine import Machine
    from coproc.executors.cpu.shape import Shape
    from coproc.executors.cpu.transform import Complex

FEW: Final = 4
"""Up to so many ciphertexts in a batch, fetching the key takes so long that it is spread over the step."""


class BootstrapEmitter:
    """Emits the bootstrap of one shape and base."""

    def __init__(self, shape: Shape, machine: Machine, base_log: int) -> None:
        self.shape = shape
        self.step = StepEmitter(shape, machine, base_log)
        self.transform = self.step.transform
        self.functions = self.step.functions

    def emit(self) -> list[Function]:
        """Return the functions, callees first; ``bootstrap`` and ``convert_key`` are exported."""
        many, few = self.step.emit()
        start, extract = self._start(), self._extract()
        self._bootstrap(many, few, start, extract)
        self._convert_key()
        return self.functions

    def _function(self, name: str, parameters: str, *, exported: bool = False) -> Function:
        return define(self.functions, name, parameters, exported=exported)

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

    def _bootstrap(self, many: Function, few: Function, start: Function, extract: Function) -> None:
        """Bootstrap batches until none is left.

        ``switched`` (F, n+1) u16, ``form`` and ``table`` (P,) i32, ``polynomials`` (T, N) u32, ``first`` (P+1,) i64,
        ``coefficient``, ``added`` and ``row`` (O,) i64: the row of ``out`` (R, N+1) u64 that each output becomes;
        ``bounds`` (batches+1,) i64: where each batch starts; ``claimed`` i64: how many batches are taken, counted by
        all threads that share the work; ``accs`` (B, 2, N) u32 with a vector of padding at both ends, for the largest
        batch; ``work`` as in ``Shape.workspace_words``.
        """
        f = self._function(
            "bootstrap",
            "p:switched p:form p:table p:polynomials p:first p:coefficient p:added p:row p:out p:key p:twiddles p:accs"
            " p:work p:bounds p:claimed i:dimension i:batches",
            exported=True,
        )
        bounds, claimed, _, batches = f.arguments[-4:]

        def on_claim(_: Value) -> None:
            number = f.fetch_add(claimed)

            def run() -> None:
                begin = f.load(f.element(bounds, I64, number), I64, align=8)
                end = f.load(f.element(bounds, I64, f.add(number, 1)), I64, align=8)
                self._batch(f, (many, few, start, extract), begin, f.sub(end, begin))

            f.when(f.compare("ult", number, batches), run)

        f.loop(batches, on_claim)

    def _batch(self, f: Function, functions: tuple[Function, ...], begin: Value, batch: Value) -> None:
        """Emit one batch into ``bootstrap``."""
        many, few, start, extract = functions
        switched, form, table, polynomials, first, coefficient, added, rows, out, key = f.arguments[:10]
        twiddles, accs, work, _, _, dimension, _ = f.arguments[10:]
        size = self.shape.polynomial_size

        def accumulator(number: Value) -> Value:
            return f.element(accs, I32, f.mul(number, POLYNOMIALS * size))

        def rotation(number: Value, step: Value) -> Value:
            row = f.load(f.element(form, I32, f.add(begin, number)), I32, align=4)
            at = f.add(f.mul(f.convert("sext", row, I64), f.add(dimension, 1)), step)
            return f.convert("zext", f.load(f.element(switched, I16, at), I16, align=2), I64)

        def on_start(number: Value) -> None:
            row = f.load(f.element(table, I32, f.add(begin, number)), I32, align=4)
            polynomial = f.element(polynomials, I32, f.mul(f.convert("sext", row, I64), size))
            f.call(start, polynomial, rotation(number, dimension), accumulator(number))

        def run_steps(cmux: Function, places: int) -> None:
            row_words = self.step.row_words
            share = f.mul(batch, places)
            lines = f.udiv(f.add(share, row_words // LINE - 1), share)

            def on_step(step: Value) -> None:
                row = f.element(key, DOUBLE, f.mul(step, row_words))

                def on_ciphertext(number: Value) -> None:
                    power = rotation(number, step)

                    def rotate() -> None:
                        ahead = f.add(integer(row_words), f.mul(f.mul(number, lines), LINE * places))
                        following = f.element(row, DOUBLE, ahead)
                        f.call(cmux, accumulator(number), power, row, work, twiddles, following, lines)

                    f.when(f.compare("ne", power, 0), rotate)

                f.loop(batch, on_ciphertext)

            f.loop(dimension, on_step)

        def on_extract(number: Value) -> None:
            at = f.add(begin, number)
            since = f.load(f.element(first, I64, at), I64, align=8)
            until = f.load(f.element(first, I64, f.add(at, 1)), I64, align=8)

            def on_output(output: Value) -> None:
                place, offset, row = (
                    f.load(f.element(array, I64, output), I64, align=8) for array in (coefficient, added, rows)
                )
                f.call(extract, accumulator(number), place, offset, f.element(out, I64, f.mul(row, size + 1)))

            f.loop(until, on_output, start=since)

        f.loop(batch, on_start)
        f.when(f.compare("ule", batch, FEW), lambda: run_steps(few, self.step.places(few=True)))
        f.when(f.compare("ugt", batch, FEW), lambda: run_steps(many, self.step.places(few=False)))
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
                x = self.transform.forward(f, self.transform.gather_group(f, work, group), table, group)
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
