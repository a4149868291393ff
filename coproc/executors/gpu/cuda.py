"""A CUDA device through CuPy, behind the device protocol.

Decides how CUDA's errors are read. CuPy is imported only when a device is opened.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np

from coproc.executors.base import ExecutorUnavailable
from coproc.executors.gpu.device import DeviceFailure, DeviceLost, DeviceOutOfMemory, Speed
from coproc.executors.gpu.source import kernel_source

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from coproc.executors.gpu.device import Argument, DeviceArray, Mark

OPTIONS: Final = ("-std=c++17", "--fmad=false")
PASSING: Final = frozenset(
    {"cudaErrorMemoryAllocation", "cudaErrorLaunchOutOfResources", "cudaErrorNotReady", "cudaErrorInvalidConfiguration"}
    | {"CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "CUDA_ERROR_NOT_READY"}
)
"""Errors after which the context still works; CUDA documents every other one as sticky or does not say."""


class _Array(Protocol):
    shape: tuple[int, ...]
    nbytes: int

    def get(self, *, out: NDArray[np.generic], blocking: bool) -> None: ...
    def fill(self, value: int) -> None: ...


class _Kernel(Protocol):
    max_dynamic_shared_size_bytes: int
    preferred_shared_memory_carveout: int

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[object, ...], *, shared_mem: int
    ) -> None: ...


class _RawModule(Protocol):
    def compile(self) -> None: ...
    def get_function(self, name: str) -> _Kernel: ...


class _Event(Protocol):
    def record(self) -> object: ...
    def synchronize(self) -> None: ...


class _Stream(Protocol):
    def use(self) -> object: ...
    def synchronize(self) -> None: ...


class _CudaDevice(Protocol):
    attributes: Mapping[str, int]
    compute_capability: str
    mem_info: tuple[int, int]

    def use(self) -> object: ...


class _Cuda(Protocol):
    def is_available(self) -> bool: ...
    def alloc_pinned_memory(self, size: int) -> memoryview: ...
    def Device(self, number: int) -> _CudaDevice: ...  # noqa: N802 - CuPy's name
    def Stream(self, *, non_blocking: bool, priority: int) -> _Stream: ...  # noqa: N802 - CuPy's name
    def Event(self, *, block: bool, disable_timing: bool) -> _Event: ...  # noqa: N802 - CuPy's name


class _CuPy(Protocol):
    cuda: _Cuda

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> _Array: ...
    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> _Array: ...
    def asarray(self, array: NDArray[np.generic], *, blocking: bool) -> _Array: ...
    def RawModule(self, *, code: str, options: tuple[str, ...]) -> _RawModule: ...  # noqa: N802 - CuPy's name


@contextmanager
def reading_errors(what: str) -> Generator[None]:
    """Turn CuPy's errors into ours.

    Raises:
        DeviceOutOfMemory: there is no memory.
        DeviceFailure: the error may pass.
        DeviceLost: the context cannot be used any more.
    """
    try:
        yield
    except (DeviceFailure, DeviceLost):
        raise
    except MemoryError as error:  # CuPy's OutOfMemoryError is one
        raise DeviceOutOfMemory(f"{what}: {error}") from error
    except RuntimeError as error:  # CUDARuntimeError and CUDADriverError are
        text = str(error)
        code = text.split(":", maxsplit=1)[0].strip()
        if code in {"cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY"}:
            raise DeviceOutOfMemory(f"{what}: {text}", code=code) from error
        if code in PASSING:
            raise DeviceFailure(f"{what}: {text}", code=code) from error
        raise DeviceLost(f"{what}: {text}", code=code) from error


class CudaModule:
    """Kernels of one parameter set on one device."""

    def __init__(self, module: _RawModule) -> None:
        self._module = module
        self._functions: dict[str, _Kernel] = {}

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: int, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        """Start a kernel in the current stream; see ``Module.launch``."""
        with reading_errors(kernel):
            function = self._functions.get(kernel)
            if function is None:
                function = self._functions[kernel] = self._module.get_function(kernel)
            if shared_bytes > function.max_dynamic_shared_size_bytes:
                function.max_dynamic_shared_size_bytes = shared_bytes
                function.preferred_shared_memory_carveout = 100
            values = tuple(np.int32(value) if isinstance(value, int) else value for value in arguments)
            function((*grid, 1, 1)[:3], (block, 1, 1), values, shared_mem=shared_bytes)


class CudaDevice:
    """One CUDA device; see ``Device``."""

    def __init__(self, number: int = 0) -> None:
        """Find the device.

        Raises:
            ExecutorUnavailable: CuPy, the driver or the device is missing; says which.
        """
        if find_spec("cupy") is None:
            raise ExecutorUnavailable("no GPU is used: CuPy is not installed (extra `gpu`)")
        cupy = cast("_CuPy", cast("object", import_module("cupy")))
        if not cupy.cuda.is_available():
            raise ExecutorUnavailable("no GPU is used: CUDA finds no device")
        self._cupy = cupy
        self._number = number
        self._device: _CudaDevice | None = None
        self._streams: list[_Stream] = []
        """For computing, and for what runs aside; the first one is current in between."""
        self._stream: _Stream | None = None
        """The current one."""
        self._staging: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        """Pinned memory, through which results leave."""
        self._name, self._processors, self._shared_bytes = "", 1, 0
        self._speed: Speed | None = None

    @property
    def name(self) -> str:
        """Model."""
        return self._name

    @property
    def processors(self) -> int:
        """Multiprocessors."""
        return self._processors

    @property
    def shared_bytes(self) -> int:
        """Shared memory that one block may have, when asked for."""
        return self._shared_bytes

    @property
    def speed(self) -> Speed | None:
        """Clock and compute capability."""
        return self._speed

    def activate(self) -> None:
        """Make the device and a stream of its own current in this thread."""
        with reading_errors("open"):
            self._device = self._cupy.cuda.Device(self._number)
            self._device.use()
            self._streams = [self._cupy.cuda.Stream(non_blocking=True, priority=priority) for priority in (0, -1)]
            self._stream = self._streams[0]
            self._stream.use()
            self._processors = self._device.attributes["MultiProcessorCount"]
            major, minor = divmod(int(self._device.compute_capability), 10)
            if (kilohertz := self._device.attributes.get("ClockRate")) is not None:
                self._speed = Speed(1e3 * kilohertz, (major, minor))
            self._shared_bytes = self._device.attributes["MaxSharedMemoryPerBlockOptin"]
            runtime = import_module("cupy.cuda.runtime")
            properties = cast("Mapping[str, bytes]", runtime.getDeviceProperties(self._number))
            self._name = properties["name"].decode()

    def compile(self, definitions: Mapping[str, int]) -> CudaModule:
        """Compile with NVRTC; CuPy keeps the binary in its cache."""
        options = (*OPTIONS, *(f"-D{name}={value}" for name, value in sorted(definitions.items())))
        with reading_errors("compile"):
            module = self._cupy.RawModule(code=kernel_source(), options=options)
            module.compile()
        return CudaModule(module)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Allocate from CuPy's pool."""
        with reading_errors("allocate"):
            return self._cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Allocate and clear."""
        with reading_errors("allocate"):
            return self._cupy.zeros(shape, dtype)

    def upload(self, array: NDArray[np.generic]) -> DeviceArray:
        """Copy through CuPy's pinned pool, in stream order."""
        with reading_errors("upload"):
            return self._cupy.asarray(np.ascontiguousarray(array), blocking=False)

    def download(self, array: DeviceArray, target: NDArray[np.generic]) -> None:
        """Copy through pinned memory, and wait."""
        with reading_errors("download"):
            if self._staging.nbytes < array.nbytes:
                pinned = self._cupy.cuda.alloc_pinned_memory(array.nbytes)
                self._staging = np.frombuffer(pinned, dtype=np.uint8, count=array.nbytes)
            staged: NDArray[np.generic] = np.ndarray(target.shape, target.dtype, buffer=self._staging.data)
            cast("_Array", array).get(out=staged, blocking=False)
            self.synchronize()
            np.copyto(target, staged)

    @contextmanager
    def aside(self) -> Generator[None]:
        """Use the second stream, whose small kernels come before the next blocks of large ones."""
        with reading_errors("stream"):
            self._stream = self._streams[1]
            self._stream.use()
        try:
            yield
        finally:
            self._stream = self._streams[0]
            self._stream.use()

    def mark(self) -> Mark:
        """Record an event whose waiters sleep instead of spinning."""
        with reading_errors("mark"):
            event = self._cupy.cuda.Event(block=True, disable_timing=True)
            event.record()
            return event

    def synchronize(self, mark: Mark | None = None) -> None:
        """Wait for an event or the current stream; the GIL is released meanwhile."""
        with reading_errors("synchronize"):
            if mark is not None:
                mark.synchronize()
            elif self._stream is not None:
                self._stream.synchronize()

    def free_bytes(self) -> int:
        """Memory of the device that nobody has."""
        with reading_errors("memory"):
            return self._device.mem_info[0] if self._device is not None else 0
