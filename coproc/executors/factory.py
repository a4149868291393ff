"""Executors by name, for configuration, the command line and tests.

Decides which names exist; a heavy executor is imported only when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.errors import InvalidInput
from coproc.executors.reference import ReferenceExecutor

if TYPE_CHECKING:
    from pathlib import Path

    from coproc.executors.base import Executor
    from coproc.executors.gpu import DeviceExecutor

EXECUTOR_NAMES: Final = ("cpu", "gpu", "emulated", "reference", "concrete")


def create_executor(
    name: str, threads: int | None = None, *, isa: str | None = None, cache: Path | None = None
) -> Executor:
    """Make the executor of that name.

    Args:
        name: one of ``EXECUTOR_NAMES``.
        threads: worker threads, by default one for every core that this process may use; for ``cpu`` and ``concrete``.
        cache: for ``cpu`` alone, the folder where compiled kernels are kept; without it they are not.
        isa: for ``cpu`` alone, ``avx512``, ``avx2`` or ``baseline`` instead of the widest that this machine has.

    Raises:
        InvalidInput: there is no such executor, ``threads`` is not positive, or ``isa`` is not for it.
        ExecutorUnavailable: this machine lacks what the executor needs.
    """
    if threads is not None and threads < 1:
        raise InvalidInput("threads", f"must be at least 1, got {threads}")
    if isa is not None and name != "cpu":
        raise InvalidInput("isa", f"means nothing to the executor {name}")
    if name == "reference":
        return ReferenceExecutor()
    if name == "cpu":
        from coproc.executors.cpu import CpuExecutor  # noqa: PLC0415 - compiles a kernel, loads LLVM

        return CpuExecutor(threads, isa, cache)
    if name == "concrete":
        from coproc.executors.concrete import ConcreteExecutor  # noqa: PLC0415 - loads a foreign runtime

        return ConcreteExecutor(threads)
    if name in {"gpu", "emulated"}:
        return create_device_executor(name)
    raise InvalidInput("executor", f"must be one of {', '.join(EXECUTOR_NAMES)}, got {name!r}")


def create_device_executor(name: str, number: int | None = None) -> DeviceExecutor:
    """Open a GPU (``gpu``) or its emulation on one core (``emulated``).

    Args:
        name: which of the two.
        number: of the GPU among several, which then is part of the executor's name; the only one by default.

    Raises:
        InvalidInput: the name is neither.
        ExecutorUnavailable: CuPy, a driver, a device or, for the emulation, a C++ compiler is missing.
    """
    from coproc.executors.gpu import DeviceExecutor  # noqa: PLC0415 - optional part

    called = name if number is None else f"{name}-{number}"
    if name == "gpu":
        from coproc.executors.gpu.cuda import CudaDevice  # noqa: PLC0415 - optional part

        return DeviceExecutor(called, lambda: CudaDevice(number or 0))
    if name == "emulated":
        from coproc.executors.gpu.emulation import EmulatedDevice  # noqa: PLC0415 - needs a compiler

        return DeviceExecutor(called, EmulatedDevice)
    raise InvalidInput("executor", f"must be gpu or emulated, got {name!r}")
