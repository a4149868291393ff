"""Every operation on real ciphertexts: all code paths give the same bits, all executors the same values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.evaluation import evaluate
from coproc.circuits.merge import merge
from coproc.circuits.strategy import Strategy
from coproc.executors import create_executor
from coproc.executors.cpu.compiler import detect_isa
from coproc.executors.cpu.machine import ISAS
from coproc.executors.evaluation import Evaluation
from tests.circuits.test_families import FAMILIES, build

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit
    from coproc.executors.base import Executor
    from coproc.tfhe.keys import EvaluationKey
    from tests.executors.toykeys import SecretKey

PATHS = ISAS[ISAS.index(detect_isa()) :]


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    """Every family at 8 bits, both ways, each with operands of its own."""
    return merge(
        [
            build(family, 8, result_bits, strategy)
            for strategy in Strategy
            for family, _, result_bits in FAMILIES.values()
        ]
    )


@pytest.fixture(scope="module")
def values(circuit: Circuit) -> NDArray[np.int64]:
    rng = np.random.default_rng(4)
    digits = rng.integers(0, 4, circuit.inputs)
    digits[8::9] &= 1  # every circuit takes two words of four digits and a condition
    return digits


@pytest.fixture(scope="module")
def inputs(values: NDArray[np.int64], toy_secret: SecretKey) -> NDArray[np.uint64]:
    return toy_secret.encrypt(values, np.random.default_rng(5))


def run(executor: Executor, key: EvaluationKey, circuit: Circuit, inputs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    evaluation = Evaluation(executor, executor.prepare(key), circuit, inputs)
    while evaluation.levels_left:
        evaluation.run_level()
    return evaluation.outputs()


def test_every_operation_on_every_executor(
    circuit: Circuit,
    values: NDArray[np.int64],
    inputs: NDArray[np.uint64],
    toy_secret: SecretKey,
    toy_key: EvaluationKey,
) -> None:
    expected = evaluate(circuit, values[:, np.newaxis])[:, 0]
    results = [run(create_executor("cpu", isa=isa), toy_key, circuit, inputs) for isa in PATHS]
    for result in results[1:]:
        assert np.array_equal(result, results[0])
    noises: list[float] = []
    for result in (
        results[0],
        run(create_executor("reference"), toy_key, circuit, inputs),
        run(create_executor("concrete"), toy_key, circuit, inputs),
    ):
        assert np.array_equal(toy_secret.decrypt_half_steps(result) // 2, expected)
        bootstrapped = np.diff(circuit.outputs.offsets) > 0
        noises.append(float(np.std(toy_secret.noise(result, 2 * expected)[bootstrapped])))
    # A few hundred samples: their standard deviation is known to some percent.
    assert max(noises) / min(noises) < 1.3
