"""A circuit on an executor computes what it computes in the clear."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.circuit import Circuit
from coproc.errors import InvalidInput
from coproc.executors import Evaluation, create_executor
from coproc.executors.base import assign_slots
from coproc.executors.factory import EXECUTOR_NAMES
from tests.executors.circuits import CHAIN, chain_in_the_clear, forms, level, lookup

if TYPE_CHECKING:
    from coproc.tfhe.keys import EvaluationKey
    from tests.executors.toykeys import SecretKey


def test_chain_equals_the_clear(toy_secret: SecretKey, toy_key: EvaluationKey) -> None:
    executor = create_executor("reference")
    prepared = executor.prepare(toy_key)
    rng = np.random.default_rng(1)
    for a, b, c in itertools.islice(itertools.product(range(4), repeat=3), 0, 64, 5):
        inputs = toy_secret.encrypt(np.array([a, b, c]), rng)
        evaluation = Evaluation(executor, prepared, CHAIN, inputs)
        assert evaluation.levels_left == 2
        while evaluation.levels_left:
            evaluation.run_level()
        decrypted = toy_secret.decrypt_half_steps(evaluation.outputs())
        assert decrypted.tolist() == chain_in_the_clear(a, b, c)


def test_outputs_wait_for_the_last_level(toy_secret: SecretKey, toy_key: EvaluationKey) -> None:
    executor = create_executor("reference")
    inputs = toy_secret.encrypt(np.array([1, 2, 3]), np.random.default_rng(2))
    evaluation = Evaluation(executor, executor.prepare(toy_key), CHAIN, inputs)
    with pytest.raises(InvalidInput, match="2 levels"):
        evaluation.outputs()
    evaluation.run_level()
    evaluation.run_level()
    with pytest.raises(InvalidInput, match="every level"):
        evaluation.run_level()


def test_inputs_of_the_wrong_shape_or_type_are_refused(toy_key: EvaluationKey) -> None:
    executor = create_executor("reference")
    prepared = executor.prepare(toy_key)
    for wrong in (np.zeros((2, 513), np.uint64), np.zeros((3, 512), np.uint64), np.zeros((3, 513), np.int64)):
        with pytest.raises(InvalidInput, match="inputs"):
            Evaluation(executor, prepared, CHAIN, wrong)  # type: ignore[arg-type]


def test_a_circuit_without_levels_is_linear(toy_secret: SecretKey, toy_key: EvaluationKey) -> None:
    circuit = Circuit(inputs=2, wires=2, tables=(), levels=(), outputs=forms(({0: 3, 1: -1}, 5)))
    executor = create_executor("reference")
    inputs = toy_secret.encrypt(np.array([2, 1]), np.random.default_rng(3))
    outputs = Evaluation(executor, executor.prepare(toy_key), circuit, inputs).outputs()
    assert toy_secret.decrypt_half_steps(outputs).tolist() == [2 * 5 + 5]


def test_wires_that_live_at_the_same_time_never_share_a_slot() -> None:
    rng = np.random.default_rng(4)
    inputs, width, depth = 6, 6, 8
    levels = [
        level(
            forms(*(({int(w): 1}, 0) for w in rng.choice(inputs + width * number, width, replace=False))),
            *((f, 0, inputs + width * number + f) for f in range(width)),
        )
        for number in range(depth)
    ]
    wires = inputs + width * depth
    circuit = Circuit(
        inputs=inputs,
        wires=wires,
        tables=(lookup(list(range(16))),),
        levels=tuple(levels),
        outputs=forms(({wires - 1: 1, 3: 1}, 0)),
    )
    slots, capacity = assign_slots(circuit)
    assert capacity < wires
    holder: dict[int, int] = dict(zip(slots[:inputs].tolist(), range(inputs), strict=True))
    for number, current in enumerate(levels):
        assert [holder[int(slots[w])] for w in current.forms.sources] == current.forms.sources.tolist()
        holder.update({int(slots[w]): w for w in range(inputs + width * number, inputs + width * (number + 1))})
    assert [holder[int(slots[w])] for w in circuit.outputs.sources] == circuit.outputs.sources.tolist()


def test_unknown_names_and_thread_counts_are_refused() -> None:
    with pytest.raises(InvalidInput, match="cpu, gpu, emulated, reference, concrete"):
        create_executor("abacus")
    with pytest.raises(InvalidInput, match="threads"):
        create_executor("cpu", threads=0)
    assert set(EXECUTOR_NAMES) == {"cpu", "gpu", "emulated", "reference", "concrete"}
