"""The ``cpu`` executor: a kernel of our own, compiled for this machine at start."""

from coproc.executors.cpu.compiler import Isa, detect_isa
from coproc.executors.cpu.executor import CpuExecutor

__all__ = ["CpuExecutor", "Isa", "detect_isa"]
