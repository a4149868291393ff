"""Ciphertext blocks in memory, so that a value that was just computed or used is not read again.

Decides what is kept: the most recently used, up to a number of bytes. A handle never changes its value, so that
nothing here is ever out of date.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from coproc.program.types import Handle


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A ciphertext ready to be computed on."""

    key_id: bytes
    blocks: NDArray[np.uint64]
    """Shape ``(blocks, k*N+1)``, the least significant first."""
    clear: int | None
    """The value, where everybody knows it."""


class ValueCache:
    """Values by handle, the least recently used dropped first."""

    def __init__(self, capacity: int) -> None:
        """Keep up to ``capacity`` bytes of blocks."""
        self._capacity = capacity
        self._values: OrderedDict[Handle, Value] = OrderedDict()
        self._bytes = 0
        self.hits = 0
        self.misses = 0

    def find(self, handles: Iterable[Handle], key_id: bytes, *, counted: bool = True) -> dict[Handle, Value]:
        """Return those of ``handles`` that are here under this key.

        ``counted`` says whether what is not here has to be read from the store: what is computed is no miss.
        """
        found: dict[Handle, Value] = {}
        asked = 0
        for handle in handles:
            asked += 1
            value = self._values.get(handle)
            if value is not None and value.key_id == key_id:
                self._values.move_to_end(handle)
                found[handle] = value
        if counted:
            self.hits += len(found)
            self.misses += asked - len(found)
        return found

    def add(self, values: Mapping[Handle, Value]) -> None:
        """Keep values, making room. What does not fit by itself is left out, and harms nothing else."""
        for handle, value in values.items():
            if value.blocks.nbytes > self._capacity:
                continue
            if (old := self._values.pop(handle, None)) is not None:
                self._bytes -= old.blocks.nbytes
            self._values[handle] = value
            self._bytes += value.blocks.nbytes
        while self._bytes > self._capacity:
            _, dropped = self._values.popitem(last=False)
            self._bytes -= dropped.blocks.nbytes

    @property
    def size(self) -> int:
        """Bytes of blocks kept."""
        return self._bytes
