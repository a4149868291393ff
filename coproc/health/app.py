"""The health application: probes for orchestrators, figures for Prometheus, and the operator's page.

Decides what each probe answers: ``/livez`` that the event loop turns, ``/startupz`` that everything came up once,
``/readyz`` that callers should come here (503 while starting, down or draining; what is degraded is named and may still
be of use). It is told of the service by functions and knows no actor.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import trio
from prometheus_client import CONTENT_TYPE_LATEST
from quart import Response, jsonify
from quart_trio import QuartTrio

from coproc.metrics import Figure, render
from coproc.resilience import BreakerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from coproc.health.page import OperatorPage
    from coproc.health.report import HealthReport

OK: Final = 200
UNAVAILABLE: Final = 503


async def no_queue() -> Sequence[Figure]:
    """Know nothing of the queue."""
    await trio.lowlevel.checkpoint()
    return ()


def make_app(
    report: Callable[[], HealthReport],
    queue: Callable[[], Awaitable[Sequence[Figure]]] = no_queue,
    page: OperatorPage | None = None,
) -> QuartTrio:
    """Make the application.

    Args:
        report: called for each request; must be quick.
        queue: figures of the queue, asked for by metrics alone; bounded in time, and without figures if need be.
        page: for people; None: there is none.
    """
    app = QuartTrio("coproc.health", static_folder=None)

    async def livez() -> Response:
        return _answer(UNAVAILABLE if not report().actors else OK, report())

    async def startupz() -> Response:
        current = report()
        return _answer(OK if current.started else UNAVAILABLE, current)

    async def readyz() -> Response:
        current = report()
        return _answer(OK if current.ready else UNAVAILABLE, current)

    async def metrics() -> Response:
        waiting = await queue()
        return Response(render([*figures_of(report()), *waiting]), content_type=CONTENT_TYPE_LATEST)

    for path, view in (("/livez", livez), ("/startupz", startupz), ("/readyz", readyz), ("/metrics", metrics)):
        app.add_url_rule(path, path.strip("/"), view)
    if page is not None:
        app.register_blueprint(page.blueprint())
    return app


def figures_of(report: HealthReport) -> Iterator[Figure]:
    """Every figure that a report holds."""
    yield from report.figures
    yield from (Figure(name, value) for name, value in report.numbers.items())
    yield Figure("ready", report.ready)
    yield Figure("draining", report.draining)
    for name, actor in report.actors.items():
        yield Figure("actor_up", actor.healthy, {"actor": name})
        yield Figure("actor_restarts_total", actor.restarts, {"actor": name})
    for breaker in report.breakers:
        yield Figure("breaker_openings_total", breaker.openings, {"dependency": breaker.name})
        for state in BreakerState:
            labels = {"dependency": breaker.name, "state": state.value}
            yield Figure("breaker_state", breaker.state == state.value, labels)


def _answer(status: int, report: HealthReport) -> Response:
    body = jsonify(
        started=report.started,
        ready=report.ready,
        draining=report.draining,
        degraded=list(report.degraded),
        notices=list(report.notices),
        breakers={breaker.name: asdict(breaker) for breaker in report.breakers},
        actors={name: asdict(actor) for name, actor in report.actors.items()},
    )
    body.status_code = status
    return body
