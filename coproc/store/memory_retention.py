"""The memory twin of deletion by age.

Decides nothing of its own: it shows the policy of ``retention`` in the fewest words.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from coproc.store.base import State
from coproc.store.memory_chain import ChainMemoryStore
from coproc.store.retention import DROPPED, Sweep

if TYPE_CHECKING:
    from coproc.program.types import Handle
    from coproc.store.retention import Retention

_OPEN = frozenset({State.WAITING, State.READY, State.COMPUTING})


class SweptMemoryStore(ChainMemoryStore):
    """A store in dictionaries from which old values go."""

    def __init__(self) -> None:
        super().__init__()
        self._positions: dict[str, tuple[float, Handle]] = {}
        """Where sweeps under way go on."""
        self._swept_at: dict[str, float] = {}

    async def sweep_objects(self) -> tuple[int, bool]:
        """There are none."""
        await trio.lowlevel.checkpoint()
        return 0, False

    async def sweep(self, retention: Retention, limit: int) -> Sweep:
        """Take a step of a sweep; see ``SweptStore.sweep``."""
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        shortest = retention.shortest
        if shortest is None:
            return Sweep()
        page, more = self._next_page("retention", retention.every, shortest, limit)
        sizes = [self._drop(handle) for handle in page if self._may_go(handle, retention, now)]
        return Sweep(len(page), len(sizes), sum(sizes), more)

    def _next_page(self, name: str, every: float, age: float, limit: int) -> tuple[list[Handle], bool]:
        """Move a sweep on; returns what to look at, and whether it goes on."""
        now, start = trio.current_time(), self._positions.pop(name, None)
        if start is None and now < self._swept_at.get(name, -math.inf) + every:
            return [], False
        places = sorted((self._stored_at[handle], handle) for handle in self._ciphertexts)
        page = [place for place in places if (start is None or place > start) and place[0] <= now - age][:limit]
        more = len(page) == limit
        if more:
            self._positions[name] = page[-1]
        else:
            self._swept_at[name] = now
        return [handle for _, handle in page], more

    def _may_go(self, handle: Handle, retention: Retention, now: float) -> bool:
        readers = [self._entries[output] for output in self._consumers.get(handle, ())]
        age = retention.results if handle in self._entries else retention.uploads
        if not self._ciphertexts[handle].is_allowed:
            age = retention.intermediates
        if age is None or any(reader.group.state in _OPEN for reader in readers):
            return False
        idle_since = max([self._stored_at[handle], *(reader.group.since for reader in readers)])
        around = [handle, *(reader.computation.output for reader in readers)]
        is_held = self._allows[handle] or any(self._is_recent(output, retention.reorg_depth) for output in around)
        return not is_held and now >= idle_since + age

    def _is_recent(self, output: Handle, reorg_depth: int) -> bool:
        """Whether a block that may still be replaced asks for an output."""
        by = {
            name for transaction_id in self._linked[output] for name in self._origins.get((transaction_id, output), ())
        }
        newest = {block.hash for blocks in self._chains.values() for block in blocks[-reorg_depth:]}
        return bool(by & newest)

    def _drop(self, handle: Handle) -> int:
        """Delete a value; returns its size."""
        dropped = self._ciphertexts.pop(handle)
        entry = self._entries.get(handle)
        if entry is not None and dropped.is_allowed:
            entry.failure = DROPPED
            self._events = [
                replace(event, state=State.FAILED, failure=DROPPED) if event.handle == handle else event
                for event in self._events
            ]
            failed = self._spread([handle])
            self._settle(self._readers(failed))
        elif entry is not None:
            entry.is_needed = False
        return len(dropped.data)
