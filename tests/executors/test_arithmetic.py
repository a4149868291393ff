"""Every path of the cpu executor follows the canonical arithmetic, bit for bit."""

# llvmlite has no type information.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import llvmlite.binding as llvm
import numpy as np
import pytest

import coproc.executors
from coproc.circuits.circuit import LookUpTable
from coproc.executors import create_executor
from coproc.executors.cpu.bootstrap_kernel import BootstrapEmitter
from coproc.executors.cpu.compiler import detect_isa
from coproc.executors.cpu.emitter import module
from coproc.executors.cpu.kernel import Kernel
from coproc.executors.cpu.keyswitch_kernel import KeyswitchTile, emit_keyswitch
from coproc.executors.cpu.level_kernel import emit_level
from coproc.executors.cpu.machine import ISAS, Machine
from coproc.executors.cpu.shape import Shape
from coproc.executors.golden import GOLDEN, TWIDDLES, golden_digests, twiddle_digest
from coproc.executors.lwe import accumulator_polynomials
from coproc.executors.reference import ReferenceExecutor
from coproc.executors.twiddles import twiddle_table
from coproc.tfhe.parameters import TOY_2_2
from tests.executors import canonical
from tests.executors.toykeys import random_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = ISAS[ISAS.index(detect_isa()) :]


def test_document_and_code_name_the_same_digests() -> None:
    text = (Path(coproc.executors.__file__).parent / "ARITHMETIC.md").read_text()
    assert TWIDDLES in text
    for name, digests in GOLDEN.items():
        for step, digest in asdict(digests).items():
            (row,) = [line for line in text.splitlines() if digest in line]
            assert row.startswith(f"| {name} | {step.replace('_', ' ')}, ")


@pytest.mark.parametrize("isa", HERE)
def test_golden_digests_with_toy_parameters(isa: str) -> None:
    assert golden_digests(create_executor("cpu", isa=isa), "toy") == GOLDEN["toy"]


@pytest.mark.parametrize(
    ("isa", "spelling"),
    [
        ("avx512", Machine(lanes=8, fused_doublings=0)),  # Zen
        ("avx2", Machine(lanes=4, fused_doublings=0)),
        ("avx2", Machine(lanes=4, fused_doublings=1)),  # adders beside the multipliers
        ("avx2", Machine(lanes=4, fused_doublings=2)),  # none
        ("baseline", Machine(lanes=2, pairs=False)),  # no x86
    ],
)
def test_other_processors_spellings_give_the_same_bits(
    isa: str, spelling: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isa not in HERE:
        pytest.skip(f"no {isa} here")
    Kernel.forget()

    def machine_of(*_: str) -> Machine:
        return spelling

    monkeypatch.setattr("coproc.executors.cpu.kernel.machine_of", machine_of)
    assert golden_digests(create_executor("cpu", isa=isa), "toy") == GOLDEN["toy"]
    Kernel.forget()


def test_the_emitted_code_is_no_x86s() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = Machine(lanes=2, pairs=False)
    functions = BootstrapEmitter(Shape(2048, machine.lanes), machine, 23).emit()
    functions += emit_keyswitch(machine, KeyswitchTile.of(machine, 4), 4, 4)
    functions += emit_level(machine, 2048, centred=True)
    target = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="neoverse-n1")
    assembly = str(target.emit_assembly(llvm.parse_assembly(module(functions))))
    assert re.search(r"fmla\s+v\d+\.2d", assembly)
    # No fused step by a library, and no conversion whose overflow would be the processor's.
    assert not re.search(r"\bbl\s+fma|fcvt[a-z]*[su]\b", assembly)


@pytest.mark.real
@pytest.mark.parametrize("isa", [isa for isa in HERE if isa != "baseline"])
def test_golden_digests_with_real_parameters(isa: str) -> None:
    assert golden_digests(create_executor("cpu", isa=isa), "real") == GOLDEN["real"]


def test_reference_agrees_up_to_the_bootstrap() -> None:
    digests = golden_digests(ReferenceExecutor(), "toy")
    assert digests.keyswitch == GOLDEN["toy"].keyswitch
    assert digests.modulus_switch == GOLDEN["toy"].modulus_switch


def test_twiddles_are_correctly_rounded() -> None:
    assert twiddle_digest() == TWIDDLES
    table = twiddle_table()
    for level in range(10):
        for block in range(1 << level):
            turns = 1 + 4 * int(format(block, f"0{level}b")[::-1], 2) if level else 1
            real, imaginary = table[(1 << level) + block]
            assert real == canonical.nearest_cosine(turns, level + 3)
            assert imaginary == canonical.nearest_cosine(turns - (1 << (level + 1)), level + 3)


@pytest.mark.parametrize("isa", HERE)
def test_a_second_implementation_in_exact_rationals_gives_the_same_bits(isa: str) -> None:
    parameters = replace(TOY_2_2, lwe_dimension=2)
    key = random_key(parameters, seed=11)
    table = LookUpTable(values=tuple((7 * x) % 32 for x in range(16)), boxes=(0, 5), offsets=(0, 3))
    switched = np.array([[777, 301, 60]], dtype=np.uint16)
    executor = create_executor("cpu", isa=isa)
    zero = np.zeros(1, dtype=np.int32)
    result = executor.bootstrap(executor.prepare(key), switched, zero, zero, [table])

    (polynomial,) = accumulator_polynomials([table], parameters).tolist()
    twiddles = [(real, imaginary) for real, imaginary in twiddle_table().tolist()]
    acc = canonical.blind_rotation(
        polynomial, switched[0].tolist(), key.bootstrap_key[:, 0].tolist(), parameters.pbs_base_log, twiddles
    )
    expected = [canonical.extract(acc, 0, 0), canonical.extract(acc, 5 * 32, 3 << 58)]
    assert result.tolist() == expected


@pytest.mark.parametrize("size", [512, 1024, 2048])
def test_instruction_sets_agree_for_every_polynomial_size(size: int) -> None:
    parameters = replace(TOY_2_2, lwe_dimension=5, polynomial_size=size)
    key = random_key(parameters, seed=12)
    rng = np.random.default_rng(13)
    switched = rng.integers(0, 2 * size, (9, 6)).astype(np.uint16)
    switched[0] = [0, 1, size - 1, size, 2 * size - 1, 0]
    switched[1] = [7, 8, 9, size + 7, size + 8, size]
    table = LookUpTable(values=tuple(range(16)))
    form = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0], dtype=np.int32)
    results: list[NDArray[np.uint64]] = []
    for isa in HERE:
        executor = create_executor("cpu", isa=isa)
        results.append(executor.bootstrap(executor.prepare(key), switched, form, 0 * form, [table]))
    assert all(np.array_equal(result, results[0]) for result in results)
    assert np.array_equal(results[0][0], results[0][9])


def test_twenty_processes_give_one_digest() -> None:
    program = (
        "import json, dataclasses\n"
        "from coproc.executors import create_executor\n"
        "from coproc.executors.golden import golden_digests\n"
        "print(json.dumps(dataclasses.asdict(golden_digests(create_executor('cpu', threads=1 + {} % 3), 'toy'))))\n"
    )
    expected = asdict(GOLDEN["toy"])
    for number in range(20):
        run = subprocess.run(
            [sys.executable, "-c", program.format(number)], check=True, capture_output=True, text=True, timeout=60
        )
        assert json.loads(run.stdout) == expected
