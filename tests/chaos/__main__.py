"""``python -m tests.chaos``: play rounds at whatever length, and say what came of them."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Final

import click

from coproc.telemetry import configure_logging
from tests.chaos.cluster import FAKETIME, can_mount
from tests.chaos.drive import ROLES, Round, run_fuzz, run_round
from tests.chaos.faults import EVERYTHING, Fault, Kind, draw
from tests.chaos.overload import run_overload

if TYPE_CHECKING:
    from collections.abc import Sequence

QUICK: Final = {"LEASE_SECONDS": "5", "DRAIN_SECONDS": "20"}
SEED = click.option("--seed", type=int, default=None, help="Of a round to be played again.")


@click.group()
def main() -> None:
    """Play rounds in which things go wrong."""
    configure_logging("console", "warning")


def play(name: str, plan: Round) -> None:
    """Print a plan, play it and print what came of it."""
    click.echo(
        f"{name}: seed {plan.seed}; rerun with: python -m tests.chaos {' '.join(sys.argv[1:])} --seed {plan.seed}"
    )
    for number, fault in enumerate(plan.faults, 1):
        click.echo(f"  {number}: {fault}")

    click.echo(f"{name}: {run_round(plan)}")


def chosen(seed: int | None) -> int:
    """Return the seed, a random one if there is none."""
    return secrets.randbelow(1 << 31) if seed is None else seed


@main.command()
@click.option("--restarts", default=20, show_default=True)
@click.option("--together", is_flag=True, help="Two processes with all roles instead of two of each.")
@click.option("--pause", default=0.7, show_default=True, help="Of a caller between two jobs, in seconds.")
@SEED
def rolling(restarts: int, together: bool, pause: float, seed: int | None) -> None:  # noqa: FBT001 - an option
    """Replace every process, one after another, under 16 callers."""
    plan = Round(
        chosen(seed),
        [Fault(0.2, "roll")] * restarts,
        {"api,results,worker": 2} if together else ROLES,
        settings=QUICK,
        helpers=8,
        cores=8,
        pause=pause,
        may_fail_calls=False,
    )
    play("rolling", plan)


@main.command()
@click.option("--count", default=50, show_default=True)
@click.option("--objects", is_flag=True, help="Large values are in an object store.")
@SEED
def kills(count: int, objects: bool, seed: int | None) -> None:  # noqa: FBT001 - an option
    """Send SIGKILL to workers, Postgres and its sessions."""
    kinds: Sequence[Kind] = ("kill", "kill_postgres", "kill", "kill_session")
    seed = chosen(seed)
    faults = draw(seed, kinds, count, {"worker": ROLES["worker"]}, pace=(0.0, 3.0))
    play("kills", Round(seed, faults, settings=QUICK, helpers=4, cores=4, jobs_between=2, with_objects=objects))


@main.command()
@click.option("--count", default=60, show_default=True)
@SEED
def storm(count: int, seed: int | None) -> None:
    """Let everything go wrong."""
    disk = can_mount()
    if not disk:
        click.echo("storm: no full disk, since this user may not mount")
    if not FAKETIME.exists():
        click.echo("storm: no wrong clock, since there is no libfaketime; make test gets it")
    impossible = {"fill_disk": not disk, "shift_clock": not FAKETIME.exists()}
    kinds: list[Kind] = [kind for kind in EVERYTHING if not impossible.get(kind)]
    seed = chosen(seed)
    faults = draw(seed, kinds, count, ROLES, pace=(1.0, 6.0))
    disk_bytes = 1 << 30 if disk else None
    play("storm", Round(seed, faults, settings=QUICK, helpers=4, cores=4, disk_bytes=disk_bytes, with_objects=True))


@main.command()
@click.option("--inputs", default=1_000_000, show_default=True)
@SEED
def fuzz(inputs: int, seed: int | None) -> None:
    """Feed broken inputs to every reader."""
    seed = chosen(seed)
    click.echo(f"fuzz: seed {seed}; rerun with: python -m tests.chaos fuzz --inputs {inputs} --seed {seed}")
    for family, said in run_fuzz(seed, inputs).items():
        click.echo(f"fuzz: {family}: {', '.join(f'{count} {what}' for what, count in sorted(said.items()))}")


@main.command()
@click.option("--factor", default=10.0, show_default=True, help="How many times more than can be done.")
@click.option("--seconds", default=120.0, show_default=True)
@SEED
def overload(factor: float, seconds: float, seed: int | None) -> None:
    """Ask for more than can be done."""
    seed = chosen(seed)
    click.echo(f"overload: seed {seed}; rerun with: python -m tests.chaos overload --seed {seed}")
    click.echo(f"overload: {run_overload(seed, factor, seconds)}")


if __name__ == "__main__":
    main()
