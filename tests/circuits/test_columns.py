"""Sums of columns: any blocks, in both ways, exactly and within the noise budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.builder import Builder, CircuitError
from coproc.circuits.columns import sum_columns, sum_columns_fast
from coproc.circuits.evaluation import evaluate, verify
from coproc.circuits.word import materialise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coproc.circuits.builder import Block
    from coproc.circuits.word import Word

    Way = Callable[[Builder, Sequence[Sequence[Block]]], Word]

WAYS = [sum_columns, sum_columns_fast]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(12))
def test_columns_of_any_blocks(seed: int, way: Way) -> None:
    """Blocks of every range up to 15, negative and noisy ones, constants, and the same block in two columns."""
    rng = np.random.default_rng(seed)
    builder = Builder()
    sources = [builder.input(degree=int(degree)) for degree in rng.choice([1, 2, 3, 3, 3, 6, 9, 13, 15], 24)]
    width = int(rng.integers(1, 9))
    columns = [[builder.constant(int(rng.integers(-5, 9)))] for _ in range(width)]
    weights = [0] * 24
    constant = sum(column[0].low << (2 * index) for index, column in enumerate(columns))
    for number, block in enumerate(sources):
        for place in rng.choice(width, min(width, 2), replace=False):
            factor = int(rng.choice([-1, 1, 1, 1 if block.high > 3 else 2]))
            columns[int(place)].append(block * factor)
            weights[number] += factor << (2 * int(place))
    word = way(builder, columns)
    circuit = builder.build(materialise(builder, word, 2 * width))
    verify(circuit)
    inputs = np.array([rng.integers(0, block.high + 1, 200) for block in sources])
    found = evaluate(circuit, inputs)
    for sample in range(200):
        meant = constant + sum(weight * int(x) for weight, x in zip(weights, inputs[:, sample], strict=True))
        assert sum(int(digit) << (2 * i) for i, digit in enumerate(found[:, sample])) == meant % (1 << (2 * width))


@pytest.mark.parametrize("way", WAYS)
def test_a_digit_beside_wide_blocks(way: Way) -> None:
    builder = Builder()
    column = [builder.input(), builder.input(14), builder.input(15), builder.input(13)]
    columns = [column, [builder.constant(0)], [builder.constant(0)], [builder.constant(0)]]
    word = way(builder, columns)
    circuit = builder.build(materialise(builder, word, 8))
    inputs = np.array([[0, 3, 1], [0, 14, 7], [0, 15, 15], [0, 13, 2]])
    weights = np.array([[1], [4], [16], [64]])
    assert np.array_equal((evaluate(circuit, inputs) * weights).sum(axis=0), inputs.sum(axis=0))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("factor", "degree"), [(7, 1), (1, 20)])
def test_a_block_that_no_look_up_can_take_is_refused(way: Way, factor: int, degree: int) -> None:
    builder = Builder()
    column = [builder.input(degree) * factor, builder.input()]
    with pytest.raises(CircuitError):
        _ = way(builder, [column])
