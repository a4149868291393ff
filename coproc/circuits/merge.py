"""Merging: many circuits side by side become one, level by level, so that an executor sees wide levels.

Decides wire numbers only. Circuits stay independent of each other: no look-up is shared between requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coproc.circuits.circuit import Circuit, Level, LinearForms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import LookUpTable


def merge(circuits: Sequence[Circuit]) -> Circuit:
    """Put circuits side by side; inputs and outputs follow each other in the order of the circuits."""
    inputs = sum(circuit.inputs for circuit in circuits)
    first_input = np.cumsum([0] + [circuit.inputs for circuit in circuits])
    wires = [np.empty(circuit.wires, dtype=np.int64) for circuit in circuits]
    for circuit, mapping, first in zip(circuits, wires, first_input[:-1], strict=True):
        mapping[: circuit.inputs] = np.arange(first, first + circuit.inputs)
    tables: dict[LookUpTable, int] = {}
    table_maps = [
        np.array([tables.setdefault(table, len(tables)) for table in circuit.tables], dtype=np.int32)
        for circuit in circuits
    ]
    table_outputs = np.array([len(table.boxes) for table in tables], dtype=np.int64)
    count = inputs
    levels: list[Level] = []
    for depth in range(max((circuit.depth for circuit in circuits), default=0)):
        parts: list[Level] = []
        first_form = 0
        for circuit, mapping, table_map in zip(circuits, wires, table_maps, strict=True):
            if depth >= circuit.depth:
                continue
            level = circuit.levels[depth]
            table = table_map[level.table]
            outputs = table_outputs[table]
            starts = np.cumsum(outputs) - outputs
            within = np.arange(int(outputs.sum())) - np.repeat(starts, outputs)
            mapping[np.repeat(level.first_wire, outputs) + within] = count + np.arange(int(outputs.sum()))
            parts.append(
                Level(
                    forms=_renumber(level.forms, mapping),
                    form=level.form + np.int32(first_form),
                    table=table,
                    first_wire=(count + starts).astype(np.int32),
                )
            )
            first_form += level.forms.count
            count += int(outputs.sum())
        levels.append(
            Level(
                forms=_concatenate([part.forms for part in parts]),
                form=np.concatenate([part.form for part in parts]),
                table=np.concatenate([part.table for part in parts]),
                first_wire=np.concatenate([part.first_wire for part in parts]),
            )
        )
    outputs_of = [_renumber(circuit.outputs, mapping) for circuit, mapping in zip(circuits, wires, strict=True)]
    return Circuit(inputs, count, tuple(tables), tuple(levels), _concatenate(outputs_of))


def _renumber(forms: LinearForms, mapping: NDArray[np.int64]) -> LinearForms:
    return LinearForms(forms.offsets, mapping[forms.sources].astype(np.int32), forms.coefficients, forms.constants)


def _concatenate(parts: Sequence[LinearForms]) -> LinearForms:
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return LinearForms(np.zeros(1, dtype=np.int32), empty.astype(np.int32), empty, empty)
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return LinearForms(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        sources=np.concatenate([part.sources for part in parts]),
        coefficients=np.concatenate([part.coefficients for part in parts]),
        constants=np.concatenate([part.constants for part in parts]),
    )
