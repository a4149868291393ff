"""The circuit that brings packed blocks back: one look-up for every block.

A packed block carries its value times 4 (the message modulus), so that each value has four boxes of the table, two on
either side of it. Half a box is added first, since the edges of boxes lie between values. Knows nothing of keys.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from coproc.circuits.circuit import Circuit, Level, LinearForms, LookUpTable

_HALF_STEPS: Final = 2
_TABLE: Final = LookUpTable(tuple(_HALF_STEPS * ((box + 1) // 4 % 4) for box in range(16)))


def unpacking_circuit(blocks: int) -> Circuit:
    """Make the circuit of one level from ``blocks`` packed blocks to as many fresh ones."""
    wires = np.arange(2 * blocks, dtype=np.int32)
    ones, table = np.ones(blocks, dtype=np.int64), np.zeros(blocks, dtype=np.int32)
    offsets = np.arange(blocks + 1, dtype=np.int32)
    packed, made = wires[:blocks], wires[blocks:]
    level = Level(LinearForms(offsets, packed, ones, ones), packed, table, made)
    return Circuit(blocks, 2 * blocks, (_TABLE,), (level,), LinearForms(offsets, made, ones, np.zeros_like(ones)))
