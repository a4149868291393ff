"""Where the errors of psycopg end and ours begin.

Decides which database errors may pass by themselves. Knows nothing of the statements that raised them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg
import trio

from coproc.errors import CoprocError, IrrecoverableError, RecoverableError

if TYPE_CHECKING:
    from collections.abc import Generator

PASSING: Final = frozenset({"08", "40", "53", "55", "57", "58"})
"""SQLSTATE classes of passing trouble: connection, rollback (deadlock, serialization), resources, object in use,
operator intervention (shutdown, cancel), system error."""
PASSING_STATES: Final = frozenset({"25006", "25P03", "25P04"})
"""Further states that pass: a server that is read-only during a failover, and transactions that it ended because they
stood still."""


class DatabaseUnavailable(RecoverableError):
    """The database is out of reach, shutting down, out of resources or too slow."""

    rule = "DATABASE_UNAVAILABLE"


class DatabaseRefused(IrrecoverableError):
    """The database refused a statement in a way that repeating it will not change."""

    rule = "DATABASE_REFUSED"


def is_conflict(error: BaseException) -> bool:
    """Whether the server undid a transaction because of a concurrent one (SQLSTATE class 40): run it again at once."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] == "40"


def is_held_up(error: BaseException) -> bool:
    """Whether a transaction waited for a lock for as long as it may (SQLSTATE 55P03)."""
    return isinstance(error, psycopg.Error) and error.sqlstate == "55P03"


def translate(error: psycopg.Error) -> CoprocError:
    """Turn a psycopg error into one of ours. The text is the server's primary message, without row contents."""
    state = error.sqlstate
    message = (error.diag.message_primary or str(error)).strip() or type(error).__name__
    if state is None:
        passing = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    else:
        passing = state[:2] in PASSING or state in PASSING_STATES
    return (DatabaseUnavailable if passing else DatabaseRefused)(f"database: {message}", sqlstate=state)


@contextmanager
def translated_errors() -> Generator[None]:
    """Let only our own errors out of the block: ``DatabaseUnavailable`` and ``DatabaseRefused``."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error
    except trio.TooSlowError as error:
        raise DatabaseUnavailable("database: no answer in time") from error
