"""The kernel source compiled by g++ and run on one core, behind the device protocol and in CuPy's call shape.

Decides how the emulation is built and cached. It is slow and meant for tests and for machines without a GPU that must
reproduce one: its bits are a device's.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np

from coproc.executors.base import ExecutorUnavailable
from coproc.executors.gpu.device import DeviceFailure
from coproc.executors.gpu.source import kernel_source

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from coproc.executors.gpu.device import Argument, DeviceArray, Mark

FLAGS: Final = ("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-DCOPROC_EMULATION")
ORDERS: Final = {"forward": 0, "reverse": 1, "random": 2}


class LaunchRefused(DeviceFailure):
    """A kernel broke a rule that a device would not always notice: deadlock, guard zone, launch limits."""

    rule = "LAUNCH_REFUSED"


class Function(Protocol):
    """A kernel: called as CuPy's ``RawKernel`` is."""

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Argument], *, shared_mem: int = 0
    ) -> None:
        """Run the kernel to its end.

        Raises:
            LaunchRefused: the kernel broke a rule; says which.
        """
        ...


class EmulatedModule:
    """Kernels with the call shape of ``cupy.RawModule``, on numpy arrays; one launch at a time."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.emulation_message.restype = ctypes.c_char_p
        self._one = threading.Lock()

    def set_order(self, order: str, seed: int = 1) -> None:
        """Choose the order of threads between barriers: ``forward``, ``reverse`` or ``random``."""
        self._library.emulation_order(ctypes.c_int(ORDERS[order]), ctypes.c_uint64(seed))

    def get_function(self, name: str) -> Function:
        """Return a kernel by name."""
        function = self._library[f"emulated_{name}"]

        def call(
            grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Argument], *, shared_mem: int = 0
        ) -> None:
            sizes = [(ctypes.c_uint * 3)(*(*size, 1, 1)[:3]) for size in (grid, block)]
            values = [_c_value(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
            with self._one:
                if function(sizes[0], sizes[1], ctypes.c_size_t(shared_mem), pointers):
                    raise LaunchRefused(f"{name}: {self._library.emulation_message().decode()}", kernel=name)

        return call

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: int, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        """Run a kernel; see ``Module.launch``."""
        self.get_function(kernel)(grid, (block,), arguments, shared_mem=shared_bytes)


def _c_value(argument: Argument) -> ctypes.c_void_p | ctypes.c_int:
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    return ctypes.c_void_p(_numpy(argument).ctypes.data)


def _numpy(array: DeviceArray) -> NDArray[np.generic]:
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
        raise DeviceFailure("an array of another device")
    return cast("NDArray[np.generic]", array)


def find_compiler() -> str:
    """Return the C++ compiler.

    Raises:
        ExecutorUnavailable: there is none.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise ExecutorUnavailable("the executor emulated needs a C++ compiler: install g++, or name one by CXX")
    return compiler


@cache
def build(definitions: tuple[tuple[str, int], ...], extra: str = "") -> EmulatedModule:
    """Compile the kernels, or take them from the cache folder, and load them.

    Args:
        definitions: the compile-time constants.
        extra: source appended to the kernels, for tests of the emulation itself.

    Raises:
        ExecutorUnavailable: there is no compiler, or it fails.
    """
    compiler = find_compiler()
    flags = [*FLAGS, *_machine_flags(), *(f"-D{name}={value}" for name, value in definitions)]
    source = kernel_source(emulation=True) + extra
    identity = "\0".join([_version(compiler), *flags, source]).encode()
    target = cache_folder() / f"{hashlib.sha256(identity).hexdigest()[:32]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = Path(folder) / target.name
            command = [compiler, *flags, "-x", "c++", "-", "-o", str(built)]
            done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)  # noqa: S603 - fixed program, no shell
            if done.returncode != 0:
                raise ExecutorUnavailable(f"{compiler} cannot compile the emulation: {done.stderr[-2000:]}")
            built.replace(target)  # atomic: two processes may build at once
    return EmulatedModule(target)


def cache_folder() -> Path:
    """Return where compiled emulations are kept, ``$XDG_CACHE_HOME/coproc/emulation``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "coproc" / "emulation"


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - fixed program


def _machine_flags() -> list[str]:
    """Use fused instructions where there are some: libm's ``fma`` gives the same bits, slowly."""
    cpu = Path("/proc/cpuinfo")
    words = set(cpu.read_text().split()) if cpu.exists() else set[str]()
    return ["-mavx2", "-mfma"] if {"avx2", "fma"} <= words else []


class _Done:
    """A mark in work that is done."""

    def synchronize(self) -> None:
        """Nothing is under way."""


class EmulatedDevice:
    """A device whose memory is numpy's and whose processor is one core of this machine."""

    def __init__(self, *, processors: int = 4) -> None:
        """``processors`` is small, so that tests see both bootstrap kernels.

        Raises:
            ExecutorUnavailable: there is no compiler.
        """
        find_compiler()
        self.processors: Final = processors

    @property
    def name(self) -> str:
        """Model."""
        return "emulated"

    @property
    def shared_bytes(self) -> int:
        """As on a Hopper GPU."""
        return 232448

    @property
    def speed(self) -> None:
        """Nobody knows."""
        return None

    def activate(self) -> None:
        """Nothing to do."""

    def compile(self, definitions: Mapping[str, int]) -> EmulatedModule:
        """Compile with g++; see ``build``."""
        return build(tuple(sorted(definitions.items())))

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Allocate and poison."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(0xFF)
        return array

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Allocate and clear."""
        return np.zeros(shape, dtype)

    def upload(self, array: NDArray[np.generic]) -> DeviceArray:
        """Copy."""
        return np.array(array, order="C")

    def download(self, array: DeviceArray, target: NDArray[np.generic]) -> None:
        """Copy."""
        target[...] = _numpy(array)

    @contextmanager
    def aside(self) -> Generator[None]:
        """Nothing runs beside anything."""
        yield

    def mark(self) -> Mark:
        """Whatever was launched is done."""
        return _Done()

    def synchronize(self, mark: Mark | None = None) -> None:
        """Launches run to their end: nothing is under way."""

    def free_bytes(self) -> int:
        """As much as a test may want."""
        return 1 << 28
