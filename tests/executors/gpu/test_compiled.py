"""What NVIDIA's compiler makes of the kernels: nothing spills, and the inner loop keeps to its budget."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from coproc.executors.gpu.bench import FP64_INSTRUCTIONS, L1_WAVEFRONTS
from coproc.executors.gpu.source import KernelShape, kernel_source
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2
from tests.executors.gpu.nvrtc import Resources, compile_kernels, folder, longest_loop

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(folder() is None, reason="the wheels nvidia-cuda-nvrtc and -nvdisasm are not installed")
SHARED_BYTES = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
"""What one block may have, by CUDA's programming guide."""
CHOSEN = {"sm_80": 2, "sm_90": 4, "sm_100": 4}
KERNELS = {
    *("bootstrap", "bootstrap_latency", "transform_key", "keyswitch", "keyswitch_latency", "decompose", "split_key"),
    *("modulus_switch", "linear_forms", "place_rows"),
}


@cache
def compiled(architecture: str) -> tuple[bytes, dict[str, Resources]]:
    definitions = KernelShape.of(V1_5_2_2, SHARED_BYTES[architecture]).definitions
    return compile_kernels(kernel_source(), architecture, definitions)


@pytest.mark.parametrize("architecture", SHARED_BYTES)
def test_nothing_spills(architecture: str) -> None:
    shape = KernelShape.of(V1_5_2_2, SHARED_BYTES[architecture])
    assert shape.ciphertexts == CHOSEN[architecture]
    _, kernels = compiled(architecture)
    assert set(kernels) == KERNELS
    assert {name: kernel for name, kernel in kernels.items() if kernel.stack_bytes} == {}
    assert kernels["bootstrap"].registers * 64 * shape.ciphertexts <= 65_536
    assert kernels["bootstrap_latency"].registers * 128 * 2 <= 65_536


def test_toy_parameters_compile_too() -> None:
    compile_kernels(kernel_source(), "sm_90", KernelShape.of(TOY_2_2, SHARED_BYTES["sm_90"]).definitions)


def test_the_inner_loop_keeps_to_its_budget(tmp_path: Path) -> None:
    code, _ = compiled("sm_90")
    found = longest_loop(code, "bootstrap", tmp_path / "kernels.cubin")
    product = 256  # a warp runs one of two copies of the external product: 32 points, 8 instructions each
    assert found["DFMA"] + found["DADD"] + found["DMUL"] - product == FP64_INSTRUCTIONS
    # Bytes of 32 lanes over 128, without the product's second copy, which loads 32 spectra and 64 points of the key.
    narrow = found["LDS"] + found["STS"]
    wide = found["LDS.128"] - 32 + found["STS.128"]
    key = sum(count for name, count in found.items() if name.startswith("LDG.E.128"))
    ahead = found["LDG.E.128"]
    assert narrow + 4 * (wide + (key - ahead) // 2 + ahead) == L1_WAVEFRONTS - 1  # the rotation is one more
    assert sum(found.values()) <= 4200
    assert not {name for name in found if name.startswith(("LDL", "STL", "CALL"))}
