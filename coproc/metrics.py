"""The figures under ``/metrics``: every name, unit, label and help text, in one place.

Decides what is measured and how it is called: counters end in ``_total``, units are in names, times are seconds. Some
figures are counted here where they happen (*instruments*); the others are read from the actors when somebody asks
(*families*, filled with ``Figure``). Must not know where a figure comes from.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Final, Literal, TypeVar, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from coproc.errors import CoprocError, IrrecoverableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

Operation = TypeVar("Operation", bound="Callable[..., Awaitable[object]]")

PREFIX: Final = "coproc_"
cast("Callable[[], None]", disable_created_metrics)()  # a series for every counter that says when it began

INSTRUMENTS: Final = CollectorRegistry()
"""What is counted where it happens, for this process."""
ProcessCollector(registry=INSTRUMENTS)

_QUICK: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SLOW: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
_WIDTHS: Final = tuple(float(4**power) for power in range(9))

GRPC_CALLS: Final = Histogram(
    "coproc_grpc_call_duration_seconds",
    "Calls that end by themselves, from their first byte to the answer.",
    ["method", "status"],
    buckets=_QUICK,
    registry=INSTRUMENTS,
)
GRPC_IN_FLIGHT: Final = Gauge("coproc_grpc_calls_in_flight", "Calls that have not ended.", registry=INSTRUMENTS)
GRPC_CONNECTIONS: Final = Gauge("coproc_grpc_connections", "Open connections of callers.", registry=INSTRUMENTS)
SUBSCRIBERS: Final = Gauge("coproc_subscribers", "Open websockets.", registry=INSTRUMENTS)
SUBSCRIBERS_CLOSED: Final = Counter(
    "coproc_subscribers_closed_total",
    "Websockets that this side closed, by close code (1013: too slow).",
    ["code"],
    registry=INSTRUMENTS,
)
RESULTS_PUSHED: Final = Counter(
    "coproc_results_pushed_total", "Results sent to subscribers of the websocket.", registry=INSTRUMENTS
)
STORE_OPERATIONS: Final = Histogram(
    "coproc_store_operation_duration_seconds",
    "Operations of the store, with what they waited for; outcome: done, refused or unavailable.",
    ["operation", "outcome"],
    buckets=_QUICK,
    registry=INSTRUMENTS,
)
QUEUE_WAIT: Final = Histogram(
    "coproc_queue_wait_seconds",
    "From the submission of a group of computations to the start of the job that computes it.",
    buckets=_SLOW,
    registry=INSTRUMENTS,
)
RESULT_LATENCY: Final = Histogram(
    "coproc_result_latency_seconds",
    "From the submission of a group of computations to its results in the store.",
    buckets=_SLOW,
    registry=INSTRUMENTS,
)
JOB_DURATION: Final = Histogram(
    "coproc_job_duration_seconds",
    "Jobs, from reading their inputs to their written results.",
    buckets=_SLOW,
    registry=INSTRUMENTS,
)
JOB_GROUPS: Final = Histogram(
    "coproc_job_groups",
    "Groups of computations that share a job.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=INSTRUMENTS,
)
JOB_BOOTSTRAPS: Final = Histogram(
    "coproc_job_bootstraps",
    "Bootstraps of a job.",
    buckets=_WIDTHS,
    registry=INSTRUMENTS,
)
LEVEL_BOOTSTRAPS: Final = Histogram(
    "coproc_level_bootstraps",
    "Bootstraps that run together, of levels of one or several jobs.",
    ["executor"],
    buckets=_WIDTHS,
    registry=INSTRUMENTS,
)
LOOP_LAG: Final = Histogram(
    "coproc_event_loop_lag_seconds",
    "By how much heartbeats of the event loop, one a second, came late.",
    buckets=_QUICK,
    registry=INSTRUMENTS,
)


@contextmanager
def timed_call(method: str) -> Generator[list[str]]:
    """Measure a gRPC call; the block puts the name of its status into the list, which is OK otherwise."""
    began, status = time.perf_counter(), ["OK"]
    try:
        yield status
    finally:
        GRPC_CALLS.labels(method, status[-1]).observe(time.perf_counter() - began)


def timed_operation(call: Operation) -> Operation:
    """Measure an operation of the store, named like the method; one that is cancelled is left out."""
    name: str = call.__name__

    @wraps(call)
    async def timed(*args: object, **kwargs: object) -> object:
        began = time.perf_counter()
        try:
            result = await call(*args, **kwargs)
        except CoprocError as error:
            outcome = "refused" if isinstance(error, IrrecoverableError) else "unavailable"
            STORE_OPERATIONS.labels(name, outcome).observe(time.perf_counter() - began)
            raise
        STORE_OPERATIONS.labels(name, "done").observe(time.perf_counter() - began)
        return result

    return cast("Operation", timed)


# ------------------------------------------------------------------------------ figures that are read from actors


@dataclass(frozen=True, slots=True)
class Figure:
    """One value."""

    name: str
    """Without the prefix; of ``FAMILIES``."""
    value: float
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Family:
    """What all figures of one name have in common."""

    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


def _counter(text: str, *labels: str) -> Family:
    return Family("counter", text, labels)


def _gauge(text: str, *labels: str) -> Family:
    return Family("gauge", text, labels)


FAMILIES: Final[Mapping[str, Family]] = {
    "build_info": _gauge("Always 1: what runs here.", "version", "plan_version"),
    "ready": _gauge("Whether callers should come here."),
    "draining": _gauge("Whether the process ends in order."),
    "actor_up": _gauge("Whether a part, or what it depends on, does what it is there for.", "actor"),
    "actor_restarts_total": _counter("Restarts of a part after a crash.", "actor"),
    "breaker_state": _gauge("1 for the state that a circuit breaker is in, else 0.", "dependency", "state"),
    "breaker_openings_total": _counter("How often a circuit breaker has opened.", "dependency"),
    "event_loop_blocked_steps_total": _counter("Steps during which the event loop stood still for 0.1 s or more."),
    "queue_groups": _gauge("Open groups of computations, by state: waiting, ready, computing.", "tenant", "state"),
    "queue_bootstraps": _gauge("Their estimated cost.", "tenant", "state"),
    "queue_oldest_age_seconds": _gauge("Age of the oldest of them.", "tenant", "state"),
    "jobs_waiting": _gauge("Jobs that wait for the executor."),
    "jobs_computing": _gauge("Jobs under way."),
    "groups_held": _gauge("Groups under lease here."),
    "groups_done_total": _counter("Groups of which every result is stored."),
    "groups_failed_total": _counter("Groups that ended with a failure."),
    "leases_lost_total": _counter("Groups that were computed here, but whose lease another worker had by then."),
    "lease_takeovers_total": _counter("Groups taken over from a worker that had ended or lost its lease."),
    "cache_hits_total": _counter("Look-ups that found something in memory; cache: values, keys.", "cache"),
    "cache_misses_total": _counter("Look-ups that did not.", "cache"),
    "cache_bytes": _gauge("Memory that a cache takes.", "cache"),
    "executor_lanes": _gauge("Bootstraps that can run at the same time.", "executor"),
    "executor_running_jobs": _gauge("Jobs on the executor.", "executor"),
    "executor_jobs_total": _counter("Jobs done.", "executor"),
    "executor_failures_total": _counter("Jobs that failed.", "executor"),
    "executor_levels_total": _counter("Levels done.", "executor"),
    "executor_bootstraps_total": _counter("Bootstraps done.", "executor"),
    "executor_lane_slots_total": _counter("Bootstraps that would have fitted into the same rounds.", "executor"),
    "executor_busy_seconds_total": _counter("Time during which a level ran.", "executor"),
    "executor_kernel_cpu_seconds_total": _counter("CPU time inside keyswitches and bootstraps.", "executor"),
    "executor_taken_over_total": _counter("Jobs that the cores did because the device could not.", "executor"),
    "database_connections": _gauge("Connections of the pool; state: in_use, idle.", "state"),
    "database_connections_limit": _gauge("The most connections of the pool."),
    "chain_head_block": _gauge("The newest block that a node has told of; -1: none yet.", "chain_id"),
    "chain_block": _gauge("The newest block that is written; -1: none yet.", "chain_id"),
    "chain_blocks_total": _counter("Blocks written.", "chain_id"),
    "chain_computations_total": _counter("Computations that blocks brought.", "chain_id"),
    "chain_faults_total": _counter("Events that made no sense.", "chain_id"),
    "chain_reorganisations_total": _counter("Reorganisations followed.", "chain_id"),
    "chain_retracted_total": _counter("Computations taken back by them.", "chain_id"),
    "chain_node_failures_total": _counter("Sessions that a node ended by failing.", "chain_id"),
    "flag_info": _gauge("Always 1: the value of a feature flag that is in force.", "flag", "value"),
    "flags_refused": _gauge("Whether the latest file of flags was refused, so that older flags are in force."),
    "flag_reloads_total": _counter("Changed files of flags; outcome: applied, refused.", "outcome"),
    "spans_exported_total": _counter("Spans that the collector took."),
    "spans_dropped_total": _counter("Spans that it did not take."),
    "compression_packed_total": _counter("Idle ciphertexts that this worker compressed."),
    "compression_saved_bytes_total": _counter("Bytes that they take less."),
    "compression_unpacked_total": _counter("Compressed ciphertexts that it brought back for readers."),
    "compression_failures_total": _counter("Failures of either that may pass."),
    "retention_examined_total": _counter("Ciphertexts that sweeps of this process looked at."),
    "retention_deleted_total": _counter("Ciphertexts that they deleted."),
    "retention_deleted_bytes_total": _counter("Bytes of these."),
    "objects_deleted_total": _counter("Objects of the object store that they deleted, as nothing referred to them."),
    "retention_failures_total": _counter("Steps of sweeps that failed for a reason that may pass."),
}


class _Figures(Collector):
    """Figures as families of Prometheus."""

    def __init__(self, figures: Iterable[Figure]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Group figures by name, in the order of ``FAMILIES``."""
        found: dict[str, list[Figure]] = {}
        for figure in self._figures:
            found.setdefault(figure.name, []).append(figure)
        if unknown := found.keys() - FAMILIES.keys():
            raise ValueError(f"figures without a family: {sorted(unknown)}")
        for name, family in FAMILIES.items():
            if name not in found:
                continue
            make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            made = make(PREFIX + name, family.help, labels=family.labels)
            for figure in found[name]:
                made.add_metric([figure.labels[label] for label in family.labels], figure.value)
            yield made


def render(figures: Sequence[Figure]) -> bytes:
    """Write figures and instruments in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(figures))
    return generate_latest(registry) + generate_latest(INSTRUMENTS)
