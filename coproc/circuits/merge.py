"""Merging: many circuits side by side become one, level by level, so that an executor sees wide levels.

Decides numbers of wires, forms and tables only. Circuits stay independent of each other: no look-up is shared between
requests. Copies of one circuit (the same object, as a cache gives them out) are renumbered together, and all levels at
once: in the merged circuit, the things of a level (forms, terms, look-ups, wires) lie level by level, within a level
circuit by circuit, and within a circuit copy by copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.circuits.circuit import Circuit, Level, LinearForms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import LookUpTable

FORMS: Final = 0
TERMS: Final = 1
LOOK_UPS: Final = 2
WIRES: Final = 3
"""Rows of what is counted in every level."""


@dataclass(frozen=True, slots=True, eq=False)
class _Copies:
    """All copies of one circuit, and the arrays of its levels one after the other."""

    circuit: Circuit
    places: NDArray[np.int64]
    """Shape ``(M,)``: which of the circuits to merge they are."""
    counts: NDArray[np.int64]
    """Shape ``(4, D)``: forms, terms, look-ups and wires of every level of one copy, 0 beyond its depth."""
    lengths: NDArray[np.int64]
    """Terms of every form."""
    table: NDArray[np.int32]
    """Table of every look-up."""
    made: NDArray[np.int64]
    """Wires that look-ups make, in the order of the look-ups."""


def merge(circuits: Sequence[Circuit]) -> Circuit:
    """Put circuits side by side; inputs and outputs follow each other in the order of the circuits."""
    if len(circuits) == 1:
        return circuits[0]
    first_input = _starts([circuit.inputs for circuit in circuits])
    inputs = int(first_input[-1])
    depth = max((circuit.depth for circuit in circuits), default=0)
    groups = [_copies(circuits, places, depth) for places in _places_of_equals(circuits)]
    if not groups:
        return Circuit(0, 0, (), (), _outputs((), (), ()))
    tables: dict[LookUpTable, int] = {}
    totals = np.stack([len(group.places) * group.counts for group in groups])
    before = np.cumsum(totals, axis=0) - totals
    """Shape ``(G, 4, D)``: what other circuits have in a level before a circuit's own."""
    ends = np.cumsum(totals.sum(axis=0), axis=1)
    starts = ends - totals.sum(axis=0)
    merged = _Merged(ends[:, -1] if depth else np.zeros(4, dtype=np.int64))
    wires = [
        merged.add(group, starts + own, own[FORMS], inputs, first_input, tables)
        for group, own in zip(groups, before, strict=True)
    ]
    made = int(ends[WIRES, -1]) if depth else 0
    levels = merged.levels(starts, ends)
    return Circuit(inputs, inputs + made, tuple(tables), levels, _outputs(circuits, groups, wires))


class _Merged:
    """The arrays of the merged circuit, all levels one after the other."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        forms, terms, look_ups, _ = counts.tolist()
        self._lengths = np.empty(forms, dtype=np.int64)
        self._constants = np.empty(forms, dtype=np.int64)
        self._sources = np.empty(terms, dtype=np.int32)
        self._coefficients = np.empty(terms, dtype=np.int64)
        self._form = np.empty(look_ups, dtype=np.int32)
        self._table = np.empty(look_ups, dtype=np.int32)
        self._first_wire = np.empty(look_ups, dtype=np.int32)

    def add(
        self,
        group: _Copies,
        starts: NDArray[np.int64],
        first_form: NDArray[np.int64],
        inputs: int,
        first_input: NDArray[np.int64],
        tables: dict[LookUpTable, int],
    ) -> NDArray[np.int64]:
        """Write the copies of a circuit to their places.

        Args:
            group: the copies.
            starts: shape ``(4, D)``: where their forms, terms, look-ups and wires begin in every level.
            first_form: shape ``(D,)``: forms that come before theirs within the level.
            inputs: of the merged circuit.
            first_input: where the inputs of every circuit begin.
            tables: those of the merged circuit, which grow.

        Returns:
            Shape ``(M, wires)``: the new number of every wire of every copy.
        """
        circuit, levels = group.circuit, group.circuit.levels
        wires = np.empty((len(group.places), circuit.wires), dtype=np.int64)
        wires[:, : circuit.inputs] = first_input[group.places][:, np.newaxis] + np.arange(circuit.inputs)
        if not levels:
            return wires
        wires[:, group.made] = inputs + _places(group, starts, WIRES)
        at = _places(group, starts, FORMS)
        self._lengths[at] = group.lengths
        self._constants[at] = np.concatenate([level.forms.constants for level in levels])
        at = _places(group, starts, TERMS)
        self._sources[at] = wires[:, np.concatenate([level.forms.sources for level in levels])]
        self._coefficients[at] = np.concatenate([level.forms.coefficients for level in levels])
        at = _places(group, starts, LOOK_UPS)
        look_ups = group.counts[LOOK_UPS]
        copies = np.arange(len(group.places))[:, np.newaxis]
        offset = np.repeat(first_form, look_ups) + copies * np.repeat(group.counts[FORMS], look_ups)
        self._form[at] = np.concatenate([level.form for level in levels]) + offset
        number = np.array([tables.setdefault(table, len(tables)) for table in circuit.tables], dtype=np.int32)
        self._table[at] = number[group.table]
        self._first_wire[at] = wires[:, np.concatenate([level.first_wire for level in levels])]
        return wires

    def levels(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[Level, ...]:
        """Cut the arrays into levels."""
        offsets = _starts(self._lengths)
        return tuple(
            Level(
                LinearForms(
                    (offsets[form : to_form + 1] - term).astype(np.int32),
                    self._sources[term:to_term],
                    self._coefficients[term:to_term],
                    self._constants[form:to_form],
                ),
                self._form[at:to],
                self._table[at:to],
                self._first_wire[at:to],
            )
            for (form, term, at, _), (to_form, to_term, to, _) in zip(starts.T.tolist(), ends.T.tolist(), strict=True)
        )


def _places_of_equals(circuits: Sequence[Circuit]) -> list[list[int]]:
    places: dict[int, list[int]] = {}
    for place, circuit in enumerate(circuits):
        places.setdefault(id(circuit), []).append(place)
    return list(places.values())


def _copies(circuits: Sequence[Circuit], places: list[int], depth: int) -> _Copies:
    circuit = circuits[places[0]]
    levels = circuit.levels
    table = _joined([level.table for level in levels]).astype(np.int32)
    outputs = np.array([len(table.boxes) for table in circuit.tables], dtype=np.int64)[table]
    first = _joined([level.first_wire for level in levels])
    counts = np.zeros((4, depth), dtype=np.int64)
    counts[FORMS, : len(levels)] = [level.forms.count for level in levels]
    counts[TERMS, : len(levels)] = [len(level.forms.sources) for level in levels]
    counts[LOOK_UPS, : len(levels)] = [level.bootstraps for level in levels]
    ends = np.cumsum(outputs)
    counts[WIRES] = np.diff(_starts(outputs)[_starts(counts[LOOK_UPS])])
    return _Copies(
        circuit=circuit,
        places=np.array(places, dtype=np.int64),
        counts=counts,
        lengths=_joined([np.diff(level.forms.offsets) for level in levels]),
        table=table,
        made=np.repeat(first, outputs) + np.arange(int(outputs.sum())) - np.repeat(ends - outputs, outputs),
    )


def _places(group: _Copies, starts: NDArray[np.int64], kind: int) -> NDArray[np.int64]:
    """Return where all things of a kind go, one row a copy."""
    counts = group.counts[kind]
    first: NDArray[np.int64] = starts[kind] - (np.cumsum(counts) - counts)
    copies = np.arange(len(group.places))[:, np.newaxis]
    of_first_copy: NDArray[np.int64] = np.repeat(first, counts) + np.arange(int(counts.sum()))
    step: NDArray[np.int64] = np.repeat(counts, counts)
    return of_first_copy + copies * step


def _outputs(circuits: Sequence[Circuit], groups: Sequence[_Copies], wires: Sequence[NDArray[np.int64]]) -> LinearForms:
    """Write every copy's outputs to its place."""
    first_form = _starts([circuit.outputs.count for circuit in circuits])
    first_term = _starts([len(circuit.outputs.sources) for circuit in circuits])
    lengths = np.empty(int(first_form[-1]), dtype=np.int64)
    constants = np.empty(int(first_form[-1]), dtype=np.int64)
    sources = np.empty(int(first_term[-1]), dtype=np.int32)
    coefficients = np.empty(int(first_term[-1]), dtype=np.int64)
    for group, numbers in zip(groups, wires, strict=True):
        forms = group.circuit.outputs
        at_form = first_form[group.places][:, np.newaxis] + np.arange(forms.count)
        at_term = first_term[group.places][:, np.newaxis] + np.arange(len(forms.sources))
        lengths[at_form] = np.diff(forms.offsets)
        constants[at_form] = forms.constants
        sources[at_term] = numbers[:, forms.sources]
        coefficients[at_term] = forms.coefficients
    return LinearForms(_starts(lengths).astype(np.int32), sources, coefficients, constants)


def _starts(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of some runs starts, and where the last ends."""
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
    return np.concatenate([np.zeros(1, dtype=np.int64), ends])


def _joined(parts: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    """Put arrays one after the other; there may be none."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts], dtype=np.int64)
