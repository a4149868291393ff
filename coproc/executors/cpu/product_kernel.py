"""Emit the product of two spectra with one row pair of the key, and the passes around it that stay in a block.

Decides the order of work in the first-level cache: a block that the first pass leaves, and its part of the key, stay
there meanwhile. The operations on each element follow ``ARITHMETIC.md``. It knows nothing of accumulators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.executors.cpu.emitter import DOUBLE
from coproc.executors.cpu.shape import LINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.executors.cpu.emitter import Function, Value
    from coproc.executors.cpu.transform import Complex, TransformEmitter

POLYNOMIALS: Final = 2
"""Polynomials of a GLWE ciphertext: ``k + 1`` with ``k = 1``."""


class ProductEmitter:
    """Emits into a function ``(mask, body, key, table, ...)``, block by block: transform, products, and back.

    ``fetch(place)`` is emitted once for every group or, for ``few`` ciphertexts, for every vector, then for every
    column of the passes.
    """

    def __init__(self, transform: TransformEmitter, f: Function, fetch: Callable[[Value], None], *, few: bool) -> None:
        self.transform = transform
        self.shape = transform.shape
        self.f = f
        self.mask, self.body, self.key, self.table = f.arguments[:4]
        self.fetch = fetch
        self.few = few

    def emit(self) -> None:
        """Emit all blocks."""
        self.f.loop(1 << self.shape.passes[0], self._on_part)

    def _on_part(self, part: Value) -> None:
        mask, body = self.mask, self.body
        self._passes(mask, part, 0, inverse=False)
        self._passes(body, part, 1, inverse=False)
        if self.shape.whole_groups:
            self._groups(part, self._whole)
        else:
            # Each stretch of the way in a loop of its own: its chains of dependent steps are short enough for a
            # processor to run those of several groups at a time.
            self._groups(
                part, lambda group: self.transform.store_group(self.f, self._forward(mask, group), mask, group)
            )
            self._groups(part, self._with_products)
            self._groups(part, lambda group: self._backward(self._spectrum(body, group), body, group))
            self._groups(part, lambda group: self._backward(self._spectrum(mask, group), mask, group))
        # the body first: its last halves were stored earlier, and are whole vectors by now
        self._passes(body, part, 2, inverse=True)
        self._passes(mask, part, 3, inverse=True)

    def _passes(self, data: Value, part: Value, number: int, *, inverse: bool) -> None:
        """Run the later passes; ``number`` of the four calls for a part."""
        f, shape = self.f, self.shape
        later = sum(shape.columns(number) for number in range(1, len(shape.passes))) >> shape.passes[0]
        first = f.add(f.mul(f.add(f.shl(part, 2), number), later), shape.half // shape.lanes)

        def between(column: Value) -> None:
            self.fetch(f.add(first, column))

        hook = between if self.few else None
        self.transform.run_later_passes(f, data, self.table, part, inverse=inverse, between=hook)

    def _groups(self, part: Value, work: Callable[[Value], None]) -> None:
        groups = self.shape.groups >> self.shape.passes[0]
        self.f.loop(groups, lambda group: work(self.f.add(self.f.mul(part, groups), group)))

    def _whole(self, group: Value) -> None:
        """Take one group all the way."""
        mask, body = self.mask, self.body
        self._mask_forward(group)
        self.f.reload()
        self._backward(self._multiplied(group), body, group)
        self.f.reload()
        self._backward(self._spectrum(mask, group), mask, group)

    def _mask_forward(self, group: Value) -> None:
        self.transform.store_group(self.f, self._forward(self.mask, group), self.mask, group)

    def _with_products(self, group: Value) -> None:
        """Take the body from the passes to products, and the mask from its spectrum."""
        self.transform.store_group(self.f, self._multiplied(group), self.body, group)

    def _spectrum(self, data: Value, group: Value) -> list[Complex]:
        return self.transform.load_group(self.f, data, group)

    def _forward(self, data: Value, group: Value) -> list[Complex]:
        x = self.transform.gather_group(self.f, data, group)
        return self.transform.forward(self.f, x, self.table, group)

    def _backward(self, x: list[Complex], data: Value, group: Value) -> None:
        self.transform.scatter_group(self.f, self.transform.backward(self.f, x, self.table, group), data, group)

    def _multiplied(self, group: Value) -> list[Complex]:
        """Transform a group of the body; replace the mask's spectrum by its products and return the body's."""
        f, lanes, transform = self.f, self.shape.lanes, self.transform
        if not self.few:
            self.fetch(group)
        x = self._forward(self.body, group)
        row_words = 4 * POLYNOMIALS * lanes
        own, keys = transform.group(f, self.mask, group), f.element(self.key, DOUBLE, f.mul(group, row_words * lanes))
        for row in range(lanes):
            if self.few:
                self.fetch(f.add(f.mul(group, lanes), row))
            at = row_words * row
            for line in range(at, at + row_words, LINE):  # of the next group
                f.prefetch(f.element(keys, DOUBLE, row_words * lanes + line), cache=1)
            inputs = [transform.load_complex(f, own, lanes * row), x[row]]
            transform.store_complex(f, self._products(inputs, keys, at), own, lanes * row)
            x[row] = self._products(inputs, keys, at + 2 * lanes)
        return x

    def _products(self, inputs: list[Complex], keys: Value, at: int) -> Complex:
        """Return the sum of the products of both inputs with one column of the key, for one vector of points."""
        f, lanes, transform = self.f, self.shape.lanes, self.transform
        total: Complex | None = None
        for number, (x_re, x_im) in enumerate(inputs):
            place = at + 2 * POLYNOMIALS * lanes * number
            k_re, k_im = transform.load(f, keys, place), transform.load(f, keys, place + lanes)
            re = f.fmul(x_re, k_re) if total is None else f.fma(x_re, k_re, total[0])
            im = f.fmul(x_re, k_im) if total is None else f.fma(x_re, k_im, total[1])
            total = f.fnma(x_im, k_im, re), f.fma(x_im, k_re, im)
        if total is None:
            raise ValueError("a product needs at least one input")
        return total
