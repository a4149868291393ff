"""Large values on their way between the database and the object store, while services work.

Decides how a table is gone through, and that a value moves only if it is still the one that was read. Stopping anywhere
loses nothing; going through it again does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from coproc.store import blobs
from coproc.store.depot import settle
from coproc.store.objects import Place
from coproc.store.transactions import Transactional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coproc.store.connection import TrioConnection
    from coproc.store.depot import Depot

AT_ONCE: Final = 8
"""Values moved in one step; the largest take 16.8 MB each."""


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    folder: str
    keys: Mapping[str, str]
    """Columns of the primary key with their types."""

    @property
    def columns(self) -> str:
        return ", ".join(self.keys)

    @property
    def parameters(self) -> str:
        return ", ".join([f"%s::{kind}" for kind in self.keys.values()])

    @property
    def arrays(self) -> str:
        return ", ".join([f"%s::{kind}[]" for kind in self.keys.values()])

    @property
    def same(self) -> str:
        return " and ".join([f"t.{column} = item.{column}" for column in self.keys])


TABLES: Final = (
    _Table("ciphertexts", blobs.FOLDER, {"handle": "bytea"}),
    _Table("key_chunks", blobs.KEY_FOLDER, {"upload": "uuid", "position": "integer"}),
)
_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """What a step did."""

    values: int = 0
    size: int = 0
    """Bytes."""
    lost: int = 0
    """Values that the object store does not have any more; they stay as they are."""

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.values + other.values, self.size + other.size, self.lost + other.lost)


class Tells(Protocol):
    """Hears of every step."""

    def __call__(self, table: str, so_far: Moved) -> None:
        """Take in what has been moved of a table so far."""
        ...


class Mover(Transactional):
    """Moves everything one way."""

    def __init__(self, depot: Depot) -> None:
        self.pool = depot.pool
        self._depot = depot

    async def to_store(self, tell: Tells) -> None:
        """Move what is large enough into the object store. Raises RecoverableError."""
        for table in TABLES:
            where = f"object is null and octet_length(data) >= {self._depot.from_bytes:d}"
            await self._go_through(table, "data", where, tell, inward=False)

    async def to_database(self, tell: Tells) -> bool:
        """Move everything back; returns whether nothing is left in the object store. Raises RecoverableError."""
        for table in TABLES:
            await self._go_through(table, "object, size, digest", "object is not null", tell, inward=True)
        async with self.pool.connection() as connection:
            await connection.execute(
                "update object_home set is_marked = false"
                " where not exists (select from ciphertexts where object is not null)"
                " and not exists (select from key_chunks where object is not null)"
            )
        return not await self._depot.has_objects()

    async def _go_through(self, table: _Table, columns: str, where: str, tell: Tells, *, inward: bool) -> None:
        moved, after = Moved(), list[object]()
        while True:
            beyond = f"({table.columns}) > ({table.parameters}) and" if after else ""
            async with self.pool.connection() as connection:
                cursor = await connection.execute(
                    f"select {table.columns}, {columns} from {table.name} where {beyond} {where}"  # noqa: S608 - constants
                    f" order by {table.columns} limit {AT_ONCE}".encode(),
                    after,
                    binary=True,
                )
                rows = await cursor.fetchall()
            if not rows:
                return
            width = len(table.keys)
            found = {tuple(row[:width]): row[width:] for row in rows}
            if inward:
                moved += await self._bring_back(table, {key: Place(*values) for key, values in found.items()})
            else:
                moved += await self._put_away(table, {key: data for key, (data,) in found.items()})
            tell(table.name, moved)
            after = list(rows[-1][:width])

    async def _put_away(self, table: _Table, values: Mapping[_Key, bytes]) -> Moved:
        places = await self._depot.deposit(table.folder, values)
        keys = list(places)

        async def work(connection: TrioConnection) -> Sequence[_Key]:
            cursor = await connection.execute(
                f"update {table.name} t set data = '', object = item.object, size = item.size, digest = item.digest"  # noqa: S608 - constants
                f" from unnest({table.arrays}, %s::text[], %s::bigint[], %b::bytea[])"
                f" as item ({table.columns}, object, size, digest)"
                f" where {table.same} and t.object is null and sha256(t.data) = item.digest"
                f" returning {', '.join(f't.{column}' for column in table.keys)}".encode(),
                [*_columns(table, keys), *blobs.columns(keys, values, places)[1:]],
                binary=True,
            )
            changed = [tuple(row) for row in await cursor.fetchall()]
            await settle(connection, [places[key].name for key in changed])
            return changed

        changed = await self._atomically(work)
        return Moved(len(changed), sum(places[key].size for key in changed))

    async def _bring_back(self, table: _Table, places: Mapping[_Key, Place]) -> Moved:
        read, lost = await self._depot.fetch(places)
        keys = list(read)

        async def work(connection: TrioConnection) -> int:
            cursor = await connection.execute(
                f"update {table.name} t set data = item.data, object = null, size = null, digest = null"  # noqa: S608 - constants
                f" from unnest({table.arrays}, %s::text[], %b::bytea[]) as item ({table.columns}, object, data)"
                f" where {table.same} and t.object = item.object".encode(),
                [*_columns(table, keys), [places[key].name for key in keys], [read[key] for key in keys]],
            )
            return await connection.changed_rows(cursor)

        count = await self._atomically(work)
        return Moved(count, sum(places[key].size for key in keys), len(lost))


def _columns(table: _Table, keys: Sequence[_Key]) -> list[list[object]]:
    return [[key[number] for key in keys] for number in range(len(table.keys))]
