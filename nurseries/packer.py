"""The actor that compresses what has long been idle, and brings back what somebody wants to read.

Decides its pace and its batches. Which values are idle is decided by the store, what forms look like in
``coproc.scheduling.packing``. Packing takes integer arithmetic on one thread; taking out takes one bootstrap a block,
on the executor, beside everybody's jobs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from coproc.errors import CoprocError, FatalError, RecoverableError, log_fields
from coproc.scheduling.packing import packed_forms, plain_forms, prepare_unpacking
from coproc.store.base import Topic
from coproc.store.objects import read_what_is_left
from coproc.tfhe.compressed_list import is_compressed_list
from coproc.tfhe.server_key import load_packing_key
from nurseries.executor import Job
from nurseries.mailbox import ask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from coproc.errors import IrrecoverableError
    from coproc.keyring import KeyCache, KeyFacts
    from coproc.program.types import Handle
    from coproc.scheduling.cache import Value
    from coproc.store.base import StoredCiphertext
    from coproc.store.forms import Compression
    from coproc.store.overview import ViewedStore
    from coproc.tfhe.keys import PackingKey
    from nurseries.executor import JobCall
    from nurseries.mailbox import Mailbox

PACKED_AT_ONCE: Final = 32
"""Values looked at in one step: those of 64 bits take 17 MB, and the packing key is read once for all of them."""
THAWED_AT_ONCE: Final = 8
LEASE_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.5
REST_SECONDS: Final = 30.0
POLL_SECONDS: Final = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def unpack(
    executor: Mailbox[JobCall], stored: Iterable[StoredCiphertext], facts: KeyFacts, key_id: bytes
) -> tuple[dict[Handle, Value], dict[Handle, IrrecoverableError]]:
    """Take compressed values of one key out, on the executor.

    Returns:
        The values, and for what cannot be had, why.
    """
    batch, errors = await trio.to_thread.run_sync(prepare_unpacking, tuple(stored), facts, key_id)
    if batch is None:
        return {}, errors
    outputs = await ask(executor, Job(key_id, batch.circuit, batch.inputs, unpacking=True))
    return batch.values(outputs), errors


@dataclass(frozen=True, slots=True)
class PackerStatistics:
    """What metrics show of it."""

    packed: int = 0
    packed_bytes: int = 0
    """Bytes that the compressed forms take less."""
    unpacked: int = 0
    """Values that were brought back to be read; what jobs read is not counted."""
    failures: int = 0


class Packer:
    """Compresses and brings back; ``run`` is an actor."""

    def __init__(
        self, store: ViewedStore, keys: KeyCache, executor: Mailbox[JobCall], compression: Compression | None
    ) -> None:
        """Compress by that policy, None: not at all. What is compressed is brought back in any case."""
        self._store = store
        self._keys = keys
        self._executor = executor
        self._compression = compression
        self._key: tuple[bytes, PackingKey] | None = None
        self._asked = trio.Event()
        self.statistics = PackerStatistics()

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._thaw_for_ever)
            if self._compression is not None:
                nursery.start_soon(self._pack_for_ever, self._compression)
            task_status.started()

    async def _listen(self) -> None:
        while True:
            try:
                async with self._store.wakeups() as wakeups:
                    async for topic in wakeups:
                        if topic is Topic.THAW:
                            self._asked.set()
            except RecoverableError as error:
                log.warning("no wake-ups", error=error.message)
            await trio.sleep(POLL_SECONDS)

    # ------------------------------------------------------------------------------------ bringing back

    async def _thaw_for_ever(self) -> None:
        while True:
            self._asked = trio.Event()
            try:
                while stored := await self._store.claim_thaws(THAWED_AT_ONCE, LEASE_SECONDS):
                    await self._thaw(stored)
            except FatalError:
                raise
            except CoprocError as error:
                self._count(failures=1)
                log.warning("nothing brought back", **log_fields(error))
            with trio.move_on_after(POLL_SECONDS):
                await self._asked.wait()

    async def _thaw(self, stored: Sequence[StoredCiphertext]) -> None:
        """Bring values back; what cannot be had is not tried again until somebody asks again."""
        forms: dict[Handle, bytes] = {}
        done = [item.handle for item in stored if not is_compressed_list(item.data)]
        for key_id in {item.key_id for item in stored}:
            facts = await self._keys.facts(key_id)
            packed = [item for item in stored if item.key_id == key_id and item.handle not in done]
            values, errors = await unpack(self._executor, packed, facts, key_id)
            for handle, error in errors.items():
                log.warning("a compressed ciphertext cannot be read", handle=handle.hex(), **log_fields(error))
            done += errors
            forms |= await trio.to_thread.run_sync(plain_forms, values, facts)
        await self._store.finish_thaws(forms, done)
        self._count(unpacked=len(forms))

    # -------------------------------------------------------------------------------------- compressing

    async def _pack_for_ever(self, compression: Compression) -> None:
        while True:
            more = False
            try:
                page = await self._store.find_idle(compression, PACKED_AT_ONCE)
                more = page.more
                await self._pack(page.keys)
            except FatalError:
                raise
            except CoprocError as error:
                self._count(failures=1)
                log.warning("nothing compressed", **log_fields(error))
            if not more:
                self._key = None  # 60 MB that nobody needs for a while
            chance = random.uniform(0.5, 1.5)  # noqa: S311 - spreads processes out
            await trio.sleep(PAUSE_SECONDS if more else min(REST_SECONDS, compression.every) * chance)

    async def _pack(self, idle: Mapping[Handle, bytes]) -> None:
        for key_id in sorted(set(idle.values())):
            facts = await self._keys.facts(key_id)
            if facts.compression is None:
                continue
            its_own = [handle for handle, its in idle.items() if its == key_id]
            stored, _ = await read_what_is_left(self._store, its_own)
            plain = [item for item in stored.values() if not is_compressed_list(item.data)]
            if not plain:
                continue
            if self._key is None or self._key[0] != key_id:
                self._key = (key_id, await self._keys.part(key_id, _load_packing))
            forms = await trio.to_thread.run_sync(partial(packed_forms, plain, facts, self._key[1]))
            forms = {handle: data for handle, data in forms.items() if 2 * len(data) < len(stored[handle].data)}
            if forms:
                count = await self._store.change_forms(forms)
                saved = sum(len(stored[handle].data) - len(data) for handle, data in forms.items())
                self._count(packed=count, packed_bytes=saved)
                log.info("compressed", values=count, saved_bytes=saved)

    def _count(self, *, packed: int = 0, packed_bytes: int = 0, unpacked: int = 0, failures: int = 0) -> None:
        before = self.statistics
        self.statistics = replace(
            before,
            packed=before.packed + packed,
            packed_bytes=before.packed_bytes + packed_bytes,
            unpacked=before.unpacked + unpacked,
            failures=before.failures + failures,
        )


async def _load_packing(data: bytes) -> PackingKey:
    return await trio.to_thread.run_sync(load_packing_key, data)
