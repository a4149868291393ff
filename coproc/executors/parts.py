"""Parts of levels of several circuits, and how they become one batch.

Decides numbers of forms, terms and tables only. Where a row lies, and which executor runs, it must not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import LinearForms, LookUpTable

Row = TypeVar("Row", np.int32, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class FormsPart:
    """Linear forms of one circuit's wires."""

    ciphertexts: NDArray[np.uint64]
    """Shape ``(S, k*N+1)``: the storage of the circuit's wires."""
    forms: LinearForms
    rows: NDArray[np.int64]
    """Shape ``(T,)``: the row of every term."""


@dataclass(frozen=True, slots=True, eq=False)
class LookUps:
    """Bootstraps, each of a switched form with a table."""

    form: NDArray[np.int32]
    """Shape ``(P,)``."""
    table: NDArray[np.int32]
    """Shape ``(P,)``: index into ``tables``."""
    tables: Sequence[LookUpTable]


@dataclass(frozen=True, slots=True, eq=False)
class LookUpsPart:
    """Bootstraps of one circuit, and where their outputs go."""

    switched: NDArray[np.uint16]
    """Shape ``(F, n+1)``: modulus-switched small ciphertexts."""
    look_ups: LookUps
    ciphertexts: NDArray[np.uint64]
    """Shape ``(S, k*N+1)``: the storage of the circuit's wires."""
    targets: NDArray[np.int64]
    """Shape ``(O,)``: the row of every output, in the row order of ``Executor.bootstrap``."""


@dataclass(frozen=True, slots=True, eq=False)
class JoinedForms(Generic[Row]):
    """Linear forms of rows, in compressed sparse row layout."""

    offsets: NDArray[np.int64]
    """Shape ``(F+1,)``: terms of form ``f`` are ``offsets[f]:offsets[f+1]``."""
    rows: NDArray[Row]
    """Shape ``(T,)``."""
    coefficients: NDArray[np.int64]
    """Shape ``(T,)``."""
    constants: NDArray[np.int64]
    """Shape ``(F,)``: in half steps."""


def join_forms(parts: Sequence[tuple[LinearForms, NDArray[Row]]]) -> JoinedForms[Row]:
    """Put forms one after the other, each with the rows of its terms."""
    if len(parts) == 1:
        forms, rows = parts[0]
        return JoinedForms(forms.offsets.astype(np.int64), rows, forms.coefficients, forms.constants)
    ends = np.cumsum(np.concatenate([np.diff(forms.offsets) for forms, _ in parts]), dtype=np.int64)
    return JoinedForms(
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), ends]),
        rows=np.concatenate([rows for _, rows in parts]),
        coefficients=np.concatenate([forms.coefficients for forms, _ in parts], dtype=np.int64),
        constants=np.concatenate([forms.constants for forms, _ in parts], dtype=np.int64),
    )


def join_look_ups(parts: Sequence[tuple[LookUps, int]]) -> LookUps:
    """Put look-ups one after the other, each with the number of forms that they read from; equal tables become one."""
    if len(parts) == 1:
        return parts[0][0]
    numbers: dict[LookUpTable, int] = {}
    form: list[NDArray[np.int32]] = []
    table: list[NDArray[np.int32]] = []
    first = 0
    for look_ups, forms in parts:
        used, places = np.unique(look_ups.table, return_inverse=True)
        joined = [numbers.setdefault(look_ups.tables[int(number)], len(numbers)) for number in used]
        table.append(np.array(joined, dtype=np.int32)[places])
        form.append(look_ups.form + np.int32(first))
        first += forms
    return LookUps(np.concatenate(form), np.concatenate(table), tuple(numbers))
