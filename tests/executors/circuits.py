"""Small circuits and what they compute in the clear, for tests of executors."""

from __future__ import annotations

import numpy as np

from coproc.circuits.circuit import Circuit, Level, LinearForms, LookUpTable
from coproc.tfhe.parameters import TOY_2_2


def forms(*rows: tuple[dict[int, int], int]) -> LinearForms:
    """Pack forms given as (coefficients by wire, constant in half steps)."""
    counts = [len(terms) for terms, _ in rows]
    return LinearForms(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        sources=np.array([wire for terms, _ in rows for wire in terms], dtype=np.int32),
        coefficients=np.array([c for terms, _ in rows for c in terms.values()], dtype=np.int64),
        constants=np.array([constant for _, constant in rows], dtype=np.int64),
    )


def level(inputs: LinearForms, *bootstraps: tuple[int, int, int]) -> Level:
    """Pack bootstraps given as (form, table, first output wire)."""
    columns = np.array(bootstraps, dtype=np.int32).reshape(-1, 3)
    return Level(forms=inputs, form=columns[:, 0].copy(), table=columns[:, 1].copy(), first_wire=columns[:, 2].copy())


def lookup(values: list[int]) -> LookUpTable:
    """Make a table of block values, one a box."""
    return LookUpTable(values=tuple(2 * value for value in values))


CHAIN = Circuit(
    inputs=3,
    wires=8,
    tables=(
        lookup([x % 4 for x in range(16)]),
        lookup([x // 4 for x in range(16)]),
        # Two functions of x in [0, 8) in one bootstrap: x odd, and x >= 4, the latter as a sign moved by an offset.
        LookUpTable(
            values=tuple([2 * (x & 1) for x in range(8)] + [1 if x >= 4 else -1 for x in range(8)]),
            boxes=(0, 8),
            offsets=(0, 1),
        ),
    ),
    levels=(
        # wires 3, 4: low and carry of a + b, of one keyswitch; wires 5, 6: parity and comparison of c + 3
        level(forms(({0: 1, 1: 1}, 0), ({2: 1}, 6)), (0, 0, 3), (0, 1, 4), (1, 2, 5)),
        # wire 7: (2 * carry + low + big - 1) mod 4, where the constant is added to the form
        level(forms(({4: 2, 3: 1, 6: 1}, 6)), (0, 0, 7)),
    ),
    outputs=forms(({7: 1}, 0), ({5: 1, 4: 4}, 2), ({0: 1}, 0), ({}, 4)),
)
"""Carries, many-LUT, shared keyswitches, constants, an input as output and an empty form."""


def chain_in_the_clear(a: int, b: int, c: int) -> list[int]:
    """Return the outputs of ``CHAIN`` in half steps."""
    low, carry = (a + b) % 4, (a + b) // 4
    odd, big = (c + 3) & 1, int(c + 3 >= 4)
    return [2 * ((2 * carry + low + big + 3) % 4), 2 * (odd + 4 * carry) + 2, 2 * a, 4]


BOXES = TOY_2_2.plaintext_modulus


def random_circuit(rng: np.random.Generator, inputs: int, widths: list[int]) -> Circuit:
    """Draw look-ups of sums of random wires, so many a level; every fourth has two outputs."""
    tables = (
        lookup(rng.integers(0, 4, 16).tolist()),
        lookup(rng.integers(0, 4, 16).tolist()),
        LookUpTable(values=tuple(rng.integers(0, 2, 16).tolist()), boxes=(0, 8), offsets=(0, 1)),
    )
    levels: list[Level] = []
    wires = inputs
    for width in widths:
        read = forms(*(({int(w): 1 for w in rng.choice(wires, 2, replace=False)}, 0) for _ in range(max(1, width - 1))))
        rows: list[tuple[int, int, int]] = []
        first = wires
        for number in range(width):
            table = 2 if number % 4 == 3 else int(rng.integers(0, 2))
            rows.append((int(rng.integers(0, read.count)), table, first))
            first += len(tables[table].boxes)
        levels.append(level(read, *rows))
        wires = first
    outputs = forms(*(({int(w): 1}, 0) for w in rng.choice(wires, 5, replace=False)))
    return Circuit(inputs, wires, tables, tuple(levels), outputs)
