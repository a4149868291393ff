"""The evaluation keys of a process: how they are read, on threads.

Decides which thread; what is kept is ``coproc.keyring``'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from coproc.keyring import KeyCache
from coproc.tfhe.server_key import load_casting_key, load_server_key

if TYPE_CHECKING:
    from coproc.keyring import KeySource
    from coproc.tfhe.keys import EvaluationKey
    from coproc.tfhe.server_key import CastingKey


def open_keys(source: KeySource, capacity: int) -> KeyCache:
    """Make the cache of up to ``capacity`` keys of a store."""
    return KeyCache(source, _load_key, _load_casting, capacity=capacity)


async def _load_casting(data: bytes) -> CastingKey:
    return await trio.to_thread.run_sync(load_casting_key, data)


async def _load_key(data: bytes) -> EvaluationKey:
    return await trio.to_thread.run_sync(load_server_key, data)
