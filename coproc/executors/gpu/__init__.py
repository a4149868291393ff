"""The executors ``gpu`` and ``emulated``: one host code over one kernel source, on a device or on this processor."""

from coproc.executors.gpu.executor import DeviceExecutor

__all__ = ["DeviceExecutor"]
