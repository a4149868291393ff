"""How a transform of a given size is laid out over vector lanes.

Decides which levels of the transform share a pass over memory and in which order tables and keys are stored. None of
this changes any element's operations, so none of it changes results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coproc.executors.twiddles import twiddle_table

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Shape:
    """A polynomial size and a number of lanes.

    The transform has ``log2(N/2)`` levels. All but the last ``log2(lanes)`` combine whole vectors; the last ones
    combine lanes of one vector and run on transposed blocks of ``lanes * lanes`` elements, called groups.
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
    def groups(self) -> int:
        """Blocks of ``lanes`` vectors."""
        return self.half // (self.lanes * self.lanes)

    @property
    def passes(self) -> tuple[int, ...]:
        """Levels of each pass over the whole array before the groups; a pass of ``p`` levels holds ``2^p`` vectors."""
        left = self.levels - 2 * self.lane_levels
        widest = 3 if self.lanes == 8 else 2
        passes: list[int] = []
        while left > 0:
            passes.append(widest)
            left -= widest
        return tuple(passes)

    @property
    def group_levels(self) -> int:
        """Levels of whole vectors that run inside a group."""
        return self.levels - self.lane_levels - sum(self.passes)

    @property
    def lane_vectors(self) -> int:
        """Twiddle vectors of a group: real and imaginary part of every even block of the lane levels, ``lanes``."""
        return 2 * max(1, self.lanes // 2)

    def twiddles(self) -> NDArray[np.float64]:
        """Return the table that the kernel reads.

        First ``N/2`` complex numbers, interleaved, in the order of ``twiddle_table``; then for every group the twiddle
        vectors of the lane levels: one for the first level, one for the second, two for the third.
        """
        table = twiddle_table()[: self.half]
        lanes = np.arange(self.lanes)
        vectors: list[NDArray[np.float64]] = []
        for group in range(self.groups):
            for depth in range(self.lane_levels):
                level = self.levels - self.lane_levels + depth
                blocks = (group * self.lanes + lanes) << depth
                for even in range(0, 1 << depth, 2):
                    vectors.extend(table[(1 << level) + blocks + even].T)
        return np.concatenate([table.ravel(), *vectors])

    @property
    def lane_table(self) -> int:
        """Where the vectors of the lane levels start in ``twiddles``, in words."""
        return 2 * self.half
