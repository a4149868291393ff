"""``coproc tenants ...``: who may call, how much, and with what share.

Decides what an operator types and sees; the records are ``coproc.store.tenants``'.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from coproc.config import Config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coproc.store.pool import Pool

R = TypeVar("R")
_URL = click.option("--database-url", help="postgresql://...; or the variable COPROC_DATABASE_URL.")


def _with_pool(database_url: str | None, work: Callable[[Pool], Awaitable[R]]) -> R:
    import trio  # noqa: PLC0415 - heavy, and --help should be instant

    from coproc.store.open import open_store  # noqa: PLC0415 - heavy
    from coproc.store.postgres import PostgresStore  # noqa: PLC0415 - heavy

    url = Config.from_options({"database_url": database_url}).database_url
    if url is None or url.startswith("memory:"):
        raise click.UsageError("--database-url (COPROC_DATABASE_URL) must name a Postgres: postgresql://...")

    async def run() -> R:
        async with open_store(url, pool_size=2, patience=10.0, migrating=False) as store:
            assert isinstance(store, PostgresStore)  # noqa: S101 - what such a URL opens
            return await work(store.pool)

    return trio.run(run)


@click.group()
def tenants() -> None:
    """Manage tenants and their API keys (for services with COPROC_REQUIRE_API_KEYS=true)."""


@tenants.command("set")
@click.argument("name")
@click.option("--weight", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Its share.")
@click.option("--max-open-groups", type=click.IntRange(0), help="The most groups that may wait for it.")
@click.option("--max-bootstraps-per-request", type=click.IntRange(0), help="The most one request may cost.")
@click.option("--inactive", is_flag=True, help="Refuse its calls.")
@_URL
def set_tenant(
    name: str,
    *,
    weight: float,
    max_open_groups: int | None,
    max_bootstraps_per_request: int | None,
    inactive: bool,
    database_url: str | None,
) -> None:
    """Make or change a tenant."""
    from coproc.store.tenants import Tenant, put_tenant  # noqa: PLC0415 - heavy

    tenant = Tenant(name, weight, max_open_groups, max_bootstraps_per_request, not inactive)
    _with_pool(database_url, partial(put_tenant, tenant=tenant))


@tenants.command("list")
@_URL
def list_all(database_url: str | None) -> None:
    """Show all tenants."""
    from coproc.store.tenants import list_tenants  # noqa: PLC0415 - heavy

    for tenant in _with_pool(database_url, list_tenants):
        open_groups, bootstraps = tenant.max_open_groups, tenant.max_bootstraps_per_request
        click.echo(
            f"{tenant.name}: weight {tenant.weight:g}, {tenant.keys} keys,"
            f" at most {'any number of' if open_groups is None else open_groups} open groups,"
            f" {'any number of' if bootstraps is None else bootstraps} bootstraps a request"
            f"{'' if tenant.is_active else ', inactive'}"
        )


@tenants.command("remove")
@click.argument("name")
@_URL
def remove(name: str, database_url: str | None) -> None:
    """Forget a tenant and its keys."""
    from coproc.store.tenants import remove_tenant  # noqa: PLC0415 - heavy

    _with_pool(database_url, partial(remove_tenant, name=name))


@tenants.command("new-key")
@click.argument("name")
@click.option("--label", default="", help="What the key is for.")
@_URL
def new_key(name: str, label: str, database_url: str | None) -> None:
    """Make an API key and print it: it is shown once, and kept as a digest."""
    from coproc.api.caller import hash_api_key, new_api_key  # noqa: PLC0415 - heavy
    from coproc.store.tenants import add_key  # noqa: PLC0415 - heavy

    key = new_api_key()
    _with_pool(database_url, partial(add_key, tenant=name, key_hash=hash_api_key(key), label=label))
    click.echo(key)


@tenants.command("revoke-key")
@click.argument("key")
@_URL
def revoke_key(key: str, database_url: str | None) -> None:
    """Revoke an API key."""
    from coproc.api.caller import hash_api_key  # noqa: PLC0415 - heavy
    from coproc.store.tenants import remove_key  # noqa: PLC0415 - heavy

    _with_pool(database_url, partial(remove_key, key_hash=hash_api_key(key)))
