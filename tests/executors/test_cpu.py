"""The cpu executor computes right on threads, refuses what it cannot do, and stays as fast as it was made."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coproc.circuits.merge import merge
from coproc.errors import InvalidInput
from coproc.executors import Evaluation, create_executor
from coproc.executors.base import LevelExecutor, Metered
from coproc.executors.bench import measure
from coproc.executors.cpu import CpuExecutor, detect_isa
from coproc.executors.cpu.executor import SMALLEST, batch_bounds
from coproc.executors.cpu.kernel import Kernel
from coproc.executors.cpu.machine import ISAS
from coproc.executors.lwe import modulus_switch
from coproc.executors.reference import ReferenceExecutor
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2, ModulusSwitch
from tests.executors.circuits import CHAIN, chain_in_the_clear, lookup
from tests.executors.toykeys import generate, random_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.executors.cpu.machine import Isa
    from coproc.tfhe.keys import EvaluationKey
    from coproc.tfhe.parameters import ClassicParameters
    from tests.executors.toykeys import SecretKey


def noise_of(executor_name: str, secret: SecretKey, key: EvaluationKey, repeats: int) -> float:
    """Check values and return log2 of the output noise."""
    executor = create_executor(executor_name)
    prepared = executor.prepare(key)
    values = np.tile(np.arange(16), repeats)
    tables = [lookup([(5 * x + 3) % 16 for x in range(16)])]
    ciphertexts = secret.encrypt(values, np.random.default_rng(14))
    switched = modulus_switch(executor.keyswitch(prepared, ciphertexts), key.parameters)
    rows = np.arange(len(values), dtype=np.int32)
    result = executor.bootstrap(prepared, switched, rows, 0 * rows, tables)
    expected = np.array(tables[0].values)[values]
    assert np.array_equal(secret.decrypt_half_steps(result), expected)
    return float(np.log2(secret.noise(result, expected).std()))


@pytest.mark.parametrize("name", ["cpu", "concrete"])
def test_value_and_noise_equal_the_reference(name: str, toy_secret: SecretKey, toy_key: EvaluationKey) -> None:
    assert noise_of(name, toy_secret, toy_key, 20) == pytest.approx(
        noise_of("reference", toy_secret, toy_key, 20), abs=0.25
    )


@pytest.mark.real
def test_real_parameters_decrypt_with_the_noise_of_theory() -> None:
    secret, key = generate(V1_5_2_2, seed=15)
    # key errors, digit rounding and the transform's own error together: 2^-14.83 of the torus
    assert noise_of("cpu", secret, key, 4) == pytest.approx(-14.83, abs=0.3)


@pytest.mark.parametrize("name", ["cpu", "concrete"])
def test_keyswitch_is_exact(name: str, toy_key: EvaluationKey) -> None:
    rng = np.random.default_rng(16)
    reference, executor = ReferenceExecutor(), create_executor(name)
    mine, theirs = executor.prepare(toy_key), reference.prepare(toy_key)
    for count in (0, 1, 7, 8, 9, 33):
        words = rng.integers(0, 1 << 64, (count, 513), dtype=np.uint64)
        words[:, :4] = [0, (1 << 64) - 1, 1 << 63, 0x8888_8888_8888_8888]
        assert np.array_equal(executor.keyswitch(mine, words), reference.keyswitch(theirs, words))


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_keyswitch_is_exact_for_other_bases_and_sizes(isa: str) -> None:
    try:
        executor = CpuExecutor(2, isa)
    except InvalidInput:
        pytest.skip(f"no {isa} here")
    rng = np.random.default_rng(17)
    for base_log, level, dimension in ((3, 5, 7), (4, 4, 24), (8, 2, 47), (15, 2, 16)):
        parameters = replace(TOY_2_2, ks_base_log=base_log, ks_level=level, lwe_dimension=dimension)
        key = random_key(parameters, seed=18)
        words = rng.integers(0, 1 << 64, (5, 513), dtype=np.uint64)
        reference = ReferenceExecutor()
        expected = reference.keyswitch(reference.prepare(key), words)
        assert np.array_equal(executor.keyswitch(executor.prepare(key), words), expected)


@pytest.mark.parametrize("name", ["cpu", "concrete"])
def test_chain_of_levels_equals_the_clear(name: str, toy_secret: SecretKey, toy_key: EvaluationKey) -> None:
    executor = create_executor(name)
    prepared = executor.prepare(toy_key)
    for values in ([0, 0, 0], [3, 3, 3], [1, 2, 0], [2, 3, 1]):
        inputs = toy_secret.encrypt(np.array(values), np.random.default_rng(19))
        evaluation = Evaluation(executor, prepared, CHAIN, inputs)
        while evaluation.levels_left:
            evaluation.run_level()
        assert toy_secret.decrypt_half_steps(evaluation.outputs()).tolist() == chain_in_the_clear(*values)


def test_batches_and_threads_never_change_bits(toy_key: EvaluationKey) -> None:
    rng = np.random.default_rng(20)
    switched = rng.integers(0, 1024, (70, 33)).astype(np.uint16)
    form = rng.integers(0, 70, 150).astype(np.int32)
    table = rng.integers(0, 3, 150).astype(np.int32)
    results: list[NDArray[np.uint64]] = []
    for threads in (1, 2, 7):
        executor = CpuExecutor(threads)
        prepared = executor.prepare(toy_key)
        results.append(executor.bootstrap(prepared, switched, form, table, CHAIN.tables))
        one_by_one = [
            executor.bootstrap(prepared, switched, form[i : i + 1], table[i : i + 1], CHAIN.tables) for i in range(9)
        ]
        together = executor.bootstrap(prepared, switched, form[:9], table[:9], CHAIN.tables)
        assert np.array_equal(np.concatenate(one_by_one), together)
        executor.close()
    assert all(np.array_equal(result, results[0]) for result in results)


class StepByStep:
    """An executor that leaves linear forms and modulus switches to ``Evaluation``."""

    def __init__(self, executor: CpuExecutor) -> None:
        self.name, self.prepare = executor.name, executor.prepare
        self.keyswitch, self.bootstrap = executor.keyswitch, executor.bootstrap


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize("kind", [ModulusSwitch.STANDARD, ModulusSwitch.CENTERED_MEAN])
def test_a_level_at_once_gives_the_bits_of_its_steps(isa: str, kind: ModulusSwitch) -> None:
    try:
        executor = CpuExecutor(2, isa)
    except InvalidInput:
        pytest.skip(f"no {isa} here")
    key = random_key(replace(TOY_2_2, modulus_switch=kind), seed=22)
    rng = np.random.default_rng(23)
    circuit = merge([CHAIN] * 7)
    inputs = rng.integers(0, 1 << 64, (circuit.inputs, 513), dtype=np.uint64)
    results: list[NDArray[np.uint64]] = []
    for one in (executor, StepByStep(executor)):
        evaluation = Evaluation(one, executor.prepare(key), circuit, inputs)
        while evaluation.levels_left:
            evaluation.run_level()
        results.append(evaluation.outputs())
    assert isinstance(executor, LevelExecutor)
    assert not isinstance(StepByStep(executor), LevelExecutor)
    assert np.array_equal(results[0], results[1])


@given(count=st.integers(1, 3000), threads=st.integers(1, 96), largest=st.integers(4, 16))
def test_batches_cover_all_bootstraps_and_end_small(count: int, threads: int, largest: int) -> None:
    bounds = np.array(batch_bounds(count, threads, largest))
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, count)
    assert (sizes.min() >= 1) & (sizes.max() <= largest)
    if threads > 1:
        assert (sizes[1:] <= sizes[:-1]).all()
        assert sizes[-1] <= 2 * SMALLEST


def test_several_callers_share_one_prepared_key(toy_key: EvaluationKey) -> None:
    executor = CpuExecutor(2)
    prepared = executor.prepare(toy_key)
    switched = np.random.default_rng(21).integers(0, 1024, (40, 33)).astype(np.uint16)
    rows = np.arange(40, dtype=np.int32)
    expected = executor.bootstrap(prepared, switched, rows, 0 * rows, CHAIN.tables)
    wrong: list[int] = []

    def caller(number: int) -> None:
        results = [executor.bootstrap(prepared, switched, rows, 0 * rows, CHAIN.tables) for _ in range(5)]
        wrong.extend(number for result in results if not np.array_equal(result, expected))

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"polynomial_size": 4096}, "polynomial_size"),
        ({"glwe_dimension": 2}, "glwe_dimension"),
        ({"pbs_level": 2, "pbs_base_log": 15}, "pbs_level"),
        ({"pbs_base_log": 31}, "pbs_base_log"),
        ({"ks_base_log": 16}, "ks_base_log"),
    ],
)
def test_unsupported_parameters_are_named(changed: dict[str, int], field: str) -> None:
    parameters: ClassicParameters = replace(TOY_2_2, lwe_dimension=1, **changed)  # pyright: ignore[reportArgumentType] - ints
    with pytest.raises(InvalidInput, match=rf"parameters\.{field}"):
        CpuExecutor(1).prepare(random_key(parameters, seed=1))


def test_levels_that_point_outside_are_refused_before_any_pointer_is_made(toy_key: EvaluationKey) -> None:
    executor = CpuExecutor(1)
    prepared = executor.prepare(toy_key)
    evaluation = Evaluation(executor, prepared, CHAIN, np.zeros((3, 513), np.uint64))
    forms = evaluation.begin_level()
    last = len(forms.ciphertexts)
    evaluation.switched(executor.switch_forms(prepared, [forms])[0])
    look_ups = evaluation.next_look_ups(3)
    form, table = look_ups.look_ups.form, look_ups.look_ups.table
    plain = np.zeros((2, last, 513), np.uint64)
    elsewhere = plain[0] if (plain.ctypes.data - forms.ciphertexts.ctypes.data) % plain.strides[1] else plain[1, :-1]
    wide, odd = np.zeros((last, 514), np.uint64), np.zeros((2 * last, 513), np.uint64)[::2]
    for changed, field in (
        ({"rows": forms.rows - last}, "rows"),
        ({"rows": forms.rows + last}, "rows"),
        ({"ciphertexts": wide}, "ciphertexts"),
        ({"ciphertexts": odd}, "ciphertexts"),
    ):
        with pytest.raises(InvalidInput, match=field):
            executor.switch_forms(prepared, [forms, replace(forms, **changed)])
    for changed, field in (
        ({"look_ups": replace(look_ups.look_ups, form=form + 99)}, "form"),
        ({"look_ups": replace(look_ups.look_ups, table=table + 99)}, "table"),
        ({"targets": look_ups.targets - last}, "targets"),
        ({"targets": look_ups.targets + last}, "targets"),
        ({"targets": look_ups.targets[1:]}, "targets"),
        ({"ciphertexts": odd}, "ciphertexts"),
        ({"ciphertexts": elsewhere}, "whole rows"),
        ({"switched": look_ups.switched + np.uint16(1024)}, "switched"),
    ):
        with pytest.raises(InvalidInput, match=field):
            executor.look_up(prepared, [look_ups, replace(look_ups, **changed)])
    assert not forms.ciphertexts.any()


def test_bad_batches_are_refused_before_any_pointer_is_made(toy_key: EvaluationKey) -> None:
    executor = CpuExecutor(1)
    prepared = executor.prepare(toy_key)
    switched, row = np.zeros((1, 33), np.uint16), np.zeros(1, np.int32)
    for form, table, field in ((row + 1, row, "form"), (row - 1, row, "form"), (row, row + 3, "table")):
        with pytest.raises(InvalidInput, match=field):
            executor.bootstrap(prepared, switched, form, table, CHAIN.tables)
    for wrong in (np.zeros((1, 32), np.uint16), switched + np.uint16(1024)):
        with pytest.raises(InvalidInput, match="switched"):
            executor.bootstrap(prepared, wrong, row, row, CHAIN.tables)
    with pytest.raises(InvalidInput, match="ciphertexts"):
        executor.keyswitch(prepared, np.zeros((1, 512), np.uint64))
    with pytest.raises(InvalidInput, match="another executor"):
        executor.keyswitch(ReferenceExecutor().prepare(toy_key), np.zeros((1, 513), np.uint64))


def test_unknown_instruction_sets_are_refused() -> None:
    with pytest.raises(InvalidInput, match="isa"):
        CpuExecutor(1, "neon")
    with pytest.raises(InvalidInput, match="isa"):
        create_executor("reference", isa="avx2")


@pytest.mark.parametrize(
    ("isa", "register", "limits"), [("avx512", "zmm", (0, 0, 0, 50)), ("avx2", "ymm", (0, 0, 12, 24))]
)
def test_the_register_allocator_keeps_the_transform_in_registers(
    isa: Isa, register: str, limits: tuple[int, ...]
) -> None:
    if isa not in ISAS[ISAS.index(detect_isa()) :]:
        pytest.skip(f"no {isa} here")
    assembly = Kernel.of(V1_5_2_2, isa).library.assembly()
    for function, limit in zip(("digits", "forward", "inverse", "middle"), limits, strict=True):
        (body,) = re.findall(rf"\n{function}:.*?\n(.*?)\.Lfunc_end", assembly, re.DOTALL)
        spills = len(re.findall(rf"{register}\d+, -?\d*\(%rsp\)|-?\d*\(%rsp\), %{register}", body))
        assert not re.search(r"vmovu\w+\s[^\n]*\(%rsp\)", body), f"the stack of {function} is not aligned"
        assert spills <= limit, f"{function} moves {spills} vectors to the stack and back"


def test_measurements_are_positive_and_add_up() -> None:
    result = measure(CpuExecutor(1), TOY_2_2, 8, repeats=2)
    assert result.seconds > 0
    assert result.pbs_per_second == pytest.approx(1e3 / result.milliseconds_per_pbs)
    with pytest.raises(InvalidInput, match="batch"):
        measure(CpuExecutor(1), TOY_2_2, 0)


def test_it_knows_the_cpu_time_of_its_arithmetic(toy_secret: SecretKey, toy_key: EvaluationKey) -> None:
    executor = CpuExecutor(2)
    assert isinstance(executor, Metered)
    prepared = executor.prepare(toy_key)
    before, process = executor.kernel_seconds, time.process_time()
    ciphertexts = secret_values(toy_secret)
    small = executor.keyswitch(prepared, ciphertexts)
    keyswitched = executor.kernel_seconds
    rows = np.arange(len(small), dtype=np.int32)
    executor.bootstrap(prepared, modulus_switch(small, toy_key.parameters), rows, 0 * rows, [lookup([0, *([1] * 15)])])
    assert before < keyswitched < executor.kernel_seconds
    assert executor.kernel_seconds - before <= time.process_time() - process


def secret_values(secret: SecretKey) -> NDArray[np.uint64]:
    return secret.encrypt(np.tile(np.arange(16), 8), np.random.default_rng(16))
