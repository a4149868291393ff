"""Emit the canonical transform: butterflies, passes over memory, and the groups that end in lanes.

Decides how the operations of ``ARITHMETIC.md`` are scheduled onto vectors. It knows nothing of keys or ciphertexts.

Arrays hold the real parts of a vector's lanes, then their imaginary parts, then the next vector. Inside a group the
order of the spectrum is transposed, which nobody sees: keys are transformed by the same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from coproc.executors.cpu.emitter import DOUBLE, Value, floating, integer, vector
from coproc.executors.cpu.shape import LINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.executors.cpu.emitter import Function
    from coproc.executors.cpu.machine import Machine
    from coproc.executors.cpu.shape import Shape

Complex: TypeAlias = tuple[Value, Value]


def butterfly(f: Function, x: list[Complex], low: int, high: int, twiddle: Complex, *, odd: bool, fused: int) -> None:
    """Replace ``(a, b)`` by ``(a + w*b, a - w*b)``, where ``w`` is the twiddle, times ``i`` in an odd block.

    The sum takes two fused steps per part; the difference is ``2*a`` minus the sum, rounded once: in one step for
    ``fused`` of the two parts, else in two, of which the doubling is exact.
    """
    (a_re, a_im), (b_re, b_im), (w_re, w_im) = x[low], x[high], twiddle
    if odd:
        p_re = f.fnma(w_re, b_im, f.fnma(w_im, b_re, a_re))
        p_im = f.fma(w_re, b_re, f.fnma(w_im, b_im, a_im))
    else:
        p_re = f.fnma(w_im, b_im, f.fma(w_re, b_re, a_re))
        p_im = f.fma(w_im, b_re, f.fma(w_re, b_im, a_im))
    x[low] = (p_re, p_im)
    x[high] = _twice_less(f, a_re, p_re, fused=fused > 0), _twice_less(f, a_im, p_im, fused=fused > 1)


def _twice_less(f: Function, a: Value, p: Value, *, fused: bool) -> Value:
    """Return ``2*a - p``, rounded once."""
    return f.fma(a, floating(2.0, a.type), f.fneg(p)) if fused else f.fsub(f.fadd(a, a), p)


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


class TransformEmitter:
    """Emits parts of the transform of one shape into functions."""

    def __init__(self, shape: Shape, machine: Machine) -> None:
        self.shape = shape
        self.machine = machine
        self.real = vector(shape.lanes, DOUBLE)
        self._align = 8 * shape.lanes

    def network(self, f: Function, x: list[Complex], twiddles: list[list[Complex]], *, inverse: bool) -> None:
        """Run consecutive levels on values in registers; ``twiddles[level]`` has one entry for every even block."""
        for level in reversed(range(len(twiddles))) if inverse else range(len(twiddles)):
            distance = len(x) >> (level + 1)
            for block in range(1 << level):
                for low in range(2 * distance * block, 2 * distance * block + distance):
                    twiddle, odd = twiddles[level][block // 2], block % 2 == 1
                    self._step(f, x, low, low + distance, twiddle, inverse=inverse, odd=odd)

    def _step(
        self, f: Function, x: list[Complex], low: int, high: int, twiddle: Complex, *, inverse: bool, odd: bool = False
    ) -> None:
        if inverse:
            inverse_butterfly(f, x, low, high, twiddle, odd=odd)
        else:
            butterfly(f, x, low, high, twiddle, odd=odd, fused=self.machine.fused_doublings)

    def load(self, f: Function, pointer: Value, index: Value | int) -> Value:
        """Load an aligned vector at a word index."""
        return f.load(f.element(pointer, DOUBLE, index), self.real, align=self._align)

    def store(self, f: Function, value: Value, pointer: Value, index: Value | int) -> None:
        """Store an aligned vector at a word index."""
        f.store(value, f.element(pointer, DOUBLE, index), align=self._align)

    def load_complex(self, f: Function, data: Value, index: Value | int) -> Complex:
        """Load real and imaginary parts of the elements from an index on."""
        place = self._place(f, data, index)
        return self.load(f, place, 0), self.load(f, place, self.shape.lanes)

    def store_complex(self, f: Function, value: Complex, data: Value, index: Value | int) -> None:
        """Store real and imaginary parts of the elements from an index on."""
        place = self._place(f, data, index)
        self.store(f, value[0], place, 0)
        self.store(f, value[1], place, self.shape.lanes)

    @staticmethod
    def _place(f: Function, data: Value, index: Value | int) -> Value:
        return f.element(data, DOUBLE, 2 * index if isinstance(index, int) else f.shl(index, 1))

    def group(self, f: Function, data: Value, group: Value) -> Value:
        """Return the address of a group."""
        return f.element(data, DOUBLE, f.mul(group, 2 * self.shape.lanes * self.shape.lanes))

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
        part: Value | None = None,
        source: Callable[[Value], Complex] | None = None,
        between: Callable[[Value], None] | None = None,
    ) -> None:
        """Emit pass ``number`` over the array, or only over the block ``part`` of those that the first pass leaves.

        ``between(column)`` is emitted before each column, counted through the blocks.
        ``source(index)`` gives the elements in place of the array. The last forward pass stores the pieces of its
        vectors where ``load_group`` finds them, unless groups gather them.
        """
        shape = self.shape
        level, depth, distance = sum(shape.passes[:number]), shape.passes[number], shape.distance(number)
        scatters = not inverse and number == len(shape.passes) - 1 and shape.row_levels > 0

        def on_block(block: Value, number_in_part: Value) -> None:
            twiddles = self.block_twiddles(f, table, level, block, depth)
            inside = f.element(data, DOUBLE, f.mul(block, 2 * distance << depth))

            def on_column(column: Value) -> None:
                if between is not None:
                    first = f.mul(number_in_part, distance // shape.lanes)
                    between(f.add(first, f.lshr(column, shape.lane_levels)))
                places = [f.add(column, distance * k) for k in range(1 << depth)]
                if number == 0:
                    self._prefetch(f, inside, [f.add(place, shape.lanes) for place in places])
                x = [self.load_complex(f, inside, place) if source is None else source(place) for place in places]
                self.network(f, x, twiddles, inverse=inverse)
                for k, value in enumerate(x):
                    if scatters:
                        group, row = divmod(distance * k // shape.lanes, shape.lanes)
                        base = self._place(f, inside, f.add(column, group * shape.lanes * shape.lanes))
                        self._scatter(f, value, base, row)
                    else:
                        self.store_complex(f, value, inside, places[k])

            f.loop(distance, on_column, step=shape.lanes)

        if part is None:
            f.loop(1 << level, lambda block: on_block(block, block))
        else:
            inner = level - shape.passes[0]
            f.loop(1 << inner, lambda block: on_block(f.add(f.shl(part, inner), block), block))

    def run_last_pass(
        self,
        f: Function,
        data: Value,
        table: Value,
        *,
        park: Callable[[Value, Complex], None],
        finish: Callable[[Value, Complex], None],
        between: Callable[[Value], None] | None = None,
    ) -> None:
        """Emit the inverse of the first pass, by two columns that lie side by side.

        What becomes of the array's elements from an index on is ``park(index, elements)`` in the first column of two,
        and ``finish(index, elements)`` in the second.
        """
        shape = self.shape
        distance = shape.distance(0)
        twiddles = self.block_twiddles(f, table, 0, integer(0), shape.passes[0])

        def on_column(column: Value, store: Callable[[Value, Complex], None]) -> None:
            if between is not None:
                between(f.lshr(column, shape.lane_levels))
            places = [f.add(column, distance * k) for k in range(1 << shape.passes[0])]
            self._prefetch(f, data, [f.add(place, 2 * shape.lanes) for place in places])
            x = [self.load_complex(f, data, place) for place in places]
            self.network(f, x, twiddles, inverse=True)
            for place, value in zip(places, x, strict=True):
                store(place, value)

        def on_pair(column: Value) -> None:
            on_column(column, park)
            f.reload()
            on_column(f.add(column, shape.lanes), finish)

        f.loop(distance, on_pair, step=2 * shape.lanes)

    def _prefetch(self, f: Function, data: Value, places: list[Value]) -> None:
        """Bring vectors near: those of a column are too far apart for the processor to foresee the next."""
        for place in places:
            for line in range(0, 2 * self.shape.lanes, LINE):
                f.prefetch(f.element(self._place(f, data, place), DOUBLE, line), cache=1)

    def run_later_passes(
        self,
        f: Function,
        data: Value,
        table: Value,
        part: Value,
        *,
        inverse: bool,
        between: Callable[[Value], None] | None = None,
    ) -> None:
        """Emit all passes but the first over the block ``part``; ``between`` counts the columns of all of them."""
        numbers = range(1, len(self.shape.passes))
        done = 0
        for number in reversed(numbers) if inverse else numbers:
            hook = None if between is None else _counted_from(f, done, between)
            self.run_pass(f, data, table, number, inverse=inverse, part=part, between=hook)
            done += self.shape.columns(number) >> self.shape.passes[0]

    def _scatter(self, f: Function, value: Complex, base: Value, row: int) -> None:
        """Store the pieces of one row, counted from ``base``, where they are exchanged with the pieces of other rows.

        The piece number and the upper part of the row number change places, which is its own inverse.
        """
        for part, places in zip(value, self._pieces(f, base, row), strict=True):
            for piece, place in enumerate(places):
                first = self.shape.piece_lanes * piece
                lanes = f.shuffle(part, part, range(first, first + self.shape.piece_lanes))
                f.store(lanes, place, align=8 * self.shape.piece_lanes)

    def _pieces(self, f: Function, base: Value, row: int) -> tuple[list[Value], list[Value]]:
        """Return where the pieces of one row are in other rows: those of its real and of its imaginary part."""
        shape = self.shape
        upper, lower = divmod(row, shape.piece_lanes)
        rows = [
            self._place(f, base, (piece * shape.piece_lanes + lower) * shape.lanes) for piece in range(shape.pieces)
        ]
        real, imaginary = (
            [f.element(place, DOUBLE, first + upper * shape.piece_lanes) for place in rows]
            for first in (0, shape.lanes)
        )
        return real, imaginary

    def load_group(self, f: Function, data: Value, group: Value) -> list[Complex]:
        """Load the vectors of one group."""
        base = self.group(f, data, group)
        return [self.load_complex(f, base, self.shape.lanes * row) for row in range(self.shape.lanes)]

    def gather_group(self, f: Function, data: Value, group: Value) -> list[Complex]:
        """Load the vectors of one group for ``forward``."""
        shape = self.shape
        if shape.row_levels:
            return self.load_group(f, data, group)
        base = self.group(f, data, group)
        half = vector(shape.piece_lanes, DOUBLE)

        def gathered(places: list[Value]) -> Value:
            low, high = (f.load(place, half, align=8 * shape.piece_lanes) for place in places)
            return f.shuffle(low, high, range(shape.lanes))

        x: list[Complex] = []
        for row in range(shape.lanes):
            real, imaginary = self._pieces(f, base, row)
            x.append((gathered(real), gathered(imaginary)))
        return x

    def store_group(self, f: Function, x: list[Complex], data: Value, group: Value) -> None:
        """Store the spectrum of one group."""
        base = self.group(f, data, group)
        for row, value in enumerate(x):
            self.store_complex(f, value, base, self.shape.lanes * row)

    def scatter_group(self, f: Function, x: list[Complex], data: Value, group: Value) -> None:
        """Store the vectors of one group after ``backward``, for the inverse passes to load."""
        base = self.group(f, data, group)
        for row, value in enumerate(x):
            self._scatter(f, value, base, row)

    def forward(self, f: Function, x: list[Complex], table: Value, group: Value) -> list[Complex]:
        """Run the last levels on the vectors of one group; the result is its spectrum, transposed.

        Shuffles have one port where arithmetic has two, so each stands as near to arithmetic as it can.
        """
        across, inside = self._group_twiddles(f, table, group)
        x, square = list(x), self.shape.piece_lanes
        for start in range(0, len(x), square):
            for row in range(start, start + square, 2):
                if across is not None:
                    self._step(f, x, row, row + 1, across, inverse=False, odd=(row - start) % 4 == 2)
                self._exchange(f, x, row, 1)
            self._exchange_rest(f, x, start)
        self.network(f, x, inside, inverse=False)
        return x

    def backward(self, f: Function, x: list[Complex], table: Value, group: Value) -> list[Complex]:
        """Undo ``forward``."""
        across, inside = self._group_twiddles(f, table, group)
        x, square = list(x), self.shape.piece_lanes
        self.network(f, x, inside, inverse=True)
        for start in range(0, len(x), square):
            self._exchange_rest(f, x, start)
            for row in range(start, start + square, 2):
                self._exchange(f, x, row, 1)
                if across is not None:
                    self._step(f, x, row, row + 1, across, inverse=True, odd=(row - start) % 4 == 2)
        return x

    def _group_twiddles(self, f: Function, table: Value, group: Value) -> tuple[Complex | None, list[list[Complex]]]:
        """Load the twiddles of the level across rows, if there is one, and of those inside vectors."""
        shape = self.shape
        start = f.add(f.mul(group, shape.group_twiddles), shape.lane_table)
        taken = 0

        def take() -> Complex:
            nonlocal taken
            real = self.load(f, table, f.add(start, taken))
            imaginary = self.load(f, table, f.add(start, taken + shape.lanes))
            taken += 2 * shape.lanes
            return real, imaginary

        across = take() if shape.row_levels else None
        return across, [[take() for _ in range(0, 1 << below, 2)] for below in range(shape.lane_levels)]

    def _exchange_rest(self, f: Function, x: list[Complex], start: int) -> None:
        """Transpose a square of rows and a piece's lanes, but for the exchange of neighbours."""
        width = 2
        while width < self.shape.piece_lanes:
            for row in range(start, start + self.shape.piece_lanes):
                if not row & width:
                    self._exchange(f, x, row, width)
            width *= 2

    def _exchange(self, f: Function, x: list[Complex], row: int, width: int) -> None:
        """Exchange lanes between a row and the one ``width`` below, where lane and row numbers differ in that bit."""
        lanes = self.shape.lanes
        low = [lane if not lane & width else lanes + lane - width for lane in range(lanes)]
        high = [lane + width if not lane & width else lanes + lane for lane in range(lanes)]
        a, b = x[row], x[row + width]
        x[row] = f.shuffle(a[0], b[0], low), f.shuffle(a[1], b[1], low)
        x[row + width] = f.shuffle(a[0], b[0], high), f.shuffle(a[1], b[1], high)


def _counted_from(f: Function, first: int, hook: Callable[[Value], None]) -> Callable[[Value], None]:
    """Return ``hook`` for columns that are counted from ``first`` on."""

    def counted(column: Value) -> None:
        hook(f.add(column, first))

    return counted
