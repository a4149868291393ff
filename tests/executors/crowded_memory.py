"""Loads machine code where free memory lies in pieces far apart, as in a process that has run for long.

Run as a program by a test: without room close together, LLVM would end the process.
"""

from __future__ import annotations

import ctypes
import mmap

from coproc.executors.cpu.compiler import Library, detect_isa
from coproc.executors.cpu.machine import ISAS

LIBC = ctypes.CDLL(None)
LIBC.mmap.restype = ctypes.c_size_t
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
NO_ACCESS = 0
WITHOUT_MEMORY = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
"""Address space alone: the last bit is Linux's MAP_NORESERVE."""
FAR = 1 << 36
HALVES = """
declare double @llvm.fma.f64(double, double, double)
define void @halves(ptr %x) {
  %v = load double, ptr %x
  %w = call double @llvm.fma.f64(double %v, double 0.5, double 0.25)
  store double %w, ptr %x
  ret void
}
"""


def take(size: int) -> int:
    """Reserve addresses: the kernel gives the highest free ones."""
    return int(LIBC.mmap(None, size, NO_ACCESS, WITHOUT_MEMORY, -1, 0))


def main() -> None:
    """Leave single free pages above a large reserved range, and load code with constants for every instruction set."""
    usable = ISAS[ISAS.index(detect_isa()) :]
    holes: list[int] = []
    for isa in usable:
        Library(HALVES, isa)  # what LLVM needs for itself
        holes.append(take(mmap.PAGESIZE))
        take(mmap.PAGESIZE)
    bottom = take(FAR)
    size = 1 << 30
    while size >= mmap.PAGESIZE:
        while take(size) > bottom:
            pass
        size //= 2
    for isa, hole in zip(usable, holes, strict=True):
        LIBC.munmap(hole, mmap.PAGESIZE)
        library = Library(HALVES, isa)
        value = ctypes.c_double(3.0)
        library.function("halves", [ctypes.c_void_p])(ctypes.byref(value))
        assert value.value == 1.75


if __name__ == "__main__":
    main()
