"""Work that is nearly always too short to be worth a thread.

Decides where a call runs: going to a thread and back takes a third of a millisecond, for which the loop may as well do
the work itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
A = TypeVarTuple("A")

FEW_CIPHERTEXTS: Final = 32
"""Copying, adding up or serializing so many blocks takes about a millisecond under full parameters."""


async def run_near(function: Callable[[*A], T], *arguments: *A, ciphertexts: int) -> T:
    """Call ``function`` here if it deals with few ciphertexts, which is no checkpoint, else on a thread."""
    if ciphertexts <= FEW_CIPHERTEXTS:
        return function(*arguments)
    return await trio.to_thread.run_sync(function, *arguments)
