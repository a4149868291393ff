"""The circuit that takes compact ciphertexts apart: one look-up for every block.

Decides the tables, which are those of TFHE-rs: a ciphertext of a packed list holds two blocks (the even one, plus 4
times the odd one), a boolean asks whether its block is not 0. Every block is looked up, packed or not, since that is
also what cleans up the noise of the public key. Knows nothing of keys: the ciphertexts may be under the compact key or
under the compute key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.circuits.circuit import Circuit, Level, LinearForms, LookUpTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

ODD: Final = 1
"""Added to the table number of the odd block of a packed pair."""
BOOLEAN: Final = 2
"""Added to the table number of a boolean."""

_HALF_STEPS: Final = 2
_LOW: Final = [value % 4 for value in range(16)]
_HIGH: Final = [value // 4 for value in range(16)]


def _table(values: list[int]) -> LookUpTable:
    return LookUpTable(tuple(_HALF_STEPS * value for value in values))


TABLES: Final = (
    _table(_LOW),
    _table(_HIGH),
    _table([min(value, 1) for value in _LOW]),
    _table([min(value, 1) for value in _HIGH]),
)
"""By table number: a sum of ``ODD`` and ``BOOLEAN``."""


def casting_circuit(ciphertexts: int, source: NDArray[np.int32], table: NDArray[np.int32]) -> Circuit:
    """Make the circuit of one level that yields a list of blocks.

    Args:
        ciphertexts: number of input wires; both look-ups of a pair share the keyswitch of theirs.
        source: shape ``(P,)``, the input wire of every block.
        table: shape ``(P,)``, its table number.
    """
    forms = _wires(np.arange(ciphertexts, dtype=np.int32))
    made = np.arange(ciphertexts, ciphertexts + len(source), dtype=np.int32)
    level = Level(forms, source.astype(np.int32), table.astype(np.int32), made)
    return Circuit(ciphertexts, ciphertexts + len(source), TABLES, (level,), _wires(made))


def _wires(wires: NDArray[np.int32]) -> LinearForms:
    """Make the forms that are single wires."""
    count = len(wires)
    return LinearForms(
        np.arange(count + 1, dtype=np.int32), wires, np.ones(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    )
