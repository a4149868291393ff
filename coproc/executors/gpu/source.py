"""The kernel source as one text, and what the host must tell it about a parameter set.

Decides which kernel is built how; knows no compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.errors import InvalidInput
from coproc.executors.cpu.kernel import check_parameters
from coproc.executors.twiddles import twiddle_table
from coproc.tfhe.parameters import ModulusSwitch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.tfhe.parameters import ClassicParameters

SOURCES: Final = ("compat.cuh", "transform.cuh", "keyswitch.cu", "bootstrap.cu")
WARP: Final = 32
CIPHERTEXTS_PER_BLOCK: Final = 2
TILE: Final = 64
WORDS_AT_ONCE: Final = 4


@cache
def kernel_source(*, emulation: bool = False) -> str:
    """Return the kernels as one text without includes; with the emulation's header in front if asked for."""
    names = ("emulation.h", *SOURCES) if emulation else SOURCES
    folder = files("gpu_kernels")
    return "".join(f'#line 1 "{name}"\n{(folder / name).read_text()}' for name in names)


@dataclass(frozen=True, slots=True)
class KernelShape:
    """A parameter set as the kernels see it."""

    parameters: ClassicParameters

    @staticmethod
    def of(parameters: ClassicParameters) -> KernelShape:
        """Check and wrap.

        Raises:
            InvalidInput: the kernels do not cover these parameters; names the parameter and the rule.
        """
        check_parameters(parameters)
        if parameters.modulus_switch is ModulusSwitch.DRIFT:
            raise InvalidInput("parameters.modulus_switch", "the drift technique is not supported")
        return KernelShape(parameters)

    @property
    def latency_threads(self) -> int:
        """Threads that the latency kernel gives to one polynomial."""
        return max(2 * WARP, self.parameters.polynomial_size // 16)

    @property
    def definitions(self) -> dict[str, int]:
        """Compile-time constants of the source."""
        parameters = self.parameters
        return {
            "LWE_DIMENSION": parameters.lwe_dimension,
            "POLYNOMIAL_SIZE": parameters.polynomial_size,
            "PBS_BASE_LOG": parameters.pbs_base_log,
            "KS_BASE_LOG": parameters.ks_base_log,
            "KS_LEVEL": parameters.ks_level,
            "CENTERED_MEAN": int(parameters.modulus_switch is ModulusSwitch.CENTERED_MEAN),
            "CIPHERTEXTS_PER_BLOCK": CIPHERTEXTS_PER_BLOCK,
            "LATENCY_THREADS": self.latency_threads,
        }

    @property
    def keyswitch_bytes(self) -> int:
        """Shared memory of ``keyswitch``: a slice of the key and the digits that meet it."""
        return WORDS_AT_ONCE * self.parameters.ks_level * (TILE * 8 + (TILE + 1) * 4)

    def exchange_bytes(self, threads: int) -> int:
        """Shared memory in which ``threads`` threads exchange the points of one polynomial."""
        half = self.parameters.polynomial_size // 2
        return 16 * (half + threads)

    def bootstrap_bytes(self, threads: int, ciphertexts: int) -> int:
        """Shared memory of a block: exchange buffers and accumulators of both polynomials."""
        return 2 * ciphertexts * (self.exchange_bytes(threads) + 4 * self.parameters.polynomial_size)

    def twiddles(self, threads: int) -> NDArray[np.complex128]:
        """Return the table of kernels with ``threads`` threads a polynomial.

        First ``N/2`` factors in the order of ``twiddle_table``, for levels whose factors all threads share; then, for
        every later level and pair of blocks that a thread owns, one row of ``threads`` factors.
        """
        half = self.parameters.polynomial_size // 2
        table = twiddle_table()[:half].copy().view(np.complex128)[:, 0]
        levels, per_pass = half.bit_length() - 1, (half // threads).bit_length() - 1
        thread = np.arange(threads)
        rows: list[NDArray[np.complex128]] = [table]
        for level in range(per_pass, levels):
            shift = max(0, levels - (level // per_pass + 1) * per_pass)
            blocks = (half // threads) >> (levels - level - shift)
            first = (1 << level) + (thread >> shift) * blocks
            rows.extend(table[first + block] for block in range(0, blocks, 2))
        return np.concatenate(rows)
