"""What the GPU executor needs of a device, and how devices fail.

Decides the protocol behind which CuPy and the emulation are alike, and which failures may pass. It must not know
ciphertexts, keys or circuits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from coproc.errors import FatalError, RecoverableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import DTypeLike, NDArray


class DeviceFailure(RecoverableError):
    """A launch or copy failed in a way that leaves the device usable; trying again may work."""

    rule = "DEVICE_FAILURE"


class DeviceOutOfMemory(DeviceFailure):
    """The device has no memory left; a smaller batch may fit."""

    rule = "DEVICE_OUT_OF_MEMORY"


class DeviceHung(DeviceFailure):
    """The device did not finish in time, and nobody can interrupt it."""

    rule = "DEVICE_HUNG"


class DeviceLost(FatalError):
    """The device or its context is gone for this process: an illegal access, an uncorrectable memory error, no device.

    Nothing computed there since the last success may be used. Fatal for the device, whose work goes elsewhere.
    """

    rule = "DEVICE_LOST"


class DeviceArray(Protocol):
    """Memory of a device: only the device that made it can look inside."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes."""
        ...


class Mark(Protocol):
    """A place in the order of a device's work."""

    def synchronize(self) -> None:
        """Wait until the work before it is done."""
        ...


Argument: TypeAlias = DeviceArray | int
"""Of a kernel: an array, or an ``int`` of 32 bits."""


class Module(Protocol):
    """Compiled kernels of one parameter set."""

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: int, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        """Start a kernel after everything that was started before.

        Raises:
            DeviceFailure: it could not be started.
            DeviceLost: the device is gone.
        """
        ...


@dataclass(frozen=True, slots=True)
class Speed:
    """Of a device's multiprocessors."""

    hertz: float
    """Highest clock."""
    capability: tuple[int, int]
    """CUDA's compute capability."""


class Device(Protocol):
    """One device. All calls come from one thread; work runs in the order of the calls, but for ``aside``.

    Every method may raise ``DeviceFailure``, ``DeviceOutOfMemory`` or ``DeviceLost``.
    """

    @property
    def name(self) -> str:
        """Model, for logs and records."""
        ...

    @property
    def processors(self) -> int:
        """Multiprocessors: how many blocks run at the same time, or a multiple of that."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Shared memory that one block may have."""
        ...

    @property
    def speed(self) -> Speed | None:
        """What limits are computed from; None where nobody knows."""
        ...

    def activate(self) -> None:
        """Make the device current in the calling thread, once, before everything else."""
        ...

    def compile(self, definitions: Mapping[str, int]) -> Module:
        """Compile the kernels for a parameter set, or take them from a cache."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Allocate."""
        ...

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Allocate and clear."""
        ...

    def upload(self, array: NDArray[np.generic]) -> DeviceArray:
        """Copy to the device; the source may be changed afterwards."""
        ...

    def download(self, array: DeviceArray, target: NDArray[np.generic]) -> None:
        """Copy into ``target`` of the same shape and type, and wait for it."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Run what is started in the block beside the work outside it, which it neither waits for nor holds up."""
        ...

    def mark(self) -> Mark:
        """Note which work has been given out so far."""
        ...

    def synchronize(self, mark: Mark | None = None) -> None:
        """Wait until all work up to a mark is done, or all there is on this side; failures of launches appear here."""
        ...

    def free_bytes(self) -> int:
        """Memory that could still be allocated."""
        ...
