"""Errors as types, in three categories, each with structured context.

Recoverable: try again later. Irrecoverable: this request or computation fails, everything else goes on.
Fatal: the process stops in order.
"""

from __future__ import annotations


class CoprocError(Exception):
    """Root of every error that coproc raises on purpose.

    ``rule`` is a stable UPPER_SNAKE name of what was broken; ``context`` is flat and safe to log.
    """

    rule = "INTERNAL"

    def __init__(self, message: str, **context: str | float | bool | None) -> None:
        super().__init__(message)
        self.message = message
        self.context = context


class RecoverableError(CoprocError):
    """A dependency failed in a way that may pass: retry with backoff."""

    rule = "UNAVAILABLE"


class IrrecoverableError(CoprocError):
    """This computation or request can never succeed; its dependants are marked, everything else goes on."""

    rule = "FAILED"


class FatalError(CoprocError):
    """The process cannot go on and stops in order."""

    rule = "FATAL"


class InvalidInput(IrrecoverableError):
    """Bad input from outside: names the field and the rule."""

    rule = "INVALID_INPUT"

    def __init__(self, field: str, message: str, **context: str | float | bool | None) -> None:
        super().__init__(f"{field}: {message}", field=field, **context)
        self.field = field


class Overloaded(RecoverableError):
    """A bounded queue is full: back-pressure, answered with RESOURCE_EXHAUSTED."""

    rule = "OVERLOADED"


class NotFound(IrrecoverableError):
    """Something named by the caller does not exist here."""

    rule = "NOT_FOUND"
