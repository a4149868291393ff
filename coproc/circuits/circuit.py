"""The block circuit: linear forms and look-ups over ciphertext blocks, as arrays.

Decides the data that passes between the builder (which makes circuits), the clear evaluator (which checks them), the
planner (which merges them) and the executors (which run them). It must not know operations, keys or executors.

A *wire* is one LWE ciphertext under the big key. Wires are numbered: first the circuit's inputs, then the outputs of
every bootstrap in level order. A wire carries a small integer ``v`` encoded as ``v * Delta``; one *half step* is
``Delta / 2``. A bootstrap reads one linear form of earlier wires, keyswitches and modulus-switches it, blindly rotates
an accumulator and extracts one or more output wires.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LookUpTable:
    """The accumulator of a programmable bootstrap, independent of the polynomial size.

    The accumulator has ``plaintext_modulus`` (16) boxes; box ``x`` answers inputs ``x`` in ``[0, 16)`` and, by the
    negacyclic rule, ``-values[x]`` answers ``x + 16``. Several functions of fewer input values share one bootstrap
    (many-LUT): output ``o`` is extracted ``boxes[o]`` boxes further, so it answers ``values[x + boxes[o]]``.
    """

    values: tuple[int, ...]
    """One entry a box, in half steps."""
    boxes: tuple[int, ...] = (0,)
    """Offset in boxes of each output's sample extraction."""
    offsets: tuple[int, ...] = (0,)
    """Half steps added to each output after extraction (same length as ``boxes``)."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearForms:
    """``F`` integer linear combinations of wires, in compressed sparse row layout."""

    offsets: NDArray[np.int32]
    """Shape ``(F+1,)``: terms of form ``f`` are ``offsets[f]:offsets[f+1]``."""
    sources: NDArray[np.int32]
    """Shape ``(T,)``: wire numbers."""
    coefficients: NDArray[np.int64]
    """Shape ``(T,)``."""
    constants: NDArray[np.int64]
    """Shape ``(F,)``: added plaintext in half steps."""

    @property
    def count(self) -> int:
        """Number of forms."""
        return len(self.constants)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """Every bootstrap that can run at the same time."""

    forms: LinearForms
    """The distinct inputs: bootstraps that read the same form share its keyswitch and modulus switch."""
    form: NDArray[np.int32]
    """Shape ``(P,)``: which form each bootstrap reads."""
    table: NDArray[np.int32]
    """Shape ``(P,)``: index into ``Circuit.tables``."""
    first_wire: NDArray[np.int32]
    """Shape ``(P,)``: wire of each bootstrap's first output; further outputs follow it."""

    @property
    def bootstraps(self) -> int:
        """Number of programmable bootstraps, the unit of cost."""
        return len(self.form)


@dataclass(frozen=True, slots=True, eq=False)
class Circuit:
    """A whole computation on blocks."""

    inputs: int
    """Number of input wires (each a clean nominal block: degree at most 3, noise level 1)."""
    wires: int
    """Number of all wires, inputs included."""
    tables: tuple[LookUpTable, ...]
    levels: tuple[Level, ...]
    outputs: LinearForms
    """The results, as linear forms of wires."""

    @property
    def bootstraps(self) -> int:
        """Programmable bootstraps of the whole circuit."""
        return sum(level.bootstraps for level in self.levels)

    @property
    def depth(self) -> int:
        """Rounds of bootstraps that follow one another."""
        return len(self.levels)
