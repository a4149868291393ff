"""Layout: collected look-ups become a circuit of flat arrays.

Decides the numbers of wires and where each level's arrays begin. The arrays of all levels are slices of common ones,
since a circuit may have a thousand levels of a few look-ups each. Knows no operation and checks nothing.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from coproc.circuits.circuit import Circuit, Level, LinearForms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.circuits.circuit import LookUpTable

Terms = tuple[tuple[int, int], ...]
"""Wires and their coefficients, by ascending wire."""


class Bootstrap(NamedTuple):
    """One look-up of a builder."""

    terms: Terms
    table: int
    """Number of the table."""
    first: int
    """Wire of its first output; the others follow."""
    level: int
    """Round in which it runs, from 1."""


def lay_out(
    inputs: Sequence[int],
    wires: int,
    bootstraps: Sequence[Bootstrap],
    tables: Sequence[LookUpTable],
    outputs: Sequence[tuple[Terms, int]],
) -> Circuit:
    """Put look-ups in levels, and number wires and tables in the order in which levels use them.

    Args:
        inputs: wires that are inputs, in order.
        wires: how many wires there are, some of which nobody may need.
        bootstraps: what to compute; producers before consumers.
        tables: what ``Bootstrap.table`` counts in.
        outputs: terms and constants (half steps) of the results.
    """
    by_level: list[list[Bootstrap]] = [[] for _ in range(max((item.level for item in bootstraps), default=0))]
    for item in bootstraps:
        by_level[item.level - 1].append(item)
    wire = [-1] * wires
    for number, source in enumerate(inputs):
        wire[source] = number
    count = len(inputs)
    table_numbers: dict[int, int] = {}
    sources: list[int] = []
    coefficients: list[int] = []
    offsets: list[int] = []
    form: list[int] = []
    table: list[int] = []
    first_wire: list[int] = []
    ends = [(0, 0, 0)]
    for level in by_level:
        start = len(sources)
        forms: dict[Terms, int] = {}
        offsets.append(0)
        for item in level:
            known = len(forms)
            number = forms.setdefault(item.terms, known)
            if number == known:
                for source, coefficient in item.terms:
                    sources.append(wire[source])
                    coefficients.append(coefficient)
                offsets.append(len(sources) - start)
            form.append(number)
            table.append(table_numbers.setdefault(item.table, len(table_numbers)))
            first_wire.append(count)
            for offset in range(len(tables[item.table].boxes)):
                wire[item.first + offset] = count
                count += 1
        ends.append((len(sources), len(offsets), len(form)))
    levels = _cut(ends, offsets, sources, coefficients, (form, table, first_wire))
    return Circuit(
        len(inputs), count, tuple(tables[number] for number in table_numbers), levels, _linear_forms(outputs, wire)
    )


def _cut(
    ends: Sequence[tuple[int, int, int]],
    offsets: Sequence[int],
    sources: Sequence[int],
    coefficients: Sequence[int],
    look_ups: tuple[Sequence[int], Sequence[int], Sequence[int]],
) -> tuple[Level, ...]:
    """Cut the arrays of all levels where each ends: at how many terms, offsets and look-ups."""
    all_offsets = np.array(offsets, dtype=np.int32)
    all_sources = np.array(sources, dtype=np.int32)
    all_coefficients = np.array(coefficients, dtype=np.int64)
    constants = np.zeros(len(offsets), dtype=np.int64)  # they are part of the tables
    form, table, first_wire = (np.array(column, dtype=np.int32) for column in look_ups)
    return tuple(
        Level(
            LinearForms(
                all_offsets[at_form:to_form],
                all_sources[at_term:to_term],
                all_coefficients[at_term:to_term],
                constants[at_form : to_form - 1],
            ),
            form[at:to],
            table[at:to],
            first_wire[at:to],
        )
        for (at_term, at_form, at), (to_term, to_form, to) in pairwise(ends)
    )


def _linear_forms(forms: Sequence[tuple[Terms, int]], wire: Sequence[int]) -> LinearForms:
    return LinearForms(
        offsets=np.cumsum([0, *(len(terms) for terms, _ in forms)]).astype(np.int32),
        sources=np.array([wire[source] for terms, _ in forms for source, _ in terms], dtype=np.int32),
        coefficients=np.array([coefficient for terms, _ in forms for _, coefficient in terms], dtype=np.int64),
        constants=np.array([constant for _, constant in forms], dtype=np.int64),
    )
