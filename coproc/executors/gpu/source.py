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
LATENCY_THREADS: Final = 64
"""Threads that the latency kernel gives to one polynomial."""
ROWS: Final = 16
"""Ciphertexts in one tile of the keyswitch."""
COLUMNS: Final = 8
"""Words of the small key in one tile."""
DIGITS: Final = 32
"""Digits in one step of the keyswitch."""
MOST_DIGIT_BITS: Final = 7
"""Of a digit of the keyswitch, so that it is a signed byte."""


@cache
def kernel_source(*, emulation: bool = False) -> str:
    """Return the kernels as one text without includes; with the emulation's header in front if asked for."""
    names = ("emulation.h", *SOURCES) if emulation else SOURCES
    folder = files("gpu_kernels")
    factors = ", ".join(f"{{{real.hex()}, {imaginary.hex()}}}" for real, imaginary in twiddle_table()[:WARP].tolist())
    return f"#define FIRST_TWIDDLES {factors}\n" + "".join(
        f'#line 1 "{name}"\n{(folder / name).read_text()}' for name in names
    )


@dataclass(frozen=True, slots=True)
class KernelShape:
    """A parameter set as the kernels see it."""

    parameters: ClassicParameters
    ciphertexts: int
    """Ciphertexts that a block of the throughput kernel bootstraps."""

    @staticmethod
    def of(parameters: ClassicParameters, shared_bytes: int) -> KernelShape:
        """Check, and fill the shared memory of a device whose blocks may have ``shared_bytes`` of it.

        Raises:
            InvalidInput: the kernels do not cover these parameters; names the parameter and the rule.
        """
        check_parameters(parameters)
        if parameters.modulus_switch is ModulusSwitch.DRIFT:
            raise InvalidInput("parameters.modulus_switch", "the drift technique is not supported")
        if parameters.ks_base_log > MOST_DIGIT_BITS:
            raise InvalidInput("parameters.ks_base_log", f"must be at most {MOST_DIGIT_BITS}: digits are bytes")
        for ciphertexts in (4, 2, 1):
            shape = KernelShape(parameters, ciphertexts)
            if shape.bootstrap_bytes(WARP, ciphertexts) <= shared_bytes:
                break
        return shape

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
            "CIPHERTEXTS_PER_BLOCK": self.ciphertexts,
            "LATENCY_THREADS": LATENCY_THREADS,
        }

    @property
    def keyswitch_steps(self) -> int:
        """Steps of the keyswitch."""
        return self.parameters.polynomial_size * self.parameters.ks_level // DIGITS

    @property
    def column_groups(self) -> int:
        """Tiles of columns of the keyswitch."""
        return -(-(self.parameters.lwe_dimension + 1) // COLUMNS)

    def exchange_bytes(self, threads: int) -> int:
        """Shared memory in which ``threads`` threads exchange the points of one polynomial."""
        half = self.parameters.polynomial_size // 2
        return 16 * (half + threads)

    def twiddle_bytes(self, threads: int) -> int:
        """Shared memory for the factors of kernels with ``threads`` threads a polynomial."""
        return self.twiddles(threads).nbytes

    def bootstrap_bytes(self, threads: int, ciphertexts: int) -> int:
        """Shared memory of a block: factors, exchange buffers and accumulators of both polynomials."""
        polynomials = 2 * (self.exchange_bytes(threads) + 4 * self.parameters.polynomial_size)
        rotations = 2 * (self.parameters.lwe_dimension + 1)
        return self.twiddle_bytes(threads) + ciphertexts * (polynomials + rotations)

    def twiddles(self, threads: int) -> NDArray[np.complex128]:
        """Return the factors of kernels with ``threads`` threads a polynomial that differ between threads.

        For every level after the first pass and every pair of blocks of a thread, one row of ``threads`` factors.
        """
        half = self.parameters.polynomial_size // 2
        table = twiddle_table()[:half].copy().view(np.complex128)[:, 0]
        levels, per_pass = half.bit_length() - 1, (half // threads).bit_length() - 1
        thread = np.arange(threads)
        rows: list[NDArray[np.complex128]] = []
        for level in range(per_pass, levels):
            shift = max(0, levels - (level // per_pass + 1) * per_pass)
            blocks = (half // threads) >> (levels - level - shift)
            first = (1 << level) + (thread >> shift) * blocks
            rows.extend(table[first + block] for block in range(0, blocks, 2))
        return np.concatenate(rows)
