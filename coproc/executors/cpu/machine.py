"""What the emitted code may assume of a processor.

Decides which instruction sets exist and which spellings of the same operations are faster on which of them. None of
the choices changes any element's operations, so none of them changes results. It must not know what is computed.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Final, Literal, get_args

Isa = Literal["avx512", "avx2", "baseline"]
ON_X86: Final = platform.machine().lower() in {"x86_64", "amd64"}
MEGABYTE: Final = 1 << 20
ISAS: Final[tuple[Isa, ...]] = get_args(Isa)
_ADDERS: Final = frozenset(
    (
        *("alderlake", "raptorlake", "meteorlake", "arrowlake", "arrowlake-s", "lunarlake", "pantherlake"),
        *("sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d"),
    )
)
"""Processors of Intel that add vectors of 256 bits at a third port, beside the two that multiply."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Traits of a processor that the emitters ask for."""

    lanes: int
    """Doubles in a vector register."""
    fused_doublings: int = 2
    """How many of a butterfly's two ``2*a - p`` are one fused step; fewer where additions have pipes of their own."""
    reduces: bool = False
    """One instruction takes the nearest integer off a double (``vreducepd``)."""
    pairs: bool = True
    """One instruction multiplies signed 16-bit lanes and adds neighbours (``pmaddwd``, on every x86)."""


def second_level_cache() -> int:
    """Return the bytes of a core's second-level cache; a megabyte where the system does not say."""
    try:
        return os.sysconf("SC_LEVEL2_CACHE_SIZE") or MEGABYTE
    except (ValueError, OSError):
        return MEGABYTE


def machine_of(isa: Isa, processor: str) -> Machine:
    """Return the traits of an instruction set on a processor, by LLVM's name of it."""
    zen = processor.startswith("znver")
    if isa == "avx512":
        return Machine(lanes=8, fused_doublings=1 if zen else 2, reduces=not zen)
    if isa == "avx2":
        return Machine(lanes=4, fused_doublings=1 if zen or processor in _ADDERS else 2)
    return Machine(lanes=2, pairs=ON_X86)
