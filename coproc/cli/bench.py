"""``coproc bench``: how many bootstraps a second the executors of this machine make.

Decides the output; what is timed is in ``coproc.executors.bench``. Machines are shared and noisy: the ratio of two
executors measured in one run says more than either figure.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from coproc.cli.bench_chain import bench_chain
from coproc.cli.bench_gpu import bench_gpu
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from coproc.executors.bench import Measurement
    from coproc.program.wordgraph import WordGraph


@click.group(invoke_without_command=True)
@click.option("--executor", "names", multiple=True, help="cpu, concrete, reference, gpu; repeat to compare.")
@click.option("--batch", default=64, show_default=True, help="Bootstraps at once.")
@click.option("--repeats", default=5, show_default=True, help="Rounds; the median is reported.")
@click.option("--threads", default=0, show_default=True, help="0 takes all cores.")
@click.option("--toy", is_flag=True, help="Insecure parameters.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def bench(
    context: click.Context,
    names: tuple[str, ...],
    batch: int,
    repeats: int,
    threads: int,
    *,
    toy: bool,
    as_json: bool,
) -> None:
    """Measure keyswitch and bootstrap on this machine; the first executor named is the yardstick of the ratios.

    `bench counts` tells what operations and programs cost, exactly and on every machine; `bench planning` how long it
    takes to compile one.
    """
    if context.invoked_subcommand is not None:
        return
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


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def counts(*, as_json: bool) -> None:
    """Count bootstraps and rounds of every operation and program, beside those of TFHE-rs 1.5.4."""
    from coproc.program.catalogue import PROGRAMS, TFHE_RS, WIDTHS, operation_graph  # noqa: PLC0415 - builds programs

    operations: dict[str, dict[str, dict[str, Cost | None]]] = {}
    for name, references in TFHE_RS.items():
        operations[name] = {
            str(fhe_type.bits): _costs(operation_graph(name, fhe_type), reference)
            for fhe_type, reference in zip(WIDTHS, references, strict=True)
        }
    programs = {name: _costs(program.graph, program.tfhe_rs) for name, program in PROGRAMS.items()}
    if as_json:
        click.echo(json.dumps({"ops": operations, "programs": programs}))
        return
    rows = [(f"{name} {bits}", costs) for name, widths in operations.items() for bits, costs in widths.items()]
    for title, lines in (("Operations", rows), ("Programs (64 bits)", list(programs.items()))):
        table = Table(title=f"{title}: bootstraps / rounds")
        for column in ("", "throughput", "latency", "TFHE-rs, call by call"):
            table.add_column(column, justify="right" if column else "left")
        for name, costs in lines:
            table.add_row(name, *(f"{cost['pbs']} / {cost['depth']}" if cost else "" for cost in costs.values()))
        Console().print(table)


Cost = dict[str, int]


def _costs(graph: WordGraph, reference: tuple[int, int] | None) -> dict[str, Cost | None]:
    """Count what executors run for a graph, both ways."""
    from coproc.circuits.strategy import Strategy  # noqa: PLC0415 - kept off the path of --help
    from coproc.program.lowering import lower  # noqa: PLC0415

    found: dict[str, Cost | None] = {}
    for strategy in Strategy:
        circuit = lower(graph, strategy).circuit
        found[strategy.value] = {"pbs": circuit.bootstraps, "depth": circuit.depth}
    return found | {"tfhe_rs": None if reference is None else {"pbs": reference[0], "depth": reference[1]}}


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--rounds", default=20, show_default=True, help="The median is reported.")
def planning(rounds: int, *, as_json: bool) -> None:
    """Compare how long compiling a 64-bit transfer takes with its bootstraps on one core, in processor time."""
    from coproc.circuits.strategy import Strategy  # noqa: PLC0415 - heavy
    from coproc.client import Transaction  # noqa: PLC0415
    from coproc.executors import create_executor  # noqa: PLC0415
    from coproc.executors.bench import measure  # noqa: PLC0415
    from coproc.program.planning import GroupGraph, lower_cached, plan  # noqa: PLC0415
    from coproc.program.types import FheType, new_handle  # noqa: PLC0415

    transfer = Transaction(bytes(32))
    source, target, amount = (new_handle(FheType.UINT64) for _ in range(3))
    zero = transfer.trivial_encrypt(0, FheType.UINT64)
    moved = transfer.if_then_else(transfer.ge(source, amount), amount, zero)
    transfer.allow(transfer.add(target, moved), transfer.sub(source, moved), moved)
    group = GroupGraph(1, transfer.computations, frozenset(transfer.allowed), {})
    seconds: list[float] = []
    bootstraps = 0
    for _ in range(rounds):
        lower_cached.cache_clear()
        started = time.process_time()
        bootstraps = plan([group], Strategy.THROUGHPUT).circuit.bootstraps
        seconds.append(time.process_time() - started)
    executor = create_executor("cpu", threads=1)
    each = measure(executor, V1_5_2_2, 16, repeats=3, clock=time.process_time).milliseconds_per_pbs / 1e3
    share = median(seconds) / (bootstraps * each)
    if as_json:
        report = {"compile_seconds": median(seconds), "bootstraps": bootstraps, "seconds_per_bootstrap": each}
        click.echo(json.dumps(report | {"share": share}))
        return
    click.echo(
        f"compiling takes {1e3 * median(seconds):.1f} ms, {bootstraps} bootstraps {1e3 * bootstraps * each:.0f} ms"
    )
    click.echo(f"on one core: {share:.2%}; a program that was seen before is found in the cache")


bench.add_command(bench_gpu)
bench.add_command(bench_chain)
