"""What a service says about itself: health and figures, read from its actors at the moment of asking.

Decides which part contributes what, to probes and to metrics; asks, and changes nothing. A part that is degraded is
named, and keeps nobody from being ready: that takes an actor that does not run.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import trio

from coproc import __version__
from coproc.errors import RecoverableError
from coproc.health.report import ActorReport, BreakerReport, HealthReport
from coproc.metrics import Figure
from coproc.program.planning import PLAN_VERSION
from coproc.resilience import BreakerState
from coproc.tracing import export_report
from nurseries.gpu_executor import devices_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from coproc.health.report import ExecutorReport
    from coproc.resilience import Guard
    from coproc.store.overview import QueueEntry, ViewedStore
    from nurseries.chain import ChainActor
    from nurseries.root import Service
    from nurseries.scheduler import SchedulerStatistics

MAX_TENANTS = 100
"""Tenants with figures of their own, those with most work first; the others are summed up."""
OTHERS = "(others)"
QUEUE_SECONDS = 3.0
"""How long metrics wait for the figures of the queue."""
QUEUE_REST_SECONDS = 1.0
"""How often the database is asked for them at most, however many ask for metrics."""


def make_report(service: Service) -> HealthReport:
    """Say how a service is."""
    actors = {
        status.name: ActorReport(status.state.value, status.healthy, status.restarts, status.error)
        for status in service.actors
    }
    for chain_id, chain in service.chains.items():
        if actors[f"chain-{chain_id}"].healthy:
            actors[f"chain-{chain_id}"] = chain.health
    actors |= {gpu.guard.name: gpu.device_health for gpu in devices_of(service.executor)}
    if "flags" in actors and actors["flags"].healthy:
        actors["flags"] = service.flags.health
    export = export_report()
    guards = [*_guards(service.store, service.chains)]
    actors |= {guard.name: guard_health(guard) for guard in (service.store.guards if service.store else ())}
    guards += [(gpu.guard.name, gpu.guard) for gpu in devices_of(service.executor)]
    if export is not None:
        guards.append((export.guard.name, export.guard))
        actors[export.guard.name] = guard_health(export.guard)
    breakers = tuple(
        BreakerReport(name, guard.state.value, guard.failures, guard.retry_after, guard.openings, guard.error)
        for name, guard in guards
    )
    return HealthReport(
        started=service.started,
        ready=service.is_ready,
        draining=service.draining,
        actors=actors,
        numbers=_numbers(service),
        figures=tuple(_figures(service)),
        breakers=breakers,
        executors=service.executors.reports if service.executors is not None else (),
        notices=service.notices,
    )


def guard_health(guard: Guard) -> ActorReport:
    """Turn a breaker into a contribution to health."""
    state = guard.state
    return ActorReport(state.value, healthy=state is BreakerState.CLOSED, error=guard.error)


def _guards(store: ViewedStore | None, chains: dict[int, ChainActor]) -> Iterator[tuple[str, Guard]]:
    if store is not None:
        yield from ((guard.name, guard) for guard in store.guards)
    for chain_id, chain in chains.items():
        yield from ((f"chain-{chain_id} {guard.name}", guard) for guard in chain.guards)


def _numbers(service: Service) -> dict[str, float]:
    """Figures without labels."""
    numbers: dict[str, float] = {
        "event_loop_blocked_steps_total": service.watchdog.health.blocked_steps,
        "jobs_waiting": service.jobs.statistics.waiting,
    }
    if service.scheduler is not None:
        numbers |= _of_scheduler(service.scheduler.statistics)
    if (export := export_report()) is not None:
        numbers |= {"spans_exported_total": export.exported, "spans_dropped_total": export.dropped}
    if service.packer is not None:
        forms = service.packer.statistics
        numbers |= {
            "compression_packed_total": forms.packed,
            "compression_saved_bytes_total": forms.packed_bytes,
            "compression_unpacked_total": forms.unpacked,
            "compression_failures_total": forms.failures,
        }
    if service.sweeper is not None:
        done = service.sweeper.statistics
        numbers |= {
            "retention_examined_total": done.examined,
            "retention_deleted_total": done.values,
            "retention_deleted_bytes_total": done.size,
            "retention_failures_total": done.failures,
            "objects_deleted_total": done.objects,
        }
    if service.store is not None and (pool := service.store.connections) is not None:
        numbers["database_connections_limit"] = pool.limit
    return numbers


def _of_scheduler(statistics: SchedulerStatistics) -> dict[str, float]:
    return {
        "groups_held": statistics.held,
        "jobs_computing": statistics.computing,
        "groups_done_total": statistics.groups_done,
        "groups_failed_total": statistics.groups_failed,
        "leases_lost_total": statistics.leases_lost,
        "lease_takeovers_total": statistics.takeovers,
    }


def _figures(service: Service) -> Iterator[Figure]:
    """Figures with labels."""
    yield Figure("build_info", 1, {"version": __version__, "plan_version": str(PLAN_VERSION)})
    if service.scheduler is not None:
        statistics = service.scheduler.statistics
        yield from _cache("values", statistics.cache_hits, statistics.cache_misses)
        yield Figure("cache_bytes", statistics.cached_bytes, {"cache": "values"})
    if service.keys is not None:
        yield from _cache("keys", service.keys.hits, service.keys.misses)
    if service.executors is not None:
        yield from service.flags.figures()
        for report in service.executors.reports:
            yield from _of_executor(report)
    taken_over: Counter[str] = Counter()  # devices that are not open yet have the same name
    for gpu in devices_of(service.executor):
        taken_over[gpu.statistics.name] += gpu.taken_over
    for name, count in taken_over.items():
        yield Figure("executor_taken_over_total", count, {"executor": name})
    for chain_id, chain in service.chains.items():
        for name, value in asdict(chain.statistics).items():
            called = {"head": "chain_head_block", "block": "chain_block"}.get(name, f"chain_{name}_total")
            yield Figure(called, float(value), {"chain_id": str(chain_id)})
    if service.store is not None and (pool := service.store.connections) is not None:
        yield Figure("database_connections", pool.in_use, {"state": "in_use"})
        yield Figure("database_connections", pool.idle, {"state": "idle"})


def _cache(name: str, hits: int, misses: int) -> Iterator[Figure]:
    yield Figure("cache_hits_total", hits, {"cache": name})
    yield Figure("cache_misses_total", misses, {"cache": name})


def _of_executor(report: ExecutorReport) -> Iterator[Figure]:
    label = {"executor": report.name}
    yield Figure("executor_running_jobs", report.running, label)
    yield Figure("executor_jobs_total", report.jobs, label)
    yield Figure("executor_failures_total", report.failures, label)
    yield Figure("executor_levels_total", report.levels, label)
    yield Figure("executor_bootstraps_total", report.bootstraps, label)
    yield Figure("executor_busy_seconds_total", report.busy_seconds, label)
    yield Figure("executor_kernel_cpu_seconds_total", report.kernel_seconds, label)
    if report.lanes is not None:
        yield Figure("executor_lanes", report.lanes, label)
        yield Figure("executor_lane_slots_total", report.lane_slots, label)


class QueueReader:
    """Reads the figures of the queue, once for all who ask at the same time."""

    def __init__(self, store: Callable[[], ViewedStore | None]) -> None:
        """Ask the store that ``store`` gives at the moment, if any."""
        self._store = store
        self._reading = trio.Lock()
        self._read_at = -math.inf
        self._figures: Sequence[Figure] = ()

    async def read(self) -> Sequence[Figure]:
        """Return figures of at most ``QUEUE_REST_SECONDS`` ago; none where the database does not answer in time."""
        async with self._reading:
            if trio.current_time() - self._read_at >= QUEUE_REST_SECONDS:
                self._figures = ()
                store = self._store()
                with trio.move_on_after(QUEUE_SECONDS), suppress(RecoverableError):
                    self._figures = () if store is None else queue_figures(await store.queue())
                self._read_at = trio.current_time()
            return self._figures


def queue_figures(entries: Sequence[QueueEntry]) -> list[Figure]:
    """Depth, cost and age of the queue by tenant and state; callers that are not told apart have an empty name."""
    work: dict[str, int] = {}
    for entry in entries:
        work[entry.tenant or ""] = work.get(entry.tenant or "", 0) + entry.groups
    largest = set(sorted(work, key=lambda name: -work[name])[:MAX_TENANTS])
    groups: dict[tuple[str, str], float] = {}
    costs: dict[tuple[str, str], float] = {}
    ages: dict[tuple[str, str], float] = {}
    for entry in entries:
        name = entry.tenant or ""
        place = (name if name in largest else OTHERS, entry.state.name.lower())
        groups[place] = groups.get(place, 0) + entry.groups
        if entry.bootstraps is not None:
            costs[place] = costs.get(place, 0) + entry.bootstraps
        if entry.oldest_seconds is not None:
            ages[place] = max(ages.get(place, 0.0), entry.oldest_seconds)
    return [
        Figure(name, value, {"tenant": tenant, "state": state})
        for name, values in (
            ("queue_groups", groups),
            ("queue_bootstraps", costs),
            ("queue_oldest_age_seconds", ages),
        )
        for (tenant, state), value in values.items()
    ]
