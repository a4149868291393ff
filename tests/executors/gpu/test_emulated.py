"""The kernels, run on the CPU, give the cpu executor's bits; their barriers are needed and sufficient."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.circuit import LookUpTable
from coproc.executors import Evaluation, create_executor
from coproc.executors.golden import GOLDEN, golden_digests
from coproc.executors.gpu import DeviceExecutor
from coproc.executors.gpu.emulation import EmulatedDevice, LaunchRefused, build
from coproc.executors.gpu.source import KernelShape
from coproc.executors.lwe import modulus_switch
from coproc.tfhe.parameters import TOY_2_2
from tests.executors.circuits import CHAIN, chain_in_the_clear
from tests.executors.toykeys import random_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.executors.base import Executor
    from coproc.tfhe.keys import EvaluationKey
    from tests.executors.toykeys import SecretKey

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulation of kernels needs g++")
TABLES = (
    LookUpTable(values=tuple(2 * ((5 * x + 3) % 16) for x in range(16))),
    LookUpTable(values=tuple(x - 7 for x in range(16)), boxes=(0, 8, 3), offsets=(0, 1, -5)),
)


def emulated(processors: int) -> DeviceExecutor:
    return DeviceExecutor("emulated", lambda: EmulatedDevice(processors=processors))


def test_golden_digests_with_toy_parameters() -> None:
    assert golden_digests(create_executor("emulated"), "toy") == GOLDEN["toy"]


@pytest.mark.real
def test_golden_digests_with_real_parameters() -> None:
    assert golden_digests(create_executor("emulated"), "real") == GOLDEN["real"]


@pytest.mark.parametrize("processors", [0, 10_000], ids=["throughput", "latency"])
def test_a_thousand_bootstraps_have_the_bits_of_cpu(processors: int, toy_key: EvaluationKey) -> None:
    rng = np.random.default_rng(30)
    words = rng.integers(0, 1 << 64, (1001, 513), dtype=np.uint64)
    rows = np.arange(1001, dtype=np.int32)
    table = rng.integers(0, 2, 1001).astype(np.int32)
    results: list[tuple[NDArray[np.uint64], NDArray[np.uint64]]] = []
    executors: list[Executor] = [
        create_executor("cpu"),
        emulated(processors),
    ]
    for executor in executors:
        prepared = executor.prepare(toy_key)
        small = executor.keyswitch(prepared, words)
        switched = modulus_switch(small, TOY_2_2)
        results.append((small, executor.bootstrap(prepared, switched, rows, table, TABLES)))
    (small, fresh), (emulated_small, emulated_fresh) = results
    assert np.array_equal(small, emulated_small)
    assert np.array_equal(fresh, emulated_fresh)


@pytest.mark.parametrize("size", [1024, 2048])
def test_other_sizes_have_the_bits_of_cpu(size: int) -> None:
    parameters = replace(TOY_2_2, polynomial_size=size, lwe_dimension=3, ks_base_log=3, ks_level=5)
    key = random_key(parameters, seed=31)
    rng = np.random.default_rng(32)
    words = rng.integers(0, 1 << 64, (9, size + 1), dtype=np.uint64)
    rows = np.arange(9, dtype=np.int32)
    table = rng.integers(0, 2, 9).astype(np.int32)
    results: list[NDArray[np.uint64]] = []
    for processors in (None, 0, 100):
        executor = create_executor("cpu") if processors is None else emulated(processors)
        prepared = executor.prepare(key)
        switched = modulus_switch(executor.keyswitch(prepared, words), parameters)
        results.append(executor.bootstrap(prepared, switched, rows, table, TABLES))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_a_circuit_on_the_slab_has_the_bits_of_cpu_and_gives_its_rows_back(
    toy_secret: SecretKey, toy_key: EvaluationKey
) -> None:
    device = DeviceExecutor("emulated", EmulatedDevice)
    cpu = create_executor("cpu")
    key, cpu_key = device.prepare(toy_key), cpu.prepare(toy_key)
    free = key.slots.free
    for values in ([0, 0, 0], [3, 3, 3], [1, 2, 0]):
        inputs = toy_secret.encrypt(np.array(values), np.random.default_rng(33))
        mine, theirs = device.evaluate(key, CHAIN, inputs), Evaluation(cpu, cpu_key, CHAIN, inputs)
        mine.begin().result()
        assert key.slots.free < free
        while theirs.levels_left:
            mine.run_level()
            theirs.run_level()
        outputs = mine.outputs()
        mine.close()
        assert np.array_equal(outputs, theirs.outputs())
        assert toy_secret.decrypt_half_steps(outputs).tolist() == chain_in_the_clear(*values)
    device.owner.submit(lambda opened: opened.synchronize()).result()
    assert key.slots.free == free


@pytest.mark.parametrize(("order", "seed"), [("reverse", 1), ("random", 5), ("random", 99)])
def test_the_order_of_threads_changes_nothing(order: str, seed: int, toy_key: EvaluationKey) -> None:
    module = build(tuple(sorted(KernelShape.of(TOY_2_2, 232448).definitions.items())))
    words = np.random.default_rng(34).integers(0, 1 << 64, (7, 513), dtype=np.uint64)
    rows = np.arange(7, dtype=np.int32)
    results: list[NDArray[np.uint64]] = []
    for chosen in ("forward", order):
        module.set_order(chosen, seed)
        try:
            for processors in (0, 100):
                executor = emulated(processors)
                prepared = executor.prepare(toy_key)
                switched = modulus_switch(executor.keyswitch(prepared, words), TOY_2_2)
                results.append(executor.bootstrap(prepared, switched, rows, rows % 2, TABLES))
        finally:
            module.set_order("forward")
    assert all(np.array_equal(result, results[0]) for result in results[1:])


WRONG = """
KERNEL deadlock(int) { if (threadIdx.x < 5) __syncthreads(); }
EXPORT(deadlock)
KERNEL outside(int by) { SHARED_MEMORY(memory); if (threadIdx.x == 0) memory[64 + by] = 1; }
EXPORT(outside)
KERNEL poison(double *result) { SHARED_MEMORY(memory); result[threadIdx.x] = ((double *)memory)[threadIdx.x]; }
EXPORT(poison)
KERNEL no_barrier(int *result) {
  SHARED_MEMORY(memory);
  int *words = (int *)memory;
  words[threadIdx.x] = threadIdx.x;
  result[threadIdx.x] = words[(threadIdx.x + 1) % 32];
}
EXPORT(no_barrier)
"""


def test_broken_kernels_are_found() -> None:
    module = build(tuple(sorted(KernelShape.of(TOY_2_2, 232448).definitions.items())), WRONG)
    with pytest.raises(LaunchRefused, match="deadlock: 5 of 32 threads"):
        module.launch("deadlock", (1,), 32, (0,))
    for by in (0, 100, -65):
        with pytest.raises(LaunchRefused, match="wrote outside its 64 bytes"):
            module.launch("outside", (1,), 32, (by,), 64)
    module.launch("outside", (1,), 32, (-1,), 64)
    with pytest.raises(LaunchRefused, match="no device runs 2048 threads"):
        module.launch("outside", (1,), 2048, (0,), 64)
    values = np.zeros(32)
    module.launch("poison", (1,), 32, (values,), 256)
    assert np.isnan(values).all()
    seen = np.zeros((2, 32), dtype=np.int32)
    for order, row in zip(("forward", "reverse"), seen, strict=True):
        module.set_order(order)
        module.launch("no_barrier", (1,), 32, (row,), 128)
    module.set_order("forward")
    assert not np.array_equal(seen[0], seen[1])
