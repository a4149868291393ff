"""``coproc bench scale``: what a claim costs on queues of any length, many workers on one Postgres, and a thousand.

Decides the story: pages that a claim touches (exact), worker processes whose executors sleep instead of computing, and
a projection of larger fleets by the scheduler's own core with the costs that were measured here.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio
from rich.console import Console

from coproc.cli.measuring import Figure, Record, figure, new_record, recorded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from coproc.cli.scale.fleet import Load, Rate
    from coproc.cli.scale.queue import ClaimCost
    from coproc.scheduling.simulation import Costs, Projection

LENGTHS = "1000,10000,100000,1000000"
PROJECTED = "1,16,100,1000"
BATCH = 64
"""Groups in a job of the projection: what a worker takes by default."""


@click.command("scale")
@click.option("--lengths", default=LENGTHS, show_default=True, help="Open groups in the queues that are claimed from.")
@click.option("--workers", default=16, show_default=True, help="Worker processes; 0 measures none.")
@click.option("--seconds", default=30.0, show_default=True, help="How long workers are measured.")
@click.option("--milliseconds", default=2.9, show_default=True, help="How long a worker sleeps for one bootstrap.")
@click.option("--batch", default=16, show_default=True, help="The most groups in one of their jobs.")
@click.option("--result-bytes", default=16_384, show_default=True, help="Size of a stored result.")
@click.option("--projected", default=PROJECTED, show_default=True, help="Sizes of fleets to project.")
@recorded
def bench_scale(
    lengths: str,
    workers: int,
    seconds: float,
    milliseconds: float,
    batch: int,
    result_bytes: int,
    projected: str,
) -> Record:
    """Measure the queue in Postgres and many workers on it, and project how many it feeds.

    A database of its own is started. Executors sleep, so that the cores of this machine are not what is measured.
    """
    from coproc.cli.scale.fleet import Load  # noqa: PLC0415 - heavy
    from coproc.cli.scale.worker import BOOTSTRAPS  # noqa: PLC0415 - heavy

    load = Load(batch, BOOTSTRAPS * milliseconds / 1e3, result_bytes)
    costs = [trio.run(_claim_cost, length) for length in _numbers(lengths)]
    figures = [item for cost in costs for item in _claim_figures(cost)]
    rates, database, notified = trio.run(_fleet, workers, load, seconds)
    for rate in rates:
        figures += _rate_figures(rate, load)
    if len(rates) > 1:
        linear = rates[1].utilisation / rates[0].utilisation
        figures.append(figure(f"{workers} workers over {workers} times one", "", [linear], "higher"))
    figures.append(figure("notification heard", "ms", [1e3 * notified]))
    projections, limit = _project(_numbers(projected), load, database)
    for projection in projections:
        name = f"{projection.workers} workers, projected"
        figures.append(figure(f"{name}: of linear", "", [projection.efficiency], "higher"))
        figures.append(figure(f"{name}: graph lock held", "", [projection.lock_busy], "same"))
    figures.append(figure("workers that one database feeds at 0.95 of linear", "", [limit], "higher"))
    settings = {"lengths": lengths, "workers": workers, "seconds": seconds, "milliseconds": milliseconds}
    settings |= {"batch": batch, "result_bytes": result_bytes}
    return new_record("scale", settings, figures, {"costs": asdict(database)})


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.strip()]


@asynccontextmanager
async def _database() -> AsyncGenerator[str]:
    """Start an empty Postgres."""
    from nurseries.postgres import run_postgres  # noqa: PLC0415 - only where it is asked for

    with tempfile.TemporaryDirectory(prefix="coproc-bench-") as name:
        Path(name).chmod(0o711)  # noqa: ASYNC240 - nothing runs yet; a server started by root runs as another user
        async with trio.open_nursery() as nursery:
            yield await nursery.start(run_postgres, Path(name) / "data")
            nursery.cancel_scope.cancel(reason="measured")


async def _claim_cost(length: int) -> ClaimCost:
    from coproc.cli.scale.queue import CountingConnection, claim_cost, fill  # noqa: PLC0415 - heavy
    from coproc.store.migrator import migrate  # noqa: PLC0415
    from coproc.store.pool import SESSION  # noqa: PLC0415

    with Console(stderr=True).status(f"claiming from a queue of {length:,}"):
        async with _database() as url, await CountingConnection.connect(url, autocommit=True) as connection:
            await migrate(connection)
            await connection.execute(SESSION)
            await fill(connection, length)
            return await claim_cost(connection, length, claims_made=2)


def _claim_figures(cost: ClaimCost) -> list[Figure]:
    name = f"claim from {cost.groups:,}"
    return [
        figure(f"{name}: pages touched", "pages", [cost.pages]),
        figure(f"{name}: to find them", "pages", [cost.claim_pages]),
        figure(f"{name}: time", "ms", [cost.milliseconds]),
    ]


async def _fleet(workers: int, load: Load, seconds: float) -> tuple[list[Rate], Costs, float]:
    from coproc.cli.scale.fleet import measure_costs, measure_fleet, measure_notify  # noqa: PLC0415 - heavy
    from coproc.cli.scale.queue import fill  # noqa: PLC0415
    from coproc.store.connection import TrioConnection  # noqa: PLC0415
    from coproc.store.open import open_store  # noqa: PLC0415

    console = Console(stderr=True)
    async with _database() as url, open_store(url) as store:
        wanted = 3 * (workers + 1) * (seconds + 30 + load.batch) / load.seconds_per_group
        async with await TrioConnection.connect(url, autocommit=True) as connection:
            await fill(connection, max(5_000, round(wanted)))
        with console.status("measuring what the database needs"):
            database = await measure_costs(store, load.result_bytes, len(os.sched_getaffinity(0)))
            notified = await measure_notify(store)
        rates: list[Rate] = []
        for count in dict.fromkeys((1, workers)) if workers else ():
            with console.status(f"{count} worker{'s' * (count > 1)} for {seconds:g} s"):
                rates.append(await measure_fleet(url, count, load, seconds))
    return rates, database, notified


def _rate_figures(rate: Rate, load: Load) -> list[Figure]:
    name = f"{rate.workers} worker{'s' * (rate.workers > 1)}"
    per_second = rate.workers * rate.utilisation / load.seconds_per_group
    figures = [
        figure(f"{name}: executors busy", "", [rate.utilisation], "higher"),
        figure(f"{name}: transfers", "per second", [per_second], "higher"),
    ]
    figures += [
        figure(f"{name}: {operation}", "ms", [rate.operations[operation][1]])
        for operation in ("claim", "renew", "finish_all")
        if operation in rate.operations
    ]
    return figures


def _project(fleets: Sequence[int], load: Load, costs: Costs) -> tuple[list[Projection], int]:
    """Play fleets of workers with batches of the default size through; returns them and where 0.95 ends."""
    from coproc.scheduling.model import Policy  # noqa: PLC0415 - heavy
    from coproc.scheduling.simulation import Fleet, knee, simulate  # noqa: PLC0415

    job = load.seconds_per_group * BATCH
    fleet = Fleet(1, load.seconds_per_group, costs, Policy(batch_groups=BATCH), seconds=4 * job, warm_up=4 * job)
    found: list[Projection] = []
    for workers in fleets:
        with Console(stderr=True).status(f"projecting {workers} workers"):
            found.append(simulate(replace(fleet, workers=workers)))
    return found, knee(fleet)
