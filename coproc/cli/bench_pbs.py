"""``coproc bench pbs``: keyswitch, bootstrap and both, over executors, batch sizes and threads.

Decides which cases there are; what a pass does is in ``coproc.executors.bench``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from coproc.cli.measuring import Figure, Record, in_turn, new_record, rate, recorded
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS: Final = ("keyswitch", "bootstrap", "both")


@click.command("pbs")
@click.option("--executor", "names", multiple=True, default=("cpu",), show_default=True, help="Repeat to compare.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, show_default=True)
@click.option("--batch", "batches", multiple=True, type=int, default=(1, 4, 16, 64), show_default=True)
@click.option("--threads", "thread_counts", multiple=True, type=int, help="Default: 1 and all cores.")
@click.option("--repeats", default=5, show_default=True, help="Passes; the median is reported.")
@click.option("--toy", is_flag=True, help="Insecure parameters.")
@recorded
def bench_pbs(
    names: tuple[str, ...],
    parts: tuple[str, ...],
    batches: tuple[int, ...],
    thread_counts: tuple[int, ...],
    repeats: int,
    *,
    toy: bool,
) -> Record:
    """Measure keyswitches and bootstraps a second, all cases in turn.

    `both` is what a look-up of a circuit costs: keyswitch, modulus switch and bootstrap.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    from coproc.executors import create_executor  # noqa: PLC0415 - heavy
    from coproc.executors.bench import BatchPasses, random_key  # noqa: PLC0415 - heavy

    key = random_key(TOY_2_2 if toy else V1_5_2_2, np.random.default_rng(0))
    cores = len(os.sched_getaffinity(0))
    cases: dict[str, Callable[[], float]] = {}
    counts: dict[str, int] = {}
    for name in names:
        for threads in thread_counts or tuple(sorted({1, cores})):
            executor = create_executor(name, threads=threads)
            prepared = executor.prepare(key)
            for batch in batches:
                passes = BatchPasses(executor, prepared, batch)
                for part in parts:
                    label = f"{name}, {part}, batch {batch}, {threads} {'thread' if threads == 1 else 'threads'}"
                    cases[label] = {
                        "keyswitch": passes.keyswitch,
                        "bootstrap": passes.bootstrap,
                        "both": passes.both,
                    }[part]
                    counts[label] = batch
    seconds = in_turn(cases, repeats)
    figures: list[Figure] = [rate(label, times, counts[label]) for label, times in seconds.items()]
    return new_record("pbs", {"parameters": "toy" if toy else "V1_5 2_2"}, figures)
