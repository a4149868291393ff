"""The health application: probes for orchestrators and numbers for Prometheus.

Decides what each probe answers: ``/livez`` that the event loop turns, ``/startupz`` that everything came up once,
``/readyz`` that callers should come here (503 while starting, degraded or draining, and which of these). It is told of
the service by a function and knows no actor.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from quart import Response, jsonify
from quart_trio import QuartTrio

if TYPE_CHECKING:
    from collections.abc import Callable

    from coproc.health.report import HealthReport

OK: Final = 200
UNAVAILABLE: Final = 503


def make_app(report: Callable[[], HealthReport]) -> QuartTrio:
    """Make the application; ``report`` is called for each request and must be quick."""
    app = QuartTrio("coproc.health")

    async def livez() -> Response:
        return _answer(UNAVAILABLE if not report().actors else OK, report())

    async def startupz() -> Response:
        current = report()
        return _answer(OK if current.started else UNAVAILABLE, current)

    async def readyz() -> Response:
        current = report()
        return _answer(OK if current.ready else UNAVAILABLE, current)

    async def metrics() -> Response:
        return Response(render_metrics(report()), content_type=CONTENT_TYPE_LATEST)

    for path, view in (("/livez", livez), ("/startupz", startupz), ("/readyz", readyz), ("/metrics", metrics)):
        app.add_url_rule(path, path.strip("/"), view)
    return app


def render_metrics(report: HealthReport) -> bytes:
    """Render a report in the Prometheus text format."""
    registry = CollectorRegistry()
    for name, value in report.numbers.items():
        Gauge(f"coproc_{name}", name.replace("_", " "), registry=registry).set(value)
    Gauge("coproc_ready", "whether callers should come here", registry=registry).set(report.ready)
    up = Gauge("coproc_actor_up", "whether an actor does what it is there for", ["actor"], registry=registry)
    restarts = Gauge("coproc_actor_restarts", "restarts of an actor", ["actor"], registry=registry)
    for name, actor in report.actors.items():
        up.labels(name).set(actor.healthy)
        restarts.labels(name).set(actor.restarts)
    return generate_latest(registry)


def _answer(status: int, report: HealthReport) -> Response:
    body = jsonify(
        started=report.started,
        ready=report.ready,
        draining=report.draining,
        degraded=list(report.degraded),
        notices=list(report.notices),
        actors={name: asdict(actor) for name, actor in report.actors.items()},
    )
    body.status_code = status
    return body
