"""Rows of device memory for ciphertexts, given out by number.

Decides which row is free; holds no memory itself. All calls come from the owner's thread.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coproc.executors.gpu.device import DeviceOutOfMemory

Rows = NDArray[np.int32]


class Slots:
    """Free rows of a slab, most recently freed first."""

    def __init__(self, rows: int) -> None:
        self._free: Rows = np.arange(rows - 1, -1, -1, dtype=np.int32)
        self._count = rows

    @property
    def free(self) -> int:
        """How many rows are free."""
        return self._count

    def take(self, count: int) -> Rows:
        """Take rows.

        Raises:
            DeviceOutOfMemory: there are not as many.
        """
        if count > self._count:
            raise DeviceOutOfMemory("the ciphertexts of this job do not fit", rows=count, free=self._count)
        self._count -= count
        return self._free[self._count : self._count + count].copy()

    def give_back(self, rows: Rows) -> None:
        """Free rows that were taken."""
        self._free[self._count : self._count + len(rows)] = rows
        self._count += len(rows)
