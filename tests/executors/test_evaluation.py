"""A circuit on an executor computes what it computes in the clear, by itself or with others."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.circuit import Circuit
from coproc.errors import InvalidInput
from coproc.executors import Evaluation, create_executor
from coproc.executors.cpu import CpuExecutor
from coproc.executors.evaluation import assign_slots, run_together, storage
from coproc.executors.factory import EXECUTOR_NAMES
from coproc.executors.reference import ReferenceExecutor
from tests.executors.circuits import CHAIN, chain_in_the_clear, forms, level, lookup, random_circuit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from coproc.executors.base import Executor, PreparedKey
    from coproc.executors.parts import LookUpsPart
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


WIDTHS = ([1] * 5, [40], [3, 0, 17, 5], [9, 2, 30, 1, 1, 6])


@pytest.mark.parametrize(
    "make", [ReferenceExecutor, lambda: CpuExecutor(1), lambda: CpuExecutor(3), lambda: create_executor("concrete")]
)
def test_parts_of_levels_that_run_together_give_the_bits_of_each_circuit_alone(
    make: Callable[[], Executor], toy_key: EvaluationKey
) -> None:
    executor, rng = make(), np.random.default_rng(5)
    prepared = executor.prepare(toy_key)
    circuits = [random_circuit(rng, 6, widths) for widths in WIDTHS]
    inputs = [rng.integers(0, 1 << 64, (6, 513), dtype=np.uint64) for _ in circuits]

    def begin() -> list[Evaluation]:
        return [Evaluation(executor, prepared, *pair) for pair in zip(circuits, inputs, strict=True)]

    alone: list[NDArray[np.uint64]] = []
    for evaluation in begin():
        while evaluation.levels_left:
            evaluation.run_level()
        alone.append(evaluation.outputs())
    together = begin()
    runs = 0
    while unfinished := [one for one in together if one.levels_left]:
        if len(unfinished) > 1 and rng.integers(4) == 0:
            unfinished.remove(unfinished[int(rng.integers(len(unfinished)))])  # one comes later than the others
        run_together([(one, int(rng.integers(1, one.waiting + 1))) for one in unfinished])
        runs += 1
    assert runs > sum(map(len, WIDTHS)) / 2
    for one, expected in zip(together, alone, strict=True):
        assert np.array_equal(one.outputs(), expected)


def test_a_run_that_raises_changes_nothing_and_can_be_tried_again(toy_key: EvaluationKey) -> None:
    class Failing(CpuExecutor):
        fails = 0

        def look_up(self, prepared: PreparedKey, parts: Sequence[LookUpsPart]) -> None:
            super().look_up(prepared, parts)
            if self.fails:
                self.fails -= 1
                raise MemoryError

    executor, rng = Failing(2), np.random.default_rng(6)
    prepared = executor.prepare(toy_key)
    circuits = [random_circuit(rng, 6, [7, 5, 3]) for _ in range(3)]
    inputs = rng.integers(0, 1 << 64, (6, 513), dtype=np.uint64)
    undisturbed = [Evaluation(executor, prepared, circuit, inputs) for circuit in circuits]
    disturbed = [Evaluation(executor, prepared, circuit, inputs) for circuit in circuits]
    for evaluation in undisturbed:
        while evaluation.levels_left:
            evaluation.run_level()
    while disturbed[0].levels_left:
        executor.fails = 1
        turns = [(one, one.waiting) for one in disturbed]
        with pytest.raises(MemoryError):
            run_together(turns)
        assert [(one, one.waiting) for one in disturbed] == turns
        run_together(turns[:1])
        run_together(turns[1:])
    for one, other in zip(undisturbed, disturbed, strict=True):
        assert np.array_equal(one.outputs(), other.outputs())


def test_only_what_is_on_one_executor_under_one_key_runs_together(toy_key: EvaluationKey) -> None:
    executor = ReferenceExecutor()
    inputs = np.zeros((3, 513), np.uint64)
    mine, theirs = (Evaluation(executor, executor.prepare(toy_key), CHAIN, inputs) for _ in range(2))
    with pytest.raises(InvalidInput, match="under one key"):
        run_together([(mine, 1), (theirs, 1)])
    with pytest.raises(InvalidInput, match=r"\[1, 3\]"):
        run_together([(mine, 4)])


def test_every_storage_lies_whole_rows_away_from_every_other() -> None:
    stores = [storage(rows, width) for width in (513, 2049) for rows in (1, 7, 300)]
    for one in stores:
        assert one.flags.c_contiguous
        assert not one.any()
        assert one.ctypes.data % one.strides[0] == 0


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
