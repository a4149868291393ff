"""The ``cpu`` executor: a kernel of our own, compiled for this machine at start."""

from coproc.executors.cpu.compiler import detect_isa
from coproc.executors.cpu.executor import CpuExecutor
from coproc.executors.cpu.machine import Isa

__all__ = ["CpuExecutor", "Isa", "detect_isa"]
