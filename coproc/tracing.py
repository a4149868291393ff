"""Traces: what one request caused, from the client's call to the message that tells of its result.

Decides when a span is made and how its context is written down (W3C ``traceparent``, one line of text that is stored
with the work). OpenTelemetry is imported once traces are asked for; without, a span costs one look at an empty list.
Must not know what any span measures.
"""

from __future__ import annotations

import re
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, Literal

import trio

from coproc import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping, Sequence

    from opentelemetry.trace import SpanContext, Tracer

    from coproc.otlp import GuardedExporter

TRACEPARENT: Final = "traceparent"
"""Name of the gRPC metadata key."""
SHUTDOWN_SECONDS: Final = 5.0
"""How long spans that are left may take to be sent when the process ends."""

_FORM = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_tracers: list[Tracer] = []
"""The one in use, if any."""
_exporters: list[GuardedExporter] = []
"""Likewise."""


@asynccontextmanager
async def exporting(endpoint: str | None, ratio: float = 1.0) -> AsyncGenerator[None]:
    """Send spans to an OTLP collector (``http://host:4318``) from a thread of its own; do nothing without one.

    Args:
        endpoint: base URL of the collector.
        ratio: the share of traces begun here that is kept; a caller's own decision is followed.
    """
    if endpoint is None:
        yield
        return
    from coproc.otlp import make_provider  # noqa: PLC0415 - if asked for

    provider, exporter = await trio.to_thread.run_sync(make_provider, endpoint, ratio, SHUTDOWN_SECONDS)
    tracer = provider.get_tracer("coproc", __version__)
    _tracers.append(tracer)
    _exporters.append(exporter)
    try:
        yield
    finally:
        _tracers.remove(tracer)
        _exporters.remove(exporter)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SHUTDOWN_SECONDS):
            await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)


def export_report() -> GuardedExporter | None:
    """How sending goes (``guard``, ``exported``, ``dropped``); None while traces are off."""
    return _exporters[-1] if _exporters else None


def is_on() -> bool:
    """Whether spans are made at all."""
    return bool(_tracers)


def read_traceparent(metadata: Mapping[str, str | bytes]) -> str | None:
    """Read the context of a call; what is malformed is no context."""
    value = metadata.get(TRACEPARENT)
    return value if isinstance(value, str) and _FORM.fullmatch(value) else None


def traceparent() -> str | None:
    """Write down the context of the span at hand, also one of a program that uses the client."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace import get_current_span  # noqa: PLC0415 - somebody has imported it

    context = get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def log_context(written: str | None = None) -> dict[str, str]:
    """Name a span, else the one at hand, for a line of the log."""
    current = written or traceparent()
    if current is None:
        return {}
    _, trace_id, span_id, _ = current.split("-")
    return {"trace_id": trace_id, "span_id": span_id}


@contextmanager
def span(
    name: str,
    *,
    kind: Literal["INTERNAL", "SERVER", "PRODUCER", "CONSUMER"] = "INTERNAL",
    parent: str | None = None,
    links: Sequence[str | None] = (),
    may_begin: bool = False,
    attributes: Mapping[str, str | int | float] | None = None,
) -> Generator[None]:
    """Measure what happens inside, as a child of ``parent`` (a ``traceparent``), else of the span at hand.

    Without either nothing is measured, unless the span ``may_begin`` a trace. Errors are recorded by their type, not by
    their text.
    """
    around = parent or traceparent() if _tracers else None
    if not _tracers or (around is None and not may_begin):
        yield
        return
    from opentelemetry import trace  # noqa: PLC0415 - traces were asked for

    context = _context(parent)
    within = None if context is None else trace.set_span_in_context(trace.NonRecordingSpan(context))
    made = _tracers[-1].start_span(
        name,
        within,
        kind=trace.SpanKind[kind],
        links=[trace.Link(found) for found in map(_context, links) if found is not None],
        attributes=attributes,
    )
    with trace.use_span(made, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except Exception as error:
            made.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def _context(written: str | None) -> SpanContext | None:
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415 - traces were asked for

    match = _FORM.fullmatch(written or "")
    if match is None:
        return None
    return SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(int(match[3], 16)))
