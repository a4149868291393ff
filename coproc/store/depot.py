"""What of a store in Postgres is in an object store, and how the two are kept in step.

Decides the order of things, so that a crash at any point loses no bytes and forgets no object:

- A name is written down (``loose_objects``), then the object is stored under it, then the transaction whose row refers
  to it takes the name off that list. Names are never used twice, so that nothing that happens to one object can harm
  another.
- When a row goes or changes, the database itself puts the name back on the list (a trigger).
- What has been on the list for longer than ``keep_seconds`` is doomed first, after which no transaction can take it off
  any more, then deleted, then forgotten.

Bytes are checked against their digest whenever they are read. All calls of the object store are made here, tried again
with growing pauses behind a circuit breaker, and never while a transaction is open.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio

from coproc.errors import CoprocError, RecoverableError, log_fields
from coproc.resilience import Breaker, BreakerState, FullJitter, Guard, RetryPolicy, retry
from coproc.store.objects import FROM_BYTES, KEEP_SECONDS, ObjectLocked, ObjectLost, ObjectStoreUnavailable, Place
from coproc.store.tables import NEWEST, has_table
from coproc.store.transactions import Transactional

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping

    from coproc.store.connection import TrioConnection
    from coproc.store.objects import ObjectStore
    from coproc.store.pool import Pool

K = TypeVar("K", bound="Hashable")
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
T = TypeVar("T")

AT_ONCE: Final = 8
"""Calls of the object store under way at once."""
BREAKER: Final = Breaker(threshold=5, cooldown=5.0)
POLICY: Final = RetryPolicy(attempts=4, seconds=4.0, backoff=FullJitter(0.1, 1.0))
"""Less patience than the breaker's cooldown: while it is open, callers hear so at once."""
CHECK_SECONDS: Final = 10.0
"""How often the object store is asked for a sign of life."""
SIGN_SECONDS: Final = 5.0
"""How long it may take to give one."""
DELETED_AT_ONCE: Final = 100
HASHED_AT_ONCE: Final = 1 << 18
"""Bytes that take less time to hash, half a millisecond, than it is worth to ask a thread."""
MARK: Final = "coproc"
"""Name of the object that says whose folder this is."""
NOT_SET: Final = (
    "values of this database are in an object store, which this process is not told of: set object_store_url"
)

_DOOM: Final = """
    update loose_objects set is_doomed = true
    where name in (
        select name from loose_objects where since <= clock_timestamp() - make_interval(secs => %s)
        order by since, name limit %s for update skip locked
    )
    returning name
"""


class Depot(Transactional):
    """The part of a store that is in an object store, if there is one."""

    def __init__(
        self,
        pool: Pool,
        objects: ObjectStore | None = None,
        *,
        from_bytes: int = FROM_BYTES,
        keep_seconds: float = KEEP_SECONDS,
        policy: RetryPolicy = POLICY,
        breaker: Breaker | None = None,
    ) -> None:
        """Keep values of ``from_bytes`` and more in ``objects``; without one everything stays in the database."""
        self.pool = pool
        self.guard = Guard("object_store", breaker or BREAKER)
        self._objects = objects
        self.from_bytes = from_bytes
        self._keep_seconds = keep_seconds
        self._policy = policy
        self._home_id: str | None = None
        self._settling_in = trio.Lock()
        self._checked_at = -math.inf
        self._limiter = trio.CapacityLimiter(AT_ONCE)

    @property
    def is_used(self) -> bool:
        """Whether there is an object store, or should be one."""
        return self._objects is not None or self.guard.error is not None

    def takes(self, data: bytes) -> bool:
        """Whether a value is of the size that goes to the object store."""
        return self._objects is not None and len(data) >= self.from_bytes

    # ------------------------------------------------------------------------------------------- in and out

    async def deposit(
        self, folder: str, values: Mapping[K, bytes], digests: Mapping[K, bytes] | None = None
    ) -> dict[K, Place]:
        """Store those values that are large enough; ``settle`` makes rows refer to them.

        Args:
            folder: groups objects for people.
            values: by whatever the caller calls them.
            digests: their SHA-256, where known already.

        Returns:
            Where they are; what is not named stays in the database.
        """
        large = {key: data for key, data in values.items() if self.takes(data)}
        if self._objects is None or not large or not await self._is_possible():
            return {}
        home = await self._home(self._objects)
        digests = digests or await digests_of(large)
        places = {
            key: Place(f"{home}/{folder}/{uuid.uuid4().hex}", len(data), digests[key]) for key, data in large.items()
        }
        async with self.pool.connection() as connection:
            await connection.execute(
                "insert into loose_objects (name) select unnest(%s::text[])",
                [[place.name for place in places.values()]],
            )
        put = self._objects.put
        await self._side_by_side(
            partial(self._call, partial(put, place.name, large[key], place.digest), "storing an object")
            for key, place in places.items()
        )
        return places

    async def fetch(self, places: Mapping[K, Place]) -> tuple[dict[K, bytes], dict[K, ObjectLost]]:
        """Read bytes back; what cannot be had any more is named with why."""
        read: dict[K, bytes] = {}
        lost: dict[K, ObjectLost] = {}
        if not places:
            return read, lost
        if self._objects is None:
            raise ObjectStoreUnavailable(NOT_SET)
        await self._home(self._objects)

        async def fetch_one(objects: ObjectStore, key: K, place: Place) -> None:
            try:
                read[key] = await self._read(objects, place)
            except ObjectLost as error:
                lost[key] = error

        await self._side_by_side(partial(fetch_one, self._objects, key, place) for key, place in places.items())
        return read, lost

    async def _read(self, objects: ObjectStore, place: Place) -> bytes:
        for _ in range(2):  # bytes may have been spoiled on their way
            data = await self._call(partial(objects.get, place.name, place.size), "reading an object")
            if await trio.to_thread.run_sync(place.holds, data):
                return data
        raise ObjectLost("the object store has other bytes than were stored", object=place.name)

    # ---------------------------------------------------------------------------------------------- garbage

    async def sweep(self) -> tuple[int, bool]:
        """Delete objects that nothing has referred to for long; returns how many, and whether there are more.

        Raises RecoverableError when the object store is out of reach.
        """
        objects = self._objects
        if objects is None or not await self._is_possible():
            return 0, False
        await self._home(objects)

        async def doom(connection: TrioConnection) -> list[str]:
            cursor = await connection.execute(_DOOM, [self._keep_seconds, DELETED_AT_ONCE])
            return [name for (name,) in await cursor.fetchall()]

        doomed = await self._atomically(doom)
        if not doomed:
            return 0, False
        gone: list[str] = []
        locked: list[str] = []

        async def delete(name: str) -> None:
            try:
                await self._call(partial(objects.delete, name), "deleting an object")
                gone.append(name)
            except ObjectLocked as error:
                locked.append(name)
                log.warning("an object stays", **log_fields(error))

        try:
            await self._side_by_side(partial(delete, name) for name in doomed)
        finally:
            with trio.move_on_after(SIGN_SECONDS, shield=True):
                async with self.pool.connection() as connection:
                    await connection.execute("delete from loose_objects where name = any(%s)", [gone])
                    # To the end of the queue, so that they hold up nothing else.
                    await connection.execute(
                        "update loose_objects set since = clock_timestamp() where name = any(%s)", [locked]
                    )
        return len(gone), len(doomed) == DELETED_AT_ONCE

    # ----------------------------------------------------------------------------------------------- health

    async def check(self) -> None:
        """Ask the object store for a sign of life, every now and then; it tells the guard.

        Raises:
            RecoverableError: there is none.
        """
        is_fine = self.guard.state is BreakerState.CLOSED and self.guard.error is None
        if is_fine and trio.current_time() < self._checked_at + CHECK_SECONDS:
            return
        if self._objects is None:
            is_missing = await self.has_objects()
            with self.guard.calling():
                if is_missing:
                    raise ObjectStoreUnavailable(NOT_SET)
        else:
            await self._sign_of_life(self._objects, await self._home(self._objects))
        self._checked_at = trio.current_time()

    async def has_objects(self) -> bool:
        """Whether something of this database was ever put into an object store, and not all of it brought back."""
        if not await self._is_possible():
            return False
        async with self.pool.connection() as connection:
            cursor = await connection.execute("select from object_home where is_marked")
            return await cursor.fetchone() is not None

    async def _home(self, objects: ObjectStore) -> str:
        """Find this database's folder, or make it. An empty bucket is told from a wrong one by the mark in it."""
        async with self._settling_in:
            if self._home_id is None:
                async with self.pool.connection() as connection:
                    await connection.execute("insert into object_home default values on conflict do nothing")
                    cursor = await connection.execute("select id::text, is_marked from object_home")
                    ((home, is_marked),) = await cursor.fetchall()
                if is_marked:
                    await self._sign_of_life(objects, home)
                else:
                    mark = b"Ciphertexts and server keys of one coproc database.\n"
                    digest = hashlib.sha256(mark).digest()
                    await self._call(partial(objects.put, f"{home}/{MARK}", mark, digest), "marking the object store")
                    async with self.pool.connection() as connection:
                        await connection.execute("update object_home set is_marked = true")
                self._home_id = str(home)
            return self._home_id

    async def _sign_of_life(self, objects: ObjectStore, home: str) -> None:
        with self.guard.calling():
            with trio.move_on_after(SIGN_SECONDS):
                try:
                    await objects.get(f"{home}/{MARK}", 4096)
                except ObjectLost as error:
                    raise ObjectStoreUnavailable(
                        "object store: this database's objects are not here; is object_store_url right?", home=home
                    ) from error
                return
            raise ObjectStoreUnavailable("object store: no answer in time")

    async def aclose(self) -> None:
        """Close connections to the object store."""
        if self._objects is not None:
            await self._objects.aclose()

    # ------------------------------------------------------------------------------------------------- calls

    async def _call(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        async with self._limiter:
            return await retry(call, self._policy, what=what, guard=self.guard)

    async def _side_by_side(self, calls: Iterable[Callable[[], Awaitable[object]]]) -> None:
        """Make calls at the same time. Raises the first error of ours, and leaves the rest undone."""
        left = iter(calls)
        if self.guard.state is not BreakerState.CLOSED and (first := next(left, None)) is not None:
            await first()  # one finds out how things are; all others would be refused meanwhile
        failures: list[CoprocError] = []

        async def run(call: Callable[[], Awaitable[object]], nursery: trio.Nursery) -> None:
            try:
                await call()
            except CoprocError as error:
                failures.append(error)
                nursery.cancel_scope.cancel(reason="another call failed")

        async with trio.open_nursery() as nursery:
            for call in left:
                nursery.start_soon(run, call, nursery)
        if failures:
            raise failures[0]

    async def _is_possible(self) -> bool:
        async with self.pool.connection() as connection:
            return await has_table(connection, NEWEST)


async def settle(connection: TrioConnection, names: Collection[str]) -> None:
    """Let this transaction's rows refer to objects that were stored for them.

    Raises:
        RecoverableError: it took so long that they are being deleted; store them anew.
    """
    if not names:
        return
    cursor = await connection.execute(
        "delete from loose_objects where name = any(%s) and not is_doomed", [sorted(names)]
    )
    if await connection.changed_rows(cursor) != len(names):
        raise RecoverableError("an object waited too long for its row", objects=len(names))


async def digests_of(values: Mapping[K, bytes]) -> dict[K, bytes]:
    """Compute SHA-256 of values; of many bytes on a thread."""

    def compute() -> dict[K, bytes]:
        return {key: hashlib.sha256(data).digest() for key, data in values.items()}

    if sum(map(len, values.values())) <= HASHED_AT_ONCE:
        return compute()
    return await trio.to_thread.run_sync(compute)
