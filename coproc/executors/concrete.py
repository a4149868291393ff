"""The ``concrete`` executor: concrete-python's native runtime through its C ABI, as a cross-check.

Decides how the runtime is found and called; ``import concrete`` is never needed. Its FFT plan is chosen by timing at
first use, so two processes may disagree on the bits of a bootstrap: results are right, but no digest is comparable.

The runtime aborts the process on any size that it does not expect; everything is therefore checked before a call.
"""

from __future__ import annotations

import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.errors import InvalidInput
from coproc.executors.base import ExecutorUnavailable
from coproc.executors.lwe import Extractions, accumulator_polynomials
from coproc.tfhe.parameters import ModulusSwitch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import LookUpTable
    from coproc.executors.base import PreparedKey
    from coproc.tfhe.keys import EvaluationKey
    from coproc.tfhe.parameters import ClassicParameters

_PACKAGE: Final = "concrete-python"
_SIZE, _POINTER = ctypes.c_size_t, ctypes.c_void_p
_ALIGNMENT: Final = 128


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime library on this machine."""

    path: Path
    version: str

    def __str__(self) -> str:
        return f"{_PACKAGE} {self.version}, {self.path.name}"


def find_runtime() -> Runtime:
    """Find the runtime library of the installed package, without loading it.

    Raises:
        ExecutorUnavailable: the package is not installed, or is not laid out as expected.
    """
    try:
        package = distribution(_PACKAGE)
    except PackageNotFoundError:
        raise ExecutorUnavailable(f"{_PACKAGE} is not installed") from None
    folder = Path(str(package.locate_file("concrete_python.libs")))
    libraries = sorted(folder.glob("libConcretelangRuntime-*.so"))
    if not libraries:
        raise ExecutorUnavailable(f"{_PACKAGE} {package.version} has no runtime library for this platform")
    return Runtime(path=libraries[0], version=package.version)


class _Functions:
    """The functions that we call, with their C types; every call releases the GIL."""

    def __init__(self, runtime: Runtime) -> None:
        library = ctypes.CDLL(str(runtime.path))

        def function(
            name: str, *arguments: type[ctypes.c_void_p | ctypes.c_size_t], status: bool = False
        ) -> Callable[..., int]:
            prototype = ctypes.CFUNCTYPE(ctypes.c_uint32 if status else None, *arguments)
            return prototype((f"concrete_cpu_{name}", library))

        sizes4, sizes5 = [_SIZE] * 4, [_SIZE] * 5
        self.keyswitch = function("keyswitch_lwe_ciphertext_u64", *[_POINTER] * 3, *sizes4)
        self.bootstrap = function("bootstrap_lwe_ciphertext_u64", *[_POINTER] * 4, *sizes5, _POINTER, _POINTER, _SIZE)
        self.bootstrap_scratch = function(
            "bootstrap_lwe_ciphertext_u64_scratch", _POINTER, _POINTER, _SIZE, _SIZE, _POINTER, status=True
        )
        self.convert = function(
            "bootstrap_key_convert_u64_to_fourier", *[_POINTER] * 2, *sizes5, _POINTER, _POINTER, _SIZE
        )
        self.convert_scratch = function(
            "bootstrap_key_convert_u64_to_fourier_scratch", _POINTER, _POINTER, _POINTER, status=True
        )
        self.construct_fft = function("construct_concrete_fft", _POINTER, _SIZE)
        self.fft_size = int(_SIZE.in_dll(library, "CONCRETE_FFT_SIZE").value)


@dataclass(frozen=True, slots=True, eq=False)
class ConcreteKey:
    """An evaluation key with the bootstrap key in the runtime's Fourier layout, private to this process."""

    key: EvaluationKey
    fft: NDArray[np.uint8]
    spectra: NDArray[np.uint8]
    scratch: int

    @property
    def parameters(self) -> ClassicParameters:
        """The parameter set of the key."""
        return self.key.parameters

    @property
    def key_id(self) -> bytes:
        """Identity of the evaluation key."""
        return self.key.key_id


class ConcreteExecutor:
    """concrete-python's runtime: any ``k``, ``N`` and number of levels."""

    def __init__(self, threads: int | None = None) -> None:
        """Load the runtime; it starts no thread of its own.

        Raises:
            ExecutorUnavailable: it is not installed or cannot be loaded.
        """
        runtime = find_runtime()
        try:
            self._functions = _Functions(runtime)
        except (OSError, AttributeError, ValueError) as error:
            raise ExecutorUnavailable(f"{runtime}: {error}") from error
        self.threads: Final = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="coproc-concrete")
        self._local = threading.local()

    @property
    def name(self) -> str:
        """Short name."""
        return "concrete"

    def prepare(self, key: EvaluationKey) -> ConcreteKey:
        """Transform the bootstrap key.

        Raises:
            InvalidInput: the parameters are not supported.
        """
        parameters = key.parameters
        if parameters.modulus_switch is ModulusSwitch.DRIFT:
            raise InvalidInput("parameters.modulus_switch", "the drift technique is not supported")
        k, size = parameters.glwe_dimension, parameters.polynomial_size
        level, base_log = parameters.pbs_level, parameters.pbs_base_log
        shape = (parameters.lwe_dimension, level, k + 1, k + 1, size)
        if key.bootstrap_key.shape != shape:
            raise InvalidInput("bootstrap_key", f"must have shape {shape}, got {key.bootstrap_key.shape}")
        fft = _aligned(self._functions.fft_size)
        self._functions.construct_fft(_address(fft), size)
        source = np.ascontiguousarray(key.bootstrap_key)
        spectra = _aligned(source.nbytes)  # N/2 complex doubles for N words
        scratch = self._scratch(self._functions.convert_scratch, _address(fft))
        stack = _aligned(scratch)
        self._functions.convert(
            *(_address(source), _address(spectra), level, base_log, k, size, parameters.lwe_dimension),
            *(_address(fft), _address(stack), scratch),
        )
        scratch = self._scratch(self._functions.bootstrap_scratch, k, size, _address(fft))
        return ConcreteKey(key=key, fft=fft, spectra=spectra, scratch=scratch)

    def keyswitch(self, prepared: PreparedKey, ciphertexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Keyswitch; see ``Executor.keyswitch``."""
        key = _own(prepared).key
        parameters = key.parameters
        big, small = parameters.big_lwe_dimension, parameters.lwe_dimension
        if ciphertexts.ndim != 2 or ciphertexts.shape[1] != big + 1:
            raise InvalidInput("ciphertexts", f"must have shape (F, {big + 1}), got {ciphertexts.shape}")
        source = np.ascontiguousarray(ciphertexts, dtype=np.uint64)
        result = np.empty((len(source), small + 1), dtype=np.uint64)

        def one(row: int) -> None:
            self._functions.keyswitch(
                *(_address(result[row]), _address(source[row]), _address(key.keyswitch_key)),
                *(parameters.ks_level, parameters.ks_base_log, big, small),
            )

        list(self._pool.map(one, range(len(source))))
        return result

    def bootstrap(
        self,
        prepared: PreparedKey,
        switched: NDArray[np.uint16],
        form: NDArray[np.int32],
        table: NDArray[np.int32],
        tables: Sequence[LookUpTable],
    ) -> NDArray[np.uint64]:
        """Blind rotation and sample extraction; see ``Executor.bootstrap``.

        The runtime extracts coefficient 0 alone; each further output of a many-LUT table is bootstrapped again with a
        polynomial turned by its boxes, which gives the same value with independent rounding.
        """
        own = _own(prepared)
        parameters = own.parameters
        k, size, small = parameters.glwe_dimension, parameters.polynomial_size, parameters.lwe_dimension
        if switched.ndim != 2 or switched.shape[1] != small + 1:
            raise InvalidInput("switched", f"must have shape (F, {small + 1}), got {switched.shape}")
        polynomials = accumulator_polynomials(tables, parameters).astype(np.uint64) << np.uint64(32)
        extractions = Extractions(table, tables, parameters)
        shift = np.uint64(64 - (2 * size).bit_length() + 1)
        rotations = switched.astype(np.uint64) << shift  # the runtime's own rounding gives the same back
        result = np.empty((extractions.count, k * size + 1), dtype=np.uint64)

        def one(row: int) -> None:
            bootstrap = extractions.bootstrap[row]
            accumulator = np.zeros(((k + 1), size), dtype=np.uint64)
            turn = int(extractions.coefficient[row])
            polynomial = polynomials[table[bootstrap]]
            accumulator[-1] = np.concatenate([polynomial[turn:], -polynomial[:turn]])
            stack = self._stack(own.scratch)
            self._functions.bootstrap(
                *(_address(result[row]), _address(rotations[form[bootstrap]]), _address(accumulator)),
                *(_address(own.spectra), parameters.pbs_level, parameters.pbs_base_log, k, size, small),
                *(_address(own.fft), _address(stack), own.scratch),
            )

        list(self._pool.map(one, range(extractions.count)))
        result[:, -1] += extractions.added
        return result

    def close(self) -> None:
        """Stop the threads; running calls end first."""
        self._pool.shutdown()

    def _stack(self, size: int) -> NDArray[np.uint8]:
        """Return this thread's scratch memory."""
        stack: NDArray[np.uint8] | None = getattr(self._local, "stack", None)
        if stack is None or len(stack) < size:
            stack = _aligned(size)
            self._local.stack = stack
        return stack

    @staticmethod
    def _scratch(function: Callable[..., int], *arguments: int) -> int:
        size, alignment = _SIZE(), _SIZE()
        status = function(ctypes.addressof(size), ctypes.addressof(alignment), *arguments)
        if status != 0 or alignment.value > _ALIGNMENT:
            raise ExecutorUnavailable(f"the runtime refuses these sizes: status {status}, align {alignment.value}")
        return int(size.value)


def _aligned(count: int) -> NDArray[np.uint8]:
    raw = np.zeros(count + _ALIGNMENT, dtype=np.uint8)
    skip = -raw.ctypes.data % _ALIGNMENT
    return raw[skip : skip + count]


def _address(array: NDArray[np.uint64] | NDArray[np.uint8]) -> int:
    return array.ctypes.data


def _own(prepared: PreparedKey) -> ConcreteKey:
    if not isinstance(prepared, ConcreteKey):
        raise InvalidInput("prepared", "was made by another executor")
    return prepared
