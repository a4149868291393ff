"""How a transform of a given size is laid out over vector lanes.

Decides which levels of the transform share a pass over memory and in which order tables and keys are stored. None of
this changes any element's operations, so none of it changes results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.executors.twiddles import twiddle_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINE: Final = 8
"""Doubles in a cache line."""
HALF_PAGE: Final = 256
"""Doubles in half a page of 4096 bytes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A polynomial size and a number of lanes.

    The transform has ``log2(N/2)`` levels. All but the last ``log2(lanes)`` combine whole vectors; the last ones
    combine lanes of one vector and run on transposed blocks of ``lanes * lanes`` elements, called groups. Where the
    passes do not come out even, the last level of whole vectors runs inside the groups, on pairs of neighbouring rows.

    A part of the transposition costs next to nothing: halves of vectors, called pieces, are stored or loaded where
    their columns will be rows. Inside a group the exchange of lanes within pieces is left.

    Eight lanes come with 32 registers. A column of eight complex vectors fills half of them, and the pass before the
    groups stores pieces. Fewer lanes have 16, for columns of four, and with four lanes groups load pieces: levels of
    whole vectors, transposition and levels inside vectors in one go would make chains of steps too long to overlap.

    In memory the real parts of a vector's lanes are followed by their imaginary parts. Mask and body lie apart by an
    odd number of half pages: a processor that compares only the lower 12 bits of addresses would else take a load from
    one for a load of what was just stored to the other.
    """

    polynomial_size: int
    lanes: int

    @property
    def half(self) -> int:
        """Complex points, ``N/2``."""
        return self.polynomial_size // 2

    @property
    def levels(self) -> int:
        """Levels of butterflies."""
        return self.half.bit_length() - 1

    @property
    def lane_levels(self) -> int:
        """Levels inside vectors."""
        return self.lanes.bit_length() - 1

    @property
    def row_levels(self) -> int:
        """Levels of whole vectors inside groups."""
        return 0 if self.lanes == 4 else 1

    @property
    def whole_groups(self) -> bool:
        """Whether a group is transformed, multiplied and transformed back in one go."""
        return self.lanes == 8

    @property
    def groups(self) -> int:
        """Blocks of ``lanes`` vectors."""
        return self.half // (self.lanes * self.lanes)

    @property
    def passes(self) -> tuple[int, ...]:
        """Levels of each pass over the whole array before the groups.

        A pass of ``p`` levels holds columns of ``2^p`` complex vectors.
        """
        left = self.levels - self.lane_levels - self.row_levels
        widest = 3 if self.lanes == 8 else 2
        count = -(-left // widest)
        return tuple(left // count + (number < left % count) for number in range(count))

    def distance(self, number: int) -> int:
        """Elements from one vector of a column to the next in pass ``number``."""
        return self.half >> sum(self.passes[: number + 1])

    def columns(self, number: int) -> int:
        """Columns of pass ``number`` over the whole array."""
        return (self.half // self.lanes) >> self.passes[number]

    @property
    def pieces(self) -> int:
        """Parts in which the pass before the groups stores a vector."""
        return 2 if self.lanes > 2 else 1

    @property
    def piece_lanes(self) -> int:
        """Lanes of a piece."""
        return self.lanes // self.pieces

    @property
    def spectrum_words(self) -> int:
        """Doubles from one spectrum to the next in a workspace."""
        return self.polynomial_size + HALF_PAGE

    @property
    def workspace_words(self) -> int:
        """Doubles of memory for mask, body, and the digits of one of them."""
        return 2 * self.spectrum_words + self.polynomial_size // 2

    def twiddles(self) -> NDArray[np.float64]:
        """Return the table that the kernel reads.

        First ``N/2`` complex numbers, interleaved, in the order of ``twiddle_table``; then for every group vectors of
        real and imaginary parts: one pair for the level of neighbouring rows where groups have one, and for the levels
        inside vectors one pair for every even block: one for the first level, one for the second, two for the third.
        """
        table = twiddle_table()[: self.half]
        lanes = np.arange(self.lanes)
        vectors: list[NDArray[np.float64]] = []
        for group in range(self.groups):
            if self.row_levels:
                blocks = (group * self.pieces + lanes // self.piece_lanes) * (self.piece_lanes // 2)
                vectors.extend(table[(1 << (self.levels - self.lane_levels - 1)) + blocks].T)
            for depth in range(self.lane_levels):
                level = self.levels - self.lane_levels + depth
                blocks = (group * self.lanes + lanes) << depth
                for even in range(0, 1 << depth, 2):
                    vectors.extend(table[(1 << level) + blocks + even].T)
        return np.concatenate([table.ravel(), *vectors])

    @property
    def group_twiddles(self) -> int:
        """Words of the table for one group."""
        return 2 * self.lanes * (self.row_levels + self.lanes // 2)

    @property
    def lane_table(self) -> int:
        """Where the vectors of the groups start in ``twiddles``, in words."""
        return 2 * self.half
