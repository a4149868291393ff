"""Clear evaluation: what a circuit computes, in integers, and whether its noise is legal.

Decides nothing; it is the meaning of a circuit, which executors follow on ciphertexts. Vectorised over samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coproc.circuits.builder import BOXES, HALF, NOISE_BUDGET, POSITIONS, CircuitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit, LinearForms


def evaluate(circuit: Circuit, inputs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Run a circuit on clear blocks.

    Args:
        circuit: any circuit.
        inputs: shape ``(I, S)``: one row an input wire, one column a sample, values in steps.

    Returns:
        Shape ``(O, S)``, values in steps modulo 32: a result above 3 means that a block was not cleaned.

    Raises:
        CircuitError: a look-up input or an output is not a whole number of steps.
    """
    wires = np.zeros((circuit.wires, inputs.shape[1]), dtype=np.int16)
    wires[: circuit.inputs] = HALF * inputs
    values = np.array([table.values for table in circuit.tables], dtype=np.int16).reshape(-1, BOXES)
    signed = np.concatenate([values, -values], axis=1)
    for level in circuit.levels:
        positions = _whole_steps(_combine(level.forms, wires))
        outputs = np.array([len(table.boxes) for table in circuit.tables])[level.table]
        for rank in range(int(outputs.max())):
            (which,) = np.nonzero(outputs > rank)
            table = level.table[which]
            box = np.array([t.boxes[rank] if rank < len(t.boxes) else 0 for t in circuit.tables])[table]
            offset = np.array([t.offsets[rank] if rank < len(t.boxes) else 0 for t in circuit.tables])[table]
            place = (positions[level.form[which]] + box[:, np.newaxis]) % POSITIONS
            found = signed[table[:, np.newaxis], place] + offset[:, np.newaxis]
            wires[level.first_wire[which] + rank] = found % (HALF * POSITIONS)
    return _whole_steps(_combine(circuit.outputs, wires)).astype(np.int64)


def verify(circuit: Circuit) -> None:
    """Check the noise budget of every look-up input, outputs of one bootstrap counted as one.

    Raises:
        CircuitError: some form exceeds it.
    """
    origin = np.arange(circuit.wires)
    outputs = np.array([len(table.boxes) for table in circuit.tables], dtype=np.int64)
    for level in circuit.levels:
        counts = outputs[level.table]
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        wires = np.repeat(level.first_wire, counts) + np.arange(int(counts.sum())) - starts
        origin[wires] = np.repeat(level.first_wire, counts)
        forms = level.forms
        row = np.repeat(np.arange(forms.count), np.diff(forms.offsets))
        keys, place = np.unique(row * circuit.wires + origin[forms.sources], return_inverse=True)
        weights = np.bincount(place, np.abs(forms.coefficients).astype(np.float64))
        noise = np.bincount(keys // circuit.wires, weights**2, minlength=forms.count)
        if noise.size and noise.max() > NOISE_BUDGET:
            raise CircuitError(f"a look-up input has noise {int(noise.max())}, more than {NOISE_BUDGET}")


def _combine(forms: LinearForms, wires: NDArray[np.int16]) -> NDArray[np.int64]:
    terms = np.diff(forms.offsets)
    result = np.repeat(forms.constants[:, np.newaxis], wires.shape[1], axis=1)
    for rank in range(int(terms.max(initial=0))):
        (longer,) = np.nonzero(terms > rank)
        term = forms.offsets[longer] + rank
        result[longer] += forms.coefficients[term, np.newaxis] * wires[forms.sources[term]]
    return result


def _whole_steps(half_steps: NDArray[np.int64]) -> NDArray[np.int64]:
    if np.any(half_steps & 1):
        raise CircuitError("a value lies between two steps")
    return (half_steps // HALF) % POSITIONS
