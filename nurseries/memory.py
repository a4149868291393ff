"""How the C library keeps the memory of large arrays.

Decides that they are pages of their own, which go back to the system as soon as they are not used. Left alone, glibc
comes to take arrays of up to 32 MB out of its arenas, one for each thread, which ciphertexts of many sizes and lives
then fill with holes: a service with a long queue grew by 300 MB. Must not know who holds memory, nor for what.
"""

from __future__ import annotations

import ctypes
from typing import Final

LARGE_BYTES: Final = 1 << 18
_M_MMAP_THRESHOLD: Final = -3
"""Of ``malloc.h``. Once it is set, glibc does not raise it any more."""


def keep_large_arrays_apart() -> bool:
    """Ask for it, for all of this process; returns whether the C library knows how (musl and others do not)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES) == 1
