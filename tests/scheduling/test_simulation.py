"""Fleets that are played through: what the core's rules amount to, exactly and without noise."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import pytest

from coproc.circuits.strategy import Strategy
from coproc.program.catalogue import operation_graph, transfer
from coproc.program.lowering import lower
from coproc.program.types import FheType
from coproc.scheduling.cores import Cores, GroupCircuit
from coproc.scheduling.model import Policy, jobs_at_once
from coproc.scheduling.simulation import Costs, Fleet, Projection, knee, simulate

if TYPE_CHECKING:
    from coproc.program.wordgraph import WordGraph

COSTS = Costs(claim=(0.004, 0.0002), finish=(0.006, 0.0006), renew=(0.002, 0.00005))
FLEET = Fleet(workers=1, group_seconds=0.16, costs=COSTS, policy=Policy(batch_groups=64), seconds=60.0)


def test_one_worker_with_a_full_queue_computes_all_the_time_in_full_batches() -> None:
    alone = simulate(FLEET)
    assert alone.efficiency > 0.999
    assert set(alone.job_sizes) == {64}
    assert alone.groups_per_second == pytest.approx(1 / FLEET.group_seconds, rel=0.2)


def test_sixteen_workers_do_sixteen_times_as_much() -> None:
    many = simulate(Fleet(16, FLEET.group_seconds, COSTS, FLEET.policy, seconds=60.0))
    assert many.efficiency > 0.99
    assert set(many.job_sizes) == {64}


def test_where_the_database_is_the_limit_more_workers_do_not_help() -> None:
    slow = Costs(claim=(0.004, 0.0002), finish=(2.0, 0.0), renew=(0.002, 0.00005))
    limit = knee(Fleet(1, 0.16, slow, FLEET.policy))
    assert 4 <= limit <= 6
    alone, few, many = (
        simulate(Fleet(workers, 0.16, slow, FLEET.policy, seconds=100.0, warm_up=60.0)) for workers in (limit, 10, 20)
    )
    assert alone.efficiency > 0.9
    assert min(few.lock_busy, many.lock_busy) > 0.99
    assert many.groups_per_second == pytest.approx(few.groups_per_second, rel=0.1)
    assert many.efficiency == pytest.approx(few.efficiency / 2, rel=0.2)


def circuit(graph: WordGraph) -> GroupCircuit:
    fewest, shortest = (
        tuple(level.bootstraps for level in lower(graph, strategy).circuit.levels)
        for strategy in (Strategy.THROUGHPUT, Strategy.LATENCY)
    )
    return GroupCircuit(fewest, shortest)


MIXED = (
    *(circuit(transfer()), circuit(transfer())),
    *(circuit(operation_graph(name, FheType.UINT64)) for name in ("add", "lt", "max")),
    *(circuit(operation_graph("mul", FheType.UINT32)), circuit(operation_graph("add", FheType.UINT16))),
    circuit(operation_graph("div", FheType.UINT16)),
)
"""Transfers and operations from 8 to 281 bootstraps, from 8 to 103 levels."""


def play(lanes: int, load: float, *, together: bool = True, seconds: float = 20.0) -> Projection:
    """Let requests of all kinds come one by one, so many times what full lanes could compute."""
    cores = Cores(lanes, MIXED, together=together)
    policy = Policy(jobs=jobs_at_once(lanes) if together else 2)
    rate = load * cores.groups_per_second
    return simulate(Fleet(1, 0.0, COSTS, policy, seconds, seconds, arrivals_per_second=rate, cores=cores))


@pytest.mark.parametrize("lanes", [2, 8, 16, 64])
def test_lanes_are_full_under_load(lanes: int) -> None:
    """Requests come one by one and 1.2 times as many as the worker can do, so that some always wait."""
    loaded = play(lanes, 1.2, seconds=10.0 if lanes > 16 else 30.0)
    assert loaded.efficiency > 0.99
    assert loaded.occupancy is not None
    assert loaded.occupancy >= 0.97


def test_levels_that_take_turns_leave_lanes_empty_and_requests_waiting() -> None:
    before, after = (play(64, 0.8, together=together, seconds=8.0) for together in (False, True))
    assert before.occupancy is not None
    assert after.occupancy is not None
    assert before.occupancy < 0.7
    assert after.occupancy > 0.9
    assert median(after.latencies) < median(before.latencies) / 4
    assert after.groups_per_second > 1.1 * before.groups_per_second


@pytest.mark.parametrize("lanes", [2, 64])
def test_a_lone_request_takes_as_long_as_without_others(lanes: int) -> None:
    """As many seconds as its levels have rounds, and the ways to and from the database; nothing is waited for."""
    cores = Cores(lanes, MIXED[:1])
    fleet = Fleet(1, 0.0, COSTS, Policy(jobs=jobs_at_once(lanes)), 400.0, 0.0, 0.05, cores)
    rounds = sum(-(-width // lanes) for width in cores.levels([0], jobs=1))
    least = COSTS.claim[0] + COSTS.claim[1] + rounds * cores.round_seconds + COSTS.finish[0] + COSTS.finish[1]
    alone = simulate(fleet).latencies
    assert alone[0] == pytest.approx(least)
    assert median(alone) == pytest.approx(least)


def test_a_lone_request_waits_for_nobody() -> None:
    """One request every ten seconds on the mean: it is computed as soon as the claim has come back."""
    fleet = Fleet(1, 0.16, COSTS, FLEET.policy, seconds=1000.0, warm_up=0.0, arrivals_per_second=0.1)
    quiet = simulate(fleet)
    assert set(quiet.job_sizes) <= {1, 2}
    assert quiet.efficiency == pytest.approx(0.1 * 0.16, rel=0.3)
