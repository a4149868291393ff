"""Probes answer what orchestrators need, and metrics what Prometheus can read."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from coproc.errors import InvalidInput, RecoverableError
from coproc.health.app import make_app
from coproc.health.report import ActorReport, BreakerReport, HealthReport
from coproc.metrics import FAMILIES, INSTRUMENTS, Figure, render, timed_operation

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
        "breakers": {},
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
    broken = BreakerReport("database", "open", failures=3, openings=2, error="away")

    async def queue() -> list[Figure]:
        await trio.lowlevel.checkpoint()
        return [Figure("queue_groups", 4, {"tenant": "alice", "state": "ready"})]

    report = replace(READY, actors={"a": UP, "b": DOWN}, breakers=(broken,))
    response = await make_app(lambda: report, queue).test_client().get("/metrics")
    assert response.content_type.startswith("text/plain")
    families = list(text_string_to_metric_families(await response.get_data(as_text=True)))
    own = {family.name for family in families} & {"coproc_" + name.removesuffix("_total") for name in FAMILIES}
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if family.name in own
    }
    assert found == {
        ("coproc_ready",): 1,
        ("coproc_draining",): 0,
        ("coproc_jobs_waiting",): 3,
        ("coproc_actor_up", "a"): 1,
        ("coproc_actor_up", "b"): 0,
        ("coproc_actor_restarts_total", "a"): 0,
        ("coproc_actor_restarts_total", "b"): 2,
        ("coproc_breaker_openings_total", "database"): 2,
        ("coproc_breaker_state", "database", "closed"): 0,
        ("coproc_breaker_state", "database", "open"): 1,
        ("coproc_breaker_state", "database", "half_open"): 0,
        ("coproc_queue_groups", "ready", "alice"): 4,
    }


def test_names_follow_the_conventions() -> None:
    """Of Prometheus: counters end in ``_total``, nothing else does; units are base units, in names; all has a help."""
    instruments = list(text_string_to_metric_families(render([]).decode()))
    for family in instruments:
        if not family.name.startswith("process_"):
            assert family.name.startswith("coproc_"), family.name
            assert family.type in {"counter", "gauge", "histogram"}
            assert len(family.documentation) > 10
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name), name
        assert name.endswith("_total") == (family.kind == "counter"), name
        assert family.help.endswith("."), name
        assert not re.search(r"_(ms|millis|minutes|kb|mb|percent)(_|$)", name), name
    assert not {f"coproc_{name}" for name in FAMILIES} & {family.name for family in instruments}


def test_a_figure_without_a_family_is_a_defect() -> None:
    with pytest.raises(ValueError, match="mystery"):
        render([Figure("mystery", 1)])
    with pytest.raises(KeyError, match="actor"):
        render([Figure("actor_up", 1)])


async def test_operations_of_a_store_are_measured_by_name_and_outcome() -> None:
    class Broken:
        @timed_operation
        async def ask(self, error: Exception | None) -> str:
            await trio.lowlevel.checkpoint()
            if error is not None:
                raise error
            return "answer"

    def count(outcome: str) -> float:
        labels = {"operation": "ask", "outcome": outcome}
        return INSTRUMENTS.get_sample_value("coproc_store_operation_duration_seconds_count", labels) or 0.0

    assert await Broken().ask(None) == "answer"
    for error in (RecoverableError("away"), InvalidInput("x", "bad"), InvalidInput("x", "bad")):
        with pytest.raises(type(error)):
            await Broken().ask(error)
    assert [count(outcome) for outcome in ("done", "unavailable", "refused")] == [1, 1, 2]
