"""Errors as types, in three categories, each with structured context.

Recoverable: try again later. Irrecoverable: this request or computation fails, everything else goes on.
Fatal: the process stops in order.

Decides the categories, what an error remembers (``CONTEXT`` names the usual entries), and how it reads in a log. The
other two mappings are ``coproc.api.status`` (what a caller sees) and ``coproc.store.rules.failure_of`` (what is stored
with a failed computation).
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final, TypeAlias

ContextValue: TypeAlias = str | float | bool | None

CONTEXT: Final = ("operation", "handle", "transaction_id", "key_id", "attempt")
"""Entries of a context that mean the same everywhere: names and hexadecimal ids, and a count from 1."""
_MOST_CAUSES: Final = 8


class Category(Enum):
    """What an error means for what comes next."""

    RECOVERABLE = "recoverable"
    """The same thing may succeed later."""
    IRRECOVERABLE = "irrecoverable"
    """It never will; everything else goes on."""
    FATAL = "fatal"
    """The process cannot go on."""


class CoprocError(Exception):
    """Root of every error that coproc raises on purpose.

    ``rule`` is a stable UPPER_SNAKE name of what was broken; ``context`` is flat and safe to log.
    """

    rule = "INTERNAL"
    category: ClassVar[Category] = Category.IRRECOVERABLE

    def __init__(self, message: str, **context: ContextValue) -> None:
        super().__init__(message)
        self.message = message
        self.context = context

    def within(self, **context: ContextValue) -> None:
        """Add what a caller further out knows (which handle, which attempt); what is known already stays."""
        self.context = {**context, **self.context}


class RecoverableError(CoprocError):
    """A dependency failed in a way that may pass: retry with backoff."""

    rule = "UNAVAILABLE"
    category = Category.RECOVERABLE


class IrrecoverableError(CoprocError):
    """This computation or request can never succeed; its dependants are marked, everything else goes on."""

    rule = "FAILED"


class FatalError(CoprocError):
    """The process cannot go on and stops in order."""

    rule = "FATAL"
    category = Category.FATAL


class InvalidInput(IrrecoverableError):
    """Bad input from outside: names the field and the rule."""

    rule = "INVALID_INPUT"

    def __init__(self, field: str, message: str, **context: ContextValue) -> None:
        super().__init__(f"{field}: {message}", field=field, **context)
        self.field = field


class Overloaded(RecoverableError):
    """A bound is reached: back-pressure, answered with RESOURCE_EXHAUSTED. ``retry_after`` may say when to come."""

    rule = "OVERLOADED"


class NotFound(IrrecoverableError):
    """Something named by the caller does not exist here."""

    rule = "NOT_FOUND"


def causes(error: BaseException) -> tuple[str, ...]:
    """Name what an error came from, nearest first: the rule (of foreign errors: the class) and the text of each."""
    chain: list[str] = []
    cause = error.__cause__
    while cause is not None and len(chain) < _MOST_CAUSES:
        chain.append(f"{cause.rule if isinstance(cause, CoprocError) else type(cause).__name__}: {cause}")
        cause = cause.__cause__
    return tuple(chain)


def log_fields(error: BaseException) -> dict[str, object]:
    """Turn an error into fields of a log line: ``error``, ``rule``, ``category``, its context, ``causes`` if any."""
    fields: dict[str, object] = {"error": str(error)}
    if isinstance(error, CoprocError):
        known = {name: value for name, value in error.context.items() if value is not None}
        fields |= {**known, "error": error.message, "rule": error.rule, "category": error.category.value}
    else:
        fields["rule"] = type(error).__name__
    if chain := causes(error):
        fields["causes"] = list(chain)
    return fields
