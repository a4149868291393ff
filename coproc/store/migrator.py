"""Bring a database to the schema that this version of the code expects.

Decides the order and the safety of migrations: forward only, all or none, never two processes at once, and a file
that was applied is never changed. Knows nothing of what the statements do.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from coproc.errors import FatalError, RecoverableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.store.connection import TrioConnection

LOCK: Final = 0x636F_7072_6F63_0001
"""Key of the advisory lock ("coproc", 1)."""


OLDEST_SCHEMA: Final = 3
"""The migration of the release before: this version's code works on its schema, too, so that a rollout and the
migration may come in any order. A release raises it to what the release before shipped, never further."""


class MigrationError(FatalError):
    """The database and the shipped migrations contradict each other."""

    rule = "MIGRATION_MISMATCH"


class NotMigrated(RecoverableError):
    """The database lacks migrations of this version: somebody has to run them first."""

    rule = "NOT_MIGRATED"


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> bytes:
        """SHA-256 of the text."""
        return hashlib.sha256(self.sql.encode()).digest()


def shipped_migrations() -> list[Migration]:
    """Read the migrations of this version, ``migrations/NNNN_name.sql``, in order.

    Raises:
        MigrationError: if their numbers are not 1, 2, 3, ...
    """
    folder = files("coproc.store").joinpath("migrations")
    names = [(match, file) for file in folder.iterdir() if (match := re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name))]
    found = [Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")) for match, file in names]
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError("migrations are not numbered without gaps")
    return found


async def migrate(connection: TrioConnection, migrations: Sequence[Migration] | None = None) -> int:
    """Apply what the database lacks; other processes that try the same wait.

    A database that is ahead is left alone: during a rolling update the older release goes on with the newer schema.

    Args:
        connection: in autocommit mode.
        migrations: those to apply, the shipped ones by default.

    Returns:
        How many were applied.

    Raises:
        MigrationError: if an applied migration differs from the shipped one of the same number.
    """
    migrations = shipped_migrations() if migrations is None else migrations
    applied = 0
    async with connection.transaction():  # the lock ends with it, whatever happens
        await connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
        await connection.execute(
            "create table if not exists migrations (number integer primary key, name text not null,"
            " checksum bytea not null, applied_at timestamptz not null default now())",
        )
        cursor = await connection.execute("select number, checksum from migrations", binary=True)
        known: dict[int, bytes] = {int(number): bytes(checksum) for number, checksum in await cursor.fetchall()}
        for migration in migrations:
            checksum = known.get(migration.number)
            if checksum is None:
                await _apply(connection, migration)
                applied += 1
            elif checksum != migration.checksum:
                message = f"migration {migration.number} ({migration.name}) was applied with another text"
                raise MigrationError(message, number=migration.number)
    return applied


async def _apply(connection: TrioConnection, migration: Migration) -> None:
    await connection.execute(migration.sql.encode(), prepare=False)
    await connection.execute(
        "insert into migrations (number, name, checksum) values (%s, %s, %s)",
        [migration.number, migration.name, migration.checksum],
    )


async def applied_number(connection: TrioConnection) -> int:
    """Tell the newest migration of the database, 0 for an empty one; needs no rights but reading."""
    cursor = await connection.execute("select to_regclass('migrations') is not null")
    row = await cursor.fetchone()
    if row is None or not row[0]:
        return 0
    cursor = await connection.execute("select coalesce(max(number), 0) from migrations")
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


async def require_migrated(connection: TrioConnection) -> None:
    """Check that the database is at least where the release before left it.

    Raises:
        NotMigrated: it is not; run ``coproc migrate``.
    """
    applied = await applied_number(connection)
    if applied < OLDEST_SCHEMA:
        raise NotMigrated(
            f"the database is at migration {applied}, this version needs {OLDEST_SCHEMA}: run coproc migrate",
            applied=applied,
            needed=OLDEST_SCHEMA,
        )
