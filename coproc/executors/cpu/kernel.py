"""The compiled kernel of one parameter set and instruction set, with typed calls.

Decides which parameters the kernel supports; knows nothing of threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from coproc.errors import InvalidInput
from coproc.executors.cpu.bootstrap_kernel import BootstrapEmitter
from coproc.executors.cpu.compiler import Library, host_name
from coproc.executors.cpu.emitter import module
from coproc.executors.cpu.keyswitch_kernel import KeyswitchTile, emit_keyswitch
from coproc.executors.cpu.level_kernel import emit_level
from coproc.executors.cpu.machine import machine_of
from coproc.executors.cpu.product_kernel import POLYNOMIALS
from coproc.executors.cpu.shape import Shape
from coproc.tfhe.parameters import ModulusSwitch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.executors.cpu.machine import Isa
    from coproc.executors.cpu.objects import ObjectCache
    from coproc.tfhe.parameters import ClassicParameters

POLYNOMIAL_SIZES: Final = (512, 1024, 2048)
ALIGNMENT: Final = 64
LARGE_PAGE: Final = 2 << 20
Word = TypeVar("Word", bound=np.generic)
_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64


def check_parameters(parameters: ClassicParameters) -> None:
    """Refuse parameters that the canonical arithmetic does not cover.

    Raises:
        InvalidInput: names the parameter and the rule.
    """
    if parameters.polynomial_size not in POLYNOMIAL_SIZES:
        allowed = ", ".join(map(str, POLYNOMIAL_SIZES))
        raise InvalidInput("parameters.polynomial_size", f"must be one of {allowed}, got {parameters.polynomial_size}")
    if parameters.glwe_dimension != 1:
        raise InvalidInput("parameters.glwe_dimension", f"must be 1, got {parameters.glwe_dimension}")
    if parameters.pbs_level != 1:
        raise InvalidInput("parameters.pbs_level", f"must be 1, got {parameters.pbs_level}")
    if not 1 <= parameters.pbs_base_log <= 30:
        raise InvalidInput("parameters.pbs_base_log", f"must lie in [1, 30], got {parameters.pbs_base_log}")
    if parameters.modulus_switch is ModulusSwitch.DRIFT:
        raise InvalidInput("parameters.modulus_switch", "the drift technique is not supported")
    if not 1 <= parameters.ks_base_log <= 15 or not 1 <= parameters.ks_level * parameters.ks_base_log <= 62:
        raise InvalidInput("parameters.ks_base_log", "must lie in [1, 15] and give at most 62 bits over all levels")


class Kernel:
    """Machine code for one polynomial size, pair of bases, and instruction set."""

    def __init__(
        self,
        polynomial_size: int,
        pbs_base_log: int,
        ks_base_log: int,
        ks_level: int,
        isa: Isa,
        cache: ObjectCache | None = None,
        *,
        centred: bool = True,
    ) -> None:
        self.isa = isa
        machine = machine_of(isa, host_name())
        self.shape = Shape(polynomial_size, machine.lanes)
        self.tile = KeyswitchTile.of(machine, ks_base_log)
        functions = BootstrapEmitter(self.shape, machine, pbs_base_log).emit()
        functions += emit_keyswitch(machine, self.tile, ks_base_log, ks_level)
        functions += emit_level(machine, polynomial_size, centred=centred)
        self.library = Library(module(functions), isa, cache)
        self.twiddles = aligned((len(self.shape.twiddles()),), np.float64)
        self.twiddles[:] = self.shape.twiddles()
        self.bootstrap = self.library.function("bootstrap", [_POINTER] * 15 + [_INTEGER] * 2)
        self.convert_key = self.library.function("convert_key", [_POINTER] * 4 + [_INTEGER])
        self.combine = self.library.function("combine", [_POINTER] * 6 + [_INTEGER] * 2)
        self.switch = self.library.function("switch", [_POINTER] * 2 + [_INTEGER] * 4)
        self.keyswitch_key = self.library.function("keyswitch_key", [_POINTER] * 2 + [_INTEGER] * 4)
        self.keyswitch_digits = self.library.function("keyswitch_digits", [_POINTER] * 2 + [_INTEGER] * 2)
        self.keyswitch_tiles = self.library.function("keyswitch_tiles", [_POINTER] * 3 + [_INTEGER] * 5)

    @staticmethod
    def of(parameters: ClassicParameters, isa: Isa, cache: ObjectCache | None = None) -> Kernel:
        """Return the kernel for these parameters, compiled once in a process; not even that if ``cache`` has it.

        Raises:
            InvalidInput: the parameters are not supported.
        """
        check_parameters(parameters)
        sizes = (parameters.polynomial_size, parameters.pbs_base_log, parameters.ks_base_log, parameters.ks_level)
        centred = parameters.modulus_switch is ModulusSwitch.CENTERED_MEAN
        return _compiled(*sizes, isa, cache, centred=centred)

    @staticmethod
    def forget() -> None:
        """Drop the kernels of this process that nobody else holds."""
        _compiled.cache_clear()


@cache
def _compiled(
    polynomial_size: int,
    pbs_base_log: int,
    ks_base_log: int,
    ks_level: int,
    isa: Isa,
    cache: ObjectCache | None,
    *,
    centred: bool,
) -> Kernel:
    return Kernel(polynomial_size, pbs_base_log, ks_base_log, ks_level, isa, cache, centred=centred)


class Workspace:
    """Memory that one thread needs to bootstrap up to ``batch`` ciphertexts."""

    def __init__(self, shape: Shape, batch: int) -> None:
        size = shape.polynomial_size
        padding = ALIGNMENT // 4
        self._words = aligned((batch * POLYNOMIALS * size + 2 * padding,), np.uint32)
        self.accumulators = address(self._words) + ALIGNMENT
        self._spectra = aligned((shape.workspace_words,), np.float64)
        self.spectra = address(self._spectra)


def address(array: NDArray[np.generic]) -> int:
    """Return where the array's data starts; the caller keeps the array alive."""
    return array.ctypes.data


def aligned(shape: tuple[int, ...], kind: type[Word]) -> NDArray[Word]:
    """Return a zeroed array that starts at a cache line; a large one asks for large pages where the system has them."""
    count = int(np.prod(shape)) * np.dtype(kind).itemsize
    if count >= LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        pages = mmap.mmap(-1, count + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without large pages
            pages.madvise(mmap.MADV_HUGEPAGE)
        raw, boundary = np.frombuffer(pages, dtype=np.uint8), LARGE_PAGE
    else:
        raw, boundary = np.zeros(count + ALIGNMENT, dtype=np.uint8), ALIGNMENT
    skip = -raw.ctypes.data % boundary
    return raw[skip : skip + count].view(kind).reshape(shape)
