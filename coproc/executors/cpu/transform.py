"""Emit the canonical transform: butterflies, passes over memory, and the groups that end in lanes.

Decides how the operations of ``ARITHMETIC.md`` are scheduled onto vectors. It knows nothing of keys or ciphertexts.

Arrays hold ``N/2`` real parts followed by ``N/2`` imaginary parts. Inside a group the order of the spectrum is
transposed, which nobody sees: keys are transformed by the same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from coproc.executors.cpu.emitter import DOUBLE, Value, vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.executors.cpu.emitter import Function
    from coproc.executors.cpu.shape import Shape

Complex: TypeAlias = tuple[Value, Value]


def butterfly(f: Function, x: list[Complex], low: int, high: int, twiddle: Complex, *, odd: bool) -> None:
    """Replace ``(a, b)`` by ``(a + w*b, a - w*b)``, where ``w`` is the twiddle, times ``i`` in an odd block.

    The sum takes two fused steps per part; the difference is ``2*a`` minus the sum, rounded once.
    """
    (a_re, a_im), (b_re, b_im), (w_re, w_im) = x[low], x[high], twiddle
    if odd:
        p_re = f.fnma(w_re, b_im, f.fnma(w_im, b_re, a_re))
        p_im = f.fma(w_re, b_re, f.fnma(w_im, b_im, a_im))
    else:
        p_re = f.fnma(w_im, b_im, f.fma(w_re, b_re, a_re))
        p_im = f.fma(w_im, b_re, f.fma(w_re, b_im, a_im))
    x[low] = (p_re, p_im)
    x[high] = (f.fsub(f.fadd(a_re, a_re), p_re), f.fsub(f.fadd(a_im, a_im), p_im))


def inverse_butterfly(f: Function, x: list[Complex], low: int, high: int, twiddle: Complex, *, odd: bool) -> None:
    """Replace ``(a, b)`` by ``(a + b, (a - b) * conj(w))``, where ``w`` is the twiddle, times ``i`` in an odd block."""
    (a_re, a_im), (b_re, b_im), (w_re, w_im) = x[low], x[high], twiddle
    d_re, d_im = f.fsub(a_re, b_re), f.fsub(a_im, b_im)
    x[low] = (f.fadd(a_re, b_re), f.fadd(a_im, b_im))
    if odd:
        x[high] = (
            f.fma(w_re, d_im, f.fneg(f.fmul(w_im, d_re))),
            f.fnma(w_re, d_re, f.fneg(f.fmul(w_im, d_im))),
        )
    else:
        x[high] = (f.fma(w_im, d_im, f.fmul(w_re, d_re)), f.fnma(w_im, d_re, f.fmul(w_re, d_im)))


def network(f: Function, x: list[Complex], twiddles: list[list[Complex]], *, inverse: bool) -> None:
    """Run consecutive levels on values in registers; ``twiddles[level]`` has one entry for every even block."""
    for level in reversed(range(len(twiddles))) if inverse else range(len(twiddles)):
        distance = len(x) >> (level + 1)
        for block in range(1 << level):
            for low in range(2 * distance * block, 2 * distance * block + distance):
                step = inverse_butterfly if inverse else butterfly
                step(f, x, low, low + distance, twiddles[level][block // 2], odd=block % 2 == 1)


class TransformEmitter:
    """Emits parts of the transform of one shape into functions."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.real = vector(shape.lanes, DOUBLE)
        self._align = 8 * shape.lanes

    def load(self, f: Function, pointer: Value, index: Value | int) -> Value:
        """Load an aligned vector at a word index."""
        return f.load(f.element(pointer, DOUBLE, index), self.real, align=self._align)

    def store(self, f: Function, value: Value, pointer: Value, index: Value | int) -> None:
        """Store an aligned vector at a word index."""
        f.store(value, f.element(pointer, DOUBLE, index), align=self._align)

    def load_complex(self, f: Function, data: Value, index: Value) -> Complex:
        """Load real and imaginary parts."""
        return self.load(f, data, index), self.load(f, data, f.add(index, self.shape.half))

    def store_complex(self, f: Function, value: Complex, data: Value, index: Value) -> None:
        """Store real and imaginary parts."""
        self.store(f, value[0], data, index)
        self.store(f, value[1], data, f.add(index, self.shape.half))

    def block_twiddles(self, f: Function, table: Value, level: int, block: Value, depth: int) -> list[list[Complex]]:
        """Load the twiddles of ``depth`` levels below one block, repeated in all lanes."""
        levels: list[list[Complex]] = []
        for below in range(depth):
            first = f.add(f.shl(block, below), 1 << (level + below))
            levels.append([self._repeated(f, table, f.shl(f.add(first, even), 1)) for even in range(0, 1 << below, 2)])
        return levels

    def _repeated(self, f: Function, table: Value, index: Value) -> Complex:
        return (
            f.splat(f.load(f.element(table, DOUBLE, index), DOUBLE, align=8), self.shape.lanes),
            f.splat(f.load(f.element(table, DOUBLE, f.add(index, 1)), DOUBLE, align=8), self.shape.lanes),
        )

    def run_pass(
        self,
        f: Function,
        data: Value,
        table: Value,
        number: int,
        *,
        inverse: bool,
        sink: Callable[[Value, Value], None] | None = None,
    ) -> None:
        """Emit pass ``number`` over the array; ``sink(index, vector)`` takes the results instead of the array."""
        shape = self.shape
        level, depth = sum(shape.passes[:number]), shape.passes[number]
        size = shape.half >> level
        distance = size >> depth

        def on_block(block: Value) -> None:
            twiddles = self.block_twiddles(f, table, level, block, depth)

            def on_column(column: Value) -> None:
                base = f.add(f.mul(block, size), f.mul(column, shape.lanes))
                places = [f.add(base, distance * k) for k in range(1 << depth)]
                x = [self.load_complex(f, data, place) for place in places]
                network(f, x, twiddles, inverse=inverse)
                for place, value in zip(places, x, strict=True):
                    if sink is None:
                        self.store_complex(f, value, data, place)
                    else:
                        sink(place, value[0])
                        sink(f.add(place, shape.half), value[1])

            f.loop(distance // shape.lanes, on_column)

        f.loop(1 << level, on_block)

    def run_group(self, f: Function, data: Value, table: Value, group: Value, *, inverse: bool) -> None:
        """Emit the last levels of one group, in place; the spectrum stays transposed."""
        shape, lanes = self.shape, self.shape.lanes
        base = f.mul(group, lanes * lanes)
        places = [f.add(base, lanes * k) for k in range(lanes)]
        x = [self.load_complex(f, data, place) for place in places]
        depth = shape.group_levels
        level = shape.levels - shape.lane_levels - depth
        width = lanes >> depth  # vectors of one block at the end of these levels
        first = f.mul(group, width)
        across = [self.block_twiddles(f, table, level, f.add(first, block), depth) for block in range(width)]
        start = f.add(f.mul(group, lanes * lanes), shape.lane_table)
        inside = self._lane_twiddles(f, table, start)
        span = 1 << depth
        if not inverse:
            for block in range(width):
                part = x[span * block : span * (block + 1)]
                network(f, part, across[block], inverse=False)
                x[span * block : span * (block + 1)] = part
            x = self._transpose(f, x)
            network(f, x, inside, inverse=False)
        else:
            network(f, x, inside, inverse=True)
            x = self._transpose(f, x)
            for block in range(width):
                part = x[span * block : span * (block + 1)]
                network(f, part, across[block], inverse=True)
                x[span * block : span * (block + 1)] = part
        for place, value in zip(places, x, strict=True):
            self.store_complex(f, value, data, place)

    def _lane_twiddles(self, f: Function, table: Value, start: Value) -> list[list[Complex]]:
        levels: list[list[Complex]] = []
        taken = 0
        for below in range(self.shape.lane_levels):
            entries: list[Complex] = []
            for _ in range(0, 1 << below, 2):
                real = self.load(f, table, f.add(start, taken))
                imaginary = self.load(f, table, f.add(start, taken + self.shape.lanes))
                entries.append((real, imaginary))
                taken += 2 * self.shape.lanes
            levels.append(entries)
        return levels

    def _transpose(self, f: Function, x: list[Complex]) -> list[Complex]:
        real = transpose(f, [value[0] for value in x])
        imaginary = transpose(f, [value[1] for value in x])
        return list(zip(real, imaginary, strict=True))


def transpose(f: Function, rows: list[Value]) -> list[Value]:
    """Transpose a square of lanes by exchanging ever larger halves."""
    lanes = len(rows)
    rows = list(rows)
    width = 1
    while width < lanes:
        # lane l takes from the upper row where bit ``width`` of l is set in the upper result, and so on
        low = [lane if not lane & width else lanes + lane - width for lane in range(lanes)]
        high = [lane + width if not lane & width else lanes + lane for lane in range(lanes)]
        for row in range(lanes):
            if not row & width:
                a, b = rows[row], rows[row + width]
                rows[row], rows[row + width] = f.shuffle(a, b, low), f.shuffle(a, b, high)
        width *= 2
    return rows
