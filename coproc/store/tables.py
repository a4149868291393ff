"""Which tables a database has: code of this release also runs on the schema of the release before.

Decides that a table which is there stays there, so that every connection asks once. Must not know what tables hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from coproc.store.connection import TrioConnection

NEWEST: Final = "loose_objects"
"""The table that came last: a database that has it has all of this release's."""
_SEEN: Final[WeakKeyDictionary[TrioConnection, set[str]]] = WeakKeyDictionary()


async def has_table(connection: TrioConnection, name: str) -> bool:
    """Whether the database has a table."""
    seen = _SEEN.setdefault(connection, set())
    if name not in seen:
        cursor = await connection.execute("select to_regclass(%s) is not null", [name])
        row = await cursor.fetchone()
        if row is None or not row[0]:
            return False
        seen.add(name)
    return True
