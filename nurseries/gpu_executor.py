"""The place of the GPU executor's actor: finds out whether there is a GPU, and says plainly what is missing.

Decides whether a GPU can be used. This version has no GPU executor yet, so that the answer names that, or the driver
or device whose lack would prevent it anyway.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from coproc.executors.base import ExecutorUnavailable


@dataclass(frozen=True, slots=True)
class GpuPresence:
    """What this machine has."""

    devices: int
    reason: str
    """Why no GPU is used, as a sentence for operators."""


def find_gpus() -> GpuPresence:
    """Ask the CUDA driver how many devices there are, without any CUDA package."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return GpuPresence(0, "no GPU is used: this machine has no CUDA driver (libcuda.so.1)")
    if (status := int(driver.cuInit(0))) != 0:
        return GpuPresence(0, f"no GPU is used: the CUDA driver does not start (CUDA error {status})")
    count = ctypes.c_int(0)
    if (status := int(driver.cuDeviceGetCount(ctypes.byref(count)))) != 0 or count.value == 0:
        return GpuPresence(0, f"no GPU is used: the CUDA driver finds no device (CUDA error {status})")
    return GpuPresence(count.value, f"no GPU is used: {count.value} found, but this version computes on cores only")


def require_gpu() -> None:
    """Refuse to start a GPU executor.

    Raises:
        ExecutorUnavailable: always in this version; says what is missing.
    """
    presence = find_gpus()
    raise ExecutorUnavailable(presence.reason, devices=presence.devices)
