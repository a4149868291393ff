"""The memory twin of changing the form of ciphertexts.

Decides nothing of its own: it shows the semantics of ``forms.FormsStore`` in the fewest words.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import trio

from coproc.store.base import State, Topic
from coproc.store.forms import IdleValues
from coproc.store.memory_retention import SweptMemoryStore

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from coproc.program.types import Handle
    from coproc.store.base import StoredCiphertext
    from coproc.store.forms import Compression

_ENDED = frozenset({State.COMPLETED, State.FAILED})


class FormsMemoryStore(SweptMemoryStore):
    """A store in dictionaries whose ciphertexts can change their form."""

    def __init__(self) -> None:
        super().__init__()
        self._thaws: dict[Handle, float] = {}
        """When the lease on each ends."""

    async def find_idle(self, compression: Compression, limit: int) -> IdleValues:
        """Take a step of a sweep; see ``FormsStore.find_idle``."""
        await trio.lowlevel.checkpoint()
        page, more = self._next_page("compression", compression.every, compression.after, limit)
        idle = (handle for handle in page if self._is_idle(handle, compression))
        return IdleValues({handle: self._ciphertexts[handle].key_id for handle in idle}, more)

    def _is_idle(self, handle: Handle, compression: Compression) -> bool:
        stored = self._ciphertexts[handle]
        readers = [self._entries[output].group for output in self._consumers.get(handle, ())]
        return (
            len(stored.data) > compression.larger_than
            and (stored.is_allowed or handle in self._entries)
            and all(group.state in _ENDED for group in readers)
            and all(group.since <= trio.current_time() - compression.after for group in readers)
        )

    async def change_forms(self, forms: Mapping[Handle, bytes]) -> int:
        """Put other bytes; see ``FormsStore.change_forms``."""
        await trio.lowlevel.checkpoint()
        there = [handle for handle in forms if handle in self._ciphertexts]
        for handle in there:
            self._ciphertexts[handle] = replace(self._ciphertexts[handle], data=forms[handle])
        return len(there)

    async def ask_plain(self, handles: Collection[Handle]) -> None:
        """Ask for plain forms; see ``FormsStore.ask_plain``."""
        await trio.lowlevel.checkpoint()
        for handle in sorted(handles):
            self._thaws.setdefault(handle, -math.inf)
        self._wake(Topic.THAW)

    async def claim_thaws(self, limit: int, lease_seconds: float) -> Sequence[StoredCiphertext]:
        """Take what was asked for; see ``FormsStore.claim_thaws``."""
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        for handle in [handle for handle in self._thaws if handle not in self._ciphertexts]:
            del self._thaws[handle]
        free = list(islice((handle for handle, until in self._thaws.items() if until <= now), limit))
        self._thaws |= dict.fromkeys(free, now + lease_seconds)
        return [self._ciphertexts[handle] for handle in free]

    async def finish_thaws(self, forms: Mapping[Handle, bytes], failed: Collection[Handle] = ()) -> None:
        """Store plain forms; see ``FormsStore.finish_thaws``."""
        await self.change_forms(forms)
        self._stored_at |= {handle: trio.current_time() for handle in forms if handle in self._ciphertexts}
        for handle in (*forms, *failed):
            self._thaws.pop(handle, None)
        self._wake(Topic.RESULTS)
