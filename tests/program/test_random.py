"""Random values: uniform, the same for the same seed, below their bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.strategy import Strategy
from coproc.executors import create_executor
from coproc.executors.evaluation import Evaluation
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.planning import GroupGraph, PlannedRandom, plan
from coproc.program.types import FheType, Handle, new_handle
from coproc.tfhe.lwe import decode, phases
from coproc.tfhe.oblivious import oblivious_ciphertexts
from coproc.tfhe.parameters import TOY_2_2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.tfhe.client import ClientKey
    from coproc.tfhe.keys import EvaluationKey


def draw(
    computations: list[Computation], client_key: ClientKey, key: EvaluationKey
) -> tuple[NDArray[np.uint64], dict[Handle, tuple[int, int]]]:
    """Run random computations on ciphertexts; returns digits and where each value is."""
    wanted = frozenset(item.output for item in computations)
    planned = plan([GroupGraph(1, tuple(computations), wanted, {})], Strategy.THROUGHPUT)
    rows: list[NDArray[np.uint64]] = []
    for source in planned.inputs:
        assert isinstance(source, PlannedRandom)
        rows.append(oblivious_ciphertexts(key.key_id, source.seed, source.block + 1, TOY_2_2)[-1])
    executor = create_executor("cpu")
    evaluation = Evaluation(executor, executor.prepare(key), planned.circuit, np.stack(rows))
    while evaluation.levels_left:
        evaluation.run_level()
    digits = decode(phases(evaluation.outputs(), client_key.glwe_key.reshape(-1)), TOY_2_2.delta_log2)
    return digits, {item.handle: (item.first, item.blocks) for item in planned.outputs}


def rand(seed: int, fhe_type: FheType) -> Computation:
    return Computation(new_handle(fhe_type), Operation.RAND, (Scalar(seed.to_bytes(16, "big")),), is_allowed=True)


def test_digits_are_uniform_and_independent(toy_client_key: ClientKey, toy_evaluation_key: EvaluationKey) -> None:
    digits, _ = draw([rand(seed, FheType.UINT256) for seed in range(64)], toy_client_key, toy_evaluation_key)
    counts = np.bincount(digits.astype(np.int64), minlength=4)
    assert len(counts) == 4
    expected = len(digits) / 4
    # Chi-squared with 3 degrees of freedom: above 21 once in 10,000 keys.
    assert float(((counts - expected) ** 2 / expected).sum()) < 21.1
    pairs = np.bincount((4 * digits[:-1] + digits[1:]).astype(np.int64), minlength=16)
    expected = (len(digits) - 1) / 16
    assert float(((pairs - expected) ** 2 / expected).sum()) < 45  # 15 degrees of freedom, one in 14,000


def test_the_seed_decides(toy_client_key: ClientKey, toy_evaluation_key: EvaluationKey) -> None:
    again, places = draw(
        [rand(5, FheType.UINT64), rand(5, FheType.UINT64), rand(6, FheType.UINT64)], toy_client_key, toy_evaluation_key
    )
    values = [tuple(again[first : first + blocks].tolist()) for first, blocks in places.values()]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("bits", [0, 1, 2, 5, 8])
def test_bounds_hold_and_are_reached(bits: int, toy_client_key: ClientKey, toy_evaluation_key: EvaluationKey) -> None:
    bound = Scalar((1 << bits).to_bytes(32, "big"))
    computations = [
        Computation(
            new_handle(FheType.UINT8),
            Operation.RAND_BOUNDED,
            (Scalar(seed.to_bytes(16, "big")), bound),
            is_allowed=True,
        )
        for seed in range(60)
    ]
    if bits == 0:
        planned = plan([GroupGraph(1, tuple(computations), frozenset({computations[0].output}), {})], Strategy.LATENCY)
        assert planned.inputs == ()
        return
    digits, places = draw(computations, toy_client_key, toy_evaluation_key)
    values = {sum(int(digits[first + i]) << (2 * i) for i in range(blocks)) for first, blocks in places.values()}
    assert max(values) < 1 << bits
    assert len(values) > min(1 << bits, 30) // 2


def test_a_random_boolean_is_a_bit(toy_client_key: ClientKey, toy_evaluation_key: EvaluationKey) -> None:
    digits, _ = draw([rand(seed, FheType.BOOL) for seed in range(100)], toy_client_key, toy_evaluation_key)
    assert set(digits.tolist()) == {0, 1}
    assert 25 < int(digits.sum()) < 75
