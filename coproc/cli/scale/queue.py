"""A queue of any length, and what a claim reads of it, page by page.

Decides the mixture: groups that are ready, that wait for another one's result, and that busy workers hold, of a
hundred tenants and of nobody. Pages are counted by Postgres itself (EXPLAIN with BUFFERS, for every statement of a
claim as the store makes them), so that the figures are exact and the same on every machine.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from coproc.store import claims
from coproc.store.base import State
from coproc.store.connection import TrioConnection

if TYPE_CHECKING:
    from psycopg import AsyncCursor
    from psycopg.abc import Params, QueryNoTemplate
    from psycopg.rows import TupleRow

KEY: Final = b"a key that nothing is computed with"
TENANTS: Final = 100
CLAIMED_AT_ONCE: Final = 64
# Of every 16 groups 8 are ready, 6 wait for a result of the group before, and 2 are under a lease that lasts.
_STATE: Final = f"""
    case when n %% 16 < 8 then {State.READY:d} when n %% 16 < 14 then {State.WAITING:d} else {State.COMPUTING:d} end
"""
# Handles like those of contracts: without order, with their type and version at the end.
_HANDLE: Final = """
    create function pg_temp.handle(kind text, n bigint) returns bytea language sql immutable as
    $$ select substr(sha256(convert_to(kind || n, 'utf8')), 1, 30) || '\\x0500'::bytea $$
"""
_KEY: Final = """
    insert into keys (key_id, size, parameters, upload) values (%(key)s, 1, 'none', gen_random_uuid())
"""
_INPUTS: Final = """
    insert into ciphertexts (handle, key_id, data, is_allowed)
    select pg_temp.handle('input', n), %(key)s, '', true from generate_series(0, 999) n
"""
_GROUPS: Final = f"""
    insert into work_groups (key_id, transaction_id, state, tenant, worker, lease_until)
    select %(key)s, pg_temp.handle('transaction', n), {_STATE},
           case when n %% 3 > 0 then 'tenant ' || (n %% 317) * (n %% 317) %% {TENANTS} end,
           case when n %% 16 >= 14 then 'worker ' || n %% 1000 end,
           case when n %% 16 >= 14 then now() + interval '1 hour' end
    from generate_series(0, %(groups)s - 1) n order by n
"""  # noqa: S608 - constants
# An addition of two values: the first one is the result of the group before where a group waits.
_COMPUTATIONS: Final = """
    insert into computations (output, group_id, position, operation, operands, is_allowed)
    select pg_temp.handle('output', n), n + 1, 0, 0,
           '\\x0000000020'::bytea || first.handle || '\\x0000000020'::bytea || pg_temp.handle('input', n * 7 %% 1000),
           true
    from generate_series(0, %(groups)s - 1) n, lateral (
        select case when n %% 16 between 8 and 13 then pg_temp.handle('output', n - 1)
        else pg_temp.handle('input', n %% 1000) end
    ) as first (handle) order by n
"""
_EDGES: Final = """
    insert into computation_inputs (input, output)
    select case when n %% 16 between 8 and 13 then pg_temp.handle('output', n - 1)
           else pg_temp.handle('input', n %% 1000) end, pg_temp.handle('output', n)
    from generate_series(0, %(groups)s - 1) n
    union
    select pg_temp.handle('input', n * 7 %% 1000), pg_temp.handle('output', n)
    from generate_series(0, %(groups)s - 1) n
"""
_LINKS: Final = """
    insert into transaction_outputs (transaction_id, output)
    select pg_temp.handle('transaction', n), pg_temp.handle('output', n) from generate_series(0, %(groups)s - 1) n
"""


@dataclass(frozen=True, slots=True)
class ClaimCost:
    """What one claim costs on a queue of some length."""

    groups: int
    """Open groups in the queue."""
    claimed: int
    pages: float
    """Pages touched by all statements of a claim, the mean of some claims one after the other."""
    claim_pages: float
    """Pages touched by the statement that finds the groups."""
    milliseconds: float
    """Time of a claim, from begin to commit, the least of some: a hint, since it depends on the machine."""


async def fill(connection: TrioConnection, groups: int) -> None:
    """Fill an empty, migrated database, and let the planner know it."""
    async with connection.transaction():
        for statement in (_HANDLE, _KEY, _INPUTS, _GROUPS, _COMPUTATIONS, _EDGES, _LINKS):
            await connection.execute(statement.encode(), {"key": KEY, "groups": groups} if "%(" in statement else None)
    for table in ("work_groups", "computations", "computation_inputs", "ciphertexts", "transaction_outputs"):
        await connection.execute(f"alter table {table} set (autovacuum_enabled = off)".encode())
        await connection.execute(f"vacuum analyze {table}".encode())


class CountingConnection(TrioConnection):
    """Counts the pages that every statement touches, by explaining it in a savepoint before running it."""

    pages: int = 0
    first_pages: int = 0
    """Of the first statement alone."""
    is_counting: bool = False

    async def execute(  # type: ignore[override]
        self, query: QueryNoTemplate, params: Params | None = None, *, prepare: bool | None = None, binary: bool = False
    ) -> AsyncCursor[TupleRow]:
        """Explain, undo, and run."""
        if self.is_counting and isinstance(query, (bytes, str)):
            text = query.encode() if isinstance(query, str) else query
            async with self.transaction(force_rollback=True):
                cursor = await super().execute(b"explain (analyze, buffers, format json) " + text, params)
                row = await cursor.fetchone()
            touched = 0 if row is None else pages_of(row[0])
            self.first_pages = self.first_pages or touched
            self.pages += touched
        return await super().execute(query, params, prepare=prepare, binary=binary)


def pages_of(explained: Any) -> int:  # noqa: ANN401 - JSON
    """Read how many pages a statement touched out of its explanation."""
    plan = (json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


async def claim_cost(connection: CountingConnection, groups: int, claims_made: int = 8) -> ClaimCost:
    """Claim some times and count; what was claimed stays claimed."""
    pages = first_pages = claimed = 0
    after: str | None = None
    best = float("inf")
    for number in range(2 * claims_made):
        counted = number % 2 == 0
        connection.pages = connection.first_pages = 0
        began = time.perf_counter()
        async with connection.transaction():
            # Counted inside only: BEGIN and COMMIT cannot be explained.
            connection.is_counting = counted
            try:
                read, after = await claims.lease(connection, "bench", CLAIMED_AT_ONCE, 3600.0, after)
            finally:
                connection.is_counting = False
        found = await read()
        if not counted:
            best = min(best, time.perf_counter() - began)
            continue
        pages += connection.pages
        first_pages += connection.first_pages
        claimed = len(found)
    return ClaimCost(groups, claimed, pages / claims_made, first_pages / claims_made, 1e3 * best)
