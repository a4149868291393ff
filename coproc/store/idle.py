"""Changing the form of stored ciphertexts in Postgres.

Decides the SQL of ``forms.FormsStore``. Every function runs inside a transaction. A schema of the release before has no
tables for it: then nothing is ever idle, and nothing waits to be brought back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from coproc.metrics import timed_operation
from coproc.program.types import Handle
from coproc.store import blobs, graph, sweep
from coproc.store.base import Topic
from coproc.store.depot import settle
from coproc.store.forms import IdleValues
from coproc.store.tables import NEWEST, has_table
from coproc.store.transactions import Transactional

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from coproc.store.base import StoredCiphertext
    from coproc.store.connection import TrioConnection
    from coproc.store.depot import Depot
    from coproc.store.forms import Compression
    from coproc.store.objects import Place

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_IDLE: Final = """
    select x.handle, x.key_id from ciphertexts x left join computations c on c.output = x.handle
    where x.handle = any(%s) and coalesce(x.size, octet_length(x.data)) > %s and (x.is_allowed or c.output is not null)
      and not exists (
          select from computation_inputs i
          join computations r on r.output = i.output join work_groups w on w.group_id = r.group_id
          where i.input = x.handle
            and (w.state in (0, 1, 2) or w.created_at > clock_timestamp() - make_interval(secs => %s))
      )
"""
_CLAIM: Final = """
    update thaws set lease_until = clock_timestamp() + make_interval(secs => %s)
    where handle in (
        select handle from thaws where lease_until is null or lease_until <= clock_timestamp()
        order by asked_at, handle limit %s for update skip locked
    )
    returning handle
"""


async def find(connection: TrioConnection, compression: Compression, limit: int) -> IdleValues:
    """Take a step of the sweep; see ``FormsStore.find_idle``."""
    if not await has_table(connection, NEWEST):
        return IdleValues({}, more=False)
    page = await sweep.next_page(connection, "compression", compression.every, compression.after, limit)
    if page is None:
        return IdleValues({}, more=False)
    cursor = await connection.execute(_IDLE, [page.handles, compression.larger_than, compression.after], binary=True)
    return IdleValues({Handle(handle): key_id for handle, key_id in await cursor.fetchall()}, page.more)


async def change(
    connection: TrioConnection, forms: Mapping[Handle, bytes], places: Mapping[Handle, Place], *, anew: bool = False
) -> int:
    """Put other bytes; see ``FormsStore.change_forms``. ``anew``: they count as uploaded just now."""
    handles = sorted(forms)
    await connection.execute("select from ciphertexts where handle = any(%s) order by handle for update", [handles])
    await connection.execute(
        "insert into originals (handle, key_id, digest)"
        " select x.handle, x.key_id, coalesce(x.digest, sha256(x.data)) from ciphertexts x where x.handle = any(%s)"
        " and not exists (select from computations c where c.output = x.handle) on conflict do nothing",
        [handles],
    )
    moment = b", created_at = clock_timestamp()" if anew else b""
    cursor = await connection.execute(
        b"update ciphertexts x set data = item.data, object = item.object, size = item.size, digest = item.digest"
        + moment
        + b" from unnest(%b::bytea[], %b::bytea[], %s::text[], %s::bigint[], %b::bytea[])"
        b" as item (handle, data, object, size, digest) where x.handle = item.handle returning x.handle",
        [handles, *blobs.columns(handles, forms, places)],
        binary=True,
    )
    changed = {Handle(handle) for (handle,) in await cursor.fetchall()}
    await settle(connection, [place.name for handle, place in places.items() if handle in changed])
    return len(changed)


async def ask(connection: TrioConnection, handles: Collection[Handle]) -> None:
    """Ask for plain forms; see ``FormsStore.ask_plain``."""
    await connection.execute(
        "insert into thaws (handle) select unnest(%s::bytea[]) on conflict do nothing", [sorted(handles)]
    )
    await graph.notify(connection, Topic.THAW)


async def claim(connection: TrioConnection, limit: int, lease_seconds: float) -> blobs.Found:
    """Take what was asked for; see ``FormsStore.claim_thaws``."""
    if not await has_table(connection, NEWEST):
        return blobs.Found({}, {})
    cursor = await connection.execute(_CLAIM, [lease_seconds, limit], binary=True)
    handles = [Handle(handle) for (handle,) in await cursor.fetchall()]
    found = await blobs.get_ciphertexts(connection, handles)
    await forget(connection, [handle for handle in handles if handle not in found.items])
    return found


async def forget(connection: TrioConnection, handles: Collection[Handle]) -> None:
    """Nobody waits for these any more."""
    if handles:
        await connection.execute("delete from thaws where handle = any(%s)", [sorted(handles)])


class PostgresForms(Transactional):
    """``FormsStore`` over a pool of connections."""

    depot: Depot

    @timed_operation
    async def find_idle(self, compression: Compression, limit: int) -> IdleValues:
        """Take a step of a sweep; see ``FormsStore.find_idle``."""
        return await self._atomically(lambda connection: find(connection, compression, limit))

    @timed_operation
    async def change_forms(self, forms: Mapping[Handle, bytes]) -> int:
        """Put other bytes; see ``FormsStore.change_forms``."""
        places = await self.depot.deposit(blobs.FOLDER, forms)
        return await self._atomically(lambda connection: change(connection, forms, places))

    @timed_operation
    async def ask_plain(self, handles: Collection[Handle]) -> None:
        """Ask for plain forms; see ``FormsStore.ask_plain``."""
        await self._atomically(lambda connection: ask(connection, handles))

    @timed_operation
    async def claim_thaws(self, limit: int, lease_seconds: float) -> Sequence[StoredCiphertext]:
        """Take what was asked for; see ``FormsStore.claim_thaws``."""
        claimed = await self._atomically(lambda connection: claim(connection, limit, lease_seconds))
        whole, lost = await blobs.complete(self.depot, claimed)
        if lost:  # nobody can bring these back
            log.error("compressed ciphertexts are lost", handles=[handle.hex() for handle in lost])
            await self._atomically(lambda connection: forget(connection, lost))
        return list(whole.values())

    @timed_operation
    async def finish_thaws(self, forms: Mapping[Handle, bytes], failed: Collection[Handle] = ()) -> None:
        """Store plain forms; see ``FormsStore.finish_thaws``."""
        places = await self.depot.deposit(blobs.FOLDER, forms)

        async def work(connection: TrioConnection) -> None:
            await change(connection, forms, places, anew=True)
            await forget(connection, [*forms, *failed])
            await graph.notify(connection, Topic.RESULTS)

        await self._atomically(work)
