"""``coproc bench counts`` and ``coproc bench planning``: what circuits cost, and what it costs to make them.

Decides the tables. Counts are exact and the same on every machine.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final, TypeVar

import click
from rich.console import Console
from rich.table import Table

from coproc.cli.measuring import Record, figure, new_record, recorded
from coproc.errors import InvalidInput
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coproc.program.wordgraph import WordGraph


BITS: Final = ("8", "16", "32", "64", "128", "256")
Cost = dict[str, int]
T = TypeVar("T")


def known(name: str, items: Mapping[str, T], what: str) -> T:
    """Find something by the name that a caller gave.

    Raises:
        InvalidInput: there is none of that name.
    """
    if name not in items:
        raise InvalidInput(what, f"must be among {', '.join(items)}, got {name}")
    return items[name]


@click.command("counts")
@click.option("--operation", "names", multiple=True, help="Default: all, and all programs.")
@click.option(
    "--type", "keys", multiple=True, help="A width, or int64 and the like for signed types. Default: all types."
)
@click.option("--program", "program_names", multiple=True, help="Default: all, and all operations.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench_counts(
    names: tuple[str, ...], keys: tuple[str, ...], program_names: tuple[str, ...], *, as_json: bool
) -> None:
    """Count bootstraps and rounds of operations and programs, beside those of TFHE-rs 1.5.1.

    Operations whose names end in _clear have a clear right operand, on which their cost depends; the one that is
    counted is arbitrary. All operations on all types take a minute.
    """
    from coproc.program.catalogue import (  # noqa: PLC0415 - builds programs
        PROGRAMS,
        TFHE_RS,
        TFHE_RS_ON_TWO_THREADS,
        WIDTHS,
    )
    from coproc.program.operation_list import TYPE_KEYS, operation_examples, operation_names, type_key  # noqa: PLC0415

    everything = not names and not program_names
    for key in keys:
        known(key, TYPE_KEYS, "type")
    known_names = dict.fromkeys(operation_names())
    operations: dict[str, dict[str, dict[str, Cost | None]]] = {}
    for name in known_names if everything else names:
        known(name, known_names, "operation")
        references = dict(zip(map(type_key, WIDTHS), TFHE_RS.get(name, ()), strict=False))
        operations[name] = {
            key: _costs(graph, references.get(key))
            for key, graph in operation_examples(name).items()
            if not keys or key in keys
        }
    programs: dict[str, dict[str, Cost | None]] = {}
    for name in PROGRAMS if everything else program_names:
        program = known(name, PROGRAMS, "program")
        programs[name] = _costs(program.graph, program.tfhe_rs)
    if as_json:
        click.echo(json.dumps({"ops": operations, "programs": programs}))
        return
    on_two = {
        f"{name} {type_key(fhe_type)}": str(count)
        for name, counted in TFHE_RS_ON_TWO_THREADS.items()
        for fhe_type, count in zip(WIDTHS, counted, strict=False)
    }
    rows = [(f"{name} {bits}", costs) for name, widths in operations.items() for bits, costs in widths.items()]
    for title, lines in (("Operations", rows), ("Programs (64 bits)", list(programs.items()))):
        if not lines:
            continue
        table = Table(title=f"{title}: bootstraps / rounds")
        for column in ("", "throughput", "latency", "TFHE-rs, call by call", "on two threads"):
            table.add_column(column, justify="right" if column else "left")
        for name, costs in lines:
            cells = [f"{cost['pbs']} / {cost['depth']}" if cost else "" for cost in costs.values()]
            table.add_row(name, *cells, on_two.get(name, ""))
        Console().print(table)


def _costs(graph: WordGraph, reference: tuple[int, int] | None) -> dict[str, Cost | None]:
    """Count what executors run for a graph, both ways, beside what is known of TFHE-rs."""
    from coproc.circuits.strategy import Strategy  # noqa: PLC0415 - kept off the path of --help
    from coproc.program.lowering import lower  # noqa: PLC0415

    found: dict[str, Cost | None] = {}
    for strategy in Strategy:
        circuit = lower(graph, strategy).circuit
        found[strategy.value] = {"pbs": circuit.bootstraps, "depth": circuit.depth}
    found["tfhe_rs"] = None if reference is None else {"pbs": reference[0], "depth": reference[1]}
    return found


@click.command("planning")
@click.option("--repeats", default=20, show_default=True, help="Passes; the median is reported.")
@click.option("--toy", is_flag=True, help="Insecure parameters.")
@recorded
def bench_planning(repeats: int, *, toy: bool) -> Record:
    """Compare how long compiling a 64-bit transfer takes with its bootstraps on one core, in processor time.

    A program that was seen before is found in a cache, and takes no time.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    from coproc.circuits.strategy import Strategy  # noqa: PLC0415 - heavy
    from coproc.client import Transaction  # noqa: PLC0415
    from coproc.executors import create_executor  # noqa: PLC0415
    from coproc.executors.bench import BatchPasses, random_key  # noqa: PLC0415
    from coproc.program.planning import GroupGraph, lower_cached, plan  # noqa: PLC0415
    from coproc.program.types import FheType, new_handle  # noqa: PLC0415

    transfer = Transaction(bytes(32))
    source, target, amount = (new_handle(FheType.UINT64) for _ in range(3))
    zero = transfer.trivial_encrypt(0, FheType.UINT64)
    moved = transfer.if_then_else(transfer.ge(source, amount), amount, zero)
    transfer.allow(transfer.add(target, moved), transfer.sub(source, moved), moved)
    group = GroupGraph(1, transfer.computations, frozenset(transfer.allowed), {})
    compiling: list[float] = []
    bootstraps = 0
    for _ in range(repeats + 1):
        lower_cached.cache_clear()
        started = time.process_time()
        bootstraps = plan([group], Strategy.THROUGHPUT).circuit.bootstraps
        compiling.append(time.process_time() - started)
    executor = create_executor("cpu", threads=1)
    key = random_key(TOY_2_2 if toy else V1_5_2_2, np.random.default_rng(0))
    passes = BatchPasses(executor, executor.prepare(key), 16, clock=time.process_time)
    running = [passes.both() * bootstraps / 16 for _ in range(min(repeats, 5) + 1)][1:]
    compile_time = figure("compiling a transfer", "ms", [1e3 * each for each in compiling[1:]])
    run_time = figure(f"its {bootstraps} bootstraps on one core", "ms", [1e3 * each for each in running])
    share = compile_time.scaled("compiling beside bootstraps", "%", 100 / run_time.median)
    return new_record("planning", {"parameters": "toy" if toy else "V1_5 2_2"}, [compile_time, run_time, share])
