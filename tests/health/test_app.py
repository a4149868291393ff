"""Probes answer what orchestrators need, and metrics what Prometheus can read."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coproc.health.app import make_app, render_metrics
from coproc.health.report import ActorReport, HealthReport

UP = ActorReport("running", healthy=True)
DOWN = ActorReport("backoff", healthy=False, restarts=2, error="OSError: no")
READY = HealthReport(started=True, ready=True, draining=False, actors={"listener": UP}, numbers={"jobs_waiting": 3})


async def ask(path: str, report: HealthReport) -> tuple[int, dict[str, object]]:
    response = await make_app(lambda: report).test_client().get(path)
    return response.status_code, cast("dict[str, object]", await response.get_json())


@pytest.mark.parametrize(
    ("report", "live", "started", "ready"),
    [
        (READY, 200, 200, 200),
        (replace(READY, ready=False, started=False), 200, 503, 503),
        (replace(READY, ready=False, draining=True), 200, 200, 503),
        (replace(READY, ready=False, actors={"listener": DOWN}), 200, 200, 503),
        (replace(READY, ready=False, started=False, actors={}), 503, 503, 503),
    ],
)
async def test_each_probe_has_its_own_question(report: HealthReport, live: int, started: int, ready: int) -> None:
    assert [(await ask(path, report))[0] for path in ("/livez", "/startupz", "/readyz")] == [live, started, ready]


async def test_an_answer_says_who_is_down_and_why() -> None:
    report = replace(READY, ready=False, draining=True, actors={"store": UP, "listener": DOWN})
    _, body = await ask("/readyz", report)
    assert body == {
        "started": True,
        "ready": False,
        "draining": True,
        "notices": [],
        "degraded": ["listener"],
        "actors": {
            "store": {"state": "running", "healthy": True, "restarts": 0, "error": None},
            "listener": {"state": "backoff", "healthy": False, "restarts": 2, "error": "OSError: no"},
        },
    }


async def test_the_report_is_asked_anew_each_time() -> None:
    reports = [READY, replace(READY, ready=False, draining=True)]
    client = make_app(lambda: reports[0]).test_client()
    assert (await client.get("/readyz")).status_code == 200
    del reports[0]
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/elsewhere")).status_code == 404
    assert (await client.post("/readyz")).status_code == 405


async def test_metrics_can_be_read() -> None:
    response = await make_app(lambda: replace(READY, actors={"a": UP, "b": DOWN})).test_client().get("/metrics")
    assert response.content_type.startswith("text/plain")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(await response.get_data(as_text=True))
        for sample in family.samples
    }
    assert found == {
        ("coproc_ready",): 1,
        ("coproc_jobs_waiting",): 3,
        ("coproc_actor_up", "a"): 1,
        ("coproc_actor_up", "b"): 0,
        ("coproc_actor_restarts", "a"): 0,
        ("coproc_actor_restarts", "b"): 2,
    }
    assert render_metrics(READY).endswith(b"\n")
