"""On a machine with a GPU: its bits are those of cpu and of the emulation, and what the service runs there is right.

Run by `pytest -m gpu`; skipped where there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.circuit import LookUpTable
from coproc.executors.base import ExecutorUnavailable
from coproc.executors.bench import random_key
from coproc.executors.factory import create_device_executor, create_executor
from coproc.executors.golden import GOLDEN, golden_digests
from coproc.executors.lwe import modulus_switch
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from coproc.executors.base import Executor
    from coproc.executors.gpu import DeviceExecutor
    from coproc.tfhe.parameters import ClassicParameters

pytestmark = pytest.mark.gpu
TABLES = (
    LookUpTable(values=tuple(2 * ((5 * x + 3) % 16) for x in range(16))),
    LookUpTable(values=tuple(x - 7 for x in range(16)), boxes=(0, 8, 3), offsets=(0, 1, -5)),
)


@pytest.fixture(scope="module")
def gpu() -> Iterator[DeviceExecutor]:
    try:
        executor = create_device_executor("gpu")
    except ExecutorUnavailable as error:
        pytest.skip(error.message)
    yield executor
    executor.close()


@pytest.mark.parametrize("case", ["toy", "real"])
def test_golden_digests(gpu: DeviceExecutor, case: str) -> None:
    assert golden_digests(gpu, case) == GOLDEN[case]


@pytest.mark.parametrize(
    ("other", "parameters", "count"),
    [("cpu", V1_5_2_2, 10_000), ("cpu", TOY_2_2, 10_000), ("emulated", TOY_2_2, 2_000)],
    ids=["cpu, real", "cpu, toy", "emulated, toy"],
)
def test_thousands_of_bootstraps_have_the_same_bits(
    gpu: DeviceExecutor, other: str, parameters: ClassicParameters, count: int
) -> None:
    rng = np.random.default_rng(50)
    key = random_key(parameters, rng)
    words = rng.integers(0, 1 << 64, (count, parameters.big_lwe_dimension + 1), dtype=np.uint64)
    rows = np.arange(count, dtype=np.int32)
    table = rng.integers(0, 2, count).astype(np.int32)
    few = slice(0, 100)
    results: list[tuple[NDArray[np.uint64], ...]] = []
    executors: list[Executor] = [gpu, create_executor(other)]
    for executor in executors:
        prepared = executor.prepare(key)
        small = executor.keyswitch(prepared, words)
        switched = modulus_switch(small, parameters)
        fresh = executor.bootstrap(prepared, switched, rows, table, TABLES)
        again = executor.bootstrap(prepared, switched, rows[few], table[few], TABLES)
        results.append((small, fresh, executor.keyswitch(prepared, words[few]), again))
    for mine, theirs in zip(*results, strict=True):
        assert np.array_equal(mine, theirs)
    assert np.array_equal(results[0][1][: len(results[0][3])], results[0][3])
