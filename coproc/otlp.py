"""The way of spans to a collector: OTLP over HTTP, from a thread of its own, behind a circuit breaker.

Decides how long a collector that is away is tried and when it is left in peace; spans that it does not take are dropped
and counted, and nobody waits for it. Imports OpenTelemetry's SDK, so that it is imported only if traces are asked for.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from coproc import __version__
from coproc.errors import RecoverableError
from coproc.resilience import Breaker, Guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

BREAKER: Final = Breaker(threshold=3, cooldown=30.0)
QUEUE: Final = 2048
"""Spans that wait; older ones make room."""


class CollectorAway(RecoverableError):
    """The collector did not take spans, after the exporter's own retries."""

    rule = "COLLECTOR_AWAY"


class GuardedExporter(SpanExporter):
    """Sends spans unless the collector is left in peace; called by one thread at a time, never Trio's."""

    def __init__(self, exporter: SpanExporter, guard: Guard) -> None:
        self.guard = guard
        self.exported = self.dropped = 0
        """Spans so far."""
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; see the SDK."""
        try:
            with self.guard.calling():
                if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
                    raise CollectorAway("the collector takes no spans")
        except RecoverableError:
            self.dropped += len(spans)
            return SpanExportResult.FAILURE
        self.exported += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Send nothing more."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return self._exporter.force_flush(timeout_millis)


def make_provider(endpoint: str, ratio: float, seconds: float) -> tuple[TracerProvider, GuardedExporter]:
    """Make what sends spans to ``endpoint`` (``http://host:4318``), trying for up to ``seconds`` each time."""
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(ratio)),
        resource=Resource.create({"service.name": "coproc", "service.version": __version__}),
        shutdown_on_exit=False,
    )
    sender = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=seconds)
    exporter = GuardedExporter(sender, Guard("collector", BREAKER, time.monotonic))
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE, schedule_delay_millis=1000))
    return provider, exporter
