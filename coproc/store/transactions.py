"""Transactions that are run again when a concurrent one made the server undo them, or held them up for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from coproc.errors import RecoverableError
from coproc.store.faults import is_conflict, is_held_up

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coproc.store.connection import TrioConnection
    from coproc.store.pool import Pool

T = TypeVar("T")
CONFLICT_ATTEMPTS: Final = 5
"""How often a transaction is tried that the server undoes because of a concurrent one."""


class Transactional:
    """Has a pool of connections."""

    pool: Pool

    async def _atomically(self, work: Callable[[TrioConnection], Awaitable[T]]) -> T:
        """Run ``work`` in a transaction, again if a concurrent one made the server undo it or stood in the way."""
        for _ in range(CONFLICT_ATTEMPTS - 1):
            try:
                async with self.pool.transaction() as connection:
                    return await work(connection)
            except RecoverableError as error:
                if error.__cause__ is None:
                    raise
                if is_held_up(error.__cause__):
                    await self.pool.end_stillness()
                elif not is_conflict(error.__cause__):
                    raise
        async with self.pool.transaction() as connection:
            return await work(connection)
