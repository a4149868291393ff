"""Who may call, how much, and with what share: tenants and their API keys, in Postgres.

Decides what is kept of them; keys come in as digests and are never seen here. Knows nothing of calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coproc.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.store.pool import Pool


@dataclass(frozen=True, slots=True)
class Tenant:
    """A caller with a share of the machine of its own."""

    name: str
    weight: float = 1.0
    """Its share of the bootstraps while others wait, relative to theirs."""
    max_open_groups: int | None = None
    """The most groups that may wait or compute for it; None: no limit of its own."""
    max_bootstraps_per_request: int | None = None
    is_active: bool = True
    keys: int = 0
    """How many API keys it has."""


_COLUMNS = "t.name, t.weight, t.max_open_groups, t.max_bootstraps_per_request, t.is_active"


async def find_tenant(pool: Pool, key_hash: bytes) -> Tenant | None:
    """Find the active tenant that an API key (its SHA-256) belongs to."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            f"select {_COLUMNS} from api_keys k join tenants t on t.name = k.tenant"  # noqa: S608 - constants
            " where k.key_hash = %s and t.is_active".encode(),
            [key_hash],
        )
        row = await cursor.fetchone()
    return None if row is None else Tenant(*row)


async def list_tenants(pool: Pool) -> Sequence[Tenant]:
    """Read all tenants, by name."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            f"select {_COLUMNS}, (select count(*) from api_keys k where k.tenant = t.name)"  # noqa: S608 - constants
            " from tenants t order by t.name".encode()
        )
        return [Tenant(*row) for row in await cursor.fetchall()]


async def put_tenant(pool: Pool, tenant: Tenant) -> None:
    """Make a tenant, or change one; running services follow within seconds. Raises InvalidInput."""
    if not tenant.name or len(tenant.name) > 200:
        raise InvalidInput("name", "must have 1 to 200 characters")
    if not tenant.weight > 0:
        raise InvalidInput("weight", "must be positive")
    async with pool.connection() as connection:
        await connection.execute(
            "insert into tenants (name, weight, max_open_groups, max_bootstraps_per_request, is_active)"
            " values (%s, %s, %s, %s, %s) on conflict (name) do update set weight = excluded.weight,"
            " max_open_groups = excluded.max_open_groups,"
            " max_bootstraps_per_request = excluded.max_bootstraps_per_request, is_active = excluded.is_active",
            [
                tenant.name,
                tenant.weight,
                tenant.max_open_groups,
                tenant.max_bootstraps_per_request,
                tenant.is_active,
            ],
        )


async def remove_tenant(pool: Pool, name: str) -> None:
    """Forget a tenant and its keys; what it asked for is still computed. Raises NotFound."""
    async with pool.connection() as connection:
        cursor = await connection.execute("delete from tenants where name = %s", [name])
        if await connection.changed_rows(cursor) == 0:
            raise NotFound(f"there is no tenant {name}")


async def add_key(pool: Pool, tenant: str, key_hash: bytes, label: str = "") -> None:
    """Let a key speak for a tenant. Raises NotFound."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "insert into api_keys (key_hash, tenant, label) select %s, name, %s from tenants where name = %s",
            [key_hash, label, tenant],
        )
        if await connection.changed_rows(cursor) == 0:
            raise NotFound(f"there is no tenant {tenant}")


async def remove_key(pool: Pool, key_hash: bytes) -> None:
    """Revoke a key; running services follow within seconds. Raises NotFound."""
    async with pool.connection() as connection:
        cursor = await connection.execute("delete from api_keys where key_hash = %s", [key_hash])
        if await connection.changed_rows(cursor) == 0:
            raise NotFound("there is no such key")
