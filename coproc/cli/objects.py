"""``coproc objects ...``: large values into the object store, and back into the database.

Decides what an operator types and sees; ``coproc.store.moving`` moves. The object store is that of the configuration
(``COPROC_OBJECT_STORE_URL`` and what belongs to it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from coproc.config import Config
from coproc.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coproc.store.moving import Moved, Mover

R = TypeVar("R")
_URL = click.option("--database-url", help="postgresql://...; or the variable COPROC_DATABASE_URL.")


def _with_mover(database_url: str | None, work: Callable[[Mover], Awaitable[R]]) -> R:
    import trio  # noqa: PLC0415 - heavy, and --help should be instant

    from coproc.store.moving import Mover  # noqa: PLC0415 - heavy
    from coproc.store.open import open_store  # noqa: PLC0415 - heavy
    from coproc.store.postgres import PostgresStore  # noqa: PLC0415 - heavy

    config = Config.from_options({"database_url": database_url})
    url, objects = config.database_url, config.object_store
    if url is None or url.startswith("memory:"):
        raise click.UsageError("--database-url (COPROC_DATABASE_URL) must name a Postgres: postgresql://...")
    if objects is None:
        raise click.UsageError("COPROC_OBJECT_STORE_URL must name the object store")

    async def run() -> R:
        async with open_store(url, pool_size=2, patience=10.0, migrating=False, objects=objects) as store:
            assert isinstance(store, PostgresStore)  # noqa: S101 - what such a URL opens
            return await work(Mover(store.depot))

    return trio.run(run)


def _tell(table: str, so_far: Moved) -> None:
    lost = f", {so_far.lost} lost" if so_far.lost else ""
    click.echo(f"{table}: {so_far.values} moved, {so_far.size / 2**20:.1f} MiB{lost}")


@click.group()
def objects() -> None:
    """Move large values between the database and the object store; services may run meanwhile."""


@objects.command("to-store")
@_URL
def to_store(database_url: str | None) -> None:
    """Put what is in the database, and large enough, into the object store."""
    _with_mover(database_url, lambda mover: mover.to_store(_tell))


@objects.command("to-database")
@_URL
def to_database(database_url: str | None) -> None:
    """Bring everything back; the exit status is 1 while something is left in the object store."""
    if not _with_mover(database_url, lambda mover: mover.to_database(_tell)):
        raise FatalError("something is left in the object store: lost, or stored meanwhile; run this again")
    click.echo("nothing is left in the object store")
