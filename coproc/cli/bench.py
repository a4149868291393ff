"""``coproc bench``: how many bootstraps a second the executors of this machine make.

Decides the output; what is timed is in ``coproc.executors.bench``. Machines are shared and noisy: the ratio of two
executors measured in one run says more than either figure.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from coproc.executors.bench import Measurement


@click.command()
@click.option("--executor", "names", multiple=True, help="cpu, concrete, reference, gpu; repeat to compare.")
@click.option("--batch", default=64, show_default=True, help="Bootstraps at once.")
@click.option("--repeats", default=5, show_default=True, help="Rounds; the median is reported.")
@click.option("--threads", default=0, show_default=True, help="0 takes all cores.")
@click.option("--toy", is_flag=True, help="Insecure parameters.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(names: tuple[str, ...], batch: int, repeats: int, threads: int, *, toy: bool, as_json: bool) -> None:
    """Measure keyswitch and bootstrap on this machine; the first executor named is the yardstick of the ratios."""
    from coproc.executors import create_executor  # noqa: PLC0415 - heavy
    from coproc.executors.bench import measure  # noqa: PLC0415 - heavy

    parameters = TOY_2_2 if toy else V1_5_2_2
    threads = threads or len(os.sched_getaffinity(0))
    console = Console(stderr=True, quiet=as_json)
    results: list[Measurement] = []
    for name in names or ("cpu",):
        with console.status(f"{name}: {repeats} rounds of {batch}"):
            results.append(measure(create_executor(name, threads=threads), parameters, batch, repeats=repeats))
    if as_json:
        rows = [asdict(result) | {"pbs_per_second": result.pbs_per_second} for result in results]
        click.echo(json.dumps({"threads": threads, "parameters": "toy" if toy else "V1_5 2_2", "results": rows}))
        return
    table = Table(title=f"{'toy' if toy else 'V1_5 2_2'} parameters, {threads} threads, batches of {batch}")
    for column in ("executor", "bootstraps/s", "ms each", "keyswitch share", "prepare key s", "ratio"):
        table.add_column(column, justify="left" if column == "executor" else "right")
    for result in results:
        table.add_row(
            result.executor,
            f"{result.pbs_per_second:.1f}",
            f"{result.milliseconds_per_pbs:.2f}",
            f"{result.keyswitch_seconds / result.seconds:.0%}",
            f"{result.prepare_seconds:.2f}",
            f"{result.pbs_per_second / results[0].pbs_per_second:.2f}",
        )
    Console().print(table)
