"""Merging: many circuits side by side become one, level by level, so that an executor sees wide levels.

Decides wire numbers only. Circuits stay independent of each other: no look-up is shared between requests. Copies of one
circuit (the same object, as a cache gives them out) are renumbered together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coproc.circuits.circuit import Circuit, Level, LinearForms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import LookUpTable


@dataclass(frozen=True, slots=True, eq=False)
class _Copies:
    """All copies of one circuit."""

    circuit: Circuit
    places: NDArray[np.int64]
    """Shape ``(M,)``: which of the circuits to merge they are."""
    wires: NDArray[np.int64]
    """Shape ``(M, wires)``: new number of every wire of every copy, filled in level by level."""
    tables: NDArray[np.int32]
    """New number of every table."""
    outputs: NDArray[np.int64]
    """Number of outputs of every table."""


def merge(circuits: Sequence[Circuit]) -> Circuit:
    """Put circuits side by side; inputs and outputs follow each other in the order of the circuits."""
    first_input = _starts([circuit.inputs for circuit in circuits])
    tables: dict[LookUpTable, int] = {}
    groups = [_copies(circuits, places, first_input, tables) for places in _places_of_equals(circuits)]
    count = int(first_input[-1])
    levels: list[Level] = []
    for depth in range(max((circuit.depth for circuit in circuits), default=0)):
        parts: list[Level] = []
        first_form = 0
        for group in groups:
            if depth < group.circuit.depth:
                part, count = _renumber_level(group, depth, first_form, count)
                first_form += part.forms.count
                parts.append(part)
        levels.append(
            Level(
                forms=_concatenate([part.forms for part in parts]),
                form=np.concatenate([part.form for part in parts]),
                table=np.concatenate([part.table for part in parts]),
                first_wire=np.concatenate([part.first_wire for part in parts]),
            )
        )
    return Circuit(int(first_input[-1]), count, tuple(tables), tuple(levels), _outputs(circuits, groups))


def _places_of_equals(circuits: Sequence[Circuit]) -> list[list[int]]:
    places: dict[int, list[int]] = {}
    for place, circuit in enumerate(circuits):
        places.setdefault(id(circuit), []).append(place)
    return list(places.values())


def _copies(
    circuits: Sequence[Circuit], places: list[int], first_input: NDArray[np.int64], tables: dict[LookUpTable, int]
) -> _Copies:
    circuit = circuits[places[0]]
    wires = np.empty((len(places), circuit.wires), dtype=np.int64)
    wires[:, : circuit.inputs] = first_input[places][:, np.newaxis] + np.arange(circuit.inputs)
    return _Copies(
        circuit=circuit,
        places=np.array(places, dtype=np.int64),
        wires=wires,
        tables=np.array([tables.setdefault(table, len(tables)) for table in circuit.tables], dtype=np.int32),
        outputs=np.array([len(table.boxes) for table in circuit.tables], dtype=np.int64),
    )


def _renumber_level(group: _Copies, depth: int, first_form: int, first_wire: int) -> tuple[Level, int]:
    """Repeat a level for every copy; returns the next free wire too."""
    level = group.circuit.levels[depth]
    copies = np.arange(len(group.places))[:, np.newaxis]
    outputs = group.outputs[level.table]
    starts = np.cumsum(outputs) - outputs
    made = int(outputs.sum())
    within = np.arange(made) - np.repeat(starts, outputs)
    group.wires[:, np.repeat(level.first_wire, outputs) + within] = first_wire + made * copies + np.arange(made)
    renumbered = Level(
        forms=_repeat(level.forms, group.wires),
        form=(first_form + level.forms.count * copies + level.form).ravel().astype(np.int32),
        table=np.tile(group.tables[level.table], len(group.places)),
        first_wire=(first_wire + made * copies + starts).ravel().astype(np.int32),
    )
    return renumbered, first_wire + made * len(group.places)


def _repeat(forms: LinearForms, wires: NDArray[np.int64]) -> LinearForms:
    """Write forms once for every row of new wire numbers."""
    copies = len(wires)
    lengths = np.tile(np.diff(forms.offsets), copies)
    return LinearForms(
        offsets=_starts(lengths).astype(np.int32),
        sources=wires[:, forms.sources].ravel().astype(np.int32),
        coefficients=np.tile(forms.coefficients, copies),
        constants=np.tile(forms.constants, copies),
    )


def _outputs(circuits: Sequence[Circuit], groups: Sequence[_Copies]) -> LinearForms:
    """Write every copy's outputs to its place."""
    first_form = _starts([circuit.outputs.count for circuit in circuits])
    first_term = _starts([len(circuit.outputs.sources) for circuit in circuits])
    lengths = np.empty(int(first_form[-1]), dtype=np.int64)
    constants = np.empty(int(first_form[-1]), dtype=np.int64)
    sources = np.empty(int(first_term[-1]), dtype=np.int32)
    coefficients = np.empty(int(first_term[-1]), dtype=np.int64)
    for group in groups:
        forms = group.circuit.outputs
        at_form = first_form[group.places][:, np.newaxis] + np.arange(forms.count)
        at_term = first_term[group.places][:, np.newaxis] + np.arange(len(forms.sources))
        lengths[at_form] = np.diff(forms.offsets)
        constants[at_form] = forms.constants
        sources[at_term] = group.wires[:, forms.sources]
        coefficients[at_term] = forms.coefficients
    return LinearForms(_starts(lengths).astype(np.int32), sources, coefficients, constants)


def _starts(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of some runs starts, and where the last ends."""
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
    return np.concatenate([np.zeros(1, dtype=np.int64), ends])


def _concatenate(parts: Sequence[LinearForms]) -> LinearForms:
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return LinearForms(
        offsets=_starts(lengths).astype(np.int32),
        sources=np.concatenate([part.sources for part in parts]),
        coefficients=np.concatenate([part.coefficients for part in parts]),
        constants=np.concatenate([part.constants for part in parts]),
    )
