"""The builder: what it shares, folds and refuses; merging; evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.builder import Builder, CircuitError
from coproc.circuits.counts import count
from coproc.circuits.evaluation import evaluate, verify
from coproc.circuits.merge import merge
from coproc.circuits.word import input_word, materialise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit


def test_noise_above_the_budget_is_refused() -> None:
    builder = Builder()
    a, b = builder.input(1), builder.input(1)
    builder.look_up(a * 6 + b * 2, lambda x: x % 4)
    with pytest.raises(CircuitError, match="noise 41"):
        builder.look_up(a * 5 + b * 4, lambda x: x % 4)


def test_outputs_of_one_bootstrap_share_their_noise() -> None:
    builder = Builder()
    low, high = builder.look_up_many(builder.input() + builder.input(), (lambda x: x % 4, lambda x: x // 4))
    assert (low + high).noise == 4
    assert (low - high).noise == 4
    assert (low + builder.input()).noise == 2


def test_a_range_that_does_not_fit_is_refused() -> None:
    builder = Builder()
    a, b = builder.input(), builder.input()
    form = a * 5 + b * 2  # 22 values
    with pytest.raises(CircuitError, match="not negacyclic"):
        builder.look_up(form, lambda x: x % 4)
    assert builder.look_up(form - 16, lambda x: int(x < 0)).high == 1
    with pytest.raises(CircuitError, match="at most 32"):
        builder.look_up(builder.input(33), lambda x: x % 4)


def test_equal_look_ups_are_one_and_signs_and_constants_do_not_matter() -> None:
    builder = Builder()
    a, b = builder.input(), builder.input()
    first = builder.look_up(a - b, lambda x: int(x == 0))
    assert builder.look_up(b - a, lambda x: int(x == 0)) == first
    assert builder.look_up(a - b + 3, lambda x: int(x == 3)) == first
    assert count(builder.build([first])).bootstraps == 1


def test_what_is_known_takes_no_bootstrap() -> None:
    builder = Builder()
    a = builder.input()
    assert builder.look_up(builder.constant(5), lambda x: x + 1).clear == 6
    assert builder.look_up(a, lambda _: 2).clear == 2
    assert builder.look_up(a, lambda x: 3 - x) == 3 - a
    assert builder.look_up(a - a, lambda x: x).clear == 0
    assert count(builder.build([3 - a])).bootstraps == 0


def test_many_functions_share_a_bootstrap_where_boxes_allow() -> None:
    builder = Builder()
    a = builder.input()
    outputs = builder.look_up_many(a, [lambda x, k=k: (x * x + k * x) % 4 for k in range(4)])
    circuit = builder.build(outputs)
    assert count(circuit).bootstraps == 1
    found = evaluate(circuit, np.arange(4)[np.newaxis])
    assert found.tolist() == [[(x * x + k * x) % 4 for x in range(4)] for k in range(4)]


@pytest.mark.parametrize("low", range(-40, 8))
@pytest.mark.parametrize("width", [2, 7, 16])
def test_tables_hold_for_ranges_anywhere(low: int, width: int) -> None:
    builder = Builder()
    rng = np.random.default_rng(width)
    values = rng.integers(-3, 8, width)
    form = (builder.input(width - 1) + low).within(low, low + width - 1)
    circuit = builder.build([builder.look_up(form, lambda x: int(values[x - low]))])
    assert np.array_equal(evaluate(circuit, np.arange(width)[np.newaxis])[0], values % 32)


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(CircuitError, match="no value"):
        Builder().input().within(4, 5)


def test_a_result_that_is_no_digit_is_refused() -> None:
    builder = Builder()
    with pytest.raises(CircuitError, match="between 0 and 6"):
        materialise(builder, (builder.input() + builder.input(),), 2)


def test_merged_circuits_compute_what_each_does() -> None:
    rng = np.random.default_rng(1)
    circuits: list[Circuit] = []
    inputs: list[NDArray[np.int64]] = []
    expected: list[NDArray[np.int64]] = []
    for depth in (0, 3, 1, 2):
        builder = Builder()
        word = input_word(builder, 8)
        for _ in range(depth):
            digits = [
                builder.look_up_many(x + y, (lambda v: v % 4, lambda v: v // 4))
                for x, y in zip(word, word[::-1], strict=True)
            ]
            word = tuple(digit + carry for digit, carry in digits[:2]) + tuple(digit for digit, _ in digits[2:])
            word = tuple(builder.look_up(block, lambda v: v % 4) for block in word)
        circuits.append(builder.build(word))
    circuits += [circuits[1], circuits[3], circuits[1], circuits[0]]  # copies among others
    for circuit in circuits:
        values = rng.integers(0, 4, (circuit.inputs, 50))
        inputs.append(values)
        expected.append(evaluate(circuit, values))
    merged = merge(circuits)
    verify(merged)
    assert merged.bootstraps == sum(circuit.bootstraps for circuit in circuits)
    assert merged.depth == max(circuit.depth for circuit in circuits)
    assert np.array_equal(evaluate(merged, np.concatenate(inputs)), np.concatenate(expected))


def test_nothing_merges_to_nothing() -> None:
    merged = merge([])
    assert (merged.inputs, merged.bootstraps, merged.outputs.count) == (0, 0, 0)
