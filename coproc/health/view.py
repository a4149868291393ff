"""What the operator's page is told, as plain data for JSON.

Decides which facts leave the service by the page: names, states, reasons, counts and times; never a ciphertext, a key
or an operand. Identifiers are hexadecimal, times seconds since 1970. Pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from graphlib import CycleError, TopologicalSorter
from os import getpid
from socket import gethostname
from time import time
from typing import TYPE_CHECKING, TypeAlias

from coproc.program.types import FheType, handle_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coproc.health.history import Point
    from coproc.health.lookout import Glance, Recent
    from coproc.health.report import HealthReport
    from coproc.program.types import Handle
    from coproc.store.base import Failure
    from coproc.store.overview import FailedResult, GraphNode, RecentTransaction, TransactionGraph

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which process answers."""

    version: str
    plan_version: int
    roles: tuple[str, ...]
    host: str = field(default_factory=gethostname)
    process: int = field(default_factory=getpid)
    since: float = field(default_factory=time)
    """When it began, in seconds since 1970."""


def show_process(identity: Identity, report: HealthReport) -> dict[str, Json]:
    """Show how this process is."""
    return {
        **asdict(identity),
        "started": report.started,
        "ready": report.ready,
        "draining": report.draining,
        "notices": list(report.notices),
        "actors": [{"name": name, **asdict(actor)} for name, actor in report.actors.items()],
        "breakers": [asdict(breaker) for breaker in report.breakers],
        "executors": [asdict(executor) for executor in report.executors],
    }


def show_glance(glance: Glance | None, error: str | None, now: float) -> dict[str, Json]:
    """Show the open work of all processes; ``now`` is of the Trio clock."""
    return {
        "error": error,
        "seconds": None if glance is None else glance.seconds,
        "age": None if glance is None else now - glance.at,
        "queue": None
        if glance is None
        else [
            {
                "tenant": entry.tenant,
                "state": entry.state.name.lower(),
                "groups": entry.groups,
                "bootstraps": entry.bootstraps,
                "oldest": entry.oldest_seconds,
            }
            for entry in glance.queue
        ],
        "workers": None if glance is None else [asdict(worker) for worker in glance.workers],
    }


def show_recent(recent: Recent) -> dict[str, Json]:
    """Show what came and what failed lately."""
    return {
        "failures": [_show_failed(item) for item in recent.failures],
        "transactions": [_show_transaction(item) for item in recent.transactions],
    }


def show_points(points: Sequence[Point]) -> dict[str, Json]:
    """Show intervals by column; what each executor did is by its name."""
    executors = list(dict.fromkeys(name for point in points for name in point.busy))
    return {
        "at": [round(point.at, 3) for point in points],
        "seconds": [round(point.seconds, 3) for point in points],
        "done": [point.done for point in points],
        "failed": [point.failed for point in points],
        "lag": [round(point.lag, 4) for point in points],
        "waiting": [point.waiting for point in points],
        "ready": [point.ready for point in points],
        "computing": [point.computing for point in points],
        "bootstraps": [point.bootstraps for point in points],
        "oldest": [None if point.oldest is None else round(point.oldest, 2) for point in points],
        "results": [point.results for point in points],
        "computed": {name: [point.computed.get(name, 0) for point in points] for name in executors},
        "busy": {name: [round(point.busy.get(name, 0.0), 3) for point in points] for name in executors},
    }


def show_graph(graph: TransactionGraph) -> dict[str, Json]:
    """Show one transaction: its computations with their levels, and what they read from outside."""
    levels = find_levels(graph.nodes)
    return {
        "id": graph.transaction_id.hex(),
        "total": graph.total,
        "nodes": [_show_node(node, levels[node.handle]) for node in graph.nodes],
        "inputs": [
            {"handle": handle.hex(), "type": type_name(handle), "stored": is_stored}
            for handle, is_stored in graph.inputs.items()
        ],
    }


def find_levels(nodes: Sequence[GraphNode]) -> dict[Handle, int]:
    """Number computations by the longest way to them, from 1: what reads only values from outside.

    Computations that depend on themselves (damaged rows may say so) are all on level 1.
    """
    own = {node.handle: [handle for handle in node.inputs if handle != node.handle] for node in nodes}
    levels: dict[Handle, int] = {}
    try:
        for handle in TopologicalSorter(own).static_order():
            if handle in own:
                levels[handle] = 1 + max((levels.get(source, 0) for source in own[handle]), default=0)
    except CycleError:
        return dict.fromkeys(own, 1)
    return levels


def type_name(handle: Handle) -> str:
    """Name the type that a handle carries; a damaged one may carry any."""
    try:
        found = handle_type(handle)
    except (ValueError, IndexError):
        return "unknown"
    if found is FheType.UINT160:
        return "eaddress"
    return f"e{found.name.lower()}"


def _show_node(node: GraphNode, level: int) -> dict[str, Json]:
    return {
        "handle": node.handle.hex(),
        "operation": node.operation,
        "type": type_name(node.handle),
        "inputs": [handle.hex() for handle in node.inputs],
        "level": level,
        "state": node.state.name.lower(),
        "allowed": node.is_allowed,
        "group": node.group_id,
        "attempts": node.attempts,
        "worker": node.worker,
        "failure": None if node.failure is None else _show_reason(node.failure),
        "asked": node.asked_at,
        "stored": node.stored_at,
    }


def _show_failed(item: FailedResult) -> dict[str, Json]:
    return {
        "transaction": item.transaction_id.hex(),
        "handle": item.handle.hex(),
        "operation": item.operation,
        "failure": _show_reason(item.failure),
        "asked": item.asked_at,
    }


def _show_transaction(item: RecentTransaction) -> dict[str, Json]:
    return {
        "id": item.transaction_id.hex(),
        "tenant": item.tenant,
        "computations": item.computations,
        "failed": item.failed,
        "groups": {state.name.lower(): groups for state, groups in item.groups.items()},
        "asked": item.asked_at,
    }


def _show_reason(failure: Failure) -> dict[str, Json]:
    cause = failure.cause
    return {"rule": failure.rule, "message": failure.message, "cause": None if cause is None else cause.hex()}
