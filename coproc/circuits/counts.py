"""What a circuit costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coproc.circuits.circuit import Circuit


@dataclass(frozen=True, slots=True)
class Counts:
    """Exact costs; they do not depend on the machine."""

    bootstraps: int
    depth: int
    keyswitches: int
    """Fewer than bootstraps where several look-ups read one form."""


def count(circuit: Circuit) -> Counts:
    """Count bootstraps, rounds and keyswitches."""
    return Counts(circuit.bootstraps, circuit.depth, sum(level.forms.count for level in circuit.levels))
