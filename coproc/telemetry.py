"""Logs: one line an event, for people on a terminal and for machines elsewhere.

Decides the format and that logs go to standard error; what is logged is up to those who log.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from coproc.tracing import log_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import EventDict, Processor, WrappedLogger


def configure_logging(log_format: str, log_level: str) -> None:
    """Configure structlog and the standard library's logging for this process.

    Args:
        log_format: ``json``, ``console``, or ``auto``: console if standard error is a terminal, else JSON.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    level = logging.getLevelNamesMapping()[log_level.upper()]
    is_console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: Sequence[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if is_console
        else [structlog.processors.ExceptionRenderer(_without_locals()), structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Name the trace that a line belongs to."""
    event.update(log_context())
    return event


def _without_locals() -> structlog.tracebacks.ExceptionDictTransformer:
    """Show where an error was, but no values: those may be tokens or connection URLs."""
    return structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
