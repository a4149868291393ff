"""``coproc migrate``: bring a database to this version's schema, and end.

Decides what an operator sees of it; the order and the safety of migrations are decided in ``coproc.store.migrator``.
"""

from __future__ import annotations

import click

from coproc.config import Config
from coproc.telemetry import configure_logging


@click.command()
@click.option("--database-url", help="postgresql://...; or the variable COPROC_DATABASE_URL.")
@click.option("--check", is_flag=True, help="Change nothing; status 1 if the database lacks migrations.")
@click.option("--patience-seconds", type=click.FloatRange(0), default=60.0, show_default=True, help="Wait that long.")
@click.option("--log-format", help="json, console or auto.  [default: auto]")
@click.option("--log-level", help="debug, info, warning or error.  [default: info]")
def migrate(database_url: str | None, *, check: bool, patience_seconds: float, **logging: str | None) -> None:
    """Bring a database to this version's schema.

    Safe to run again, to run twice at once, and while services of the release before are at work.
    """
    import trio  # noqa: PLC0415 - heavy, and --help should be instant

    from coproc.store.migrator import applied_number, shipped_migrations  # noqa: PLC0415 - heavy
    from coproc.store.open import open_store  # noqa: PLC0415 - heavy
    from coproc.store.postgres import PostgresStore  # noqa: PLC0415 - heavy

    config = Config.from_options({"database_url": database_url, **logging})
    configure_logging(config.log_format, config.log_level)
    url = config.database_url
    if url is None or url.startswith("memory:"):
        raise click.UsageError("--database-url (COPROC_DATABASE_URL) must name a Postgres: postgresql://...")

    async def run() -> int:
        async with open_store(url, pool_size=2, patience=patience_seconds, migrating=not check) as store:
            assert isinstance(store, PostgresStore)  # noqa: S101 - what such a URL opens
            async with store.pool.connection() as connection:
                return await applied_number(connection)

    number, shipped = trio.run(run), len(shipped_migrations())
    click.echo(f"the database is at migration {number}; this version ships {shipped}")
    if number < shipped:
        raise click.exceptions.Exit(1)
