"""Short rounds of what ``make chaos`` plays at length: real processes, real faults, known answers.

``COPROC_CHAOS_SEED`` plays others. A plan is printed before it is played, so that a round that fails can be repeated.
"""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest

from tests.chaos.cluster import FAKETIME, can_mount
from tests.chaos.drive import Round, run_fuzz, run_round
from tests.chaos.faults import ON_SERVICES, Fault, Kind, draw
from tests.chaos.overload import run_overload

SEED = int(os.environ.get("COPROC_CHAOS_SEED", "1"))
SETTINGS = {"LEASE_SECONDS": "4", "DRAIN_SECONDS": "20"}
ALL_IN_ONE = {"api,results,worker": 1}
KINDS: tuple[Kind, ...] = ("roll", "kill", "stall", "end_sessions", "restart_postgres", "kill_postgres", "kill_session")


def say(text: str) -> None:
    """Print what helps when a round fails; pytest shows it then."""
    sys.stdout.write(f"{text}\n")


def play(plan: Round) -> None:
    for number, fault in enumerate(plan.faults, 1):
        say(f"{number}: {fault}")
    say(str(run_round(plan)))


def test_a_plan_follows_from_its_seed() -> None:
    roles = {"api": 2, "worker": 3}
    first, again, other = (draw(seed, KINDS, 21, roles, pace=(0, 1)) for seed in (7, 7, 8))
    assert first == again != other
    assert Counter(fault.kind for fault in first) == dict.fromkeys(KINDS, 3)
    for fault in first:
        assert (fault.kind in ON_SERVICES) == (fault.role in roles)
        assert fault.index < roles.get(fault.role, 1)


def test_what_was_acknowledged_survives_every_kind_of_death() -> None:
    roles = {"api": 1, "results": 1, "worker": 2}
    faults = draw(SEED, KINDS, len(KINDS), roles, pace=(0.0, 0.5))
    play(Round(SEED, faults, roles, SETTINGS, jobs_between=1))


@pytest.mark.parametrize("kind", ["fill_disk", "shift_clock"])
def test_it_lives_through_a_full_disk_and_a_wrong_clock(kind: Kind) -> None:
    if kind == "fill_disk" and not can_mount():
        pytest.skip("a full disk takes a small file system of its own, which only root may mount")
    if kind == "shift_clock" and not FAKETIME.exists():
        pytest.skip("a wrong clock takes libfaketime, which make test gets on Debian")
    chance = 3600.0 if kind == "shift_clock" else 2.0
    faults = [Fault(0.2, kind, seconds=chance), Fault(0.2, kind, seconds=-2 * chance if kind == "shift_clock" else 1.0)]
    disk = 160 << 20 if kind == "fill_disk" else None
    play(Round(SEED, faults, ALL_IN_ONE, SETTINGS, helpers=1, cores=1, disk_bytes=disk, jobs_between=1))


def test_broken_inputs_are_refused_with_a_reason() -> None:
    for family, said in run_fuzz(SEED, 4000).items():
        say(f"{family}: {dict(said)}")
        assert sum(said.values()) > 0


def test_more_work_than_can_be_done_is_refused_and_costs_no_memory() -> None:
    say(run_overload(SEED, factor=10.0, seconds=5.0))
