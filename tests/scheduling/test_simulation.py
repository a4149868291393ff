"""Fleets that are played through: what the core's rules amount to, exactly and without noise."""

from __future__ import annotations

import pytest

from coproc.circuits.strategy import Strategy
from coproc.program.catalogue import transfer
from coproc.program.lowering import lower
from coproc.scheduling.model import Policy
from coproc.scheduling.simulation import Costs, Fleet, knee, occupancy, simulate

COSTS = Costs(claim=(0.004, 0.0002), finish=(0.006, 0.0006), renew=(0.002, 0.00005))
FLEET = Fleet(workers=1, group_seconds=0.16, costs=COSTS, policy=Policy(batch_groups=64), seconds=60.0)
WIDTHS = [level.bootstraps for level in lower(transfer(), Strategy.THROUGHPUT).circuit.levels]


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


@pytest.mark.parametrize("lanes", [2, 8, 16, 32, 64])
def test_lanes_are_full_under_load(lanes: int) -> None:
    """Requests come one by one and twice as many as the worker can do, so that some always wait."""
    fleet = Fleet(1, 0.16, COSTS, FLEET.policy, seconds=200.0, warm_up=60.0, arrivals_per_second=2 / 0.16)
    loaded = simulate(fleet)
    assert loaded.efficiency > 0.999
    assert occupancy(loaded.job_sizes, WIDTHS, lanes) >= 0.95


def test_a_lone_request_waits_for_nobody() -> None:
    """One request every ten seconds on the mean: it is computed as soon as the claim has come back."""
    fleet = Fleet(1, 0.16, COSTS, FLEET.policy, seconds=1000.0, warm_up=0.0, arrivals_per_second=0.1)
    quiet = simulate(fleet)
    assert set(quiet.job_sizes) <= {1, 2}
    assert quiet.efficiency == pytest.approx(0.1 * 0.16, rel=0.3)
